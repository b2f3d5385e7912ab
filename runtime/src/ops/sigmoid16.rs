//! Sigmoid or hyperbolic tangent of int16, TensorFlow Lite's `LOGISTIC` and `TANH`: the result has scale 2^-15. (Those of int8
//! are a `lookup`.)
//!
//! Arguments: in slot (I16), out slot (I16, as many elements), multiplier (below 2^15) and right shift (0 to 31) that bring the input to steps of
//! 1/12288, table (I16 of 256: sigmoid(i / 24) as uint16 in Q16, as TFLite has it). Flag 2: backward; 4: tanh. NUMERICS.md, "sigmoid16".

use super::tensor::{elementwise, quantized_arg};
use super::{BACKWARD, OpDef, Overlap, Run, arg, ensure};
use crate::image::plan::Kind;
use crate::image::{Dtype, Image, Op};

/// Flag: the hyperbolic tangent, 2 sigmoid(2x) - 1.
pub const TANH: u16 = 4;

/// The op.
pub static OP: OpDef = OpDef {
    code: 46,
    name: "sigmoid16",
    args: 5,
    flags: BACKWARD | TANH,
    slots: &[0, 1],
    overlap: Overlap::Elements(&[(0, 1)]),
    check,
    run,
};

fn table<'a>(image: &Image<'a>, op: &Op) -> Option<&'a [[u8; 2]; 256]> {
    image.raw(arg(op, 4)?, Dtype::I16)?.as_chunks().0.try_into().ok()
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (input, output) = (quantized_arg(image, op, 0)?, quantized_arg(image, op, 1)?);
    table(image, op)?;
    ensure(input.kind == Kind::I16 && output.kind == Kind::I16 && input.cols == output.cols)?;
    ensure(arg(op, 2)? < 1 << 15 && arg(op, 3)? <= 31)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (input, output) = (quantized_arg(r.image, op, 0)?, quantized_arg(r.image, op, 1)?);
    let (multiplier, shift, table) = (arg(op, 2)? as i32, arg(op, 3)?, table(r.image, op)?);
    let tanh = op.flags & TANH != 0;
    let half = if shift > 0 { 1i32.wrapping_shl(shift - 1) } else { 0 };
    elementwise(r, op, [&input, &input, &output], &|x, _| {
        let x = (x * multiplier).wrapping_add(half).wrapping_shr(shift);
        if tanh { of_tanh(table, x) } else { of_sigmoid(table, x) }
    })
}

/// The sigmoid of |x|, with 16 + `bits` fraction bits, between two values of the table; `None` beyond its end.
fn between(table: &[[u8; 2]; 256], x: i32, bits: u32) -> Option<i32> {
    let (size, value) = (x.unsigned_abs(), |bytes: &[u8; 2]| i32::from(u16::from_le_bytes(*bytes)));
    let at = (size >> bits) as usize;
    let (a, b) = (value(table.get(at)?), value(table.get(at + 1)?));
    Some((a << bits) + (size & ((1 << bits) - 1)) as i32 * (b - a))
}

fn of_sigmoid(table: &[[u8; 2]; 256], x: i32) -> i32 {
    let value = between(table, x, 9).unwrap_or(0x7FFF << 10);
    (if x >= 0 { value + (1 << 9) } else { (1 << 25) - value + (1 << 9) - 1 }) >> 10
}

fn of_tanh(table: &[[u8; 2]; 256], x: i32) -> i32 {
    let value = between(table, x, 8).unwrap_or(0xFFFF << 8) - (1 << 23);
    (if x >= 0 { value + (1 << 7) } else { (1 << 7) - 1 - value }) >> 8
}
