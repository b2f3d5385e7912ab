//! Kept rows: copies the rows of a step to the rows of their positions, or back: what one stage of an encoder hands to the next.
//!
//! Arguments: slot of the step (I32), slot of all positions (I32, as many columns and fraction bits). Flag 1: to the positions.

use super::{I32Rows, OpDef, Overlap, Run, ensure, kept_arg, slot_arg};
use crate::image::plan::{Kind, Rows};
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef =
    OpDef { code: 43, name: "kept_rows", args: 2, flags: KEEP, slots: &[0, 1], overlap: Overlap::Apart, check, run };

/// Flag: from the step to the positions, instead of back.
pub const KEEP: u16 = 1;

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (step, kept) = (slot_arg(image, op, 0, Kind::I32)?, kept_arg(image, op, 1)?);
    ensure(step.rows == Rows::Batch && step.cols == kept.cols && step.frac == kept.frac)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (step, kept) = (slot_arg(r.image, op, 0, Kind::I32)?, kept_arg(r.image, op, 1)?);
    let (rows, first) = (r.rows as usize, r.position as usize);
    let [rows_of_step, all] = r.slots([&step, &kept])?;
    let (mut rows_of_step, mut all) = (I32Rows::new(&step, rows_of_step)?, I32Rows::new(&kept, all)?);
    for row in 0..rows {
        let (here, there) = (rows_of_step.row(row)?, all.row(first.checked_add(row)?)?);
        if op.flags & KEEP != 0 {
            there.iter_mut().zip(here).for_each(|(to, from)| *to = *from);
        } else {
            here.iter_mut().zip(there).for_each(|(to, from)| *to = *from);
        }
    }
    Some(())
}
