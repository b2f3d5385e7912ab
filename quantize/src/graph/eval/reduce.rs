//! Ops over all elements along some dimensions: sums are taken in f64, as many elements may be in them.

use super::moves::{broadcast_places, strides};
use super::{Args, Data, Outcome, Tensor};
use crate::graph::{NormKind, Reduction};

pub(super) fn reduce(args: &Args, kind: Reduction, axes: &[usize]) -> Outcome {
    let shape = args.shape(0);
    let kept: Vec<usize> = shape.iter().enumerate().map(|(d, n)| if axes.contains(&d) { 1 } else { *n }).collect();
    // The result's element that each of the operand's goes to.
    let to = broadcast_places(&kept, shape);
    let count: usize = kept.iter().product();
    let each = axes.iter().collect::<std::collections::BTreeSet<_>>().iter().map(|a| shape[**a]).product::<usize>();
    let data = match &args.x(0)?.data {
        Data::F32(x) => Data::F32(floats(x, &to, count, each, kind)),
        Data::Int(x) => {
            let (start, f): (i64, fn(i64, i64) -> i64) = match kind {
                Reduction::L1 => (0, |s, x| s.wrapping_add(x.wrapping_abs())),
                Reduction::SumSquare => (0, |s, x| s.wrapping_add(x.wrapping_mul(x))),
                Reduction::Sum | Reduction::Mean => (0, i64::wrapping_add),
                Reduction::Prod => (1, i64::wrapping_mul),
                Reduction::Max => (i64::MIN, i64::max),
                Reduction::Min => (i64::MAX, i64::min),
                _ => return Err("this reduction of integers".into()),
            };
            let mut y = vec![start; count];
            to.iter().zip(x).for_each(|(t, x)| y[*t] = f(y[*t], *x));
            if kind == Reduction::Mean && each > 0 {
                y.iter_mut().for_each(|y| *y /= each as i64);
            }
            Data::Int(y)
        }
    };
    Ok(vec![Tensor { shape: args.out().to_vec(), data }])
}

fn floats(x: &[f32], to: &[usize], count: usize, each: usize, kind: Reduction) -> Vec<f32> {
    let fold = |start: f64, f: &dyn Fn(f64, f64) -> f64| {
        let mut y = vec![start; count];
        to.iter().zip(x).for_each(|(t, x)| y[*t] = f(y[*t], f64::from(*x)));
        y
    };
    let or_nan = |worse: bool, s: f64, x: f64| if x.is_nan() || worse { x } else { s };
    let sum = |s: f64, x: f64| s + x;
    let max = |s: f64, x: f64| or_nan(x > s, s, x);
    let y = match kind {
        Reduction::L1 => fold(0.0, &|s, x| s + x.abs()),
        Reduction::L2 => fold(0.0, &|s, x| s + x * x).into_iter().map(f64::sqrt).collect(),
        Reduction::LogSum => fold(0.0, &sum).into_iter().map(f64::ln).collect(),
        Reduction::LogSumExp => {
            let top: Vec<f64> =
                fold(f64::NEG_INFINITY, &max).into_iter().map(|t| if t.is_finite() { t } else { 0.0 }).collect();
            let mut sums = vec![0.0; count];
            to.iter().zip(x).for_each(|(t, x)| sums[*t] += (f64::from(*x) - top[*t]).exp());
            sums.iter().zip(&top).map(|(s, t)| s.ln() + t).collect()
        }
        Reduction::Max => fold(f64::NEG_INFINITY, &max),
        Reduction::Mean => fold(0.0, &sum).into_iter().map(|s| s / each as f64).collect(),
        Reduction::Min => fold(f64::INFINITY, &|s, x| or_nan(x < s, s, x)),
        Reduction::Prod => fold(1.0, &|s, x| s * x),
        Reduction::Sum => fold(0.0, &sum),
        Reduction::SumSquare => fold(0.0, &|s, x| s + x * x),
    };
    y.into_iter().map(|y| y as f32).collect()
}

/// Calls with where each line along `axis` begins, and the way from one of its elements to the next.
fn lines(shape: &[usize], axis: usize, mut f: impl FnMut(usize, usize)) {
    let inner = strides(shape)[axis];
    let n = shape[axis];
    let outer: usize = shape[..axis].iter().product();
    for (o, i) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
        f(o * n * inner + i, inner);
    }
}

pub(super) fn softmax(args: &Args, axis: usize, beta: f32, log: bool) -> Outcome {
    let (shape, x) = (args.shape(0), args.floats(0)?);
    let n = shape[axis];
    let mut y = vec![0.0; x.len()];
    if !x.is_empty() {
        lines(shape, axis, |start, step| {
            let at = |i: usize| f64::from(x[start + i * step] * beta);
            let top = (0..n).map(at).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = (0..n).map(|i| (at(i) - top).exp()).sum();
            for i in 0..n {
                let y = &mut y[start + i * step];
                *y = if log { at(i) - top - sum.ln() } else { (at(i) - top).exp() / sum } as f32;
            }
        });
    }
    args.floats_out(y)
}

pub(super) fn norm(args: &Args, kind: NormKind, epsilon: f32) -> Outcome {
    let (shape, x) = (args.shape(0), args.floats(0)?);
    let (gain, bias) = (args.floats_if(1)?, args.floats_if(2)?);
    let last = shape[shape.len() - 1];
    // Elements lie [sets, spatial, groups, channels of a group]; a norm is over spatial and channels.
    let rows = |axis: usize| {
        let n: usize = shape[axis..].iter().product();
        (x.len() / n.max(1), 1, 1, n)
    };
    let images = |groups: usize| {
        let spatial: usize = shape[1..shape.len() - 1].iter().product();
        (shape[0], spatial, groups, last / groups)
    };
    let (sets, spatial, groups, channels) = match kind {
        NormKind::Layer { axis } | NormKind::Rms { axis } => rows(axis),
        NormKind::Instance => images(last.max(1)),
        NormKind::Group { groups } => images(groups),
    };
    let mut y = vec![0.0; x.len()];
    for (s, g) in (0..sets).flat_map(|s| (0..groups).map(move |g| (s, g))) {
        let place = |p: usize| ((s * spatial + p) * groups + g) * channels;
        let each = || (0..spatial).flat_map(|p| &x[place(p)..place(p) + channels]).map(|x| f64::from(*x));
        let count = (spatial * channels) as f64;
        let mean = if let NormKind::Rms { .. } = kind { 0.0 } else { each().sum::<f64>() / count };
        let variance = each().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
        let factor = 1.0 / (variance + f64::from(epsilon)).sqrt();
        for i in (0..spatial).flat_map(|p| place(p)..place(p) + channels) {
            let c = i % (groups * channels);
            let normed = (f64::from(x[i]) - mean) * factor;
            let scaled = gain.map_or(normed, |gain| normed * f64::from(gain[c]));
            y[i] = bias.map_or(scaled, |bias| scaled + f64::from(bias[c])) as f32;
        }
    }
    args.floats_out(y)
}

/// Indices along a line, best first, the first of equals before the others.
fn order(x: &Data, start: usize, step: usize, n: usize, least: bool) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    let at = |i: usize| start + i * step;
    let compare = |a: usize, b: usize| match x {
        Data::F32(x) => x[at(b)].total_cmp(&x[at(a)]),
        Data::Int(x) => x[at(b)].cmp(&x[at(a)]),
    };
    all.sort_by(|a, b| if least { compare(*b, *a) } else { compare(*a, *b) });
    all
}

pub(super) fn argmax(args: &Args, axis: usize, least: bool) -> Outcome {
    let (shape, x) = (args.shape(0), &args.x(0)?.data);
    let mut y = Vec::with_capacity(x.count() / shape[axis].max(1));
    lines(shape, axis, |start, step| {
        let better = |a: usize, b: usize| match x {
            Data::F32(x) if least => x[a] < x[b],
            Data::F32(x) => x[a] > x[b],
            Data::Int(x) if least => x[a] < x[b],
            Data::Int(x) => x[a] > x[b],
        };
        let best =
            (1..shape[axis]).fold(0, |best, i| if better(start + i * step, start + best * step) { i } else { best });
        y.push(best as i64);
    });
    Ok(vec![Tensor::ints(args.out(), y)])
}

pub(super) fn topk(args: &Args, axis: usize, least: bool) -> Outcome {
    let (shape, out, x) = (args.shape(0), args.out(), &args.x(0)?.data);
    let (n, k) = (shape[axis], out[axis]);
    let inner = strides(shape)[axis];
    let mut places = vec![0; out.iter().product()];
    let mut indices = vec![0; places.len()];
    lines(shape, axis, |start, step| {
        let (outer, rest) = (start / (n * inner).max(1), start % inner.max(1));
        for (j, best) in order(x, start, step, n, least).into_iter().take(k).enumerate() {
            let to = (outer * k + j) * inner + rest;
            (places[to], indices[to]) = (start + best * step, best as i64);
        }
    });
    Ok(vec![Tensor { shape: out.to_vec(), data: super::moves::take(x, &places) }, Tensor::ints(out, indices)])
}
