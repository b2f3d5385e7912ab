//! M2M-100 (arXiv 2010.11125) and NLLB: an encoder and a decoder, each layer norm before its step, biases everywhere.
//!
//! ```text
//! stage 0       embed the source, sinusoids; keys and values of layer 0
//! stage 2l + 1  queries of layer l, attention to the whole source, feed-forward net
//! stage 2l + 2  keys and values of layer l + 1; after the last layer: those of the decoder's cross-attention
//! body          embed, sinusoids; layers: attention, attention to the source, feed-forward net
//! ```
//!
//! One cache serves all layers of the encoder, and the residual of all positions is kept between stages.

use super::linear;
use super::steps::{BODY, ENCODE, HEAD, Ranges, Steps};
use crate::import::{Activation, Encoder, LlmConfig, Weight};
use mote_runtime::image::plan::Rows;

/// Slots of one side, shared by its layers.
struct Side {
    x: u32,
    normed: u32,
    normed8: u32,
    q: u32,
    k: u32,
    v: u32,
    scores: u32,
    attention: u32,
    attention8: u32,
    inner: u32,
    active: u32,
    active8: u32,
    dim: usize,
    hidden: usize,
    heads: usize,
    eps: f64,
    activation: Activation,
}

impl Side {
    /// `names` are those of the ranges of x, normed, q, k, v, attention, inner and active.
    fn new(b: &mut Steps, c: &LlmConfig, heads: usize, hidden: usize, names: [&'static str; 8]) -> Self {
        let [x, normed, q, k, v, attention] = std::array::from_fn(|i| b.batch(c.dim, names[i]));
        let inner = b.batch(hidden, names[6]);
        Self {
            x,
            normed,
            q,
            k,
            v,
            attention,
            inner,
            active: b.alias(inner, names[7]),
            normed8: b.codes(Rows::Batch, c.dim),
            attention8: b.codes(Rows::Batch, c.dim),
            active8: b.codes(Rows::Batch, hidden),
            scores: b.scores(),
            dim: c.dim,
            hidden,
            heads,
            eps: c.norm_eps,
            activation: c.activation,
        }
    }

    fn norm(&self, b: &mut Steps, name: &str) {
        b.layer_norm(self.x, self.normed, name, self.eps);
        b.quantize(self.normed, self.normed8);
    }

    /// `to` from the normed rows.
    fn project(&self, b: &mut Steps, name: &str, to: u32) {
        let (weight, bias) = linear(name, self.dim, self.dim);
        b.matmul(self.normed8, weight, bias, to, false);
    }

    /// Keys and values of the normed rows into `cache`.
    fn keys_and_values(&self, b: &mut Steps, name: &str, cache: u32) {
        self.project(b, &format!("{name}.k_proj"), self.k);
        self.project(b, &format!("{name}.v_proj"), self.v);
        b.write_cache(self.k, self.v, cache);
    }

    /// Attention of the normed rows to `cache`, to all of a source or causal, added to the residual.
    fn attend(&self, b: &mut Steps, name: &str, cache: u32, to_source: bool) {
        self.project(b, &format!("{name}.q_proj"), self.q);
        if to_source {
            b.attention_to_source(self.q, cache, self.scores, self.attention, self.heads);
        } else {
            b.attention(self.q, cache, self.scores, self.attention, self.heads, 0);
        }
        let (weight, bias) = linear(&format!("{name}.out_proj"), self.dim, self.dim);
        b.quantize(self.attention, self.attention8);
        b.matmul(self.attention8, weight, bias, self.x, true);
    }

    fn feed_forward(&self, b: &mut Steps, layer: &str) {
        self.norm(b, &format!("{layer}.final_layer_norm"));
        let (weight, bias) = linear(&format!("{layer}.fc1"), self.hidden, self.dim);
        b.matmul(self.normed8, weight, bias, self.inner, false);
        b.activation(self.inner, self.active, self.activation);
        let (weight, bias) = linear(&format!("{layer}.fc2"), self.dim, self.hidden);
        b.quantize(self.active, self.active8);
        b.matmul(self.active8, weight, bias, self.x, true);
    }
}

/// Lowers a model.
pub(super) fn lower(c: &LlmConfig, ranges: &Ranges) -> Steps {
    let mut b = Steps::new(c, ranges);
    b.limit_for_layer_norm(c.norm_eps, c.dim);
    let name = |side: &str| format!("model.{side}.embed_tokens.weight");
    let shared = c.encoder.as_ref().is_some_and(|e| e.shared);
    let table = |side: &str, rows: usize| match shared {
        true => Weight::new("model.shared.weight", &[rows, c.dim]),
        false => Weight::new(name(side), &[rows, c.dim]),
    };
    let scale = if c.scaled_embedding { (c.dim as f64).sqrt() } else { 1.0 };
    let crosses: Vec<u32> = (0..c.layers).map(|_| b.cache(c.heads, c.head_dim)).collect();
    if let Some(e) = &c.encoder {
        encoder(&mut b, c, e, table("encoder", e.vocab), scale, &crosses);
    }

    let names = ["residual", "normed", "q", "k", "v", "attention", "inner", "active"];
    let s = Side::new(&mut b, c, c.heads, c.hidden, names);
    b.entry(BODY);
    b.embed(s.x, table("decoder", c.vocab), scale, c.tied);
    b.sinusoid(s.x, c.first_position);
    for (l, cross) in crosses.iter().enumerate() {
        let layer = format!("model.decoder.layers.{l}");
        b.layer();
        let cache = b.cache(c.heads, c.head_dim);
        s.norm(&mut b, &format!("{layer}.self_attn_layer_norm"));
        s.keys_and_values(&mut b, &format!("{layer}.self_attn"), cache);
        s.attend(&mut b, &format!("{layer}.self_attn"), cache, false);
        s.norm(&mut b, &format!("{layer}.encoder_attn_layer_norm"));
        s.attend(&mut b, &format!("{layer}.encoder_attn"), *cross, true);
        s.feed_forward(&mut b, &layer);
    }

    b.entry(HEAD);
    let (last, last_normed) = (b.rows(Rows::One, c.dim, "residual", 1.0), b.rows(Rows::One, c.dim, "normed", 1.0));
    let last8 = b.codes(Rows::One, c.dim);
    b.select_row(s.x, last);
    b.layer_norm(last, last_normed, "model.decoder.layer_norm", c.norm_eps);
    b.quantize(last_normed, last8);
    let head = if c.tied { table("decoder", c.vocab) } else { Weight::new("lm_head.weight", &[c.vocab, c.dim]) };
    b.logits(last8, head, c.head_bias.then(|| Weight::new("lm_head.bias", &[c.vocab])));
    b
}

fn encoder(b: &mut Steps, c: &LlmConfig, e: &Encoder, table: Weight, scale: f64, crosses: &[u32]) {
    let names = [
        "encoder residual",
        "encoder normed",
        "encoder q",
        "encoder k",
        "encoder v",
        "encoder attention",
        "encoder inner",
        "encoder active",
    ];
    let s = Side::new(b, c, e.heads, e.hidden, names);
    let (kept, cache) = (b.kept(s.x), b.cache(e.heads, c.dim / e.heads));
    b.entry(ENCODE);
    b.embed(s.x, table, scale, c.tied && e.shared);
    b.sinusoid(s.x, c.first_position);
    b.keep(s.x, kept);
    for l in 0..e.layers {
        let layer = format!("model.encoder.layers.{l}");
        b.layer();
        let norm = format!("{layer}.self_attn_layer_norm");
        s.norm(b, &norm);
        s.keys_and_values(b, &format!("{layer}.self_attn"), cache);

        b.entry(ENCODE);
        b.fetch(s.x, kept);
        s.norm(b, &norm);
        s.attend(b, &format!("{layer}.self_attn"), cache, true);
        s.feed_forward(b, &layer);
        b.keep(s.x, kept);

        b.entry(ENCODE);
        b.fetch(s.x, kept);
    }
    s.norm(b, "model.encoder.layer_norm");
    for (l, cross) in crosses.iter().enumerate() {
        s.keys_and_values(b, &format!("model.decoder.layers.{l}.encoder_attn"), *cross);
    }
}
