//! The Llama family: embeddings, layers of attention and gated feed-forward nets with RMS norms before them, a head.

use super::steps::{BODY, HEAD, Ranges, Steps};
use crate::balance::Balance;
use crate::import::{LlmConfig, Weight};
use mote_runtime::image::plan::Rows;
use mote_runtime::ops::rope;

/// Slots shared by all layers.
struct Slots {
    x: u32,
    normed: u32,
    normed8: u32,
    q: u32,
    k: u32,
    v: u32,
    /// Normed queries and keys (Qwen3).
    qk_normed: Option<[u32; 2]>,
    scores: u32,
    attn: u32,
    attn8: u32,
    gate: u32,
    up: u32,
    glu: u32,
    glu8: u32,
}

/// Lowers a model.
pub(super) fn lower(c: &LlmConfig, ranges: &Ranges) -> Steps {
    let mut b = Steps::new(c, ranges);
    let (q_cols, kv_cols) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    // Rotation can turn a pair's whole length into one of its two elements; the transform behind it sums up a block, of which slots have room
    // for 32.
    let block = 1u32 << rope::log2_block(c.head_dim);
    let turned = std::f64::consts::SQRT_2 * f64::from(block.max(32)) / 32.0;
    let gate = b.batch(c.hidden, "gate");
    let s = Slots {
        x: b.batch(c.dim, "residual"),
        normed: b.batch(c.dim, "normed"),
        normed8: b.codes(Rows::Batch, c.dim),
        q: b.rows(Rows::Batch, q_cols, "q", turned),
        k: b.rows(Rows::Batch, kv_cols, "k", turned),
        v: b.batch(kv_cols, "v"),
        qk_normed: c
            .qk_norm
            .then(|| [b.rows(Rows::Batch, q_cols, "q", turned), b.rows(Rows::Batch, kv_cols, "k", turned)]),
        scores: b.scores(),
        attn: b.batch(q_cols, "attention"),
        attn8: b.codes(Rows::Batch, q_cols),
        gate,
        up: b.batch(c.hidden, "up"),
        glu: b.alias(gate, "glu"),
        glu8: b.codes(Rows::Batch, c.hidden),
    };
    let table = Weight::new("model.embed_tokens.weight", &[c.vocab, c.dim]);

    b.entry(BODY);
    b.embed(s.x, table.clone(), 1.0, c.tied);
    for l in 0..c.layers {
        layer(&mut b, c, &s, l);
    }

    b.entry(HEAD);
    let last = b.rows(Rows::One, c.dim, "residual", 1.0);
    let last_normed = b.rows(Rows::One, c.dim, "normed", 1.0);
    let last8 = b.codes(Rows::One, c.dim);
    b.select_row(s.x, last);
    b.rms_norm(last, last_normed, Weight::new("model.norm.weight", &[c.dim]), c.norm_eps, c.dim);
    b.quantize(last_normed, last8);
    b.logits(last8, if c.tied { table } else { Weight::new("lm_head.weight", &[c.vocab, c.dim]) }, None);
    b
}

/// Channels between its layers that can be rescaled.
pub(super) fn balances(c: &LlmConfig) -> Vec<Balance> {
    let (q_cols, kv_cols) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let mut all = Vec::new();
    for l in 0..c.layers {
        let weight = |name: &str, shape: &[usize]| Weight::new(format!("model.layers.{l}.{name}"), shape);
        let mut value = vec![weight("self_attn.v_proj.weight", &[kv_cols, c.dim])];
        value.extend(c.qkv_bias.then(|| weight("self_attn.v_proj.bias", &[kv_cols])));
        let qkv = [("q", q_cols), ("k", kv_cols), ("v", kv_cols)];
        let qkv = qkv.map(|(name, rows)| weight(&format!("self_attn.{name}_proj.weight"), &[rows, c.dim]));
        let [gate, up] = ["gate", "up"].map(|name| weight(&format!("mlp.{name}_proj.weight"), &[c.hidden, c.dim]));
        let [mut keys, mut queries] = [vec![qkv[1].clone()], vec![qkv[0].clone()]];
        if c.qkv_bias {
            keys.push(weight("self_attn.k_proj.bias", &[kv_cols]));
            queries.push(weight("self_attn.q_proj.bias", &[q_cols]));
        }
        if c.qk_norm {
            [keys, queries] =
                ["k", "q"].map(|name| vec![weight(&format!("self_attn.{name}_norm.weight"), &[c.head_dim])]);
        }
        // Before the norms, whose columns have keys and queries among them.
        all.push(Balance::keys(keys, queries, true, c));
        all.push(Balance::new(vec![weight("input_layernorm.weight", &[c.dim])], qkv.to_vec()));
        all.push(Balance::values(value, weight("self_attn.o_proj.weight", &[c.dim, q_cols]), c));
        all.push(Balance::new(vec![weight("post_attention_layernorm.weight", &[c.dim])], vec![gate, up.clone()]));
        all.push(Balance::new(vec![up], vec![weight("mlp.down_proj.weight", &[c.dim, c.hidden])]));
    }
    if !c.tied {
        let head = Weight::new("lm_head.weight", &[c.vocab, c.dim]);
        all.push(Balance::new(vec![Weight::new("model.norm.weight", &[c.dim])], vec![head]));
    }
    all
}

fn layer(b: &mut Steps, c: &LlmConfig, s: &Slots, l: usize) {
    let weight = |name: &str, shape: &[usize]| Weight::new(format!("model.layers.{l}.{name}"), shape);
    let (q_cols, kv_cols) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    b.layer();
    b.rms_norm(s.x, s.normed, weight("input_layernorm.weight", &[c.dim]), c.norm_eps, c.dim);
    b.quantize(s.normed, s.normed8);
    for (name, rows, to) in [("q", q_cols, s.q), ("k", kv_cols, s.k), ("v", kv_cols, s.v)] {
        let bias = c.qkv_bias.then(|| weight(&format!("self_attn.{name}_proj.bias"), &[rows]));
        b.matmul(s.normed8, weight(&format!("self_attn.{name}_proj.weight"), &[rows, c.dim]), bias, to, false);
    }
    let (mut q, mut k) = (s.q, s.k);
    if let Some([q_normed, k_normed]) = s.qk_normed {
        for (slot, to, name) in [(&mut q, q_normed, "q"), (&mut k, k_normed, "k")] {
            let gain = weight(&format!("self_attn.{name}_norm.weight"), &[c.head_dim]);
            b.rms_norm(*slot, to, gain, c.norm_eps, c.head_dim);
            *slot = to;
        }
    }
    b.rope(q, c.heads, c.head_dim);
    b.rope(k, c.kv_heads, c.head_dim);
    let cache = b.cache(c.kv_heads, c.head_dim);
    b.write_cache(k, s.v, cache);
    b.attention(q, cache, s.scores, s.attn, c.heads, c.sliding_window.unwrap_or(0));
    b.quantize(s.attn, s.attn8);
    b.matmul(s.attn8, weight("self_attn.o_proj.weight", &[c.dim, q_cols]), None, s.x, true);

    b.rms_norm(s.x, s.normed, weight("post_attention_layernorm.weight", &[c.dim]), c.norm_eps, c.dim);
    b.quantize(s.normed, s.normed8);
    b.matmul(s.normed8, weight("mlp.gate_proj.weight", &[c.hidden, c.dim]), None, s.gate, false);
    b.matmul(s.normed8, weight("mlp.up_proj.weight", &[c.hidden, c.dim]), None, s.up, false);
    b.glu(s.gate, s.up, s.glu);
    b.quantize(s.glu, s.glu8);
    b.matmul(s.glu8, weight("mlp.down_proj.weight", &[c.dim, c.hidden]), None, s.x, true);
}
