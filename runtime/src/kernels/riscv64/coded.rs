//! Coded weights: [`crate::kernels::scalar::coded`], a block of 16 rows at a time with one row of codes, several blocks side by side
//! with several rows.

use core::mem::MaybeUninit;
use core::ops::Range;

use super::int8::{add, conv2d, depthwise_conv2d};
use super::lines::{PanelFn, RowFn};
use super::lines::{n4_panel, n4_row, n5_panel, n5_row, n8_panel, n8_row, t3_panel, t3_row, t4_panel, t4_row};
use super::tile::{MOST_LANES, PANEL, lanes, panel_sums};
use crate::image::Coded;
use crate::image::tensors::{BLOCK, GROUP, T4_LEVELS};
use crate::kernels::vector::matmul::{N4, N5, N8, T3, T4, filled, misfit, part, row_groups};
use crate::kernels::{Codes, Int8, Isa, Kernels, Put, scalar};

/// The kernels.
pub static KERNELS: Kernels = Kernels {
    name: "riscv64-i8-rvv",
    t3: |w, blocks, x, put| all_sums::<T3, 192>(w, blocks, x, (t3_row, t3_panel), put),
    n4: |w, blocks, x, put| all_sums::<N4, 256>(w, blocks, x, (n4_row, n4_panel), put),
    t4: |w, blocks, x, put| all_sums::<T4, 256>(w, blocks, x, (t4_row, t4_panel), put),
    n5: |w, blocks, x, put| all_sums::<N5, 256>(w, blocks, x, (n5_row, n5_panel), put),
    n8: |w, blocks, x, put| all_sums::<N8, 512>(w, blocks, x, (n8_row, n8_panel), put),
    isa: Isa::Rvv,
    int8: Int8 { conv2d, depthwise_conv2d, add },
};

/// Rows of codes that a panel's sums have room for. They lie on the stack.
const MOST_ROWS: usize = 132;

fn all_sums<const KIND: u8, const BYTES: usize>(
    w: &Coded<'_>,
    blocks: Range<usize>,
    x: &Codes<'_>,
    (row_sums, levels): (RowFn, PanelFn),
    put: &mut Put<'_>,
) {
    // Products of two levels of -128 might not fit 16 bits. No image has such levels. Codes are read by words.
    let book: &[i8] = if KIND == T4 { &T4_LEVELS } else { &w.codebook };
    let level = KIND != N8 && book.contains(&i8::MIN);
    if misfit(w, x) || level || !w.codes.as_ptr().addr().is_multiple_of(4) {
        return scalar::KERNELS.blocks(w)(w, blocks, x, put);
    }
    if x.rows() > 1 {
        many_rows::<KIND, BYTES>(w, blocks, x, (levels, book), put);
    } else {
        one_row::<KIND, BYTES>(w, blocks, x, (row_sums, book), put);
    }
}

fn one_row<const KIND: u8, const BYTES: usize>(
    w: &Coded<'_>,
    blocks: Range<usize>,
    x: &Codes<'_>,
    (row_sums, book): (RowFn, &[i8]),
    put: &mut Put<'_>,
) {
    let (codes, stretch, book) = (row_groups(x, 0), w.stretch as usize, book.as_ptr());
    for block in blocks {
        let mut sums = [0; BLOCK];
        let mut start = 0;
        while start < w.groups {
            let end = w.strip_end(start).min(start + stretch);
            let Some((weights, x)) = part::<KIND, BYTES>(w, block, start..end).zip(codes.get(start..end)) else {
                return;
            };
            let (codes, scales, signs) = (weights.codes.as_ptr(), weights.scales.as_ptr(), weights.signs.as_ptr());
            // SAFETY: all have `end - start` groups, at least one. Tables are given out only where there are vectors.
            unsafe {
                row_sums(codes.cast(), scales.cast(), x.as_ptr().cast(), x.len(), book, sums.as_mut_ptr(), signs);
            }
            start = end;
        }
        put(block, 0, &[sums]);
    }
}

/// All rows of `x`, as many at a time as there is room for.
#[inline(never)]
fn many_rows<const KIND: u8, const BYTES: usize>(
    w: &Coded<'_>,
    blocks: Range<usize>,
    x: &Codes<'_>,
    (levels, book): (PanelFn, &[i8]),
    put: &mut Put<'_>,
) {
    let (side, stretch) = (lanes() / BLOCK, w.stretch as usize);
    let most = (PANEL / GROUP / lanes()).min(stretch);
    let mut panel = [MaybeUninit::<i16>::uninit(); PANEL];
    let mut parts = [MaybeUninit::uninit(); MOST_ROWS * MOST_LANES];
    let mut sums = [MaybeUninit::uninit(); MOST_ROWS * MOST_LANES / BLOCK];
    for first in (0..x.rows).step_by(MOST_ROWS) {
        let rows = MOST_ROWS.min(x.rows - first);
        for block in blocks.clone().step_by(side) {
            let some = side.min(blocks.end - block);
            let lanes = some * BLOCK;
            let parts = filled(&mut parts[..rows * lanes], 0i32);
            let sums = filled(&mut sums[..rows * some], [0i64; BLOCK]);
            // Groups that int32 still holds the sums of.
            let mut left = stretch;
            let mut start = 0;
            while start < w.groups {
                let groups = most.min(w.strip_end(start) - start);
                if left < groups {
                    flush(parts, some, sums);
                    left = stretch;
                }
                left -= groups;
                for at in 0..some {
                    let Some(weights) = part::<KIND, BYTES>(w, block + at, start..start + groups) else { return };
                    let (codes, scales, signs) =
                        (weights.codes.as_ptr(), weights.scales.as_ptr(), weights.signs.as_ptr());
                    let to = panel[at * BLOCK..].as_mut_ptr().cast();
                    // SAFETY: all have so many groups; the panel has room for `most` groups of all lanes.
                    unsafe { levels(codes.cast(), scales.cast(), to, groups, book.as_ptr(), 2 * lanes, signs) };
                }
                let codes = x.row(first)[start * GROUP..].as_ptr();
                // SAFETY: all columns of all lanes have been written; rows have all groups (`misfit`), sums are as many.
                unsafe {
                    let panel = panel.as_ptr().cast();
                    panel_sums(panel, groups * GROUP, (codes, x.stride), rows, lanes, parts.as_mut_ptr());
                }
                start += groups;
            }
            flush(parts, some, sums);
            for (at, sums) in sums.chunks_exact(rows).enumerate() {
                put(block + at, first, sums);
            }
        }
    }
}

/// Adds the parts, [row][block][row of the block], to the sums, [block][row], and clears them.
fn flush(parts: &mut [i32], blocks: usize, sums: &mut [[i64; BLOCK]]) {
    let rows = sums.len() / blocks;
    for (row, parts) in parts.as_chunks_mut::<BLOCK>().0.chunks_exact_mut(blocks).enumerate() {
        for (parts, sums) in parts.iter_mut().zip(sums.iter_mut().skip(row).step_by(rows)) {
            for (part, sum) in parts.iter_mut().zip(sums) {
                *sum += i64::from(core::mem::take(part));
            }
        }
    }
}
