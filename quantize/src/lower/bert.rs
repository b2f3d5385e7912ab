//! BERT (arXiv 1810.04805): an encoder alone, each layer norm after its step, biases everywhere. It gives a text's embedding.
//!
//! ```text
//! stage 0       embed the source, positions, norm; keys and values of layer 0
//! stage 2l + 1  queries of layer l, attention to the whole source, norm, feed-forward net, norm
//! stage 2l + 2  keys and values of layer l + 1
//! head          the mean of all rows, or the first
//! ```
//!
//! One cache serves all layers, and the residual of all positions is kept between stages; within a stage, too, since what is quantized
//! is transformed in place, and here that is the residual itself.

use super::linear;
use super::steps::{ENCODE, HEAD, Ranges, Steps};
use crate::balance::Balance;
use crate::import::{Encoder, LlmConfig, Pooling, Stored, Weight};
use mote_runtime::image::plan::Rows;

/// Positions, to each of which the row of the first type of tokens is added: a text alone is all of that type.
fn positions(c: &LlmConfig) -> Weight {
    let name = |part: &str| format!("bert.embeddings.{part}_embeddings.weight");
    let shape = [c.max_context, c.dim];
    let plus = Some((name("token_type"), vec![c.token_types, c.dim]));
    let stored = Stored { name: name("position"), shape: shape.to_vec(), first: 0, plus };
    Weight { stored: Some(stored), ..Weight::new(name("position"), &shape) }
}

/// Lowers a model.
pub(super) fn lower(c: &LlmConfig, ranges: &Ranges) -> Steps {
    let mut b = Steps::new(c, ranges);
    b.limit_for_layer_norm(c.norm_eps, c.dim);
    if let Some(e) = &c.encoder {
        encoder(&mut b, c, e);
    }
    b
}

fn encoder(b: &mut Steps, c: &LlmConfig, e: &Encoder) {
    // Each norm goes from one of the two to the other.
    let [x, y] = ["residual"; 2].map(|name| b.batch(c.dim, name));
    let [q, k, v] = ["q", "k", "v"].map(|name| b.batch(c.dim, name));
    let (scores, attn, inner) = (b.scores(), b.batch(c.dim, "attention"), b.batch(c.hidden, "inner"));
    let active = b.alias(inner, "active");
    let [normed8, attn8, active8] = [c.dim, c.dim, c.hidden].map(|cols| b.codes(Rows::Batch, cols));
    let (kept, cache) = (b.kept(x), b.cache(e.heads, c.head_dim));
    let project = |b: &mut Steps, from8: u32, name: &str, (rows, cols): (usize, usize), to: u32| {
        let (weight, bias) = linear(name, rows, cols);
        b.matmul(from8, weight, bias, to, to == x || to == y);
    };
    let square = (c.dim, c.dim);

    b.entry(ENCODE);
    b.embed(y, Weight::new("bert.embeddings.word_embeddings.weight", &[e.vocab, c.dim]), 1.0, false);
    b.positions(y, positions(c));
    b.layer_norm(y, x, "bert.embeddings.LayerNorm", c.norm_eps);
    b.keep(x, kept);
    for l in 0..e.layers {
        let name = |part: &str| layer(l, part);
        b.layer();
        b.quantize(x, normed8);
        project(b, normed8, &name("attention.self.key"), square, k);
        project(b, normed8, &name("attention.self.value"), square, v);
        b.write_cache(k, v, cache);

        b.entry(ENCODE);
        b.fetch(x, kept);
        b.quantize(x, normed8);
        project(b, normed8, &name("attention.self.query"), square, q);
        b.attention_to_source(q, cache, scores, attn, e.heads);
        b.quantize(attn, attn8);
        b.fetch(x, kept);
        project(b, attn8, &name("attention.output.dense"), square, x);
        b.layer_norm(x, y, &name("attention.output.LayerNorm"), c.norm_eps);
        b.keep(y, kept);
        b.quantize(y, normed8);
        project(b, normed8, &name("intermediate.dense"), (c.hidden, c.dim), inner);
        b.activation(inner, active, c.activation);
        b.quantize(active, active8);
        b.fetch(y, kept);
        project(b, active8, &name("output.dense"), (c.dim, c.hidden), y);
        b.layer_norm(y, x, &name("output.LayerNorm"), c.norm_eps);
        b.keep(x, kept);

        if l + 1 < e.layers {
            b.entry(ENCODE);
            b.fetch(x, kept);
        }
    }

    b.entry(HEAD);
    let embedding = b.rows(Rows::One, c.dim, "residual", 1.0);
    b.embedding(kept, embedding, if c.pooling == Pooling::First { 1 } else { 0 });
}

fn layer(l: usize, part: &str) -> String {
    format!("bert.encoder.layer.{l}.{part}")
}

/// Channels that can be rescaled: those of keys and values. What a norm makes goes to the residual, too.
pub(super) fn balances(c: &LlmConfig) -> Vec<Balance> {
    let layers = c.encoder.as_ref().map_or(0, |e| e.layers);
    let of = |l: usize| {
        let part = |part: &str| linear(&layer(l, part), c.dim, c.dim);
        let with_bias = |name: &str| {
            let (weight, bias) = part(name);
            std::iter::once(weight).chain(bias).collect()
        };
        let [q, k, v] = ["query", "key", "value"].map(|name| with_bias(&format!("attention.self.{name}")));
        [Balance::keys(k, q, false, c), Balance::new(v, vec![part("attention.output.dense").0])]
    };
    (0..layers).flat_map(of).collect()
}
