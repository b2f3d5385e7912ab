//! Squared difference of two tensors of one shape, TensorFlow Lite's `SQUARED_DIFFERENCE`, int8 or int16.
//!
//! Arguments: first slot, second slot, out slot (all I8 or all I16), multiplier, shift and zero point of the square, zero points of
//! first and second (I16: 0), multipliers of first and second, their shifts (a byte each). Flag 1: single rounding.
//! NUMERICS.md, "squared_difference".

use super::tensor::{Rescale, element_arg, elementwise, quantized_arg, rounding};
use super::window::SINGLE_ROUNDING;
use super::{BACKWARD, OpDef, Overlap, Run, arg, bytes_arg, ensure};
use crate::fixed::tflite::requantize;
use crate::image::plan::{Kind, Slot};
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef = OpDef {
    code: 38,
    name: "squared_difference",
    args: 11,
    flags: SINGLE_ROUNDING | BACKWARD,
    slots: &[0, 1, 2],
    overlap: Overlap::Elements(&[(0, 1), (0, 2), (1, 2)]),
    check,
    run,
};

/// Bits that int8 terms are moved up by before they are brought to one scale.
const HEAD_ROOM: u32 = 7;

fn parts(image: &Image<'_>, op: &Op) -> Option<([Slot; 3], [i32; 2], Rescale)> {
    let [a, b, out] = [quantized_arg(image, op, 0)?, quantized_arg(image, op, 1)?, quantized_arg(image, op, 2)?];
    let zeros = [element_arg(op, 6, &a)?, element_arg(op, 7, &b)?];
    Some(([a, b, out], zeros, Rescale::new(op, 3, &out)?))
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let ([a, b, out], zeros, _) = parts(image, op)?;
    let [_, _, c, d] = bytes_arg(op, 10)?;
    ensure(a.kind == out.kind && b.kind == out.kind && a.cols == out.cols && b.cols == out.cols)?;
    ensure((out.kind == Kind::I8 || zeros == [0; 2]) && [c, d] == [0; 2])
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let ([a, b, out], [za, zb], rescale) = parts(r.image, op)?;
    let (ma, mb, rounding) = (arg(op, 8)? as i32, arg(op, 9)? as i32, rounding(op));
    let [sa, sb, ..] = bytes_arg(op, 10)?.map(|b| i32::from(b as i8));
    let up = if out.kind == Kind::I8 { HEAD_ROOM } else { 0 };
    elementwise(r, op, [&a, &b, &out], &|x, y| {
        let x = requantize((x - za) << up, ma, sa, rounding);
        let difference = x.wrapping_sub(requantize((y - zb) << up, mb, sb, rounding));
        rescale.of(difference.wrapping_mul(difference))
    })
}
