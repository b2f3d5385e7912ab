//! The Llama family: embeddings, layers of attention and gated feed-forward nets with RMS norms before them, a head.

use super::{Builder, Lowered, Source, frac_bits, mantissa};
use crate::import::{LlmConfig, Role};
use mote_runtime::image::plan::{Kind, Rows};
use mote_runtime::image::program::{NONE, entry};
use mote_runtime::ops;

/// Largest magnitudes that went through each place, over all layers and the calibration text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ranges {
    /// Residual stream.
    pub residual: f64,
    /// After the norms of attention, feed-forward net and head.
    pub normed: f64,
    /// Queries, before or after their norm and rotation.
    pub q: f64,
    /// Keys, likewise.
    pub k: f64,
    /// Values.
    pub v: f64,
    /// Output of attention.
    pub attn_out: f64,
    /// Gate before its activation.
    pub gate: f64,
    /// Up.
    pub up: f64,
    /// Product of activated gate and up.
    pub glu: f64,
    /// Logits.
    pub logits: f64,
}

/// log2 of the block of the Walsh-Hadamard transform before the matrix `role`: for o and down the largest power of two
/// that divides its columns, for all others 0 (none).
///
/// Outputs of attention and of the gated unit have outliers that no gain or rotation of a neighbouring matrix can absorb;
/// the transform spreads each over its block (QuaRot, arXiv 2404.00456, section 4).
#[must_use]
pub fn hadamard(c: &LlmConfig, role: Role) -> u32 {
    match role {
        Role::O(_) | Role::Down(_) => role.shape(c)[1].trailing_zeros().min(ops::quantize::MAX_LOG2_BLOCK),
        _ => 0,
    }
}

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
#[must_use]
pub fn llama(c: &LlmConfig, ranges: &Ranges, max_context: usize) -> Lowered {
    let mut b = Builder::default();
    let (q_cols, kv_cols) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let mut rows = |cols, largest: f64| b.slot(Kind::I32, Rows::Batch, cols, frac_bits(largest));
    let (x, normed) = (rows(c.dim, ranges.residual), rows(c.dim, ranges.normed));
    // Rotation can turn a pair's whole length into one of its two elements.
    let turned = std::f64::consts::SQRT_2;
    let (q, k) = (rows(q_cols, ranges.q * turned), rows(kv_cols, ranges.k * turned));
    let (v, attn) = (rows(kv_cols, ranges.v), rows(q_cols, ranges.attn_out));
    let qk_normed = c.qk_norm.then(|| [rows(q_cols, ranges.q * turned), rows(kv_cols, ranges.k * turned)]);
    let (gate, up) = (rows(c.hidden, ranges.gate), rows(c.hidden, ranges.up));
    let mut codes = |cols| b.slot(Kind::Q8, Rows::Batch, cols, 0);
    let (normed8, attn8, glu8) = (codes(c.dim), codes(q_cols), codes(c.hidden));
    let scores = b.slot(Kind::I32, Rows::ThreadContext, 1, 0);
    let glu = b.alias(gate, frac_bits(ranges.glu));
    let s = Slots { x, normed, normed8, q, k, v, qk_normed, scores, attn, attn8, gate, up, glu, glu8 };

    b.entry(entry::BODY);
    let table = b.tensor(Source::Coded(Role::Embed));
    b.op(ops::embed::OP.code, 0, &[s.x, table], &[], &[s.x]);
    for l in 0..c.layers {
        layer(&mut b, c, &s, l);
    }

    b.entry(entry::HEAD);
    let frac = frac_bits(ranges.residual);
    let last = b.slot(Kind::I32, Rows::One, c.dim, frac);
    let last_normed = b.slot(Kind::I32, Rows::One, c.dim, frac_bits(ranges.normed));
    let last8 = b.slot(Kind::Q8, Rows::One, c.dim, 0);
    let logits = b.slot(Kind::I32, Rows::One, c.vocab, frac_bits(ranges.logits));
    b.op(ops::select_row::OP.code, 0, &[s.x, last], &[s.x], &[last]);
    norm(&mut b, c, last, last_normed, Role::FinalNorm, frac, c.dim);
    quantize(&mut b, last_normed, last8, 0);
    let head = if c.tied { Role::Embed } else { Role::Head };
    matmul(&mut b, last8, head, None, logits, false);
    b.finish(max_context, c.vocab, logits)
}

fn layer(b: &mut Builder, c: &LlmConfig, s: &Slots, l: usize) {
    let frac = b.slots[s.x as usize].frac;
    norm(b, c, s.x, s.normed, Role::AttnNorm(l), frac, c.dim);
    quantize(b, s.normed, s.normed8, 0);
    for (role, bias, out) in
        [(Role::Q(l), Role::QBias(l), s.q), (Role::K(l), Role::KBias(l), s.k), (Role::V(l), Role::VBias(l), s.v)]
    {
        matmul(b, s.normed8, role, c.qkv_bias.then_some(bias), out, false);
    }
    let (mut q, mut k) = (s.q, s.k);
    if let Some([q_normed, k_normed]) = s.qk_normed {
        for (slot, out, gain) in [(&mut q, q_normed, Role::QNorm(l)), (&mut k, k_normed, Role::KNorm(l))] {
            let frac = b.slots[*slot as usize].frac;
            norm(b, c, *slot, out, gain, frac, c.head_dim);
            *slot = out;
        }
    }
    let steps = b.tensor(Source::RopeSteps);
    for (slot, heads) in [(q, c.heads), (k, c.kv_heads)] {
        b.op(ops::rope::OP.code, 0, &[slot, steps, heads as u32, c.head_dim as u32], &[slot], &[slot]);
    }
    let cache = b.cache(c.kv_heads, c.head_dim);
    b.op(ops::cache::OP.code, 0, &[k, s.v, cache], &[k, s.v, cache], &[cache]);
    let (unit, exponent) = mantissa(std::f64::consts::LOG2_E / (c.head_dim as f64).sqrt());
    let window = c.sliding_window.unwrap_or(0) as u32;
    let args = [q, cache, s.scores, s.attn, c.heads as u32, unit, exponent as u32, window];
    b.op(ops::attention::OP.code, 0, &args, &[q, cache], &[s.scores, s.attn]);
    quantize(b, s.attn, s.attn8, hadamard(c, Role::O(l)));
    matmul(b, s.attn8, Role::O(l), None, s.x, true);

    norm(b, c, s.x, s.normed, Role::FfnNorm(l), frac, c.dim);
    quantize(b, s.normed, s.normed8, 0);
    matmul(b, s.normed8, Role::Gate(l), None, s.gate, false);
    matmul(b, s.normed8, Role::Up(l), None, s.up, false);
    b.op(ops::glu::OP.code, 0, &[s.gate, s.up, s.glu], &[s.gate, s.up], &[s.glu]);
    quantize(b, s.glu, s.glu8, hadamard(c, Role::Down(l)));
    matmul(b, s.glu8, Role::Down(l), None, s.x, true);
}

fn norm(b: &mut Builder, c: &LlmConfig, from: u32, to: u32, gain: Role, frac: i16, width: usize) {
    let gain = b.tensor(Source::Gain(gain));
    // The sum of squares is in units of 2^(-2 frac), so epsilon is too, times the number of squares.
    let eps = (c.norm_eps * width as f64 * 2f64.powi(2 * i32::from(frac))).round() as u64;
    let (root, exponent) = mantissa((width as f64).sqrt());
    let args = [from, to, gain, eps as u32, (eps >> 32) as u32, root, exponent as u32, width as u32];
    b.op(ops::rms_norm::OP.code, 0, &args, &[from], &[to]);
}

fn quantize(b: &mut Builder, from: u32, to: u32, hadamard: u32) {
    b.op(ops::quantize::OP.code, 0, &[from, to, hadamard], &[from], &[to]);
}

fn matmul(b: &mut Builder, from: u32, role: Role, bias: Option<Role>, to: u32, add: bool) {
    let weight = b.tensor(Source::Coded(role));
    let frac = b.slots[to as usize].frac;
    let bias = bias.map(|role| b.tensor(Source::Bias(role, frac)));
    let flags = if add { ops::matmul::ACCUMULATE } else { 0 };
    let reads: &[u32] = if add { &[from, to] } else { &[from] };
    b.op(ops::matmul::OP.code, flags, &[from, weight, bias.unwrap_or(NONE), to], reads, &[to]);
}
