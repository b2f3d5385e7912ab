//! Layers of float nets: weights and the scales of activations in, an op's constants out.
//!
//! Activations are int8 with one scale and zero point a tensor. What a layer multiplies by, the input's scale over the
//! output's included, is coded into its weights; what zero points add goes into its bias. Each function here returns
//! the constants, and the weights as the device computes with them: for evaluation, and to correct biases.

mod conv;
mod norm;
mod recurrent;

pub use conv::{CodedConv, coded, conv};
pub use norm::{CodedNorm, norm};
pub use recurrent::{Code, CodedRecurrent, Recurrent, cell_frac, gru, gru_order, lstm, lstm_order};

use crate::codes::{CodedMatrix, Coding, code_matrix};
use mote_runtime::image::{Coded, tensors::BLOCK};

/// What the integers of an int8 tensor stand for: `(q - zero_point) * scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// Step, above 0.
    pub scale: f64,
    /// The integer that stands for 0.
    pub zero_point: i8,
}

impl Affine {
    /// The integer nearest to `real`.
    #[must_use]
    pub fn quantize(&self, real: f64) -> i8 {
        ((real / self.scale).round() + f64::from(self.zero_point)).clamp(-128.0, 127.0) as i8
    }

    /// What `q` stands for.
    #[must_use]
    pub fn real(&self, q: i8) -> f64 {
        (f64::from(q) - f64::from(self.zero_point)) * self.scale
    }
}

/// Integers that a device adds to exact sums, `integer * 2^-exponent` each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bias {
    /// One a row.
    pub values: Vec<i32>,
    /// Bits of fraction.
    pub exponent: i32,
}

/// A coded matrix and its bias, as ops over coded rows take them (NUMERICS.md, section 15.1).
#[derive(Clone, Debug)]
pub struct Linear {
    /// In units of the result a step of the input.
    pub weights: CodedMatrix,
    /// In units of the result.
    pub bias: Bias,
}

/// Of the weights: more would leave no room for a bias above the fraction.
const MOST_EXPONENT: i32 = 50;
/// Bits by which a bias may be lifted to the weights' exponent.
const MOST_LIFT: i32 = 31;

/// Codes `weights` `[rows, cols]`, in units of the result a step of the input, for an op over coded rows. `importance` weighs the
/// squared error of each column: the mean square of the input it meets, say; or none.
///
/// # Panics
/// Never for finite weights; lengths that do not match are a bug of the caller and asserted.
#[must_use]
pub fn code(weights: &[f32], rows: usize, cols: usize, coding: Coding, importance: Option<&[f32]>) -> CodedMatrix {
    with_room_for_bias(code_matrix(weights, rows, cols, coding, importance))
}

/// Gives a matrix of tiny weights multipliers of fewer bits, so that its exponent leaves room for the bias.
pub(crate) fn with_room_for_bias(mut coded: CodedMatrix) -> CodedMatrix {
    let over = coded.exponent - MOST_EXPONENT;
    if over > 0 {
        let mults = coded.bytes.len() - 2 * coded.rows.next_multiple_of(BLOCK);
        for mult in coded.bytes[mults..].as_chunks_mut::<2>().0 {
            let value = f64::from(u16::from_le_bytes(*mult)) * 2f64.powi(-over);
            *mult = (value.round() as u16).to_le_bytes();
        }
        coded.exponent = MOST_EXPONENT;
    }
    coded
}

/// Integers for `real`, which is in units of the result, less what the zero point of the input adds: of row r,
/// `zero_point * sum of weights[r, c]`. What is beyond int32 there is beyond any sum of the row, and saturates.
pub(crate) fn bias(weights: &CodedMatrix, real: impl Iterator<Item = f64>, zero_point: i8) -> Bias {
    let added = Coded::new(&weights.desc(), &weights.bytes).map_or_else(Vec::new, |view| {
        let mut levels = vec![0i32; view.cols];
        let row = |row| {
            view.row_levels(row, &mut levels, |to, level| *to = level);
            let sum: i64 = levels.iter().map(|l| i64::from(*l)).sum();
            (sum * i64::from(zero_point)) as f64 * f64::from(view.mult(row)) * 2f64.powi(-view.exponent)
        };
        (0..view.rows).map(row).collect()
    });
    let real: Vec<f64> = real.zip(&added).map(|(real, added)| real - added).collect();
    let largest = real.iter().fold(0f64, |m, v| m.max(v.abs()));
    let fits = (f64::from(i32::MAX) / largest.max(1e-30)).log2().floor() as i32;
    let exponent = fits.clamp(weights.exponent - MOST_LIFT, weights.exponent);
    let values = real.iter().map(|v| (v * 2f64.powi(exponent)).round() as i32).collect();
    Bias { values, exponent }
}
