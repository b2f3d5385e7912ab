//! Convolutions and fully connected layers of int8: [`crate::kernels::scalar::int8`], up to four pixels at a time.
//!
//! ```text
//! for each tile of up to four pixels:
//!   spread their patches, the inputs under each, to 16 bits less the zero point            `dots::spread`
//!   for each 16 output channels:
//!     the sums, each word of weights read once for all pixels                              `dots`
//!     their elements                                                                       `rescale`
//! ```
//!
//! All of a tile is read before any of it is written, so what is right pixel by pixel is right here (`ops::Overlap`). What this
//! is not for, the scalar kernels do: weights with a zero point, filters of more than [`MOST_COLUMNS`].

use core::cell::Cell;
use core::num::NonZeroUsize;

use super::dots::{DotsFn, dots2, dots4, four_dots, spread};
use super::rescale::{self, sum_of_terms};
use super::taps::{Taps, one_each, one_for_all};
use crate::fixed::tflite::Rounding;
use crate::kernels::scalar::int8::{
    self as scalar, Channel, Input, Output, Quantized, Sum, Term, Weights, Window, inside,
};

/// Words of spread activations.
const WORDS: usize = 576;
/// Columns of a filter: two to a word.
const MOST_COLUMNS: usize = 2 * WORDS;
/// Output channels whose sums are kept.
const CHANNELS: usize = 16;
/// Pixels of a tile.
const PIXELS: usize = 4;

/// Spread activations of the pixels of a tile.
struct Patches {
    words: [u32; WORDS],
    /// Pixels of the tile: 1, 2 or 4.
    pixels: usize,
    /// Columns in the first quad, 1 to 4.
    first: usize,
    /// Quads, the first included.
    quads: usize,
}

impl Patches {
    /// Zeros for columns `from` to `to` of a pixel, multiples of 4.
    fn clear(&mut self, pixel: usize, from: usize, to: usize) {
        let words = self.words.iter_mut().skip(from / 2 * self.pixels + pixel);
        for word in words.step_by(self.pixels.max(1)).take(to.saturating_sub(from) / 2) {
            *word = 0;
        }
    }

    /// Puts `x` less `zero` at columns `at` and following of a pixel, whole quads.
    fn put(&mut self, pixel: usize, at: usize, x: &[Cell<i8>], zero: i32) {
        let quads = x.len() / 4;
        let last = (2 * quads).wrapping_sub(1).wrapping_mul(self.pixels);
        let to = self.words.get_mut(at / 2 * self.pixels + pixel..).unwrap_or_default();
        if last < to.len() {
            let less = zero.wrapping_neg() as u32 & 0xFFFF;
            // SAFETY: the quads are there and, as has been seen, the words. Nobody else writes these cells.
            unsafe { spread(to.as_mut_ptr(), x.as_ptr().cast(), quads, less << 16 | less, 4 * self.pixels) };
        }
    }

    /// The same of any place and number.
    #[inline(never)]
    fn put_any(&mut self, pixel: usize, at: usize, x: &[Cell<i8>], zero: i32) {
        // Columns behind a first quad that is not full begin with the next.
        let (in_first, x) = x.split_at(x.len().min(self.first.saturating_sub(at)));
        self.put_each(pixel, at, in_first, zero);
        let at = at + in_first.len() + 4 - self.first;
        let (before, x) = x.split_at(x.len().min(at.wrapping_neg() % 4));
        self.put_each(pixel, at, before, zero);
        let at = at + before.len();
        self.put(pixel, at, x, zero);
        let (quads, rest) = x.as_chunks::<4>();
        self.put_each(pixel, at + 4 * quads.len(), rest, zero);
    }

    /// The same, one by one.
    #[inline(never)]
    fn put_each(&mut self, pixel: usize, at: usize, x: &[Cell<i8>], zero: i32) {
        for (at, x) in (at..).zip(x) {
            let half = at % 4 / 2 * 16;
            if let Some(word) = self.words.get_mut((at / 4 * 2 + at % 2) * self.pixels + pixel) {
                let x = i32::from(x.get()) - zero;
                *word = *word & !(0xFFFF << half) | (x as u32 & 0xFFFF) << half;
            }
        }
    }

    /// The inputs under output pixel `(y, x)`, `depth` channels of each from the first of `image` on.
    fn gather(&mut self, g: &Window, (y, x): (usize, usize), depth: usize, pixel: usize, (image, zero): Input<'_, i8>) {
        let ((rows, iy), (cols, ix)) = (g.y.taps(y), g.x.taps(x));
        let row_columns = g.x.kernel * depth;
        // All taps begin with a quad.
        let whole = depth.is_multiple_of(4);
        if whole {
            self.clear(pixel, 0, rows.start * row_columns);
            self.clear(pixel, rows.end * row_columns, g.y.kernel * row_columns);
        } else if self.first < 4 || rows.len() < g.y.kernel || cols.len() < g.x.kernel {
            self.clear(pixel, 0, 4 * self.quads);
        }
        // Taps side by side are side by side in memory.
        let together = if g.x.dilation.get() == 1 && depth == g.channels { cols.len() } else { 1 };
        for (n, ky) in rows.enumerate() {
            let row = (iy + n * g.y.dilation.get()) * g.x.input + ix;
            let to = ky * row_columns;
            if whole && cols.len() < g.x.kernel {
                self.clear(pixel, to, to + cols.start * depth);
                self.clear(pixel, to + cols.end * depth, to + row_columns);
            }
            let mut n = 0;
            while n < cols.len() {
                let from = (row + n * g.x.dilation.get()) * g.channels;
                let x = image.get(from..).and_then(|x| x.get(..together * depth)).unwrap_or_default();
                let to = to + (cols.start + n) * depth;
                if whole {
                    self.put(pixel, to, x, zero);
                } else {
                    self.put_any(pixel, to, x, zero);
                }
                n += together;
            }
        }
    }

    /// Sums of the pixels with `channels` (1 to [`CHANNELS`]) filters that lie in `w`, those of a filter side by side.
    fn dots(&self, w: &[i8], channels: usize, sums: &mut [i32; CHANNELS * PIXELS]) -> Option<()> {
        let (filter, more) = (self.first + 4 * (self.quads - 1), self.quads - 1);
        (filter >= 4 && w.len() >= channels * filter && channels <= CHANNELS).then_some(())?;
        let words = self.words.as_ptr();
        let dots: DotsFn = match self.pixels {
            4 => dots4,
            2 => dots2,
            _ => {
                // Fewer than four: each four times. Else the last four, some of them for the second time.
                let (apart, step) = if channels < 4 { (0, 1) } else { (filter, 4) };
                let mut at = 0;
                while at < channels {
                    let first = if apart == 0 { at } else { at.min(channels - 4) };
                    let (w, to) = (w.get(first * filter..)?, sums.get_mut(first..)?.first_chunk_mut::<4>()?);
                    // SAFETY: the filters lie in `w`, the quads in the words.
                    unsafe { four_dots(words, w.as_ptr(), self.first, more, apart, to.as_mut_ptr()) };
                    at += step;
                }
                return Some(());
            }
        };
        // SAFETY: the filters lie in `w`, the quads in the words; there are sums of all channels.
        unsafe { dots(words, w.as_ptr(), self.first, more, channels, sums.as_mut_ptr()) };
        Some(())
    }
}

/// Where the elements of a tile go: those of the first channel of its first pixel, elements from a pixel to the next.
struct Place<'o> {
    out: &'o [Cell<i8>],
    first: usize,
    apart: isize,
}

impl Place<'_> {
    /// The elements of `count` channels of pixel `pixel`.
    fn pixel(&self, pixel: usize, count: usize) -> Option<&[Cell<i8>]> {
        let first = self.first.wrapping_add((self.apart as usize).wrapping_mul(pixel));
        self.out.get(first..)?.get(..count)
    }

    /// Writes the elements of `pixels` pixels' sums, of which `room` have one of each channel; `usual`: see [`rescale::is_usual`].
    fn write(
        &self,
        (pixels, room): (usize, usize),
        sums: &[i32; CHANNELS * PIXELS],
        (cs, o, usual): (&[Channel], &Output, bool),
    ) -> Option<()> {
        let fast = usual && pixels == room;
        if fast {
            let out = self.pixel(0, cs.len())?.as_ptr();
            self.pixel(pixels - 1, cs.len())?;
            let (sums, zero) = (sums.as_ptr(), o.zero_point);
            // SAFETY: sums and channels are there; the first and the last pixel's elements lie in `out`, so all do.
            unsafe {
                match room {
                    4 => rescale::four(sums, cs.as_ptr(), cs.len(), out, zero, self.apart),
                    2 => rescale::two(sums, cs.as_ptr(), cs.len(), out, zero, self.apart),
                    _ => rescale::one(sums, cs.as_ptr(), cs.len(), out, zero),
                }
            }
            if (o.min, o.max) == (-128, 127) {
                return Some(());
            }
        }
        for pixel in 0..pixels {
            let out = self.pixel(pixel, cs.len())?;
            for ((sums, c), out) in sums.chunks_exact(room.max(1)).zip(cs).zip(out) {
                let value = if fast {
                    i32::from(out.get()).max(o.min).min(o.max) as i8
                } else {
                    i8::result(*sums.get(pixel)?, c, o)
                };
                out.set(value);
            }
        }
        Some(())
    }
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
    if zw != 0 || !(4..=MOST_COLUMNS).contains(&columns) {
        return scalar::conv2d(g, groups, (x, zx), (w, zw), cs, o, out);
    }
    let share = cs.len() / groups;
    let usual = rescale::is_usual(cs, o, columns);
    let quads = columns.div_ceil(4);
    // Groups are written before the next is read.
    let most = if groups.get() > 1 { 1 } else { WORDS / 2 / quads };
    let mut patches = Patches { words: [0; WORDS], pixels: 1, first: (columns - 1) % 4 + 1, quads };
    let mut sums = [0; CHANNELS * PIXELS];
    let (width, total) = (NonZeroUsize::new(g.x.output)?, g.y.output * g.x.output);
    let mut done = 0;
    while done < total {
        // Three pixels take no longer than four.
        let room = match total - done {
            3.. if most >= 4 => 4,
            2.. if most >= 2 => 2,
            _ => 1,
        };
        let pixels = room.min(total - done);
        patches.pixels = room;
        let turned = |at: usize| if g.backward { total - 1 - at } else { at };
        let apart = cs.len() as isize;
        let apart = if g.backward { -apart } else { apart };
        for group in 0..groups.get() {
            for pixel in 0..pixels {
                let at = turned(done + pixel);
                patches.gather(g, (at / width, at % width), depth, pixel, (x.get(group * depth..)?, zx));
            }
            let mut first = group * share;
            while first < (group + 1) * share {
                let cs = cs.get(first..(first + CHANNELS).min((group + 1) * share))?;
                patches.dots(w.get(first * columns..)?, cs.len(), &mut sums)?;
                let place = Place { out, first: turned(done) * apart.unsigned_abs() + first, apart };
                place.write((pixels, room), &sums, (cs, o, usual))?;
                first += CHANNELS;
            }
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
    // Channels side by side, of which groups of four are made, the last of four that may be in the one before, too.
    let together = if one { cs.len() } else { multiplier.get() };
    if zw != 0 || together < 4 || (!one && together % 4 != 0) {
        return scalar::depthwise_conv2d(g, multiplier, (x, zx), (w, zw), cs, o, out);
    }
    let usual = rescale::is_usual(cs, o, g.y.kernel * g.x.kernel);
    let (over_taps, x_group): (unsafe extern "C" fn(&Taps), usize) = if one { (one_each, 4) } else { (one_for_all, 0) };
    let less = zx.wrapping_neg() as u32;
    let less = if one { less << 16 | less & 0xFFFF } else { less };
    let mut sums = [0; CHANNELS * PIXELS];
    let (x_tap, w_tap) = (g.x.dilation.get() * g.channels, cs.len());
    let apart = [[g.y.dilation.get() * g.x.input * g.channels, x_tap], [g.x.kernel * w_tap, w_tap]];
    g.pixels(out, cs.len(), |oy, ox, out| {
        let ((rows, iy), (cols, ix)) = (g.y.taps(oy), g.x.taps(ox));
        let taps = [rows.len(), cols.len()];
        if rows.is_empty() || cols.is_empty() {
            sums = [0; CHANNELS * PIXELS];
        }
        let at = [(iy * g.x.input + ix) * g.channels, (rows.start * g.x.kernel + cols.start) * w_tap];
        let mut first = 0;
        while first < cs.len() {
            // Up to the sums' room, the end of the channels, and the next activation of channels that share one.
            let left = (if one { cs.len() } else { together }) - first % together;
            let count = left.min(CHANNELS * PIXELS);
            let (begin, count) = if count < 4 { (cs.len() - 4, 4) } else { (first, count & !3) };
            if !rows.is_empty() && !cols.is_empty() {
                let (channel, channels) = if one { (begin, count) } else { (begin / multiplier, 1) };
                let taps = Taps {
                    x: inside(x, at[0] + channel, channels, taps, apart[0])?.cast(),
                    w: inside(w, at[1] + begin, count, taps, apart[1])?,
                    rows: taps[0],
                    cols: taps[1],
                    x_tap,
                    w_tap,
                    x_row: apart[0][0],
                    w_row: apart[1][0],
                    less,
                    groups: count / 4,
                    x_group,
                    sums: sums.as_mut_ptr(),
                };
                // SAFETY: the first and the last of what is read have been seen to lie in `x` and `w`; there is room for the sums.
                unsafe { over_taps(&taps) };
            }
            let cs = cs.get(begin..)?.get(..count)?;
            Place { out, first: begin, apart: 0 }.write((1, 1), &sums, (cs, o, usual))?;
            first = begin + count;
        }
        Some(())
    })
}

/// See [`scalar::add`].
pub fn add(x: &[Cell<i8>], y: &[Cell<i8>], to: &[Cell<i8>], s: &Sum, o: &Output) {
    let usual = |t: Term| t.multiplier > 0 && (-30..0).contains(&t.shift);
    let count = to.len().min(x.len()).min(y.len());
    let [a, b, c] = s.terms;
    let [a, b] = [a, b].map(Term::shifted);
    let all_usual = usual(a) && usual(b) && usual(c) && o.rounding == Rounding::Double;
    if !all_usual || (o.min, o.max) != (-128, 127) || count == 0 || s.subtract {
        return scalar::add(x, y, to, s, o);
    }
    // One more: the product is that of twice the term.
    let words = |t: Term| [t.zero, t.up as i32 + 1, t.multiplier, -t.shift];
    let terms = [words(a), words(b), [c.multiplier, -c.shift, o.zero_point, 0]];
    // SAFETY: all have as many elements.
    unsafe {
        sum_of_terms(x.as_ptr(), y.as_ptr(), to.as_ptr(), count, &terms, s.backward.into());
    }
}
