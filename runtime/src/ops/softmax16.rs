//! Softmax of int16 rows, TensorFlow Lite's `SOFTMAX`: the result has scale 2^-15.
//!
//! Arguments: in slot (I16), out slot (I16), elements of a row, multiplier and shift that bring a difference to steps of 10 / 65535,
//! tables of e^x for -10 to 0 and of 1 / (1 + x) for 0 to 1 in Q15 (I16 of 513, as `lookup`'s). Flag 1: single rounding; 2: backward.
//! NUMERICS.md, "softmax16".

use super::tensor::{Elements, Steps, quantized_arg, rounding};
use super::window::SINGLE_ROUNDING;
use super::{BACKWARD, OpDef, Overlap, Run, arg, ensure, in_turn};
use crate::fixed::tflite::requantize;
use crate::image::plan::Kind;
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef = OpDef {
    code: 47,
    name: "softmax16",
    args: 7,
    flags: SINGLE_ROUNDING | BACKWARD,
    slots: &[0, 1],
    overlap: Overlap::Elements(&[(0, 1)]),
    check,
    run,
};

/// A row has fewer elements, so the sum of its exponentials fits int32.
const MOST_ELEMENTS: u32 = 1 << 16;

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (input, output, row) = (quantized_arg(image, op, 0)?, quantized_arg(image, op, 1)?, arg(op, 2)?);
    let rows = input.cols.checked_div(row)?;
    ensure(input.kind == Kind::I16 && output.kind == Kind::I16 && input.cols == output.cols)?;
    ensure(row < MOST_ELEMENTS && rows.checked_mul(row)? == input.cols)?;
    Steps::new(image, op, 5)?;
    Steps::new(image, op, 6).map(|_| ())
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (input, output) = (quantized_arg(r.image, op, 0)?, quantized_arg(r.image, op, 1)?);
    let (row, multiplier, shift) = (arg(op, 2)? as usize, arg(op, 3)? as i32, arg(op, 4)? as i32);
    let (exp, recip, rounding) = (Steps::new(r.image, op, 5)?, Steps::new(r.image, op, 6)?, rounding(op));
    let rows = (input.cols as usize).checked_div(row)?;
    let clamped = |v: i32| v.max(i16::MIN.into()).min(i16::MAX.into()) as i16;
    let [from, to] = Elements::of(r, [&input, &output])?;
    for start in (0..rows).map(|n| in_turn(op, n, rows) * row) {
        let places = start..start + row;
        let mut largest = i32::from(i16::MIN);
        for at in places.clone() {
            largest = from.get(at)?.max(largest);
        }
        // The exponentials wait in the output: an element is read for the last time when its own is written.
        let mut sum = 0i32;
        for at in (0..row).map(|n| start + in_turn(op, n, row)) {
            let difference = requantize(from.get(at)? - largest, multiplier, shift, rounding);
            let e = exp.at(clamped(difference.saturating_add(32_767)));
            to.put(at, e.into())?;
            sum = sum.wrapping_add(e.into());
        }
        let sum = sum.max(2); // a row's largest has e^0, unless the table is wrong
        let above = sum.leading_zeros();
        let scaled = ((i64::from(sum) << (above - 1)) + (1 << 13)) >> 14; // 2^16 to 2^17: 1 to 2
        let recip = i64::from(recip.at(clamped(scaled as i32 - (1 << 15) - (1 << 16))));
        let right = 31 - above;
        for at in places {
            let value = (i64::from(to.get(at)?) * recip + (1 << (right - 1))) >> right;
            to.put(at, value.clamp(0, 32_767) as i32)?;
        }
    }
    Some(())
}
