//! Product of two tensors of one shape, TensorFlow Lite's `MUL`, int8 or int16.
//!
//! Arguments: first slot, second slot, out slot (all I8 or all I16), multiplier, shift and zero point of the product, zero points
//! of first and second, least and largest result. Flag 1: single rounding; 2: backward. NUMERICS.md, "mul".

use super::tensor::{Rescale, element_arg, elementwise, quantized_arg};
use super::window::SINGLE_ROUNDING;
use super::{BACKWARD, OpDef, Overlap, Run, ensure};
use crate::image::plan::Slot;
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef = OpDef {
    code: 20,
    name: "mul",
    args: 10,
    flags: SINGLE_ROUNDING | BACKWARD,
    slots: &[0, 1, 2],
    overlap: Overlap::Elements(&[(0, 1), (0, 2), (1, 2)]),
    check,
    run,
};

/// The slots, the zero points of the factors, and what becomes of a product.
fn parts(image: &Image<'_>, op: &Op) -> Option<([Slot; 3], [i32; 2], Rescale)> {
    let [a, b, out] = [quantized_arg(image, op, 0)?, quantized_arg(image, op, 1)?, quantized_arg(image, op, 2)?];
    let range = [element_arg(op, 8, &out)?, element_arg(op, 9, &out)?];
    let zeros = [element_arg(op, 6, &a)?, element_arg(op, 7, &b)?];
    let rescale = Rescale { range, ..Rescale::new(op, 3, &out)? };
    Some(([a, b, out], zeros, rescale))
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let ([a, b, out], _, Rescale { range: [least, largest], .. }) = parts(image, op)?;
    ensure(a.kind == out.kind && b.kind == out.kind && a.cols == out.cols && b.cols == out.cols && least <= largest)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let ([a, b, out], [za, zb], rescale) = parts(r.image, op)?;
    // Factors of int16 with zero points may have products beyond int32: those wrap.
    elementwise(r, op, [&a, &b, &out], &|x, y| rescale.of((x - za).wrapping_mul(y - zb)))
}
