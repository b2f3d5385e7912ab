//! Embed: rows of a coded table, by token, into fixed point.
//!
//! Arguments: out slot (I32, a row a token), table (coded, [vocab, cols]).

use super::{I32Rows, OpDef, Overlap, Run, arg, ensure, slot_arg};
use crate::fixed::{saturate, shift_round};
use crate::image::plan::{Kind, Rows};
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef =
    OpDef { code: 1, name: "embed", args: 2, flags: 0, slots: &[0], overlap: Overlap::Apart, check, run };

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let out = slot_arg(image, op, 0, Kind::I32)?;
    let table = image.coded(arg(op, 1)?)?;
    ensure(out.rows == Rows::Batch && out.cols as usize == table.cols)?;
    ensure(table.rows == image.plan().vocab as usize)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let slot = slot_arg(r.image, op, 0, Kind::I32)?;
    let table = r.image.coded(arg(op, 1)?)?;
    let shift = table.exponent - i32::from(slot.frac);
    let tokens = r.tokens;
    let [out] = r.slots([&slot])?;
    let mut out = I32Rows::new(&slot, out)?;
    for (i, token) in tokens.iter().enumerate() {
        let row = *token as usize;
        let mult = i64::from(table.mult(row));
        table.row_levels(row, out.row(i)?, |out, level_times_scale| {
            *out = saturate(shift_round(i64::from(level_times_scale) * mult, shift));
        });
    }
    Some(())
}
