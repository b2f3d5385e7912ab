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
use crate::image::tensors::{BLOCK, GROUP, SIGNS, lowest_bits, nibbles, upper_bits, windows, with_set, with_signs};

/// See [`super::super::BlocksFn`]; 3-bit codes along a trellis.
pub fn t3(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    each_block(w, blocks, x, put, t3_block);
}

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

fn t3_block(w: &Coded<'_>, block: usize, x: &[i8], acc: &mut [i64; BLOCK]) {
    let levels = w.levels();
    block_sums::<192>(w, block, x, acc, |group, xs, dots| {
        let mut elsewhere = [[0; BLOCK]; 3];
        let [first, second, bits] = lines(group, &mut elsewhere);
        for (quarter, x) in xs.as_chunks::<4>().0.iter().enumerate() {
            let x = x.map(i32::from);
            let (part, half) = (quarter / 2, quarter as u32 & 1);
            let words = if part < 2 { first } else { second };
            let mut before = lowest_bits(bits[BLOCK - 1].to_le(), part, half);
            let mut before_that = lowest_bits(bits[BLOCK - 2].to_le(), part, half);
            for ((word, bits), dot) in words.iter().zip(bits).zip(dots.iter_mut()) {
                let this = lowest_bits(bits.to_le(), part, half);
                let upper = upper_bits(word.to_le(), part, half);
                *dot += dot_of_4(&levels, with_set(upper, [this, before, before_that]), x);
                (before, before_that) = (this, before);
            }
        }
    });
}

fn n4_block(w: &Coded<'_>, block: usize, x: &[i8], acc: &mut [i64; BLOCK]) {
    let levels = w.levels();
    block_sums::<256>(w, block, x, acc, |group, xs, dots| {
        for_half_lines(group, xs, |_, half, words, x| {
            for (word, dot) in words.iter().zip(dots.iter_mut()) {
                *dot += dot_of_4(&levels, nibbles(word.to_le(), half), x);
            }
        });
    });
}

fn t4_block(w: &Coded<'_>, block: usize, x: &[i8], acc: &mut [i64; BLOCK]) {
    let levels = w.levels();
    block_sums::<256>(w, block, x, acc, |group, xs, dots| {
        for_half_lines(group, xs, |_, half, words, x| {
            for (word, dot) in words.iter().zip(dots.iter_mut()) {
                *dot += dot_of_4(&levels, windows(word.to_le(), half), x);
            }
        });
    });
}

fn n5_block(w: &Coded<'_>, block: usize, x: &[i8], acc: &mut [i64; BLOCK]) {
    let levels = w.levels();
    let mut groups = 0..w.groups;
    block_sums::<256>(w, block, x, acc, |group, xs, dots| {
        let signs = groups.next().map_or(&[][..], |group| w.part_signs(block, group..group + 1));
        let signs = signs.first_chunk().unwrap_or(&[[0; SIGNS]; 4]);
        for_half_lines(group, xs, |line, half, words, x| {
            for (row, (word, dot)) in words.iter().zip(dots.iter_mut()).enumerate() {
                *dot += dot_of_4(&levels, with_signs(word.to_le(), &signs[line & 3], row, half), x);
            }
        });
    });
}

/// Calls `each` with every half line of a group: the line, which half (0: low nibbles, 1: high ones), the words of the rows, and the
/// four activations: a whole line's do not fit a small core's registers.
#[inline(always)]
fn for_half_lines(group: &[u8; 256], xs: &[i8; GROUP], mut each: impl FnMut(usize, u32, &[u32; BLOCK], [i32; 4])) {
    let mut elsewhere = [[0; BLOCK]; 4];
    for (line, (words, x)) in lines(group, &mut elsewhere).iter().zip(xs.as_chunks::<8>().0).enumerate() {
        let [x0, x1, x2, x3, y0, y1, y2, y3] = x.map(i32::from);
        each(line, 0, words, [x0, x1, x2, x3]);
        each(line, 1, words, [y0, y1, y2, y3]);
    }
}

/// A group's lines as words, read whole where they lie as an image's do, else copied.
#[inline(always)]
fn lines<'a, const LINES: usize>(
    bytes: &'a [u8],
    elsewhere: &'a mut [[u32; BLOCK]; LINES],
) -> &'a [[u32; BLOCK]; LINES] {
    if let Some(lines) = bytemuck::try_cast_slice(bytes).ok().and_then(<[[u32; BLOCK]]>::first_chunk) {
        return lines;
    }
    for (to, from) in elsewhere.as_flattened_mut().iter_mut().zip(bytes.as_chunks::<4>().0) {
        *to = u32::from_ne_bytes(*from);
    }
    elsewhere
}

/// The levels of four codes, a byte each, times four activations.
#[inline(always)]
fn dot_of_4(levels: &[i8; 64], codes: u32, [x0, x1, x2, x3]: [i32; 4]) -> i32 {
    let level = |i: u32| i32::from(levels[(codes >> (8 * i) & 63) as usize]);
    level(0) * x0 + level(1) * x1 + level(2) * x2 + level(3) * x3
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
    *acc = [0; BLOCK];
    let mut part = [0i32; BLOCK];
    let mut left = w.stretch;
    let mut x = x.as_chunks::<GROUP>().0.iter();
    for strip in w.strips() {
        let (codes, scales) = w.part(block, strip).unwrap_or_default();
        let groups = codes.as_chunks::<GROUP_BYTES>().0.iter().zip(scales.as_chunks::<BLOCK>().0);
        for ((group, scales), xs) in groups.zip(x.by_ref()) {
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
    }
    flush(&mut part, acc);
}

fn flush(part: &mut [i32; BLOCK], acc: &mut [i64; BLOCK]) {
    for (acc, part) in acc.iter_mut().zip(part) {
        *acc += i64::from(*part);
        *part = 0;
    }
}
