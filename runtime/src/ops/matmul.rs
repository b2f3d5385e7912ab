//! Matmul: int8 rows times a coded matrix (N4 or N8), into fixed point; optionally added to what is there.
//!
//! Arguments: in slot (Q8 `[rows, cols]`), weight (coded `[out, cols]`), bias (I32 `[out]` with the out slot's fraction
//! bits, or none), out slot (I32 [rows, out]). Flag 1: add to the out slot (the residual). NUMERICS.md, "matmul".
//!
//! Each thread takes whole blocks of 16 weight rows for all rows of the step, so weights are read once a step.

use super::{I32Rows, OpDef, Overlap, Run, arg, ensure, optional, q8_row, slot_arg};
use crate::fixed::{saturate, shift_round};
use crate::image::plan::Kind;
use crate::image::tensors::BLOCK;
use crate::image::{Coded, Dtype, Image, Op};
use crate::view::{Shape, for_column_parts};

/// The op.
pub static OP: OpDef =
    OpDef { code: 5, name: "matmul", args: 4, flags: ACCUMULATE, slots: &[0, 3], overlap: Overlap::Apart, check, run };

/// Flag: add to the out slot instead of overwriting it.
pub const ACCUMULATE: u16 = 1;

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let input = slot_arg(image, op, 0, Kind::Q8)?;
    let weight = image.coded(arg(op, 1)?)?;
    let out = slot_arg(image, op, 3, Kind::I32)?;
    ensure(input.rows == out.rows && input.cols as usize == weight.cols && out.cols as usize == weight.rows)?;
    optional(op, 2).map_or(Some(()), |bias| {
        let desc = image.tensor(bias).ok()?;
        ensure(desc.dtype == Dtype::I32 && desc.dims == [out.cols, 1, 1, 1] && desc.exponent == i32::from(out.frac))
    })
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let input = slot_arg(r.image, op, 0, Kind::Q8)?;
    let weight = r.image.coded(arg(op, 1)?)?;
    let bias = match optional(op, 2) {
        Some(index) => r.image.raw(index, Dtype::I32)?,
        None => &[],
    };
    let output = slot_arg(r.image, op, 3, Kind::I32)?;
    let add = op.flags & ACCUMULATE != 0;
    let rows = r.rows_of(&input);
    let (pool, kernel) = (r.pool, if weight.bits == 4 { r.kernels.n4_block } else { r.kernels.n8_block });
    let [from, to] = r.slots([&input, &output])?;
    let to = I32Rows::new(&output, to)?;
    let from = &*from;
    let frac = i32::from(output.frac);
    let shape = Shape { rows, stride: to.stride, cols: weight.rows, granule: BLOCK };
    for_column_parts(pool, (to.data, shape), (&mut [], 0), &|mut part, _| {
        let cols = part.cols();
        for block in cols.start / BLOCK..cols.end.div_ceil(BLOCK) {
            let first = block * BLOCK;
            for row in 0..rows {
                let Some((scale, x)) = q8_row(&input, from, row) else {
                    continue;
                };
                let mut acc = [0i64; BLOCK];
                kernel(&weight, block, x, &mut acc);
                let shift = weight.exponent + scale.exp - frac - weight.excess_bits as i32;
                let out = part.row(row).iter_mut().skip(first - cols.start);
                for ((out, acc), index) in out.zip(acc).zip(first..) {
                    let sum = requantize(&weight, index, acc, scale.mant, shift);
                    let sum = sum + i64::from(bias_at(bias, index)) + if add { i64::from(*out) } else { 0 };
                    *out = saturate(sum);
                }
            }
        }
    })
}

/// `acc * mult[row] * mant * 2^-shift`, rounded once and saturated.
fn requantize(weight: &Coded<'_>, row: usize, acc: i64, mant: u32, shift: i32) -> i64 {
    let unit = (u64::from(weight.mult(row)) * u64::from(mant)) >> weight.excess_bits.min(63);
    i64::from(saturate(shift_round(acc.wrapping_mul(unit as i64), shift)))
}

fn bias_at(bias: &[u8], index: usize) -> i32 {
    bias.as_chunks::<4>().0.get(index).map_or(0, |b| i32::from_le_bytes(*b))
}
