//! Rope: rotary position embedding, in place (Su et al., arXiv 2104.09864), Hugging Face's half-split pairs.
//!
//! Arguments: slot (I32, heads * head_dim columns), steps (U64 [head_dim / 2], turns a position in 2^-64), heads,
//! head_dim. Scaled variants (Llama 3, linear, YaRN) differ in the steps alone. Flag 1: each head goes through a Walsh-Hadamard
//! transform afterwards, so that the int8 codes of queries and keys lose less; their product is 2^t times what it was, which
//! attention's factor takes back. NUMERICS.md, "rope".

use super::{I32Rows, OpDef, Overlap, Run, arg, desc_arg, ensure, part, slot_arg};
use crate::fixed::rope::cos_sin;
use crate::image::plan::{Kind, Rows};
use crate::image::{Dtype, Image, Op};
use crate::kernels::rows;

/// The op.
pub static OP: OpDef =
    OpDef { code: 6, name: "rope", args: 4, flags: TRANSFORM, slots: &[0], overlap: Overlap::Apart, check, run };

/// Flag: transform each head afterwards, in blocks of [`log2_block`].
pub const TRANSFORM: u16 = 1;

/// log2 of the block of a head's transform: the largest power of two that divides its width.
#[must_use]
pub fn log2_block(head_dim: usize) -> u32 {
    head_dim.trailing_zeros() & 31
}

/// Pairs whose angles are worked out together, for all heads.
const CHUNK: usize = 16;

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let slot = &slot_arg(image, op, 0, Kind::I32);
    let slot = slot.as_ref()?;
    let (heads, head_dim) = (arg(op, 2)?, arg(op, 3)?);
    let steps = &desc_arg(image, op, 1);
    let steps = steps.as_ref()?;
    ensure(slot.rows == Rows::Batch)?;
    ensure(head_dim.is_multiple_of(2) && head_dim != 0 && heads.checked_mul(head_dim)? == slot.cols)?;
    ensure(steps.dtype == Dtype::U64 && steps.dims == [head_dim / 2, 1, 1, 1])
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let slot = &slot_arg(r.image, op, 0, Kind::I32);
    let slot = slot.as_ref()?;
    let steps = r.image.raw(arg(op, 1)?, Dtype::U64)?;
    let (heads, head_dim) = (arg(op, 2)? as usize, arg(op, 3)? as usize);
    let (count, first, isa) = (r.rows_of(slot), r.position, r.kernels.isa);
    let [data] = r.slots([slot])?;
    let mut data = I32Rows::new(slot, data)?;
    for (row, position) in (0..count).zip(first..) {
        let values = data.row(row)?;
        for (chunk, steps) in steps.as_chunks::<8>().0.chunks(CHUNK).enumerate() {
            let mut turns = [(0, 0); CHUNK];
            for (turn, step) in turns.iter_mut().zip(steps) {
                *turn = cos_sin(u64::from_le_bytes(*step).wrapping_mul(u64::from(position)));
            }
            for head in 0..heads {
                let (low, high) = part(values, head * head_dim, head_dim)?.split_at_mut_checked(head_dim / 2)?;
                let at = CHUNK * chunk;
                rows::rotate(isa, part(low, at, steps.len())?, part(high, at, steps.len())?, &turns);
            }
        }
        if op.flags & TRANSFORM != 0 {
            rows::transform(isa, values, log2_block(head_dim));
        }
    }
    Some(())
}
