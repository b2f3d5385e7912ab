//! Coded weights: [`crate::kernels::scalar::coded`], a block of 16 rows at a time with one row of activations or two.
//!
//! Activations are spread once for all blocks, if they fit [`WORDS`]: else those of a stretch of groups, for each block again.

use core::ops::Range;

use super::lines::{BlockFn, SpreadFn, n4_one, n4_two, n8_one, spread_by_four, spread_by_two, t4_one, uniform_one};
use crate::image::Coded;
use crate::image::tensors::{BLOCK, GROUP};
use crate::kernels::{Codes, Kernels, Put, scalar};

/// The kernels.
pub static KERNELS: Kernels = Kernels {
    name: "arm-int8-dsp",
    // As in the scalar table.
    n4: if cfg!(feature = "n4") { n4 } else { scalar::KERNELS.n4 },
    t4: if cfg!(feature = "t4") { t4 } else { scalar::KERNELS.t4 },
    n8: if cfg!(feature = "n8") { n8 } else { scalar::KERNELS.n8 },
    ..scalar::KERNELS
};

/// Words of spread activations.
const WORDS: usize = 576;
/// Words of a group's: of one row, with what sums begin with.
const ONE: usize = GROUP / 2 + 1;
/// Of two rows.
const TWO: usize = GROUP;

/// Levels of codes that are a constant less.
const UNIFORM: [i8; 16] = [-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7];

/// The levels of a byte's two codes, in the halves of a word.
fn pairs(levels: &[i8; 16]) -> [u32; 256] {
    let mut table = [0; 256];
    for (sixteen, high) in table.as_chunks_mut::<16>().0.iter_mut().zip(levels) {
        for (pair, low) in sixteen.iter_mut().zip(levels) {
            *pair = (i32::from(*high) << 16) as u32 | u32::from(i32::from(*low) as u16);
        }
    }
    table
}

/// How a block is done with some rows of activations.
struct How<'t> {
    /// Rows of activations, 1 or 2.
    rows: usize,
    /// Bytes of a group's codes.
    group_bytes: usize,
    block: BlockFn,
    /// Puts activations where and as `block` wants them.
    spread: SpreadFn,
    /// What the sum of a group's activations is multiplied by for what sums begin with.
    start: i32,
    table: &'t [u32],
}

fn n4(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    if !fits(w, x) {
        return scalar::n4(w, blocks, x, put);
    }
    let one = How { rows: 1, group_bytes: 256, block: n4_one, spread: spread_by_four, start: 0, table: &[] };
    let uniform = w.codebook == UNIFORM;
    let table;
    let (one, pairs) = if uniform && x.rows() == 1 {
        (How { block: uniform_one, spread: spread_by_two, start: -8, ..one }, 0)
    } else {
        table = pairs(&w.codebook);
        (How { table: &table, ..one }, x.rows() & !1)
    };
    let two = How { rows: 2, block: n4_two, ..one };
    for row in (0..pairs).step_by(2) {
        each_block(w, blocks.clone(), x, row, &two, put);
    }
    for row in pairs..x.rows() {
        each_block(w, blocks.clone(), x, row, &one, put);
    }
}

fn n8(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    if !fits(w, x) {
        return scalar::n8(w, blocks, x, put);
    }
    let how = How { rows: 1, group_bytes: 512, block: n8_one, spread: spread_by_two, start: 0, table: &[] };
    for row in 0..x.rows() {
        each_block(w, blocks.clone(), x, row, &how, put);
    }
}

fn t4(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    // -128 is its own negative there.
    if !fits(w, x) || w.codebook.contains(&i8::MIN) {
        return scalar::t4(w, blocks, x, put);
    }
    let table = pairs(&w.codebook);
    for block in blocks {
        let (codes, scales) = w.block(block);
        for row in 0..x.rows() {
            let mut sums = [0; BLOCK];
            if codes.len() >= w.groups * 256 && scales.len() >= w.groups * BLOCK && w.groups > 0 {
                let x = x.row(row).as_ptr().cast();
                // SAFETY: the codes, scales and activations of all groups are there.
                unsafe {
                    t4_one(codes.as_ptr(), scales.as_ptr(), x, w.groups, table.as_ptr(), sums.as_mut_ptr());
                }
            }
            put(block, row, &[sums]);
        }
    }
}

/// Whether codes are whole words, and rows of activations have all columns: else the scalar kernels do what they do then.
fn fits(w: &Coded<'_>, x: &Codes<'_>) -> bool {
    w.codes.as_ptr().addr().is_multiple_of(4) && x.fit(w)
}

/// Sums of blocks with the rows of activations from `row` on.
#[inline(never)] // its buffer once, not for each caller
fn each_block(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, row: usize, how: &How<'_>, put: &mut Put<'_>) {
    let most = WORDS / if how.rows == 1 { ONE } else { TWO };
    let mut words = [0; WORDS];
    if w.groups <= most {
        spread(&mut words, x, row, 0..w.groups, how);
    }
    for block in blocks {
        let (codes, scales) = w.block(block);
        let mut sums = [[0i64; BLOCK]; 2];
        let mut first = 0;
        while first < w.groups {
            let end = w.groups.min(first + most);
            if w.groups > most {
                spread(&mut words, x, row, first..end, how);
            }
            let codes = codes.get(first * how.group_bytes..end * how.group_bytes);
            let scales = scales.get(first * BLOCK..end * BLOCK);
            if let (Some(codes), Some(scales)) = (codes, scales) {
                let (words, table, sums) = (words.as_ptr(), how.table.as_ptr(), sums.as_mut_ptr().cast());
                // SAFETY: the codes and scales of these groups are there, their activations have just been spread.
                unsafe { (how.block)(codes.as_ptr(), scales.as_ptr(), words, end - first, table, sums) };
            }
            first = end;
        }
        put(block, row, if how.rows == 1 { &sums[..1] } else { &sums });
    }
}

/// Spreads groups of the rows from `row` on.
fn spread(words: &mut [u32; WORDS], x: &Codes<'_>, row: usize, groups: Range<usize>, how: &How<'_>) {
    let (start, line, group) = if how.rows == 1 { (1, 4, ONE) } else { (0, 8, TWO) };
    for more in 0..how.rows {
        let x = x.row(row + more).get(groups.start * GROUP..groups.end * GROUP).unwrap_or_default();
        if x.is_empty() || groups.len() * group > WORDS {
            return;
        }
        if how.rows == 1 {
            for (words, x) in words.chunks_exact_mut(ONE).zip(x.as_chunks::<GROUP>().0) {
                let sum = if how.start == 0 { 0 } else { x.iter().map(|x| i32::from(*x)).sum::<i32>() };
                words[0] = (how.start * sum) as u32;
            }
        }
        let Some(to) = words.get_mut(start + 4 * more..) else { return };
        // SAFETY: the groups lie in `x`, and there is room for their words.
        unsafe { (how.spread)(to.as_mut_ptr(), x.as_ptr(), groups.len(), 4 * line, 4 * group) };
    }
}
