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
    /// Reads all weights that take part, one after another. Each balance sees what those before it have done.
    ///
    /// # Errors
    /// The model's.
    pub fn new(model: &'m dyn Model, balances: &[Balance]) -> Result<Self> {
        let mut balanced = Self { model, rows: HashMap::new(), columns: HashMap::new() };
        for balance in balances {
            let factors = balance.factors(&balanced)?;
            let inverse: Vec<f32> = balance.columns.iter().map(|c| 1.0 / factors[*c]).collect();
            balanced.rows.extend(balance.from.iter().map(|w| (w.name.clone(), factors.clone())));
            balanced.columns.extend(balance.to.iter().map(|w| (w.name.clone(), inverse.clone())));
        }
        Ok(balanced)
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

#[cfg(test)]
mod tests {
    use super::{Balance, Balanced};
    use crate::float::FloatModel;
    use crate::import::{Model, Weight, open_model};
    use crate::lower::balances;
    use std::path::Path;

    fn logits(model: &dyn Model) -> Vec<f32> {
        let model = FloatModel::load(model).unwrap();
        let tokens: Vec<u32> = (0..24).map(|i| i * 37 % 500).collect();
        model.session().forward(&tokens).unwrap().concat()
    }

    #[test]
    fn a_balanced_model_computes_what_it_did() {
        for name in ["gpt", "qwen3", "llm"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models").join(name);
            let model = open_model(&path).unwrap();
            let balanced = Balanced::new(&*model, &balances(model.config())).unwrap();
            let (before, after) = (logits(&*model), logits(&balanced));
            let largest = before.iter().fold(0f32, |m, l| m.max(l.abs()));
            let apart = before.iter().zip(&after).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            // 2e-6 of the largest.
            assert!(apart < 1e-4 * largest, "{name}: {apart} of {largest}");
        }
    }

    #[test]
    fn however_channels_are_scaled_the_balanced_weights_are_the_same() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/llm");
        let model = open_model(&path).unwrap();
        let dim = model.config().dim;
        let gain = Weight::new("model.layers.1.input_layernorm.weight", &[dim]);
        let balances = balances(model.config());
        let balance: &Balance = balances.iter().find(|b| b.from[0] == gain).unwrap();
        // One channel a hundred times as large, which the matrices that take it make up for.
        let factors: Vec<f32> = (0..dim).map(|c| if c == 7 { 100.0 } else { 1.0 }).collect();
        let inverse: Vec<f32> = factors.iter().map(|f| 1.0 / f).collect();
        let rows = balance.from.iter().map(|w| (w.name.clone(), factors.clone())).collect();
        let columns = balance.to.iter().map(|w| (w.name.clone(), inverse.clone())).collect();
        let scaled = Balanced { model: &*model, rows, columns };
        let (plain, again) = (Balanced::new(&*model, &balances).unwrap(), Balanced::new(&scaled, &balances).unwrap());
        for weight in balance.from.iter().chain(&balance.to) {
            let (a, b) = (plain.tensor(weight).unwrap(), again.tensor(weight).unwrap());
            // Up to a common factor: the mean of all channels' is kept at 1.
            let ratio = b[0] / a[0];
            assert!((0.9..1.1).contains(&ratio), "{ratio}");
            let most = a.iter().zip(&b).fold(0f32, |m, (a, b)| m.max((a * ratio - b).abs()));
            assert!(most < 1e-4 * a.iter().fold(0f32, |m, v| m.max(v.abs())), "{}: {most}", weight.name);
            assert_ne!(a, model.tensor(weight).unwrap(), "{} was not balanced", weight.name);
        }
    }
}
