//! Convolutions and fully connected layers of int8: [`crate::kernels::scalar::int8`], up to four pixels at a time.
//!
//! ```text
//! for each tile of up to four pixels:
//!   their patches, the inputs under each less the zero point, a word each               `Patches::gather`
//!   for each 16 output channels, or 64 of a single pixel:
//!     the sums, each weight read once for all pixels                                    `dots`
//!     their elements
//! ```
//!
//! A tile is a unit (`ops::Overlap`): what is right pixel by pixel is right here. Filters of more than [`WORDS`] columns come piece by
//! piece. No case is left to the scalar kernels, whose code would be linked beside this.

use core::cell::Cell;
use core::mem::MaybeUninit;
use core::num::NonZeroUsize;
use core::ops::Range;

use super::{Dots, Taps1, Taps4, Write, core_loops};
use crate::fixed::tflite::Rounding;
use crate::kernels::scalar::int8::{self as scalar, Channel, Input, Output, Quantized, Sum, Term, Weights, Window};

/// Words of activations.
const WORDS: usize = 1152;
/// Sums that are kept: of each channel those of the tile's pixels.
const SUMS: usize = 64;

/// Those of 64 channels of a pixel, 16 of four, an even number.
type Sums = [i32; SUMS];

/// Activations of the pixels of a tile.
struct Patches {
    /// [column][pixel]; those are there that have been put.
    words: [MaybeUninit<i32>; WORDS],
    /// Pixels of the tile: 1, 2 or 4.
    pixels: usize,
}

impl Patches {
    /// Puts `x` less `zero` at columns `at` and following of a pixel.
    fn put(&mut self, pixel: usize, at: usize, x: &[Cell<i8>], zero: i32) {
        let words = self.words.get_mut(at * self.pixels + pixel..).unwrap_or_default();
        if !x.is_empty() && (x.len() - 1) * self.pixels < words.len() {
            // SAFETY: there is room for the last word.
            unsafe { core_loops::put(words.as_mut_ptr().cast(), x.as_ptr(), x.len(), zero, 4 * self.pixels) };
        }
    }

    /// The inputs under output pixel `(y, x)`, `depth` channels of each from the first of `image` on. Of these columns the `piece`, if
    /// that is not all of them.
    fn gather(
        &mut self,
        g: &Window,
        (y, x): (usize, usize),
        (depth, piece): (usize, Option<&Range<usize>>),
        pixel: usize,
        (image, zero): Input<'_, i8>,
    ) {
        let ((rows, iy), (cols, ix)) = (g.y.taps(y), g.x.taps(x));
        if rows.len() < g.y.kernel || cols.len() < g.x.kernel {
            let columns = piece.map_or(g.y.kernel * g.x.kernel * depth, Range::len);
            let words = self.words.iter_mut().skip(pixel).step_by(self.pixels.max(1));
            words.take(columns).for_each(|word| *word = MaybeUninit::new(0));
        }
        // Taps side by side are side by side in memory.
        let together = if g.x.dilation.get() == 1 && depth == g.channels { cols.len() } else { 1 };
        for (n, ky) in rows.enumerate() {
            let row = (iy + n * g.y.dilation.get()) * g.x.input + ix;
            let mut n = 0;
            while n < cols.len() {
                let from = (row + n * g.x.dilation.get()) * g.channels;
                let x = image.get(from..).and_then(|x| x.get(..together * depth)).unwrap_or_default();
                let at = (ky * g.x.kernel + cols.start + n) * depth;
                match piece {
                    None => self.put(pixel, at, x, zero),
                    Some(piece) => self.put_piece(pixel, at, x, zero, piece),
                }
                n += together;
            }
        }
    }

    /// As [`Self::put`], of those columns that lie in the piece, whose first is column 0.
    #[inline(never)]
    fn put_piece(&mut self, pixel: usize, at: usize, x: &[Cell<i8>], zero: i32, piece: &Range<usize>) {
        let (first, end) = (at.max(piece.start), (at + x.len()).min(piece.end));
        if first < end {
            self.put(pixel, first - piece.start, x.get(first - at..end - at).unwrap_or_default(), zero);
        }
    }

    /// Takes off from the sums of `filters` filters the pixels' sums of `columns` columns, `zero` times each.
    fn less(&self, zero: i32, [filters, columns]: [usize; 2], sums: &mut Sums) -> Option<()> {
        for pixel in 0..self.pixels {
            let words = self.words.get(..columns * self.pixels)?.iter().skip(pixel).step_by(self.pixels);
            // SAFETY: the words of all columns have been put.
            let all = words.fold(0i32, |all, word| all.wrapping_add(unsafe { word.assume_init() }));
            for sum in sums.iter_mut().skip(pixel).step_by(self.pixels).take(filters) {
                *sum = sum.wrapping_sub(all.wrapping_mul(zero));
            }
        }
        Some(())
    }

    /// Adds to sums the dots of the pixels with `filters` filters (at least 1, with the pixels at most [`SUMS`]) that begin `apart` bytes from one another,
    /// `columns` of each.
    fn dots(&self, w: &[i8], [filters, columns, apart]: [usize; 3], sums: &mut Sums) -> Option<()> {
        let x = self.words.get(..columns * self.pixels)?;
        let fits = filters > 0 && filters * self.pixels <= SUMS && w.len() >= (filters - 1) * apart + columns;
        (fits && columns > 0 && apart >= columns).then_some(())?;
        let words = w.as_ptr().addr().is_multiple_of(4) && columns % 4 == 0 && apart % 4 == 0;
        let x = x.as_ptr().cast();
        let (w, sums, skip) = (w.as_ptr(), sums.as_mut_ptr(), apart - columns);
        let mut job = Dots { x, x_end: x.wrapping_add(columns * self.pixels), w, skip, filters, sums, apart };
        // SAFETY: the words of all columns have been put, the weights of all filters, and the sums of as many as there may be.
        unsafe {
            match (self.pixels, words) {
                (4, true) => core_loops::dots4_words(&mut job),
                (4, _) => core_loops::dots4_bytes(&mut job),
                (2, true) => core_loops::dots2_words(&mut job),
                (2, _) => core_loops::dots2_bytes(&mut job),
                _ => {
                    let pairs = if words { core_loops::dots1_words } else { core_loops::dots1_bytes };
                    job.skip += apart;
                    job.filters = filters / 2;
                    if filters > 1 {
                        pairs(&mut job);
                    }
                    if filters % 2 == 1 {
                        // The last is its own pair.
                        let (w, sums) = (w.add((filters - 1) * apart), sums.add(filters - 1));
                        pairs(&mut Dots { w, sums, skip: 0, filters: 1, apart: 0, ..job });
                    }
                }
            }
        }
        Some(())
    }
}

/// Whether sums of `products` products, with these channels' biases, become elements the short way.
fn is_usual(cs: &[Channel], o: &Output, products: usize) -> bool {
    // |sum + bias| < 2^29: the product's halves do not overflow.
    let room = (1u32 << 29).checked_sub((products as u32).saturating_mul(255 * 128));
    let Some(room) = room.filter(|_| o.rounding == Rounding::Double) else { return false };
    let Ok(cs) = bytemuck::try_cast_slice::<_, [i32; 3]>(cs) else { return false };
    // Without `from_le`: these cores are little-endian. Branches, not patterns, which an optimiser for size makes loops of.
    cs.iter().all(|c| c[0].unsigned_abs() < room && c[1] > 0 && c[2] < 0 && c[2] >= -30)
}

/// Writes the elements of `pixels` pixels' sums, of which `room` have one of each channel: of the first at `first` of `out`, of the
/// next `apart` elements behind. `usual`: see [`is_usual`].
#[inline(never)]
fn write(
    sums: &[i32],
    [pixels, room]: [usize; 2],
    (cs, o, usual): (&[Channel], &Output, bool),
    (out, first, apart): (&[Cell<i8>], usize, isize),
) -> Option<()> {
    let pixel = |n: usize| out.get(first.wrapping_add((apart as usize).wrapping_mul(n))..)?.get(..cs.len());
    let fast = usual && !cs.is_empty();
    if fast {
        let (out, _) = (pixel(0)?.as_ptr(), pixel(pixels - 1)?);
        let sums = sums.get(..cs.len() * room)?.as_ptr();
        let (channels, bytes, skip, zero) = (cs.len(), 4 * pixels, 4 * (room - pixels), o.zero_point);
        let mut job = Write { sums, cs: cs.as_ptr(), channels, out, apart, bytes, zero, skip };
        // SAFETY: sums and channels are there, at least one pixel of `room`; the first and the last pixel's elements lie in `out`, so all do.
        unsafe { if room == 1 { core_loops::write1(&mut job) } else { core_loops::write(&mut job) } }
        if (o.min, o.max) == (-128, 127) {
            return Some(());
        }
    }
    for n in 0..pixels {
        for ((sums, c), out) in sums.chunks_exact(room.max(1)).zip(cs).zip(pixel(n)?) {
            let value =
                if fast { i32::from(out.get()).max(o.min).min(o.max) as i8 } else { i8::result(*sums.get(n)?, c, o) };
            out.set(value);
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
    let depth = g.channels / groups;
    let columns = g.y.kernel * g.x.kernel * depth;
    let mut sums: Sums = [0; SUMS];
    let (width, total) = (NonZeroUsize::new(g.x.output)?, g.y.output * g.x.output);
    let share = cs.len() / groups;
    // Groups are written before the next is read.
    let most = if groups.get() > 1 { 1 } else { WORDS.checked_div(columns)? };
    // Differences of weights have a bit more.
    let usual = is_usual(cs, o, columns << u32::from(zw != 0));
    let apart = if g.backward { -(cs.len() as isize) } else { cs.len() as isize };
    let mut patches = Patches { words: [MaybeUninit::uninit(); WORDS], pixels: 1 };
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
        let step = SUMS >> (room / 2);
        let turned = |at: usize| if g.backward { total - 1 - at } else { at };
        for group in 0..groups.get() {
            // Nothing has been gathered.
            let mut piece = 0..0;
            let mut first = group * share;
            while first < (group + 1) * share {
                let some = cs.get(first..(first + step).min((group + 1) * share))?;
                let w = w.get(first * columns..)?;
                sums.get_mut(..some.len() * room)?.fill(0);
                for at in (0..columns).step_by(WORDS) {
                    let wanted = at..columns.min(at + WORDS);
                    if piece != wanted {
                        piece = wanted;
                        let some_of = (columns > WORDS).then_some(&piece);
                        for pixel in 0..room {
                            let at = turned(done + pixel.min(pixels - 1));
                            let at = (at / width, at % width);
                            patches.gather(g, at, (depth, some_of), pixel, (x.get(group * depth..)?, zx));
                        }
                    }
                    patches.dots(w.get(at..)?, [some.len(), piece.len(), columns], &mut sums)?;
                    if zw != 0 {
                        patches.less(zw, [some.len(), piece.len()], &mut sums)?;
                    }
                }
                let at = turned(done) * cs.len() + first;
                write(&sums, [pixels, room], (some, o, usual), (out, at, apart))?;
                first += step;
            }
        }
        done += pixels;
    }
    Some(())
}

/// `a * b * 2^-31`, halves up, for |a| < 2^29 and b in (0, 2^31): `fixed::tflite::high_mul` of products of 16 bits.
#[inline(always)]
fn high_mul(a: i32, b: i32) -> i32 {
    if cfg!(target_arch = "riscv32") {
        return ((i64::from(a) * i64::from(b) + (1 << 30)) >> 31) as i32;
    }
    let low = i32::from(a as i16);
    let (high, m, n) = ((a - low) >> 16, b >> 16, b & 0xFFFF);
    let middle = ((low * n) >> 16) + high * n + low * m;
    2 * high * m + (((middle >> 14) + 1) >> 1)
}

/// See [`scalar::add`].
pub fn add(x: &[Cell<i8>], y: &[Cell<i8>], to: &[Cell<i8>], s: &Sum, o: &Output) {
    // Terms are of 9 bits before they are moved up; their sum may be twice as large as either.
    let usual = |t: &Term| t.multiplier > 0 && (-30..=0).contains(&t.shift) && t.up <= 20;
    let [a, b, sum] = &s.terms;
    if ![a, b, sum].into_iter().all(usual) || o.rounding != Rounding::Double || sum.up != 0 {
        return scalar::add(x, y, to, s, o);
    }
    let scaled = |x: i32, t: &Term| {
        let high = high_mul(x, t.multiplier);
        // Halves away from zero: less one if negative, shifted by one less, and the last bit rounds up.
        match t.shift {
            0 => high,
            shift => (((high + (high >> 31)) >> (!shift & 31)) + 1) >> 1,
        }
    };
    let count = to.len().min(x.len()).min(y.len());
    let elements = x.iter().zip(y).zip(to).take(count);
    let each = |((x, y), to): ((&Cell<i8>, &Cell<i8>), &Cell<i8>)| {
        let x = scaled((i32::from(x.get()) - a.zero) << a.up, a);
        let y = scaled((i32::from(y.get()) - b.zero) << b.up, b);
        let both = scaled(if s.subtract { x - y } else { x + y }, sum);
        to.set((both + o.zero_point).max(o.min).min(o.max) as i8);
    };
    if s.backward { elements.rev().for_each(each) } else { elements.for_each(each) }
}

/// Channels of a depthwise convolution that are summed together.
const CHANNELS: usize = 64;
/// Taps of it that are listed together.
const TAPS: usize = 25;

/// See [`scalar::depthwise_conv2d`]. Four pixels of a row, a unit of `ops::Overlap`, read each weight once; whole words of a single one
/// go faster by themselves.
pub fn depthwise_conv2d(
    g: &Window,
    multiplier: NonZeroUsize,
    (x, zx): Input<'_, i8>,
    (w, zw): Weights<'_>,
    cs: &[Channel],
    o: &Output,
    out: &[Cell<i8>],
) -> Option<()> {
    let words = (x.as_ptr().addr() | w.as_ptr().addr() | cs.len()).is_multiple_of(4) && multiplier.get() == 1 && zw == 0;
    // Channels that read the same input channel, or side by side.
    let (together, x_step) =
        if multiplier.get() == 1 { (NonZeroUsize::new(cs.len())?, 1) } else { (multiplier, 0) };
    let usual = is_usual(cs, o, (g.y.kernel * g.x.kernel) << u32::from(zw != 0));
    let turned = |at: usize, count: usize| if g.backward { count - 1 - at } else { at };
    let mut sums = [0; 4 * CHANNELS];
    let tiles = NonZeroUsize::new(g.x.output.div_ceil(4))?;
    // All channels of all pixels and taps are there.
    (x.get(..g.y.input * g.x.input * g.channels)?, w.get(..g.y.kernel * g.x.kernel * cs.len())?);
    (cs.len() == g.channels * multiplier.get()).then_some(())?;
    for at in 0..g.y.output * tiles.get() {
        let at = turned(at, g.y.output * tiles.get());
        let (oy, tile) = (at / tiles, at % tiles);
        let (mut ox, end) = (4 * tile, g.x.output.min(4 * tile + 4));
        while ox < end {
            let alone = words && end - ox < 3;
            let pixels = if alone { 1 } else { end - ox };
            let to = (oy * g.x.output + ox) * cs.len();
            let mut first = 0;
            while first < cs.len() {
                let count = (together.get() - first % together).min(CHANNELS);
                if alone {
                    let image = (x.get(first..)?, zx);
                    one_pixel(g, [oy, ox], image, w.get(first..)?, [cs.len(), count], &mut sums)?;
                } else {
                    let channels = ([first / multiplier, first], [cs.len(), count]);
                    four_pixels(g, (oy, ox..end), ((x, zx), x_step), (w, zw), channels, &mut sums)?;
                }
                let room = if alone { 1 } else { 4 };
                write(&sums, [pixels, room], (cs.get(first..first + count)?, o, usual), (out, to + first, cs.len() as isize))?;
                first += count;
            }
            ox += pixels;
        }
    }
    Some(())
}

/// Sums of `count` channels of a pixel, whole words that begin `channels` apart.
fn one_pixel(
    g: &Window,
    [oy, ox]: [usize; 2],
    (x, zx): Input<'_, i8>,
    w: &[i8],
    [channels, count]: [usize; 2],
    sums: &mut [i32],
) -> Option<()> {
    let ((rows, iy), (cols, ix)) = (g.y.taps(oy), g.x.taps(ox));
    if rows.is_empty() || cols.is_empty() {
        sums.fill(0);
        return Some(());
    }
    let (x_tap, x_row) = (g.x.dilation.get() * channels, g.y.dilation.get() * g.x.input * channels);
    // The last element of what is read is there.
    let (down, across) = (rows.len() - 1, cols.len() - 1);
    let x = x.get((iy * g.x.input + ix) * channels..)?.get(..down * x_row + across * x_tap + count)?;
    let w = w.get((rows.start * g.x.kernel + cols.start) * channels..)?;
    let w = w.get(..(down * g.x.kernel + across) * channels + count)?;
    let mut taps = Taps1 {
        x: x.as_ptr().cast(),
        w: w.as_ptr(),
        x_tap,
        w_tap: channels,
        x_row: x_row.wrapping_sub(cols.len() * x_tap),
        w_row: (g.x.kernel - cols.len()) * channels,
        rows: rows.len(),
        cols: cols.len(),
        less: zx.wrapping_neg(),
        groups: count / 4,
        sums: sums.get_mut(..count)?.as_mut_ptr(),
        left: 0,
    };
    // SAFETY: the first and the last of what is read have been seen to lie in `x` and `w`, words as all are multiples of four; there
    // is room for the sums.
    unsafe { core_loops::taps1(&mut taps) };
    Some(())
}

/// Sums of `count` channels of up to four pixels of a row: [channel][pixel]. Taps outside the image are activations of the zero point.
/// Image and weights are whole, `first` is the first channel's place in each.
fn four_pixels(
    g: &Window,
    (oy, pixels): (usize, Range<usize>),
    ((x, zx), x_step): (Input<'_, i8>, usize),
    (w, zw): Weights<'_>,
    ([first_in, first], [channels, count]): ([usize; 2], [usize; 2]),
    sums: &mut [i32; 4 * CHANNELS],
) -> Option<()> {
    let (nothing, zero_weights) = ([zx as i8; CHANNELS], [zw as i8; CHANNELS]);
    let (rows, iy) = g.y.taps(oy);
    if rows.is_empty() {
        *sums = [0; 4 * CHANNELS];
    }
    // The pixels' first columns, less than 0 or beyond the last if they are outside.
    let mut cols = [0; 4];
    for (n, col) in cols.iter_mut().enumerate() {
        *col = ((pixels.start + n).min(pixels.end - 1) * g.x.stride).wrapping_sub(g.x.pad);
    }
    let (dilation, step) = (g.x.dilation.get(), g.x.dilation.get() * g.channels);
    let mut list = [MaybeUninit::<[*const i8; 5]>::uninit(); TAPS];
    let (mut listed, mut left, mut again) = (0, rows.len() * g.x.kernel, 0);
    let mut weights = w.as_ptr().wrapping_add(first + rows.start * g.x.kernel * channels);
    let mut row = x.as_ptr().cast::<i8>().wrapping_add(first_in + iy * g.x.input * g.channels);
    for _ in rows {
        let mut cols = cols;
        let mut inputs = cols.map(|col| row.wrapping_offset(col as isize * g.channels as isize));
        for _ in 0..g.x.kernel {
            let mut tap = [weights; 5];
            for ((to, input), col) in tap.iter_mut().skip(1).zip(&mut inputs).zip(&mut cols) {
                *to = if *col < g.x.input { *input } else { nothing.as_ptr() };
                *col = col.wrapping_add(dilation);
                *input = input.wrapping_add(step);
            }
            list.get_mut(listed)?.write(tap);
            weights = weights.wrapping_add(channels);
            (listed, left) = (listed + 1, left - 1);
            if listed < TAPS && left > 0 {
                continue;
            }
            let list = list.get_mut(..listed)?;
            let mut add = |list: &[MaybeUninit<[*const i8; 5]>], sums: &mut [i32]| {
                let (first, sums) = (list.as_ptr_range(), sums.as_mut_ptr());
                let (list, list_end) = (first.start.cast(), first.end.cast());
                let mut taps = Taps4 { list, list_end, x_step, channels: count, zero: zx, sums, again };
                // SAFETY: there is a tap at least, and all that are listed have been written; inside the image and the weights, which
                // are as long as `depthwise_conv2d` has seen, or in `nothing`. There is room for the sums.
                unsafe { core_loops::taps4(&mut taps) };
                again = 1;
            };
            add(list, sums);
            if zw != 0 {
                // Less the same with all weights zero: once more between two changes of sign.
                for tap in list.iter_mut() {
                    // SAFETY: it has been written.
                    unsafe { tap.assume_init_mut()[0] = zero_weights.as_ptr() };
                }
                negate(sums);
                add(list, sums);
                negate(sums);
            }
            listed = 0;
        }
        row = row.wrapping_add(g.y.dilation.get() * g.x.input * g.channels);
    }
    Some(())
}

#[cold]
#[inline(never)]
fn negate(sums: &mut [i32]) {
    sums.iter_mut().for_each(|sum| *sum = sum.wrapping_neg());
}
