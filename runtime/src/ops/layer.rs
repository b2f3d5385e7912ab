//! What convolutions and fully connected layers share but for their shapes: one piece of code, whatever the op, reads the record,
//! finds slots, weights and channels, and calls the kernel.

use core::num::NonZeroUsize;

#[cfg(feature = "steps")]
use super::cut::Cut;
use super::cut::{self, Whole};
use super::tensor::Plain;
use super::window::{self, Sums};
use super::{Run, arg, depthwise_conv2d, ensure, fully_connected, times_in};
use crate::image::header::products;
use crate::image::plan::Kind;
use crate::image::{Dtype, Image, Op};
use crate::kernels::scalar::int8::{ConvFn, Quantized, Window};
use crate::view::as_i8;

/// A layer's shape: everything checked.
struct Layer<'s> {
    /// The window.
    g: &'s mut Window,
    /// What [`ConvFn`] takes: groups, or the multiplier.
    second: NonZeroUsize,
    /// Output channels.
    #[cfg_attr(not(feature = "steps"), allow(dead_code))]
    channels: u32,
    /// Products of a sum.
    products: u64,
    /// Whether each output channel has weights of its own and reads all of the input under the window.
    whole: bool,
    /// What becomes of the sums.
    sums: &'s Sums,
}

/// How an op finds its window: [`window::window`] of convolutions, [`window::rows`] of fully connected layers, whose firmware then
/// links no other.
pub(crate) type WindowFn = fn(&Op, usize, [usize; 2], u32) -> Option<Window>;

/// Calls `then` with the shape of an op between these slots, which it does not return: that would be copies.
fn shape(
    image: &Image<'_>,
    op: &Op,
    [input, output]: &[Plain; 2],
    window: WindowFn,
    then: &mut dyn FnMut(&mut Layer<'_>) -> Option<()>,
) -> Option<()> {
    let desc = &window::weights(image, op, 2);
    let dims = desc.as_ref()?.dims;
    let depthwise = op.code == depthwise_conv2d::OP.code;
    let connected = op.code == fully_connected::OP.code;
    let ([channels, height, width, depth], one) = match dims {
        [one, height, width, channels] if depthwise => ([channels, height, width, 1], one),
        [channels, features, a, b] if connected => ([channels, 1, features, 1], a.max(b)),
        dims => (dims, 1),
    };
    ensure(one == 1)?;
    let mut g = window(op, 4, [height as usize, width as usize], input.cols);
    let g = g.as_mut()?;
    // Input channels are groups of `depth`; or each has its output channels.
    let second = if depthwise {
        times_in(g.channels, channels as usize)?
    } else {
        let second = times_in(if connected { width } else { depth } as usize, g.channels)?;
        ensure(times_in(second.get(), channels as usize).is_some())?;
        second
    };
    window::ensure_output(g, channels, output.cols)?;
    let products = products(&[height, width, depth]);
    let numbers = if connected { 4 } else { 8 };
    let sums = &Sums::new(image, op, input.kind, numbers, (channels, products));
    let whole = !depthwise && second.get() == 1;
    let products = products.unwrap_or(u64::MAX);
    then(&mut Layer { g, second, channels, products, whole, sums: sums.as_ref()? })
}

/// Checks an op.
pub(crate) fn check(image: &Image<'_>, op: &Op, window: WindowFn) -> Option<()> {
    let slots = &window::slots(image, op);
    shape(image, op, slots.as_ref()?, window, &mut |_| Some(()))
}

/// Runs an op. `wide`: the kernel for int16, where that is built in.
#[inline(never)] // one copy for all
pub(crate) fn run(
    r: &mut Run<'_>,
    op: &Op,
    window: WindowFn,
    (conv, wide): (ConvFn<i8>, Option<ConvFn<i16>>),
) -> Option<()> {
    let slots = &window::slots(r.image, op);
    let slots = slots.as_ref()?;
    shape(r.image, op, slots, window, &mut |layer| match (slots[0].kind, wide) {
        (Kind::I16, Some(conv)) if cfg!(feature = "int16") => run_of::<i16>(r, op, slots, layer, conv),
        _ => run_of::<i8>(r, op, slots, layer, conv),
    })
}

/// A kernel for int16, if those are built in.
pub(crate) const fn if_wide(conv: ConvFn<i16>) -> Option<ConvFn<i16>> {
    if cfg!(feature = "int16") { Some(conv) } else { None }
}

fn run_of<T: Quantized>(
    r: &mut Run<'_>,
    op: &Op,
    slots: &[Plain; 2],
    layer: &mut Layer<'_>,
    conv: ConvFn<T>,
) -> Option<()> {
    let (weights, channels) = (as_i8(r.image.raw(arg(op, 2)?, Dtype::I8)?), window::channels(r.image, op)?);
    let filter = layer.filter();
    // With vectors a depthwise convolution's products take thrice as long again.
    let each = layer.each(op).saturating_mul(if op.code == depthwise_conv2d::OP.code { 3 } else { 1 });
    let Layer { g, second, sums, .. } = layer;
    let (second, sums) = (*second, *sums);
    cut::run::<T, _>(r, slots, Whole { g, weights, channels, filter, each }, move |p| {
        conv(p.g, second, (p.from, sums.zero_in), (p.weights, sums.zero_weights), p.channels, &sums.output, p.to)
    })
}

impl Layer<'_> {
    /// Weights of an output channel, if each has its own and reads all of the input under the window.
    fn filter(&self) -> Option<usize> {
        self.whole.then_some(self.products as usize)
    }

    /// What an output takes as long as, in products. One of a depthwise convolution takes twice as long as others: a sum has few, and is
    /// not in a register.
    fn each(&self, op: &Op) -> usize {
        (self.products as usize).saturating_mul(if op.code == depthwise_conv2d::OP.code { 2 } else { 1 })
    }
}

/// The units of an op: rows of the output, or of one row pixels, or of one pixel channels.
#[cfg(feature = "steps")]
pub(crate) fn units(r: &Run<'_>, op: &Op, window: WindowFn) -> Option<super::cost::Units> {
    let slots = window::slots(r.image, op)?;
    let mut units = None;
    shape(r.image, op, &slots, window, &mut |layer| {
        let cut = Cut::new(r, layer.g, &slots, layer.filter());
        units = Some(cut.units(layer.g, layer.channels as usize, layer.each(op)));
        Some(())
    })?;
    units
}
