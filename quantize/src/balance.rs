//! Channels made equal before anything is rounded: what one layer gives times s, what the next takes over s, and the model
//! computes what it did.
//!
//! A channel that a few weights make a hundred times larger than its neighbours takes their levels, of int8 activations and of
//! 4-bit codes. With `a` the size of the channel where it is made and `b` that of the columns that it meets, s = sqrt(b / a) gives
//! both the size sqrt(a b): noise that is spread evenly over both sides (as the Walsh-Hadamard transforms spread it) then does
//! least harm, and a rescaling of the channel, however large, changes nothing. SmoothQuant (arXiv 2211.10438, equation 4 with
//! alpha = 1/2) takes `a` from activations; here it is read off the weights, so that nothing need be run.

use crate::import::{LlmConfig, Model, Result, Weight};
use std::collections::HashMap;
use std::path::Path;

/// Channels that can be rescaled between two layers.
#[derive(Clone, Debug)]
pub struct Balance {
    /// What makes them: gains and biases (an element a channel), matrices (a row a channel).
    pub from: Vec<Weight>,
    /// The matrices whose columns take them.
    pub to: Vec<Weight>,
    /// The channel that each column takes.
    pub columns: Vec<usize>,
}

impl Balance {
    /// Channels that are taken one by one.
    #[must_use]
    pub fn new(from: Vec<Weight>, to: Vec<Weight>) -> Self {
        let columns = to.first().map_or(0, |w| w.shape[1]);
        Self { from, to, columns: (0..columns).collect() }
    }

    /// Value channels of `kv_heads` heads, taken by the columns of `heads` heads.
    #[must_use]
    pub fn heads(from: Vec<Weight>, to: Weight, c: &LlmConfig) -> Self {
        let channel = |col: usize| col / c.head_dim / (c.heads / c.kv_heads) * c.head_dim + col % c.head_dim;
        Self { from, columns: (0..to.shape[1]).map(channel).collect(), to: vec![to] }
    }

    /// s of each channel.
    fn factors(&self, model: &dyn Model) -> Result<Vec<f32>> {
        let channels = self.from.first().map_or(0, |w| w.shape[0]);
        let (mut made, mut taken) = (vec![0f64; channels], vec![0f64; channels]);
        for weight in &self.from {
            let values = model.tensor(weight)?;
            for (sum, row) in made.iter_mut().zip(values.chunks_exact(values.len() / channels)) {
                *sum += row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            }
        }
        for weight in &self.to {
            for row in model.tensor(weight)?.chunks_exact(self.columns.len()) {
                for (channel, v) in self.columns.iter().zip(row) {
                    taken[*channel] += f64::from(*v).powi(2);
                }
            }
        }
        let factor = |(made, taken): (&f64, &f64)| (taken / made).powf(0.25);
        let factors: Vec<f64> = made.iter().zip(&taken).map(factor).collect();
        // A channel that is never made, or never taken, stays as it is; the others' mean factor is 1.
        let whole = |f: &f64| f.is_finite() && *f > 0.0;
        let logs: Vec<f64> = factors.iter().copied().filter(|f| whole(f)).map(f64::ln).collect();
        let mean = (logs.iter().sum::<f64>() / logs.len().max(1) as f64).exp();
        Ok(factors.iter().map(|f| if whole(f) { (f / mean) as f32 } else { 1.0 }).collect())
    }
}

/// A model with its channels balanced.
pub struct Balanced<'m> {
    model: &'m dyn Model,
    /// By a weight's name: what its rows, and its columns, are multiplied with.
    rows: HashMap<String, Vec<f32>>,
    columns: HashMap<String, Vec<f32>>,
}

impl<'m> Balanced<'m> {
    /// Reads all weights that take part, one after another.
    ///
    /// # Errors
    /// The model's.
    pub fn new(model: &'m dyn Model, balances: &[Balance]) -> Result<Self> {
        let (mut rows, mut columns) = (HashMap::new(), HashMap::new());
        for balance in balances {
            let factors = balance.factors(model)?;
            let inverse: Vec<f32> = balance.columns.iter().map(|c| 1.0 / factors[*c]).collect();
            rows.extend(balance.from.iter().map(|w| (w.name.clone(), factors.clone())));
            columns.extend(balance.to.iter().map(|w| (w.name.clone(), inverse.clone())));
        }
        Ok(Self { model, rows, columns })
    }
}

impl Model for Balanced<'_> {
    fn config(&self) -> &LlmConfig {
        self.model.config()
    }

    fn tensor(&self, weight: &Weight) -> Result<Vec<f32>> {
        let mut values = self.model.tensor(weight)?;
        if let Some(factors) = self.rows.get(&weight.name) {
            let width = values.len() / factors.len();
            let rows = values.chunks_exact_mut(width).zip(factors);
            rows.for_each(|(row, factor)| row.iter_mut().for_each(|v| *v *= factor));
        }
        if let Some(factors) = self.columns.get(&weight.name) {
            let rows = values.chunks_exact_mut(factors.len());
            rows.for_each(|row| row.iter_mut().zip(factors).for_each(|(v, factor)| *v *= factor));
        }
        Ok(values)
    }

    fn source_hash(&self) -> Result<[u8; 32]> {
        self.model.source_hash()
    }

    fn path(&self) -> &Path {
        self.model.path()
    }

    fn warnings(&self) -> Vec<String> {
        self.model.warnings()
    }
}
