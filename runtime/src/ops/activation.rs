//! Activation: ReLU or GELU of every element, in place.
//!
//! Arguments: slot (I32), out slot: the same place with the result's fraction bits, function. NUMERICS.md, "activation".
//!
//! ```text
//! 0  relu        max(x, 0)
//! 1  gelu tanh   x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))      GPT-2; Hendrycks and Gimpel, arXiv 1606.08415
//! 2  gelu        x Phi(x), Phi the normal distribution function          by Abramowitz and Stegun, 26.2.17
//! ```

use super::{I32Rows, OpDef, Overlap, Run, arg, ensure, slot_arg};
use crate::fixed::exp::exp2_neg_q16;
use crate::fixed::rsqrt::recip;
use crate::fixed::{saturate, shift_round};
use crate::image::plan::{Kind, Slot};
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef =
    OpDef { code: 41, name: "activation", args: 3, flags: 0, slots: &[0], overlap: Overlap::Apart, check, run };

/// Function 0.
pub const RELU: u32 = 0;
/// Function 1.
pub const GELU_TANH: u32 = 1;
/// Function 2.
pub const GELU_ERF: u32 = 2;

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let slot = &slot_arg(image, op, 0, Kind::I32);
    let slot = slot.as_ref()?;
    let out = &slot_arg(image, op, 1, Kind::I32);
    let out = out.as_ref()?;
    ensure(*out == Slot { frac: out.frac, ..*slot } && (0..=28).contains(&slot.frac))?;
    ensure(arg(op, 2)? <= GELU_ERF)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let slot = &slot_arg(r.image, op, 0, Kind::I32);
    let slot = slot.as_ref()?;
    let out = &slot_arg(r.image, op, 1, Kind::I32);
    let out = out.as_ref()?;
    let function = match arg(op, 2)? {
        RELU => |x: i32, _: i32| x.max(0),
        GELU_TANH => |x: i32, frac: i32| times(x, sigmoid_of_gelu(magnitude(x, frac))),
        _ => |x: i32, frac: i32| times(x, normal_tail(magnitude(x, frac))),
    };
    let rows = r.part.of(r.rows_of(slot));
    let [data] = r.slots([slot])?;
    let mut data = I32Rows::new(slot, data)?;
    let frac = i32::from(slot.frac);
    for row in rows {
        for x in data.row(row)? {
            *x = saturate(shift_round(i64::from(function(*x, frac)), frac - i32::from(out.frac)));
        }
    }
    Some(())
}

/// |x| in Q26, at most 8: beyond it both forms of GELU are x or 0 to 31 bits.
fn magnitude(x: i32, frac: i32) -> u64 {
    let size = shift_round(i64::from(x.unsigned_abs()), frac - 26);
    u64::try_from(size).unwrap_or(0).min(8 << 26)
}

/// `x` times the share that GELU leaves of it, where `tail` (Q31) is that of -|x|.
fn times(x: i32, tail: u64) -> i32 {
    let share = if x < 0 { tail } else { (1u64 << 31).saturating_sub(tail) };
    saturate(shift_round(i64::from(x) * share as i64, 31))
}

/// sigmoid(-2 sqrt(2 / pi) (a + 0.044715 a^3)) in Q31, for `a` in Q26: (1 + tanh(u)) / 2 is sigmoid(2 u).
fn sigmoid_of_gelu(a: u64) -> u64 {
    let cubic = (1 << 30) + ((((a * a) >> 26) * 48_012_366) >> 26); // 1 + 0.044715 a^2, Q30
    let z = shift_round((((a * cubic) >> 30) * 2_471_977_230) as i64, 40); // 2 sqrt(2 / pi) log2(e) in Q30
    let e = exp2_neg_q16(u32::try_from(z).unwrap_or(u32::MAX));
    (u64::from(e) * u64::from(recip((1 << 30) + e))) >> 30
}

/// Phi(-a) in Q31, for `a` in Q26: a polynomial in t = 1 / (1 + 0.2316419 a) times exp(-a^2 / 2).
fn normal_tail(a: u64) -> u64 {
    let below = (1 << 30) + ((a * 248_723_596) >> 26); // Q30, up to 2.9
    let half = u32::from(below > 1 << 31);
    let t = i64::from(recip((below >> half) as u32) >> half); // Q31
    // The source's b5 to b1 over sqrt(2 pi), Q30.
    let poly = [569_837_700i64, -780_155_054, 763_115_692, -152_738_022, 136_810_595]
        .iter()
        .fold(0, |sum, b| ((sum * t) >> 31) + b);
    let poly = ((poly * t) >> 31).max(0) as u64;
    let z = shift_round((((a * a) >> 26) * 774_541_002) as i64, 40); // log2(e) / 2 in Q30
    (poly * u64::from(exp2_neg_q16(u32::try_from(z).unwrap_or(u32::MAX)))) >> 29
}
