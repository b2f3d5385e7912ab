//! Calibration: the float model runs some text, a layer at a time, and what went through each place is noted.
//!
//! Two things come of it: ranges (how many fraction bits a slot can have) and importances (how much a column of a matrix
//! matters: the mean square of what it is multiplied with, which is the diagonal of the layer's Hessian; llama.cpp's
//! imatrix is the same number).

use crate::codes::hadamard_rows;
use crate::float::{FloatLayer, LayerActivations, Result, embed, embedding, final_norm};
use crate::import::{LlmConfig, Model, Role};
use crate::lower::{Ranges, hadamard};
use candle_core::{D, Tensor};

/// Tokens of one window: longer texts are cut, so that attention's cost stays linear.
pub const WINDOW: usize = 256;

/// A text of our own for models that come without one. Its subjects vary so that no domain dominates.
pub const TEXT: &str = include_str!("calibrate.txt");

/// The residual stream of the calibration text on its way through the layers.
pub struct Calibration {
    /// One a window: `[tokens, dim]`.
    streams: Vec<Tensor>,
    /// What was seen so far.
    pub ranges: Ranges,
}

/// Mean squares of the columns that each matrix of a layer is multiplied with.
#[derive(Clone, Debug, Default)]
pub struct Importances {
    /// Of q, k and v.
    pub qkv: Vec<f32>,
    /// Of o, after its transform.
    pub o: Vec<f32>,
    /// Of gate and up.
    pub gate_up: Vec<f32>,
    /// Of down, after its transform.
    pub down: Vec<f32>,
}

impl Calibration {
    /// Embeds `tokens`, cut into windows.
    ///
    /// # Errors
    /// [`crate::float::FloatError`].
    pub fn begin(model: &dyn Model, tokens: &[u32]) -> Result<Self> {
        let table = embedding(model)?;
        let streams = tokens.chunks(WINDOW).map(|window| embed(&table, window)).collect::<Result<Vec<_>>>()?;
        let mut calibration = Self { streams, ranges: Ranges::default() };
        for x in &calibration.streams {
            see(&mut calibration.ranges.residual, x)?;
        }
        Ok(calibration)
    }

    /// Runs one layer over all windows.
    ///
    /// # Errors
    /// [`crate::float::FloatError`].
    pub fn layer(&mut self, c: &LlmConfig, layer: &FloatLayer) -> Result<Importances> {
        let mut sums = Importances::default();
        let mut count = 0;
        for x in &mut self.streams {
            let (out, seen) = layer.forward(c, x, 0, &mut None)?;
            note_ranges(&mut self.ranges, &seen, &out)?;
            add_squares(&mut sums.qkv, &seen.attn_in, 0)?;
            add_squares(&mut sums.o, &seen.attn_out, hadamard(c, Role::O(0)))?;
            add_squares(&mut sums.gate_up, &seen.ffn_in, 0)?;
            add_squares(&mut sums.down, &seen.down_in, hadamard(c, Role::Down(0)))?;
            count += x.dim(0)?;
            *x = out;
        }
        for sums in [&mut sums.qkv, &mut sums.o, &mut sums.gate_up, &mut sums.down] {
            settle(sums, count);
        }
        Ok(sums)
    }

    /// Ends at the head: its input's importances, and the logits' range from the head's rows by Cauchy and Schwarz.
    ///
    /// # Errors
    /// [`crate::float::FloatError`].
    pub fn finish(&mut self, model: &dyn Model) -> Result<Vec<f32>> {
        let mut sums = Vec::new();
        let (mut count, mut longest) = (0, 0f64);
        for x in &self.streams {
            let x = final_norm(model, x)?;
            see(&mut self.ranges.normed, &x)?;
            add_squares(&mut sums, &x, 0)?;
            count += x.dim(0)?;
            longest = longest.max(f64::from(x.sqr()?.sum(D::Minus1)?.max(0)?.to_scalar::<f32>()?).sqrt());
        }
        let c = model.config();
        let head = model.tensor(Role::Head)?;
        let norm = |row: &[f32]| row.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt();
        let steepest = head.chunks_exact(c.dim).map(norm).fold(0.0, f64::max);
        // The bound is some ten times what is ever reached, and a slot's head room comes on top.
        self.ranges.logits = longest * steepest / 8.0;
        settle(&mut sums, count);
        Ok(sums)
    }
}

fn see(largest: &mut f64, x: &Tensor) -> Result<()> {
    *largest = largest.max(f64::from(x.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?));
    Ok(())
}

fn note_ranges(r: &mut Ranges, seen: &LayerActivations, out: &Tensor) -> Result<()> {
    for (largest, x) in [
        (&mut r.normed, &seen.attn_in),
        (&mut r.q, &seen.qkv[0]),
        (&mut r.k, &seen.qkv[1]),
        (&mut r.v, &seen.qkv[2]),
        (&mut r.attn_out, &seen.attn_out),
        (&mut r.gate, &seen.gate),
        (&mut r.up, &seen.up),
        (&mut r.glu, &seen.down_in),
    ] {
        see(largest, x)?;
    }
    if let Some([q, k]) = &seen.qk_normed {
        see(&mut r.q, q)?;
        see(&mut r.k, k)?;
    }
    see(&mut r.normed, &seen.ffn_in)?;
    see(&mut r.residual, &seen.middle)?;
    see(&mut r.residual, out)
}

fn add_squares(sums: &mut Vec<f32>, x: &Tensor, hadamard: u32) -> Result<()> {
    let cols = x.dim(D::Minus1)?;
    sums.resize(cols, 0.0);
    let mut values: Vec<f32> = x.flatten_all()?.to_vec1()?;
    hadamard_rows(&mut values, cols, hadamard);
    for row in values.chunks_exact(cols) {
        for (sum, v) in sums.iter_mut().zip(row) {
            *sum += v * v;
        }
    }
    Ok(())
}

/// Sums to means, none of them zero: a channel that this text never used may still matter to another.
fn settle(sums: &mut [f32], count: usize) {
    let mean = sums.iter().sum::<f32>() / (sums.len() * count).max(1) as f32;
    for sum in sums.iter_mut() {
        *sum = *sum / count.max(1) as f32 + 0.01 * mean + f32::MIN_POSITIVE;
    }
}
