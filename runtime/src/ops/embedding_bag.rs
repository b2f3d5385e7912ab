//! Embedding bag: the weighted sum of rows of a coded table, into fixed point. What queries of word vectors begin with.
//!
//! Arguments: indices slot (I32 `[n]`), weights slot (I8 `[n]`), out slot (I32 of one row), table (coded `[rows, cols]`). A
//! weight of 0 leaves its row out; an index outside is brought to the nearest inside. NUMERICS.md, "embedding_bag".

use super::{I32Rows, OpDef, Overlap, Run, arg, ensure, i8_arg, i8_cols, slot_arg};
use crate::fixed::{saturate, shift_round};
use crate::image::plan::{Kind, Rows};
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef = OpDef {
    code: 50,
    name: "embedding_bag",
    args: 4,
    flags: 0,
    slots: &[0, 1, 2],
    overlap: Overlap::Apart,
    check,
    run,
};

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (indices, weights) = (slot_arg(image, op, 0, Kind::I32)?, i8_arg(image, op, 1)?);
    let (out, table) = (slot_arg(image, op, 2, Kind::I32)?, image.coded(arg(op, 3)?)?);
    ensure(indices.rows == Rows::One && out.rows == Rows::One && indices.cols == weights.cols)?;
    ensure(out.cols as usize == table.cols && table.rows != 0)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (indices, weights) = (slot_arg(r.image, op, 0, Kind::I32)?, i8_arg(r.image, op, 1)?);
    let (slot, table) = (slot_arg(r.image, op, 2, Kind::I32)?, r.image.coded(arg(op, 3)?)?);
    let shift = table.exponent - i32::from(slot.frac);
    let last = i32::try_from(table.rows).unwrap_or(i32::MAX).saturating_sub(1);
    let [from, factors, out] = r.slots([&indices, &weights, &slot])?;
    let (mut from, mut out) = (I32Rows::new(&indices, from)?, I32Rows::new(&slot, out)?);
    let out = out.row(0)?;
    out.fill(0);
    for (index, weight) in from.row(0)?.iter().zip(i8_cols(&weights, factors)?.iter()) {
        if *weight == 0 {
            continue;
        }
        let row = (*index).min(last).max(0) as usize;
        let mult = i64::from(table.mult(row));
        table.row_levels(row, out, |out, level_times_scale| {
            let value = i64::from(saturate(shift_round(i64::from(level_times_scale) * mult, shift)));
            *out = saturate(i64::from(*out) + value * i64::from(*weight));
        });
    }
    Some(())
}
