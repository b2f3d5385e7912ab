//! Coded weights: [`crate::kernels::scalar::coded`], a block of 16 rows at a time with one row of activations or two.

use core::mem::MaybeUninit;
use core::ops::Range;

use super::lines::{BlockFn, four_times, n4_one, n4_two, n8_one, t4_one, t4_two, uniform_one};
use crate::image::Coded;
use crate::image::tensors::{BLOCK, GROUP, T4_BY_WINDOW};
use crate::kernels::{BlocksFn, Codes, Kernels, Put, recoded, scalar};

/// The kernels.
pub static KERNELS: Kernels = Kernels {
    name: "arm-int8-helium",
    // As in the scalar table.
    t3: if cfg!(feature = "t3") { |w, blocks, x, put| recoded::t3(n4, w, blocks, x, put) } else { scalar::KERNELS.t3 },
    n4: if cfg!(feature = "n4") { n4 } else { scalar::KERNELS.n4 },
    t4: if cfg!(feature = "t4") { t4 } else { scalar::KERNELS.t4 },
    n5: if cfg!(feature = "n5") { |w, blocks, x, put| recoded::n5(n8, w, blocks, x, put) } else { scalar::KERNELS.n5 },
    n8: if cfg!(feature = "n8") { n8 } else { scalar::KERNELS.n8 },
    ..scalar::KERNELS
};

/// Levels of codes that are a constant less.
const UNIFORM: [i8; 16] = [-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7];

/// How a block is done.
struct How<'t> {
    /// Bytes of a group's codes.
    group_bytes: usize,
    /// With a row of activations.
    one: BlockFn,
    /// With two.
    two: Option<BlockFn>,
    /// Levels, as the functions want them.
    table: &'t [i8],
    /// What does it where this cannot.
    otherwise: BlocksFn,
}

fn n4(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    let one: BlockFn = if w.codebook == UNIFORM { uniform_one } else { n4_one };
    let two = Some(n4_two as BlockFn);
    each_block(w, blocks, x, put, &How { group_bytes: 256, one, two, table: &w.codebook, otherwise: scalar::n4 });
}

fn t4(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    let mut table = MaybeUninit::<[i8; 4 * T4_BY_WINDOW.len()]>::uninit();
    // SAFETY: the function fills it.
    let table = unsafe {
        four_times(table.as_mut_ptr().cast(), T4_BY_WINDOW.as_ptr());
        table.assume_init_ref()
    };
    let two = Some(t4_two as BlockFn);
    each_block(w, blocks, x, put, &How { group_bytes: 256, one: t4_one, two, table, otherwise: scalar::t4 });
}

fn n8(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>) {
    each_block(w, blocks, x, put, &How { group_bytes: 512, one: n8_one, two: None, table: &[], otherwise: scalar::n8 });
}

#[inline(never)] // once, not for each caller
fn each_block(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>, how: &How<'_>) {
    // Vectors of words are read at multiples of 4, where images and slots have them.
    let word = |address: usize| address.is_multiple_of(4);
    let words = word(w.codes.as_ptr().addr()) && word(x.bytes.as_ptr().addr()) && (word(x.stride) || x.rows == 1);
    if !words || !x.fit(w) || w.groups == 0 || w.group_bytes() != how.group_bytes {
        return (how.otherwise)(w, blocks, x, put);
    }
    let mut sums = [[0i64; BLOCK]; 2];
    let mut more = sums;
    for block in blocks {
        let mut row = 0;
        while row < x.rows {
            let (rows, function) = match how.two {
                Some(two) if x.rows - row >= 2 => (2, two),
                _ => (1, how.one),
            };
            for strip in w.strips() {
                let (start, groups) = (strip.start, strip.len());
                let later = cfg!(feature = "wide") && start > 0;
                let to = if later { &mut more } else { &mut sums };
                let last = x.row(row + rows - 1).get(start * GROUP..strip.end * GROUP);
                if let (Some((codes, scales)), Some(_), Some(first)) =
                    (w.part(block, strip), last, x.row(row).get(start * GROUP..))
                {
                    let (levels, first, to) = (how.table.as_ptr(), first.as_ptr(), to.as_mut_ptr().cast());
                    // SAFETY: the codes and scales of these groups are there, and their activations of these rows.
                    unsafe { function(codes.as_ptr(), scales.as_ptr(), first, groups, levels, to, x.stride) };
                } else {
                    *to = [[0; BLOCK]; 2];
                }
                if later {
                    sums.as_flattened_mut().iter_mut().zip(more.as_flattened()).for_each(|(sum, more)| *sum += more);
                }
            }
            put(block, row, &sums[..rows]);
            row += rows;
        }
    }
}
