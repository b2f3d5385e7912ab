//! Images [n, height, width, channels] made larger or smaller.

use super::moves::{places, strides};
use super::{Args, Data, Outcome, Tensor};
use crate::graph::{Coordinates, Interpolation, Nearest};

/// The input coordinate of output `x`, by the lengths of both.
fn coordinate(x: usize, input: usize, output: usize, by: Coordinates) -> f64 {
    let (x, i, o) = (x as f64, input as f64, output as f64);
    match by {
        Coordinates::PytorchHalfPixel if output == 1 => 0.0,
        Coordinates::HalfPixel | Coordinates::PytorchHalfPixel => (x + 0.5) * i / o - 0.5,
        Coordinates::AlignCorners if output == 1 => 0.0,
        Coordinates::AlignCorners => x * (i - 1.0) / (o - 1.0),
        Coordinates::Asymmetric => x * i / o,
    }
}

fn nearest(at: f64, by: Nearest) -> f64 {
    match by {
        Nearest::RoundPreferFloor => (at - 0.5).ceil(),
        Nearest::RoundPreferCeil => (at + 0.5).floor(),
        Nearest::Floor => at.floor(),
        Nearest::Ceil => at.ceil(),
    }
}

pub(super) fn resize(args: &Args, coordinates: Coordinates, interpolation: Interpolation) -> Outcome {
    let (from, to) = (args.shape(0), args.out());
    let step = strides(from);
    let inside = |d: usize, at: f64| (at.max(0.0) as usize).min(from[d] - 1);
    let all = |d: usize| (0..to[d]).map(|i| i * step[d]).collect::<Vec<_>>();
    match interpolation {
        Interpolation::Nearest(by) => {
            let table = |d: usize| -> Vec<usize> {
                let at = |x| inside(d, nearest(coordinate(x, from[d], to[d], coordinates), by)) * step[d];
                (0..to[d]).map(at).collect()
            };
            let places = places(&[all(0), table(1), table(2), all(3)]);
            Ok(vec![Tensor { shape: to.to_vec(), data: super::moves::take(&args.x(0)?.data, &places) }])
        }
        Interpolation::Linear => {
            let Data::F32(x) = &args.x(0)?.data else {
                return Err("integers interpolated".into());
            };
            // Lower and upper neighbour, and the weight of the upper.
            let table = |d: usize| -> Vec<(usize, usize, f64)> {
                let at = |x| {
                    let at = coordinate(x, from[d], to[d], coordinates);
                    let low = at.floor();
                    (inside(d, low) * step[d], inside(d, low + 1.0) * step[d], at - low)
                };
                (0..to[d]).map(at).collect()
            };
            let (rows, cols) = (table(1), table(2));
            let mut y = Vec::with_capacity(to.iter().product());
            for n in all(0) {
                for (top, bottom, v) in &rows {
                    for (left, right, h) in &cols {
                        for c in 0..to[3] {
                            let at = |row: usize, col: usize| f64::from(x[n + row + col + c]);
                            let upper = at(*top, *left) * (1.0 - h) + at(*top, *right) * h;
                            let lower = at(*bottom, *left) * (1.0 - h) + at(*bottom, *right) * h;
                            y.push((upper * (1.0 - v) + lower * v) as f32);
                        }
                    }
                }
            }
            args.floats_out(y)
        }
    }
}
