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

use crate::fixed::tflite::{Rounding, requantize, requantize_wide};

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
    pub fn taps(&self, at: usize) -> (Range<usize>, usize) {
        let ceil = |n: usize| (n + self.dilation.get() - 1) / self.dilation;
        let start = at * self.stride;
        let before = self.pad.saturating_sub(start);
        let first = ceil(before);
        let end = ceil((self.pad + self.input).saturating_sub(start)).min(self.kernel);
        (first..end.max(first), start.saturating_sub(self.pad) + first * self.dilation.get() - before)
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

impl Window {
    /// Calls `pixel` for each output pixel in order, with its row, its column and its `channels` cells of `out`.
    fn pixels<T>(
        &self,
        out: &[Cell<T>],
        channels: usize,
        mut pixel: impl FnMut(usize, usize, &[Cell<T>]) -> Option<()>,
    ) -> Option<()> {
        let turned = |at: usize, count: usize| if self.backward { count - 1 - at } else { at };
        for oy in 0..self.y.output {
            let oy = turned(oy, self.y.output);
            for ox in 0..self.x.output {
                let ox = turned(ox, self.x.output);
                let out = out.get((oy * self.x.output + ox) * channels..)?.get(..channels)?;
                pixel(oy, ox, out)?;
            }
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
pub trait Quantized: bytemuck::Pod + Into<i32> {
    /// What sums are computed in.
    type Acc: Copy;
    /// Of an output channel, little-endian words: bias (int32 for int8, int64 for int16), multiplier, shift.
    type Channel: bytemuck::Pod;
    /// No products.
    const ZERO: Self::Acc;
    /// The low bits.
    fn narrow(v: i32) -> Self;
    /// Adds a product, modulo the sum's size.
    fn add(acc: Self::Acc, product: i32) -> Self::Acc;
    /// The element of the sum `acc` of an output channel.
    fn result(acc: Self::Acc, c: &Self::Channel, o: &Output) -> Self;
}

impl Quantized for i8 {
    type Acc = i32;
    type Channel = [[u8; 4]; 3];
    const ZERO: i32 = 0;

    fn narrow(v: i32) -> Self {
        v as i8
    }

    fn add(acc: i32, product: i32) -> i32 {
        acc.wrapping_add(product)
    }

    fn result(acc: i32, c: &Self::Channel, o: &Output) -> Self {
        let [bias, multiplier, shift] = c.map(i32::from_le_bytes);
        o.clamp(requantize(acc.wrapping_add(bias), multiplier, shift, o.rounding))
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

/// `acc` and the sum of `(x - zx) * (w - zw)` over the shorter of both. 65 536 products of int8 fit int32, half as many if
/// `zw` is not 0.
fn dot<T: Quantized>(acc: T::Acc, x: &[Cell<T>], w: &[i8], [zx, zw]: [i32; 2]) -> T::Acc {
    let terms = x.iter().zip(w).map(|(x, w)| (x.get().into() - zx, i32::from(*w)));
    // Most weights have none; a subtraction less is a tenth of the time.
    if zw == 0 {
        terms.fold(acc, |acc, (x, w)| T::add(acc, x * w))
    } else {
        terms.fold(acc, |acc, (x, w)| T::add(acc, x * (w - zw)))
    }
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
        let ((rows, iy), (cols, ix)) = (g.y.taps(oy), g.x.taps(ox));
        // Taps side by side are side by side in memory, weights and image alike: one stretch a row.
        let side_by_side = g.x.dilation.get() == 1 && groups.get() == 1;
        let together = if side_by_side { cols.len().max(1) } else { 1 };
        let of_groups =
            cs.chunks(share.get()).zip(w.chunks(share.saturating_mul(filter).get())).zip(out.chunks(share.get()));
        for (group, ((cs, w), out)) in of_groups.enumerate() {
            for ((c, w), out) in cs.iter().zip(w.chunks(filter.get())).zip(out) {
                let mut acc = T::ZERO;
                for (n, ky) in rows.clone().enumerate() {
                    let row = (iy + n * g.y.dilation.get()) * g.x.input;
                    for (n, kx) in cols.clone().step_by(together).enumerate() {
                        let at = (row + ix + n * g.x.dilation.get()) * g.channels + group * depth;
                        let x = x.get(at..)?.get(..together * depth)?;
                        acc = dot(acc, x, w.get((ky * g.x.kernel + kx) * depth..)?, [zx, zw]);
                    }
                }
                out.set(T::result(acc, c, o));
            }
        }
        Some(())
    })
}

/// Transposed 2D convolution: as [`conv2d`] without groups, where tap k of output o reads input (o + pad - k) / stride if that
/// is whole. `None`: a shape does not fit its slice.
pub fn transpose_conv2d<T: Quantized>(
    g: &Window,
    (x, zx): Input<'_, T>,
    (w, zw): Weights<'_>,
    cs: &[T::Channel],
    o: &Output,
    out: &[Cell<T>],
) -> Option<()> {
    let filter = NonZeroUsize::new(g.y.kernel * g.x.kernel * g.channels)?.get();
    g.pixels(out, cs.len(), |oy, ox, out| {
        let ((rows, ky, iy), (cols, kx, ix)) = (g.y.transposed_taps(oy), g.x.transposed_taps(ox));
        for ((c, w), out) in cs.iter().zip(w.chunks(filter)).zip(out) {
            let mut acc = T::ZERO;
            for n in rows.clone() {
                let (tap, row) = ((ky + n * g.y.stride) * g.x.kernel, (iy - n) * g.x.input);
                for n in cols.clone() {
                    let x = x.get((row + ix - n) * g.channels..)?.get(..g.channels)?;
                    acc = dot(acc, x, w.get((tap + kx + n * g.x.stride) * g.channels..)?, [zx, zw]);
                }
            }
            out.set(T::result(acc, c, o));
        }
        Some(())
    })
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
    /// Output channels whose sums are computed side by side, so that weights are read in order.
    const TILE: usize = 16;
    g.pixels(out, cs.len(), |oy, ox, out| {
        let ((rows, iy), (cols, ix)) = (g.y.taps(oy), g.x.taps(ox));
        for (tile, (cs_tile, out)) in cs.chunks(TILE).zip(out.chunks(TILE)).enumerate() {
            let first = tile * TILE;
            let mut acc = [T::ZERO; TILE];
            for (n, ky) in rows.clone().enumerate() {
                let row = (iy + n * g.y.dilation.get()) * g.x.input;
                for (n, kx) in cols.clone().enumerate() {
                    let x = x.get((row + ix + n * g.x.dilation.get()) * g.channels..)?.get(..g.channels)?;
                    let w = w.get((ky * g.x.kernel + kx) * cs.len() + first..)?.get(..cs_tile.len())?;
                    if multiplier.get() == 1 && zw == 0 {
                        for ((acc, x), w) in acc.iter_mut().zip(x.get(first..)?).zip(w) {
                            *acc = T::add(*acc, (x.get().into() - zx) * i32::from(*w));
                        }
                    } else {
                        for ((acc, w), c) in acc.iter_mut().zip(w).zip(first..) {
                            let x: i32 = x.get(c / multiplier)?.get().into();
                            *acc = T::add(*acc, (x - zx) * (i32::from(*w) - zw));
                        }
                    }
                }
            }
            for ((acc, c), out) in acc.into_iter().zip(cs_tile).zip(out) {
                out.set(T::result(acc, c, o));
            }
        }
        Some(())
    })
}

/// A pool: each channel's values inside the window are folded from `start` by `fold`; `finish` gets the result and how
/// many there were. `None`: a shape does not fit its slice.
pub fn pool2d<T: Quantized>(
    g: &Window,
    x: &[Cell<T>],
    (start, fold): (i32, fn(i32, i32) -> i32),
    finish: impl Fn(i32, i32) -> Option<i32>,
    out: &[Cell<T>],
) -> Option<()> {
    g.pixels(out, g.channels, |oy, ox, out| {
        let ((rows, iy), (cols, ix)) = (g.y.taps(oy), g.x.taps(ox));
        let count = (rows.len() * cols.len()) as i32;
        for (c, out) in out.iter().enumerate() {
            let mut acc = start;
            for row in (iy..).take(rows.len()) {
                let x = x.get((row * g.x.input + ix) * g.channels + c..)?;
                for x in x.iter().step_by(g.channels.max(1)).take(cols.len()) {
                    acc = fold(acc, x.get().into());
                }
            }
            out.set(T::narrow(finish(acc, count)?));
        }
        Some(())
    })
}
