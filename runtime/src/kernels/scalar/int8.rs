//! Int8 convolutions, pools and fully connected layers, as TensorFlow Lite's reference kernels define them.
//!
//! ```text
//! for each output pixel:
//!   the taps of the window that lie inside the image: a range of rows, a range of columns
//!   for each output channel:
//!     acc = bias + sum over taps and input channels of weight * (x - zero point)      int32, exact
//!     out = clamp(requantize(acc, multiplier, shift) + zero point)                    one rounding rule, `fixed::tflite`
//! ```
//!
//! A tap outside the image contributes nothing: padding is with the zero point. Images are [height, width, channels].
//! Input and output are cells, since one may lie on the other: which overlaps leave the numbers right is the planner's
//! business (`ops::Overlap`), and no overlap is a fault.
//! These are not in the [`Kernels`](crate::kernels::Kernels) table: a firmware for language models would link them.

use core::cell::Cell;
use core::num::NonZeroUsize;
use core::ops::Range;

use crate::fixed::tflite::{Rounding, requantize};

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
    /// Calls `pixel` for each output pixel in order, with its taps, vertical, then horizontal (see [`Axis::taps`]), and its
    /// `channels` cells of `out`.
    fn pixels<T>(
        &self,
        out: &[Cell<T>],
        channels: usize,
        mut pixel: impl FnMut((Range<usize>, usize), (Range<usize>, usize), &[Cell<T>]) -> Option<()>,
    ) -> Option<()> {
        let turned = |at: usize, count: usize| if self.backward { count - 1 - at } else { at };
        for oy in 0..self.y.output {
            let oy = turned(oy, self.y.output);
            for ox in 0..self.x.output {
                let ox = turned(ox, self.x.output);
                let out = out.get((oy * self.x.output + ox) * channels..)?.get(..channels)?;
                pixel(self.y.taps(oy), self.x.taps(ox), out)?;
            }
        }
        Some(())
    }
}

/// How a sum becomes an int8.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// The integer that stands for 0.
    pub zero_point: i32,
    /// Least result.
    pub min: i8,
    /// Largest result.
    pub max: i8,
    /// Rounding of the product.
    pub rounding: Rounding,
}

impl Output {
    /// The int8 of `v`, which is at the output's scale already, before its zero point.
    #[must_use]
    pub fn clamp(&self, v: i32) -> i8 {
        let (min, max) = (i32::from(self.min), i32::from(self.max));
        v.saturating_add(self.zero_point).max(min).min(max) as i8
    }

    /// The int8 of the sum `acc` of the output channel `c`.
    fn of(&self, acc: i32, c: &Channel) -> i8 {
        let [bias, multiplier, shift] = *c;
        let word = i32::from_le_bytes;
        self.clamp(requantize(acc.wrapping_add(word(bias)), word(multiplier), word(shift), self.rounding))
    }
}

/// Of an output channel, little-endian: bias, multiplier, shift.
pub type Channel = [[u8; 4]; 3];

/// `sum of w * (x - zero_point)` over the shorter of both. 65 536 products fit int32.
fn dot(x: &[Cell<i8>], w: &[i8], zero_point: i32) -> i32 {
    x.iter().zip(w).fold(0, |acc: i32, (x, w)| acc.wrapping_add((i32::from(x.get()) - zero_point) * i32::from(*w)))
}

/// 2D convolution: `x` [y.input, x.input, channels], `w` [out channels, y.kernel, x.kernel, channels].
/// `None`: a shape does not fit its slice.
pub fn conv2d(
    g: &Window,
    (x, zero_point): (&[Cell<i8>], i32),
    w: &[i8],
    cs: &[Channel],
    o: &Output,
    out: &[Cell<i8>],
) -> Option<()> {
    let filter = NonZeroUsize::new(g.y.kernel * g.x.kernel * g.channels)?.get();
    g.pixels(out, cs.len(), |(rows, iy), (cols, ix), out| {
        // Taps side by side are side by side in memory, weights and image alike: one stretch a row.
        let together = if g.x.dilation.get() == 1 { cols.len().max(1) } else { 1 };
        for ((c, w), out) in cs.iter().zip(w.chunks(filter)).zip(out) {
            let mut acc = 0i32;
            for (n, ky) in rows.clone().enumerate() {
                let row = (iy + n * g.y.dilation.get()) * g.x.input;
                for (n, kx) in cols.clone().step_by(together).enumerate() {
                    let at = (row + ix + n * g.x.dilation.get()) * g.channels;
                    let x = x.get(at..)?.get(..together * g.channels)?;
                    acc = acc.wrapping_add(dot(x, w.get((ky * g.x.kernel + kx) * g.channels..)?, zero_point));
                }
            }
            out.set(o.of(acc, c));
        }
        Some(())
    })
}

/// Depthwise convolution: `w` [1, y.kernel, x.kernel, out channels]; output channel c reads input channel
/// `c / multiplier`. `None`: a shape does not fit its slice.
pub fn depthwise_conv2d(
    g: &Window,
    multiplier: NonZeroUsize,
    (x, zero_point): (&[Cell<i8>], i32),
    w: &[i8],
    cs: &[Channel],
    o: &Output,
    out: &[Cell<i8>],
) -> Option<()> {
    /// Output channels whose sums are computed side by side, so that weights are read in order.
    const TILE: usize = 16;
    g.pixels(out, cs.len(), |(rows, iy), (cols, ix), out| {
        for (tile, (cs_tile, out)) in cs.chunks(TILE).zip(out.chunks(TILE)).enumerate() {
            let first = tile * TILE;
            let mut acc = [0i32; TILE];
            for (n, ky) in rows.clone().enumerate() {
                let row = (iy + n * g.y.dilation.get()) * g.x.input;
                for (n, kx) in cols.clone().enumerate() {
                    let x = x.get((row + ix + n * g.x.dilation.get()) * g.channels..)?.get(..g.channels)?;
                    let w = w.get((ky * g.x.kernel + kx) * cs.len() + first..)?.get(..cs_tile.len())?;
                    if multiplier.get() == 1 {
                        for ((acc, x), w) in acc.iter_mut().zip(x.get(first..)?).zip(w) {
                            *acc = acc.wrapping_add((i32::from(x.get()) - zero_point) * i32::from(*w));
                        }
                    } else {
                        for ((acc, w), c) in acc.iter_mut().zip(w).zip(first..) {
                            let x = i32::from(x.get(c / multiplier)?.get());
                            *acc = acc.wrapping_add((x - zero_point) * i32::from(*w));
                        }
                    }
                }
            }
            for ((acc, c), out) in acc.into_iter().zip(cs_tile).zip(out) {
                out.set(o.of(acc, c));
            }
        }
        Some(())
    })
}

/// A pool: each channel's values inside the window are folded from `start` by `fold`; `finish` gets the result and how
/// many there were. `None`: a shape does not fit its slice.
pub fn pool2d(
    g: &Window,
    x: &[Cell<i8>],
    (start, fold): (i32, fn(i32, i32) -> i32),
    finish: impl Fn(i32, i32) -> Option<i8>,
    out: &[Cell<i8>],
) -> Option<()> {
    g.pixels(out, g.channels, |(rows, iy), (cols, ix), out| {
        let count = (rows.len() * cols.len()) as i32;
        for (c, out) in out.iter().enumerate() {
            let mut acc = start;
            for row in (iy..).take(rows.len()) {
                let x = x.get((row * g.x.input + ix) * g.channels + c..)?;
                for x in x.iter().step_by(g.channels.max(1)).take(cols.len()) {
                    acc = fold(acc, i32::from(x.get()));
                }
            }
            out.set(finish(acc, count)?);
        }
        Some(())
    })
}
