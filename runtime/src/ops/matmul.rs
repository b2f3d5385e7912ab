//! Matmul: int8 rows times a coded matrix (N4, N5 or N8), into fixed point; optionally added to what is there.
//!
//! Arguments: in slot (Q8 `[rows, cols]`), weight (coded `[out, cols]`), bias (I32 `[out]` with the out slot's fraction
//! bits, or none), out slot (I32 [rows, out]). Flag 1: add to the out slot (the residual). NUMERICS.md, "matmul".
//!
//! Each thread takes whole blocks of 16 weight rows for all rows of the step, so weights are read once a step. A block is a unit.

use super::cost::Part;
#[cfg(feature = "steps")]
use super::cost::Units;
use super::{I32Rows, OpDef, Overlap, Run, arg, ensure, optional, slot_arg};
use crate::image::plan::{Kind, Q8_HEAD, Slot};
use crate::image::tensors::BLOCK;
use crate::image::{Dtype, Image, Op};
use crate::kernels::{Codes, Kernels, Rescale, rows};
use crate::view::{Pool, Shape, for_column_parts};

/// The op.
pub static OP: OpDef =
    OpDef { code: 5, name: "matmul", args: 4, flags: ACCUMULATE, slots: &[0, 3], overlap: Overlap::Apart, check, run };

/// Flag: add to the out slot instead of overwriting it.
pub const ACCUMULATE: u16 = 1;

/// Multiply-accumulates below which a part of the work is not worth another thread: fast kernels take half a microsecond, as
/// long as handing it over.
const PART_MACS: usize = 1 << 16;

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let input = &slot_arg(image, op, 0, Kind::Q8);
    let input = input.as_ref()?;
    let weight = &image.coded(arg(op, 1)?);
    let weight = weight.as_ref()?;
    let out = &slot_arg(image, op, 3, Kind::I32);
    let out = out.as_ref()?;
    ensure(input.rows == out.rows && input.cols as usize == weight.cols && out.cols as usize == weight.rows)?;
    optional(op, 2).map_or(Some(()), |bias| {
        let desc = image.tensor(bias).ok()?;
        ensure(desc.dtype == Dtype::I32 && desc.dims == [out.cols, 1, 1, 1] && desc.exponent == i32::from(out.frac))
    })
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (input, output) = &(slot_arg(r.image, op, 0, Kind::Q8), slot_arg(r.image, op, 3, Kind::I32));
    let (input, output) = (input.as_ref()?, output.as_ref()?);
    let how = How { pool: r.pool, kernels: r.kernels, part: r.part };
    let (image, count) = (r.image, r.rows_of(input));
    let [from, to] = r.slots([input, output])?;
    let to = I32Rows::new(output, to)?;
    product(image, op, how, [input, output], (from, count), (to.data, to.stride))
}

/// What a product is computed with, and how much of it.
#[derive(Clone, Copy)]
pub(crate) struct How<'h> {
    pub pool: &'h dyn Pool,
    pub kernels: &'h Kernels,
    pub part: Part,
}

/// The op on rows that need not lie in its slots, `input` and `output`: `count` rows as the in slot has them, and as many results, `to_stride` apart.
pub(crate) fn product(
    image: &Image<'_>,
    op: &Op,
    How { pool, kernels, part }: How<'_>,
    [input, output]: [&Slot; 2],
    (from, count): (&[u8], usize),
    (to, to_stride): (&mut [i32], usize),
) -> Option<()> {
    let weight = &image.coded(arg(op, 1)?);
    let weight = weight.as_ref()?;
    let bias = match optional(op, 2) {
        Some(index) => image.raw(index, Dtype::I32)?.as_chunks().0,
        None => &[],
    };
    let mults = weight.mults.as_chunks().0.as_chunks().0;
    let part = part.of(weight.rows.div_ceil(BLOCK));
    let stride = input.stride_bytes() as usize;
    let codes = Codes::new(from.get(Q8_HEAD..)?, count, stride, stride.checked_sub(Q8_HEAD)?)?;
    let excess = weight.excess_bits;
    let shift = weight.exponent - i32::from(output.frac) - excess as i32;
    let how = Rescale { rows: from, stride, excess, shift, add: op.flags & ACCUMULATE != 0 };
    let block_macs = (BLOCK * weight.cols).saturating_mul(count).max(1);
    let granule = BLOCK * PART_MACS.div_ceil(block_macs);
    let cols = part.start * BLOCK..(part.end * BLOCK).min(weight.rows);
    let shape = Shape { rows: count, stride: to_stride, cols, granule };
    for_column_parts(pool, (to, shape), (&mut [], 0), &|mut part, _| {
        let cols = part.cols();
        // A part behind the last block.
        if cols.is_empty() {
            return;
        }
        let blocks = cols.start / BLOCK..cols.end.div_ceil(BLOCK);
        let mut rest = [[0; 4]; BLOCK];
        (kernels.blocks(weight))(weight, blocks, &codes, &mut |block, first, sums| {
            // Where they lie: copies, made in smaller pieces than vectors read, would hold up what comes after.
            let (mults, biases) = (mults.get(block), block_of(bias, block, &mut rest));
            if let Some(mults) = mults {
                let at = (first, block * BLOCK - cols.start);
                rows::rescale(kernels.isa, sums, (mults, biases), &how, &mut part, at);
            }
        });
    })
}

/// The units: blocks of weight rows.
#[cfg(feature = "steps")]
pub(crate) fn units(r: &Run<'_>, op: &Op) -> Option<Units> {
    let (input, weight) = &(slot_arg(r.image, op, 0, Kind::Q8), r.image.coded(arg(op, 1)?));
    let (input, weight) = (input.as_ref()?, weight.as_ref()?);
    Some(Units::new(weight.rows.div_ceil(BLOCK), &[BLOCK, weight.cols, r.rows_of(input)]))
}

/// The biases of block `block`, as they lie in the image; those of the last rows, or zeros where there are none, in `rest`, which begins as
/// zeros.
fn block_of<'b>(bias: &'b [[u8; 4]], block: usize, rest: &'b mut [[u8; 4]; BLOCK]) -> &'b [[u8; 4]; BLOCK] {
    let given = bias.get(block * BLOCK..).unwrap_or_default();
    if let Some(whole) = given.first_chunk() {
        return whole;
    }
    rest.iter_mut().zip(given).for_each(|(to, b)| *to = *b);
    rest
}
