//! Codes on microcontrollers that have no loops of their own: some groups of a block at a time become codes that have, once for up to
//! eight rows of activations.
//!
//! ```text
//! T3    nibbles that look up in the same codebook, as N4 has them: about an instruction a column
//! N5    levels, as N8 has them: about five
//! ```

use core::ops::Range;

use super::{BlocksFn, Codes, Put, scalar};
use crate::image::tensors::{BLOCK, GROUP, SIGNS, byte_each};
use crate::image::{Coded, Dtype};

/// Words of codes that are made at a time. They lie on the stack.
const WORDS: usize = 512;
/// Rows of activations that they are made for.
const ROWS: usize = 8;
/// A word of each row of a block.
type Words = [u32; BLOCK];
/// Signs of a group, if its codes have them.
type Signs = [[u8; SIGNS]; 4];
/// What makes the codes of a group from its codes and signs.
type RecodeFn<'a> = dyn Fn(&[Words], &Signs, &mut [Words]) + 'a;

/// See [`BlocksFn`]: T3, given the loops of N4.
pub fn t3(n4: BlocksFn, w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    in_parts(w, blocks, x, put, (3, Dtype::N4, 4), n4, &|codes, _, to| nibbles_of_t3(codes, to));
}

/// See [`BlocksFn`]: N5, given the loops of N8.
pub fn n5(n8: BlocksFn, w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    let pairs = pairs(w.codebook);
    let recode = |codes: &[Words], signs: &Signs, to: &mut [Words]| {
        for ((line, signs), [low, high]) in codes.iter().zip(signs).zip(to.as_chunks_mut::<2>().0) {
            for two in 0..BLOCK / 2 {
                let (of_low, of_high) = (u32::from(signs[two]), u32::from(signs[two + BLOCK / 2]));
                let mut row = |row: usize, of_low: u32, of_high: u32| {
                    let [a, b] = levels(&pairs, line[row]);
                    (low[row], high[row]) = (signed(a, byte_each(of_low)), signed(b, byte_each(of_high)));
                };
                row(2 * two, of_low & 15, of_high & 15);
                row(2 * two + 1, of_low >> 4, of_high >> 4);
            }
        }
    };
    in_parts(w, blocks, x, put, (4, Dtype::N8, 8), n8, &recode);
}

/// Of each byte of codes the two levels that they stand for, in the halves of a word.
fn pairs(codebook: [i8; 16]) -> [u32; 256] {
    let mut pairs = [0; 256];
    for (sixteen, high) in pairs.as_chunks_mut::<16>().0.iter_mut().zip(codebook) {
        for (pair, low) in sixteen.iter_mut().zip(codebook) {
            *pair = u32::from(low as u8) | u32::from(high as u8) << 16;
        }
    }
    pairs
}

/// The levels of the low nibbles of a word, and of the high ones. Without loops, which firmware's compilers, told to make small code,
/// would keep.
#[inline(always)]
fn levels(pairs: &[u32; 256], word: u32) -> [u32; 2] {
    let [a, b, c, d] = word.to_le_bytes();
    let of = |a: u8, b: u8| pairs[usize::from(a)] | pairs[usize::from(b)] << 8;
    let (first, last) = (of(a, b), of(c, d));
    [first & 0xFFFF | last << 16, first >> 16 | last & 0xFFFF_0000]
}

/// Four bytes of 0 to 127, negated where `ones` has a 1.
#[inline(always)]
fn signed(bytes: u32, ones: u32) -> u32 {
    // 127 less a byte and 1 are at most 128, whose highest bit is to be flipped.
    ((bytes ^ (ones * 127)) + ones) ^ (ones << 7)
}

/// T3's codes of a group as four lines of nibbles, which look up what they stand for (`image::tensors::with_set`).
fn nibbles_of_t3(codes: &[Words], to: &mut [Words]) {
    let ([first, second, lowest], [a, b, c, d]) = (codes, to) else { return };
    let [.., mut before_that, mut before] = *lowest;
    for row in 0..BLOCK {
        // Pairs of bits that pick a set of levels, of even and of odd eights of columns.
        let differs = lowest[row] ^ before_that;
        let even = differs & 0x5555_5555 | before << 1 & 0xAAAA_AAAA;
        let odd = differs >> 1 & 0x5555_5555 | before & 0xAAAA_AAAA;
        let joined = |of_set: u32, set: u32| of_set & 0x3333_3333 | set & 0xCCCC_CCCC;
        a[row] = joined(first[row], even << 2);
        b[row] = joined(first[row] >> 2, odd << 2);
        c[row] = joined(second[row], even);
        d[row] = joined(second[row] >> 2, odd);
        (before_that, before) = (before, lowest[row]);
    }
}

/// All blocks with all rows, of so many lines a group, in codes of another type, of so many.
fn in_parts(
    w: &Coded<'_>,
    blocks: Range<usize>,
    x: &Codes<'_>,
    put: &mut Put<'_>,
    (from, dtype, lines): (usize, Dtype, usize),
    kernel: BlocksFn,
    recode: &RecodeFn<'_>,
) {
    let Some(most) = (WORDS / BLOCK).checked_div(lines).filter(|_| x.fit(w) && from > 0) else {
        return scalar::KERNELS.blocks(w)(w, blocks, x, put);
    };
    let mut made = [[0; BLOCK]; WORDS / BLOCK];
    // Codes are read by words.
    if bytemuck::try_cast_slice::<u8, Words>(w.codes).is_err() {
        return scalar::KERNELS.blocks(w)(w, blocks, x, put);
    }
    for block in blocks {
        for first_row in (0..x.rows).step_by(ROWS) {
            let rows = ROWS.min(x.rows - first_row);
            let mut sums = [[0i64; BLOCK]; ROWS];
            let mut first = 0;
            while first < w.groups {
                let end = w.strip_end(first).min(first + most);
                let groups = end - first;
                let (codes, scales) = w.part(block, first..end).unwrap_or_default();
                let signs = w.part_signs(block, first..end).as_chunks::<4>().0.iter();
                let signs = signs.chain(core::iter::repeat(&[[0; SIGNS]; 4]));
                let codes = bytemuck::try_cast_slice::<u8, Words>(codes).unwrap_or_default();
                let codes = codes.chunks_exact(from);
                for ((codes, signs), to) in codes.zip(signs).zip(made.chunks_exact_mut(lines)).take(groups) {
                    recode(codes, signs, to);
                }
                let codes = bytemuck::must_cast_slice::<Words, u8>(&made).get(..groups * lines * size_of::<Words>());
                let part = Coded {
                    dtype,
                    rows: BLOCK,
                    cols: groups * GROUP,
                    groups,
                    codes: codes.unwrap_or_default(),
                    signs: &[],
                    scales,
                    ..*w
                };
                let at = (first_row * x.stride).saturating_add(first * GROUP);
                let bytes = x.bytes.get(at..).unwrap_or_default();
                let x = Codes { bytes, stride: x.stride, rows, cols: groups * GROUP };
                kernel(&part, 0..1, &x, &mut |_, row, found| {
                    let sums = sums.iter_mut().skip(row).zip(found);
                    sums.for_each(|(sums, found)| sums.iter_mut().zip(found).for_each(|(sum, found)| *sum += found));
                });
                first = end;
            }
            put(block, first_row, sums.get(..rows).unwrap_or_default());
        }
    }
}
