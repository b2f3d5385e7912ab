//! Mean rows: the mean of the rows of a source's positions, which an encoder gives as the embedding of the whole text.
//!
//! Arguments: slot of all positions (I32), out slot (I32, one row, same columns and fraction bits), how many of the first
//! positions count (0: all of the source; 1: its first token, such as BERT's `[CLS]`).

use super::{I32Rows, OpDef, Overlap, Run, arg, ensure, kept_arg, slot_arg};
use crate::fixed::saturate;
use crate::image::plan::{Kind, Rows};
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef =
    OpDef { code: 61, name: "mean_rows", args: 3, flags: 0, slots: &[0, 1], overlap: Overlap::Apart, check, run };

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (all, out) = (kept_arg(image, op, 0)?, slot_arg(image, op, 1, Kind::I32)?);
    ensure(out.rows == Rows::One && all.cols == out.cols && all.frac == out.frac)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (all, out) = (kept_arg(r.image, op, 0)?, slot_arg(r.image, op, 1, Kind::I32)?);
    let count = match arg(op, 2)? {
        0 => r.source,
        most => most.min(r.source),
    };
    let [rows, to] = r.slots([&all, &out])?;
    let (mut rows, mut to) = (I32Rows::new(&all, rows)?, I32Rows::new(&out, to)?);
    for (col, to) in to.row(0)?.iter_mut().enumerate() {
        // 2^28 positions of 2^31 at most.
        let mut sum = i64::from(count / 2);
        for row in 0..count as usize {
            sum = sum.wrapping_add(i64::from(*rows.row(row)?.get(col)?));
        }
        *to = saturate(sum.checked_div_euclid(i64::from(count))?);
    }
    Some(())
}
