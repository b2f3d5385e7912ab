//! Reduces one dimension of a tensor `[outer, count, inner]` to its sum, mean, maximum or minimum: TensorFlow Lite's `SUM`,
//! `MEAN`, `REDUCE_MAX`, `REDUCE_MIN`. A mean is a sum whose multiplier has been divided by the count.
//!
//! Arguments: in slot, out slot (`[outer, inner]`, of the same type), count, inner, and for sums (I8, I16): multiplier, shift and
//! zero point of the output, zero point of the input. Flag 1: single rounding; 4: the maximum; 8: the minimum (any plain type).
//! NUMERICS.md, "reduce".

use super::tensor::{Around, Elements, Rescale, around, element_arg, tensor_arg};
use super::window::SINGLE_ROUNDING;
use super::{OpDef, Overlap, Run, ensure};
use crate::image::plan::Kind;
use crate::image::{Image, Op};

/// Flag: the maximum.
pub const MAXIMUM: u16 = 4;
/// Flag: the minimum.
pub const MINIMUM: u16 = 8;

/// The op.
pub static OP: OpDef = OpDef {
    code: 22,
    name: "reduce",
    args: 8,
    flags: SINGLE_ROUNDING | MAXIMUM | MINIMUM,
    slots: &[0, 1],
    overlap: Overlap::Apart,
    check,
    run,
};

/// Sums of so many int8 less a zero point fit int32. (Those of int16 may wrap.)
const MOST_TERMS: usize = 1 << 23;

/// Results that are computed together.
const TOGETHER: usize = if cfg!(mote_vector) { 64 } else { 16 };

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (input, out) = (tensor_arg(image, op, 0)?, tensor_arg(image, op, 1)?);
    let a = around(op, 2, &input)?;
    ensure(input.kind == out.kind && input.frac == out.frac && a.outer.checked_mul(a.inner)? == out.cols as usize)?;
    match op.flags {
        MAXIMUM | MINIMUM => ensure(op.args.iter().skip(4).all(|arg| *arg == 0)),
        0 | SINGLE_ROUNDING => {
            element_arg(op, 7, &input)?;
            Rescale::new(op, 4, &out)?;
            ensure(input.kind != Kind::I32 && a.count <= MOST_TERMS)
        }
        _ => None,
    }
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (input, out) = (tensor_arg(r.image, op, 0)?, tensor_arg(r.image, op, 1)?);
    let Around { outer, count, inner } = around(op, 2, &input)?;
    let (start, fold): (i32, fn(i32, i32) -> i32) = match op.flags {
        MAXIMUM => (i32::MIN, i32::max),
        MINIMUM => (i32::MAX, i32::min),
        // A sum's is known to the compiler, which adds several at once.
        _ => (0, i32::wrapping_add),
    };
    let is_sum = op.flags & !SINGLE_ROUNDING == 0;
    let rescale = Rescale::new(op, 4, &out)?;
    let zeros = (count as i32).wrapping_mul(element_arg(op, 7, &input)?);
    let [from, to] = Elements::of(r, [&input, &out])?;
    for o in 0..outer {
        for first in (0..inner).step_by(TOGETHER) {
            let mut all = [start; TOGETHER];
            let some = all.get_mut(..(inner - first).min(TOGETHER))?;
            for n in 0..count {
                let at = (o * count + n) * inner + first;
                if is_sum { from.fold(at, some, i32::wrapping_add)? } else { from.fold(at, some, fold)? }
            }
            for (acc, at) in some.iter().zip(o * inner + first..) {
                to.put(at, if is_sum { rescale.of(acc.wrapping_sub(zeros)) } else { *acc })?;
            }
        }
    }
    Some(())
}
