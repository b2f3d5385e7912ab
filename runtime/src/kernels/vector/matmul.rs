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
use core::ops::Range;

/// The kinds of codes, as the kernels are made for them.
pub const T3: u8 = Dtype::T3 as u8;
pub const N4: u8 = Dtype::N4 as u8;
pub const T4: u8 = Dtype::T4 as u8;
pub const N5: u8 = Dtype::N5 as u8;
pub const N8: u8 = Dtype::N8 as u8;

/// How many groups ahead codes are fetched into the first cache where one group comes after the other.
pub const AHEAD: usize = 16;
/// The same of T3, and how many groups ahead into the second cache: its levels take as long to make as memory takes to give
/// its codes, so memory must never be idle. Where levels are made faster, that only is in the way of what the processor fetches by itself.
pub const AHEAD_TRELLIS: (usize, usize) = (8, 64);
/// Groups of a block, at least, whose N4 and T4 codes nobody asks for: one or two rows are multiplied with them faster than memory gives them.
pub const UNASKED: usize = 33;
/// How many groups ahead rows of codes, of several, are fetched into the first cache: a block's weights drive them out of it before the next
/// block needs them.
pub const AHEAD_ROW: usize = 4;
/// How many blocks ahead multipliers are fetched into the first cache.
pub const AHEAD_MULTS: usize = 2;
/// Blocks of which a strip is multiplied with a row of codes before their next one: memory is read in order for long, and their sums stay in
/// the cache. With several rows they are so many less.
pub const SIDE: usize = 32;
/// A byte of each of 4 columns of a block's 16 rows.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct Line(pub [u8; 4 * BLOCK]);
/// Lines of a group.
pub const LINES: usize = GROUP / 4;
/// Groups of a panel of levels: what the first cache holds beside the codes, and int32 the sums of in most cases.
pub const LEVEL_PANEL: usize = 16;
/// Rows of codes that a pair's sums have room for, and sums of groups that they have room for. They lie on the stack.
pub const MOST_ROWS: usize = 132;
pub const MOST_SUMS: usize = 33_792;

/// What a kernel is about to read, all of whose sizes have been checked: as many of each as there are groups.
#[derive(Clone, Copy)]
pub struct Weights<'a, const GROUP_BYTES: usize> {
    pub codes: &'a [[u8; GROUP_BYTES]],
    /// Of 5-bit codes, else empty.
    pub signs: &'a [[[u8; SIGNS]; 4]],
    pub scales: &'a [[u8; BLOCK]],
}

/// Some groups of block `block`, all in one strip: as many codes as scales. `None` if they are not there.
#[inline]
pub fn part<'a, const KIND: u8, const GROUP_BYTES: usize>(
    w: &Coded<'a>,
    block: usize,
    groups: Range<usize>,
) -> Option<Weights<'a, GROUP_BYTES>> {
    let (codes, scales) = w.part(block, groups.clone())?;
    let signs = if KIND == N5 { w.part_signs(block, groups.clone()).as_chunks().0 } else { &[] };
    let part = Weights { codes: codes.as_chunks().0, signs, scales: scales.as_chunks::<BLOCK>().0 };
    (part.codes.len() == groups.len() && (KIND != N5 || signs.len() == groups.len())).then_some(part)
}

/// Row `row` as groups.
pub fn row_groups<'a>(x: &Codes<'a>, row: usize) -> &'a [[i8; GROUP]] {
    x.row(row).as_chunks::<GROUP>().0
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

/// T3's levels by the two bits that pick a level of a set above the two that pick the set.
pub fn sets_below(levels: [i8; 16]) -> [i8; 16] {
    core::array::from_fn(|at| levels[4 * (at & 3) + (at >> 2 & 3)])
}

/// Whether the codes have another shape than the weights: then the scalar kernels say what comes out.
pub fn misfit(w: &Coded<'_>, x: &Codes<'_>) -> bool {
    !x.fit(w) || w.groups == 0 || w.stretch == 0
}

/// Puts the instruction set before each function.
macro_rules! features {
    ($features:literal; $($(#[$meta:meta])* $vis:vis fn $name:ident ($($arg:ident : $type:ty),* $(,)?) $(-> $result:ty)? $body:block)*) => {
        $(
            $(#[$meta])*
            #[inline]
            #[target_feature(enable = $features)]
            $vis fn $name($($arg: $type),*) $(-> $result)? $body
        )*
    };
}

/// The kernels of a backend from `V`, `LANES`, `TILE`, `PAIR`, `RAISED` and the primitives beside it. Levels that are looked up may be
/// raised by another constant, the last argument.
macro_rules! matmul_kernels {
    ($features:literal; $table:ident = $name:literal, $isa:ident) => {
        matmul_kernels! { $features; $table = $name, $isa, RAISED }
    };
    ($features:literal; $table:ident = $name:literal, $isa:ident, $looked_up_raised:ident) => {
        use crate::image::Coded;
        use crate::image::tensors::{BLOCK, GROUP, STRIP, T4_LEVELS};
        use crate::kernels::arch::reads::{base_sums, fetch, fetch_far};
        use crate::kernels::vector::matmul::{
            AHEAD, AHEAD_MULTS, AHEAD_ROW, AHEAD_TRELLIS, LEVEL_PANEL, LINES, Line, MOST_ROWS, MOST_SUMS, N4, N5, N8,
            SIDE, T3, T4, UNASKED, Weights, filled, misfit, part, row_groups, sets_below,
        };
        use crate::kernels::{Codes, Int8, Isa, Kernels, Put, scalar};
        use core::array::from_fn;
        use core::mem::MaybeUninit;
        use core::ops::Range;

        /// Levels and scales of some groups of blocks side by side.
        type Panel<'a> = [(&'a [[Line; LINES]], &'a [[u8; BLOCK]]); PAIR];

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
                add: |x, y, to, s, o| unsafe { add(x, y, to, s, o) },
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
            match x.rows() {
                2 if LANES == 16 => few_rows::<KIND, BYTES, 2>(w, blocks, x, put),
                3 if LANES == 16 => few_rows::<KIND, BYTES, 3>(w, blocks, x, put),
                4 if LANES == 16 => few_rows::<KIND, BYTES, 4>(w, blocks, x, put),
                5 if LANES == 16 => few_rows::<KIND, BYTES, 5>(w, blocks, x, put),
                6 if LANES == 16 => few_rows::<KIND, BYTES, 6>(w, blocks, x, put),
                7 if LANES == 16 => few_rows::<KIND, BYTES, 7>(w, blocks, x, put),
                8 if LANES == 16 => few_rows::<KIND, BYTES, 8>(w, blocks, x, put),
                2.. if most > 0 => many_rows::<KIND, BYTES>(w, blocks, x, most, put),
                rows => (0..rows).for_each(|row| one_row::<KIND, BYTES>(w, blocks.clone(), x, row, put)),
            }
        }

        /// Asks for the codes that come after `group`, one of `groups` of a block, which so many rows are multiplied with. Where that takes
        /// less time than memory does, they come fastest if nobody asks: always N8's, N4's and T4's where a block is not soon at its end
        /// (measured: BENCHMARKS.md, "Speed").
        #[inline(always)]
        fn fetch_ahead<const KIND: u8, const ROWS: usize, T>(group: &T, groups: usize) {
            match KIND {
                N8 => {}
                N4 | T4 if ROWS <= 2 && groups >= UNASKED => {}
                T3 => {
                    fetch(group, AHEAD_TRELLIS.0);
                    fetch_far(group, AHEAD_TRELLIS.1);
                }
                _ => fetch(group, AHEAD),
            }
        }

        /// Asks for the multipliers that results of coming blocks need: nothing else reads near them.
        #[inline(always)]
        fn fetch_mults(w: &Coded<'_>, block: usize) {
            if let Some(mults) = w.mults.as_chunks::<{ 2 * BLOCK }>().0.get(block) {
                fetch(mults, AHEAD_MULTS);
            }
        }

        /// What levels are raised by.
        const fn raised(kind: u8) -> i32 {
            if kind == N8 { RAISED } else { $looked_up_raised }
        }

        /// What raising the levels adds to the sums of each group, negative.
        #[inline]
        #[target_feature(enable = $features)]
        fn bases_of<const KIND: u8>(row: &[[i8; GROUP]], bases: &mut [i32]) {
            if KIND == N8 { base_sums::<RAISED>(row, bases) } else { base_sums::<$looked_up_raised>(row, bases) }
        }

        #[target_feature(enable = $features)]
        fn one_row<const KIND: u8, const BYTES: usize>(
            w: &Coded<'_>,
            blocks: Range<usize>,
            x: &Codes<'_>,
            row: usize,
            put: &mut Put<'_>,
        ) {
            let (codes, books) = (row_groups(x, row), books::<KIND>(w.codebook));
            let (mut bases, mut sums) = ([0; STRIP], [MaybeUninit::uninit(); SIDE]);
            let strips = w.strip_end(0) < w.groups;
            if raised(KIND) != 0 && !strips {
                bases_of::<KIND>(codes, &mut bases);
            }
            let side = if strips { SIDE } else { 1 };
            for first in blocks.clone().step_by(side) {
                let some = first..blocks.end.min(first + side);
                let sums = filled(&mut sums[..some.len()], [0; BLOCK]);
                for strip in w.strips() {
                    let Some(codes) = codes.get(strip.clone()) else { return };
                    if raised(KIND) != 0 && strips {
                        bases_of::<KIND>(codes, &mut bases);
                    }
                    for (block, sums) in some.clone().zip(&mut *sums) {
                        fetch_mults(w, block);
                        let Some(weights) = part::<KIND, BYTES>(w, block, strip.clone()) else { return };
                        row_sums::<KIND, BYTES>(weights, codes, &bases, books, w.stretch, sums);
                    }
                }
                some.zip(&*sums).for_each(|(block, sums)| put(block, row, core::slice::from_ref(sums)));
            }
        }

        /// Adds the sums of a block's groups with one row's.
        #[inline]
        #[target_feature(enable = $features)]
        fn row_sums<const KIND: u8, const BYTES: usize>(
            weights: Weights<'_, BYTES>,
            codes: &[[i8; GROUP]],
            bases: &[i32; STRIP],
            books: [V; 2],
            stretch: u32,
            sums: &mut [i64; BLOCK],
        ) {
            let count = codes.len();
            for start in (0..count).step_by(stretch as usize) {
                let groups = weights.codes.iter().zip(weights.scales).zip(codes).zip(bases);
                let mut part = [splat(0); BLOCK / LANES];
                // T3's levels take longer to make than products to sum: they are made a group before, so that neither waits for the other.
                let made_before = KIND == T3 && LANES == BLOCK;
                let mut made = [splat(0); LINES];
                if made_before && let Some(group) = weights.codes.get(start) {
                    made = levels_of::<KIND, BYTES>(group, None, 0, books);
                }
                for (at, (((group, scale), codes), base)) in groups.enumerate().skip(start).take(stretch as usize) {
                    fetch_ahead::<KIND, 1, _>(group, count);
                    let signs = if KIND == N5 { weights.signs.get(at) } else { None };
                    signs.into_iter().for_each(|signs| fetch_ahead::<KIND, 1, _>(signs, count));
                    let mut dots = [splat(if raised(KIND) == 0 { 0 } else { *base }); BLOCK / LANES];
                    for (span, dot) in dots.iter_mut().enumerate() {
                        let levels = if made_before {
                            let next = weights.codes.get(at + 1).unwrap_or(group);
                            core::mem::replace(&mut made, levels_of::<KIND, BYTES>(next, None, 0, books))
                        } else {
                            levels_of::<KIND, BYTES>(group, signs, span, books)
                        };
                        add_group!(dot, KIND, levels, codes);
                    }
                    for (span, (part, dot)) in part.iter_mut().zip(dots).enumerate() {
                        *part = add_scaled(*part, dot, scales(scale, span));
                    }
                }
                part.into_iter().zip(sums.as_chunks_mut().0).for_each(|(part, sums)| flush(part, sums));
            }
        }

        /// The same for the first `ROWS` rows of codes; for one it would be 2 to 5 % slower.
        #[target_feature(enable = $features)]
        fn few_rows<const KIND: u8, const BYTES: usize, const ROWS: usize>(
            w: &Coded<'_>,
            blocks: Range<usize>,
            x: &Codes<'_>,
            put: &mut Put<'_>,
        ) {
            let (codes, books) = (from_fn::<_, ROWS, _>(|row| row_groups(x, row)), books::<KIND>(w.codebook));
            let (mut bases, mut sums) = ([[0; STRIP]; ROWS], [MaybeUninit::uninit(); SIDE / 2]);
            let strips = w.strip_end(0) < w.groups;
            if raised(KIND) != 0 && !strips {
                codes.iter().zip(&mut bases).for_each(|(row, bases)| bases_of::<KIND>(row, bases));
            }
            let side = if strips { SIDE / ROWS } else { 1 };
            for first in blocks.clone().step_by(side) {
                let some = first..blocks.end.min(first + side);
                let sums = filled(&mut sums[..some.len()], [[0; BLOCK]; ROWS]);
                for strip in w.strips() {
                    let codes = codes.map(|row| row.get(strip.clone()).unwrap_or_default());
                    if raised(KIND) != 0 && strips {
                        codes.iter().zip(&mut bases).for_each(|(row, bases)| bases_of::<KIND>(row, bases));
                    }
                    for (block, sums) in some.clone().zip(&mut *sums) {
                        fetch_mults(w, block);
                        let Some(weights) = part::<KIND, BYTES>(w, block, strip.clone()) else { return };
                        rows_sums::<KIND, BYTES, ROWS>(weights, codes, &bases, books, w.stretch, sums);
                    }
                }
                some.zip(&*sums).for_each(|(block, sums)| put(block, 0, sums));
            }
        }

        /// Adds the sums of a block's groups with some rows'.
        #[inline]
        #[target_feature(enable = $features)]
        fn rows_sums<const KIND: u8, const BYTES: usize, const ROWS: usize>(
            weights: Weights<'_, BYTES>,
            codes: [&[[i8; GROUP]]; ROWS],
            bases: &[[i32; STRIP]; ROWS],
            books: [V; 2],
            stretch: u32,
            sums: &mut [[i64; BLOCK]; ROWS],
        ) {
            let count = codes.iter().fold(weights.codes.len().min(STRIP), |count, row| count.min(row.len()));
            for start in (0..count).step_by(stretch as usize) {
                let mut part = [[splat(0); BLOCK / LANES]; ROWS];
                let groups = weights.codes[..count].iter().zip(weights.scales).enumerate();
                for (at, (group, scale)) in groups.skip(start).take(stretch as usize) {
                    let signs = if KIND == N5 { weights.signs.get(at) } else { None };
                    fetch_ahead::<KIND, ROWS, _>(group, count);
                    signs.into_iter().for_each(|signs| fetch_ahead::<KIND, ROWS, _>(signs, count));
                    // SAFETY: `at < count`, so far each goes.
                    let codes = |row: usize| unsafe { codes.get_unchecked(row).get_unchecked(at) };
                    // More rows take longer than their codes do to come, but for those that need no look-up.
                    if ROWS <= 4 || KIND == N8 {
                        (0..ROWS).for_each(|row| fetch(codes(row), AHEAD_ROW));
                    }
                    let base =
                        |row: usize| if raised(KIND) == 0 { 0 } else { unsafe { *bases[row].get_unchecked(at) } };
                    for span in 0..BLOCK / LANES {
                        let levels = levels_of::<KIND, BYTES>(group, signs, span, books);
                        let mut dots = [splat(0); ROWS];
                        for (row, dot) in dots.iter_mut().enumerate() {
                            let codes = codes(row);
                            *dot = splat(base(row));
                            add_group!(dot, KIND, levels, codes);
                        }
                        for (part, dot) in part.iter_mut().zip(dots) {
                            part[span] = add_scaled(part[span], dot, scales(scale, span));
                        }
                    }
                }
                for (part, sums) in part.into_iter().zip(sums.iter_mut()) {
                    part.into_iter().zip(sums.as_chunks_mut().0).for_each(|(part, sums)| flush(part, sums));
                }
            }
        }

        /// The levels of a group, four columns after the other.
        #[inline]
        #[target_feature(enable = $features)]
        fn levels_of<const KIND: u8, const BYTES: usize>(
            group: &[u8; BYTES],
            signs: Option<&[[u8; 16]; 4]>,
            span: usize,
            books: [V; 2],
        ) -> [V; LINES] {
            let lines = group.as_chunks::<64>().0;
            let codes = |line: usize| load(&lines[line].as_chunks().0[span]);
            let mut levels = [splat(0); LINES];
            if KIND == N8 {
                for (line, levels) in levels.iter_mut().enumerate() {
                    *levels = bytes(codes(line));
                }
                return levels;
            }
            if KIND == T3 {
                let nibbles = three_bits([codes(0), codes(1), codes(2)], rows_before(&lines[2], span), books);
                levels.as_chunks_mut().0.iter_mut().zip(nibbles).for_each(|(levels, of)| *levels = of);
                return levels;
            }
            let [book, _] = books;
            for (line, levels) in levels.as_chunks_mut().0.iter_mut().enumerate() {
                *levels = match (KIND, signs) {
                    (T4, _) => windows(codes(line), books),
                    (_, Some(signs)) => {
                        let (signs, [low, high]) = (signs[line].as_chunks().0, nibbles(codes(line), book));
                        [negated(low, signs[span]), negated(high, signs[BLOCK / LANES + span])]
                    }
                    _ => nibbles(codes(line), book),
                };
            }
            levels
        }

        /// What levels are looked up in; of T3 also with the bits that pick a set below the others.
        #[inline]
        #[target_feature(enable = $features)]
        fn books<const KIND: u8>(levels: [i8; 16]) -> [V; 2] {
            match KIND {
                T4 => [book(T4_LEVELS.as_chunks().0[0]), book(T4_LEVELS.as_chunks().0[1])],
                T3 => [book(levels), book(sets_below(levels))],
                _ => [book(levels); 2],
            }
        }

        /// T3's levels, 8 columns after the other, from its two lines of bits that pick a level of a set, its line of bits that pick the set,
        /// and the latter of one and of two rows before. Of two books, so that bits need fewer shifts.
        #[inline]
        #[target_feature(enable = $features)]
        fn three_bits([first, second, lowest]: [V; 3], rows: [V; 2], [book, sets_below]: [V; 2]) -> [[V; 2]; 4] {
            let [before, before_that] = rows;
            let differs = differing(lowest, before_that);
            // Pairs of bits, of even and of odd eights of columns.
            let even = picked(0x55, differs, shifted(before, -1));
            let odd = picked(0x55, shifted(differs, 1), before);
            [
                nibbles(picked(0x33, first, shifted(even, -2)), book),
                nibbles(picked(0x33, odd, first), sets_below),
                nibbles(picked(0x33, second, even), book),
                nibbles(picked(0x33, shifted(second, 2), odd), book),
            ]
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
            let books = books::<KIND>(w.codebook);
            let groups = LEVEL_PANEL.min(w.stretch as usize);
            let mut bases = [MaybeUninit::uninit(); MOST_SUMS];
            let mut levels = [[MaybeUninit::uninit(); LEVEL_PANEL]; PAIR];
            let mut sums = [[MaybeUninit::uninit(); MOST_ROWS]; PAIR];
            for first in (0..x.rows()).step_by(most) {
                let count = most.min(x.rows() - first);
                let numbers = if raised(KIND) == 0 { 0 } else { count * w.groups };
                let Some(bases) = bases.get_mut(..numbers) else { return };
                let bases = filled(bases, 0);
                for (row, bases) in bases.chunks_exact_mut(w.groups).enumerate() {
                    bases_of::<KIND>(row_groups(x, first + row), bases);
                }
                for block in blocks.clone().step_by(PAIR) {
                    // An odd last block is its own neighbour, whose sums nobody gets.
                    let pair_of = |block: usize, start: usize| {
                        let end = w.strip_end(start).min(start + groups);
                        let of = |at| part::<KIND, BYTES>(w, (blocks.end - 1).min(block + at), start..end);
                        (from_fn::<_, PAIR, _>(of), end)
                    };
                    let mut sums = sums.each_mut().map(|sums| filled(&mut sums[..count], [0; BLOCK]));
                    let mut start = 0;
                    while start < w.groups {
                        let (pair, end) = pair_of(block, start);
                        let mut panel: Panel<'_> = [(&[], &[]); PAIR];
                        for ((panel, weights), levels) in panel.iter_mut().zip(pair).zip(&mut levels) {
                            let Some(weights) = weights else { return };
                            *panel = (make_levels::<KIND, BYTES>(weights, books, levels), weights.scales);
                        }
                        // What the next panel needs comes while this one is multiplied, a part with each tile.
                        let (next, _) = if end < w.groups { pair_of(block, end) } else { pair_of(block + PAIR, 0) };
                        let share = groups.div_ceil(count.div_ceil(TILE));
                        let mut fetched = 0;
                        let mut row = 0;
                        while row < count {
                            for weights in next.iter().flatten() {
                                weights.codes.iter().skip(fetched).take(share).for_each(|group| fetch(group, 0));
                            }
                            fetched += share;
                            let tiles = (&panel, x, (first, row), &*bases, (start, end, w.groups));
                            let sums = sums.each_mut().map(|sums| &mut sums[row..]);
                            row += match count - row {
                                6.. if TILE >= 6 => tile::<KIND, 6>(tiles, sums),
                                4.. => tile::<KIND, 4>(tiles, sums),
                                2.. => tile::<KIND, 2>(tiles, sums),
                                _ => tile::<KIND, 1>(tiles, sums),
                            };
                        }
                        start = end;
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
            books: [V; 2],
            to: &'l mut [MaybeUninit<[Line; LINES]>; LEVEL_PANEL],
        ) -> &'l [[Line; LINES]] {
            for (at, (group, to)) in weights.codes.iter().zip(to.iter_mut()).enumerate() {
                let signs = if KIND == N5 { weights.signs.get(at) } else { None };
                let to = to.as_mut_ptr().cast::<[V; BLOCK / LANES]>();
                for span in 0..BLOCK / LANES {
                    for (line, levels) in
                        laid(levels_of::<KIND, BYTES>(group, signs, span, books)).into_iter().enumerate()
                    {
                        // SAFETY: a group has so many lines, of so many vectors each.
                        unsafe { to.add(line).cast::<V>().add(span).write(levels) };
                    }
                }
            }
            let made = weights.codes.len().min(LEVEL_PANEL);
            // SAFETY: the first `made` have just been written, each byte of them.
            unsafe { to[..made].assume_init_ref() }
        }
    };
}
