//! Recurrent layers for `lstm` and `gru`.

use super::{Affine, Linear, bias};
use crate::codes::CodedMatrix;
use crate::lower::mantissa;

/// Where a model keeps each gate of an LSTM, in the op's order i, f, g, o.
pub mod lstm_order {
    /// i, o, f, c.
    pub const ONNX: [usize; 4] = [0, 2, 3, 1];
    /// i, f, c, o: TensorFlow's and PyTorch's, too.
    pub const KERAS: [usize; 4] = [0, 1, 2, 3];
}

/// Where a model keeps each gate of a GRU, in the op's order z, r, n.
pub mod gru_order {
    /// z, r, h: Keras's, too.
    pub const ONNX: [usize; 3] = [0, 1, 2];
    /// r, z, n.
    pub const PYTORCH: [usize; 3] = [1, 0, 2];
}

/// A model's recurrent layer; of a gate, the rows of all units lie together.
#[derive(Clone, Copy, Debug)]
pub struct Recurrent<'a> {
    /// `[gates, units, in]`.
    pub input: &'a [f32],
    /// `[gates, units, units]`.
    pub recurrent: &'a [f32],
    /// `[gates, units]`; of the input.
    pub input_bias: &'a [f32],
    /// `[gates, units]`; of the hidden state (a model with one bias has zeros here).
    pub recurrent_bias: &'a [f32],
    /// The model's place of each of the op's gates, such as [`lstm_order::ONNX`].
    pub order: &'a [usize],
}

/// The constants of a `lstm` or `gru`, and what they stand for.
#[derive(Clone, Debug)]
pub struct CodedRecurrent {
    /// Input weights and bias, in the op's order.
    pub input: Linear,
    /// Recurrent weights and bias, in the op's order.
    pub recurrent: Linear,
    /// The op's argument for the hidden state's scale and zero point (`ops/recurrent.rs`).
    pub hidden: u32,
    /// The input weights as the device computes with them, in the units and the order of the model's.
    pub input_weights: Vec<f32>,
    /// The recurrent weights likewise.
    pub recurrent_weights: Vec<f32>,
}

/// Fraction bits of an LSTM's cell state, whose largest value in calibration is `largest`: with four bits of head room.
#[must_use]
pub fn cell_frac(largest: f64) -> i16 {
    (31.0 - 4.0 - largest.max(1e-6).log2().ceil()).clamp(0.0, 24.0) as i16
}

/// Codes one of a layer's two matrices: 0, that of the input, or 1, that of the hidden state; its weights `[rows, cols]` in the
/// op's order and in units of the result a step of the input, rows and columns.
pub type Code<'c> = &'c dyn Fn(usize, &[f32], usize, usize) -> CodedMatrix;

/// Codes an LSTM, `scales` being those of the input and of the hidden state. An int16 input has zero point 0, and at most 32 639.
///
/// # Panics
/// Never for finite weights; lengths that do not match are a bug of the caller and asserted.
#[must_use]
pub fn lstm(layer: &Recurrent<'_>, scales: (Affine, Affine), code: Code<'_>) -> CodedRecurrent {
    let units = layer.input_bias.len() / 4;
    let place = move |gate: usize, unit: usize| 4 * unit + gate;
    coded(layer, (4, units, &place), scales, code)
}

/// Codes a GRU, as [`lstm`] does. Where the reset gate is applied is the op's flag.
///
/// # Panics
/// As [`lstm`].
#[must_use]
pub fn gru(layer: &Recurrent<'_>, scales: (Affine, Affine), code: Code<'_>) -> CodedRecurrent {
    let units = layer.input_bias.len() / 3;
    let place = move |gate: usize, unit: usize| gate * units + unit;
    coded(layer, (3, units, &place), scales, code)
}

/// `place(gate, unit)` is the op's row of the op's gate.
fn coded(
    layer: &Recurrent<'_>,
    (gates, units, place): (usize, usize, &dyn Fn(usize, usize) -> usize),
    (input, hidden): (Affine, Affine),
    code: Code<'_>,
) -> CodedRecurrent {
    let rows = gates * units;
    assert!(rows > 0 && layer.order.len() == gates, "{} gates, {units} units", layer.order.len());
    assert!(layer.recurrent.len() == rows * units && layer.input.len().is_multiple_of(rows), "weights of other shapes");
    assert!(layer.input_bias.len() == rows && layer.recurrent_bias.len() == rows, "biases of other lengths");
    // The model's row of each of the op's.
    let mut from = vec![0; rows];
    for (gate, at) in layer.order.iter().enumerate() {
        (0..units).for_each(|unit| from[place(gate, unit)] = at * units + unit);
    }
    let half = |weights: &[f32], biases: &[f32], x: Affine, which: usize| {
        let cols = weights.len() / rows;
        let steps: Vec<f32> = from
            .iter()
            .flat_map(|row| &weights[row * cols..][..cols])
            .map(|w| (f64::from(*w) * x.scale) as f32)
            .collect();
        let weights = code(which, &steps, rows, cols);
        let mut decoded = vec![0f32; weights.rows * cols];
        for (row, values) in from.iter().zip(weights.decode().chunks_exact(cols)) {
            let model = decoded[row * cols..][..cols].iter_mut();
            model.zip(values).for_each(|(to, w)| *to = (f64::from(*w) / x.scale) as f32);
        }
        let bias = bias(&weights, from.iter().map(|row| f64::from(biases[*row])), x.zero_point);
        (Linear { weights, bias }, decoded)
    };
    let (input, input_weights) = half(layer.input, layer.input_bias, input, 0);
    let (recurrent, recurrent_weights) = half(layer.recurrent, layer.recurrent_bias, hidden, 1);
    let (mantissa, exponent) = mantissa(1.0 / hidden.scale);
    let hidden = u32::from_le_bytes([
        mantissa as u8,
        (mantissa >> 8) as u8,
        exponent.clamp(-128, 127) as u8,
        hidden.zero_point as u8,
    ]);
    CodedRecurrent { input, recurrent, hidden, input_weights, recurrent_weights }
}
