//! Brings a tensor to another type, scale and zero point: TensorFlow Lite's `QUANTIZE` between integers. (From int8 to int8 a
//! `lookup` does the same.)
//!
//! Arguments: in slot, out slot (plain tensors of as many elements), multiplier, shift and zero point of the output, zero point
//! of the input. Flag 1: single rounding; 2: backward. NUMERICS.md, "requantize".

use super::tensor::{Rescale, element_arg, elementwise, tensor_arg};
use super::window::SINGLE_ROUNDING;
use super::{BACKWARD, OpDef, Overlap, Run, ensure};
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef = OpDef {
    code: 24,
    name: "requantize",
    args: 6,
    flags: SINGLE_ROUNDING | BACKWARD,
    slots: &[0, 1],
    overlap: Overlap::Elements(&[(0, 1)]),
    check,
    run,
};

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (input, out) = (tensor_arg(image, op, 0)?, tensor_arg(image, op, 1)?);
    element_arg(op, 5, &input)?;
    Rescale::new(op, 2, &out)?;
    ensure(input.cols == out.cols)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (input, out) = (tensor_arg(r.image, op, 0)?, tensor_arg(r.image, op, 1)?);
    let (zero, rescale) = (element_arg(op, 5, &input)?, Rescale::new(op, 2, &out)?);
    elementwise(r, op, [&input, &input, &out], &|x, _| rescale.of(x.wrapping_sub(zero)))
}
