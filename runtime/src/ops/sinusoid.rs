//! Sinusoid: adds sines and cosines of the position to a row (Vaswani et al., arXiv 1706.03762, 3.5), all sines first, as
//! fairseq and M2M-100 have them.
//!
//! Arguments: slot (I32, even columns), steps (U64 [cols / 2], turns a position in 2^-64), position of the first token. No
//! table of positions is stored: a phase is exact, as in [`super::rope`]. NUMERICS.md, "sinusoid".

use super::{I32Rows, OpDef, Overlap, Run, arg, desc_arg, ensure, slot_arg};
use crate::fixed::rope::cos_sin;
use crate::fixed::{saturate, shift_round};
use crate::image::plan::{Kind, Rows};
use crate::image::{Dtype, Image, Op};

/// The op.
pub static OP: OpDef =
    OpDef { code: 42, name: "sinusoid", args: 3, flags: 0, slots: &[0], overlap: Overlap::Apart, check, run };

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let slot = &slot_arg(image, op, 0, Kind::I32);
    let slot = slot.as_ref()?;
    let steps = &desc_arg(image, op, 1);
    let steps = steps.as_ref()?;
    ensure(slot.rows == Rows::Batch && slot.cols.is_multiple_of(2))?;
    ensure(steps.dtype == Dtype::U64 && steps.dims == [slot.cols / 2, 1, 1, 1])
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let slot = &slot_arg(r.image, op, 0, Kind::I32);
    let slot = slot.as_ref()?;
    let steps = r.image.raw(arg(op, 1)?, Dtype::U64)?.as_chunks::<8>().0;
    let rows = r.rows_of(slot);
    let first = u64::from(r.position) + u64::from(arg(op, 2)?);
    let [data] = r.slots([slot])?;
    let mut data = I32Rows::new(slot, data)?;
    let add = |x: &mut i32, wave: i64| *x = saturate(i64::from(*x) + i64::from(saturate(wave)));
    for (row, position) in (0..rows).zip(first..) {
        let (sines, cosines) = data.row(row)?.split_at_mut_checked(steps.len())?;
        for ((s, c), step) in sines.iter_mut().zip(cosines).zip(steps) {
            let (cos, sin) = cos_sin(u64::from_le_bytes(*step).wrapping_mul(position));
            add(s, shift_round(sin.into(), 30 - i32::from(slot.frac)));
            add(c, shift_round(cos.into(), 30 - i32::from(slot.frac)));
        }
    }
    Some(())
}
