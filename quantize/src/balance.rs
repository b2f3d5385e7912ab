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

/// Channels that can be rescaled where they are made, if that is undone where they are taken.
#[derive(Clone, Debug)]
pub struct Balance {
    /// What makes them.
    pub made: Side,
    /// What takes them.
    pub taken: Side,
}

/// The weights at one end of channels.
#[derive(Clone, Debug)]
pub struct Side {
    /// All have the same channels.
    pub weights: Vec<Weight>,
    /// Whether they lie along the weights' rows (gains and biases: elements), or along columns.
    pub is_rows: bool,
    /// The channel of each row or column.
    pub channels: Vec<usize>,
}

impl Side {
    /// Each row is a channel.
    #[must_use]
    pub fn rows(weights: Vec<Weight>) -> Self {
        Self { channels: (0..weights.first().map_or(0, |w| w.shape[0])).collect(), is_rows: true, weights }
    }

    /// Each column is a channel.
    #[must_use]
    pub fn columns(weights: Vec<Weight>) -> Self {
        Self { channels: (0..weights.first().map_or(0, |w| w.shape[1])).collect(), is_rows: false, weights }
    }

    /// Instead of a channel of its own each has that which `channel` says.
    #[must_use]
    pub fn each(mut self, channel: impl Fn(usize) -> usize) -> Self {
        self.channels.iter_mut().for_each(|c| *c = channel(*c));
        self
    }

    /// Adds the squares of what each channel has.
    fn add_squares(&self, model: &dyn Model, sums: &mut [f64]) -> Result<()> {
        for weight in &self.weights {
            let values = model.tensor(weight)?;
            let width = if self.is_rows { values.len() / self.channels.len() } else { 1 };
            for (values, channel) in values.chunks_exact(width).zip(self.channels.iter().cycle()) {
                sums[*channel] += values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            }
        }
        Ok(())
    }
}

impl Balance {
    /// Channels that are made by rows and taken by columns, one by one.
    #[must_use]
    pub fn new(from: Vec<Weight>, to: Vec<Weight>) -> Self {
        Self { made: Side::rows(from), taken: Side::columns(to) }
    }

    /// Value channels of `kv_heads` heads, taken by the columns of `heads` heads.
    #[must_use]
    pub fn values(from: Vec<Weight>, to: Weight, c: &LlmConfig) -> Self {
        let channel = |col: usize| col / c.head_dim / (c.heads / c.kv_heads) * c.head_dim + col % c.head_dim;
        Self { made: Side::rows(from), taken: Side::columns(vec![to]).each(channel) }
    }

    /// Keys, which queries are multiplied with; `turned`: elements half a head apart are one pair, since RoPE mixes them. The weights
    /// of all heads, or of norms that all heads share.
    #[must_use]
    pub fn keys(keys: Vec<Weight>, queries: Vec<Weight>, turned: bool, c: &LlmConfig) -> Self {
        let element = |row: usize| row % if turned { c.head_dim / 2 } else { c.head_dim };
        let key = |row: usize| row / c.head_dim * c.head_dim + element(row % c.head_dim);
        let query = |row: usize| row / c.head_dim / (c.heads / c.kv_heads) * c.head_dim + element(row % c.head_dim);
        Self { made: Side::rows(keys).each(key), taken: Side::rows(queries).each(query) }
    }

    /// s of each channel.
    fn factors(&self, model: &dyn Model) -> Result<Vec<f32>> {
        let channels = self.made.channels.iter().max().map_or(0, |last| last + 1);
        let (mut made, mut taken) = (vec![0f64; channels], vec![0f64; channels]);
        self.made.add_squares(model, &mut made)?;
        self.taken.add_squares(model, &mut taken)?;
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
            balanced.multiply(&balance.made, |channel| factors[channel]);
            balanced.multiply(&balance.taken, |channel| 1.0 / factors[channel]);
        }
        Ok(balanced)
    }

    /// A weight's rows are multiplied once at most, and so are its columns.
    fn multiply(&mut self, side: &Side, by: impl Fn(usize) -> f32) {
        let factors: Vec<f32> = side.channels.iter().map(|channel| by(*channel)).collect();
        let kept = if side.is_rows { &mut self.rows } else { &mut self.columns };
        kept.extend(side.weights.iter().map(|w| (w.name.clone(), factors.clone())));
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
    use crate::import::{Model, open_model};
    use crate::lower::balances;
    use std::path::Path;

    fn logits(model: &dyn Model) -> Vec<f32> {
        let model = FloatModel::load(model).unwrap();
        let tokens: Vec<u32> = (0..24).map(|i| i * 37 % 90).collect();
        model.session().forward(&tokens).unwrap().concat()
    }

    #[test]
    fn a_balanced_model_computes_what_it_did() {
        let golden = ["gpt2-untied", "gqa-tied", "llama3-rope", "mha-untied", "qwen2-bias", "qwen3-qk-norm"];
        let golden = golden.map(|name| format!("tests/golden/transformers/{name}"));
        let bundled = ["gpt", "qwen3", "llm"].map(|name| format!("examples/models/{name}"));
        for name in golden.iter().chain(&bundled) {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
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
        let balances = balances(model.config());
        for name in ["input_layernorm.weight", "self_attn.k_proj.weight"] {
            let name = format!("model.layers.1.{name}");
            let balance: &Balance = balances.iter().find(|b| b.made.weights[0].name == name).unwrap();
            // One channel ten times as large, which what takes it makes up for.
            let factor = |channel: usize| if channel == 7 { 10.0 } else { 1.0 };
            let mut scaled = Balanced::new(&*model, &[]).unwrap();
            scaled.multiply(&balance.made, factor);
            scaled.multiply(&balance.taken, |channel| 1.0 / factor(channel));
            let [plain, again] =
                [&*model, &scaled].map(|model| Balanced::new(model, std::slice::from_ref(balance)).unwrap());
            for weight in balance.made.weights.iter().chain(&balance.taken.weights) {
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
}
