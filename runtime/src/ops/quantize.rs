//! Quantize: fixed point to int8 with one scale a row, after a block Walsh-Hadamard transform if asked for.
//!
//! Arguments: in slot (I32; overwritten if there is a transform), out slot (Q8, the same shape), log2 of the
//! transform's block (0: none). The transform spreads outliers over its block; the quantizer has folded its inverse
//! into the next matrix (QuaRot, arXiv 2404.00456, section 4). NUMERICS.md, "quantize".

use super::{I32Rows, OpDef, Overlap, Run, arg, ensure, put_q8_row, slot_arg};
use crate::image::plan::Kind;
use crate::image::{Image, Op};
use crate::kernels::rows;
use crate::view::for_rows;

/// The op.
pub static OP: OpDef =
    OpDef { code: 4, name: "quantize", args: 3, flags: 0, slots: &[0, 1], overlap: Overlap::Apart, check, run };

/// Largest block of the transform, as a power of two.
pub const MAX_LOG2_BLOCK: u32 = 12;

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let input = &slot_arg(image, op, 0, Kind::I32);
    let input = input.as_ref()?;
    let out = &slot_arg(image, op, 1, Kind::Q8);
    let out = out.as_ref()?;
    ensure(input.rows == out.rows && input.cols == out.cols)?;
    let log2 = arg(op, 2)?;
    ensure(log2 <= MAX_LOG2_BLOCK && input.cols.is_multiple_of(1 << log2))
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let input = &slot_arg(r.image, op, 0, Kind::I32);
    let input = input.as_ref()?;
    let output = &slot_arg(r.image, op, 1, Kind::Q8);
    let output = output.as_ref()?;
    let log2 = arg(op, 2)?.min(MAX_LOG2_BLOCK);
    let (rows, cols, frac) = (r.part.of(r.rows_of(input)), input.cols as usize, i32::from(input.frac));
    let (pool, isa) = (r.pool, r.kernels.isa);
    let [from, to] = r.slots([input, output])?;
    let from = I32Rows::new(input, from)?;
    let stride = output.stride_bytes() as usize;
    for_rows(pool, rows, (from.data, from.stride), (to, stride), &|_, values, to| {
        let values = values.get_mut(..cols).unwrap_or_default();
        let lost = if log2 == 0 { 0 } else { rows::hadamard(isa, values, log2) };
        put_q8_row(isa, to, values, frac - lost);
    })
}
