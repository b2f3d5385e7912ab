//! Convolutions and fully connected layers of int8: [`crate::kernels::scalar::int8`], up to four pixels at a time.
//!
//! ```text
//! for each tile of up to four pixels:
//!   copy their patches, the inputs under each; where there are none, the zero point      `dots::copy`
//!   the elements of all channels, each vector of weights read once for four pixels       `dots::four_pixels`
//!   or, of one pixel, sums of some channels, then their elements                         `dots::one_pixel`, `rescale`
//! ```
//!
//! All of a tile is read before any of it is written, so what is right pixel by pixel is right here (`ops::Overlap`). What this
//! is not for, the scalar kernels do: weights with a zero point, filters of more than [`BYTES`].

use core::cell::Cell;
use core::mem::MaybeUninit;
use core::num::NonZeroUsize;

use super::dots::{Four, copy, fill, four_pixels, one_pixel};
use super::rescale::{self, Terms, sum_of_terms};
use super::taps::{Taps, eight_each, one_each, one_for_all};
use crate::fixed::tflite::Rounding;
use crate::kernels::scalar::int8::{
    self as scalar, Channel, Input, Output, Quantized, Sum, Term, Weights, Window, inside,
};

/// Bytes of patches.
const BYTES: usize = 4096;
/// Output channels whose sums are kept.
const CHANNELS: usize = 64;
/// Pixels of a tile.
const PIXELS: usize = 4;

/// Puts the inputs under output pixel `(y, x)`, `depth` channels of each from the first of `image` on, into `patch`.
fn gather(
    patch: &mut [MaybeUninit<i8>],
    g: &Window,
    (y, x): (usize, usize),
    depth: usize,
    (image, zero): Input<'_, i8>,
) -> Option<()> {
    let ((rows, iy), (cols, ix)) = (g.y.taps(y), g.x.taps(x));
    if rows.len() < g.y.kernel || cols.len() < g.x.kernel {
        // SAFETY: the patch is nobody else's.
        unsafe { fill(patch.as_mut_ptr().cast(), zero, patch.len()) };
    }
    // Taps side by side are side by side in memory.
    let together = if g.x.dilation.get() == 1 && depth == g.channels { cols.len() } else { 1 };
    for (n, ky) in rows.enumerate() {
        let row = (iy + n * g.y.dilation.get()) * g.x.input + ix;
        let mut n = 0;
        while n < cols.len() {
            let from = (row + n * g.x.dilation.get()) * g.channels;
            let x = image.get(from..)?.get(..together * depth)?;
            let to = patch.get_mut((ky * g.x.kernel + cols.start + n) * depth..)?.get_mut(..x.len())?;
            // SAFETY: both have as many bytes, and the patch is nobody else's.
            unsafe { copy(to.as_mut_ptr().cast(), x.as_ptr().cast(), x.len()) };
            n += together;
        }
    }
    Some(())
}

/// Writes the elements of some channels' sums; `usual`: see [`rescale::is_usual`].
fn write(sums: &[i32], cs: &[Channel], o: &Output, usual: bool, out: &[Cell<i8>]) -> Option<()> {
    let (sums, out) = (sums.get(..cs.len())?, out.get(..cs.len())?);
    if usual {
        let output = [o.zero_point, o.min, o.max];
        // SAFETY: there are as many sums and elements as channels.
        unsafe { rescale::rescale(sums.as_ptr(), cs.as_ptr(), cs.len(), out.as_ptr(), &output) };
    } else {
        for ((sum, c), out) in sums.iter().zip(cs).zip(out) {
            out.set(i8::result(*sum, c, o));
        }
    }
    Some(())
}

/// The elements of a pixel's patch, which has been gathered, with filters `w`.
fn pixel(
    patch: &[MaybeUninit<i8>],
    zero: i32,
    w: &[i8],
    (cs, o, usual): (&[Channel], &Output, bool),
    out: &[Cell<i8>],
) -> Option<()> {
    let columns = patch.len();
    let mut sums = [0; CHANNELS];
    for (some, cs) in cs.chunks(CHANNELS).enumerate() {
        let first = some * CHANNELS;
        let w = w.get(first * columns..)?.get(..cs.len() * columns)?;
        let x = patch.as_ptr().cast();
        // A single filter is one of two that are the same; of an odd number the last two come again.
        let apart = if cs.len() == 1 { 0 } else { columns };
        let pairs = (cs.len() / 2).max(1);
        // SAFETY: the filters lie in `w`, and there is room for two sums at least.
        unsafe { one_pixel(x, w.as_ptr(), columns, pairs, apart, zero, sums.as_mut_ptr()) };
        if cs.len() % 2 == 1 && cs.len() > 1 {
            let (w, to) = (w.get((cs.len() - 2) * columns..)?, sums.get_mut(cs.len() - 2..)?);
            // SAFETY: two filters are there, and room for two sums.
            unsafe { one_pixel(x, w.as_ptr(), columns, 1, apart, zero, to.as_mut_ptr()) };
        }
        write(&sums, cs, o, usual, out.get(first..)?)?;
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
    let depth = g.channels / groups;
    let columns = g.y.kernel * g.x.kernel * depth;
    if zw != 0 || !(1..=BYTES).contains(&columns) || i8::try_from(zx).is_err() {
        return scalar::conv2d(g, groups, (x, zx), (w, zw), cs, o, out);
    }
    let share = cs.len() / groups;
    let usual = rescale::is_usual(cs, o);
    // Groups are written before the next is read.
    let four = usual && groups.get() == 1 && PIXELS * columns <= BYTES && !cs.is_empty();
    let w = w.get(..cs.len() * columns)?;
    let mut patches = [const { MaybeUninit::<i8>::uninit() }; BYTES];
    let (width, total) = (NonZeroUsize::new(g.x.output)?, g.y.output * g.x.output);
    // Patches lie in the image as they do here.
    let one_tap = [&g.y, &g.x].map(|axis| (axis.kernel, axis.stride, axis.pad)) == [(1, 1, 0); 2];
    let plain = one_tap && depth == g.channels && g.x.input == g.x.output;
    let mut done = 0;
    while done < total {
        // Two pixels take no longer than four.
        let pixels = if four && total - done >= 2 { PIXELS.min(total - done) } else { 1 };
        let first = if g.backward { total - done - pixels } else { done };
        for group in 0..groups.get() {
            let x = x.get(group * depth..)?;
            if plain {
                let (x, to) =
                    (x.get(first * columns..)?.get(..pixels * columns)?, patches.get_mut(..pixels * columns)?);
                // SAFETY: both have as many bytes, and the patches are nobody else's.
                unsafe { copy(to.as_mut_ptr().cast(), x.as_ptr().cast(), x.len()) };
            } else {
                for pixel in 0..pixels {
                    let (at, patch) = (first + pixel, patches.get_mut(pixel * columns..)?.get_mut(..columns)?);
                    gather(patch, g, (at / width, at % width), depth, (x, zx))?;
                }
            }
            let channel = group * share;
            let out = out.get(first * cs.len() + channel..)?;
            let (cs, w) = (cs.get(channel..)?.get(..share)?, w.get(channel * columns..)?);
            if pixels == 1 {
                pixel(patches.get(..columns)?, zx, w, (cs, o, usual), out)?;
                continue;
            }
            let out = out.get(..pixels * share)?.as_ptr();
            // Pixels that are not there are the last one again.
            let four = Four {
                x: [0, 1, 2, 3].map(|pixel| patches.as_ptr().wrapping_add(pixel.min(pixels - 1) * columns).cast()),
                columns,
                w: w.as_ptr(),
                cs: cs.as_ptr(),
                beyond: columns as isize - columns.next_multiple_of(16) as isize,
                zeros: [zx, o.zero_point],
                out: [out, out.wrapping_add(share)],
                apart: [0, 1, 2, 3].map(|pixel| (pixel.min(pixels - 1) * share) as u32),
                limits: [o.min, o.max],
            };
            // SAFETY: patches and filters are there, and the pixels' elements lie in `out`.
            unsafe { four_pixels(&four) };
        }
        done += pixels;
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
    let one = multiplier.get() == 1;
    // Channels of a group; the last of them may be in the group before, too.
    let (group, over_taps): (usize, unsafe extern "C" fn(&Taps)) = match cs.len() {
        _ if !one => (8, one_for_all),
        ..16 => (8, eight_each),
        _ => (16, one_each),
    };
    // Channels side by side, of which groups are made.
    let together = if one { cs.len() } else { multiplier.get() };
    if zw != 0 || together < group || (!one && together % group != 0) || i8::try_from(zx).is_err() {
        return scalar::depthwise_conv2d(g, multiplier, (x, zx), (w, zw), cs, o, out);
    }
    let usual = rescale::is_usual(cs, o);
    let mut sums = [0; CHANNELS];
    let (x_tap, w_tap) = (g.x.dilation.get() * g.channels, cs.len());
    let apart = [[g.y.dilation.get() * g.x.input * g.channels, x_tap], [g.x.kernel * w_tap, w_tap]];
    g.pixels(out, cs.len(), |oy, ox, out| {
        let ((rows, iy), (cols, ix)) = (g.y.taps(oy), g.x.taps(ox));
        let taps = [rows.len(), cols.len()];
        let none = rows.is_empty() || cols.is_empty();
        if none {
            sums = [0; CHANNELS];
        }
        let at = [(iy * g.x.input + ix) * g.channels, (rows.start * g.x.kernel + cols.start) * w_tap];
        let mut first = 0;
        while first < cs.len() {
            // Up to the sums' room, the end of the channels, and the next activation of channels that share one.
            let count = (together - first % together).min(CHANNELS);
            let (begin, count) = if count < group { (cs.len() - group, group) } else { (first, count / group * group) };
            if !none {
                let (channel, channels) = if one { (begin, count) } else { (begin / multiplier, 1) };
                let taps = Taps {
                    x: inside(x, at[0] + channel, channels, taps, apart[0])?.cast(),
                    w: inside(w, at[1] + begin, count, taps, apart[1])?,
                    rows: taps[0],
                    cols: taps[1],
                    x_tap,
                    w_tap,
                    x_row: apart[0][0].wrapping_sub(taps[1] * x_tap),
                    w_row: apart[1][0].wrapping_sub(taps[1] * w_tap),
                    less: zx.wrapping_neg(),
                    groups: count / group,
                    sums: sums.as_mut_ptr(),
                };
                // SAFETY: the first and the last of what is read have been seen to lie in `x` and `w`; there is room for the sums.
                unsafe { over_taps(&taps) };
            }
            let cs = cs.get(begin..)?.get(..count)?;
            write(&sums, cs, o, usual, out.get(begin..)?)?;
            first = begin + count;
        }
        Some(())
    })
}

/// See [`scalar::add`].
pub fn add(x: &[Cell<i8>], y: &[Cell<i8>], to: &[Cell<i8>], s: &Sum, o: &Output) {
    let usual = |t: Term| t.multiplier > 0 && (-31..0).contains(&t.shift) && t.up < 31;
    let count = to.len().min(x.len()).min(y.len());
    let [a, b, c] = s.terms;
    let [a, b] = [a, b].map(Term::shifted);
    let all_usual = usual(a) && usual(b) && usual(c) && o.rounding == Rounding::Double && !s.subtract;
    let fours = if all_usual { count / 4 } else { 0 };
    // What is less than four comes last, which backward is first.
    let (first, rest) = if s.backward { (count % 4, 0..count - 4 * fours) } else { (0, 4 * fours..count) };
    if fours > 0 {
        let words = |t: Term| [t.zero, t.up as i32, t.multiplier, t.shift];
        let sum = [c.multiplier, c.shift, o.zero_point, o.min, o.max];
        let terms = Terms { terms: [words(a), words(b)], sum, step: if s.backward { -4 } else { 4 } };
        let begin = if s.backward { first + 4 * (fours - 1) } else { first };
        let (x, y, to) = (x.as_ptr(), y.as_ptr(), to.as_ptr());
        // SAFETY: all have as many elements.
        unsafe { sum_of_terms(x.wrapping_add(begin), y.wrapping_add(begin), to.wrapping_add(begin), fours, &terms) };
    }
    if let (Some(x), Some(y), Some(to)) = (x.get(rest.clone()), y.get(rest.clone()), to.get(rest)) {
        scalar::add(x, y, to, s, o);
    }
}
