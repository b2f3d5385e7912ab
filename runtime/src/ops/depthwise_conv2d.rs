//! Depthwise 2D convolution of int8 or int16, TensorFlow Lite's `DEPTHWISE_CONV_2D`.
//!
//! Arguments and flags as `conv2d`'s, the weights being I8 `[1, kernel height, kernel width, out channels]`; output channel c
//! reads input channel `c / (out channels / in channels)`. NUMERICS.md, "depthwise_conv2d".

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
    code: 11,
    name: "depthwise_conv2d",
    args: 10,
    flags: SINGLE_ROUNDING | BACKWARD | NARROW,
    slots: &[0, 1],
    overlap: Overlap::Units(&[(0, 1)]),
    check,
    run,
};

/// The window, output channels of an input channel, and what becomes of the sums: everything checked.
fn parts(image: &Image<'_>, op: &Op, [input, output]: &[Slot; 2]) -> Option<(Window, NonZeroUsize, Sums)> {
    let [one, kh, kw, out_channels] = window::weights(image, op, 2)?.dims;
    let g = window::window(op, 4, [kh as usize, kw as usize], input)?;
    let multiplier = NonZeroUsize::new((out_channels as usize).checked_div(g.channels)?)?;
    ensure(one == 1 && multiplier.get().checked_mul(g.channels)? == out_channels as usize)?;
    window::ensure_output(&g, out_channels as usize, output)?;
    let products = u64::from(kh).checked_mul(kw.into())?;
    Some((g, multiplier, Sums::new(image, op, input.kind, 8, (out_channels, products))?))
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let slots = window::slots(image, op)?;
    parts(image, op, &slots).map(|_| ())
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let slots = window::slots(r.image, op)?;
    match slots[0].kind {
        Kind::I16 if cfg!(feature = "int16") => run_of::<i16>(r, op, &slots, int8::depthwise_conv2d),
        _ => {
            let conv = r.kernels.int8().depthwise_conv2d;
            run_of::<i8>(r, op, &slots, conv)
        }
    }
}

fn run_of<T: Quantized>(r: &mut Run<'_>, op: &Op, slots: &[Slot; 2], conv: ConvFn<T>) -> Option<()> {
    let (g, multiplier, sums) = parts(r.image, op, slots)?;
    let (weights, channels) = (as_i8(r.image.raw(arg(op, 2)?, Dtype::I8)?), window::channels(r.image, op)?);
    let (cut, part) = (Cut::new(r, &g, slots, None), r.part);
    let [from, to] = r.cells::<T, 2>(slots.each_ref())?;
    let p = cut.piece(part, Piece { g, from, to, weights, channels })?;
    conv(&p.g, multiplier, (p.from, sums.zero_in), (p.weights, sums.zero_weights), p.channels, &sums.output, p.to)
}

/// The units: rows of the output, or of one row pixels.
#[cfg(feature = "steps")]
pub(crate) fn units(r: &Run<'_>, op: &Op) -> Option<Units> {
    let slots = window::slots(r.image, op)?;
    let (g, ..) = parts(r.image, op, &slots)?;
    let [_, kh, kw, channels] = window::weights(r.image, op, 2)?.dims.map(|d| d as usize);
    // A product takes twice as long as conv2d's: a sum has few, and is not in a register.
    Some(Cut::new(r, &g, &slots, None).units(&g, channels, kh.checked_mul(kw)?.checked_mul(2)?))
}
