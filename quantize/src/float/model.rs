//! A Llama in floats, on candle.
//!
//! [`FloatLayer`] is one layer and hands out every activation on the way (the quantizer calibrates with them, one layer
//! in memory at a time); [`FloatModel`] holds all layers, [`FloatSession`] adds a cache.

use crate::import::{self, LlmConfig, Model, Role};
use candle_core::{D, DType, Device, Tensor};

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
}

/// Shorthand for the float side.
pub type Result<T> = std::result::Result<T, FloatError>;

/// One layer's weights, transposed for `x.matmul(w)`.
pub struct FloatLayer {
    attn_norm: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    biases: Option<[Tensor; 3]>,
    head_norms: Option<[Tensor; 2]>,
    ffn_norm: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
}

/// What went through a layer: inputs of each matrix and results that need a fixed-point range. Rows are tokens.
pub struct LayerActivations {
    /// Input of q, k and v.
    pub attn_in: Tensor,
    /// Queries, keys (before norm and rotation) and values.
    pub qkv: [Tensor; 3],
    /// Queries and keys after their norm, if they have one.
    pub qk_normed: Option<[Tensor; 2]>,
    /// Input of o.
    pub attn_out: Tensor,
    /// Residual after attention.
    pub middle: Tensor,
    /// Input of gate and up.
    pub ffn_in: Tensor,
    /// Gate before its activation.
    pub gate: Tensor,
    /// Up.
    pub up: Tensor,
    /// Input of down.
    pub down_in: Tensor,
}

fn vector(model: &dyn Model, role: Role) -> Result<Tensor> {
    let values = model.tensor(role)?;
    let n = values.len();
    Ok(Tensor::from_vec(values, n, &Device::Cpu)?)
}

fn matrix(model: &dyn Model, role: Role) -> Result<Tensor> {
    let shape = role.shape(model.config());
    Ok(Tensor::from_vec(model.tensor(role)?, (shape[0], shape[1]), &Device::Cpu)?.t()?.contiguous()?)
}

fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(x.broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(weight)?)
}

fn silu(x: &Tensor) -> Result<Tensor> {
    Ok((x / (x.neg()?.exp()? + 1.0)?)?)
}

/// Cosines and sines `[positions, head_dim / 2]` from position `start` on.
fn rotations(c: &LlmConfig, start: usize, n: usize) -> Result<(Tensor, Tensor)> {
    let frequencies = c.rope_frequencies();
    let angles = (start..start + n).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.cos() as f32, a.sin() as f32)).unzip();
    let shape = (n, frequencies.len());
    Ok((Tensor::from_vec(cos, shape, &Device::Cpu)?, Tensor::from_vec(sin, shape, &Device::Cpu)?))
}

/// Half-split rotation of `[heads, n, head_dim]`.
fn rotate(x: &Tensor, (cos, sin): &(Tensor, Tensor)) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    Ok(Tensor::cat(&[first, second], D::Minus1)?)
}

impl FloatLayer {
    /// Loads layer `l`.
    ///
    /// # Errors
    /// [`FloatError`].
    pub fn load(model: &dyn Model, l: usize) -> Result<Self> {
        let c = model.config();
        let biases = if c.qkv_bias {
            Some([vector(model, Role::QBias(l))?, vector(model, Role::KBias(l))?, vector(model, Role::VBias(l))?])
        } else {
            None
        };
        let head_norms =
            if c.qk_norm { Some([vector(model, Role::QNorm(l))?, vector(model, Role::KNorm(l))?]) } else { None };
        Ok(Self {
            attn_norm: vector(model, Role::AttnNorm(l))?,
            q: matrix(model, Role::Q(l))?,
            k: matrix(model, Role::K(l))?,
            v: matrix(model, Role::V(l))?,
            o: matrix(model, Role::O(l))?,
            biases,
            head_norms,
            ffn_norm: vector(model, Role::FfnNorm(l))?,
            gate: matrix(model, Role::Gate(l))?,
            up: matrix(model, Role::Up(l))?,
            down: matrix(model, Role::Down(l))?,
        })
    }

    /// Runs `x` `[n, dim]` at positions `start..start + n` through the layer; `cache` holds the keys and values
    /// `[kv_heads, positions, head_dim]` so far and is extended.
    ///
    /// # Errors
    /// [`FloatError::Tensor`].
    pub fn forward(
        &self,
        c: &LlmConfig,
        x: &Tensor,
        start: usize,
        cache: &mut Option<(Tensor, Tensor)>,
    ) -> Result<(Tensor, LayerActivations)> {
        let n = x.dim(0)?;
        let attn_in = rms_norm(x, &self.attn_norm, c.norm_eps)?;
        let mut qkv = [attn_in.matmul(&self.q)?, attn_in.matmul(&self.k)?, attn_in.matmul(&self.v)?];
        if let Some(biases) = &self.biases {
            for (x, bias) in qkv.iter_mut().zip(biases) {
                *x = x.broadcast_add(bias)?;
            }
        }
        let heads = |x: &Tensor, count: usize| -> Result<Tensor> {
            Ok(x.reshape((n, count, c.head_dim))?.transpose(0, 1)?.contiguous()?)
        };
        let (mut q, mut k) = (heads(&qkv[0], c.heads)?, heads(&qkv[1], c.kv_heads)?);
        let v = heads(&qkv[2], c.kv_heads)?;
        let mut qk_normed = None;
        if let Some([q_norm, k_norm]) = &self.head_norms {
            (q, k) = (rms_norm(&q, q_norm, c.norm_eps)?, rms_norm(&k, k_norm, c.norm_eps)?);
            qk_normed = Some([q.clone(), k.clone()]);
        }
        let turn = rotations(c, start, n)?;
        let (q, k) = (rotate(&q, &turn)?, rotate(&k, &turn)?);
        let (keys, values) = match cache.take() {
            Some((old_k, old_v)) => (Tensor::cat(&[old_k, k], 1)?, Tensor::cat(&[old_v, v], 1)?),
            None => (k, v),
        };
        let total = keys.dim(1)?;
        let spread = |x: &Tensor| -> Result<Tensor> {
            let shared = c.heads / c.kv_heads;
            let x = x.unsqueeze(1)?.expand((c.kv_heads, shared, total, c.head_dim))?;
            Ok(x.reshape((c.heads, total, c.head_dim))?)
        };
        let scores = (q.matmul(&spread(&keys)?.t()?.contiguous()?)? / (c.head_dim as f64).sqrt())?;
        let window = c.sliding_window.unwrap_or(usize::MAX);
        let first = total - n;
        let hidden = |i: usize, j: usize| j > first + i || j.saturating_add(window) <= first + i;
        let mask: Vec<f32> =
            (0..n).flat_map(|i| (0..total).map(move |j| if hidden(i, j) { f32::NEG_INFINITY } else { 0.0 })).collect();
        let scores = scores.broadcast_add(&Tensor::from_vec(mask, (n, total), &Device::Cpu)?)?;
        let weights = softmax(&scores)?;
        let mixed = weights.matmul(&spread(&values)?)?;
        let attn_out = mixed.transpose(0, 1)?.reshape((n, c.heads * c.head_dim))?;
        *cache = Some((keys, values));
        let middle = (x + attn_out.matmul(&self.o)?)?;
        let ffn_in = rms_norm(&middle, &self.ffn_norm, c.norm_eps)?;
        let (gate, up) = (ffn_in.matmul(&self.gate)?, ffn_in.matmul(&self.up)?);
        let down_in = (silu(&gate)? * &up)?;
        let out = (&middle + down_in.matmul(&self.down)?)?;
        Ok((out, LayerActivations { attn_in, qkv, qk_normed, attn_out, middle, ffn_in, gate, up, down_in }))
    }
}

fn softmax(x: &Tensor) -> Result<Tensor> {
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    Ok(e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?)
}

/// All layers in memory.
pub struct FloatModel {
    config: LlmConfig,
    embed: Tensor,
    layers: Vec<FloatLayer>,
    final_norm: Tensor,
    head: Tensor,
}

impl FloatModel {
    /// Loads a model.
    ///
    /// # Errors
    /// [`FloatError`].
    pub fn load(model: &dyn Model) -> Result<Self> {
        let config = model.config().clone();
        let layers = (0..config.layers).map(|l| FloatLayer::load(model, l)).collect::<Result<_>>()?;
        Ok(Self {
            embed: embedding(model)?,
            layers,
            final_norm: vector(model, Role::FinalNorm)?,
            head: matrix(model, Role::Head)?,
            config,
        })
    }

    /// Its shape.
    #[must_use]
    pub fn config(&self) -> &LlmConfig {
        &self.config
    }

    /// A new session.
    #[must_use]
    pub fn session(&self) -> FloatSession<'_> {
        FloatSession { model: self, caches: (0..self.config.layers).map(|_| None).collect(), position: 0 }
    }
}

/// The norm before the head.
pub(crate) fn final_norm(model: &dyn Model, x: &Tensor) -> Result<Tensor> {
    rms_norm(x, &vector(model, Role::FinalNorm)?, model.config().norm_eps)
}

/// The embedding table `[vocab, dim]`.
pub(crate) fn embedding(model: &dyn Model) -> Result<Tensor> {
    let c = model.config();
    Ok(Tensor::from_vec(model.tensor(Role::Embed)?, (c.vocab, c.dim), &Device::Cpu)?)
}

/// Rows of an embedding table by token: `[n, dim]`.
pub(crate) fn embed(table: &Tensor, tokens: &[u32]) -> Result<Tensor> {
    let vocab = table.dim(0)?;
    if let Some(id) = tokens.iter().copied().find(|t| *t as usize >= vocab) {
        return Err(FloatError::Token { id, vocab });
    }
    Ok(table.index_select(&Tensor::new(tokens, &Device::Cpu)?, 0)?)
}

/// Runs a model over a growing context.
pub struct FloatSession<'m> {
    model: &'m FloatModel,
    caches: Vec<Option<(Tensor, Tensor)>>,
    position: usize,
}

impl FloatSession<'_> {
    /// Appends tokens; returns their logits, a row of `vocab` each.
    ///
    /// # Errors
    /// [`FloatError`].
    pub fn forward(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        let m = self.model;
        let mut x = embed(&m.embed, tokens)?;
        for (layer, cache) in m.layers.iter().zip(&mut self.caches) {
            x = layer.forward(&m.config, &x, self.position, cache)?.0;
        }
        self.position += tokens.len();
        let logits = rms_norm(&x, &m.final_norm, m.config.norm_eps)?.matmul(&m.head)?;
        Ok(logits.to_dtype(DType::F32)?.to_vec2()?)
    }

    /// Forgets the context.
    pub fn reset(&mut self) {
        self.caches.iter_mut().for_each(|c| *c = None);
        self.position = 0;
    }
}
