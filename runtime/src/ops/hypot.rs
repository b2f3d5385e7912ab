//! Root of the sum of two squares, element by element: the magnitude of complex numbers whose parts are two tensors.
//!
//! Arguments: first slot, second slot, out slot (all I8 or all I16), multiplier, shift and zero point of the root, zero point of
//! first and second, which have one scale (I16: 0). Flag 1: single rounding. NUMERICS.md, "hypot".
//!
//! Of squares in int8 or int16 half the bits of a root would be lost: all that is small would be 0.

use super::tensor::{Rescale, element_arg, elementwise, quantized_arg};
use super::window::SINGLE_ROUNDING;
use super::{BACKWARD, OpDef, Overlap, Run, ensure};
use crate::fixed::root::root;
use crate::image::plan::{Kind, Slot};
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef = OpDef {
    code: 60,
    name: "hypot",
    args: 7,
    flags: SINGLE_ROUNDING | BACKWARD,
    slots: &[0, 1, 2],
    overlap: Overlap::Elements(&[(0, 1), (0, 2), (1, 2)]),
    check,
    run,
};

/// Fraction bits of the root before it is brought to the output's scale.
pub const FRAC: u32 = 14;

fn parts(image: &Image<'_>, op: &Op) -> Option<([Slot; 3], i32, Rescale)> {
    let [a, b, out] = [quantized_arg(image, op, 0)?, quantized_arg(image, op, 1)?, quantized_arg(image, op, 2)?];
    let zero = element_arg(op, 6, &a)?;
    Some(([a, b, out], zero, Rescale::new(op, 3, &out)?))
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let ([a, b, out], zero, _) = parts(image, op)?;
    ensure(a.kind == out.kind && b.kind == out.kind && a.cols == out.cols && b.cols == out.cols)?;
    ensure(out.kind == Kind::I8 || zero == 0)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let ([a, b, out], zero, rescale) = parts(r.image, op)?;
    // Below 2^31, and 2^59 in steps of the fraction: the root fits int32.
    let square = |x: i32| u64::from((x - zero).unsigned_abs()).pow(2);
    elementwise(r, op, [&a, &b, &out], &|x, y| rescale.of(root((square(x) + square(y)) << (2 * FRAC)) as i32))
}
