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
use crate::image::tensors::{BLOCK, GROUP};
use crate::kernels::Codes;

/// Groups whose sums of codes are computed together: 16 384 columns. They lie on the stack.
pub const PANEL: usize = 512;
/// Bytes of codes that are used again and again for one tile of rows after the other.
pub const CHUNK_BYTES: usize = 256 << 10;
/// How far ahead codes are fetched, in groups.
pub const AHEAD: usize = 16;

/// What a kernel is about to read, all of whose sizes have been checked.
#[derive(Clone, Copy)]
pub struct Weights<'a, const GROUP_BYTES: usize> {
    pub codes: &'a [[u8; GROUP_BYTES]],
    pub scales: &'a [[u8; BLOCK]],
}

/// The groups of block `block`: as many codes as scales.
pub fn block_groups<'a, const GROUP_BYTES: usize>(w: &Coded<'a>, block: usize) -> Weights<'a, GROUP_BYTES> {
    let (codes, scales) = w.block(block);
    let (codes, scales) = (codes.as_chunks::<GROUP_BYTES>().0, scales.as_chunks::<BLOCK>().0);
    let groups = codes.len().min(scales.len());
    Weights { codes: codes.get(..groups).unwrap_or(&[]), scales: scales.get(..groups).unwrap_or(&[]) }
}

/// Rows `first..first + ROWS` as groups, `groups` of them each; empty where there are fewer.
pub fn tile_rows<'a, const ROWS: usize>(x: &Codes<'a>, first: usize, groups: usize) -> [&'a [[i8; GROUP]]; ROWS] {
    core::array::from_fn(|row| x.row(first + row).as_chunks::<GROUP>().0.get(..groups).unwrap_or(&[]))
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
pub type Groups<'a, V, const BYTES: usize, const ROWS: usize> =
    (Weights<'a, BYTES>, (usize, usize), &'a [&'a [[i8; GROUP]]; ROWS], &'a [[i32; ROWS]; PANEL], V, u32);

/// Asks for the codes that come `AHEAD` groups later. Addresses beyond the end do no harm.
#[inline(always)]
pub fn fetch<const BYTES: usize>(group: &[u8; BYTES]) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for line in (0..BYTES).step_by(64) {
        // SAFETY: a prefetch reads nothing; it is a hint.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(group.as_ptr().wrapping_add(AHEAD * BYTES + line).cast()) };
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
    ($features:literal; $table:ident = $name:literal) => {
        use crate::kernels::x86::matmul::{
            CHUNK_BYTES, Groups, PANEL, block_groups, fetch, misfit, tile_rows, word,
        };
        use crate::image::Coded;
        use crate::image::tensors::{BLOCK, GROUP};
        use crate::kernels::{Codes, Kernels, Put, Rescale, scalar};
        use core::ops::Range;

        /// The backend.
        pub static $table: Kernels = Kernels {
            name: $name,
            // SAFETY: the table is given out only where its instructions are (`super::available`).
            n4: |w, blocks, x, put| unsafe { n4(w, blocks, x, put) },
            n8: |w, blocks, x, put| unsafe { n8(w, blocks, x, put) },
            rescale: |sums, mults, bias, how, out| unsafe { rescale(sums, mults, bias, how, out) },
        };

        #[target_feature(enable = $features)]
        fn rescale(s: &[i64; BLOCK], m: &[u16; BLOCK], bias: &[i32; BLOCK], how: Rescale, out: &mut [i32; BLOCK]) {
            scalar::rescale(s, m, bias, how, out);
        }

        #[target_feature(enable = $features)]
        fn n4(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
            if misfit(w, x) {
                return scalar::n4(w, blocks, x, put);
            }
            chunks::<256, true>(w, blocks, x, put);
        }

        #[target_feature(enable = $features)]
        fn n8(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
            if misfit(w, x) {
                return scalar::n8(w, blocks, x, put);
            }
            chunks::<512, false>(w, blocks, x, put);
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn chunks<const BYTES: usize, const FOUR: bool>(
            w: &Coded<'_>,
            blocks: Range<usize>,
            x: &Codes<'_>,
            put: &mut Put<'_>,
        ) {
            let most = if x.rows() > TILE { (CHUNK_BYTES / w.block_bytes()).max(1) } else { usize::MAX };
            let mut start = blocks.start;
            while start < blocks.end {
                let chunk = start..blocks.end.min(start.saturating_add(most));
                let mut row = 0;
                while row < x.rows() {
                    row += match x.rows() - row {
                        8.. if TILE >= 8 => tile::<BYTES, FOUR, 8>(w, &chunk, x, row, put),
                        4.. => tile::<BYTES, FOUR, 4>(w, &chunk, x, row, put),
                        2.. => tile::<BYTES, FOUR, 2>(w, &chunk, x, row, put),
                        _ => tile::<BYTES, FOUR, 1>(w, &chunk, x, row, put),
                    };
                }
                start = chunk.end;
            }
        }

        /// All blocks of a chunk with `ROWS` rows from `row` on; returns `ROWS`.
        #[target_feature(enable = $features)]
        fn tile<const BYTES: usize, const FOUR: bool, const ROWS: usize>(
            w: &Coded<'_>,
            chunk: &Range<usize>,
            x: &Codes<'_>,
            row: usize,
            put: &mut Put<'_>,
        ) -> usize {
            let rows: [_; ROWS] = tile_rows(x, row, w.groups);
            let book = book(w.codebook);
            let mut bases = [[0i32; ROWS]; PANEL];
            let one_panel = w.groups <= PANEL;
            if one_panel {
                base_sums(&rows, 0..w.groups, &mut bases);
            }
            for block in chunk.clone() {
                let weights = block_groups::<BYTES>(w, block);
                let mut sums = [[0i64; BLOCK]; ROWS];
                let mut start = 0;
                while start < weights.codes.len() {
                    let panel = start..weights.codes.len().min(start + PANEL);
                    if !one_panel {
                        base_sums(&rows, panel.clone(), &mut bases);
                    }
                    let groups = (weights, (panel.start, panel.end), &rows, &bases, book, w.stretch);
                    // One row: the whole block at once, so that memory is read in order. More: one vector, for its registers.
                    if ROWS == 1 || LANES == BLOCK {
                        block_sums::<BYTES, FOUR, ROWS, 0, { BLOCK / LANES }>(groups, &mut sums);
                    } else {
                        block_sums::<BYTES, FOUR, ROWS, 0, 1>(groups, &mut sums);
                        block_sums::<BYTES, FOUR, ROWS, 1, 1>(groups, &mut sums);
                    }
                    start = panel.end;
                }
                for (at, sums) in sums.iter().enumerate() {
                    put(block, row + at, sums);
                }
            }
            ROWS
        }

        /// `-RAISED * (sum of the group's codes)` of groups `panel`, to `bases` from its start on.
        #[inline]
        #[target_feature(enable = $features)]
        fn base_sums<const ROWS: usize>(
            rows: &[&[[i8; GROUP]]; ROWS],
            panel: Range<usize>,
            bases: &mut [[i32; ROWS]; PANEL],
        ) {
            if RAISED == 0 {
                return;
            }
            for (at, row) in rows.iter().enumerate() {
                for (group, bases) in row.get(panel.clone()).unwrap_or(&[]).iter().zip(bases.iter_mut()) {
                    bases[at] = -RAISED * group.iter().map(|x| i32::from(*x)).sum::<i32>();
                }
            }
        }

        /// Adds the sums of groups `panel` of `SPAN` vectors of a block, from vector `FROM` on.
        #[inline]
        #[target_feature(enable = $features)]
        fn block_sums<const BYTES: usize, const FOUR: bool, const ROWS: usize, const FROM: usize, const SPAN: usize>(
            (weights, (start, end), rows, bases, book, stretch): Groups<'_, V, BYTES, ROWS>,
            sums: &mut [[i64; BLOCK]; ROWS],
        ) {
            let codes = weights.codes.get(start..end).unwrap_or(&[]);
            let scale_bytes = weights.scales.get(start..end).unwrap_or(&[]);
            let mut x: [&[[i8; GROUP]]; ROWS] = [&[]; ROWS];
            for (x, row) in x.iter_mut().zip(rows) {
                *x = row.get(start..end).unwrap_or(&[]);
                if x.len() != codes.len() {
                    return; // not so: `misfit` has seen to it
                }
            }
            let mut part = [[splat(0); SPAN]; ROWS];
            let mut left = stretch;
            for (at, ((group, scale), bases)) in codes.iter().zip(scale_bytes).zip(bases).enumerate() {
                if left == 0 {
                    flush_all::<ROWS, FROM, SPAN>(&mut part, sums);
                    left = stretch;
                }
                left -= 1;
                if ROWS == 1 {
                    fetch(group);
                }
                let mut dots = [[splat(0); SPAN]; ROWS];
                for (dots, base) in dots.iter_mut().zip(bases) {
                    *dots = [splat(*base); SPAN];
                }
                for (index, line) in group.as_chunks::<64>().0.iter().enumerate() {
                    let vectors = line.as_chunks::<{ 4 * LANES }>().0;
                    for span in 0..SPAN {
                        let codes = load(&vectors[FROM + span]);
                        let levels = if FOUR { [low(codes, book), high(codes, book)] } else { [bytes(codes); 2] };
                        for row in 0..ROWS {
                            // SAFETY: each row has been seen to have as many groups as `codes`.
                            let x = unsafe { x[row].get_unchecked(at) };
                            let dot = &mut dots[row][span];
                            if FOUR {
                                *dot = dot4(*dot, levels[0], word(x, 2 * index));
                                *dot = dot4(*dot, levels[1], word(x, 2 * index + 1));
                            } else {
                                *dot = dot8(*dot, levels[0], word(x, index));
                            }
                        }
                    }
                }
                for span in 0..SPAN {
                    let scale = scales(&scale.as_chunks::<LANES>().0[FROM + span]);
                    for row in 0..ROWS {
                        part[row][span] = add_scaled(part[row][span], dots[row][span], scale);
                    }
                }
            }
            flush_all::<ROWS, FROM, SPAN>(&mut part, sums);
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn flush_all<const ROWS: usize, const FROM: usize, const SPAN: usize>(
            part: &mut [[V; SPAN]; ROWS],
            sums: &mut [[i64; BLOCK]; ROWS],
        ) {
            for row in 0..ROWS {
                let sums = sums[row].as_chunks_mut::<LANES>().0;
                for span in 0..SPAN {
                    flush(part[row][span], &mut sums[FROM + span]);
                    part[row][span] = splat(0);
                }
            }
        }
    };
}
