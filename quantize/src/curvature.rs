//! What errors count for the loss: the curvature of the KL divergence to the float model, as far as it is not in the inputs.
//!
//! An error E of a matrix adds half of `tr G E H E^T` to the divergence, with H the mean of x x^T over its inputs and G the mean of g g^T
//! over the gradients g of the loss with respect to what it gives: K-FAC's product (Martens and Grosse 2015) for the Fisher matrix, which
//! is the divergence's curvature where the two models are one. The loss is therefore that of tokens drawn from what the float model
//! itself expects, not of those of the text. YAQA (Tseng, Sun and De Sa 2025, arXiv 2505.22988) quantizes by it.
//!
//! A table that is embedding and head in one is a head with inputs x whose rows count as its logits do, and gives the residual its rows:
//! what that counts is the mean of g g^T over the residual's gradients.
//!
//! The program runs once forwards, keeping what each layer begins with, and then layer by layer backwards, each layer computed again: in
//! memory at a time are a layer's weights, what it makes of one text, and what layers begin with, the last up to a limit.

use crate::calibrate::{Text, damping, ends};
use crate::codes::BAND;
use crate::float::{Device, FloatError, Result as FloatResult, Room, Stream, operands, slots, softmax, step};
use crate::import::Model;
use crate::lower::{Source, Steps};
use candle_core::{DType, Tensor, Var};
use mote_runtime::ops;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

/// Texts that are looked at.
const TEXTS: usize = 16;

/// What was found of a tensor.
pub(crate) enum Found {
    /// G of a matrix: of each [`BAND`] rows, or what is left, a matrix of that size, one after the other; damped.
    Rows(u32, Vec<f32>),
    /// The mean of g g^T of an embedding's rows `[cols, cols]`.
    Table(u32, Vec<f32>),
}

/// Whether there is curvature to be had of a program: encoders are quantized without.
pub(crate) fn has_curvature(model: &dyn Model, program: &Steps) -> bool {
    model.config().encoder.is_none() && program.head().is_some() && program.layers() > 0
}

/// Finds the curvature of those of `wanted` that have one: matrices of layers, and the head if it is the embedding, too.
///
/// # Errors
/// [`FloatError`], and `found`'s.
pub(crate) fn curvature<E: From<FloatError>>(
    model: &dyn Model,
    program: &Steps,
    texts: &[Text],
    wanted: &BTreeSet<u32>,
    (spill, folder): (u64, &Path),
    device: &Device,
    found: &mut dyn FnMut(Found) -> Result<(), E>,
) -> Result<(), E> {
    let texts: Vec<&Text> = texts.iter().step_by(texts.len().div_ceil(TEXTS).max(1)).collect();
    let layers: Vec<Range<usize>> = (0..program.layers()).map(|l| program.layer_ops(&(l..l + 1))).collect();
    let uses = |at: usize| of_op(program, at).is_some_and(|index| wanted.contains(&index));
    let Some(first) = layers.iter().position(|here| here.clone().any(uses)) else { return Ok(()) };

    let run = Run { model, program, device, ends: ends(program.ops()) };
    let mut room = Room::new(spill, folder).map_err(|why| FloatError::Tensor(why.into()))?;
    let mut streams: Vec<Stream> = texts.iter().map(|text| Stream::new(&text.tokens)).collect();
    let mut begins = Vec::new();
    for (layer, here) in layers.iter().enumerate() {
        if layer >= first {
            let mut kept = streams.clone();
            room.count(&kept);
            kept.iter_mut().try_for_each(|s| room.enter(s, &[]).and_then(|()| room.leave(s)))?;
            begins.push(kept);
        }
        if layer + 1 < layers.len() {
            run.forwards(here.clone(), &mut streams, &mut room)?;
        }
    }
    drop(streams);

    let mut slopes: Vec<Slopes> = vec![Slopes::new(); texts.len()];
    for here in layers[first..].iter().rev() {
        let tensors: Vec<Vec<Tensor>> = run.tensors(here)?;
        let (mut sums, mut count) = (BTreeMap::new(), 0);
        let begin = begins.pop().unwrap_or_default();
        for (text, (mut s, slopes)) in begin.into_iter().zip(&mut slopes).enumerate() {
            let live = s.slots();
            room.enter(&mut s, &live)?;
            count += texts[text].tokens.len();
            let backwards = run.backwards(here, &tensors, wanted, s, slopes, text as u64)?;
            *slopes = backwards.0;
            for (what, g) in backwards.1 {
                let (_, is_table) = what;
                add(sums.entry(what).or_default(), &g, if is_table { usize::MAX } else { BAND })?;
            }
        }
        for ((index, is_table), sum) in sums {
            let means = means(sum, count, is_table)?;
            found(if is_table { Found::Table(index, means) } else { Found::Rows(index, means) })?;
        }
    }
    Ok(())
}

/// Adds g^T g of each `band` columns of g `[tokens, rows]`.
fn add(sums: &mut Vec<Tensor>, g: &Tensor, band: usize) -> FloatResult<()> {
    let rows = g.dim(1)?;
    for (at, first) in (0..rows).step_by(band).enumerate() {
        let g = g.narrow(1, first, band.min(rows - first))?.contiguous()?;
        let more = g.t()?.matmul(&g)?;
        match sums.get_mut(at) {
            None => sums.push(more),
            Some(sum) => *sum = (&*sum + more)?,
        }
    }
    Ok(())
}

/// Sums over `count` tokens as means, one after the other.
fn means(sums: Vec<Tensor>, count: usize, is_table: bool) -> FloatResult<Vec<f32>> {
    let mut means = Vec::new();
    for sum in sums {
        let rows = sum.dim(0)?;
        let mut mean: Vec<f32> = (sum / count.max(1) as f64)?.flatten_all()?.to_vec1()?;
        if !is_table {
            normalise(&mut mean, rows, count);
        }
        means.extend(mean);
    }
    Ok(means)
}

/// Times that G is damped as a Hessian is: a drawn token's gradient is mostly noise.
const DAMPING: f32 = 4.0;

/// Makes the mean of a diagonal one, and damps it.
fn normalise(g: &mut [f32], rows: usize, tokens: usize) {
    let mean = (0..rows).map(|r| g[r * rows + r]).sum::<f32>() / rows.max(1) as f32;
    g.iter_mut().for_each(|g| *g /= mean.max(f32::MIN_POSITIVE));
    (0..rows).for_each(|r| g[r * rows + r] += DAMPING * damping(tokens, rows));
}

/// The coded matrix that an op multiplies with, but for the head; or the table that it looks up, if that is the head, too.
fn of_op(program: &Steps, at: usize) -> Option<u32> {
    let (op, head) = (&program.ops()[at], program.head());
    let uses = match op.code {
        code if code == ops::matmul::OP.code => Some(at) != head,
        code => code == ops::embed::OP.code && head.is_some_and(|head| program.ops()[head].args[1] == op.args[1]),
    };
    let coded = |index: &u32| matches!(program.tensors().get(*index as usize), Some(Source::Coded(..)));
    uses.then_some(op.args[1]).filter(coded)
}

/// Gradients of the loss of a text with respect to what slots hold.
type Slopes = BTreeMap<u32, Tensor>;

struct Run<'r> {
    model: &'r dyn Model,
    program: &'r Steps,
    device: &'r Device,
    /// The slots that nobody needs after each op.
    ends: Vec<Vec<u32>>,
}

impl Run<'_> {
    fn tensors(&self, ops: &Range<usize>) -> FloatResult<Vec<Vec<Tensor>>> {
        ops.clone().map(|at| operands(self.model, self.program, &self.program.ops()[at], self.device)).collect()
    }

    fn forwards(&self, ops: Range<usize>, streams: &mut [Stream], room: &mut Room) -> FloatResult<()> {
        for at in ops {
            let op = &self.program.ops()[at];
            let tensors = operands(self.model, self.program, op, self.device)?;
            for s in &mut *streams {
                room.enter(s, &slots(op))?;
                step(self.model.config(), self.program, op, &tensors, s)?;
                self.ends[at].iter().for_each(|slot| s.drop(*slot));
                room.leave(s)?;
            }
        }
        Ok(())
    }

    /// Computes a layer of a text again, from what it begins with, and from the gradients of what it ends with (at the program's end: of
    /// the loss, for tokens drawn by `seed`) those of what it begins with, and of what each matrix, or an embedding (true), gives.
    #[expect(clippy::type_complexity, reason = "two results")]
    fn backwards(
        &self,
        ops: &Range<usize>,
        tensors: &[Vec<Tensor>],
        wanted: &BTreeSet<u32>,
        mut s: Stream,
        slopes: &Slopes,
        seed: u64,
    ) -> FloatResult<(Slopes, Vec<((u32, bool), Tensor)>)> {
        let mut begins = Vec::new();
        for slot in s.slots() {
            let var = Var::from_tensor(s.value(slot)?)?;
            s.put(slot, vec![var.as_tensor().clone()]);
            begins.push((slot, var));
        }
        let mut given = Vec::new();
        let head = self.program.head();
        for (at, tensors) in ops.clone().zip(tensors) {
            let op = &self.program.ops()[at];
            let index = of_op(self.program, at).filter(|index| wanted.contains(index));
            let mut tensors = tensors.clone();
            if let Some(index) = index.filter(|_| op.code == ops::matmul::OP.code) {
                // What a matrix gives is as what is added to it: a bias of each token's own.
                let shape = (s.value(op.args[0])?.dim(0)?, tensors[0].dim(1)?);
                let bias = match tensors.get(1) {
                    Some(bias) => bias.broadcast_as(shape)?.contiguous()?,
                    None => Tensor::zeros(shape, DType::F32, self.device)?,
                };
                let bias = Var::from_tensor(&bias)?;
                tensors.truncate(1);
                tensors.push(bias.as_tensor().clone());
                given.push(((index, false), bias, 1.0));
            }
            step(self.model.config(), self.program, op, &tensors, &mut s)?;
            if let Some(index) = index.filter(|_| op.code == ops::embed::OP.code) {
                let rows = Var::from_tensor(s.value(op.args[0])?)?;
                s.put(op.args[0], vec![rows.as_tensor().clone()]);
                let scale = if op.args[2] == 0 { 1.0 } else { (self.model.config().dim as f64).sqrt() };
                given.push(((index, true), rows, scale));
            }
            self.ends[at].iter().filter(|slot| **slot != self.program.logits_slot()).for_each(|slot| s.drop(*slot));
        }
        let of_loss;
        let slopes = if head.is_some_and(|head| ops.contains(&head)) {
            let logits = s.value(self.program.logits_slot())?.detach();
            of_loss = Slopes::from([(self.program.logits_slot(), drawn(&logits, seed)?)]);
            &of_loss
        } else {
            slopes
        };
        let mut sum: Option<Tensor> = None;
        for (slot, slope) in slopes {
            let along = (s.value(*slot)? * slope)?.sum_all()?;
            sum = Some(match sum {
                None => along,
                Some(sum) => (sum + along)?,
            });
        }
        let Some(sum) = sum else { return Ok((Slopes::new(), Vec::new())) };
        let grads = sum.backward()?;
        let none = || candle_core::Error::Msg("a matrix has no part in the loss".into());
        let slope = |var: &Var| Ok::<Tensor, FloatError>(grads.get(var).ok_or_else(none)?.detach());
        let begins = begins.iter().map(|(slot, var)| Ok((*slot, slope(var)?))).collect::<FloatResult<_>>()?;
        let given = given.iter().map(|(what, var, scale)| Ok((*what, (slope(var)? * *scale)?)));
        Ok((begins, given.collect::<FloatResult<_>>()?))
    }
}

/// The gradient, with respect to logits `[tokens, vocab]`, of the loss for a token at each position that is drawn as they say.
fn drawn(logits: &Tensor, seed: u64) -> FloatResult<Tensor> {
    let p = softmax(logits)?;
    let (tokens, vocab) = p.dims2()?;
    let mut slope: Vec<f32> = p.flatten_all()?.to_vec1()?;
    for (position, p) in slope.chunks_exact_mut(vocab).enumerate() {
        let mut left = uniform(seed << 32 | position as u64);
        let token = p.iter().position(|p| {
            left -= p;
            left < 0.0
        });
        p[token.unwrap_or(vocab - 1)] -= 1.0;
    }
    Ok(Tensor::from_vec(slope, (tokens, vocab), p.device())?)
}

/// A number in 0..1 for each seed (SplitMix64, Steele, Lea and Flood 2014).
fn uniform(seed: u64) -> f32 {
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ z >> 31) >> 40) as f32 / (1u64 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::metrics::log_softmax;
    use crate::import::open_model;
    use crate::lower::{Ranges, language_model};

    /// The loss of a text for tokens that are drawn as `curvature` draws them from what the model says unchanged, with `by` added to one
    /// element of what an op gives.
    fn loss(run: &Run<'_>, text: &Text, tokens: &[usize], (at, row, col): (usize, usize, usize), by: f32) -> f64 {
        let mut s = Stream::new(&text.tokens);
        for (op, tensors) in run.program.ops().iter().zip(run.tensors(&(0..run.program.ops().len())).unwrap()) {
            step(run.model.config(), run.program, op, &tensors, &mut s).unwrap();
            if std::ptr::eq(op, &run.program.ops()[at]) {
                let slot = if op.code == ops::embed::OP.code { op.args[0] } else { op.args[3] };
                let mut values = s.value(slot).unwrap().to_vec2::<f32>().unwrap();
                values[row][col] += by;
                s.put(slot, vec![Tensor::new(values, run.device).unwrap()]);
            }
        }
        let logits = s.value(run.program.logits_slot()).unwrap().to_vec2::<f32>().unwrap();
        logits.iter().zip(tokens).map(|(logits, token)| -log_softmax(logits)[*token]).sum()
    }

    fn drawn_tokens(run: &Run<'_>, text: &Text) -> Vec<usize> {
        let mut s = Stream::new(&text.tokens);
        for (op, tensors) in run.program.ops().iter().zip(run.tensors(&(0..run.program.ops().len())).unwrap()) {
            step(run.model.config(), run.program, op, &tensors, &mut s).unwrap();
        }
        let slope = drawn(s.value(run.program.logits_slot()).unwrap(), 0).unwrap().to_vec2::<f32>().unwrap();
        slope.iter().map(|slope| slope.iter().position(|p| *p < 0.0).unwrap()).collect()
    }

    /// G by finite differences: of an embedding's rows, which every op of the model is behind, and of matrices of the first layer, whose
    /// diagonals are in units of their mean.
    #[test]
    fn curvature_is_that_of_finite_differences() {
        for (name, matrix) in
            [("qwen3", "layers.0.self_attn.v_proj"), ("gpt", "h.0.mlp.c_fc"), ("llm", "layers.1.mlp.down_proj")]
        {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models").join(name);
            let model = &*open_model(&path).unwrap();
            let program = &language_model(model.config(), &Ranges::default());
            let text = Text { source: vec![], tokens: vec![17, 290, 5, 133] };
            let run = Run { model, program, device: &Device::Cpu, ends: ends(program.ops()) };
            let tokens = drawn_tokens(&run, &text);
            let folder = tempfile::tempdir().unwrap();
            let (mut table, mut rows) = (Vec::new(), Vec::new());
            let wanted = (0..program.tensors().len() as u32).collect();
            // No room in memory: what layers begin with goes through a file.
            let room = (0, folder.path());
            let texts = std::slice::from_ref(&text);
            curvature::<FloatError>(model, program, texts, &wanted, room, run.device, &mut |found| {
                match found {
                    Found::Table(_, values) => table = values,
                    Found::Rows(index, values) => {
                        let weight = program.tensors()[index as usize].weight().unwrap();
                        if weight.name.contains(matrix) {
                            rows = values;
                        }
                    }
                }
                Ok(())
            })
            .unwrap();
            let at =
                |what: &dyn Fn(u32) -> bool| (0..program.ops().len()).find(|at| of_op(program, *at).is_some_and(what));
            let named = |index: u32| program.tensors()[index as usize].weight().unwrap().name.clone();
            let (embed, product) = (at(&|_| true).unwrap(), at(&|index| named(index).contains(matrix)).unwrap());
            let square = |at: usize, col: usize| -> f64 {
                let slope = |row: usize| {
                    let [more, less] = [1e-2, -1e-2].map(|by| loss(&run, &text, &tokens, (at, row, col), by));
                    (more - less) / 2e-2
                };
                (0..text.tokens.len()).map(|row| slope(row).powi(2)).sum::<f64>() / text.tokens.len() as f64
            };
            let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 0.05, "{name}: {a} and {b}");
            for col in [0, 7, 50] {
                near(f64::from(table[col * table.len().isqrt() + col]), square(embed, col));
            }
            let n = rows.len().isqrt();
            let own = |col: usize| f64::from(rows[col * n + col] - DAMPING * damping(text.tokens.len(), n));
            let mut largest: Vec<usize> = (0..n).collect();
            largest.sort_by(|a, b| own(*b).total_cmp(&own(*a)));
            let [a, b] = [largest[0], largest[n / 8]];
            near(own(a) / own(b), square(product, a) / square(product, b));
        }
    }

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_likely() {
        let logits = Tensor::from_vec([0.1f32, 0.6, 0.3].map(f32::ln).repeat(4000), (4000, 3), &Device::Cpu).unwrap();
        let slope = drawn(&logits, 5).unwrap().mean(0).unwrap().to_vec1::<f32>().unwrap();
        assert!(slope.iter().all(|s| s.abs() < 0.03), "{slope:?}");
    }
}
