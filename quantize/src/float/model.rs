//! Language models in floats, on candle: the program that the device runs, step by step, with the model's own weights.
//!
//! [`step`] computes one op for one text and tells which slot it filled; the quantizer calibrates with it, one op's weights in
//! memory at a time. [`FloatModel`] holds all weights, [`FloatSession`] a growing context. An op's tensors say on which device it is
//! computed: what it makes, and what it makes it from, is there too. That these programs are the models
//! is shown by comparing with transformers (`tests/conformance/float.rs`).

use super::{DeviceName, Stream};
use crate::import::{self, LlmConfig, Model, Weight};
use crate::lower::{Ranges, Steps, language_model, tensor_args};
use candle_core::{D, Device, Tensor};
use mote_runtime::image::Op;
use mote_runtime::image::program::entry;
use mote_runtime::ops;

/// Errors of the tensor library, and of importers underneath.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FloatError {
    /// The tensor library's.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// The importer's.
    #[error(transparent)]
    Import(#[from] import::ImportError),
    /// A token id beyond the vocabulary.
    #[error("token {id} is outside the vocabulary of {vocab}")]
    Token {
        /// The id.
        id: u32,
        /// Ids are below this.
        vocab: usize,
    },
    /// A device that there is not, or not for this program.
    #[error("--device {name}: {why}; --device cpu needs nothing")]
    Device {
        /// Asked for.
        name: DeviceName,
        /// What is wrong with it, and what would help.
        why: String,
    },
    /// The model has an encoder and got no source, or the other way round.
    #[error("{0}")]
    Source(&'static str),
    /// More tokens than the model has positions.
    #[error("{found} positions are needed, the model has {longest}")]
    Positions {
        /// Needed.
        found: usize,
        /// There are.
        longest: usize,
    },
}

/// Shorthand for the float side.
pub type Result<T> = std::result::Result<T, FloatError>;

/// The tensors that an op needs, on a device; matrices transposed for `x.matmul(w)`.
pub(crate) fn operands(model: &dyn Model, steps: &Steps, op: &Op, device: &Device) -> Result<Vec<Tensor>> {
    let tensor = |index: u32| {
        let Some(weight) = steps.tensors()[index as usize].weight() else {
            return Err(candle_core::Error::Msg("an op's tensor is no weight".into()).into());
        };
        operand(op, weight, model.tensor(weight)?, device)
    };
    tensor_args(op).into_iter().map(tensor).collect()
}

/// Values of a weight as `op` takes them, on a device.
pub(crate) fn operand(op: &Op, weight: &Weight, values: Vec<f32>, device: &Device) -> Result<Tensor> {
    let tensor = Tensor::from_vec(values, weight.shape.as_slice(), device)?;
    let transposed = name(op) == "matmul" && weight.shape.len() == 2;
    Ok(if transposed { tensor.t()?.contiguous()? } else { tensor })
}

fn name(op: &Op) -> &'static str {
    ops::find(op.code).map_or("unknown", |def| def.name)
}

/// The slots that an op reads or writes.
pub(crate) fn slots(op: &Op) -> Vec<u32> {
    let named = ops::find(op.code).map_or(&[][..], |def| def.slots);
    let alias = match name(op) {
        "glu" => Some(2),
        "activation" => Some(1),
        _ => None,
    };
    named.iter().copied().chain(alias).map(|which| op.args[which]).collect()
}

/// The slot that an op fills, whatever was in it.
pub(crate) fn fills(op: &Op) -> Option<u32> {
    let which = match name(op) {
        "embed" if op.flags & ops::embed::POSITIONS == 0 => 0,
        "kept_rows" if op.flags & ops::kept_rows::KEEP == 0 => 0,
        "kept_rows" | "select_row" | "mean_rows" | "rms_norm" | "layer_norm" | "quantize" | "activation" => 1,
        "cache" | "glu" => 2,
        "matmul" if op.flags & ops::matmul::ACCUMULATE == 0 => 3,
        "attention" => 3,
        _ => return None,
    };
    Some(op.args[which])
}

/// Computes one op for one text. Returns the fixed-point slot that it filled, if what is in it now says how large it gets
/// (rotations do not: what they rotated says it).
pub(crate) fn step(c: &LlmConfig, steps: &Steps, op: &Op, tensors: &[Tensor], s: &mut Stream) -> Result<Option<u32>> {
    let a = &op.args;
    let frac = |slot: u32| i32::from(steps.slot(slot).frac);
    // Epsilon as the op has it, which is times so many squares.
    let eps = |low: u32, high: u32, squares: f64| {
        (f64::from(low) + f64::from(high) * 2f64.powi(32)) / squares * 2f64.powi(-2 * frac(a[0]))
    };
    let (to, value) = match name(op) {
        "embed" if op.flags & ops::embed::POSITIONS != 0 => {
            let (old, longest) = (s.value(a[0])?, tensors[0].dim(0)?);
            let n = old.dim(0)?;
            if s.position + n > longest {
                return Err(FloatError::Positions { found: s.position + n, longest });
            }
            (a[0], (old + tensors[0].narrow(0, s.position, n)?)?)
        }
        "embed" => {
            let vocab = tensors[0].dim(0)?;
            if let Some(id) = s.tokens.iter().copied().find(|t| *t as usize >= vocab) {
                return Err(FloatError::Token { id, vocab });
            }
            let rows = tensors[0].index_select(&Tensor::new(s.tokens.as_slice(), tensors[0].device())?, 0)?;
            (a[0], if a[2] == 0 { rows } else { (rows * (c.dim as f64).sqrt())? })
        }
        "sinusoid" => {
            let old = s.value(a[0])?;
            let first = s.position + a[2] as usize;
            let (cos, sin) = waves(&c.sinusoid_frequencies(), first, old.dim(0)?, old.device())?;
            (a[0], (old + Tensor::cat(&[sin, cos], 1)?)?)
        }
        // A source is one step here.
        "kept_rows" if op.flags & ops::kept_rows::KEEP != 0 => (a[1], s.value(a[0])?.clone()),
        "kept_rows" => (a[0], s.value(a[1])?.clone()),
        "select_row" => (a[1], s.value(a[0])?.clone()),
        "mean_rows" => {
            let x = s.value(a[0])?;
            let count = if a[2] == 0 { x.dim(0)? } else { x.dim(0)?.min(a[2] as usize) };
            (a[1], x.narrow(0, 0, count)?.mean_keepdim(0)?)
        }
        "rms_norm" => {
            let x = s.value(a[0])?;
            let parts = x.reshape(((), a[7] as usize))?;
            let normed = rms_norm(&parts, &tensors[0], eps(a[3], a[4], f64::from(a[7])))?;
            (a[1], normed.reshape(x.shape())?)
        }
        "layer_norm" => {
            let x = s.value(a[0])?;
            let width = x.dim(D::Minus1)? as f64;
            let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
            let normed = rms_norm(&centred, &tensors[0], eps(a[4], a[5], width.powi(3)))?;
            (a[1], normed.broadcast_add(&tensors[1])?)
        }
        "quantize" => (a[1], s.value(a[0])?.clone()),
        "matmul" => {
            let mut product = s.value(a[0])?.matmul(&tensors[0])?;
            if let Some(bias) = tensors.get(1) {
                product = product.broadcast_add(bias)?;
            }
            (a[3], if op.flags & ops::matmul::ACCUMULATE != 0 { (s.value(a[3])? + product)? } else { product })
        }
        "rope" => {
            let x = heads(s.value(a[0])?, a[2] as usize)?;
            let waves = waves(&c.rope_frequencies(), s.position, x.dim(1)?, x.device())?;
            (a[0], joined(&rotate(&x, &waves)?)?)
        }
        "cache" => {
            let kv_heads = steps.slot(a[2]).heads as usize;
            let (mut k, mut v) = (heads(s.value(a[0])?, kv_heads)?, heads(s.value(a[1])?, kv_heads)?);
            if s.position > 0 {
                let (old_k, old_v) = s.cache(a[2])?;
                k = Tensor::cat(&[&old_k.narrow(1, 0, s.position)?, &k], 1)?;
                v = Tensor::cat(&[&old_v.narrow(1, 0, s.position)?, &v], 1)?;
            }
            s.put(a[2], vec![k, v]);
            return Ok(None);
        }
        "attention" => {
            let window = match a[7] {
                _ if op.flags & ops::attention::SOURCE != 0 => None,
                0 => Some(usize::MAX),
                window => Some(window as usize),
            };
            (a[3], attention(&heads(s.value(a[0])?, a[4] as usize)?, s.cache(a[1])?, window)?)
        }
        "glu" => (a[2], (s.value(a[0])?.silu()? * s.value(a[1])?)?),
        "activation" => {
            let x = s.value(a[0])?;
            let y = match a[2] {
                ops::activation::RELU => x.relu()?,
                ops::activation::GELU_TANH => x.gelu()?,
                _ => x.gelu_erf()?,
            };
            (a[1], y)
        }
        other => return Err(candle_core::Error::Msg(format!("{other} has no float form")).into()),
    };
    s.put(to, vec![value]);
    Ok((!matches!(name(op), "rope" | "quantize")).then_some(to))
}

fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(x.broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(weight)?)
}

/// Cosines and sines `[positions, frequencies]` from position `start` on.
fn waves(frequencies: &[f64], start: usize, n: usize, device: &Device) -> Result<(Tensor, Tensor)> {
    let angles = (start..start + n).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.cos() as f32, a.sin() as f32)).unzip();
    let shape = (n, frequencies.len());
    Ok((Tensor::from_vec(cos, shape, device)?, Tensor::from_vec(sin, shape, device)?))
}

/// Half-split rotation of `[heads, n, head_dim]`.
fn rotate(x: &Tensor, (cos, sin): &(Tensor, Tensor)) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    Ok(Tensor::cat(&[first, second], D::Minus1)?)
}

/// `[n, heads * head_dim]` to `[heads, n, head_dim]`.
fn heads(x: &Tensor, count: usize) -> Result<Tensor> {
    let (n, cols) = x.dims2()?;
    Ok(x.reshape((n, count, cols / count))?.transpose(0, 1)?.contiguous()?)
}

/// And back.
fn joined(x: &Tensor) -> Result<Tensor> {
    let (count, n, head_dim) = x.dims3()?;
    Ok(x.transpose(0, 1)?.reshape((n, count * head_dim))?)
}

/// Attention of queries `[heads, n, head_dim]`: causal within a window, they being the last n positions of the cache; or to all
/// of the cache.
fn attention(q: &Tensor, (keys, values): (&Tensor, &Tensor), window: Option<usize>) -> Result<Tensor> {
    let (heads, n, head_dim) = q.dims3()?;
    let (kv_heads, total, _) = keys.dims3()?;
    let spread = |x: &Tensor| -> Result<Tensor> {
        let x = x.unsqueeze(1)?.expand((kv_heads, heads / kv_heads, total, head_dim))?;
        Ok(x.reshape((heads, total, head_dim))?)
    };
    let scores = (q.matmul(&spread(keys)?.t()?.contiguous()?)? / (head_dim as f64).sqrt())?;
    let Some(window) = window else { return joined(&softmax(&scores)?.matmul(&spread(values)?)?) };
    let first = total - n;
    let hidden = |i: usize, j: usize| j > first + i || j.saturating_add(window) <= first + i;
    let mask: Vec<f32> =
        (0..n).flat_map(|i| (0..total).map(move |j| if hidden(i, j) { f32::NEG_INFINITY } else { 0.0 })).collect();
    let scores = scores.broadcast_add(&Tensor::from_vec(mask, (n, total), q.device())?)?;
    joined(&softmax(&scores)?.matmul(&spread(values)?)?)
}

pub(crate) fn softmax(x: &Tensor) -> Result<Tensor> {
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    Ok(e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?)
}

/// A program with all its weights in memory.
pub struct FloatModel {
    config: LlmConfig,
    steps: Steps,
    /// Tensors of each op.
    tensors: Vec<Vec<Tensor>>,
}

impl FloatModel {
    /// Loads a model, to the CPU's memory.
    ///
    /// # Errors
    /// [`FloatError`].
    pub fn load(model: &dyn Model) -> Result<Self> {
        Self::load_on(model, &Device::Cpu)
    }

    /// Loads a model to the memory of a device, which will compute it.
    ///
    /// # Errors
    /// [`FloatError`].
    pub fn load_on(model: &dyn Model, device: &Device) -> Result<Self> {
        let config = model.config().clone();
        let steps = language_model(&config, &Ranges::default());
        let tensors = steps.ops().iter().map(|op| operands(model, &steps, op, device)).collect::<Result<_>>()?;
        Ok(Self { config, steps, tensors })
    }

    /// Its shape.
    #[must_use]
    pub fn config(&self) -> &LlmConfig {
        &self.config
    }

    /// A new session.
    #[must_use]
    pub fn session(&self) -> FloatSession<'_> {
        FloatSession { model: self, stream: Stream::default() }
    }
}

/// Runs a model over a growing context.
pub struct FloatSession<'m> {
    model: &'m FloatModel,
    stream: Stream,
}

impl FloatSession<'_> {
    /// Runs a source through the encoder, and forgets the target.
    ///
    /// # Errors
    /// [`FloatError`].
    pub fn encode(&mut self, source: &[u32]) -> Result<()> {
        if self.model.config.encoder.is_none() || source.is_empty() {
            return Err(FloatError::Source("a source of at least one token is for models with an encoder"));
        }
        self.stream = Stream::new(source);
        self.run(entry::ENCODE)
    }

    /// The embedding that an encoder without a decoder gives of `source`, not normalised.
    ///
    /// # Errors
    /// [`FloatError`].
    pub fn embed(&mut self, source: &[u32]) -> Result<Vec<f32>> {
        if !self.model.config.embeds() {
            return Err(FloatError::Source("embeddings are of encoders without a decoder"));
        }
        self.encode(source)?;
        self.run(entry::HEAD)?;
        Ok(self.stream.value(self.model.steps.logits_slot())?.flatten_all()?.to_vec1()?)
    }

    /// What greedy search writes for `source`: at most `most` tokens, `end` (which is not among them) earlier; and the sum of
    /// their log-probabilities, that of `end` included. Afterwards the session is at the target's end.
    ///
    /// # Errors
    /// [`FloatError`].
    pub fn translate(&mut self, source: &[u32], end: &[u32], most: usize) -> Result<(Vec<u32>, f64)> {
        self.encode(source)?;
        let mut next = self.model.config.encoder.as_ref().map_or(0, |e| e.start);
        let (mut written, mut sum) = (Vec::new(), 0.0);
        for _ in 0..=most {
            let logits = self.forward(&[next])?.pop().unwrap_or_default();
            let chances = super::metrics::log_softmax(&logits);
            let best = chances.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
            let Some((id, chance)) = best else { break };
            (next, sum) = (id as u32, sum + chance);
            if end.contains(&next) || written.len() == most {
                break;
            }
            written.push(next);
        }
        Ok((written, sum))
    }

    /// Appends tokens; returns their logits, a row of `vocab` each.
    ///
    /// # Errors
    /// [`FloatError`].
    pub fn forward(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        if self.model.config.embeds() {
            return Err(FloatError::Source("an encoder without a decoder has no logits: ask for its embedding"));
        }
        if self.model.config.encoder.is_some() && !self.stream.has_caches() {
            return Err(FloatError::Source("the model has an encoder: give it a source first"));
        }
        self.stream.tokens = tokens.to_vec();
        for id in [entry::BODY, entry::HEAD] {
            self.run(id)?;
        }
        self.stream.position += tokens.len();
        Ok(self.stream.value(self.model.steps.logits_slot())?.to_vec2()?)
    }

    fn run(&mut self, id: u32) -> Result<()> {
        let m = self.model;
        for (at, op) in m.steps.entry_ops(id) {
            step(&m.config, &m.steps, op, &m.tensors[at], &mut self.stream)?;
        }
        Ok(())
    }

    /// Forgets the context.
    pub fn reset(&mut self) {
        self.stream = Stream::default();
    }
}
