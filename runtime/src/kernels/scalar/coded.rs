//! A block of 16 rows times one row of activations.
//!
//! ```text
//! acc = 0 (int64)
//! for each stretch of groups:                 int32 inside, so that MCUs never touch 64 bits per group
//!   part = 0
//!   for each group of 32 columns:
//!     for each line (16 rows side by side):   each activation is read once for 16 rows
//!       dot[row] += level * x
//!     part[row] += scale[row, group] * dot[row]
//!   acc += part
//! ```
//!
//! No index can fail: everything is a chunk of constant size, zipped.

use core::ops::Range;

use super::super::{Codes, Put};
use crate::image::Coded;
use crate::image::tensors::{BLOCK, GROUP, along_trellis, with_signs};

/// See [`super::super::BlocksFn`]; 4-bit codes through the codebook.
pub fn n4(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    each_block(w, blocks, x, put, n4_block);
}

/// See [`super::super::BlocksFn`]; 4-bit codes along a trellis.
pub fn t4(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    each_block(w, blocks, x, put, t4_block);
}

/// See [`super::super::BlocksFn`]; 5-bit codes: magnitudes from the codebook, signs beside them.
pub fn n5(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    each_block(w, blocks, x, put, n5_block);
}

/// See [`super::super::BlocksFn`]; 8-bit codes.
pub fn n8(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    each_block(w, blocks, x, put, n8_block);
}

type BlockFn = fn(w: &Coded<'_>, block: usize, x: &[i8], acc: &mut [i64; BLOCK]);

#[inline(always)]
fn each_block(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>, block_fn: BlockFn) {
    let mut acc = [0i64; BLOCK];
    for block in blocks {
        for row in 0..x.rows() {
            block_fn(w, block, x.row(row), &mut acc);
            put(block, row, &[acc]);
        }
    }
}

fn n4_block(w: &Coded<'_>, block: usize, x: &[i8], acc: &mut [i64; BLOCK]) {
    let book = w.codebook;
    block_sums::<256>(w, block, x, acc, |group, xs, dots| {
        for (line, x) in group.as_chunks::<64>().0.iter().zip(xs.as_chunks::<8>().0) {
            let [x0, x1, x2, x3, y0, y1, y2, y3] = x.map(i32::from);
            for (word, dot) in line.as_chunks::<4>().0.iter().zip(dots.iter_mut()) {
                let low = |i: usize| i32::from(book[usize::from(word[i] & 15)]);
                let high = |i: usize| i32::from(book[usize::from(word[i] >> 4)]);
                *dot += low(0) * x0 + low(1) * x1 + low(2) * x2 + low(3) * x3;
                *dot += high(0) * y0 + high(1) * y1 + high(2) * y2 + high(3) * y3;
            }
        }
    });
}

fn n5_block(w: &Coded<'_>, block: usize, x: &[i8], acc: &mut [i64; BLOCK]) {
    let levels = w.levels();
    let mut all_signs = w.block_signs(block).iter();
    block_sums::<256>(w, block, x, acc, |group, xs, dots| {
        let lines = group.as_chunks::<64>().0.iter().zip(xs.as_chunks::<8>().0);
        for ((line, x), signs) in lines.zip(all_signs.by_ref()) {
            for (row, (word, dot)) in line.as_chunks::<4>().0.iter().zip(dots.iter_mut()).enumerate() {
                *dot += dot_of_8(&levels, with_signs(*word, signs, row), x);
            }
        }
    });
}

fn t4_block(w: &Coded<'_>, block: usize, x: &[i8], acc: &mut [i64; BLOCK]) {
    let levels = w.levels();
    block_sums::<256>(w, block, x, acc, |group, xs, dots| {
        for (line, x) in group.as_chunks::<64>().0.iter().zip(xs.as_chunks::<8>().0) {
            let words = line.as_chunks::<4>().0;
            let (mut before, mut before_that) = (words[BLOCK - 1], words[BLOCK - 2]);
            for (word, dot) in words.iter().zip(dots.iter_mut()) {
                *dot += dot_of_8(&levels, along_trellis(*word, before, before_that), x);
                (before, before_that) = (*word, before);
            }
        }
    });
}

/// Levels of 5-bit codes, low nibbles' and then high ones', times eight activations.
#[inline(always)]
fn dot_of_8(levels: &[i8; 32], [low_codes, high_codes]: [u32; 2], x: &[i8; 8]) -> i32 {
    let [x0, x1, x2, x3, y0, y1, y2, y3] = x.map(i32::from);
    let low = |i: u32| i32::from(levels[(low_codes >> (8 * i) & 31) as usize]);
    let high = |i: u32| i32::from(levels[(high_codes >> (8 * i) & 31) as usize]);
    let sum = low(0) * x0 + low(1) * x1 + low(2) * x2 + low(3) * x3;
    sum + high(0) * y0 + high(1) * y1 + high(2) * y2 + high(3) * y3
}

fn n8_block(w: &Coded<'_>, block: usize, x: &[i8], acc: &mut [i64; BLOCK]) {
    block_sums::<512>(w, block, x, acc, |group, xs, dots| {
        for (line, x) in group.as_chunks::<64>().0.iter().zip(xs.as_chunks::<4>().0) {
            let [x0, x1, x2, x3] = x.map(i32::from);
            for (word, dot) in line.as_chunks::<4>().0.iter().zip(dots.iter_mut()) {
                let [w0, w1, w2, w3] = word.map(|w| i32::from(w as i8));
                *dot += w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3;
            }
        }
    });
}

#[inline(always)]
fn block_sums<const GROUP_BYTES: usize>(
    w: &Coded<'_>,
    block: usize,
    x: &[i8],
    acc: &mut [i64; BLOCK],
    mut dot_group: impl FnMut(&[u8; GROUP_BYTES], &[i8; GROUP], &mut [i32; BLOCK]),
) {
    let (codes, scales) = w.block(block);
    let groups = codes.as_chunks::<GROUP_BYTES>().0;
    let scales = scales.as_chunks::<BLOCK>().0;
    *acc = [0; BLOCK];
    let mut part = [0i32; BLOCK];
    let mut left = w.stretch;
    for ((group, scales), xs) in groups.iter().zip(scales).zip(x.as_chunks::<GROUP>().0) {
        if left == 0 {
            flush(&mut part, acc);
            left = w.stretch;
        }
        left = left.wrapping_sub(1);
        let mut dots = [0i32; BLOCK];
        dot_group(group, xs, &mut dots);
        for ((part, scale), dot) in part.iter_mut().zip(scales).zip(dots) {
            *part += i32::from(*scale) * dot;
        }
    }
    flush(&mut part, acc);
}

fn flush(part: &mut [i32; BLOCK], acc: &mut [i64; BLOCK]) {
    for (acc, part) in acc.iter_mut().zip(part) {
        *acc += i64::from(*part);
        *part = 0;
    }
}
