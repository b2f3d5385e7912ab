//! Convolutions and pools over images [n, height, width, channels].

use super::matmul::{add_bias, product};
use super::{Args, Data, Outcome, Tensor};
use crate::graph::{PoolKind, Window};
use rayon::prelude::*;
use std::ops::Range;

/// A window over an image.
struct Sliding<'w> {
    image: [usize; 2],
    kernel: [usize; 2],
    window: &'w Window,
    /// Places of it.
    out: [usize; 2],
}

impl Sliding<'_> {
    /// Input rows (`d` 0) or columns (1) under the window at place `o`: which tap, and which row. Only taps inside the image
    /// are counted through, however far the padding reaches.
    fn taps(&self, d: usize, o: usize) -> impl Iterator<Item = (usize, usize)> + Clone + use<> {
        let (first, dilation, before) =
            (o * self.window.stride[d], self.window.dilation[d].max(1), self.window.before[d]);
        let low = before.saturating_sub(first).div_ceil(dilation);
        let high = (self.image[d] + before).saturating_sub(first).div_ceil(dilation).min(self.kernel[d]);
        (low..high).map(move |k| (k, first + k * dilation - before))
    }

    /// Taps and pixels (counted from the image's first) under the window at place `p`.
    fn pixels(&self, p: usize) -> impl Iterator<Item = (usize, usize)> + use<'_> {
        let (row, col) = (p / self.out[1], p % self.out[1]);
        let ([_, kw], [_, w]) = (self.kernel, self.image);
        let cols = self.taps(1, col);
        self.taps(0, row).flat_map(move |(i, y)| cols.clone().map(move |(j, x)| (i * kw + j, y * w + x)))
    }
}

fn four(shape: &[usize]) -> [usize; 4] {
    // Checked before a kernel runs.
    [shape[0], shape[1], shape[2], shape[3]]
}

/// Floats of one matrix of windows.
const BLOCK: usize = 1 << 20;

pub(super) fn conv(args: &Args, window: &Window, groups: usize) -> Outcome {
    if let Data::Int(_) = args.x(0)?.data {
        return integers(args, window, groups);
    }
    let ([n, h, w, c], [o, kh, kw, ci]) = (four(args.shape(0)), four(args.shape(1)));
    let [_, oh, ow, _] = four(args.out());
    let (x, weights) = (args.floats(0)?, args.floats(1)?);
    let (og, k, pixels) = (o / groups, kh * kw * ci, oh * ow);
    let sliding = Sliding { image: [h, w], kernel: [kh, kw], window, out: [oh, ow] };
    let mut y = vec![0.0; n * pixels * o];
    if y.is_empty() {
        return args.floats_out(y);
    }
    if ci == 1 && groups > 1 {
        // Depthwise: each output channel reads one channel, and channels lie side by side.
        let by_tap: Vec<f32> = (0..kh * kw).flat_map(|t| (0..o).map(move |o| weights[o * kh * kw + t])).collect();
        y.par_chunks_exact_mut(o).enumerate().for_each(|(p, y)| {
            let image = &x[p / pixels * h * w * c..];
            for (tap, pixel) in sliding.pixels(p % pixels) {
                let (x, w) = (&image[pixel * c..][..c], &by_tap[tap * o..][..o]);
                if og == 1 {
                    y.iter_mut().zip(x.iter().zip(w)).for_each(|(y, (x, w))| *y += x * w);
                } else {
                    y.iter_mut().zip(w).enumerate().for_each(|(o, (y, w))| *y += x[o / og] * w);
                }
            }
        });
    } else {
        let plain = [kh, kw, groups] == [1; 3] && window.stride == [1, 1] && [oh, ow] == [h, w];
        let rows = if plain { pixels } else { (BLOCK / k.max(1)).max(1) };
        for (b, y) in y.chunks_exact_mut(pixels * o).enumerate() {
            let image = &x[b * h * w * c..(b + 1) * h * w * c];
            for (block, y) in y.chunks_mut(rows * o).enumerate() {
                let m = y.len() / o;
                for g in 0..groups {
                    let weights = &weights[g * og * k..(g + 1) * og * k];
                    let windows;
                    let x = if plain {
                        image
                    } else {
                        windows = columns(&sliding, image, c, block * rows..block * rows + m, g * ci..(g + 1) * ci);
                        &windows
                    };
                    let part = product(x, weights, (m, k, og), true)?;
                    for (y, part) in y.chunks_exact_mut(o).zip(part.chunks_exact(og)) {
                        y[g * og..(g + 1) * og].copy_from_slice(part);
                    }
                }
            }
        }
    }
    add_bias(&mut y, args.floats_if(2)?);
    args.floats_out(y)
}

/// An image's windows at some places, of some channels, as rows [places, kh * kw * channels].
fn columns(sliding: &Sliding, image: &[f32], c: usize, places: Range<usize>, channels: Range<usize>) -> Vec<f32> {
    let n = channels.len();
    let row = sliding.kernel[0] * sliding.kernel[1] * n;
    let mut all = vec![0.0; places.len() * row];
    if row > 0 {
        for (p, row) in places.zip(all.chunks_exact_mut(row)) {
            for (tap, pixel) in sliding.pixels(p) {
                row[tap * n..(tap + 1) * n].copy_from_slice(&image[pixel * c..][channels.clone()]);
            }
        }
    }
    all
}

/// As [`conv`], of integers (ONNX's ConvInteger): sums are exact, so plain loops.
fn integers(args: &Args, window: &Window, groups: usize) -> Outcome {
    let ([n, h, w, c], [o, kh, kw, ci]) = (four(args.shape(0)), four(args.shape(1)));
    let [_, oh, ow, _] = four(args.out());
    let (x, weights) = (args.ints(0)?, args.ints(1)?);
    let sliding = Sliding { image: [h, w], kernel: [kh, kw], window, out: [oh, ow] };
    let mut y = Vec::with_capacity(n * oh * ow * o);
    for p in 0..n * oh * ow {
        let image = &x[p / (oh * ow) * h * w * c..];
        for oc in 0..o {
            let mut sum = 0i64;
            for (tap, pixel) in sliding.pixels(p % (oh * ow)) {
                let x = &image[pixel * c + oc / (o / groups) * ci..][..ci];
                let weights = &weights[(oc * kh * kw + tap) * ci..][..ci];
                sum = x.iter().zip(weights).fold(sum, |s, (x, w)| s.wrapping_add(x.wrapping_mul(*w)));
            }
            y.push(sum);
        }
    }
    Ok(vec![Tensor::ints(args.out(), y)])
}

pub(super) fn transposed(args: &Args, window: &Window) -> Outcome {
    let ([n, h, w, c], [o, kh, kw, _]) = (four(args.shape(0)), four(args.shape(1)));
    let [_, oh, ow, _] = four(args.out());
    let (x, weights) = (args.floats(0)?, args.floats(1)?);
    let mut y = vec![0.0; n * oh * ow * o];
    // All products at once, [pixels, o * kh * kw], then each to its place.
    let products = product(x, weights_by_channel(weights, c).as_slice(), (n * h * w, c, o * kh * kw), false)?;
    let at = |d: usize, i: usize, k: usize, out: usize| {
        (i * window.stride[d] + k * window.dilation[d]).checked_sub(window.before[d]).filter(|i| *i < out)
    };
    for (p, products) in products.chunks_exact((o * kh * kw).max(1)).enumerate() {
        let (b, row, col) = (p / w / h, p / w % h, p % w);
        for (t, product) in products.iter().enumerate() {
            let (oc, i, j) = (t / kw / kh, t / kw % kh, t % kw);
            if let (Some(row), Some(col)) = (at(0, row, i, oh), at(1, col, j, ow)) {
                y[((b * oh + row) * ow + col) * o + oc] += product;
            }
        }
    }
    add_bias(&mut y, args.floats_if(2)?);
    args.floats_out(y)
}

/// [o * kh * kw, c] to [c, o * kh * kw].
fn weights_by_channel(weights: &[f32], c: usize) -> Vec<f32> {
    (0..c).flat_map(|i| weights.iter().skip(i).step_by(c).copied()).collect()
}

pub(super) fn pool(args: &Args, kind: PoolKind, kernel: [usize; 2], window: &Window) -> Outcome {
    let ([n, h, w, c], [_, oh, ow, _]) = (four(args.shape(0)), four(args.out()));
    let sliding = Sliding { image: [h, w], kernel, window, out: [oh, ow] };
    let pixels = oh * ow;
    if let (Data::Int(x), PoolKind::Max) = (&args.x(0)?.data, kind) {
        let mut y = Vec::with_capacity(n * pixels * c);
        for p in 0..n * pixels {
            let image = &x[p / pixels * h * w * c..];
            let largest = |c_: usize| sliding.pixels(p % pixels).map(|(_, at)| image[at * c + c_]).max();
            y.extend((0..c).map(|c| largest(c).unwrap_or(i64::MIN)));
        }
        return Ok(vec![Tensor::ints(args.out(), y)]);
    }
    let x = args.floats(0)?;
    let mut y = vec![0.0; n * pixels * c];
    for (p, y) in y.chunks_exact_mut(c.max(1)).enumerate() {
        let image = &x[p / pixels * h * w * c..];
        let mut under = 0;
        if kind == PoolKind::Max {
            y.fill(f32::NEG_INFINITY);
        }
        for (_, at) in sliding.pixels(p % pixels) {
            under += 1;
            for (y, x) in y.iter_mut().zip(&image[at * c..][..c]) {
                *y = match kind {
                    PoolKind::Max if x.is_nan() => *x,
                    PoolKind::Max => y.max(*x),
                    PoolKind::Average { .. } => *y + x,
                };
            }
        }
        if let PoolKind::Average { count_padding } = kind {
            let divisor = if count_padding { kernel[0] * kernel[1] } else { under };
            y.iter_mut().for_each(|y| *y /= divisor as f32);
        }
    }
    args.floats_out(y)
}
