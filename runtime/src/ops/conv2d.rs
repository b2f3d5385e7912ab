//! 2D convolution of int8 or int16, TensorFlow Lite's `CONV_2D`.
//!
//! Arguments: in slot, out slot (both I8 or both I16), weights (I8 `[out channels, kernel height, kernel width, depth]`),
//! channels, input size, output size, steps, padding above | left << 16, numbers (`ops/window.rs`), the weights' zero point.
//! With `depth` less than the input's channels these form groups of `depth`, each with as many output channels. Flag 1: single
//! rounding; 2: backward; 4: narrow sums of int16. NUMERICS.md, "conv2d".

use core::num::NonZeroUsize;

#[cfg(feature = "steps")]
use super::cost::Units;
use super::cut::{Cut, Piece};
use super::window::{self, NARROW, SINGLE_ROUNDING, Sums};
use super::{BACKWARD, OpDef, Overlap, Run, arg, ensure};
use crate::image::plan::{Kind, Slot};
use crate::image::{Dtype, Image, Op};
use crate::kernels::scalar::int8::{self, ConvFn, Quantized, Window};
use crate::view::as_i8;

/// The op.
pub static OP: OpDef = OpDef {
    code: 10,
    name: "conv2d",
    args: 10,
    flags: SINGLE_ROUNDING | BACKWARD | NARROW,
    slots: &[0, 1],
    overlap: Overlap::Units(&[(0, 1)]),
    check,
    run,
};

/// The window, the groups, and what becomes of the sums: everything checked.
fn parts(image: &Image<'_>, op: &Op, [input, output]: &[Slot; 2]) -> Option<(Window, NonZeroUsize, Sums)> {
    let [out_channels, kh, kw, depth] = window::weights(image, op, 2)?.dims;
    let g = window::window(op, 4, [kh as usize, kw as usize], input)?;
    let groups = NonZeroUsize::new(g.channels.checked_div(depth as usize)?)?;
    ensure(groups.get().checked_mul(depth as usize)? == g.channels)?;
    ensure(out_channels != 0 && (out_channels as usize) % groups == 0)?;
    window::ensure_output(&g, out_channels as usize, output)?;
    let products = [kh, kw, depth].iter().try_fold(1u64, |n, d| n.checked_mul(u64::from(*d)))?;
    Some((g, groups, Sums::new(image, op, input.kind, 8, (out_channels, products))?))
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let slots = window::slots(image, op)?;
    parts(image, op, &slots).map(|_| ())
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let slots = window::slots(r.image, op)?;
    match slots[0].kind {
        Kind::I16 if cfg!(feature = "int16") => run_of::<i16>(r, op, &slots, int8::conv2d),
        _ => {
            let conv = r.kernels.int8().conv2d;
            run_of::<i8>(r, op, &slots, conv)
        }
    }
}

fn run_of<T: Quantized>(r: &mut Run<'_>, op: &Op, slots: &[Slot; 2], conv: ConvFn<T>) -> Option<()> {
    let (g, groups, sums) = parts(r.image, op, slots)?;
    let (weights, channels) = (as_i8(r.image.raw(arg(op, 2)?, Dtype::I8)?), window::channels(r.image, op)?);
    let (cut, part) = (Cut::new(r, &g, slots, (groups.get() == 1).then_some(filter(&g))), r.part);
    let [from, to] = r.cells::<T, 2>(slots.each_ref())?;
    let p = cut.piece(part, Piece { g, from, to, weights, channels })?;
    conv(&p.g, groups, (p.from, sums.zero_in), (p.weights, sums.zero_weights), p.channels, &sums.output, p.to)
}

/// Weights of an output channel where there is one group.
fn filter(g: &Window) -> usize {
    g.y.kernel * g.x.kernel * g.channels
}

/// The units: rows of the output, or of one row pixels, or of one pixel channels.
#[cfg(feature = "steps")]
pub(crate) fn units(r: &Run<'_>, op: &Op) -> Option<Units> {
    let slots = window::slots(r.image, op)?;
    let (g, groups, _) = parts(r.image, op, &slots)?;
    let [channels, kh, kw, depth] = window::weights(r.image, op, 2)?.dims.map(|d| d as usize);
    let cut = Cut::new(r, &g, &slots, (groups.get() == 1).then_some(filter(&g)));
    Some(cut.units(&g, channels, kh.checked_mul(kw)?.checked_mul(depth)?))
}
