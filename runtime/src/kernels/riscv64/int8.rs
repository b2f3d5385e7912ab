//! Convolutions and fully connected layers of int8: [`crate::kernels::scalar::int8`].
//!
//! ```text
//! for each region of pixels, as many as there is room for:
//!   their inputs, the zero point outside the image; of those the patches, the inputs under each      `vector::int8`
//!   for each few output channels, as many as there are lanes:
//!     for each panel of columns: weights less their zero point, [column][channel]                    `nets::turn`
//!       sums of all pixels                                                                           `tile`
//!     elements of the channels of each pixel                                                         `nets::write`
//! ```
//!
//! All of a region is read before any of it is written, so what is right pixel by pixel is right here (`ops::Overlap`). The inputs'
//! zero point is taken off the sums: `sum of (x - zx) w = sum of x w - zx * sum of w`, modulo 2^32 as in the scalar kernel. What
//! this is not for, groups and windows that have no room, the scalar kernels do.

use core::cell::Cell;
use core::mem::MaybeUninit;
use core::num::NonZeroUsize;

use super::nets::{self, Rounding, Taps, Write};
use super::tile::{MOST_LANES, PANEL, lanes, panel_sums};
use crate::kernels::scalar::int8::{self as scalar, Channel, Input, Output, Quantized, Sum, Term, Weights, Window};
use crate::kernels::vector::int8::{BEYOND, MOST_PIXELS, MOST_TAPS, PATCHES, REGION, Region, reach, usual};
use crate::kernels::vector::matmul::filled;

/// Sums of a region's pixels: [pixel][lane].
type Sums = [MaybeUninit<i32>; MOST_PIXELS * MOST_LANES];

impl Rounding {
    /// Of channels whose sums of weights are `totals`. `None` if one of them needs more than a rounding and a right shift.
    fn new(cs: &[Channel], totals: &[i32; MOST_LANES], zx: i32, o: &Output) -> Option<Self> {
        let zeros = [0; MOST_LANES];
        let mut all = Self { added: zeros, multiplier: zeros, right: zeros, shifts: zeros };
        let places = all.added.iter_mut().zip(&mut all.multiplier).zip(&mut all.right).zip(&mut all.shifts);
        for ((c, total), (((added, multiplier), right), shifts)) in cs.iter().zip(totals).zip(places) {
            let [bias, by, shift] = c.map(i32::from_le_bytes);
            let numbers = usual(less(bias, *total, zx), by, shift, o.rounding)?;
            [*added, *multiplier, *right, _] = numbers;
            *shifts = mask(*right);
        }
        Some(all)
    }
}

/// What is added to a sum: a bias, less what the inputs' zero point has added.
fn less(bias: i32, total: i32, zx: i32) -> i32 {
    bias.wrapping_sub(total.wrapping_mul(zx))
}

/// All ones if there is a shift.
fn mask(right: i32) -> i32 {
    -i32::from(right != 0)
}

/// The bounds before the zero point, and it.
fn bounds(o: &Output) -> [i32; 3] {
    [o.min - o.zero_point, o.max - o.zero_point, o.zero_point]
}

/// Writes the elements of some of `all` channels of pixels side by side, the first from `at` on.
fn write(
    sums: &[i32],
    (totals, zx): (&[i32; MOST_LANES], i32),
    (cs, o): (&[Channel], &Output),
    (at, all): (usize, usize),
    out: &[Cell<i8>],
) -> Option<()> {
    let (lanes, pixels) = (cs.len(), sums.len().checked_div(cs.len())?);
    let out = out.get(at..)?.get(..pixels.checked_sub(1)? * all + lanes)?;
    if let Some(channels) = Rounding::new(cs, totals, zx, o) {
        let (sums, out) = (sums.as_ptr(), out.as_ptr());
        let job = Write { sums, pixels, lanes, channels: &raw const channels, out, apart: all, bounds: bounds(o) };
        // SAFETY: there is a sum of each channel of each pixel, and the first and the last pixel's elements lie in `out`.
        unsafe { nets::write(&raw const job) };
        return Some(());
    }
    for (sums, out) in sums.chunks_exact(lanes).zip(out.chunks(all)) {
        for (((sum, total), c), out) in sums.iter().zip(totals).zip(cs).zip(out) {
            out.set(i8::result(less(*sum, *total, zx), c, o));
        }
    }
    Some(())
}

/// See [`scalar::conv2d`].
pub fn conv2d(
    g: &Window,
    groups: NonZeroUsize,
    (x, zx): Input<'_, i8>,
    (w, zw): Weights<'_>,
    cs: &[Channel],
    o: &Output,
    out: &[Cell<i8>],
) -> Option<()> {
    let (columns, all) = (g.y.kernel * g.x.kernel * g.channels, cs.len());
    let padded = columns.next_multiple_of(4);
    // A pixel is its own patch.
    let alone = [&g.y, &g.x].iter().all(|axis| axis.kernel == 1 && axis.stride == 1) && padded == columns;
    let bytes = if alone { PATCHES } else { REGION };
    let pixels = (PATCHES / padded.max(1)).min(MOST_PIXELS);
    let (Some((rows, across)), 1, 1..) = (Region::size(g, bytes, bytes, pixels), groups.get(), columns) else {
        return scalar::conv2d(g, groups, (x, zx), (w, zw), cs, o, out);
    };
    let w = w.get(..all * columns)?;
    let mut region = [MaybeUninit::uninit(); REGION + BEYOND];
    let mut patches = [MaybeUninit::uninit(); PATCHES + BEYOND];
    let mut panel = [MaybeUninit::<i16>::uninit(); PANEL];
    let mut memory: Sums = [MaybeUninit::uninit(); _];
    let patches = filled(patches.get_mut(..rows * across * padded + BEYOND)?, 0i8);
    let inside = if alone { 0 } else { reach(&g.y, rows) * reach(&g.x, across) * g.channels + BEYOND };
    let inside = filled(region.get_mut(..inside)?, 0i8);
    for region in Region::all(g, rows, across) {
        if alone {
            region.copy::<0>(g, (x, zx), patches)?;
        } else {
            let width = region.copy::<0>(g, (x, zx), inside)?;
            region.patches(g, (inside, width), patches)?;
        }
        let (count, first) = (region.rows * region.columns, region.y * g.x.output + region.x);
        for (channel, cs) in (0..).step_by(lanes()).zip(cs.chunks(lanes())) {
            let lanes = cs.len();
            let sums = filled(memory.get_mut(..count * lanes)?, 0);
            let mut totals = [0; MOST_LANES];
            let most = PANEL / lanes / 4 * 4;
            for start in (0..padded).step_by(most) {
                let some = most.min(padded - start);
                let there = some.min(columns - start);
                let to: *mut i16 = panel.as_mut_ptr().cast();
                let from = w.get(channel * columns + start..)?;
                filled(panel.get_mut(there * lanes..some * lanes)?, 0);
                // SAFETY: the channels' filters lie in `w` from there on; there is room for `most` columns, so many of the patches'
                // pixels, padded, and a sum for each.
                unsafe {
                    nets::turn(from.as_ptr(), columns, there, lanes, zw, to, totals.as_mut_ptr());
                    let x = (patches.get(start..)?.as_ptr(), padded);
                    panel_sums(to, some, x, count, lanes, sums.as_mut_ptr());
                }
            }
            write(sums, (&totals, zx), (cs, o), (first * all + channel, all), out)?;
        }
    }
    Some(())
}

/// See [`scalar::depthwise_conv2d`].
pub fn depthwise_conv2d(
    g: &Window,
    multiplier: NonZeroUsize,
    (x, zx): Input<'_, i8>,
    (w, zw): Weights<'_>,
    cs: &[Channel],
    o: &Output,
    out: &[Cell<i8>],
) -> Option<()> {
    let (all, taps) = (cs.len(), g.y.kernel * g.x.kernel);
    let size = Region::size(g, PATCHES, PATCHES, MOST_PIXELS);
    let (Some((rows, columns)), 1, 1..=MOST_TAPS) = (size, multiplier.get(), taps) else {
        return scalar::depthwise_conv2d(g, multiplier, (x, zx), (w, zw), cs, o, out);
    };
    let mut memory = [MaybeUninit::uninit(); PATCHES + BEYOND];
    let mut weights = [0i16; MOST_TAPS * MOST_LANES];
    let mut sums: Sums = [MaybeUninit::uninit(); _];
    let memory = filled(memory.get_mut(..reach(&g.y, rows) * reach(&g.x, columns) * all + BEYOND)?, 0);
    for region in Region::all(g, rows, columns) {
        let width = region.copy::<0>(g, (x, zx), memory)?;
        let apart = [g.x.dilation.get() * all, g.y.dilation.get() * width * all, g.x.stride * all];
        for (channel, cs) in (0..).step_by(lanes()).zip(cs.chunks(lanes())) {
            let lanes = cs.len();
            let mut totals = [0; MOST_LANES];
            for (to, w) in weights.chunks_exact_mut(lanes).zip(w.chunks_exact(all)).take(taps) {
                for ((to, total), w) in to.iter_mut().zip(&mut totals).zip(w.get(channel..)?) {
                    *to = i16::from(*w) - zw as i16;
                    *total += i32::from(*to);
                }
            }
            let sums = filled(sums.get_mut(..region.rows * region.columns * lanes)?, 0);
            for (row, sums) in sums.chunks_exact_mut(region.columns * lanes).enumerate() {
                // The last pixel's last tap.
                let last = (g.y.kernel - 1) * apart[1] + (g.x.kernel - 1) * apart[0] + (region.columns - 1) * apart[2];
                let from = memory.get(row * g.y.stride * width * all + channel..)?.get(..last + lanes)?;
                let kernel = [g.y.kernel, g.x.kernel];
                let (x, w, pixels, sums) = (from.as_ptr(), weights.as_ptr(), region.columns, sums.as_mut_ptr());
                let job = Taps { x, apart, kernel, w, pixels, lanes, sums };
                // SAFETY: the first and the last of what is read lie in `from`, each tap's weights and each pixel's sums are there.
                unsafe { nets::depthwise(&raw const job) };
            }
            let at = (region.y * g.x.output + region.x) * all + channel;
            write(sums, (&totals, zx), (cs, o), (at, all), out)?;
        }
    }
    Some(())
}

/// See [`scalar::add`].
pub fn add(x: &[Cell<i8>], y: &[Cell<i8>], to: &[Cell<i8>], s: &Sum, o: &Output) {
    let of = |t: &Term| {
        let [added, multiplier, right, _] = usual(-(t.zero << t.up), t.multiplier, t.shift, o.rounding)?;
        Some([t.up as i32, added, multiplier, right, mask(right)])
    };
    let [a, b, sum] = &s.terms;
    let (Some(a), Some(b), Some(sum), false) = (of(a), of(b), of(sum), s.subtract) else {
        return scalar::add(x, y, to, s, o);
    };
    let count = x.len().min(y.len()).min(to.len());
    let (x, y, out) = (x.as_ptr(), y.as_ptr(), to.as_ptr());
    let job = nets::Add { x, y, out, count, backward: s.backward.into(), terms: [a, b, sum], bounds: bounds(o) };
    if count > 0 {
        // SAFETY: all have so many elements.
        unsafe { nets::add(&raw const job) };
    }
}
