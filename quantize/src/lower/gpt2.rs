//! GPT-2: embeddings by token and by position, layers of attention and feed-forward nets with layer norms before them and
//! biases everywhere, a head. Hugging Face stores its matrices with the columns first, and q, k and v as one.

use super::steps::{BODY, HEAD, Ranges, Steps};
use crate::balance::Balance;
use crate::import::{LlmConfig, Stored, Weight};
use mote_runtime::image::plan::Rows;

/// A matrix and its bias, which are rows `first..` of a layer stored as `[cols, all]`.
fn conv1d(
    name: &str,
    stored: &str,
    rows: usize,
    cols: usize,
    (first, all): (usize, usize),
) -> (Weight, Option<Weight>) {
    let part = |end: &str, shape: &[usize], whole: Vec<usize>| Weight {
        name: format!("transformer.{name}.{end}"),
        shape: shape.to_vec(),
        stored: Some(Stored { name: format!("transformer.{stored}.{end}"), shape: whole, first, plus: None }),
    };
    (part("weight", &[rows, cols], vec![cols, all]), Some(part("bias", &[rows], vec![all])))
}

/// Lowers a model.
pub(super) fn lower(c: &LlmConfig, ranges: &Ranges) -> Steps {
    let mut b = Steps::new(c, ranges);
    b.limit_for_layer_norm(c.norm_eps, c.dim);
    let (x, normed, normed8) = (b.batch(c.dim, "residual"), b.batch(c.dim, "normed"), b.codes(Rows::Batch, c.dim));
    let qkv = [b.batch(c.dim, "q"), b.batch(c.dim, "k"), b.batch(c.dim, "v")];
    let (scores, attn, attn8) = (b.scores(), b.batch(c.dim, "attention"), b.codes(Rows::Batch, c.dim));
    let inner = b.batch(c.hidden, "inner");
    let (active, active8) = (b.alias(inner, "active"), b.codes(Rows::Batch, c.hidden));
    let table = Weight::new("transformer.wte.weight", &[c.vocab, c.dim]);

    b.entry(BODY);
    b.embed(x, table.clone(), 1.0, c.tied);
    b.positions(x, Weight::new("transformer.wpe.weight", &[c.max_context, c.dim]));
    for l in 0..c.layers {
        let name = |part: &str| format!("h.{l}.{part}");
        b.layer();
        b.layer_norm(x, normed, &format!("transformer.h.{l}.ln_1"), c.norm_eps);
        b.quantize(normed, normed8);
        for (i, (part, to)) in ["q", "k", "v"].into_iter().zip(qkv).enumerate() {
            let place = (i * c.dim, 3 * c.dim);
            let (weight, bias) = conv1d(&name(&format!("attn.{part}")), &name("attn.c_attn"), c.dim, c.dim, place);
            b.matmul(normed8, weight, bias, to, false);
        }
        let cache = b.cache(c.heads, c.head_dim);
        b.write_cache(qkv[1], qkv[2], cache);
        b.attention(qkv[0], cache, scores, attn, c.heads, 0);
        let project = |b: &mut Steps, part: &str, from: u32, from8: u32, cols: usize| {
            let (weight, bias) = conv1d(&name(part), &name(part), c.dim, cols, (0, c.dim));
            b.quantize(from, from8);
            b.matmul(from8, weight, bias, x, true);
        };
        project(&mut b, "attn.c_proj", attn, attn8, c.dim);
        b.layer_norm(x, normed, &format!("transformer.h.{l}.ln_2"), c.norm_eps);
        b.quantize(normed, normed8);
        let (weight, bias) = conv1d(&name("mlp.c_fc"), &name("mlp.c_fc"), c.hidden, c.dim, (0, c.hidden));
        b.matmul(normed8, weight, bias, inner, false);
        b.activation(inner, active, c.activation);
        project(&mut b, "mlp.c_proj", active, active8, c.hidden);
    }

    b.entry(HEAD);
    let (last, last_normed) = (b.rows(Rows::One, c.dim, "residual", 1.0), b.rows(Rows::One, c.dim, "normed", 1.0));
    let last8 = b.codes(Rows::One, c.dim);
    b.select_row(x, last);
    b.layer_norm(last, last_normed, "transformer.ln_f", c.norm_eps);
    b.quantize(last_normed, last8);
    let head = if c.tied { table } else { Weight::new("lm_head.weight", &[c.vocab, c.dim]) };
    b.logits(last8, head, c.head_bias.then(|| Weight::new("lm_head.bias", &[c.vocab])));
    b
}

/// Channels between its layers that can be rescaled.
pub(super) fn balances(c: &LlmConfig) -> Vec<Balance> {
    let norm = |name: String| ["weight", "bias"].map(|end| Weight::new(format!("{name}.{end}"), &[c.dim])).to_vec();
    let mut all = Vec::new();
    for l in 0..c.layers {
        let name = |part: &str| format!("h.{l}.{part}");
        let part =
            |part: &str, stored: &str, rows: usize, place| conv1d(&name(part), &name(stored), rows, c.dim, place);
        let third = |i: usize, p: &str| part(p, "attn.c_attn", c.dim, (i * c.dim, 3 * c.dim));
        let [(q, q_bias), (k, k_bias), (v, bias)] = [third(0, "attn.q"), third(1, "attn.k"), third(2, "attn.v")];
        let (project, _) = part("attn.c_proj", "attn.c_proj", c.dim, (0, c.dim));
        let (inner, _) = part("mlp.c_fc", "mlp.c_fc", c.hidden, (0, c.hidden));
        let with = |weight: Weight, bias: Option<Weight>| std::iter::once(weight).chain(bias).collect();
        all.push(Balance::keys(with(k.clone(), k_bias), with(q.clone(), q_bias), false, c));
        all.push(Balance::new(norm(format!("transformer.h.{l}.ln_1")), vec![q, k, v.clone()]));
        all.push(Balance::new(with(v, bias), vec![project]));
        all.push(Balance::new(norm(format!("transformer.h.{l}.ln_2")), vec![inner]));
    }
    if !c.tied {
        let head = Weight::new("lm_head.weight", &[c.vocab, c.dim]);
        all.push(Balance::new(norm("transformer.ln_f".into()), vec![head]));
    }
    all
}
