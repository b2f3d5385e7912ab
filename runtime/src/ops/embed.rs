//! Embed: rows of a coded table into fixed point: by token, or by position and added to what is there.
//!
//! Arguments: out slot (I32, a row a token), table (coded, [vocab or positions, cols]), mantissa and exponent of a factor
//! (mantissa 0: none), log2 of the block of the Walsh-Hadamard transform that undoes the table's own (0: none; not by
//! position): a table that is the output matrix, too, is transformed as that one is (see quantize). Flag 1: the row is the
//! position's, and is added. Flag 2: the tokens are a source's.

use super::quantize::MAX_LOG2_BLOCK;
use super::{I32Rows, OpDef, Overlap, Run, arg, ensure, slot_arg};
use crate::fixed::{saturate, shift_round};
use crate::image::plan::{Kind, Rows};
use crate::image::{Image, Op};
use crate::kernels::rows;

/// The op.
pub static OP: OpDef = OpDef {
    code: 1,
    name: "embed",
    args: 5,
    flags: POSITIONS | SOURCE,
    slots: &[0],
    overlap: Overlap::Apart,
    check,
    run,
};

/// Flag: rows by position, added to the out slot (learned positions).
pub const POSITIONS: u16 = 1;
/// Flag: the table is that of a source's tokens, for encoders.
pub const SOURCE: u16 = 2;

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let out = &slot_arg(image, op, 0, Kind::I32);
    let out = out.as_ref()?;
    let table = &image.coded(arg(op, 1)?);
    let table = table.as_ref()?;
    ensure(out.rows == Rows::Batch && out.cols as usize == table.cols)?;
    ensure(arg(op, 2)? < 1 << 16 && (-64..=64).contains(&(arg(op, 3)? as i32)))?;
    let (plan, log2) = (image.plan(), arg(op, 4)?);
    ensure(log2 <= MAX_LOG2_BLOCK && out.cols.is_multiple_of(1 << log2))?;
    ensure(log2 == 0 || op.flags & POSITIONS == 0)?;
    if op.flags & POSITIONS != 0 {
        return ensure(table.rows >= plan.max_context as usize);
    }
    let vocab = if op.flags & SOURCE != 0 { plan.source_vocab } else { plan.vocab };
    ensure(table.rows == vocab as usize)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let slot = &slot_arg(r.image, op, 0, Kind::I32);
    let slot = slot.as_ref()?;
    let table = &r.image.coded(arg(op, 1)?);
    let table = table.as_ref()?;
    let (factor, exponent) = match arg(op, 2)? {
        0 => (1, 0),
        mantissa => (i64::from(mantissa), arg(op, 3)? as i32),
    };
    let shift = table.exponent + exponent - i32::from(slot.frac);
    let positions = op.flags & POSITIONS != 0;
    let log2 = arg(op, 4)?.min(MAX_LOG2_BLOCK);
    let (tokens, first, count, isa) = (r.tokens, r.position as usize, r.rows as usize, r.kernels.isa);
    let [out] = r.slots([slot])?;
    let mut out = I32Rows::new(slot, out)?;
    for i in 0..count {
        let row = if positions { first + i } else { *tokens.get(i)? as usize };
        let mult = i64::from(table.mult(row)) * factor;
        let value = |level_times_scale: i32| saturate(shift_round(i64::from(level_times_scale) * mult, shift));
        let out = out.row(i)?;
        // One closure for both: firmware has the loop once.
        table.row_levels(row, out, |out, level| {
            *out = if positions { out.saturating_add(value(level)) } else { level };
        });
        if positions {
            continue;
        }
        if log2 > 0 {
            // Sums of 2^12 numbers of 15 bits: none is shifted.
            rows::hadamard(isa, out, log2);
        }
        out.iter_mut().for_each(|out| *out = value(*out));
    }
    Some(())
}
