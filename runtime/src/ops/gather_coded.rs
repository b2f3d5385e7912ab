//! Rows of a coded table by their indices, as int8: embeddings of nets in 4 bits a number.
//!
//! Arguments: indices slot (I32), out slot (I8, `[indices, cols]`), table (coded `[rows, words * cols]`), words (entries side
//! by side in a row of the table: narrow ones would not fill its groups of 32), count (entries), zero point of the output.
//! Entries of several a row begin at multiples of 8 columns. Indices are those of `gather`. NUMERICS.md, "gather_coded".

use super::gather::nearest;
use super::tensor::i32_arg;
use super::{OpDef, Overlap, Run, arg, ensure, i8_arg, i8_cols};
use crate::fixed::{saturate, shift_round};
use crate::image::{Coded, Image, Op};
use crate::view;

/// The op.
pub static OP: OpDef =
    OpDef { code: 64, name: "gather_coded", args: 6, flags: 0, slots: &[0, 1], overlap: Overlap::Apart, check, run };

/// The table, its entries a row and their columns, how many entries there are, and the zero point.
fn parts<'a>(image: &Image<'a>, op: &Op) -> Option<(Coded<'a>, usize, usize, usize, i32)> {
    let (table, words, count) = (image.coded(arg(op, 2)?)?, arg(op, 3)? as usize, arg(op, 4)? as usize);
    let (cols, zero_point) = (table.cols.checked_div(words)?, arg(op, 5)? as i32);
    ensure(cols.checked_mul(words)? == table.cols && (words == 1 || cols % 8 == 0))?;
    ensure(count != 0 && count <= table.rows.checked_mul(words)? && (-128..=127).contains(&zero_point))?;
    Some((table, words, cols, count, zero_point))
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (indices, out) = (i32_arg(image, op, 0)?, i8_arg(image, op, 1)?);
    let (_, _, cols, ..) = parts(image, op)?;
    ensure(cols != 0 && cols.checked_mul(indices.cols as usize)? == out.cols as usize)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (indices, out) = (i32_arg(r.image, op, 0)?, i8_arg(r.image, op, 1)?);
    let (table, words, cols, count, zero_point) = parts(r.image, op)?;
    let [at, to] = r.slots([&indices, &out])?;
    let indices = view::as_i32(at)?.get(..indices.cols as usize)?;
    for (index, to) in indices.iter().zip(i8_cols(&out, to)?.chunks_exact_mut(cols.max(1))) {
        let entry = nearest(*index, count)?;
        let (row, place) = (entry.checked_div(words)?, entry.checked_rem(words)?);
        let mult = i64::from(table.mult(row));
        table.row_levels_from(row, place * cols, to, |to, level_times_scale| {
            let value = saturate(shift_round(i64::from(level_times_scale) * mult, table.exponent));
            *to = value.saturating_add(zero_point).clamp(-128, 127) as i8;
        });
    }
    Some(())
}
