//! Select row: copies one row of a step to a slot of one row, so that the head runs for that row alone.
//!
//! Arguments: in slot (I32, a row a token), out slot (I32, one row, same columns and fraction bits).

use super::{I32Rows, OpDef, Overlap, Run, ensure, slot_arg};
use crate::image::plan::{Kind, Rows};
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef =
    OpDef { code: 2, name: "select_row", args: 2, flags: 0, slots: &[0, 1], overlap: Overlap::Apart, check, run };

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let input = &slot_arg(image, op, 0, Kind::I32);
    let input = input.as_ref()?;
    let out = &slot_arg(image, op, 1, Kind::I32);
    let out = out.as_ref()?;
    ensure(input.rows == Rows::Batch && out.rows == Rows::One)?;
    ensure(input.cols == out.cols && input.frac == out.frac)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let input = &slot_arg(r.image, op, 0, Kind::I32);
    let input = input.as_ref()?;
    let output = &slot_arg(r.image, op, 1, Kind::I32);
    let output = output.as_ref()?;
    let row = r.row as usize;
    let [from, to] = r.slots([input, output])?;
    let (mut from, mut to) = (I32Rows::new(input, from)?, I32Rows::new(output, to)?);
    for (to, from) in to.row(0)?.iter_mut().zip(from.row(row)?) {
        *to = *from;
    }
    Some(())
}
