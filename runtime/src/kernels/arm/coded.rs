//! Coded weights: [`crate::kernels::scalar::coded`], a block of 16 rows at a time with one row of activations or up to [`ROWS`].
//!
//! Activations are spread once for all blocks, if they fit [`WORDS`]: else those of a stretch of groups, for each block again.

use core::mem::MaybeUninit;
use core::ops::Range;
use core::slice;

use super::lines::{
    BlockFn, SpreadFn, beside_by_four, beside_by_two, n4_one, n8_one, pairs, spread_along, spread_by_four,
    spread_by_two, starts, t4_one, uniform_one,
};
use super::tiles::{LevelsFn, clear, dots, n4_levels, n8_levels, t4_levels};
use crate::image::Coded;
use crate::image::tensors::{BLOCK, GROUP, T4_BY_WINDOW};
use crate::kernels::{Codes, Kernels, Put, recoded, scalar};

/// The kernels.
pub static KERNELS: Kernels = Kernels {
    name: "arm-int8-dsp",
    // As in the scalar table.
    t3: if cfg!(feature = "t3") { |w, blocks, x, put| recoded::t3(n4, w, blocks, x, put) } else { scalar::KERNELS.t3 },
    n4: if cfg!(feature = "n4") { n4 } else { scalar::KERNELS.n4 },
    t4: if cfg!(feature = "t4") { t4 } else { scalar::KERNELS.t4 },
    n5: if cfg!(feature = "n5") { |w, blocks, x, put| recoded::n5(n8, w, blocks, x, put) } else { scalar::KERNELS.n5 },
    n8: if cfg!(feature = "n8") { n8 } else { scalar::KERNELS.n8 },
    ..scalar::KERNELS
};

/// Words of spread activations.
const WORDS: usize = 576;
/// Memory for them.
type Words = [MaybeUninit<u32>; WORDS];
/// Words of a group's: of one row, with what sums begin with.
const ONE: usize = GROUP / 2 + 1;
/// Of two rows.
const TWO: usize = GROUP;
/// Rows of activations for which codes become levels once; even.
const ROWS: usize = 8;

/// Levels of codes that are a constant less.
const UNIFORM: [i8; 16] = [-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7];

/// Fills a table of what `levels` (a multiple of 16) stand for by twos ([`pairs`]).
fn fill(table: &mut [MaybeUninit<u32>], levels: &[i8]) {
    let step = levels.len() / 16;
    if step > 0 && table.len() >= 256 * step {
        // SAFETY: there are `16 * step` levels, and room for their pairs.
        unsafe { pairs(table.as_mut_ptr().cast(), levels.as_ptr(), step) };
    }
}

/// How codes of one kind are multiplied.
struct How<'t> {
    /// Bytes of a group's codes.
    group_bytes: usize,
    /// A block with one row of activations.
    block: BlockFn,
    /// Puts activations where and as `block` wants them.
    spread: SpreadFn,
    /// Makes levels for several rows of activations.
    levels: LevelsFn,
    /// Puts activations where and as these levels want them.
    beside: SpreadFn,
    table: &'t [MaybeUninit<u32>],
}

fn n4(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    if !fits(w, x, 256) {
        return scalar::n4(w, blocks, x, put);
    }
    let how = How {
        group_bytes: 256,
        block: n4_one,
        spread: spread_by_four,
        levels: n4_levels,
        beside: beside_by_four,
        table: &[],
    };
    if w.codebook == UNIFORM && x.rows() == 1 {
        let how = How { block: uniform_one, spread: spread_uniform, ..how };
        return one_row(w, blocks, x, 0, &how, put);
    }
    let mut table = [const { MaybeUninit::uninit() }; 256];
    fill(&mut table, &w.codebook);
    all_rows(w, blocks, x, &How { table: &table, ..how }, put);
}

/// [`spread_along`], and what sums begin with ([`uniform_one`]): -8 times those of activations.
///
/// # Safety
/// As of a [`SpreadFn`], lines beside one another and a word before each group.
unsafe extern "C" fn spread_uniform(to: *mut u32, x: *const i8, groups: usize, line: usize, group: usize) {
    // SAFETY: as said.
    unsafe {
        spread_along(to, x, groups, line, group);
        starts(to.sub(1), groups, -8);
    }
}

fn n8(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    if !fits(w, x, 512) {
        return scalar::n8(w, blocks, x, put);
    }
    let how = How {
        group_bytes: 512,
        block: n8_one,
        spread: spread_by_two,
        levels: n8_levels,
        beside: beside_by_two,
        table: &[],
    };
    all_rows(w, blocks, x, &how, put);
}

fn t4(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    if !fits(w, x, 256) {
        return scalar::t4(w, blocks, x, put);
    }
    let mut table = [const { MaybeUninit::uninit() }; 1024];
    fill(&mut table, &T4_BY_WINDOW);
    let how = How {
        group_bytes: 256,
        block: t4_one,
        spread: spread_by_four,
        levels: t4_levels,
        beside: beside_by_four,
        table: &table,
    };
    all_rows(w, blocks, x, &how, put);
}

/// Whether groups have so many bytes of codes, codes are whole words, and rows of activations have all columns: else the scalar kernels do
/// what they do then.
fn fits(w: &Coded<'_>, x: &Codes<'_>, group_bytes: usize) -> bool {
    w.group_bytes() == group_bytes && w.codes.as_ptr().addr().is_multiple_of(4) && x.fit(w)
}

fn all_rows(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, how: &How<'_>, put: &mut Put<'_>) {
    for first in (0..x.rows()).step_by(ROWS) {
        match x.rows() - first {
            1 => one_row(w, blocks.clone(), x, first, how, put),
            rest => several_rows(w, blocks.clone(), x, first..first + rest.min(ROWS), how, put),
        }
    }
}

/// Sums of blocks with row `row` of activations.
#[inline(never)] // its buffer once, not for each caller
fn one_row(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, row: usize, how: &How<'_>, put: &mut Put<'_>) {
    const MOST: usize = WORDS / ONE;
    let mut words = [const { MaybeUninit::uninit() }; WORDS];
    let mut memory = MaybeUninit::<[[i64; BLOCK]; 1]>::uninit();
    if w.groups <= MOST {
        spread_one(&mut words, x, row, 0..w.groups, how);
    }
    for block in blocks {
        let sums = memory.as_mut_ptr();
        // SAFETY: there is room for a row's.
        unsafe { clear(sums.cast(), 1) };
        let mut first = 0;
        while first < w.groups {
            let end = w.strip_end(first).min(first + MOST);
            if w.groups > MOST {
                spread_one(&mut words, x, row, first..end, how);
            }
            if let Some((codes, scales)) = w.part(block, first..end) {
                let (words, table) = (words.as_ptr().cast(), how.table.as_ptr().cast());
                // SAFETY: the codes and scales of these groups are there, their activations have just been spread.
                unsafe { (how.block)(codes.as_ptr(), scales.as_ptr(), words, end - first, table, sums.cast()) };
            }
            first = end;
        }
        // SAFETY: they have been set.
        put(block, row, unsafe { &*sums });
    }
}

/// Spreads groups of a row, no more than there is room for.
fn spread_one(words: &mut Words, x: &Codes<'_>, row: usize, groups: Range<usize>, how: &How<'_>) {
    let x = x.row(row).get(groups.start * GROUP..groups.end * GROUP).unwrap_or_default();
    if x.is_empty() || groups.len() * ONE > WORDS {
        return;
    }
    // SAFETY: the groups lie in `x`, and there is room for their words.
    unsafe {
        let words = words.as_mut_ptr().cast::<u32>();
        (how.spread)(words.add(1), x.as_ptr(), groups.len(), 16, 4 * ONE);
    }
}

/// Sums of blocks with rows `rows` of activations, 2 to [`ROWS`]. An odd last row is taken twice.
#[inline(never)] // as above
fn several_rows(
    w: &Coded<'_>,
    blocks: Range<usize>,
    x: &Codes<'_>,
    rows: Range<usize>,
    how: &How<'_>,
    put: &mut Put<'_>,
) {
    let twos = rows.len().div_ceil(2);
    if twos == 0 || twos > ROWS / 2 {
        return;
    }
    // Groups whose activations fit.
    let most = const { [WORDS / TWO, WORDS / TWO / 2, WORDS / TWO / 3, WORDS / TWO / 4] }[twos.wrapping_sub(1) & 3];
    let mut words = [const { MaybeUninit::uninit() }; WORDS];
    let mut levels = [const { MaybeUninit::<u32>::uninit() }; BLOCK * GROUP / 2];
    let mut memory = MaybeUninit::<[[i64; BLOCK]; ROWS]>::uninit();
    let spread = |words: &mut Words, groups: Range<usize>| {
        for row in 0..2 * twos {
            let x = x.row(rows.start + row.min(rows.len() - 1));
            let x = x.get(groups.start * GROUP..groups.end * GROUP).unwrap_or_default();
            if x.is_empty() || groups.len() > most {
                return;
            }
            let to = words.as_mut_ptr().cast::<u32>();
            // SAFETY: the groups lie in `x`, and there is room for `twos * TWO` words of each.
            unsafe {
                let to = to.add(row / 2 * TWO + row % 2 * 2);
                (how.beside)(to, x.as_ptr(), groups.len(), 32, 4 * TWO * twos);
            }
        }
    };
    if w.groups <= most {
        spread(&mut words, 0..w.groups);
    }
    for block in blocks {
        let sums = memory.as_mut_ptr().cast();
        // SAFETY: there is room for them, as `twos` is at most half of `ROWS`.
        unsafe { clear(sums, 2 * twos) };
        let mut first = 0;
        while first < w.groups {
            let end = w.strip_end(first).min(first + most);
            if w.groups > most {
                spread(&mut words, first..end);
            }
            if let Some((codes, scales)) = w.part(block, first..end) {
                for group in 0..end - first {
                    let levels = levels.as_mut_ptr().cast();
                    // SAFETY: the codes and scales of these groups are there; their activations have been spread, `twos` times two
                    // rows of them.
                    unsafe {
                        (how.levels)(levels, codes.as_ptr().add(group * how.group_bytes), how.table.as_ptr().cast());
                        let words = words.as_ptr().cast::<u32>().add(group * TWO * twos);
                        dots(words, levels, scales.as_ptr().add(group * BLOCK), twos, sums);
                    }
                }
            }
            first = end;
        }
        // SAFETY: those rows of sums have been set.
        put(block, rows.start, unsafe { slice::from_raw_parts(sums, rows.len()) });
    }
}
