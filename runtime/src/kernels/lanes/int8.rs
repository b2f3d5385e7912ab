//! Convolutions and fully connected layers of int8: [`crate::kernels::scalar::int8`], up to six pixels at a time.
//!
//! ```text
//! for each tile of up to six pixels:
//!   their patches, the inputs under each less the zero point                            `Patches::gather`
//!   for each 16 output channels, 32 of three pixels or 64 of a single one:
//!     the sums, each weight read once for all pixels                                    `dots`
//!     their elements
//! ```
//!
//! Three pixels take two products of 32 bits, not three: their inputs under a tap, x, y and z, are two words, and so are their sums of
//! the words' products with a filter, X, Y and Z. These are exact while X and Y are within 2^20, Z within 2^21: [`exact`].
//!
//! ```text
//! a = x + z 2^21      A = X + Z 2^21 modulo 2^32         X = A's lower 21 bits, signed       l = (A - X) 2^-21 = Z modulo 2^11
//! b = y + z 2^10      B = Y + Z 2^10                     B - l 2^10 = Y + h 2^21, with Z = h 2^11 + l: Y and h as X and l
//! ```
//!
//! A tile is a unit (`ops::Overlap`) or more, and read before it is written: what is right pixel by pixel is right here. Filters of more
//! than [`WORDS`] columns come piece by piece. No case is left to the scalar kernels, whose code would be linked beside this.

use core::cell::Cell;
use core::mem::MaybeUninit;
use core::num::NonZeroUsize;
use core::ops::Range;

use super::{Dots, Put, Tap, Taps, Write, core_loops};
use crate::fixed::tflite::{Rounding, requantize};
use crate::kernels::scalar::int8::{Channel, Input, Output, Sum, Term, Weights, Window, in_turn};

/// Words of activations.
const WORDS: usize = 1152;
/// Sums that are kept: of each channel those of the tile's pixels.
const SUMS: usize = 96;
/// Columns of which products, of int8 by 9 bits, never sum up to 2^20.
const PIECE: usize = 32;
/// What weights without their signs may sum up to, that their products do not sum up to 2^20.
const MOST_WEIGHT: u32 = ((1 << 20) - 1) / 255;
/// Pixels from which on looking at all weights takes less time than it saves.
const MANY: usize = 24;

/// Those of 64 channels of a pixel, an even number, 32 of three, 16 of six.
type Sums = [i32; SUMS];

/// Pixels of a tile, their words of a column, and channels whose sums are kept.
const TILES: [(usize, usize, usize); 3] = [(6, 4, 16), (3, 2, 32), (1, 1, 64)];

/// Activations of the pixels of a tile.
struct Patches<'g> {
    g: &'g Window,
    /// The image, from a group's first channel on, whole; and its zero point.
    image: *const i8,
    zero: i32,
    /// Channels of a group.
    depth: usize,
    /// Pixels of the tile that there are, those it has room for, and words of a column: of [`TILES`].
    pixels: usize,
    room: usize,
    each: usize,
    /// From a pixel's inputs to those of the next in turn, in one row.
    behind: isize,
    /// Of the columns those that are there, at most [`WORDS`] of all pixels.
    piece: Range<usize>,
    /// [column][word]; those are there that have been put.
    words: &'g mut [MaybeUninit<i32>; WORDS],
    /// Columns whose products are summed up in words of three pixels, a multiple of [`PIECE`].
    exact: usize,
}

/// Row and column of the output pixel after this one, in turn.
#[inline(never)]
fn after(g: &Window, [row, col]: [usize; 2]) -> [usize; 2] {
    match (g.backward, col) {
        (false, _) if col + 1 == g.x.output => [row + 1, 0],
        (false, _) => [row, col + 1],
        (true, 0) => [row.wrapping_sub(1), g.x.output - 1],
        (true, _) => [row, col - 1],
    }
}

/// Columns, a multiple of [`PIECE`], of which products with these weights do not sum up to 2^20: filters of so many columns each.
#[inline(never)]
fn exact(w: &[i8], columns: usize) -> usize {
    if !(w.as_ptr().addr() | columns).is_multiple_of(4) {
        return PIECE;
    }
    let (mut at, end) = (w.as_ptr().cast::<u32>(), w.as_ptr_range().end.cast::<u32>());
    let (each, mut left, mut most) = (columns / 4, 0, 1);
    while at < end {
        if left == 0 {
            left = each;
        }
        let words = left.min(PIECE / 4);
        let mut sums = PIECE as u32;
        for _ in 0..words {
            // SAFETY: whole filters, of whole words.
            let word = unsafe { *at };
            at = at.wrapping_add(1);
            let negative = word >> 7 & 0x0101_0101;
            // Of negative ones one less.
            let sizes = word ^ ((negative << 8).wrapping_sub(negative));
            sums += (sizes & 0x00FF_00FF) + (sizes >> 8 & 0x00FF_00FF);
        }
        most = most.max((sums & 0xFFFF) + (sums >> 16));
        left -= words;
    }
    PIECE * (MOST_WEIGHT / most) as usize
}

// Functions of their own, that their loops have all registers.
impl Patches<'_> {
    /// The inputs under the tile's pixels from output pixel `at` on, in turn. Where there is none to take a place, the last takes it, too.
    #[inline(never)]
    fn gather(&mut self, at: usize) {
        let g = self.g;
        let Some(width) = NonZeroUsize::new(g.x.output) else { return };
        let mut at = [at / width, at % width];
        let (mut left, mut word) = (self.pixels, 0);
        while word < self.each {
            let [row, col] = at;
            let last = if g.backward { col.wrapping_sub(2) } else { col + 2 };
            if left >= 3 && last < g.x.output && self.put([row, col, last], word, false) {
                left -= 3;
                at = after(g, [row, last]);
            } else {
                for n in 0..self.room.min(3) {
                    self.put([at[0], at[1], at[1]], word + (n & 1), n == 2);
                    if left > 1 {
                        at = after(g, at);
                        left -= 1;
                    }
                }
            }
            word += 2;
        }
    }

    /// The inputs under a pixel, the third of a tile's or another; or under three up to column `last`. `false`: some of these have taps
    /// outside, and nothing is done.
    #[inline(never)]
    fn put(&mut self, [row, col, last]: [usize; 3], word: usize, third: bool) -> bool {
        let g = self.g;
        let ((rows, iy), (cols, ix)) = (g.y.taps(row), g.x.taps(col));
        let to = self.words.as_mut_ptr().cast::<i32>().wrapping_add(word);
        if rows.len() < g.y.kernel || cols.len() < g.x.kernel || g.x.taps(last).0.len() < g.x.kernel {
            if last != col {
                return false;
            }
            // A third pixel is added to what there is.
            if !third {
                for column in 0..self.piece.len() {
                    // SAFETY: the words of a piece.
                    unsafe { *to.add(column * self.each) = 0 };
                }
            }
        }
        let put: Put = match third {
            true => core_loops::put_third,
            false if last != col => core_loops::put3,
            false => core_loops::put,
        };
        // Taps side by side are side by side in memory.
        let (across, step) = (cols.len(), g.x.dilation.get() * g.channels);
        let (count, run) = if step == self.depth { (1, across * self.depth) } else { (across, self.depth) };
        let mut row = self.image.wrapping_add((iy * g.x.input + ix) * g.channels);
        for ky in rows {
            let mut column = (ky * g.x.kernel + cols.start) * self.depth;
            let mut x = row;
            for _ in 0..count {
                let (first, end) = (column.max(self.piece.start), (column + run).min(self.piece.end));
                if first < end {
                    let to = to.wrapping_add((first - self.piece.start) * self.each);
                    let x = x.wrapping_add(first - column);
                    // SAFETY: the taps lie in the image, which is whole, and their columns in the piece.
                    unsafe { put(to, x, end - first, self.zero, 4 * self.each, self.behind) };
                }
                column += run;
                x = x.wrapping_add(step);
            }
            row = row.wrapping_add(g.y.dilation.get() * g.x.input * g.channels);
        }
        true
    }

    /// Takes off from sums the pixel's sum of the columns, `zero` times each.
    #[inline(never)]
    fn less(&self, zero: i32, sums: &mut Sums) {
        let words = self.words.as_ptr().cast::<i32>();
        // SAFETY: the words of the piece have been put.
        let all = (0..self.piece.len()).fold(0i32, |all, column| all.wrapping_add(unsafe { *words.add(column) }));
        for sum in sums {
            *sum = sum.wrapping_sub(all.wrapping_mul(zero));
        }
    }

    /// Makes sums the dots of the pixels with `filters` filters, at least 1, of `apart` columns each; adds them if there is one pixel.
    ///
    /// # Safety
    /// The words of all columns have been put, the weights of all filters are there, and the sums of as many pixels as there is room for.
    #[inline(never)]
    unsafe fn dots(&self, w: *const i8, filters: usize, apart: usize, sums: *mut i32) {
        let columns = self.piece.len();
        let words = (w.addr() | columns | apart).is_multiple_of(4);
        let x = self.words.as_ptr().cast::<i32>();
        let x_end = x.wrapping_add(columns * self.each);
        let piece = 4 * self.exact * self.each;
        let mut job = Dots { x, x_end, w, skip: apart - columns, filters, sums, apart, piece };
        if self.room == 1 {
            job.skip += apart;
            job.filters = filters / 2;
        }
        // SAFETY: the caller's.
        unsafe {
            if job.filters > 0 {
                core_loops::dots(&mut job, self.room, words);
            }
            if self.room == 1 && filters % 2 == 1 {
                // The last is its own pair.
                (job.w, job.sums) = (w.add((filters - 1) * apart), sums.add(filters - 1));
                (job.filters, job.apart) = (1, 0);
                core_loops::dots(&mut job, 1, words);
            }
        }
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

/// Where elements go, and how they come about.
struct Elements<'e> {
    cs: &'e [Channel],
    o: &'e Output,
    /// See [`is_usual`].
    usual: bool,
    out: *const Cell<i8>,
    /// Elements from a pixel to the next.
    apart: isize,
}

impl Elements<'_> {
    /// Writes those of `pixels` pixels' sums, of which `room` have one of each channel: of pixel `at`, and those behind it.
    ///
    /// # Safety
    /// There are these channels, at least one, and their sums; the pixels are those of the output.
    #[inline(never)]
    unsafe fn write(&self, sums: *const i32, [pixels, room]: [usize; 2], at: usize, [first, channels]: [usize; 2]) {
        let (bytes, skip, cs) = (4 * pixels, 4 * (room - pixels), self.cs.as_ptr().wrapping_add(first));
        let (o, apart) = (self.o, self.apart);
        let out = self.out.wrapping_add(at * self.cs.len() + first);
        let mut job = Write { sums, cs, channels, out, apart, bytes, zero: o.zero_point, skip };
        if self.usual {
            // SAFETY: the caller's.
            unsafe { if room == 1 { core_loops::write1(&mut job) } else { core_loops::write(&mut job) } }
        }
        if !self.usual || (o.min, o.max) != (-128, 127) {
            for pixel in 0..pixels {
                let out = out.wrapping_offset(apart.wrapping_mul(pixel as isize));
                // SAFETY: the caller's.
                unsafe { self.long_way(sums.add(pixel), room, (cs, channels), out) };
            }
        }
    }

    /// As [`Self::write`], of one pixel: sums that are not usual, or the limits of elements that are written.
    ///
    /// # Safety
    /// There is a sum for each channel, `room` from one to the next, and an element.
    #[inline(never)]
    unsafe fn long_way(
        &self,
        mut sums: *const i32,
        room: usize,
        (cs, channels): (*const Channel, usize),
        out: *const Cell<i8>,
    ) {
        let o = self.o;
        for n in 0..channels {
            // SAFETY: the caller's.
            let (sum, c, out) = unsafe { (*sums, &*cs.add(n), &*out.add(n)) };
            out.set(if self.usual { o.clamp(i32::from(out.get()) - o.zero_point) } else { element(sum, c, o) });
            sums = sums.wrapping_add(room);
        }
    }
}

/// The element of a sum.
fn element(sum: i32, c: &Channel, o: &Output) -> i8 {
    let [bias, multiplier, shift] = c.map(i32::from_le_bytes);
    o.clamp(requantize(sum.wrapping_add(bias), multiplier, shift, o.rounding))
}

/// See [`crate::kernels::scalar::int8::conv2d`].
pub fn conv2d(
    g: &Window,
    groups: NonZeroUsize,
    (x, zx): Input<'_, i8>,
    (w, zw): Weights<'_>,
    cs: &[Channel],
    o: &Output,
    out: &[Cell<i8>],
) -> Option<()> {
    let (depth, share) = (g.channels / groups, cs.len() / groups);
    let columns = g.y.kernel * g.x.kernel * depth;
    let total = g.y.output * g.x.output;
    // All channels of all pixels and taps are there.
    let image = x.get(..g.y.input * g.x.input * g.channels)?.as_ptr().cast::<i8>();
    let (w, out) = (w.get(..cs.len() * columns)?, out.get(..cs.len() * total)?.as_ptr());
    // Groups are written before the next is read. Zero points of weights are the matter of single pixels.
    let most = WORDS.checked_div(columns)?;
    let most = if groups.get() > 1 || zw != 0 { 1 } else { most };
    // Differences of weights have a bit more.
    let usual = is_usual(cs, o, columns << u32::from(zw != 0));
    let apart = if g.backward { -(cs.len() as isize) } else { cs.len() as isize };
    let elements = Elements { cs, o, usual, out, apart };
    let (mut sums, mut words) = ([0; SUMS], [MaybeUninit::uninit(); WORDS]);
    let exact = if total >= MANY && most > 1 { exact(w, columns) } else { PIECE };
    let behind = (g.x.stride * g.channels) as isize;
    let mut patches = Patches {
        g,
        image,
        zero: zx,
        depth,
        behind: if g.backward { -behind } else { behind },
        pixels: 1,
        room: 1,
        each: 1,
        piece: 0..0,
        words: &mut words,
        exact,
    };
    let mut done = 0;
    while done < total {
        // Four pixels take no longer than six.
        let (room, each, channels) = match total - done {
            4.. if most >= 4 => TILES[0],
            2.. if most >= 2 => TILES[1],
            _ => TILES[2],
        };
        let pixels = room.min(total - done);
        (patches.pixels, patches.room, patches.each) = (pixels, room, each);
        patches.image = image;
        let at = in_turn(g.backward, done, total);
        let mut first = 0;
        for group in 1..=groups.get() {
            // Nothing has been gathered.
            patches.piece = 0..0;
            while first < group * share {
                let filters = (group * share - first).min(channels);
                if room == 1 {
                    sums.iter_mut().take(channels).for_each(|sum| *sum = 0);
                }
                let mut column = 0;
                while column < columns {
                    let piece = column..columns.min(column + WORDS);
                    if patches.piece != piece {
                        patches.piece = piece.clone();
                        patches.gather(at);
                    }
                    let w = w.as_ptr().wrapping_add(first * columns + column);
                    // SAFETY: there are the weights of these filters and columns, and as many sums as `TILES` says.
                    unsafe { patches.dots(w, filters, columns, sums.as_mut_ptr()) };
                    if zw != 0 {
                        patches.less(zw, &mut sums);
                    }
                    column = piece.end;
                }
                // SAFETY: these pixels are there, and these channels.
                unsafe { elements.write(sums.as_ptr(), [pixels, room], at, [first, filters]) };
                first += filters;
            }
            patches.image = patches.image.wrapping_add(depth);
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

/// See [`crate::kernels::scalar::int8::add`]. One loop for either order and for all terms: it is code, too.
pub fn add(x: &[Cell<i8>], y: &[Cell<i8>], to: &[Cell<i8>], s: &Sum, o: &Output) {
    // Terms are of 9 bits before they are moved up; their sum may be twice as large as either.
    let [a, b, sum] = &s.terms;
    let is_usual = |t: &Term| t.multiplier > 0 && (-30..=0).contains(&t.shift) && t.up <= 20;
    let usual = s.terms.iter().all(is_usual) && o.rounding == Rounding::Double && sum.up == 0;
    let scaled = |x: i32, t: &Term| {
        let x = x.wrapping_sub(t.zero).wrapping_shl(t.up);
        if !usual {
            return requantize(x, t.multiplier, t.shift, o.rounding);
        }
        let high = high_mul(x, t.multiplier);
        // Halves away from zero: less one if negative, shifted by one less, and the last bit rounds up.
        match t.shift {
            0 => high,
            shift => (((high + (high >> 31)) >> (!shift & 31)) + 1) >> 1,
        }
    };
    let count = to.len().min(x.len()).min(y.len());
    for n in 0..count {
        let at = in_turn(s.backward, n, count);
        let (Some(x), Some(y), Some(to)) = (x.get(at), y.get(at), to.get(at)) else { return };
        let (x, y) = (scaled(x.get().into(), a), scaled(y.get().into(), b));
        to.set(o.clamp(scaled(if s.subtract { x.wrapping_sub(y) } else { x.wrapping_add(y) }, sum)));
    }
}

/// Channels of a depthwise convolution that are summed together.
const CHANNELS: usize = 64;
/// Taps of it that are listed together.
const TAPS: usize = 25;

/// See [`crate::kernels::scalar::int8::depthwise_conv2d`]. Four pixels of a row, a unit of `ops::Overlap`, read each weight once; whole words of a single one
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
    let one_each = multiplier.get() == 1;
    let words = one_each && zw == 0 && (x.as_ptr().addr() | w.as_ptr().addr() | cs.len()).is_multiple_of(4);
    // Channels that read the same input channel, or side by side.
    let together = if one_each { NonZeroUsize::new(cs.len())? } else { multiplier };
    let usual = is_usual(cs, o, (g.y.kernel * g.x.kernel) << u32::from(zw != 0));
    let out = out.get(..g.y.output * g.x.output * cs.len())?.as_ptr();
    let elements = Elements { cs, o, usual, out, apart: cs.len() as isize };
    // All channels of all pixels and taps are there.
    let x = x.get(..g.y.input * g.x.input * g.channels)?.as_ptr().cast::<i8>();
    let w = w.get(..g.y.kernel * g.x.kernel * cs.len())?.as_ptr();
    (cs.len() == g.channels * multiplier.get()).then_some(())?;
    let (nothing, zero_weights) = ([u32::from_ne_bytes([zx as u8; 4]); CHANNELS / 4], [zw as i8; CHANNELS]);
    let mut list = [MaybeUninit::uninit(); TAPS];
    let mut sums = [0; 4 * CHANNELS];
    let mut work = Depthwise {
        g,
        apart: cs.len(),
        nothing: nothing.as_ptr().cast(),
        zero_weights: if zw == 0 { core::ptr::null() } else { zero_weights.as_ptr() },
        alone: false,
        job: Taps {
            list: core::ptr::null(),
            list_end: core::ptr::null(),
            x_step: one_each.into(),
            channels: 0,
            zero: zx,
            sums: sums.as_mut_ptr(),
            again: 0,
        },
        list: &mut list,
    };
    let tiles = NonZeroUsize::new(g.x.output.div_ceil(4))?;
    let all = g.y.output * tiles.get();
    for at in (0..all).map(|n| in_turn(g.backward, n, all)) {
        let (oy, mut ox) = (at / tiles, at % tiles * 4);
        let end = g.x.output.min(ox + 4);
        while ox < end {
            work.alone = words && end - ox < 3;
            let (pixels, room) = if work.alone { (1, 1) } else { (end - ox, 4) };
            let mut first = 0;
            while first < cs.len() {
                let channels = (together.get() - first % together).min(CHANNELS);
                work.job.channels = channels;
                work.sum(x.wrapping_add(first / multiplier), w.wrapping_add(first), oy, [ox, pixels]);
                // SAFETY: these pixels are there, and these channels.
                unsafe {
                    elements.write(sums.as_ptr(), [pixels, room], oy * g.x.output + ox, [first, channels]);
                }
                first += channels;
            }
            ox += pixels;
        }
    }
    Some(())
}

/// What is the same for all pixels of a depthwise convolution. Image, weights and sums are as its function has checked.
struct Depthwise<'g> {
    g: &'g Window,
    /// Weights from a tap to the next.
    apart: usize,
    /// A line of activations of the zero point: taps outside the image.
    nothing: *const i8,
    /// A line of the weights' zero points, if they have one.
    zero_weights: *const i8,
    /// Words of one pixel.
    alone: bool,
    job: Taps,
    list: &'g mut [MaybeUninit<Tap>; TAPS],
}

impl Depthwise<'_> {
    /// The sums of `pixels` pixels of row `oy`, from the first channel of the image, at `x`, and of the weights, at `w`.
    #[inline(never)]
    fn sum(&mut self, x: *const i8, w: *const i8, oy: usize, [ox, pixels]: [usize; 2]) {
        let g = self.g;
        let (rows, iy) = g.y.taps(oy);
        let mut row = x.wrapping_add(iy * g.x.input * g.channels);
        self.job.again = 0;
        // Pixels that are not wanted are outside, too.
        let (mut listed, inputs) = (0, if self.alone { 1 } else { 4 });
        for ky in rows {
            let mut w = w.wrapping_add(ky * g.x.kernel * self.apart);
            for kx in 0..g.x.kernel {
                let mut to = self.list.as_mut_ptr().wrapping_add(listed).cast::<*const i8>();
                // SAFETY: fewer than `TAPS` are listed, of 1 + 4 words each.
                unsafe { *to = w };
                // Of the first pixel; less than 0 or beyond the last if it is outside.
                let mut col = (ox * g.x.stride + kx * g.x.dilation.get()).wrapping_sub(g.x.pad);
                let mut inside = 0;
                for pixel in 0..inputs {
                    let mut input = self.nothing;
                    if col < g.x.input && pixel < pixels {
                        inside = 1;
                        input = row.wrapping_add(col * g.channels);
                    }
                    to = to.wrapping_add(1);
                    // SAFETY: as above.
                    unsafe { *to = input };
                    col = col.wrapping_add(g.x.stride);
                }
                w = w.wrapping_add(self.apart);
                listed += inside;
                if listed == TAPS {
                    self.add(listed);
                    listed = 0;
                }
            }
            row = row.wrapping_add(g.y.dilation.get() * g.x.input * g.channels);
        }
        if listed > 0 {
            self.add(listed);
        } else if self.job.again == 0 {
            self.add_nothing();
        }
    }

    /// Adds what is listed, one tap at least.
    fn add(&mut self, listed: usize) {
        self.job.list = self.list.as_ptr().cast();
        self.job.list_end = self.job.list.wrapping_add(listed);
        // SAFETY: there are as many sums, and all that are listed have been written: inside the image and the weights, or in lines as long
        // as there may be channels.
        unsafe {
            if self.alone { core_loops::taps1(&mut self.job.clone()) } else { core_loops::taps4(&mut self.job.clone()) }
        }
        self.job.again = 1;
        if !self.zero_weights.is_null() {
            self.less(listed);
        }
    }

    /// Less what is listed with all weights zero: once more between two changes of sign.
    #[inline(never)]
    fn less(&mut self, listed: usize) {
        for tap in self.list.iter_mut().take(listed) {
            // SAFETY: it has been written.
            unsafe { tap.assume_init_mut()[0] = self.zero_weights };
        }
        self.each_sum(i32::wrapping_neg);
        self.job.list = self.list.as_ptr().cast();
        // SAFETY: as above.
        unsafe { core_loops::taps4(&mut self.job.clone()) };
        self.each_sum(i32::wrapping_neg);
    }

    #[inline(never)]
    fn add_nothing(&mut self) {
        self.each_sum(|_| 0);
    }

    fn each_sum(&mut self, f: fn(i32) -> i32) {
        for at in 0..4 * CHANNELS {
            // SAFETY: there are as many sums.
            unsafe { *self.job.sums.add(at) = f(*self.job.sums.add(at)) };
        }
    }
}
