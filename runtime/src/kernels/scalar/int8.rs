//! Convolutions, pools and fully connected layers of int8 and int16, as TensorFlow Lite's reference kernels define them.
//!
//! ```text
//! for each output pixel:
//!   the taps of the window that lie inside the image: a range of rows, a range of columns
//!   for each output channel:
//!     acc = bias + sum over taps and input channels of (weight - its zero point) * (x - zero point)
//!     out = clamp(requantize(acc, multiplier, shift) + zero point)                 `fixed::tflite`
//! ```
//!
//! Sums of int8 are int32 and exact, sums of int16 int64 ([`Quantized`]).
//!
//! A tap outside the image contributes nothing: padding is with the zero point. Images are [height, width, channels].
//! Input and output are cells, since one may lie on the other: which overlaps leave the numbers right is the planner's
//! business (`ops::Overlap`), and no overlap is a fault.
//! These are not in the [`Kernels`](crate::kernels::Kernels) table: a firmware for language models would link them.

use core::cell::Cell;
use core::num::NonZeroUsize;
use core::ops::Range;

use crate::fixed::tflite::{Rounding, requantize, requantize_each, requantize_wide};

/// One axis of a window that moves over an image.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// Input elements.
    pub input: usize,
    /// Output elements.
    pub output: usize,
    /// Taps.
    pub kernel: usize,
    /// Input elements from one output's window to the next's.
    pub stride: usize,
    /// Input elements from one tap to the next.
    pub dilation: NonZeroUsize,
    /// Input elements that the first window begins before the image.
    pub pad: usize,
}

impl Axis {
    /// One tap on each of `count` elements.
    #[must_use]
    pub fn each(count: usize) -> Self {
        Self { input: count, output: count, kernel: 1, stride: 1, dilation: NonZeroUsize::MIN, pad: 0 }
    }

    /// The taps of output `at` that lie inside, and the input element of the first of them.
    #[must_use]
    #[cfg_attr(mote_vector, inline(always))]
    pub fn taps(&self, at: usize) -> (Range<usize>, usize) {
        let start = at * self.stride;
        // All of them, as for most outputs: no division.
        match start.checked_sub(self.pad) {
            Some(from) if from + self.kernel.saturating_sub(1) * self.dilation.get() < self.input => {
                (0..self.kernel, from)
            }
            _ => self.some_taps(start),
        }
    }

    #[inline(never)]
    fn some_taps(&self, start: usize) -> (Range<usize>, usize) {
        let ceil = |n: usize| (n + self.dilation.get() - 1) / self.dilation;
        let before = self.pad.saturating_sub(start);
        let first = ceil(before);
        let end = ceil((self.pad + self.input).saturating_sub(start)).min(self.kernel);
        (first..end.max(first), start.saturating_sub(self.pad) + first * self.dilation.get() - before)
    }
}

#[cfg(feature = "steps")]
impl Axis {
    /// Leaves only `part` of the outputs, counted from the last if `backward`, and of the inputs only those that they see. Returns the
    /// first output, and how many inputs are before those left.
    pub(crate) fn cut(&mut self, part: Range<usize>, backward: bool) -> (usize, usize) {
        let first = if backward { self.output.saturating_sub(part.end) } else { part.start };
        let start = first * self.stride;
        let before = start.saturating_sub(self.pad);
        self.output = part.len();
        self.pad = self.pad.saturating_sub(start);
        let seen = part.len().saturating_sub(1) * self.stride + self.kernel.saturating_sub(1) * self.dilation.get() + 1;
        self.input = self.input.saturating_sub(before).min(seen.saturating_sub(self.pad));
        (first, before)
    }
}

impl Axis {
    /// The taps of output `at` of a transposed convolution that lie inside: numbers n of taps `first + n * stride`, which read
    /// input elements `last - n`; then `first` and `last`. (`dilation` is 1.)
    #[must_use]
    pub fn transposed_taps(&self, at: usize) -> (Range<usize>, usize, usize) {
        let stride = NonZeroUsize::new(self.stride).unwrap_or(NonZeroUsize::MIN);
        let (last, first) = ((at + self.pad) / stride, (at + self.pad) % stride);
        let start = (last + 1).saturating_sub(self.input);
        let end = ((self.kernel + stride.get() - 1).saturating_sub(first) / stride).min(last + 1);
        (start..end.max(start), first, last)
    }
}

/// A window over an image.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Vertical.
    pub y: Axis,
    /// Horizontal.
    pub x: Axis,
    /// Channels of the input.
    pub channels: usize,
    /// From the last output pixel to the first.
    pub backward: bool,
}

/// The place of item `n` of `count` in a loop that may begin with the last. Such a loop is there once: it is code, too.
pub(crate) fn in_turn(backward: bool, n: usize, count: usize) -> usize {
    if backward { count.wrapping_sub(1).wrapping_sub(n) } else { n }
}

impl Window {
    /// Calls `pixel` for each output pixel in order, with its row, its column and its `channels` cells of `out`.
    pub(crate) fn pixels<T>(
        &self,
        out: &[Cell<T>],
        channels: usize,
        mut pixel: impl FnMut(usize, usize, &[Cell<T>]) -> Option<()>,
    ) -> Option<()> {
        let width = NonZeroUsize::new(self.x.output)?;
        let total = self.y.output * self.x.output;
        for n in 0..total {
            let at = in_turn(self.backward, n, total);
            let out = out.get(at * channels..)?.get(..channels)?;
            pixel(at / width, at % width, out)?;
        }
        Some(())
    }
}

/// How a sum becomes an element of the output.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// The integer that stands for 0.
    pub zero_point: i32,
    /// Least result.
    pub min: i32,
    /// Largest result.
    pub max: i32,
    /// Rounding of the product.
    pub rounding: Rounding,
    /// Sums of int16 are 32 bits wide, modulo 2^32.
    pub narrow: bool,
}

impl Output {
    /// The result for `v`, which is at the output's scale already, before its zero point.
    #[must_use]
    pub fn limit(&self, v: i32) -> i32 {
        v.saturating_add(self.zero_point).max(self.min).min(self.max)
    }

    /// [`Output::limit`] as int8.
    #[must_use]
    pub fn clamp(&self, v: i32) -> i8 {
        self.limit(v) as i8
    }
}

/// Type of activations: int8, or int16 (TFLite's "16x8"), whose zero points are 0.
pub trait Quantized: bytemuck::Pod + Into<i32> + Send + Sync {
    /// What sums are computed in.
    type Acc: Copy;
    /// Of an output channel, little-endian words: bias (int32 for int8, int64 for int16), multiplier, shift.
    type Channel: bytemuck::Pod + Sync;
    /// No products.
    const ZERO: Self::Acc;
    /// The low bits.
    fn narrow(v: i32) -> Self;
    /// Adds a product, modulo the sum's size.
    fn add(acc: Self::Acc, product: i32) -> Self::Acc;
    /// Takes off `times` another sum, modulo the sum's size.
    fn less(acc: Self::Acc, other: Self::Acc, times: i32) -> Self::Acc;
    /// The element of the sum `acc` of an output channel.
    fn result(acc: Self::Acc, c: &Self::Channel, o: &Output) -> Self;
}

/// An output channel of int8: bias, multiplier, shift, little-endian.
pub type Channel = [[u8; 4]; 3];

impl Quantized for i8 {
    type Acc = i32;
    type Channel = Channel;
    const ZERO: i32 = 0;

    fn narrow(v: i32) -> Self {
        v as i8
    }

    fn add(acc: i32, product: i32) -> i32 {
        acc.wrapping_add(product)
    }

    fn less(acc: i32, other: i32, times: i32) -> i32 {
        acc.wrapping_sub(other.wrapping_mul(times))
    }

    #[inline(always)]
    fn result(acc: i32, c: &Self::Channel, o: &Output) -> Self {
        let [bias, multiplier, shift] = c.map(i32::from_le_bytes);
        o.clamp(requantize_each(acc.wrapping_add(bias), multiplier, shift, o.rounding))
    }
}

impl Quantized for i16 {
    type Acc = i64;
    type Channel = [[u8; 4]; 4];
    const ZERO: i64 = 0;

    fn narrow(v: i32) -> Self {
        v as i16
    }

    fn add(acc: i64, product: i32) -> i64 {
        acc.wrapping_add(product.into())
    }

    fn less(acc: i64, other: i64, times: i32) -> i64 {
        acc.wrapping_sub(other.wrapping_mul(times.into()))
    }

    fn result(acc: i64, c: &Self::Channel, o: &Output) -> Self {
        let [low, high, multiplier, shift] = c.map(i32::from_le_bytes);
        let sum = acc.wrapping_add(i64::from(high) << 32 | i64::from(low as u32));
        let scaled = if o.narrow {
            requantize(sum as i32, multiplier, shift, o.rounding)
        } else {
            requantize_wide(sum, multiplier, shift)
        };
        o.limit(scaled) as i16
    }
}

/// Activations and their zero point.
pub type Input<'a, T> = (&'a [Cell<T>], i32);

/// Weights and their zero point.
pub type Weights<'a> = (&'a [i8], i32);

/// What brings a term of a sum to a scale: `requantize((x - zero) << up, multiplier, shift)`.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    /// Zero point.
    pub zero: i32,
    /// Bits it is moved up before.
    pub up: u32,
    /// See [`requantize`].
    pub multiplier: i32,
    /// See [`requantize`].
    pub shift: i32,
}

impl Term {
    /// The same with a shift, which some backends' loops need: half of a term is exact, as twice as much with one more shift.
    #[cfg(any(mote_dsp, mote_mve))]
    pub(crate) fn shifted(self) -> Self {
        match self {
            Self { multiplier: 0x4000_0000, shift: 0, .. } => Self { shift: -1, up: self.up + 1, ..self },
            _ => self,
        }
    }
}

/// Where a stretch of `len` from `at` on begins, if the last element of `rows` and `cols` of them (at least 1) `apart` from one another
/// lies in `all`.
#[cfg(any(mote_dsp, mote_mve))]
pub(crate) fn inside<T>(
    all: &[T],
    at: usize,
    len: usize,
    [rows, cols]: [usize; 2],
    apart: [usize; 2],
) -> Option<*const T> {
    let reach = (rows - 1) * apart[0] + (cols - 1) * apart[1];
    Some(all.get(at..)?.get(..reach + len)?.as_ptr())
}

/// A sum of two tensors, or their difference.
#[derive(Clone, Copy, Debug)]
pub struct Sum {
    /// Both terms, and what their sum is brought to the output's scale by.
    pub terms: [Term; 3],
    /// The second term is subtracted.
    pub subtract: bool,
    /// From the last element to the first.
    pub backward: bool,
}

/// [`add`] of any kernels.
pub type AddFn<T> = fn(&[Cell<T>], &[Cell<T>], &[Cell<T>], &Sum, &Output);

/// `to = limit(requantize(requantize(x) + requantize(y)))`, or of the difference, element by element in order.
pub fn add<T: Quantized>(x: &[Cell<T>], y: &[Cell<T>], to: &[Cell<T>], s: &Sum, o: &Output) {
    let [a, b, sum] = &s.terms;
    let scaled = |x: i32, t: &Term| requantize(x.wrapping_sub(t.zero) << t.up, t.multiplier, t.shift, o.rounding);
    let each = |((x, y), to): ((&Cell<T>, &Cell<T>), &Cell<T>)| {
        let (x, y) = (scaled(x.get().into(), a), scaled(y.get().into(), b));
        let both = if s.subtract { x.wrapping_sub(y) } else { x.wrapping_add(y) };
        to.set(T::narrow(o.limit(scaled(both, sum))));
    };
    let elements = x.iter().zip(y).zip(to);
    if s.backward { elements.rev().for_each(each) } else { elements.for_each(each) }
}

/// [`conv2d`] or [`depthwise_conv2d`] of any kernels; the number is of groups, or the multiplier.
pub type ConvFn<T> = fn(
    &Window,
    NonZeroUsize,
    Input<'_, T>,
    Weights<'_>,
    &[<T as Quantized>::Channel],
    &Output,
    &[Cell<T>],
) -> Option<()>;

/// Some number of places in an image, and those in a filter which they meet.
#[derive(Clone, Copy)]
struct Steps {
    count: usize,
    /// Elements before the first: image, filter.
    first: [usize; 2],
    /// Elements from one to the next, modulo `usize`: an image may be read backward.
    step: [usize; 2],
}

impl Steps {
    /// The taps of output `at` of a convolution: from a tap to the next are so many elements of image and filter.
    #[inline(never)] // code that is run for each pixel only, and would be copied to many places
    fn new(axis: &Axis, at: usize, [x, w]: [usize; 2]) -> Self {
        let (taps, start) = axis.taps(at);
        Self { count: taps.len(), first: [start * x, taps.start * w], step: [axis.dilation.get() * x, w] }
    }

    /// As [`Steps::new`], of a transposed convolution: the next tap reads the element before.
    #[inline(never)]
    fn transposed(axis: &Axis, at: usize, [x, w]: [usize; 2]) -> Self {
        let (numbers, first, last) = axis.transposed_taps(at);
        let start = last.wrapping_sub(numbers.start).wrapping_mul(x);
        let first = [start, (first + numbers.start * axis.stride) * w];
        Self { count: numbers.len(), first, step: [x.wrapping_neg(), axis.stride * w] }
    }

    /// Where the places `n` of this and of `inner` begin, together: image, filter.
    fn at(&self, n: usize, inner: &Self, m: usize) -> [usize; 2] {
        let of = |steps: &Self, n: usize, i: usize| steps.first[i].wrapping_add(n.wrapping_mul(steps.step[i]));
        [of(self, n, 0).wrapping_add(of(inner, m, 0)), of(self, n, 1).wrapping_add(of(inner, m, 1))]
    }
}

/// The taps of a pixel that lie inside the image, in stretches of elements side by side in image and filter alike.
struct Taps {
    rows: Steps,
    /// The stretches of a row.
    stretches: Steps,
    /// Elements of a stretch.
    len: usize,
}

/// The `len` elements from `at` on.
fn stretch<T>(elements: &[T], at: usize, len: usize) -> Option<&[T]> {
    elements.get(at..)?.get(..len)
}

/// Pairs of elements, for unrolled loops, and what is left. On 32-bit Arm a loop over single elements takes all registers, so
/// there everything is left.
fn pairs<T>(elements: &[T]) -> (&[[T; 2]], &[T]) {
    if cfg!(target_arch = "arm") { (&[], elements) } else { elements.as_chunks() }
}

/// Adds to the sums of four output channels `(x - zx) * w` over a stretch, which begins in their filters at `at`: four, so that
/// each activation is read once for all. A function of its own, so that its loop has all registers.
///
/// 65 536 products of int8 fit int32, half as many if weights have a zero point.
#[inline(never)]
fn four_dots<T: Quantized>(
    sums: &mut [T::Acc; 4],
    (x, zx): Input<'_, T>,
    [a, b, c, d]: &[&[i8]; 4],
    at: usize,
) -> Option<()> {
    let of = |filter| Some(pairs(stretch(filter, at, x.len())?));
    let (wa, wb, wc, wd, x) = (of(a)?, of(b)?, of(c)?, of(d)?, pairs(x));
    let [mut a, mut b, mut c, mut d] = *sums;
    let mut add = |x: &Cell<T>, wa: i8, wb: i8, wc: i8, wd: i8| {
        let x = x.get().into() - zx;
        a = T::add(a, x * i32::from(wa));
        b = T::add(b, x * i32::from(wb));
        c = T::add(c, x * i32::from(wc));
        d = T::add(d, x * i32::from(wd));
    };
    for ((((x, a), b), c), d) in x.0.iter().zip(wa.0).zip(wb.0).zip(wc.0).zip(wd.0) {
        add(&x[0], a[0], b[0], c[0], d[0]);
        add(&x[1], a[1], b[1], c[1], d[1]);
    }
    for ((((x, a), b), c), d) in x.1.iter().zip(wa.1).zip(wb.1).zip(wc.1).zip(wd.1) {
        add(x, *a, *b, *c, *d);
    }
    *sums = [a, b, c, d];
    Some(())
}

/// Writes the elements of some channels' sums. A function of its own, since the code of [`Quantized::result`] is inlined.
#[inline(never)]
fn write<T: Quantized>(sums: &[T::Acc], cs: &[T::Channel], o: &Output, out: &[Cell<T>]) {
    for ((sum, c), out) in sums.iter().zip(cs).zip(out) {
        out.set(T::result(*sum, c, o));
    }
}

/// A pixel of a convolution: of each channel the sum of `(x - zx) * (w - zw)` over the taps, as an element of the output.
fn pixel<T: Quantized>(
    taps: &Taps,
    (x, zx): Input<'_, T>,
    (w, zw): Weights<'_>,
    filter: NonZeroUsize,
    (cs, o): (&[T::Channel], &Output),
    out: &[Cell<T>],
) -> Option<()> {
    let mut filters = w.chunks(filter.get());
    for (cs, out) in cs.chunks(4).zip(out.chunks(4)) {
        let first = filters.next()?;
        let mut next = || filters.next().unwrap_or(first);
        let four = [first, next(), next(), next()];
        let (mut sums, mut all) = ([T::ZERO; 4], T::ZERO);
        for row in 0..taps.rows.count {
            for col in 0..taps.stretches.count {
                let [x_at, w_at] = taps.rows.at(row, &taps.stretches, col);
                let x = stretch(x, x_at, taps.len)?;
                four_dots(&mut sums, (x, zx), &four, w_at)?;
                if zw != 0 {
                    all = x.iter().fold(all, |all, x| T::add(all, x.get().into() - zx));
                }
            }
        }
        if zw != 0 {
            sums = sums.map(|sum| T::less(sum, all, zw));
        }
        write(&sums, cs, o, out);
    }
    Some(())
}

/// 2D convolution: `x` [y.input, x.input, channels], `w` [out channels, y.kernel, x.kernel, depth]. With `groups` of channels,
/// `depth = channels / groups`, and each group of output channels sees its own input channels.
/// `None`: a shape does not fit its slice.
pub fn conv2d<T: Quantized>(
    g: &Window,
    groups: NonZeroUsize,
    (x, zx): Input<'_, T>,
    (w, zw): Weights<'_>,
    cs: &[T::Channel],
    o: &Output,
    out: &[Cell<T>],
) -> Option<()> {
    let depth = g.channels / groups;
    let filter = NonZeroUsize::new(g.y.kernel * g.x.kernel * depth)?;
    let share = NonZeroUsize::new(cs.len() / groups)?;
    g.pixels(out, cs.len(), |oy, ox, out| {
        let rows = Steps::new(&g.y, oy, [g.x.input * g.channels, g.x.kernel * depth]);
        let mut taps = Taps { rows, stretches: Steps::new(&g.x, ox, [g.channels, depth]), len: depth };
        // Taps side by side are side by side in memory, weights and image alike: one stretch a row.
        if g.x.dilation.get() == 1 && groups.get() == 1 {
            taps.len *= taps.stretches.count;
            taps.stretches.count = taps.stretches.count.min(1);
        }
        let of_groups =
            cs.chunks(share.get()).zip(w.chunks(share.saturating_mul(filter).get())).zip(out.chunks(share.get()));
        for (group, ((cs, w), out)) in of_groups.enumerate() {
            pixel(&taps, (x.get(group * depth..)?, zx), (w, zw), filter, (cs, o), out)?;
        }
        Some(())
    })
}

/// Transposed 2D convolution: as [`conv2d`] without groups, where tap k of output o reads input (o + pad - k) / stride if that
/// is whole. `None`: a shape does not fit its slice.
pub fn transpose_conv2d<T: Quantized>(
    g: &Window,
    x: Input<'_, T>,
    w: Weights<'_>,
    cs: &[T::Channel],
    o: &Output,
    out: &[Cell<T>],
) -> Option<()> {
    let filter = NonZeroUsize::new(g.y.kernel * g.x.kernel * g.channels)?;
    g.pixels(out, cs.len(), |oy, ox, out| {
        let rows = Steps::transposed(&g.y, oy, [g.x.input * g.channels, g.x.kernel * g.channels]);
        let stretches = Steps::transposed(&g.x, ox, [g.channels; 2]);
        pixel(&Taps { rows, stretches, len: g.channels }, x, w, filter, (cs, o), out)
    })
}

/// Adds to each sum the product of its activation and its weight.
fn add_products<T: Quantized>(sums: &mut [T::Acc], x: &[Cell<T>], w: &[i8], product: impl Fn(T, i8) -> i32) {
    let (sums, x, w) = (sums.as_chunks_mut::<4>(), x.as_chunks::<4>(), w.as_chunks::<4>());
    for (([a, b, c, d], x), w) in sums.0.iter_mut().zip(x.0).zip(w.0) {
        *a = T::add(*a, product(x[0].get(), w[0]));
        *b = T::add(*b, product(x[1].get(), w[1]));
        *c = T::add(*c, product(x[2].get(), w[2]));
        *d = T::add(*d, product(x[3].get(), w[3]));
    }
    for ((sum, x), w) in sums.1.iter_mut().zip(x.1).zip(w.1) {
        *sum = T::add(*sum, product(x.get(), *w));
    }
}

/// Depthwise convolution: `w` [1, y.kernel, x.kernel, out channels]; output channel c reads input channel
/// `c / multiplier`. `None`: a shape does not fit its slice.
pub fn depthwise_conv2d<T: Quantized>(
    g: &Window,
    multiplier: NonZeroUsize,
    (x, zx): Input<'_, T>,
    (w, zw): Weights<'_>,
    cs: &[T::Channel],
    o: &Output,
    out: &[Cell<T>],
) -> Option<()> {
    /// Channels whose sums are computed side by side, so that weights are read in order.
    const TILE: usize = 32;
    let one_each = multiplier.get() == 1;
    // Channels that read the same input channel, or side by side.
    let together = if one_each { NonZeroUsize::new(cs.len())? } else { multiplier };
    g.pixels(out, cs.len(), |oy, ox, out| {
        let rows = Steps::new(&g.y, oy, [g.x.input * g.channels, g.x.kernel * cs.len()]);
        let cols = Steps::new(&g.x, ox, [g.channels, cs.len()]);
        let mut first = 0;
        while first < cs.len() {
            let count = TILE.min(together.get() - first % together);
            let mut sums = [T::ZERO; TILE];
            let sums = sums.get_mut(..count)?;
            for row in 0..rows.count {
                for col in 0..cols.count {
                    let [x_at, w_at] = rows.at(row, &cols, col);
                    let (x, w) = (x.get(x_at + first / multiplier..)?, stretch(w, w_at + first, count)?);
                    match x.first()? {
                        _ if one_each && zw == 0 => {
                            add_products(sums, x.get(..count)?, w, |x, w| (x.into() - zx) * i32::from(w));
                        }
                        _ if one_each => {
                            add_products(sums, x.get(..count)?, w, |x, w| (x.into() - zx) * (i32::from(w) - zw));
                        }
                        x => {
                            let x = x.get().into() - zx;
                            for (sum, w) in sums.iter_mut().zip(w) {
                                *sum = T::add(*sum, x * (i32::from(*w) - zw));
                            }
                        }
                    }
                }
            }
            write(sums, cs.get(first..)?, o, out.get(first..)?);
            first += count;
        }
        Some(())
    })
}

/// A pool: each channel's values inside the window are folded from `start` by `fold`; `finish` gets the result and how
/// many there were, and what it gives is limited by `o`. `None`: a shape does not fit its slice.
pub fn pool2d<T: Quantized>(
    g: &Window,
    x: &[Cell<T>],
    fold: (i32, Fold<T>),
    (finish, flags, o): (Finish, u16, &Output),
    out: &[Cell<T>],
) -> Option<()> {
    let (start, fold) = fold;
    g.pixels(out, g.channels, |oy, ox, out| {
        let ((rows, iy), (cols, ix)) = (g.y.taps(oy), g.x.taps(ox));
        let count = (rows.len() * cols.len()) as i32;
        for (some, out) in out.chunks(FOLDED).enumerate() {
            let mut all = [start; FOLDED];
            for row in iy..iy + rows.len() {
                for col in ix..ix + cols.len() {
                    let at = (row * g.x.input + col) * g.channels + some * FOLDED;
                    fold(&mut all, stretch(x, at, out.len())?);
                }
            }
            for (all, out) in all.iter().zip(out) {
                out.set(T::narrow(o.limit(finish(*all, count, flags)?)));
            }
        }
        Some(())
    })
}

/// Channels that are folded together: on hosts as many as keep the call's cost small beside the work.
const FOLDED: usize = if cfg!(mote_vector) { 64 } else { 16 };

/// Folds a tap's values into those of the taps before, channel by channel.
pub type Fold<T> = fn(&mut [i32], &[Cell<T>]);

/// What becomes of what has been folded, of how many values that are, by the op's flags.
pub type Finish = fn(i32, i32, u16) -> Option<i32>;
