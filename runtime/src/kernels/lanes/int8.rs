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
//! All of a tile is read before any of it is written, so what is right pixel by pixel is right here (`ops::Overlap`). What this
//! is not for, the scalar kernels do: weights with a zero point, filters of more than [`WORDS`] columns that are no fully connected
//! layer's.

use core::cell::Cell;
use core::mem::MaybeUninit;
use core::num::NonZeroUsize;

use super::{Dots, Taps, Write, core_loops};
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

    /// The inputs under output pixel `(y, x)`, `depth` channels of each from the first of `image` on.
    fn gather(&mut self, g: &Window, (y, x): (usize, usize), depth: usize, pixel: usize, (image, zero): Input<'_, i8>) {
        let ((rows, iy), (cols, ix)) = (g.y.taps(y), g.x.taps(x));
        if rows.len() < g.y.kernel || cols.len() < g.x.kernel {
            let columns = g.y.kernel * g.x.kernel * depth;
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
                self.put(pixel, (ky * g.x.kernel + cols.start + n) * depth, x, zero);
                n += together;
            }
        }
    }

    /// Adds to sums the dots of the pixels with `filters` filters (at least 1, with the pixels at most [`SUMS`]) that begin `apart` bytes from one another,
    /// `columns` of each.
    fn dots(&self, w: &[i8], [filters, columns, apart]: [usize; 3], sums: &mut Sums) -> Option<()> {
        let x = self.words.get(..columns * self.pixels)?;
        let fits = filters > 0 && filters * self.pixels <= SUMS && w.len() >= (filters - 1) * apart + columns;
        (fits && columns > 0 && apart >= columns).then_some(())?;
        let words = w.as_ptr().addr() % 4 == 0 && columns % 4 == 0 && apart % 4 == 0;
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
    sums: &Sums,
    [pixels, room]: [usize; 2],
    (cs, o, usual): (&[Channel], &Output, bool),
    (out, first, apart): (&[Cell<i8>], usize, isize),
) -> Option<()> {
    let pixel = |n: usize| out.get(first.wrapping_add((apart as usize).wrapping_mul(n))..)?.get(..cs.len());
    let fast = usual && pixels == room && !cs.is_empty();
    if fast {
        let (out, _) = (pixel(0)?.as_ptr(), pixel(pixels - 1)?);
        let (sums, channels, zero) = (sums.as_ptr(), cs.len(), o.zero_point);
        let mut job = Write { sums, cs: cs.as_ptr(), channels, out, apart, room: 4 * room, zero };
        // SAFETY: sums and channels are there; the first and the last pixel's elements lie in `out`, so all do.
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
    let connected = groups.get() == 1 && x.len() == columns && total == 1;
    if zw != 0 || columns == 0 || (columns > WORDS && !connected) {
        return scalar::conv2d(g, groups, (x, zx), (w, zw), cs, o, out);
    }
    let share = cs.len() / groups;
    // Groups are written before the next is read.
    let most = if groups.get() > 1 { 1 } else { WORDS / columns };
    let usual = is_usual(cs, o, columns);
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
            if columns <= WORDS {
                for pixel in 0..room {
                    let at = turned(done + pixel.min(pixels - 1));
                    patches.gather(g, (at / width, at % width), depth, pixel, (x.get(group * depth..)?, zx));
                }
            }
            let mut first = group * share;
            while first < (group + 1) * share {
                let some = cs.get(first..(first + step).min((group + 1) * share))?;
                let w = w.get(first * columns..)?;
                sums.get_mut(..some.len() * room)?.fill(0);
                if columns <= WORDS {
                    patches.dots(w, [some.len(), columns, columns], &mut sums)?;
                } else {
                    for (at, x) in (0..).step_by(WORDS).zip(x.chunks(WORDS)) {
                        patches.put(0, 0, x, zx);
                        patches.dots(w.get(at..)?, [some.len(), x.len(), columns], &mut sums)?;
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
    let middle = (low * n >> 16) + high * n + low * m;
    2 * high * m + ((middle >> 14) + 1 >> 1)
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
            shift => ((high + (high >> 31)) >> (!shift & 31)) + 1 >> 1,
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
    let words = (x.as_ptr().addr() | w.as_ptr().addr() | cs.len()) % 4 == 0;
    if zw != 0 || multiplier.get() != 1 || cs.len() < 4 || cs.len() != g.channels {
        return scalar::depthwise_conv2d(g, multiplier, (x, zx), (w, zw), cs, o, out);
    }
    let (x_tap, w_tap) = (g.x.dilation.get() * g.channels, cs.len());
    let (x_row, w_row) = (g.y.dilation.get() * g.x.input * g.channels, g.x.kernel * w_tap);
    let usual = is_usual(cs, o, g.y.kernel * g.x.kernel);
    let mut sums: Sums = [0; SUMS];
    g.pixels(out, cs.len(), |oy, ox, out| {
        let ((rows, iy), (cols, ix)) = (g.y.taps(oy), g.x.taps(ox));
        let at = [(iy * g.x.input + ix) * g.channels, (rows.start * g.x.kernel + cols.start) * w_tap];
        let mut done = 0;
        while done < cs.len() {
            // The last four may be in the group before, too: a unit's inputs are not written before it ends.
            let count = (cs.len() - done).min(SUMS);
            let (first, count) = if count < 4 { (cs.len() - 4, 4) } else { (done, count & !3) };
            let cs = cs.get(first..first + count)?;
            if rows.is_empty() || cols.is_empty() {
                sums = [0; SUMS];
            } else {
                // The last element of what is read is there.
                let (down, across) = (rows.len() - 1, cols.len() - 1);
                let x = x.get(at[0] + first..)?.get(..down * x_row + across * x_tap + count)?;
                let w = w.get(at[1] + first..)?.get(..down * w_row + across * w_tap + count)?;
                let mut taps = Taps {
                    x: x.as_ptr().cast(),
                    w: w.as_ptr(),
                    x_tap,
                    w_tap,
                    x_row: x_row.wrapping_sub(cols.len() * x_tap),
                    w_row: w_row - cols.len() * w_tap,
                    rows: rows.len(),
                    cols: cols.len(),
                    less: zx.wrapping_neg(),
                    groups: count / 4,
                    sums: sums.as_mut_ptr(),
                    left: 0,
                };
                // SAFETY: the first and the last of what is read have been seen to lie in `x` and `w`, words if all are multiples
                // of four; there is room for the sums.
                unsafe { if words { core_loops::taps_words(&mut taps) } else { core_loops::taps_bytes(&mut taps) } };
            }
            write(&sums, [1, 1], (cs, o, usual), (out, first, 0))?;
            done = first + count;
        }
        Some(())
    })
}
