//! Convolutions and pools over images [n, height, width, channels].

use super::matmul::{add_bias, product};
use super::{Args, Data, Outcome, Tensor};
use crate::graph::{PoolKind, Window};
use rayon::prelude::*;

/// Input rows and columns under a window's taps at one place of the output; none outside the image.
struct Taps {
    /// For each output row, for each of the kernel's: the input's.
    rows: Vec<Vec<Option<usize>>>,
    /// As `rows`, of columns.
    cols: Vec<Vec<Option<usize>>>,
}

impl Taps {
    fn new(image: [usize; 2], kernel: [usize; 2], window: &Window, out: [usize; 2]) -> Self {
        let taps = |d: usize| {
            let tap = |o: usize, k: usize| {
                (o * window.stride[d] + k * window.dilation[d]).checked_sub(window.before[d]).filter(|i| *i < image[d])
            };
            (0..out[d]).map(|o| (0..kernel[d]).map(|k| tap(o, k)).collect()).collect()
        };
        Self { rows: taps(0), cols: taps(1) }
    }
}

fn four(shape: &[usize]) -> [usize; 4] {
    // Checked before a kernel runs.
    [shape[0], shape[1], shape[2], shape[3]]
}

pub(super) fn conv(args: &Args, window: &Window, groups: usize) -> Outcome {
    if let Data::Int(_) = args.x(0)?.data {
        return integers(args, window, groups);
    }
    let ([n, h, w, c], [o, kh, kw, ci]) = (four(args.shape(0)), four(args.shape(1)));
    let [_, oh, ow, _] = four(args.out());
    let (x, weights) = (args.floats(0)?, args.floats(1)?);
    let og = o / groups;
    let taps = Taps::new([h, w], [kh, kw], window, [oh, ow]);
    let mut y = vec![0.0; n * oh * ow * o];
    if ci == 1 && groups > 1 {
        // Depthwise: each output channel reads one channel; taps outermost, so that channels lie side by side.
        let by_tap: Vec<f32> = (0..kh * kw).flat_map(|t| (0..o).map(move |o| weights[o * kh * kw + t])).collect();
        let row = |(r, y): (usize, &mut [f32])| {
            let image = &x[r / oh * h * w * c..];
            for (i, row) in taps.rows[r % oh].iter().enumerate().filter_map(|(i, row)| Some((i, (*row)?))) {
                for (y, cols) in y.chunks_exact_mut(o).zip(&taps.cols) {
                    for (j, col) in cols.iter().enumerate().filter_map(|(j, col)| Some((j, (*col)?))) {
                        let (x, w) = (&image[(row * w + col) * c..][..c], &by_tap[(i * kw + j) * o..][..o]);
                        if og == 1 {
                            y.iter_mut().zip(x.iter().zip(w)).for_each(|(y, (x, w))| *y += x * w);
                        } else {
                            y.iter_mut().zip(w).enumerate().for_each(|(o, (y, w))| *y += x[o / og] * w);
                        }
                    }
                }
            }
        };
        if ow * o > 0 {
            y.par_chunks_exact_mut(ow * o).enumerate().for_each(row);
        }
    } else {
        let (k, plain) = (kh * kw * ci, [kh, kw] == [1, 1] && window.stride == [1, 1] && [oh, ow] == [h, w]);
        for (b, y) in y.chunks_exact_mut((oh * ow * o).max(1)).enumerate() {
            let image = &x[b * h * w * c..(b + 1) * h * w * c];
            for g in 0..groups {
                let weights = &weights[g * og * k..(g + 1) * og * k];
                let part = if plain && groups == 1 {
                    product(image, weights, (oh * ow, k, og), true)?
                } else {
                    product(&columns(image, [w, c], &taps, g * ci..(g + 1) * ci), weights, (oh * ow, k, og), true)?
                };
                for (y, part) in y.chunks_exact_mut(o).zip(part.chunks_exact(og)) {
                    y[g * og..(g + 1) * og].copy_from_slice(part);
                }
            }
        }
    }
    add_bias(&mut y, args.floats_if(2)?);
    args.floats_out(y)
}

/// The image's windows as rows [output pixels, kh * kw * channels].
fn columns(image: &[f32], [w, c]: [usize; 2], taps: &Taps, channels: std::ops::Range<usize>) -> Vec<f32> {
    let (rows, cols) = (&taps.rows, &taps.cols);
    let each = |r: &[Vec<Option<usize>>]| r.first().map_or(0, Vec::len);
    let mut all = Vec::with_capacity(rows.len() * cols.len() * each(rows) * each(cols) * channels.len());
    for (rows, cols) in rows.iter().flat_map(|r| cols.iter().map(move |c| (r, c))) {
        for (row, col) in rows.iter().flat_map(|r| cols.iter().map(move |c| (r, c))) {
            match (row, col) {
                (Some(row), Some(col)) => all.extend_from_slice(&image[(row * w + col) * c..][channels.clone()]),
                _ => all.resize(all.len() + channels.len(), 0.0),
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
    let taps = Taps::new([h, w], [kh, kw], window, [oh, ow]);
    let mut y = Vec::with_capacity(n * oh * ow * o);
    for (b, rows, cols) in (0..n).flat_map(|b| {
        let taps = &taps;
        taps.rows.iter().flat_map(move |r| taps.cols.iter().map(move |c| (b, r, c)))
    }) {
        for oc in 0..o {
            let mut sum = 0i64;
            for (i, row) in rows.iter().enumerate().filter_map(|(i, row)| Some((i, (*row)?))) {
                for (j, col) in cols.iter().enumerate().filter_map(|(j, col)| Some((j, (*col)?))) {
                    let x = &x[((b * h + row) * w + col) * c + oc / (o / groups) * ci..][..ci];
                    let weights = &weights[((oc * kh + i) * kw + j) * ci..][..ci];
                    sum = x.iter().zip(weights).fold(sum, |s, (x, w)| s.wrapping_add(x.wrapping_mul(*w)));
                }
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
    let taps = Taps::new([h, w], kernel, window, [oh, ow]);
    let windows = (0..n).flat_map(|b| {
        let taps = &taps;
        taps.rows.iter().flat_map(move |r| taps.cols.iter().map(move |c| (b, r, c)))
    });
    let pixels = |b: usize, rows: &[Option<usize>], cols: &[Option<usize>]| -> Vec<usize> {
        let row = |r: &usize| cols.iter().flatten().map(move |col| ((b * h + r) * w + col) * c).collect::<Vec<_>>();
        rows.iter().flatten().flat_map(row).collect()
    };
    if let (Data::Int(x), PoolKind::Max) = (&args.x(0)?.data, kind) {
        let mut y = Vec::with_capacity(n * oh * ow * c);
        for (b, rows, cols) in windows {
            let under = pixels(b, rows, cols);
            y.extend((0..c).map(|c| under.iter().map(|p| x[p + c]).max().unwrap_or(i64::MIN)));
        }
        return Ok(vec![Tensor::ints(args.out(), y)]);
    }
    let x = args.floats(0)?;
    let mut y = vec![0.0; n * oh * ow * c];
    for ((b, rows, cols), y) in windows.zip(y.chunks_exact_mut(c.max(1))) {
        let under = pixels(b, rows, cols);
        match kind {
            PoolKind::Max => {
                y.fill(f32::NEG_INFINITY);
                for p in under {
                    y.iter_mut().zip(&x[p..p + c]).for_each(|(y, x)| *y = if x.is_nan() { *x } else { y.max(*x) });
                }
            }
            PoolKind::Average { count_padding } => {
                let divisor = if count_padding { kernel[0] * kernel[1] } else { under.len() };
                for p in under {
                    y.iter_mut().zip(&x[p..p + c]).for_each(|(y, x)| *y += x);
                }
                y.iter_mut().for_each(|y| *y /= divisor as f32);
            }
        }
    }
    args.floats_out(y)
}
