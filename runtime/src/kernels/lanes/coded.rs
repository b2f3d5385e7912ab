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
//! and each product is moved down by itself. Of a trellis (T4) activations are there with either sign, and the lowest bits of the row
//! before say where: `image::tensors`.

use core::mem::MaybeUninit;
use core::ops::Range;

use super::{Block, core_loops};
use crate::image::Coded;
use crate::image::tensors::{BLOCK, GROUP};
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

/// Words of activations.
const WORDS: usize = 1152;

/// Levels of codes that are a constant less.
const UNIFORM: [i8; 16] = [-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7];

/// How blocks are done.
struct How<'t> {
    /// Bytes of a group's codes.
    group_bytes: usize,
    /// Words of a group's activations.
    words: usize,
    spread: fn(&[i8; GROUP], &mut [MaybeUninit<u32>]),
    block: unsafe fn(&mut Block),
    /// The levels of a byte's two codes.
    table: &'t [u32],
}

fn n4(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    if w.codebook == UNIFORM {
        // SAFETY: `each_block` describes it.
        let block = |job: &mut Block| unsafe { core_loops::uniform(job) };
        return each_block(
            w,
            blocks,
            x,
            put,
            &How { group_bytes: 256, words: 17, spread: spread_uniform, block, table: &[] },
        );
    }
    let table = &mut [0; 256];
    // SAFETY: `each_block` describes it.
    let block = |job: &mut Block| unsafe { core_loops::codebook(job) };
    each_block(
        w,
        blocks,
        x,
        put,
        &How { group_bytes: 256, words: 16, spread: spread_pairs, block, table: levels(w, table) },
    );
}

fn t4(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    // From so many rows on levels are worth making.
    if x.rows() >= 5 {
        return recoded::t4(n8, w, blocks, x, put);
    }
    let table = &mut [0; 256];
    // SAFETY: `each_block` describes it.
    let block = |job: &mut Block| unsafe { core_loops::trellis(job) };
    each_block(
        w,
        blocks,
        x,
        put,
        &How { group_bytes: 256, words: 64, spread: spread_signs, block, table: levels(w, table) },
    );
}

/// The levels of a byte's two codes.
fn levels<'t>(w: &Coded<'_>, table: &'t mut [u32; 256]) -> &'t [u32] {
    for (sixteen, high) in table.as_chunks_mut::<16>().0.iter_mut().zip(w.codebook) {
        for (pair, low) in sixteen.iter_mut().zip(w.codebook) {
            *pair = lanes(high, low);
        }
    }
    table
}

fn n8(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    // SAFETY: `each_block` describes it.
    let block = |job: &mut Block| unsafe { core_loops::bytes(job) };
    each_block(w, blocks, x, put, &How { group_bytes: 512, words: GROUP, spread: spread_each, block, table: &[] });
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

/// Of each line the columns of a byte's codes, negated as signs want it: the words of a pair lie 0, 4 (the low code's level is negated),
/// 64 and 68 (the high one's) bytes from its place, eight pairs one after the other in 128 bytes.
fn spread_signs(x: &[i8; GROUP], words: &mut [MaybeUninit<u32>]) {
    for (words, x) in words.as_chunks_mut::<32>().0.iter_mut().zip(x.as_chunks::<16>().0) {
        for pair in 0..8 {
            let at = pair / 4 * 8 + pair % 4;
            let (low, high) = (i32::from(x[at]), i32::from(x[at + 4]));
            words[2 * pair] = MaybeUninit::new(lanes(low, high));
            words[2 * pair + 1] = MaybeUninit::new(lanes(-low, high));
            words[2 * pair + 16] = MaybeUninit::new(lanes(low, -high));
            words[2 * pair + 17] = MaybeUninit::new(lanes(-low, -high));
        }
    }
}

fn spread_each(x: &[i8; GROUP], words: &mut [MaybeUninit<u32>]) {
    for (word, x) in words.iter_mut().zip(x) {
        *word = MaybeUninit::new(i32::from(*x) as u32);
    }
}

#[inline(never)] // its buffer once, not for each caller
fn each_block(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>, how: &How<'_>) {
    let words = w.codes.as_ptr().addr().is_multiple_of(4);
    if !words || !x.fit(w) {
        return scalar::KERNELS.blocks(w)(w, blocks, x, put);
    }
    let group_words = how.words.max(1);
    let most = WORDS / group_words;
    let mut words = [MaybeUninit::uninit(); WORDS];
    let (mut sums, mut part) = ([[0i64; BLOCK]], [0i32; BLOCK]);
    for row in 0..x.rows() {
        let x = x.row(row).as_chunks::<GROUP>().0;
        let mut spread = 0..0;
        for block in blocks.clone() {
            let (codes, scales) = w.block(block);
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
                let end = spread.end.min(first.saturating_add(w.stretch.max(1) as usize));
                let x = words.get((first - spread.start) * how.words..(end - spread.start) * how.words);
                let codes = codes.get(first * how.group_bytes..end * how.group_bytes);
                let scales = scales.get(first * BLOCK..end * BLOCK);
                if let (Some(x), Some(codes), Some(scales)) = (x, codes, scales) {
                    let (x, x_end) = (x.as_ptr().cast(), x.as_ptr_range().end.cast());
                    let (codes, scales, sums) = (codes.as_ptr(), scales.as_ptr(), part.as_mut_ptr());
                    let mut job = Block { x, x_end, codes, scales, sums, table: how.table.as_ptr(), left: 0 };
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
