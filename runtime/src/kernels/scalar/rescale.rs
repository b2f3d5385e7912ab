//! Exact sums to fixed point.

use super::super::Rescale;
use crate::fixed::requantize::round_right;
use crate::fixed::{saturate, shift_round};
use crate::image::tensors::BLOCK;

/// See [`crate::kernels::rows::rescale`].
#[cfg_attr(mote_vector, inline(always))] // into each backend, for its instructions
pub fn rescale(sums: &[i64; BLOCK], mults: &[u16; BLOCK], bias: &[i32; BLOCK], how: Rescale, out: &mut [i32; BLOCK]) {
    let Rescale { mant, excess, shift, add } = how;
    let excess = excess.min(63);
    let unit = |mult: u16| ((u64::from(mult) * u64::from(mant)) >> excess) as i64;
    let finish = |product: i64, bias: i32, out: &mut i32| {
        let old = if add { i64::from(*out) } else { 0 };
        *out = saturate(i64::from(saturate(product)) + i64::from(bias) + old);
    };
    let rows = sums.iter().zip(mults).zip(bias).zip(out);
    if let (true, Ok(right @ 1..64)) = (cfg!(mote_vector), u32::try_from(shift)) {
        // What all but extreme models have, without a branch in the loop.
        rows.for_each(|(((sum, mult), bias), out)| {
            finish(round_right(sum.wrapping_mul(unit(*mult)), right), *bias, out);
        });
    } else {
        rows.for_each(|(((sum, mult), bias), out)| {
            finish(shift_round(sum.wrapping_mul(unit(*mult)), shift), *bias, out);
        });
    }
}
