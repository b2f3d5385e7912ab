//! Layers in codes: weights chosen for what the layer gives on calibration samples.
//!
//! x: what the layer meets in the float net, x': what it meets in the net quantized so far. If biases are corrected, both lose
//! their mean, for the bias makes up for any mean; then
//!
//! ```text
//! H = mean x' x'^T + damping                    what the codes are chosen by (`codes::code_matrix_for`)
//! W' = W + W (mean x x'^T - mean x' x'^T) H^-1  the weights that give from x' what W gives from x, as far as weights can
//! b' = b + W mean(x) - Q mean(x')               bias correction, if it is wanted; Q the coded weights
//! ```

use super::patches::Geometry;
use super::{Feedback, Settings};
use crate::codes::{CodedMatrix, Coding, code_matrix, code_matrix_for, damp, times_inverse};
use crate::layers::with_room_for_bias;
use candle_core::{Device, Tensor};

/// A layer's weights in codes.
pub struct Layer {
    /// Weights in steps of the output a step of the input.
    pub matrix: CodedMatrix,
    /// Their floats, in the model's units.
    pub weights: Vec<f32>,
    /// The bias that goes with them.
    pub bias: Vec<f32>,
}

/// Rows of inputs, [rows, cols], that a layer meets: in the float net and in the quantized one.
#[derive(Clone, Debug, Default)]
pub struct Met {
    /// In the float net.
    pub float: Vec<f32>,
    /// In the net quantized so far.
    pub quantized: Vec<f32>,
}

/// The mean row.
fn mean(x: &[f32], cols: usize) -> Vec<f64> {
    let mut mean = vec![0f64; cols];
    x.chunks_exact(cols).for_each(|row| mean.iter_mut().zip(row).for_each(|(m, x)| *m += f64::from(*x)));
    let rows = (x.len() / cols.max(1)).max(1) as f64;
    mean.iter().map(|m| m / rows).collect()
}

/// x^T y / rows; centred: each less its mean.
fn covariance(x: &[f32], y: &[f32], cols: usize, centred: bool) -> Vec<f64> {
    let rows = x.len() / cols;
    let centred = |x: &[f32]| {
        let mean = if centred { mean(x, cols) } else { vec![0.0; cols] };
        let values: Vec<f32> = x.iter().enumerate().map(|(i, x)| (f64::from(*x) - mean[i % cols]) as f32).collect();
        Tensor::from_vec(values, (rows, cols), &Device::Cpu)
    };
    let product = || centred(x)?.t()?.matmul(&centred(y)?)?.flatten_all()?.to_vec1::<f32>();
    let values = product().unwrap_or_else(|_: candle_core::Error| vec![0.0; cols * cols]);
    values.into_iter().map(|v| f64::from(v) / rows.max(1) as f64).collect()
}

/// A covariance that so many rows give, with damping: fewer rows say less, and what they do not know must not be made up for.
fn damped(seen: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    let mut hessian = seen.to_vec();
    damp(&mut hessian, cols, (0.01 + 0.5 * cols as f64 / rows.max(1) as f64).min(1.0));
    hessian
}

/// In single precision.
pub fn single(hessian: &[f64]) -> Vec<f32> {
    hessian.iter().map(|h| *h as f32).collect()
}

/// What codes are chosen by for a matrix without a bias of its own that meets these rows `[rows, cols]`.
pub fn hessian(met: &[f32], cols: usize) -> Vec<f64> {
    damped(&covariance(met, met, cols, false), met.len() / cols, cols)
}

/// Codes a layer: weights [out, cols], bias [out]; `ratio` is the input's scale over the output's.
pub fn code(
    geometry: &Geometry,
    (weights, bias): (&[f32], &[f32]),
    ratio: f64,
    coding: Coding,
    settings: &Settings,
    met: &Met,
) -> Layer {
    let (out, cols) = (geometry.out, geometry.cols);
    let Settings { feedback, correct, .. } = *settings;
    let rows = met.quantized.len() / cols;
    let steps = |weights: &[f32]| weights.iter().map(|w| (f64::from(*w) * ratio) as f32).collect::<Vec<_>>();
    let matrix = if feedback == Feedback::None || rows < 2 {
        code_matrix(&steps(weights), out, cols, coding, None)
    } else {
        let seen = covariance(&met.quantized, &met.quantized, cols, correct);
        let hessian = damped(&seen, rows, cols);
        let wanted = if feedback == Feedback::Full {
            let across = covariance(&met.float, &met.quantized, cols, correct);
            let more: Vec<f64> = across.iter().zip(&seen).map(|(a, s)| a - s).collect();
            corrected(weights, &more, &hessian, cols)
        } else {
            weights.to_vec()
        };
        match feedback {
            Feedback::Importance => {
                let importance: Vec<f32> = (0..cols).map(|c| hessian[c * cols + c] as f32).collect();
                code_matrix(&steps(weights), out, cols, coding, Some(&importance))
            }
            _ => code_matrix_for(&steps(&wanted), out, cols, coding, &single(&hessian), &[], &[]),
        }
    };
    let matrix = with_room_for_bias(matrix);
    let decoded: Vec<f32> = matrix.decode().iter().map(|w| (f64::from(*w) / ratio) as f32).collect();
    let mut bias = bias.to_vec();
    if correct && feedback != Feedback::None && rows >= 2 {
        let (x, y) = (mean(&met.float, cols), mean(&met.quantized, cols));
        for ((bias, w), q) in bias.iter_mut().zip(weights.chunks_exact(cols)).zip(decoded.chunks_exact(cols)) {
            let gives = |w: &[f32], x: &[f64]| w.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
            *bias += (gives(w, &x) - gives(q, &y)) as f32;
        }
    }
    Layer { matrix, weights: decoded, bias }
}

/// W + W M H^-1.
fn corrected(weights: &[f32], more: &[f64], hessian: &[f64], cols: usize) -> Vec<f32> {
    let mut change = vec![0f64; weights.len()];
    for (change, row) in change.chunks_exact_mut(cols).zip(weights.chunks_exact(cols)) {
        for (w, line) in row.iter().zip(more.chunks_exact(cols)) {
            change.iter_mut().zip(line).for_each(|(s, m)| *s += f64::from(*w) * m);
        }
    }
    times_inverse(&mut change, hessian, cols);
    weights.iter().zip(&change).map(|(w, s)| (f64::from(*w) + s) as f32).collect()
}
