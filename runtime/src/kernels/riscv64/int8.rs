//! Convolutions and fully connected layers of int8: [`crate::kernels::scalar::int8`].
//!
//! ```text
//! for each region of pixels, as many as there is room for:
//!   their inputs, the zero point outside the image; of those the patches, the inputs under each      `nets::copy`
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
use crate::kernels::scalar::int8::{
    self as scalar, Axis, Channel, Input, Output, Quantized, Sum, Term, Weights, Window,
};
use crate::kernels::vector::int8::{MOST_PIXELS, MOST_TAPS, PATCHES, REGION, Region, reach, usual};
use crate::kernels::vector::matmul::filled;

/// Columns of a fully connected layer.
const MOST_COLUMNS: usize = 8192;

/// Sums of a region's pixels: [pixel][lane].
type Sums = [MaybeUninit<i32>; MOST_PIXELS * MOST_LANES];

impl Rounding {
    /// Of channels whose sums of weights are `totals`. `None` if one of them needs more than a rounding and a right shift.
    fn new(cs: &[Channel], totals: &[i32; MOST_LANES], zx: i32, o: &Output) -> Option<Self> {
        let zeros = [0; MOST_LANES];
        let mut all = Self { added: zeros, multiplier: zeros, right: zeros, shifts: zeros };
        let places = all.added.iter_mut().zip(&mut all.multiplier).zip(&mut all.right).zip(&mut all.shifts);
        // As words, which a tensor's are: bytes would be read one by one.
        let cs = bytemuck::try_cast_slice::<_, [i32; 3]>(cs).ok()?;
        for (([bias, by, shift], total), (((added, multiplier), right), shifts)) in cs.iter().zip(totals).zip(places) {
            let [bias, by, shift] = [bias, by, shift].map(|word| i32::from_le(*word));
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

/// Copies rows of `bytes` bytes, `apart` bytes from one to the next there and here; both begin where the slices do. `None` if there is
/// no room.
fn copy(to: &mut [i8], from: &[Cell<i8>], bytes: usize, rows: usize, apart: [usize; 2]) -> Option<()> {
    if bytes > 0 && rows > 0 {
        let [there, here] = apart.map(|apart| (rows - 1) * apart + bytes);
        let (to, from) = (to.get_mut(..there)?.as_mut_ptr(), from.get(..here)?.as_ptr());
        // SAFETY: the last row ends in both.
        unsafe { nets::copy(to, from, bytes, rows, apart[0], apart[1]) };
    }
    Some(())
}

/// A region's inputs, `[height, width, channels]`: the zero point outside the image. Returns their width.
fn inputs(region: &Region, g: &Window, (image, zero): Input<'_, i8>, to: &mut [i8]) -> Option<usize> {
    // Of an axis: inputs before the image, the first one inside, how many are inside, how many there are.
    let part = |axis: &Axis, first: usize, outputs: usize| {
        let (all, start) = (reach(axis, outputs), first * axis.stride);
        let (before, first) = (axis.pad.saturating_sub(start).min(all), start.saturating_sub(axis.pad));
        (before, first, (all - before).min(axis.input.saturating_sub(first)), all)
    };
    let (above, y, rows, height) = part(&g.y, region.y, region.rows);
    let (left, x, columns, width) = part(&g.x, region.x, region.columns);
    if (rows, columns) != (height, width) {
        to.get_mut(..height * width * g.channels)?.fill(zero as i8);
    }
    let from = image.get((y * g.x.input + x) * g.channels..).unwrap_or(&[]);
    let to = to.get_mut((above * width + left) * g.channels..)?;
    copy(to, from, columns * g.channels, rows, [width * g.channels, g.x.input * g.channels])?;
    Some(width)
}

/// Each pixel's inputs, `[kernel height, kernel width, channels]`, from those of a region, whose rows are `width` long; `padded` bytes
/// from a pixel to the next.
fn patches(
    region: &Region,
    g: &Window,
    (from, width): (&[Cell<i8>], usize),
    padded: usize,
    to: &mut [i8],
) -> Option<()> {
    // Taps side by side are side by side in memory, weights and inputs alike.
    let together = if g.x.dilation.get() == 1 { g.x.kernel } else { 1 };
    let (bytes, row) = (together * g.channels, width * g.channels);
    let pixels = (0..region.rows).flat_map(|y| (0..region.columns).map(move |x| (y, x)));
    for ((y, x), to) in pixels.zip(to.chunks_exact_mut(padded)) {
        let first = y * g.y.stride * row + x * g.x.stride * g.channels;
        for tap in (0..g.x.kernel).step_by(together) {
            let (from, to) =
                (from.get(first + tap * g.x.dilation.get() * g.channels..)?, to.get_mut(tap * g.channels..)?);
            copy(to, from, bytes, g.y.kernel, [g.x.kernel * g.channels, g.y.dilation.get() * row])?;
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
    let whole =
        |axis: &Axis| [axis.kernel, reach(axis, 1), axis.output] == [axis.input, axis.input, 1] && axis.pad == 0;
    if whole(&g.y) && whole(&g.x) && all % 2 == 0 && columns <= MOST_COLUMNS {
        return connected((x.get(..columns)?, zx), (w, zw), (cs, o), out);
    }
    let mut region = [MaybeUninit::uninit(); REGION];
    let mut room = [MaybeUninit::uninit(); PATCHES];
    let mut panel = [MaybeUninit::<i16>::uninit(); PANEL];
    let mut memory: Sums = [MaybeUninit::uninit(); _];
    let room = filled(room.get_mut(..rows * across * padded)?, 0i8);
    let inside = if alone { 0 } else { reach(&g.y, rows) * reach(&g.x, across) * g.channels };
    let inside = filled(region.get_mut(..inside)?, 0i8);
    for region in Region::all(g, rows, across) {
        if alone {
            inputs(&region, g, (x, zx), room)?;
        } else {
            let width = inputs(&region, g, (x, zx), inside)?;
            let inside = Cell::from_mut(&mut *inside).as_slice_of_cells();
            patches(&region, g, (inside, width), padded, room)?;
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
                    nets::turn(from.as_ptr(), columns, 1, there, lanes, zw, to, totals.as_mut_ptr());
                    let x = (room.get(start..)?.as_ptr(), padded);
                    panel_sums(to, some, x, count, lanes, sums.as_mut_ptr());
                }
            }
            write(sums, (&totals, zx), (cs, o), (first * all + channel, all), out)?;
        }
    }
    Some(())
}

/// A convolution of one pixel whose kernel is the image, or a fully connected layer with one row: each weight counts once, so none goes
/// into a panel. An even number of channels.
fn connected(
    (x, zx): Input<'_, i8>,
    (w, zw): Weights<'_>,
    (cs, o): (&[Channel], &Output),
    out: &[Cell<i8>],
) -> Option<()> {
    let mut inputs = [MaybeUninit::<i16>::uninit(); MOST_COLUMNS];
    let mut totals = [0; MOST_LANES];
    // All that fill the lanes, and the rest.
    let (lanes, whole) = (lanes(), x.len() / lanes() * lanes());
    for (first, count, lanes) in [(0, whole / lanes, lanes), (whole, 1, x.len() - whole)] {
        let (x, to) = (x.get(first..)?.as_ptr().cast(), inputs.get_mut(first..)?.as_mut_ptr().cast());
        if count * lanes > 0 {
            // SAFETY: so many are there, and have room.
            unsafe { nets::turn(x, 1, lanes, count, lanes, zx, to, totals.as_mut_ptr()) };
        }
    }
    let total = totals.iter().sum();
    let mut sums = [0; MOST_LANES];
    for (at, cs) in (0..).step_by(MOST_LANES).zip(cs.chunks(MOST_LANES)) {
        let w = w.get(at * x.len()..)?;
        // SAFETY: there are as many columns in `inputs`, an even number of filters from there on in `w`, and sums for them.
        unsafe { nets::dots(inputs.as_ptr().cast(), x.len(), w.as_ptr(), cs.len() / 2, x.len(), sums.as_mut_ptr()) };
        // As if each channel's sum of weights were this, and so the inputs' zero point the weights'.
        write(sums.get(..cs.len())?, (&[total; MOST_LANES], zw), (cs, o), (at, cs.len()), out)?;
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
    let mut memory = [MaybeUninit::uninit(); PATCHES];
    let mut weights = [MaybeUninit::<i16>::uninit(); MOST_TAPS * MOST_LANES];
    let mut sums: Sums = [MaybeUninit::uninit(); _];
    let memory = filled(memory.get_mut(..reach(&g.y, rows) * reach(&g.x, columns) * all)?, 0);
    for region in Region::all(g, rows, columns) {
        let width = inputs(&region, g, (x, zx), memory)?;
        let (tap, tap_row, pixel) = (g.x.dilation.get() * all, g.y.dilation.get() * width * all, g.x.stride * all);
        for (channel, cs) in (0..).step_by(lanes()).zip(cs.chunks(lanes())) {
            let lanes = cs.len();
            let mut totals = [0; MOST_LANES];
            let from = w.get(channel..taps * all)?.as_ptr();
            // SAFETY: each tap has weights of all channels, and room in the panel; no more lanes have totals.
            unsafe { nets::turn(from, 1, all, taps, lanes, zw, weights.as_mut_ptr().cast(), totals.as_mut_ptr()) };
            let count = region.columns;
            let sums = sums.get_mut(..region.rows * count * lanes)?;
            for (row, sums) in sums.chunks_exact_mut(count * lanes).enumerate() {
                // The last pixel's last tap.
                let last = (g.y.kernel - 1) * tap_row + (g.x.kernel - 1) * tap + (count - 1) * pixel;
                let from = memory.get(row * g.y.stride * width * all + channel..)?.get(..last + lanes)?;
                // An odd last one is its own other.
                for (first, pairs, other) in [(0, count / 2, 1), (count & !1, count & 1, 0)] {
                    if pairs > 0 {
                        let x = from.get(first * pixel..)?.as_ptr();
                        let sums = sums.get_mut(first * lanes..)?.as_mut_ptr().cast();
                        let (apart, kernel) = ([tap, tap_row, 2 * pixel], [g.y.kernel, g.x.kernel]);
                        let (w, other) = (weights.as_ptr().cast(), [other * pixel, other * 4 * lanes]);
                        let job = Taps { x, apart, kernel, w, pairs, other, lanes, sums };
                        // SAFETY: the first and the last of what is read lie in `from`, each tap's weights and each pixel's
                        // sums are there.
                        unsafe { nets::depthwise(&raw const job) };
                    }
                }
            }
            // SAFETY: each pixel's have just been written.
            let sums = unsafe { sums.assume_init_ref() };
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
