//! Softmax of int8 rows, TensorFlow Lite's `SOFTMAX`: the result has scale 1/256 and zero point -128.
//!
//! Arguments: in slot (I8), out slot (I8), elements of a row, multiplier and shift that bring a difference to Q5.26, and the
//! least difference that counts (as int32). Flag 1: single rounding; 2: backward. NUMERICS.md, "softmax".

use core::cell::Cell;

use super::tensor::rounding;
use super::window::{self, SINGLE_ROUNDING};
use super::{BACKWARD, OpDef, Overlap, Run, arg, ensure, in_turn, times_in};
use crate::fixed::tflite::{Rounding, divide_by_pot, exp_on_negative, high_mul, one_over_one_plus, requantize};
use crate::image::plan::Kind;
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef = OpDef {
    code: 16,
    name: "softmax",
    args: 6,
    flags: SINGLE_ROUNDING | BACKWARD,
    slots: &[0, 1],
    overlap: Overlap::Elements(&[(0, 1)]),
    check,
    run,
};

/// Integer bits of the sum: a row has fewer elements than 2^12.
const SUM_BITS: u32 = 12;

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let slots = &window::slots(image, op);
    let ([input, output], row) = (slots.as_ref()?, arg(op, 2)?);
    ensure(input.kind == Kind::I8 && output.kind == Kind::I8)?;
    times_in(row as usize, input.cols as usize)?;
    ensure(row < 1 << SUM_BITS && input.cols == output.cols && arg(op, 4)? <= 30)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let slots = &window::slots(r.image, op);
    let [input, output] = slots.as_ref()?;
    let row = arg(op, 2)? as usize;
    let (multiplier, shift, least) = (arg(op, 3)? as i32, arg(op, 4)? as i32, arg(op, 5)? as i32);
    let (rows, rounding) = ((input.cols as usize).checked_div(row)?, rounding(op));
    let [from, to] = r.cells::<i8, 2>([input, output])?;
    // e^difference in Q0.31; 0 if that is too little to count.
    let exp_of = |difference: i32| scaled_exp(difference, least, (multiplier, shift, rounding));
    // On hosts those of long rows are computed once each.
    let (mut table, tabled) = ([0; 256], cfg!(mote_vector) && row > 256);
    if tabled {
        table.iter_mut().zip(0..).for_each(|(exp, less)| *exp = exp_of(-less));
    }
    for start in (0..rows).map(|n| in_turn(op, n, rows) * row) {
        let (from, to) = (from.get(start..)?.get(..row)?, to.get(start..)?.get(..row)?);
        let largest = from.iter().fold(i8::MIN, |largest, x| x.get().max(largest));
        let exp = |x: &Cell<i8>| {
            let less = i32::from(largest).wrapping_sub(x.get().into());
            if tabled { table[less as usize & 0xFF] } else { exp_of(less.wrapping_neg()) }
        };
        let sum = from.iter().fold(0i32, |sum, x| sum.wrapping_add(divide_by_pot(exp(x), SUM_BITS)));
        let above = sum.leading_zeros();
        let inverse = one_over_one_plus((sum.wrapping_shl(above) as u32).wrapping_sub(1 << 31) as i32);
        let shift = SUM_BITS.wrapping_sub(above).wrapping_add(31 - 8);
        // An element is read for the last time when it is written.
        for at in (0..row).map(|n| in_turn(op, n, row)) {
            let v = divide_by_pot(high_mul(inverse, exp(from.get(at)?)), shift);
            to.get(at)?.set(v.saturating_add(i8::MIN.into()).clamp(i8::MIN.into(), i8::MAX.into()) as i8);
        }
    }
    Some(())
}

#[inline(never)]
fn scaled_exp(difference: i32, least: i32, (multiplier, shift, rounding): (i32, i32, Rounding)) -> i32 {
    if difference < least { 0 } else { exp_on_negative(requantize(difference, multiplier, shift, rounding), 5) }
}
