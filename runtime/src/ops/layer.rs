//! What convolutions and fully connected layers share but for their shapes: one piece of code, whatever the op, reads the record,
//! finds slots, weights and channels, and calls the kernel.

use core::num::NonZeroUsize;

use super::cut::{Cut, Piece};
use super::tensor::Plain;
use super::window::{self, Sums};
use super::{Run, arg, depthwise_conv2d, ensure, times_in};
use crate::image::header::products;
use crate::image::plan::Kind;
use crate::image::{Dtype, Image, Op};
use crate::kernels::scalar::int8::{ConvFn, Quantized, Window};
use crate::view::as_i8;

/// A layer's shape: everything checked.
struct Layer {
    /// The window.
    g: Window,
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
    sums: Sums,
}

/// How an op finds its window: [`window::window`] of convolutions; `None` of fully connected layers, whose firmware then links none.
pub(crate) type WindowFn = Option<fn(&Op, usize, [usize; 2], u32) -> Option<Window>>;

/// The shape of an op between these slots.
fn shape(image: &Image<'_>, op: &Op, [input, output]: &[Plain; 2], window: WindowFn) -> Option<Layer> {
    let desc = &window::weights(image, op, 2);
    let dims = desc.as_ref()?.dims;
    let depthwise = op.code == depthwise_conv2d::OP.code;
    let ([channels, height, width, depth], one) = match dims {
        [one, height, width, channels] if depthwise => ([channels, height, width, 1], one),
        [channels, features, a, b] if window.is_none() => ([channels, 1, 1, features], a.max(b)),
        dims => (dims, 1),
    };
    ensure(one == 1)?;
    let (g, numbers) = &match window {
        Some(window) => (window(op, 4, [height as usize, width as usize], input.cols), 8),
        None => (window::rows(op, depth, input.cols), 4),
    };
    let g = g.as_ref()?;
    // Input channels are groups of `depth`; or each has its output channels.
    let (all, each) = if depthwise { (channels as usize, g.channels) } else { (g.channels, depth as usize) };
    let second = times_in(each, all)?;
    ensure(channels != 0 && (depthwise || (channels as usize) % second == 0))?;
    window::ensure_output(g, channels as usize, output.cols)?;
    let products = products(&[height, width, depth])?;
    let sums = Sums::new(image, op, input.kind, *numbers, (channels, products))?;
    Some(Layer { second, channels, products, whole: !depthwise && second.get() == 1, sums, g: *g })
}

/// Checks an op.
pub(crate) fn check(image: &Image<'_>, op: &Op, window: WindowFn) -> Option<()> {
    shape(image, op, &window::slots(image, op)?, window).map(|_| ())
}

/// Runs an op. `wide`: the kernel for int16, where that is built in.
#[inline(never)] // one copy for all
pub(crate) fn run(
    r: &mut Run<'_>,
    op: &Op,
    window: WindowFn,
    (conv, wide): (ConvFn<i8>, Option<ConvFn<i16>>),
) -> Option<()> {
    // By reference, as elsewhere: what lies on the stack stays where it is.
    let slots = &window::slots(r.image, op);
    let slots = slots.as_ref()?;
    let mut layer = shape(r.image, op, slots, window);
    let layer = layer.as_mut()?;
    match (slots[0].kind, wide) {
        (Kind::I16, Some(conv)) => run_of::<i16>(r, op, slots, layer, conv),
        _ => run_of::<i8>(r, op, slots, layer, conv),
    }
}

/// A kernel for int16, if those are built in.
pub(crate) const fn if_wide(conv: ConvFn<i16>) -> Option<ConvFn<i16>> {
    if cfg!(feature = "int16") { Some(conv) } else { None }
}

fn run_of<T: Quantized>(
    r: &mut Run<'_>,
    op: &Op,
    slots: &[Plain; 2],
    layer: &mut Layer,
    conv: ConvFn<T>,
) -> Option<()> {
    let (weights, channels) = (as_i8(r.image.raw(arg(op, 2)?, Dtype::I8)?), window::channels(r.image, op)?);
    let (cut, part) = (layer.cut(r, slots), r.part);
    let Layer { g, second, sums, .. } = layer;
    let [from, to] = r.cells::<T, 2>(slots.each_ref())?;
    let p = cut.piece(part, Piece { g, from, to, weights, channels })?;
    conv(p.g, *second, (p.from, sums.zero_in), (p.weights, sums.zero_weights), p.channels, &sums.output, p.to)
}

impl Layer {
    fn cut(&self, r: &Run<'_>, slots: &[Plain; 2]) -> Cut {
        Cut::new(r, &self.g, slots, self.whole.then_some(self.products as usize))
    }
}

/// The units of an op: rows of the output, or of one row pixels, or of one pixel channels.
#[cfg(feature = "steps")]
pub(crate) fn units(r: &Run<'_>, op: &Op, window: WindowFn) -> Option<super::cost::Units> {
    let slots = window::slots(r.image, op)?;
    let layer = shape(r.image, op, &slots, window)?;
    // A product of a depthwise convolution takes twice as long as others: a sum has few, and is not in a register.
    let each = if op.code == depthwise_conv2d::OP.code { 2 } else { 1 };
    Some(layer.cut(r, &slots).units(&layer.g, layer.channels as usize, (layer.products as usize).checked_mul(each)?))
}
