//! Exact sums to fixed point.

use super::super::Rescale;
use crate::fixed::requantize::round_right;
use crate::fixed::{saturate, shift_round};
use crate::image::tensors::BLOCK;
use crate::ops::unpack;
use crate::view::Columns;

/// See [`crate::kernels::rows::rescale`].
#[cfg_attr(mote_vector, inline(always))] // into each backend, for its instructions
pub fn rescale(
    sums: &[[i64; BLOCK]],
    (mults, biases): (&[[u8; 2]; BLOCK], &[[u8; 4]; BLOCK]),
    how: &Rescale<'_>,
    out: &mut Columns<'_, i32>,
    (first, at): (usize, usize),
) -> Option<()> {
    let numbers = (&mults.map(u16::from_le_bytes), &biases.map(i32::from_le_bytes));
    for (row, sums) in (first..).zip(sums) {
        let scale = unpack(*how.rows.get(row.checked_mul(how.stride)?..)?.first_chunk()?);
        let row = out.row(row).get_mut(at..)?;
        let numbers = (numbers, scale.mant, how.excess.min(63));
        let shift = how.shift + scale.exp;
        if let Some(row) = row.first_chunk_mut() {
            block(sums, numbers, shift, how.add, row);
        } else {
            // The last rows of a matrix that is no multiple of 16.
            let mut padded = [0; BLOCK];
            padded.iter_mut().zip(&*row).for_each(|(to, old)| *to = *old);
            block(sums, numbers, shift, how.add, &mut padded);
            row.iter_mut().zip(padded).for_each(|(to, new)| *to = new);
        }
    }
    Some(())
}

#[cfg_attr(mote_vector, inline(always))]
fn block(
    sums: &[i64; BLOCK],
    ((mults, biases), mant, excess): ((&[u16; BLOCK], &[i32; BLOCK]), u32, u32),
    shift: i32,
    add: bool,
    out: &mut [i32; BLOCK],
) {
    let unit = |mult: u16| ((u64::from(mult) * u64::from(mant)) >> excess) as i64;
    let finish = |product: i64, bias: i32, out: &mut i32| {
        let old = if add { i64::from(*out) } else { 0 };
        *out = saturate(i64::from(saturate(product)) + i64::from(bias) + old);
    };
    let rows = sums.iter().zip(mults).zip(biases).zip(out);
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
