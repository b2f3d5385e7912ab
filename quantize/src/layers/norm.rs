//! Layer, group, instance and RMS normalization for `norm`.

use super::{Affine, Bias, MOST_LIFT};
use mote_runtime::ops::norm::{EPS_FRAC, NORM_FRAC};

/// The constants of a `norm`.
#[derive(Clone, Debug, PartialEq)]
pub struct CodedNorm {
    /// In steps of the output, `integer * 2^-exponent`, one a channel.
    pub gains: Vec<i16>,
    /// Bits of fraction of the gains.
    pub gain_exponent: i32,
    /// In steps of the output.
    pub bias: Bias,
    /// What the op adds to the scaled variance: its arguments eps low and high.
    pub eps: u64,
}

/// Constants for gains and biases of a model, where `count` elements (depth times width) are normalised together and `eps`
/// is added to their variance. Normalization to length 1 (L2) is the op without a mean, of gain 1 / sqrt(count) and eps /
/// count.
#[must_use]
pub fn norm(
    (gains, biases): (&[f32], &[f32]),
    (count, eps): (usize, f64),
    (input, output): (Affine, Affine),
) -> CodedNorm {
    let steps = |values: &[f32]| values.iter().map(|v| f64::from(*v) / output.scale).collect::<Vec<f64>>();
    let largest = |values: &[f64]| values.iter().fold(1e-9f64, |m, v| m.max(v.abs()));
    let (gains, biases) = (steps(gains), steps(biases));
    let gain_exponent = (32767.0 / largest(&gains)).log2().floor() as i32;
    let product = NORM_FRAC + gain_exponent;
    let fits = (f64::from(i32::MAX) / largest(&biases)).log2().floor() as i32;
    let exponent = fits.clamp(product - MOST_LIFT, product);
    let bias = Bias { values: biases.iter().map(|b| (b * 2f64.powi(exponent)).round() as i32).collect(), exponent };
    let gains = gains.iter().map(|g| (g * 2f64.powi(gain_exponent)).round() as i16).collect();
    let scaled = eps / input.scale.powi(2) * (count as f64).powi(2) * 2f64.powi(EPS_FRAC);
    CodedNorm { gains, gain_exponent, bias, eps: scaled.round() as u64 }
}
