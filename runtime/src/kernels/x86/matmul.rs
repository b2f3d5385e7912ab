//! The matmul kernels of a backend, made of its primitives by macros: functions of one instruction set cannot be generic
//! over another's.
//!
//! One row of codes (a token is generated) reads each weight once, so levels are made in registers, a whole block at a time:
//! memory is read in order.
//!
//! ```text
//! for each block:
//!   for each group of 32 columns:
//!     dot[row] = -128 * sum of the group's codes          what raising the levels adds; one number a group
//!     for each line: two vectors of levels; dot[row] += levels * 4 broadcast codes
//!     part[row] += scales * dot[row]                      int32 within a stretch
//!   sums[row] += part[row]                                int64 across
//! ```
//!
//! Several rows (a prompt) read each weight as many times as there are tiles of rows, so levels are made once, into memory that
//! stays in the cache:
//!
//! ```text
//! for each `most` rows of codes, as many as the sums of their groups have room:
//!   for each pair of blocks:
//!     for each panel of columns:
//!       levels of the pair's panel
//!       for each tile of rows of codes (as many as the registers hold): as above, for each of its rows and both blocks
//! ```

use crate::image::Coded;
use crate::image::tensors::{BLOCK, Dtype, GROUP, SIGNS};
use crate::kernels::Codes;
use core::mem::MaybeUninit;

/// The kinds of codes, as the kernels are made for them.
pub const T3: u8 = Dtype::T3 as u8;
pub const N4: u8 = Dtype::N4 as u8;
pub const T4: u8 = Dtype::T4 as u8;
pub const N5: u8 = Dtype::N5 as u8;
pub const N8: u8 = Dtype::N8 as u8;

/// Groups whose sums of codes are computed together: 16 384 columns. They lie on the stack.
pub const PANEL: usize = 512;
/// The levels of a group of a block: eight lines of 4 columns, as N8's codes lie.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct Levels(pub [[u8; 4 * BLOCK]; GROUP / 4]);
/// Groups of a panel of levels: what the first cache holds beside the codes, and int32 the sums of in most cases.
pub const LEVEL_PANEL: usize = 16;
/// Rows of codes that a pair's sums have room for, and sums of groups that they have room for. They lie on the stack.
pub const MOST_ROWS: usize = 132;
pub const MOST_SUMS: usize = 33_792;
/// How far ahead codes are fetched, in groups.
pub const AHEAD: usize = 16;

/// What a kernel is about to read, all of whose sizes have been checked: as many of each as there are groups.
#[derive(Clone, Copy)]
pub struct Weights<'a, const GROUP_BYTES: usize> {
    pub codes: &'a [[u8; GROUP_BYTES]],
    /// Of 5-bit codes, else empty.
    pub signs: &'a [[[u8; SIGNS]; 4]],
    pub scales: &'a [[u8; BLOCK]],
}

impl<const GROUP_BYTES: usize> Weights<'_, GROUP_BYTES> {
    /// Groups `start..end`; `None` if there are fewer.
    pub fn part<const KIND: u8>(self, start: usize, end: usize) -> Option<Self> {
        let signs = if KIND == N5 { self.signs.get(start..end)? } else { &[] };
        Some(Self { codes: self.codes.get(start..end)?, signs, scales: self.scales.get(start..end)? })
    }
}

/// The groups of block `block`: as many codes as scales.
pub fn block_groups<'a, const GROUP_BYTES: usize>(w: &Coded<'a>, block: usize) -> Weights<'a, GROUP_BYTES> {
    let (codes, scales) = w.block(block);
    Weights {
        codes: codes.as_chunks::<GROUP_BYTES>().0,
        signs: w.block_signs(block).as_chunks().0,
        scales: scales.as_chunks::<BLOCK>().0,
    }
}

/// Row `row` as groups.
pub fn row_groups<'a>(x: &Codes<'a>, row: usize) -> &'a [[i8; GROUP]] {
    x.row(row).as_chunks::<GROUP>().0
}

/// Lines of a group as levels are made of them: of 8 columns, or 4.
pub const fn lines_of(kind: u8) -> usize {
    if kind == N8 { 8 } else { 4 }
}

/// Four codes as one number, as the instructions take them.
#[inline(always)]
pub fn word(group: &[i8; GROUP], at: usize) -> i32 {
    let at = 4 * (at & 7);
    let [a, b, c, d] = [group[at], group[at + 1], group[at + 2], group[at + 3]];
    i32::from_le_bytes([a as u8, b as u8, c as u8, d as u8])
}

/// Memory that is filled before it is read: it lies on the stack and is not worth clearing each time.
pub fn filled<T: Copy>(memory: &mut [MaybeUninit<T>], value: T) -> &mut [T] {
    memory.iter_mut().for_each(|place| {
        place.write(value);
    });
    // SAFETY: each has just been written.
    unsafe { memory.assume_init_mut() }
}

/// `-RAISED * (sum of the group's codes)` of each group of a row. Four groups at a time: sums of eight bytes each, then of four
/// such sums.
#[inline]
#[target_feature(enable = "avx2")]
pub fn base_sums<const RAISED: i32>(row: &[[i8; GROUP]], bases: &mut [i32]) {
    use core::arch::x86_64::*;
    let groups = row.len().min(bases.len());
    let (row, bases) = (&row[..groups], &mut bases[..groups]);
    let eights = |group: &[i8; GROUP]| {
        // SAFETY: 32 bytes are there; the load asks for no alignment.
        let codes = unsafe { _mm256_loadu_si256(group.as_ptr().cast()) };
        _mm256_sad_epu8(_mm256_xor_si256(codes, _mm256_set1_epi8(i8::MIN)), _mm256_setzero_si256())
    };
    let pairs = |a, b| _mm256_add_epi64(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    let (fours, rest) = row.as_chunks::<4>();
    let (four_bases, rest_bases) = bases.as_chunks_mut::<4>();
    for ([a, b, c, d], bases) in fours.iter().zip(four_bases.iter_mut()) {
        let (ab, cd) = (pairs(eights(a), eights(b)), pairs(eights(c), eights(d)));
        let sums =
            _mm256_add_epi64(_mm256_permute2x128_si256::<0x20>(ab, cd), _mm256_permute2x128_si256::<0x31>(ab, cd));
        // Bytes have been raised by 128 to be unsigned, 32 of them.
        let mut words = [0u64; 4];
        // SAFETY: 32 bytes are there; the store asks for no alignment.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), sums) };
        *bases = words.map(|sum| RAISED * (32 * 128 - sum as i32));
    }
    for (group, base) in rest.iter().zip(rest_bases) {
        *base = -RAISED * group.iter().map(|x| i32::from(*x)).sum::<i32>();
    }
}

/// Asks for the codes that come `AHEAD` groups later. Addresses beyond the end do no harm.
#[inline(always)]
pub fn fetch<T>(group: &T) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    let ahead = core::ptr::from_ref(group).wrapping_add(AHEAD).cast::<i8>();
    for line in (0..size_of::<T>()).step_by(64) {
        // SAFETY: a prefetch reads nothing; it is a hint.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line)) };
    }
}

/// Whether the codes have another shape than the weights: then the scalar kernels say what comes out.
pub fn misfit(w: &Coded<'_>, x: &Codes<'_>) -> bool {
    !x.fit(w) || w.block_bytes() == 0 || w.stretch == 0
}

/// Puts the instruction set before each function.
macro_rules! features {
    ($features:literal; $($(#[$meta:meta])* fn $name:ident $(<const $kind:ident>)? ($($arg:ident : $type:ty),* $(,)?) $(-> $result:ty)? $body:block)*) => {
        $(
            $(#[$meta])*
            #[inline]
            #[target_feature(enable = $features)]
            fn $name$(<const $kind: u8>)?($($arg: $type),*) $(-> $result)? $body
        )*
    };
}

/// The kernels of a backend from `V`, `LANES`, `TILE`, `PAIR`, `RAISED` and the primitives beside it.
macro_rules! matmul_kernels {
    ($features:literal; $table:ident = $name:literal, $isa:ident) => {
        use crate::image::Coded;
        use crate::image::tensors::{BLOCK, GROUP};
        use crate::kernels::x86::matmul::{
            LEVEL_PANEL, Levels, MOST_ROWS, MOST_SUMS, N4, N5, N8, PANEL, T3, T4, Weights, base_sums, block_groups,
            fetch, filled, lines_of, misfit, row_groups, word,
        };
        use crate::kernels::{Codes, Int8, Isa, Kernels, Put, scalar};
        use core::array::from_fn;
        use core::mem::MaybeUninit;
        use core::ops::Range;

        /// Levels and scales of some groups of blocks side by side.
        type Panel<'a> = [(&'a [Levels], &'a [[u8; BLOCK]]); PAIR];

        /// What a tile needs: levels; codes, the first row of them that sums have room for and the tile's first from there; sums of the
        /// rows' groups; which groups, of how many a row.
        type Tile<'a> = (&'a Panel<'a>, &'a Codes<'a>, (usize, usize), &'a [i32], (usize, usize, usize));

        /// The backend.
        pub static $table: Kernels = Kernels {
            name: $name,
            // SAFETY: the table is given out only where its instructions are (`super::available`).
            t3: |w, blocks, x, put| unsafe { all_sums::<T3, 192>(w, blocks, x, put) },
            n4: |w, blocks, x, put| unsafe { all_sums::<N4, 256>(w, blocks, x, put) },
            t4: |w, blocks, x, put| unsafe { all_sums::<T4, 256>(w, blocks, x, put) },
            n5: |w, blocks, x, put| unsafe { all_sums::<N5, 256>(w, blocks, x, put) },
            n8: |w, blocks, x, put| unsafe { all_sums::<N8, 512>(w, blocks, x, put) },
            isa: Isa::$isa,
            int8: Int8 {
                // SAFETY: as above.
                conv2d: |g, groups, x, w, cs, o, out| unsafe { conv2d(g, groups, x, w, cs, o, out) },
                depthwise_conv2d: |g, multiplier, x, w, cs, o, out| unsafe {
                    depthwise_conv2d(g, multiplier, x, w, cs, o, out)
                },
                add: |x, y, to, terms, o, backward| unsafe { add(x, y, to, terms, o, backward) },
            },
        };
        convolutions! { $features }

        #[target_feature(enable = $features)]
        fn all_sums<const KIND: u8, const BYTES: usize>(
            w: &Coded<'_>,
            blocks: Range<usize>,
            x: &Codes<'_>,
            put: &mut Put<'_>,
        ) {
            if misfit(w, x) {
                return scalar::KERNELS.blocks(w)(w, blocks, x, put);
            }
            // Whole tiles.
            let most = (MOST_SUMS / w.groups).min(MOST_ROWS) / TILE * TILE;
            if x.rows() > 1 && most > 0 {
                many_rows::<KIND, BYTES>(w, blocks, x, most, put);
            } else {
                (0..x.rows()).for_each(|row| one_row::<KIND, BYTES>(w, blocks.clone(), x, row, put));
            }
        }

        #[target_feature(enable = $features)]
        fn one_row<const KIND: u8, const BYTES: usize>(
            w: &Coded<'_>,
            blocks: Range<usize>,
            x: &Codes<'_>,
            row: usize,
            put: &mut Put<'_>,
        ) {
            let (codes, book) = (row_groups(x, row), book::<KIND>(w.codebook));
            let mut bases = [0; PANEL];
            if w.groups <= PANEL {
                base_sums::<RAISED>(codes, &mut bases);
            }
            for block in blocks {
                let weights = block_groups::<BYTES>(w, block);
                let mut sums = [0; BLOCK];
                for start in (0..w.groups).step_by(PANEL) {
                    let end = w.groups.min(start + PANEL);
                    let panel = (weights.part::<KIND>(start, end), codes.get(start..end));
                    let (Some(weights), Some(codes)) = panel else { return };
                    if w.groups > PANEL {
                        base_sums::<RAISED>(codes, &mut bases);
                    }
                    row_sums::<KIND, BYTES>(weights, codes, &bases, book, w.stretch, &mut sums);
                }
                put(block, row, &[sums]);
            }
        }

        /// Adds the sums of a block's groups with one row's.
        #[inline]
        #[target_feature(enable = $features)]
        fn row_sums<const KIND: u8, const BYTES: usize>(
            weights: Weights<'_, BYTES>,
            codes: &[[i8; GROUP]],
            bases: &[i32; PANEL],
            book: V,
            stretch: u32,
            sums: &mut [i64; BLOCK],
        ) {
            for start in (0..codes.len()).step_by(stretch as usize) {
                let groups = weights.codes.iter().zip(weights.scales).zip(codes).zip(bases);
                let mut part = [splat(0); BLOCK / LANES];
                for (at, (((group, scale), codes), base)) in groups.enumerate().skip(start).take(stretch as usize) {
                    fetch(group);
                    let signs = if KIND == N5 { weights.signs.get(at) } else { None };
                    signs.into_iter().for_each(fetch);
                    let mut dots = [splat(*base); BLOCK / LANES];
                    let mut upper = [[splat(0); 2]; BLOCK / LANES];
                    for (span, upper) in upper.iter_mut().enumerate() {
                        *upper = upper_bits::<KIND, BYTES>(group, span);
                    }
                    for line in 0..lines_of(KIND) {
                        let signs = signs.map(|signs| &signs[line]);
                        for (span, dot) in dots.iter_mut().enumerate() {
                            let levels = line_levels::<KIND, BYTES>(group, line, signs, (span, upper[span]), book);
                            if KIND == N8 {
                                *dot = dot8(*dot, levels[0], splat(word(codes, line)));
                            } else {
                                *dot = dot4(*dot, levels[0], splat(word(codes, 2 * line)));
                                *dot = dot4(*dot, levels[1], splat(word(codes, 2 * line + 1)));
                            }
                        }
                    }
                    for ((part, dot), scale) in part.iter_mut().zip(dots).zip(scale.as_chunks().0) {
                        *part = add_scaled(*part, dot, scales(scale));
                    }
                }
                part.into_iter().zip(sums.as_chunks_mut().0).for_each(|(part, sums)| flush(part, sums));
            }
        }

        /// What all levels of a group of T3 need: the upper two bits of what is looked up, of even and of odd lines.
        #[inline]
        #[target_feature(enable = $features)]
        fn upper_bits<const KIND: u8, const BYTES: usize>(group: &[u8; BYTES], span: usize) -> [V; 2] {
            match group.as_chunks().0.get(2) {
                Some(bits) if KIND == T3 => set_bits(load(&bits.as_chunks().0[span]), rows_before(bits, span)),
                _ => [splat(0); 2],
            }
        }

        /// The levels of line `line`, which are 8 columns, of its low and its high nibbles; of 8-bit codes, 4 columns, the same
        /// twice. `upper`: see [`upper_bits`].
        #[inline]
        #[target_feature(enable = $features)]
        fn line_levels<const KIND: u8, const BYTES: usize>(
            group: &[u8; BYTES],
            line: usize,
            signs: Option<&[u8; 16]>,
            (span, upper): (usize, [V; 2]),
            book: V,
        ) -> [V; 2] {
            let lines = group.as_chunks::<64>().0;
            let codes_of = |line: usize| load(&lines[line].as_chunks().0[span]);
            match (KIND, signs) {
                (N8, _) => [bytes(codes_of(line)); 2],
                (T4, _) => along_trellis(codes_of(line), rows_before(&lines[line], span), book),
                (T3, _) => {
                    // Two bits of each of 16 columns are a line; lines of 8 take turns.
                    let lower = shifted(codes_of(line / 2), 2 * (line as i32 & 1));
                    let upper = shifted(upper[line & 1], (line as i32 & 2) - 2);
                    [of_set(lower, upper, book), of_set(shifted(lower, 4), shifted(upper, 4), book)]
                }
                (_, Some(signs)) => {
                    let (signs, [low, high]) = (signs.as_chunks().0, nibbles(codes_of(line), book));
                    [negated(low, signs[span]), negated(high, signs[BLOCK / LANES + span])]
                }
                _ => nibbles(codes_of(line), book),
            }
        }

        /// All rows of `x`, `most` at a time.
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn many_rows<const KIND: u8, const BYTES: usize>(
            w: &Coded<'_>,
            blocks: Range<usize>,
            x: &Codes<'_>,
            most: usize,
            put: &mut Put<'_>,
        ) {
            let book = book::<KIND>(w.codebook);
            let groups = LEVEL_PANEL.min(w.stretch as usize);
            let mut bases = [MaybeUninit::uninit(); MOST_SUMS];
            let mut levels = [[MaybeUninit::uninit(); LEVEL_PANEL]; PAIR];
            let mut sums = [[MaybeUninit::uninit(); MOST_ROWS]; PAIR];
            for first in (0..x.rows()).step_by(most) {
                let count = most.min(x.rows() - first);
                let Some(bases) = bases.get_mut(..count * w.groups) else { return };
                let bases = filled(bases, 0);
                for (row, bases) in bases.chunks_exact_mut(w.groups).enumerate() {
                    base_sums::<RAISED>(row_groups(x, first + row), bases);
                }
                for block in blocks.clone().step_by(PAIR) {
                    // An odd last block is its own neighbour, whose sums nobody gets.
                    let pair: [_; PAIR] = from_fn(|at| block_groups(w, (blocks.end - 1).min(block + at)));
                    let mut sums = sums.each_mut().map(|sums| filled(&mut sums[..count], [0; BLOCK]));
                    for start in (0..w.groups).step_by(groups) {
                        let end = w.groups.min(start + groups);
                        let mut panel: Panel<'_> = [(&[], &[]); PAIR];
                        for ((panel, weights), levels) in panel.iter_mut().zip(&pair).zip(&mut levels) {
                            let Some(weights) = weights.part::<KIND>(start, end) else { return };
                            *panel = (make_levels::<KIND, BYTES>(weights, book, levels), weights.scales);
                        }
                        let mut row = 0;
                        while row < count {
                            let tiles = (&panel, x, (first, row), &*bases, (start, end, w.groups));
                            let sums = sums.each_mut().map(|sums| &mut sums[row..]);
                            row += match count - row {
                                6.. if TILE >= 6 => tile::<KIND, 6>(tiles, sums),
                                4.. => tile::<KIND, 4>(tiles, sums),
                                2.. => tile::<KIND, 2>(tiles, sums),
                                _ => tile::<KIND, 1>(tiles, sums),
                            };
                        }
                    }
                    (block..blocks.end).zip(&sums).for_each(|(block, sums)| put(block, first, sums));
                }
            }
        }

        /// The levels of a block's groups, as vectors take them.
        #[inline]
        #[target_feature(enable = $features)]
        fn make_levels<'l, const KIND: u8, const BYTES: usize>(
            weights: Weights<'_, BYTES>,
            book: V,
            to: &'l mut [MaybeUninit<Levels>; LEVEL_PANEL],
        ) -> &'l [Levels] {
            let halves = const { if KIND == N8 { 1 } else { 2 } };
            for (at, (group, to)) in weights.codes.iter().zip(to.iter_mut()).enumerate() {
                fetch(group);
                let signs = if KIND == N5 { weights.signs.get(at) } else { None };
                signs.into_iter().for_each(fetch);
                let mut upper = [[splat(0); 2]; BLOCK / LANES];
                for (span, upper) in upper.iter_mut().enumerate() {
                    *upper = upper_bits::<KIND, BYTES>(group, span);
                }
                let to = to.as_mut_ptr().cast::<[V; BLOCK / LANES]>();
                for line in 0..lines_of(KIND) {
                    let signs = signs.map(|signs| &signs[line]);
                    let mut levels = [[splat(0); 2]; BLOCK / LANES];
                    for (span, levels) in levels.iter_mut().enumerate() {
                        *levels = line_levels::<KIND, BYTES>(group, line, signs, (span, upper[span]), book);
                    }
                    for half in 0..halves {
                        // SAFETY: a group has so many lines of so many halves, eight for each kind.
                        unsafe { to.add(halves * line + half).write(levels.map(|levels| levels[half])) };
                    }
                }
            }
            let made = weights.codes.len().min(LEVEL_PANEL);
            // SAFETY: the first `made` have just been written, each byte of them.
            unsafe { to[..made].assume_init_ref() }
        }

        /// Adds the sums of a panel, which int32 holds, with `ROWS` rows to theirs; returns `ROWS`.
        #[inline]
        #[target_feature(enable = $features)]
        fn tile<const KIND: u8, const ROWS: usize>(
            (panel, x, (first, row), bases, (start, end, all)): Tile<'_>,
            sums: [&mut [[i64; BLOCK]]; PAIR],
        ) -> usize {
            let groups = end - start;
            let (mut codes, mut base) = ([&[][..]; ROWS], [&[][..]; ROWS]);
            for (at, (codes, base)) in codes.iter_mut().zip(&mut base).enumerate() {
                let sums_of = all * (row + at);
                let slices =
                    (row_groups(x, first + row + at).get(start..end), bases.get(sums_of + start..sums_of + end));
                let (Some(some), Some(sums)) = slices else { return ROWS };
                (*codes, *base) = (some, sums);
            }
            if panel.iter().any(|(levels, scales)| levels.len() != groups || scales.len() != groups) {
                return ROWS;
            }
            for span in 0..BLOCK / LANES {
                let mut part = [[splat(0); PAIR]; ROWS];
                for at in 0..groups {
                    // SAFETY: all slices are `groups` long.
                    let levels = |block: usize| unsafe { &panel[block].0.get_unchecked(at).0 };
                    let scale = |block: usize| unsafe { panel[block].1.get_unchecked(at) };
                    let codes = |row: usize| unsafe { codes[row].get_unchecked(at) };
                    let base = |row: usize| unsafe { *base[row].get_unchecked(at) };
                    let mut dots = [[splat(0); PAIR]; ROWS];
                    for row in 0..ROWS {
                        dots[row] = [splat(base(row)); PAIR];
                    }
                    for line in 0..GROUP / 4 {
                        let mut vectors = [splat(0); PAIR];
                        for block in 0..PAIR {
                            vectors[block] = load(&levels(block)[line].as_chunks().0[span]);
                        }
                        for (row, dots) in dots.iter_mut().enumerate() {
                            let x = splat(word(codes(row), line));
                            for (dot, levels) in dots.iter_mut().zip(vectors) {
                                *dot = if KIND == N8 { dot8(*dot, levels, x) } else { dot4(*dot, levels, x) };
                            }
                        }
                    }
                    for block in 0..PAIR {
                        let scale = scales(&scale(block).as_chunks().0[span]);
                        for row in 0..ROWS {
                            part[row][block] = add_scaled(part[row][block], dots[row][block], scale);
                        }
                    }
                }
                for row in 0..ROWS {
                    for block in 0..PAIR {
                        flush(part[row][block], &mut sums[block][row].as_chunks_mut().0[span]);
                    }
                }
            }
            ROWS
        }
    };
}
