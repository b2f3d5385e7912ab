//! Convolutions and fully connected layers for `conv2d_coded`.

use super::{Affine, Bias, Linear, bias, code};
use crate::codes::{CodedMatrix, Coding};

/// The constants of a `conv2d_coded`, and what they stand for.
#[derive(Clone, Debug)]
pub struct CodedConv {
    /// Weights `[out channels, kernel height * kernel width * in channels]` in steps of the output a step of the input,
    /// and the bias in steps of the output.
    pub linear: Linear,
    /// The weights as the device computes with them, in the units and the order of the model's.
    pub weights: Vec<f32>,
    input: Affine,
    output: Affine,
}

/// Codes a convolution: weights `[out channels, kernel height, kernel width, in channels]` and a bias of `rows` out channels.
/// A fully connected layer has a kernel of one tap. `importance` weighs the squared error of each column: the mean square
/// of the input it meets, say; or none.
///
/// # Panics
/// Never for finite weights; lengths that do not match are a bug of the caller and asserted.
#[must_use]
pub fn conv(
    (weights, biases): (&[f32], &[f32]),
    (input, output): (Affine, Affine),
    coding: Coding,
    importance: Option<&[f32]>,
) -> CodedConv {
    let rows = biases.len();
    assert!(rows > 0 && weights.len().is_multiple_of(rows), "{} weights for {rows} channels", weights.len());
    let ratio = input.scale / output.scale;
    let steps: Vec<f32> = weights.iter().map(|w| (f64::from(*w) * ratio) as f32).collect();
    let weights = code(&steps, rows, steps.len() / rows, coding, importance);
    let decoded = weights.decode().iter().map(|w| (f64::from(*w) / ratio) as f32).collect();
    let linear = Linear { weights, bias: Bias { values: vec![], exponent: 0 } };
    let mut conv = CodedConv { linear, weights: decoded, input, output };
    conv.set_bias(biases);
    conv
}

/// The constants of a convolution whose weights are in codes already, in steps of the output a step of the input.
#[must_use]
pub fn coded(weights: CodedMatrix, biases: &[f32], (input, output): (Affine, Affine)) -> Linear {
    let steps = biases.iter().map(|b| f64::from(*b) / output.scale);
    let bias = bias(&weights, steps, input.zero_point);
    Linear { weights, bias }
}

impl CodedConv {
    /// Replaces the bias, in the model's units: to make up for what coding the weights has moved on average.
    pub fn set_bias(&mut self, biases: &[f32]) {
        let steps = biases.iter().map(|b| f64::from(*b) / self.output.scale);
        self.linear.bias = bias(&self.linear.weights, steps, self.input.zero_point);
    }
}
