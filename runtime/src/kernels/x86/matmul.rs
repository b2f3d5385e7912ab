//! The matmul kernels of a backend, made of its primitives by macros: functions of one instruction set cannot be generic
//! over another's.
//!
//! ```text
//! for each chunk of blocks (so many that their codes stay in the cache while rows of codes pass):
//!   for each tile of rows of codes (as many as the registers hold):
//!     for each block, for each vector of its rows:
//!       for each group of 32 columns:
//!         dot[row] = -128 * sum of the row's group            what raising the levels adds; one number a group and row
//!         for each line: two vectors of levels; dot[row] += levels * 4 broadcast codes of the row
//!         part[row] += scales * dot[row]                      int32 within a stretch
//!       sums[row] += part[row]                                int64 across
//! ```

use crate::image::Coded;
use crate::image::tensors::{BLOCK, Dtype, GROUP, SIGNS};
use crate::kernels::Codes;

/// The kinds of codes, as the kernels are made for them.
pub const N4: u8 = Dtype::N4 as u8;
pub const T4: u8 = Dtype::T4 as u8;
pub const N5: u8 = Dtype::N5 as u8;
pub const N8: u8 = Dtype::N8 as u8;

/// Groups whose sums of codes are computed together: 16 384 columns. They lie on the stack.
pub const PANEL: usize = 512;
/// Bytes of codes that are used again and again for one tile of rows after the other.
pub const CHUNK_BYTES: usize = 512 << 10;
/// How far ahead codes are fetched, in groups.
pub const AHEAD: usize = 16;

/// What a kernel is about to read, all of whose sizes have been checked.
#[derive(Clone, Copy)]
pub struct Weights<'a, const GROUP_BYTES: usize> {
    pub codes: &'a [[u8; GROUP_BYTES]],
    /// Of 5-bit codes, else empty.
    pub signs: &'a [[[u8; SIGNS]; 4]],
    pub scales: &'a [[u8; BLOCK]],
}

/// The groups of block `block`: as many codes as scales.
pub fn block_groups<'a, const GROUP_BYTES: usize>(w: &Coded<'a>, block: usize) -> Weights<'a, GROUP_BYTES> {
    let (codes, scales) = w.block(block);
    let (codes, scales) = (codes.as_chunks::<GROUP_BYTES>().0, scales.as_chunks::<BLOCK>().0);
    let groups = codes.len().min(scales.len());
    Weights {
        codes: codes.get(..groups).unwrap_or(&[]),
        signs: w.block_signs(block).as_chunks().0,
        scales: scales.get(..groups).unwrap_or(&[]),
    }
}

/// Rows `first..first + ROWS` as groups, `groups` of them each; empty where there are fewer.
pub fn tile_rows<'a, const ROWS: usize>(x: &Codes<'a>, first: usize, groups: usize) -> [&'a [[i8; GROUP]]; ROWS] {
    core::array::from_fn(|row| x.row(first + row).as_chunks::<GROUP>().0.get(..groups).unwrap_or(&[]))
}

/// Groups `start..end` of each block; `None` if one has fewer.
#[inline(always)]
pub fn weights_of<'a, const KIND: u8, const BYTES: usize, const BLOCKS: usize>(
    all: &[Weights<'a, BYTES>; BLOCKS],
    start: usize,
    end: usize,
) -> Option<[Weights<'a, BYTES>; BLOCKS]> {
    let mut some = *all;
    for w in &mut some {
        let signs = if KIND == N5 { w.signs.get(start..end)? } else { &[] };
        *w = Weights { codes: w.codes.get(start..end)?, signs, scales: w.scales.get(start..end)? };
    }
    Some(some)
}

/// Groups `start..end` of each row; `None` if one has fewer.
#[inline(always)]
pub fn rows_of<'a, const ROWS: usize>(
    all: &[&'a [[i8; GROUP]]; ROWS],
    start: usize,
    end: usize,
) -> Option<[&'a [[i8; GROUP]]; ROWS]> {
    let mut some = *all;
    for row in &mut some {
        *row = row.get(start..end)?;
    }
    Some(some)
}

/// Four codes as one number, as the instructions take them.
#[inline(always)]
pub fn word(group: &[i8; GROUP], at: usize) -> i32 {
    let at = 4 * (at & 7);
    let [a, b, c, d] = [group[at], group[at + 1], group[at + 2], group[at + 3]];
    i32::from_le_bytes([a as u8, b as u8, c as u8, d as u8])
}

/// What the innermost loops work on: weights and which groups of them; the rows' codes; what their dots begin with, from the
/// first of these groups on; the codebook as a vector, the stretch.
pub type Groups<'a, V, const BYTES: usize, const ROWS: usize, const BLOCKS: usize> =
    (&'a [Weights<'a, BYTES>; BLOCKS], (usize, usize), &'a [&'a [[i8; GROUP]]; ROWS], &'a [[i32; PANEL]; ROWS], V, u32);

/// `-RAISED * (sum of the group's codes)` of groups `start..end`, to `bases` from its start on. Four groups at a time: sums of
/// eight bytes each, then of four such sums.
#[inline]
#[target_feature(enable = "avx2")]
pub fn base_sums<const RAISED: i32, const ROWS: usize>(
    rows: &[&[[i8; GROUP]]; ROWS],
    (start, end): (usize, usize),
    bases: &mut [[i32; PANEL]; ROWS],
) {
    use core::arch::x86_64::*;
    if RAISED == 0 {
        return;
    }
    let eights = |group: &[i8; GROUP]| {
        // SAFETY: 32 bytes are there; the load asks for no alignment.
        let codes = unsafe { _mm256_loadu_si256(group.as_ptr().cast()) };
        _mm256_sad_epu8(_mm256_xor_si256(codes, _mm256_set1_epi8(i8::MIN)), _mm256_setzero_si256())
    };
    let pairs = |a, b| _mm256_add_epi64(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    for (row, bases) in rows.iter().zip(bases) {
        let (fours, rest) = row.get(start..end).unwrap_or(&[]).as_chunks::<4>();
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
        let rest_bases = four_bases.iter_mut().skip(fours.len()).flatten().chain(rest_bases);
        for (group, base) in rest.iter().zip(rest_bases) {
            *base = -RAISED * group.iter().map(|x| i32::from(*x)).sum::<i32>();
        }
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
    ($features:literal; $($(#[$meta:meta])* fn $name:ident ($($arg:ident : $type:ty),* $(,)?) $(-> $result:ty)? $body:block)*) => {
        $(
            $(#[$meta])*
            #[inline]
            #[target_feature(enable = $features)]
            fn $name($($arg: $type),*) $(-> $result)? $body
        )*
    };
}

/// The kernels of a backend from `V`, `LANES`, `TILE`, `RAISED` and the primitives beside it.
macro_rules! matmul_kernels {
    ($features:literal; $table:ident = $name:literal, $isa:ident) => {
        use crate::image::Coded;
        use crate::image::tensors::{BLOCK, GROUP};
        use crate::kernels::x86::matmul::{
            CHUNK_BYTES, Groups, N4, N5, N8, PANEL, T4, base_sums, block_groups, fetch, misfit, rows_of, tile_rows,
            weights_of, word,
        };
        use crate::kernels::{Codes, Isa, Kernels, Put, scalar};
        use core::ops::Range;

        /// The backend.
        pub static $table: Kernels = Kernels {
            name: $name,
            // SAFETY: the table is given out only where its instructions are (`super::available`).
            t3: scalar::KERNELS.t3,
            n4: |w, blocks, x, put| unsafe { chunks::<N4, 256>(w, blocks, x, put) },
            t4: |w, blocks, x, put| unsafe { chunks::<T4, 256>(w, blocks, x, put) },
            n5: |w, blocks, x, put| unsafe { chunks::<N5, 256>(w, blocks, x, put) },
            n8: |w, blocks, x, put| unsafe { chunks::<N8, 512>(w, blocks, x, put) },
            isa: Isa::$isa,
        };

        #[target_feature(enable = $features)]
        fn chunks<const KIND: u8, const BYTES: usize>(
            w: &Coded<'_>,
            blocks: Range<usize>,
            x: &Codes<'_>,
            put: &mut Put<'_>,
        ) {
            if misfit(w, x) {
                return scalar::KERNELS.blocks(w)(w, blocks, x, put);
            }
            let most = if x.rows() > TILE { (CHUNK_BYTES / w.block_bytes()).max(1) } else { usize::MAX };
            let mut start = blocks.start;
            while start < blocks.end {
                let chunk = start..blocks.end.min(start.saturating_add(most));
                let mut row = 0;
                while row < x.rows() {
                    row += match x.rows() - row {
                        6.. if TILE >= 6 => tile::<KIND, BYTES, 6>(w, &chunk, x, row, put),
                        4.. => tile::<KIND, BYTES, 4>(w, &chunk, x, row, put),
                        2.. => tile::<KIND, BYTES, 2>(w, &chunk, x, row, put),
                        _ => tile::<KIND, BYTES, 1>(w, &chunk, x, row, put),
                    };
                }
                start = chunk.end;
            }
        }

        /// All blocks of a chunk with `ROWS` rows from `row` on; returns `ROWS`.
        #[target_feature(enable = $features)]
        fn tile<const KIND: u8, const BYTES: usize, const ROWS: usize>(
            w: &Coded<'_>,
            chunk: &Range<usize>,
            x: &Codes<'_>,
            row: usize,
            put: &mut Put<'_>,
        ) -> usize {
            let rows: [_; ROWS] = tile_rows(x, row, w.groups);
            let mut bases = [[0i32; PANEL]; ROWS];
            if w.groups <= PANEL {
                base_sums::<RAISED, ROWS>(&rows, (0, w.groups), &mut bases);
            }
            let mut block = chunk.start;
            while block < chunk.end {
                if ROWS > 1 && block + PAIR <= chunk.end {
                    let sums = some_blocks::<KIND, BYTES, ROWS, PAIR>(w, block, &rows, &mut bases);
                    sums.iter().zip(block..).for_each(|(sums, block)| put(block, row, sums));
                    block += PAIR;
                } else {
                    let sums = some_blocks::<KIND, BYTES, ROWS, 1>(w, block, &rows, &mut bases);
                    put(block, row, &sums[0]);
                    block += 1;
                }
            }
            ROWS
        }

        /// The sums of `BLOCKS` blocks from `block` on.
        #[inline]
        #[target_feature(enable = $features)]
        fn some_blocks<const KIND: u8, const BYTES: usize, const ROWS: usize, const BLOCKS: usize>(
            w: &Coded<'_>,
            block: usize,
            rows: &[&[[i8; GROUP]]; ROWS],
            bases: &mut [[i32; PANEL]; ROWS],
        ) -> [[[i64; BLOCK]; ROWS]; BLOCKS] {
            let mut weights = [block_groups::<BYTES>(w, block); BLOCKS];
            for (at, weights) in weights.iter_mut().enumerate() {
                *weights = block_groups(w, block + at);
            }
            let mut sums = [[[0i64; BLOCK]; ROWS]; BLOCKS];
            let book = book(w.codebook);
            let mut start = 0;
            while start < w.groups {
                let panel = (start, w.groups.min(start + PANEL));
                if w.groups > PANEL {
                    base_sums::<RAISED, ROWS>(rows, panel, bases);
                }
                let groups = (&weights, panel, rows, &*bases, book, w.stretch);
                // One row: a whole block at once, so that memory is read in order. More: one vector, for its registers.
                if ROWS == 1 || LANES == BLOCK {
                    panel_sums::<KIND, BYTES, ROWS, BLOCKS, 0, { BLOCK / LANES }>(groups, &mut sums);
                } else {
                    panel_sums::<KIND, BYTES, ROWS, BLOCKS, 0, 1>(groups, &mut sums);
                    panel_sums::<KIND, BYTES, ROWS, BLOCKS, 1, 1>(groups, &mut sums);
                }
                start = panel.1;
            }
            sums
        }

        /// Adds the sums of groups `start..end` of `SPAN` vectors, from vector `FROM` on, of each block.
        #[inline]
        #[target_feature(enable = $features)]
        fn panel_sums<
            const KIND: u8,
            const BYTES: usize,
            const ROWS: usize,
            const BLOCKS: usize,
            const FROM: usize,
            const SPAN: usize,
        >(
            (weights, (start, end), rows, bases, book, stretch): Groups<'_, V, BYTES, ROWS, BLOCKS>,
            sums: &mut [[[i64; BLOCK]; ROWS]; BLOCKS],
        ) {
            let Some(weights) = weights_of::<KIND, _, _>(weights, start, end) else { return };
            let Some(rows) = rows_of(rows, start, end) else { return };
            let mut part = [[[splat(0); SPAN]; BLOCKS]; ROWS];
            let mut left = stretch;
            for at in 0..(end - start).min(PANEL) {
                if left == 0 {
                    flush_all::<ROWS, BLOCKS, FROM, SPAN>(&mut part, sums);
                    left = stretch;
                }
                left -= 1;
                // SAFETY: `weights_of` and `rows_of` have seen that all have `end - start` groups.
                let group = |block: usize| unsafe { weights[block].codes.get_unchecked(at) };
                let signs = |block: usize| unsafe { weights[block].signs.get_unchecked(at) };
                let scale = |block: usize| unsafe { weights[block].scales.get_unchecked(at) };
                let codes = |row: usize| unsafe { rows[row].get_unchecked(at) };
                if ROWS == 1 {
                    fetch(group(0));
                    if KIND == N5 {
                        fetch(signs(0));
                    }
                }
                let mut dots = [[[splat(0); SPAN]; BLOCKS]; ROWS];
                for row in 0..ROWS {
                    dots[row] = [[splat(bases[row][at]); SPAN]; BLOCKS];
                }
                for line in 0..BYTES / 64 {
                    let mut levels = [[[splat(0); 2]; SPAN]; BLOCKS];
                    for block in 0..BLOCKS {
                        let line_codes = &group(block).as_chunks::<64>().0[line];
                        for span in 0..SPAN {
                            let codes = load(&line_codes.as_chunks::<{ 4 * LANES }>().0[FROM + span]);
                            levels[block][span] = match KIND {
                                N8 => [bytes(codes); 2],
                                T4 => {
                                    let [before, before_that] = rows_before(line_codes, FROM + span);
                                    let codes = turned(codes, before_that);
                                    [
                                        negated_where(low(codes, book), before, 0x01),
                                        negated_where(high(codes, book), before, 0x10),
                                    ]
                                }
                                _ => [low(codes, book), high(codes, book)],
                            };
                            for (half, levels) in levels[block][span].iter_mut().enumerate().filter(|_| KIND == N5) {
                                let line = signs(block)[line].as_chunks::<{ LANES / 2 }>().0;
                                *levels = negated(*levels, line[BLOCK / LANES * half + FROM + span]);
                            }
                        }
                    }
                    for row in 0..ROWS {
                        for half in 0..if KIND == N8 { 1 } else { 2 } {
                            let x = splat(word(codes(row), if KIND == N8 { line } else { 2 * line + half }));
                            for block in 0..BLOCKS {
                                for span in 0..SPAN {
                                    let (dot, levels) = (&mut dots[row][block][span], levels[block][span][half]);
                                    *dot = if KIND == N8 { dot8(*dot, levels, x) } else { dot4(*dot, levels, x) };
                                }
                            }
                        }
                    }
                }
                for block in 0..BLOCKS {
                    for span in 0..SPAN {
                        let scale = scales(&scale(block).as_chunks::<LANES>().0[FROM + span]);
                        for row in 0..ROWS {
                            let (part, dot) = (&mut part[row][block][span], dots[row][block][span]);
                            *part = add_scaled(*part, dot, scale);
                        }
                    }
                }
            }
            flush_all::<ROWS, BLOCKS, FROM, SPAN>(&mut part, sums);
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn flush_all<const ROWS: usize, const BLOCKS: usize, const FROM: usize, const SPAN: usize>(
            part: &mut [[[V; SPAN]; BLOCKS]; ROWS],
            sums: &mut [[[i64; BLOCK]; ROWS]; BLOCKS],
        ) {
            for row in 0..ROWS {
                for block in 0..BLOCKS {
                    let sums = sums[block][row].as_chunks_mut::<LANES>().0;
                    for span in 0..SPAN {
                        flush(part[row][block][span], &mut sums[FROM + span]);
                        part[row][block][span] = splat(0);
                    }
                }
            }
        }
    };
}
