//! Coded weights: [`crate::kernels::scalar::coded`], a block of 16 rows at a time with one row of activations.
//!
//! ```text
//! two codes of 4 bits       a + b * 2^16                             in the halves of a word: a mask does it
//! their activations         y + x * 2^16                             crosswise
//! product modulo 2^32       (a x + b y) * 2^16 + a y                 one MUL for two products
//! ```
//!
//! With levels of -8 to 7 the upper half holds what 32 columns sum up to, -32512 to 32768, if it is one less: a group needs no more
//! than a mask, a product and a sum for two columns. Codes are levels and 8, so sums begin with 8 times the activations less; and with
//! as much in the lower half as what gathers there may be below 0. Levels of any codebook come from a table by both codes of a byte,
//! T4's (`image::tensors`) from one by these and two bits behind them, and each product is moved down by itself.

use core::mem::MaybeUninit;
use core::ops::Range;

use super::{Block, core_loops};
use crate::image::tensors::{BLOCK, GROUP, T4_LEVELS};
use crate::image::{Coded, Dtype};
use crate::kernels::{Codes, Kernels, Put, recoded, scalar};

/// The kernels.
pub static KERNELS: Kernels = Kernels {
    name: "any-i8-lanes",
    // As in the scalar table.
    t3: if cfg!(feature = "t3") { |w, blocks, x, put| recoded::t3(n4, w, blocks, x, put) } else { scalar::KERNELS.t3 },
    n4: if cfg!(feature = "n4") { n4 } else { scalar::KERNELS.n4 },
    t4: if cfg!(feature = "t4") { t4 } else { scalar::KERNELS.t4 },
    n5: if cfg!(feature = "n5") { |w, blocks, x, put| recoded::n5(n8, w, blocks, x, put) } else { scalar::KERNELS.n5 },
    n8: if cfg!(feature = "n8") { n8 } else { scalar::KERNELS.n8 },
    ..scalar::KERNELS
};

/// Words of levels and, behind them, of activations. They lie on the stack.
const WORDS: usize = 1408;

/// Levels of codes that are a constant less.
const UNIFORM: [i8; 16] = [-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7];

/// How blocks are done.
struct How {
    /// Bytes of a group's codes.
    group_bytes: usize,
    /// Words of a group's activations.
    words: usize,
    spread: fn(&[i8; GROUP], &mut [MaybeUninit<u32>]),
    block: unsafe fn(&mut Block),
    /// Words of levels of a byte's two codes: by the byte, 256; by the two bits behind it, too, 1024.
    pairs: usize,
}

fn n4(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    // SAFETY: `each_block` describes it.
    let how = if w.codebook == UNIFORM {
        let block = |job: &mut Block| unsafe { core_loops::uniform(job) };
        How { group_bytes: 256, words: 17, spread: spread_uniform, block, pairs: 0 }
    } else {
        let block = |job: &mut Block| unsafe { core_loops::codebook(job) };
        How { group_bytes: 256, words: 16, spread: spread_pairs, block, pairs: 256 }
    };
    each_block(w, blocks, x, put, &how);
}

fn t4(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    // SAFETY: `each_block` describes it.
    let block = |job: &mut Block| unsafe { core_loops::windows(job) };
    each_block(w, blocks, x, put, &How { group_bytes: 256, words: 16, spread: spread_pairs, block, pairs: 1024 });
}

/// The levels of a byte's two codes: 256 words, or for T4 1024.
#[inline(never)] // its numbers are not on the stack when the loops are
fn pairs(levels: &[i8], table: &mut [MaybeUninit<u32>]) {
    let mut words = [0; 64];
    let (plain, negated) = words.split_at_mut(32);
    for ((plain, negated), level) in plain.iter_mut().zip(negated).zip(levels) {
        (*plain, *negated) = (lanes(0, *level), lanes(0, -i32::from(*level)));
    }
    // T4's low code shares the lowest two bits of the high one's window: of the place of its word.
    let shared = if table.len() > 256 { 3 * size_of::<u32>() } else { 0 };
    let table = table.as_mut_ptr_range();
    // SAFETY: there are 16 words for each level of the high code, 16 or 64.
    unsafe { core_loops::pairs(words.as_ptr(), table.start.cast(), table.end.cast(), shared) };
}

fn n8(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    // SAFETY: `each_block` describes it.
    let block = |job: &mut Block| unsafe { core_loops::bytes(job) };
    each_block(w, blocks, x, put, &How { group_bytes: 512, words: GROUP, spread: spread_each, block, pairs: 0 });
}

/// `high * 2^16 + low`.
fn lanes(high: impl Into<i32>, low: impl Into<i32>) -> u32 {
    ((high.into() << 16) + low.into()) as u32
}

/// What sums begin with, then of each line the columns that a mask takes at once, in the order of the shifts.
fn spread_uniform(x: &[i8; GROUP], words: &mut [MaybeUninit<u32>]) {
    let Some((start, words)) = words.split_first_mut() else { return };
    let sum = x.iter().map(|x| i32::from(*x)).sum::<i32>();
    // 16 products of 15 and -128 at least in the lower half.
    *start = MaybeUninit::new((((-8 * sum - 1) << 16) + 16 * 15 * 128) as u32);
    for (words, x) in words.as_chunks_mut::<4>().0.iter_mut().zip(x.as_chunks::<8>().0) {
        *words = [lanes(x[0], x[2]), lanes(x[4], x[6]), lanes(x[1], x[3]), lanes(x[5], x[7])].map(MaybeUninit::new);
    }
}

/// Of each line the columns of a byte's codes.
fn spread_pairs(x: &[i8; GROUP], words: &mut [MaybeUninit<u32>]) {
    for (words, x) in words.as_chunks_mut::<4>().0.iter_mut().zip(x.as_chunks::<8>().0) {
        *words = [lanes(x[0], x[4]), lanes(x[1], x[5]), lanes(x[2], x[6]), lanes(x[3], x[7])].map(MaybeUninit::new);
    }
}

fn spread_each(x: &[i8; GROUP], words: &mut [MaybeUninit<u32>]) {
    for (word, x) in words.iter_mut().zip(x) {
        *word = MaybeUninit::new(i32::from(*x) as u32);
    }
}

#[inline(never)] // its buffer once, not for each caller
fn each_block(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>, how: &How) {
    let words = w.codes.as_ptr().addr().is_multiple_of(4);
    if !words || !x.fit(w) || w.group_bytes() != how.group_bytes {
        return scalar::KERNELS.blocks(w)(w, blocks, x, put);
    }
    let group_words = how.words.max(1);
    let mut words = [MaybeUninit::uninit(); WORDS];
    let Some((table, words)) = words.split_at_mut_checked(how.pairs) else { return };
    if !table.is_empty() {
        pairs(if w.dtype == Dtype::T4 { &T4_LEVELS } else { &w.codebook }, table);
    }
    let most = words.len() / group_words;
    let (mut sums, mut part) = ([[0i64; BLOCK]], [0i32; BLOCK]);
    for row in 0..x.rows() {
        let x = x.row(row).as_chunks::<GROUP>().0;
        let mut spread = 0..0;
        for block in blocks.clone() {
            let mut first = 0;
            while first < w.groups {
                if !spread.contains(&first) {
                    spread = first..w.groups.min(first + most);
                    let x = x.get(spread.clone()).unwrap_or_default();
                    for (words, x) in words.chunks_exact_mut(group_words).zip(x) {
                        (how.spread)(x, words);
                    }
                }
                // Sums of a stretch fit.
                let end = spread.end.min(first.saturating_add(w.stretch.max(1) as usize)).min(w.strip_end(first));
                let x = words.get((first - spread.start) * how.words..(end - spread.start) * how.words);
                if let (Some(x), Some((codes, scales))) = (x, w.part(block, first..end)) {
                    let (x, x_end) = (x.as_ptr().cast(), x.as_ptr_range().end.cast());
                    let (codes, scales, sums) = (codes.as_ptr(), scales.as_ptr(), part.as_mut_ptr());
                    let (table, mask) = (table.as_ptr().cast(), 4 * how.pairs.wrapping_sub(1));
                    let mut job = Block { x, x_end, codes, scales, sums, table, left: 0, mask };
                    // SAFETY: activations, codes and scales of these groups are there, at least one.
                    unsafe { (how.block)(&mut job) };
                }
                for (sum, part) in sums.as_flattened_mut().iter_mut().zip(&part) {
                    *sum = if first == 0 { i64::from(*part) } else { *sum + i64::from(*part) };
                }
                first = end;
            }
            put(block, row, &sums);
        }
    }
}
