//! Lowering: from an architecture to a program, its slots and its tensors. One file a family; each is a straight list of
//! ops, written with [`Builder`] (language models: with [`Steps`] over it). To add a family of language models: a file, and
//! a row in [`language_model`].

mod bert;
mod gpt2;
mod llama;
mod m2m100;
mod net;
mod steps;
mod vectors;

pub(crate) use net::quantize_multiplier;
pub use net::{Constant, Net, net};
pub(crate) use net::{integer_ends, planned};
pub use steps::{LOGITS, Ranges, Steps};
pub(crate) use steps::{ROPE_STEPS, SINUSOID_STEPS, tensor_args};
pub use vectors::{TERMS, vectors};

use crate::balance::Balance;
use crate::import::{Family, LlmConfig, Weight};
use crate::plan::{self, Access, Stretch};
use mote_runtime::image::plan::{Kind, Rows};
use mote_runtime::image::program::{ARGS, entry};
use mote_runtime::image::{Entry, Limits, Op, Plan, Slot};
use mote_runtime::ops::BACKWARD;

/// Where a tensor's data comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A matrix in codes, its columns transformed first by Walsh-Hadamard in blocks of 2^n.
    Coded(Weight, u32),
    /// A table by position, in 8-bit codes: it is small, and all that tells positions apart.
    Positions(Weight),
    /// The gain of a norm, int16.
    Gain(Weight),
    /// A bias, int32 with this many fraction bits.
    Bias(Weight, i16),
    /// Turns a position of each rotary pair, u64.
    RopeSteps,
    /// Turns a position of each sine and cosine, u64.
    SinusoidSteps,
}

/// What the planner asks of a tensor.
pub trait Dims {
    /// Its dimensions, as its record in the image has them.
    fn dims(&self) -> [u32; 4];
}

impl Dims for Source {
    fn dims(&self) -> [u32; 4] {
        [0; 4] // no op of a language model is planned by them
    }
}

impl Dims for Constant {
    fn dims(&self) -> [u32; 4] {
        let mut dims = [1; 4];
        dims.iter_mut().zip(&self.dims).for_each(|(to, from)| *to = *from as u32);
        dims
    }
}

impl Source {
    /// The weight, if it is one of the model's.
    #[must_use]
    pub fn weight(&self) -> Option<&Weight> {
        match self {
            Self::Coded(weight, _) | Self::Positions(weight) | Self::Gain(weight) | Self::Bias(weight, _) => {
                Some(weight)
            }
            Self::RopeSteps | Self::SinusoidSteps => None,
        }
    }
}

/// Lowers a language model, with the ranges that calibration found (or none yet: then all slots have the same fraction
/// bits, and only the ops say something).
#[must_use]
pub fn language_model(c: &LlmConfig, ranges: &Ranges) -> Steps {
    match c.family {
        Family::Llama => llama::lower(c, ranges),
        Family::Gpt2 => gpt2::lower(c, ranges),
        Family::M2m100 => m2m100::lower(c, ranges),
        Family::Bert => bert::lower(c, ranges),
    }
}

/// Channels of a language model that can be rescaled without a change of what it computes.
#[must_use]
pub fn balances(c: &LlmConfig) -> Vec<Balance> {
    match c.family {
        Family::Llama => llama::balances(c),
        Family::Gpt2 => gpt2::balances(c),
        Family::M2m100 => vec![],
        Family::Bert => bert::balances(c),
    }
}

/// A linear layer's matrix and bias.
fn linear(name: &str, rows: usize, cols: usize) -> (Weight, Option<Weight>) {
    let bias = Weight::new(format!("{name}.bias"), &[rows]);
    (Weight::new(format!("{name}.weight"), &[rows, cols]), Some(bias))
}

/// Weights in all of a program's tensors, counted one by one.
#[must_use]
pub(crate) fn parameters(tensors: &[Source]) -> u64 {
    tensors.iter().filter_map(Source::weight).map(|w| w.shape.iter().product::<usize>() as u64).sum()
}

/// The weights that a model must have.
#[must_use]
pub fn weights(c: &LlmConfig) -> Vec<Weight> {
    let steps = language_model(c, &Ranges::default());
    steps.tensors().iter().filter_map(|source| source.weight().cloned()).collect()
}

/// Range that a fixed-point slot must hold, and how its fraction bits follow from it.
///
/// Five bits of head room: calibration has seen only so much text, and values 32 times larger still fit. That leaves 25
/// bits of the largest value seen.
#[must_use]
pub fn frac_bits(largest: f64) -> i16 {
    const HEAD_ROOM: f64 = 5.0;
    let bits = 31.0 - HEAD_ROOM - largest.max(1e-6).log2().ceil();
    bits.clamp(0.0, 28.0) as i16
}

/// A program with everything it needs, ready to be written. `S` says where a tensor's data comes from.
#[derive(Clone, Debug)]
pub struct Lowered<S = Source> {
    /// Entry points.
    pub entries: Vec<Entry>,
    /// Ops.
    pub ops: Vec<Op>,
    /// Slots, placed.
    pub slots: Vec<Slot>,
    /// The plan's head.
    pub plan: Plan,
    /// Tensors, in the order of their indices.
    pub tensors: Vec<S>,
}

impl<S> Lowered<S> {
    /// Bytes of its arena.
    #[must_use]
    pub fn arena(&self, limits: Limits) -> u64 {
        self.slots.iter().map(|slot| slot.range(limits).map_or(u64::MAX, |range| range.end)).max().unwrap_or(0)
    }
}

/// Collects a program op by op.
#[derive(Debug)]
pub struct Builder<S = Source> {
    entries: Vec<Entry>,
    ops: Vec<Op>,
    access: Vec<Access>,
    slots: Vec<Slot>,
    /// Slots that are another slot's place with other fraction bits.
    aliases: Vec<(usize, usize)>,
    tensors: Vec<S>,
    /// Slots that the host fills before a program without tokens runs, and those it reads afterwards.
    ports: Option<(Vec<u32>, Vec<u32>)>,
    /// Slots whose contents live from one run to the next, besides caches.
    kept: Vec<usize>,
    /// How long the planner of nets searches ([`plan::net::pack`]).
    changes: usize,
}

impl<S> Default for Builder<S> {
    fn default() -> Self {
        Self {
            entries: vec![],
            ops: vec![],
            access: vec![],
            slots: vec![],
            aliases: vec![],
            tensors: vec![],
            ports: None,
            kept: vec![],
            changes: plan::net::CHANGES,
        }
    }
}

impl<S: PartialEq + Dims> Builder<S> {
    /// Adds a slot.
    pub fn slot(&mut self, kind: Kind, rows: Rows, cols: usize, frac: i16) -> u32 {
        self.slots.push(Slot { kind, rows, frac, cols: cols as u32, heads: 0, head_dim: 0, offset: [0; 4] });
        (self.slots.len() - 1) as u32
    }

    /// Adds a cache of keys and values.
    pub fn cache(&mut self, heads: usize, head_dim: usize) -> u32 {
        let slot = self.slot(Kind::Cache, Rows::Context, heads * head_dim, 0);
        self.slots[slot as usize].heads = heads as u32;
        self.slots[slot as usize].head_dim = head_dim as u32;
        slot
    }

    /// Sets how many orders of a net's slots the planner tries; for an answer soon, 0.
    pub fn search(&mut self, changes: usize) {
        self.changes = changes;
    }

    /// Says that a slot's contents live from one run to the next.
    pub fn keep(&mut self, slot: u32) {
        self.kept.push(slot as usize);
    }

    /// Adds a slot that is `slot`'s place with other fraction bits.
    pub fn alias(&mut self, slot: u32, frac: i16) -> u32 {
        self.slots.push(Slot { frac, ..self.slots[slot as usize] });
        self.aliases.push((self.slots.len() - 1, slot as usize));
        (self.slots.len() - 1) as u32
    }

    /// The index of a tensor, added if it is new.
    pub fn tensor(&mut self, source: S) -> u32 {
        let at = self.tensors.iter().position(|t| *t == source).unwrap_or_else(|| {
            self.tensors.push(source);
            self.tensors.len() - 1
        });
        at as u32
    }

    /// Adds an op. `reads` and `writes` are slots; an op that adds to a slot does both, scratch is written.
    pub fn op(&mut self, code: u16, flags: u16, args: &[u32], reads: &[u32], writes: &[u32]) {
        let mut all = [0; ARGS];
        all[..args.len()].copy_from_slice(args);
        self.ops.push(Op { code, flags, args: all });
        let places = |slots: &[u32]| slots.iter().map(|slot| self.place(*slot)).collect();
        let access = Access { reads: places(reads), writes: places(writes) };
        self.access.push(access);
    }

    /// Begins an entry point; the one before ends.
    pub fn entry(&mut self, id: u32) {
        self.end_entry();
        self.entries.push(Entry { id, first: self.ops.len() as u32, count: 0 });
    }

    fn end_entry(&mut self) {
        if let Some(last) = self.entries.last_mut() {
            last.count = self.ops.len() as u32 - last.first;
        }
    }

    /// States the slots which the host fills before the program's one entry point and reads after it. So an input's place
    /// is free once it has been read.
    pub fn ports(&mut self, inputs: Vec<u32>, outputs: Vec<u32>) {
        self.ports = Some((inputs, outputs));
    }

    /// Places the slots and ends the program. `logits` is the slot of the result.
    #[must_use]
    pub fn finish(mut self, max_context: usize, vocab: usize, logits: u32) -> Lowered<S> {
        self.end_entry();
        let mut stretches: Vec<Stretch> = self
            .entries
            .iter()
            .map(|e| Stretch { first: e.first as usize, end: (e.first + e.count) as usize })
            .collect();
        let ports = self.ports.take();
        if let Some((inputs, outputs)) = &ports {
            // For the planner the host is an op before the others and one after them.
            let places = |slots: &[u32]| slots.iter().map(|s| *s as usize).collect();
            self.access.insert(0, Access { reads: vec![], writes: places(inputs) });
            self.access.push(Access { reads: places(outputs), writes: vec![] });
            stretches = vec![Stretch { first: 0, end: self.access.len() }];
        }
        // Caches that the body uses are kept; those of the encoder's stages are done with when the last stage is, and where
        // they were the body may have its own, which begin with it.
        let body = self.entries.iter().find(|e| e.id == entry::BODY).map_or(0, |e| e.first as usize);
        let uses = |slot: usize, at: usize| {
            let access = &self.access[at];
            access.reads.contains(&slot) || access.writes.contains(&slot)
        };
        let (before, after) = (0..body, body..self.access.len());
        let caches = (0..self.slots.len()).filter(|s| self.slots[*s].kind.is_cache());
        let caches: Vec<usize> = caches.filter(|s| after.clone().any(|at| uses(*s, at))).collect();
        let kept = [&self.kept[..], &caches].concat();
        let mut lives = plan::lifetimes(self.slots.len(), &self.access, &stretches, &kept, ports.is_some());
        for slot in caches.into_iter().filter(|s| !before.clone().any(|at| uses(*s, at))) {
            lives[slot] = vec![(body, self.access.len().saturating_sub(1))];
        }
        let sizes: Vec<[u64; 4]> = self.slots.iter().map(Slot::size).collect();
        let offsets = if ports.is_some() {
            self.pack_net(&sizes, &lives)
        } else {
            // What an MCU would use.
            let nominal = Limits { batch: 4, context: max_context.clamp(1, 256) as u32, threads: 1 };
            plan::pack(&sizes, &lives, nominal)
        };
        for (slot, offset) in self.slots.iter_mut().zip(&offsets) {
            slot.offset = *offset;
        }
        for (alias, of) in &self.aliases {
            self.slots[*alias].offset = self.slots[*of].offset;
        }
        let (slots, max_context, vocab) = (self.slots.len() as u32, max_context as u32, vocab as u32);
        let plan = Plan { slots, max_context, vocab, logits, source_vocab: 0, start: 0 };
        Lowered { entries: self.entries, ops: self.ops, slots: self.slots, plan, tensors: self.tensors }
    }

    /// Packs a program without tokens, and tells its ops which way to work.
    fn pack_net(&mut self, sizes: &[[u64; 4]], lifetimes: &[plan::Lifetime]) -> Vec<[u64; 4]> {
        let dims = |tensor: u32| self.tensors.get(tensor as usize).map_or([0; 4], Dims::dims);
        let mut gaps = Vec::new();
        for (at, op) in self.ops.iter().enumerate() {
            gaps.extend(plan::units::gaps(op, &self.slots, &dims).into_iter().map(|g| plan::net::Gap {
                op: at + 1, // after the host
                input: self.place(g.input),
                output: self.place(g.output),
                forward: g.forward,
                backward: g.backward,
            }));
        }
        let sizes: Vec<u64> = sizes.iter().map(|size| size[0]).collect();
        let slots = plan::net::Slots { sizes: &sizes, lifetimes, gaps: &gaps };
        let packing = plan::net::pack(&slots, self.changes);
        plan::net::verify(&slots, &packing).expect("the planner's own rule");
        for (op, _) in packing.directions.iter().filter(|(_, backward)| *backward) {
            self.ops[op - 1].flags |= BACKWARD;
        }
        packing.offsets.iter().map(|offset| [*offset, 0, 0, 0]).collect()
    }

    /// The slot whose place this one is.
    fn place(&self, slot: u32) -> usize {
        let slot = slot as usize;
        self.aliases.iter().find(|(alias, _)| *alias == slot).map_or(slot, |(_, of)| *of)
    }
}

/// A number as `mantissa * 2^-exponent` with a mantissa below 2^16, the form in which ops take constants.
#[must_use]
pub fn mantissa(value: f64) -> (u32, i32) {
    if value <= 0.0 || !value.is_finite() {
        return (0, 0);
    }
    let exponent = 15 - value.log2().floor() as i32;
    let mantissa = (value * 2f64.powi(exponent)).round();
    if mantissa >= 65536.0 { ((mantissa / 2.0) as u32, exponent - 1) } else { (mantissa as u32, exponent) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mantissas() {
        for value in [1.0, 16.0, 0.25503, 1e-9, 65535.7, 8.485] {
            let (m, e) = mantissa(value);
            assert!((32768..65536).contains(&m), "{value}: {m}");
            assert!((f64::from(m) * 2f64.powi(-e) / value - 1.0).abs() < 2f64.powi(-15), "{value}");
        }
        assert_eq!(mantissa(0.0), (0, 0));
    }

    #[test]
    fn fractions_leave_head_room() {
        for largest in [0.01, 1.0, 3.0, 1000.0] {
            let frac = frac_bits(largest);
            assert!(largest * 32.0 * 2f64.powi(frac.into()) <= 2f64.powi(31));
        }
        assert_eq!(frac_bits(1e30), 0);
    }
}
