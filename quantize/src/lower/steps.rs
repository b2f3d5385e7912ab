//! What the lowerings of language models share: slots with named ranges, and the steps they all consist of.

use super::{Builder, Lowered, Source, frac_bits, mantissa};
use crate::import::{Activation, LlmConfig, Weight};
use mote_runtime::image::plan::{Kind, Rows};
use mote_runtime::image::program::{NONE, entry};
use mote_runtime::image::{Entry, Op, Slot};
use mote_runtime::ops;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Largest magnitudes that went through each place, over all layers and the calibration text, by the places' names.
#[derive(Clone, Debug, Default)]
pub struct Ranges(BTreeMap<&'static str, f64>);

impl Ranges {
    /// The largest magnitude at a place; 0 where nothing was seen.
    #[must_use]
    pub fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(0.0)
    }

    /// Notes a magnitude.
    pub fn see(&mut self, name: &'static str, largest: f64) {
        let seen = self.0.entry(name).or_default();
        *seen = seen.max(largest);
    }

    /// Every place that something was seen at, and its largest magnitude.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.0.iter().map(|(name, largest)| (*name, *largest))
    }
}

/// The name of the logits' range, which is not seen but bounded.
pub const LOGITS: &str = "logits";

/// A language model's program while it is written.
pub struct Steps {
    builder: Builder,
    ranges: Ranges,
    /// Name of each slot's range.
    names: HashMap<u32, &'static str>,
    /// Tensors by their weight's name.
    known: HashMap<String, u32>,
    /// No slot has more fraction bits.
    most_frac: i16,
    vocab: usize,
    logits: u32,
    /// Vocabulary of sources, and the token that begins targets.
    source: (u32, u32),
    /// The op that each layer begins with.
    layers: Vec<usize>,
}

impl Steps {
    /// Begins a program.
    pub(super) fn new(c: &LlmConfig, ranges: &Ranges) -> Self {
        Self {
            builder: Builder::default(),
            ranges: ranges.clone(),
            names: HashMap::new(),
            known: HashMap::new(),
            most_frac: i16::MAX,
            vocab: c.vocab,
            logits: 0,
            source: c.encoder.as_ref().map_or((0, 0), |e| (e.vocab as u32, e.start)),
            layers: vec![],
        }
    }

    /// Fixed-point rows whose range is `name`'s, times `factor`.
    pub(super) fn rows(&mut self, rows: Rows, cols: usize, name: &'static str, factor: f64) -> u32 {
        let frac = frac_bits(self.ranges.get(name) * factor).min(self.most_frac);
        let slot = self.builder.slot(Kind::I32, rows, cols, frac);
        self.names.insert(slot, name);
        slot
    }

    /// One such row for each token of a step.
    pub(super) fn batch(&mut self, cols: usize, name: &'static str) -> u32 {
        self.rows(Rows::Batch, cols, name, 1.0)
    }

    /// `slot`'s place with the fraction bits of another range.
    pub(super) fn alias(&mut self, slot: u32, name: &'static str) -> u32 {
        let alias = self.builder.alias(slot, frac_bits(self.ranges.get(name)).min(self.most_frac));
        self.names.insert(alias, name);
        alias
    }

    /// Int8 rows for what is multiplied with a matrix.
    pub(super) fn codes(&mut self, rows: Rows, cols: usize) -> u32 {
        self.builder.slot(Kind::Q8, rows, cols, 0)
    }

    /// Scratch of attention.
    pub(super) fn scores(&mut self) -> u32 {
        self.builder.slot(Kind::I32, Rows::ThreadContext, 1, 0)
    }

    /// A cache of keys and values.
    pub(super) fn cache(&mut self, heads: usize, head_dim: usize) -> u32 {
        self.builder.cache(heads, head_dim)
    }

    /// Begins a layer.
    pub(super) fn layer(&mut self) {
        self.layers.push(self.builder.ops.len());
    }

    /// Gives all caches so far this many bits: 4, or else 8. Queries and keys that RoPE turns are transformed after it, so that 8 bits lose
    /// less of them; caches of 4 bits transform what they hold. What was set before does not matter.
    pub fn set_kv_bits(&mut self, bits: u8) {
        let (kind, transform) = if bits == 4 { (Kind::Cache4, 0) } else { (Kind::Cache, ops::rope::TRANSFORM) };
        self.builder.slots.iter_mut().filter(|slot| slot.kind.is_cache()).for_each(|slot| slot.kind = kind);
        // The exponent of attention's factor: products of what is transformed are 2^t times as large.
        let mut more = HashMap::new();
        for op in self.builder.ops.iter_mut().filter(|op| op.code == ops::rope::OP.code) {
            let log2 = |flags: u16| {
                if flags & ops::rope::TRANSFORM == 0 { 0 } else { ops::rope::log2_block(op.args[3] as usize) }
            };
            let flags = op.flags & !ops::rope::TRANSFORM | transform;
            more.insert(op.args[0], log2(flags).wrapping_sub(log2(op.flags)));
            op.flags = flags;
        }
        for op in self.builder.ops.iter_mut().filter(|op| op.code == ops::attention::OP.code) {
            op.args[6] = op.args[6].wrapping_add(more.get(&op.args[0]).copied().unwrap_or(0)); // an i32 in an argument
        }
    }

    /// Begins an entry point.
    pub(super) fn entry(&mut self, id: u32) {
        self.builder.entry(id);
    }

    fn frac(&self, slot: u32) -> i16 {
        self.builder.slots[slot as usize].frac
    }

    fn tensor(&mut self, source: Source) -> u32 {
        let name = match &source {
            Source::RopeSteps => ROPE_STEPS,
            Source::SinusoidSteps => SINUSOID_STEPS,
            source => source.weight().map_or("", |weight| &weight.name),
        };
        let name = name.to_owned();
        let (known, tensors) = (&mut self.known, &mut self.builder.tensors);
        *known.entry(name).or_insert_with(|| {
            tensors.push(source);
            (tensors.len() - 1) as u32
        })
    }

    /// Rows of `table` by token, those of a source at its entry points, times `scale`; `tied` if the table is the output matrix, too.
    pub(super) fn embed(&mut self, to: u32, table: Weight, scale: f64, tied: bool) {
        let log2 = if tied { hadamard(table.shape[1]) } else { 0 };
        let table = self.tensor(Source::Coded(table, log2));
        let (factor, exponent) = if scale == 1.0 { (0, 0) } else { mantissa(scale) };
        let encodes = self.builder.entries.last().is_some_and(|e| e.id == ENCODE);
        let flags = if encodes { ops::embed::SOURCE } else { 0 };
        self.builder.op(ops::embed::OP.code, flags, &[to, table, factor, exponent as u32, log2], &[], &[to]);
    }

    /// Sines and cosines of the position, the first token's being `first`, added.
    pub(super) fn sinusoid(&mut self, slot: u32, first: usize) {
        let steps = self.tensor(Source::SinusoidSteps);
        self.builder.op(ops::sinusoid::OP.code, 0, &[slot, steps, first as u32], &[slot], &[slot]);
    }

    /// Rows of every position of a source, for what one stage of an encoder hands to the next.
    pub(super) fn kept(&mut self, of: u32) -> u32 {
        let (cols, frac) = (self.builder.slots[of as usize].cols as usize, self.frac(of));
        self.builder.slot(Kind::I32, Rows::Context, cols, frac)
    }

    /// The step's rows to their positions.
    pub(super) fn keep(&mut self, rows: u32, kept: u32) {
        let code = ops::kept_rows::OP.code;
        self.builder.op(code, ops::kept_rows::KEEP, &[rows, kept], &[rows, kept], &[kept]);
    }

    /// And back.
    pub(super) fn fetch(&mut self, rows: u32, kept: u32) {
        self.builder.op(ops::kept_rows::OP.code, 0, &[rows, kept], &[kept], &[rows]);
    }

    /// Rows of `table` by position, added.
    pub(super) fn positions(&mut self, to: u32, table: Weight) {
        let table = self.tensor(Source::Positions(table));
        self.builder.op(ops::embed::OP.code, ops::embed::POSITIONS, &[to, table], &[to], &[to]);
    }

    /// RMS norm over each `width` columns.
    pub(super) fn rms_norm(&mut self, from: u32, to: u32, gain: Weight, eps: f64, width: usize) {
        let gain = self.tensor(Source::Gain(gain));
        // The sum of squares is in units of 2^(-2 frac), so epsilon is too, times the number of squares.
        let eps = (eps * width as f64 * 2f64.powi(2 * i32::from(self.frac(from)))).round() as u64;
        let (root, exponent) = mantissa((width as f64).sqrt());
        let args = [from, to, gain, eps as u32, (eps >> 32) as u32, root, exponent as u32, width as u32];
        self.builder.op(ops::rms_norm::OP.code, 0, &args, &[from], &[to]);
    }

    /// Keeps `eps * width^3 * 2^(2 frac)` below 2^63, as layer norms need it, in all slots that follow.
    pub(super) fn limit_for_layer_norm(&mut self, eps: f64, width: usize) {
        let bits = 62.0 - (eps * (width as f64).powi(3)).max(f64::MIN_POSITIVE).log2();
        self.most_frac = (bits / 2.0).floor().clamp(0.0, 64.0) as i16;
    }

    /// Layer norm over a row; `name` is that of its weights without `.weight` and `.bias`.
    pub(super) fn layer_norm(&mut self, from: u32, to: u32, name: &str, eps: f64) {
        let (width, frac) = (self.builder.slots[from as usize].cols as usize, self.frac(to));
        let gain = self.tensor(Source::Gain(Weight::new(format!("{name}.weight"), &[width])));
        let bias = self.tensor(Source::Bias(Weight::new(format!("{name}.bias"), &[width]), frac));
        let eps = (eps * (width as f64).powi(3) * 2f64.powi(2 * i32::from(self.frac(from)))).round() as u64;
        let (root, exponent) = mantissa((width as f64).sqrt());
        let args = [from, to, gain, bias, eps as u32, (eps >> 32) as u32, root, exponent as u32];
        self.builder.op(ops::layer_norm::OP.code, 0, &args, &[from], &[to]);
    }

    /// To int8 for a matrix, after the transform that stands before it.
    pub(super) fn quantize(&mut self, from: u32, to: u32) {
        let log2 = hadamard(self.builder.slots[from as usize].cols as usize);
        self.builder.op(ops::quantize::OP.code, 0, &[from, to, log2], &[from], &[to]);
    }

    /// `to = weight * from + bias`, or added to `to`. `from` is what [`Self::quantize`] gave.
    pub(super) fn matmul(&mut self, from: u32, weight: Weight, bias: Option<Weight>, to: u32, add: bool) {
        let log2 = hadamard(weight.shape[1]);
        let weight = self.tensor(Source::Coded(weight, log2));
        let frac = self.frac(to);
        let bias = bias.map(|bias| self.tensor(Source::Bias(bias, frac)));
        let flags = if add { ops::matmul::ACCUMULATE } else { 0 };
        let reads: &[u32] = if add { &[from, to] } else { &[from] };
        self.builder.op(ops::matmul::OP.code, flags, &[from, weight, bias.unwrap_or(NONE), to], reads, &[to]);
    }

    /// Rotary positions.
    pub(super) fn rope(&mut self, slot: u32, heads: usize, head_dim: usize) {
        let steps = self.tensor(Source::RopeSteps);
        self.builder.op(ops::rope::OP.code, 0, &[slot, steps, heads as u32, head_dim as u32], &[slot], &[slot]);
    }

    /// Keys and values into their cache.
    pub(super) fn write_cache(&mut self, k: u32, v: u32, cache: u32) {
        self.builder.op(ops::cache::OP.code, 0, &[k, v, cache], &[k, v, cache], &[cache]);
    }

    /// Causal attention of `heads` heads over a cache, scaled by the root of `head_dim`.
    pub(super) fn attention(&mut self, q: u32, cache: u32, scores: u32, to: u32, heads: usize, window: usize) {
        self.attend(0, q, cache, scores, to, heads, window);
    }

    /// Attention to all of a source.
    pub(super) fn attention_to_source(&mut self, q: u32, cache: u32, scores: u32, to: u32, heads: usize) {
        self.attend(ops::attention::SOURCE, q, cache, scores, to, heads, 0);
    }

    #[allow(clippy::too_many_arguments)] // the op's own
    fn attend(&mut self, flags: u16, q: u32, cache: u32, scores: u32, to: u32, heads: usize, window: usize) {
        let head_dim = f64::from(self.builder.slots[cache as usize].head_dim);
        let (unit, exponent) = mantissa(std::f64::consts::LOG2_E / head_dim.sqrt());
        let args = [q, cache, scores, to, heads as u32, unit, exponent as u32, window as u32];
        self.builder.op(ops::attention::OP.code, flags, &args, &[q, cache], &[scores, to]);
    }

    /// `to = silu(gate) * up`, in the gate's place.
    pub(super) fn glu(&mut self, gate: u32, up: u32, to: u32) {
        self.builder.op(ops::glu::OP.code, 0, &[gate, up, to], &[gate, up], &[to]);
    }

    /// ReLU or GELU, in `slot`'s place.
    pub(super) fn activation(&mut self, slot: u32, to: u32, activation: Activation) {
        let function = match activation {
            Activation::Relu => ops::activation::RELU,
            Activation::GeluErf => ops::activation::GELU_ERF,
            Activation::GeluTanh | Activation::Silu => ops::activation::GELU_TANH,
        };
        self.builder.op(ops::activation::OP.code, 0, &[slot, to, function], &[slot], &[to]);
    }

    /// The head's beginning: the row of the step whose logits are wanted.
    pub(super) fn select_row(&mut self, from: u32, to: u32) {
        self.builder.op(ops::select_row::OP.code, 0, &[from, to], &[from], &[to]);
    }

    /// The head's end: `to` are the logits.
    pub(super) fn logits(&mut self, from: u32, weight: Weight, bias: Option<Weight>) {
        self.logits = self.rows(Rows::One, self.vocab, LOGITS, 1.0);
        self.matmul(from, weight, bias, self.logits, false);
    }

    /// The head of an encoder without a decoder: `to` is the mean of `kept`, of all positions or (`most` not 0) of the first.
    pub(super) fn embedding(&mut self, kept: u32, to: u32, most: u32) {
        self.builder.op(ops::mean_rows::OP.code, 0, &[kept, to, most], &[kept], &[to]);
        (self.logits, self.vocab) = (to, 0);
    }

    /// How many layers there are: an encoder's, then the decoder's.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// The ops of a range of layers. What stands before the first layer is the first's, what comes after the last is the last's.
    #[must_use]
    pub fn layer_ops(&self, layers: &Range<usize>) -> Range<usize> {
        let begin =
            |layer: usize| if layer == 0 { 0 } else { self.layers.get(layer).map_or(self.ops().len(), |at| *at) };
        begin(layers.start)..begin(layers.end)
    }

    /// The tensors in the order in which ops use them for the last time, each with that op.
    #[must_use]
    pub(crate) fn last_uses(&self) -> Vec<(usize, u32)> {
        let mut last = BTreeMap::new();
        for (at, op) in self.ops().iter().enumerate() {
            last.extend(tensor_args(op).into_iter().map(|index| (index, at)));
        }
        let mut uses: Vec<(usize, u32)> = last.into_iter().map(|(index, at)| (at, index)).collect();
        uses.sort_unstable();
        uses
    }

    /// The ops so far.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.builder.ops
    }

    /// The ops of the entry points with this id, in order, each with its index.
    pub fn entry_ops(&self, id: u32) -> impl Iterator<Item = (usize, &Op)> {
        let entries = self.builder.entries.iter().enumerate().filter(move |(_, e)| e.id == id);
        entries.flat_map(|(at, e)| {
            let end = self.builder.entries.get(at + 1).map_or(self.builder.ops.len(), |next| next.first as usize);
            (e.first as usize..end).map(|op| (op, &self.builder.ops[op]))
        })
    }

    /// The entry points.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.builder.entries
    }

    /// A slot.
    #[must_use]
    pub fn slot(&self, slot: u32) -> &Slot {
        &self.builder.slots[slot as usize]
    }

    /// The name of a slot's range, if it has one.
    #[must_use]
    pub fn range_of(&self, slot: u32) -> Option<&'static str> {
        self.names.get(&slot).copied()
    }

    /// The names of all ranges.
    pub(crate) fn places(&self) -> impl Iterator<Item = &'static str> {
        self.names.values().copied()
    }

    /// The index of the op that gives the logits; `None` as long as there is none.
    #[must_use]
    pub(crate) fn head(&self) -> Option<usize> {
        self.ops().iter().position(|op| op.code == ops::matmul::OP.code && op.args[3] == self.logits)
    }

    /// The slot of the logits.
    #[must_use]
    pub fn logits_slot(&self) -> u32 {
        self.logits
    }

    /// The tensors, in the order of their indices.
    #[must_use]
    pub fn tensors(&self) -> &[Source] {
        &self.builder.tensors
    }

    /// Places the slots.
    #[must_use]
    pub fn finish(self, max_context: usize) -> Lowered {
        let mut lowered = self.builder.finish(max_context, self.vocab, self.logits);
        (lowered.plan.source_vocab, lowered.plan.start) = self.source;
        lowered
    }
}

/// The model's weights that an op uses, by the indices of their tensors.
pub(crate) fn tensor_args(op: &Op) -> Vec<u32> {
    let args: &[usize] = match ops::find(op.code).map_or("", |def| def.name) {
        "embed" => &[1],
        "rms_norm" => &[2],
        "layer_norm" => &[2, 3],
        "matmul" => &[1, 2],
        _ => &[],
    };
    args.iter().map(|arg| op.args[*arg]).filter(|index| *index != NONE).collect()
}

/// log2 of the block of the Walsh-Hadamard transform before a matrix with `cols` columns: the largest power of two that
/// divides them.
///
/// Every input of a matrix has outliers; the transform spreads each over its block (QuaRot, arXiv 2404.00456, section 4), so
/// that int8 serves the others: a sixth of the head's loss is left, a half of what q, k, v, gate and up lose.
fn hadamard(cols: usize) -> u32 {
    cols.trailing_zeros().min(ops::quantize::MAX_LOG2_BLOCK)
}

/// The entry points of encoders and decoders.
pub(super) use entry::{BODY, ENCODE, HEAD};
/// Names of what is no weight.
pub(crate) const ROPE_STEPS: &str = "rope.turns_per_position";
pub(crate) const SINUSOID_STEPS: &str = "sinusoid.turns_per_position";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::language_model;

    #[test]
    fn bits_of_caches_may_be_set_anew() {
        let c = LlmConfig {
            vocab: 64,
            dim: 64,
            hidden: 64,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            head_dim: 32,
            ..LlmConfig::default()
        };
        let set = |bits: &[u8]| {
            let mut steps = language_model(&c, &Ranges::default());
            bits.iter().for_each(|bits| steps.set_kv_bits(*bits));
            let kinds: Vec<Kind> = steps.builder.slots.iter().map(|slot| slot.kind).collect();
            (steps.builder.ops, kinds)
        };
        assert_ne!(set(&[8]), set(&[4]));
        assert_ne!(set(&[8]).0, set(&[]).0);
        assert_eq!(set(&[4]).0, set(&[]).0); // no transform in `rope`
        assert_eq!(set(&[8, 8, 4, 8]), set(&[8]));
        assert_eq!(set(&[8, 4, 4]), set(&[4]));
    }
}
