//! What errors count for the loss: the curvature of the KL divergence to the float model, as far as it is not in the inputs.
//!
//! An error E of a matrix adds half of `tr G E H E^T` to the divergence, with H the mean of x x^T over its inputs and G the mean of g g^T
//! over the gradients g of the loss with respect to what it gives: K-FAC's product (Martens and Grosse 2015) for the Fisher matrix, which
//! is the divergence's curvature where the two models are one. The loss is therefore not that of the text's tokens: see [`signed`]. YAQA (Tseng, Sun and De Sa 2025, arXiv 2505.22988) quantizes by it.
//!
//! A table that is embedding and head in one is a head with inputs x whose rows count as its logits do, and gives the residual its rows:
//! what that counts is the mean of g g^T over the residual's gradients.
//!
//! The program runs once forwards, keeping what each layer begins with, and then layer by layer backwards, each layer computed again: in
//! memory at a time are a layer's weights, what it makes of one text a thread, and what layers begin with, the last up to a limit. Backwards
//! ops go one by one: a product with a matrix by hand, for candle would compute the weights' gradient, too, the others by candle.

use crate::calibrate::{Text, damping, ends, step_all};
use crate::codes::BAND;
use crate::float::{Device, FloatError, Result as FloatResult, Room, Stream, operands, slots, softmax, step};
use crate::import::{LlmConfig, Model};
use crate::lower::{Source, Steps};
use candle_core::{Tensor, Var};
use mote_runtime::image::Op;
use mote_runtime::ops;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

/// Texts that are looked at.
const TEXTS: usize = 32;

/// Losses whose gradients are taken at each position, which share what goes forwards, and the tokens from which on they are: of fewer
/// the inputs say less than the gradients, and one is enough.
const LOSSES: (u64, usize) = (4, 8192);

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
    let tokens: usize = texts.iter().map(|text| text.tokens.len()).sum();
    let losses = if tokens < LOSSES.1 { 1 } else { LOSSES.0 };
    let layers: Vec<Range<usize>> = (0..program.layers()).map(|l| program.layer_ops(&(l..l + 1))).collect();
    let uses = |at: usize| of_op(program, at).is_some_and(|index| wanted.contains(&index));
    let Some(first) = layers.iter().position(|here| here.clone().any(uses)) else { return Ok(()) };

    let run = Run { config: model.config(), program, device, wanted, losses, ends: ends(program.ops()) };
    let mut room = Room::new(spill, folder, device).map_err(|why| FloatError::Tensor(why.into()))?;
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
            run.forwards(model, here.clone(), &mut streams, &mut room)?;
        }
    }
    drop(streams);

    let mut slopes: Vec<Vec<Slopes>> = vec![Vec::new(); texts.len()];
    for here in layers[first..].iter().rev() {
        let tensors: Vec<Vec<Tensor>> = run.tensors(model, here)?;
        let mut sums = BTreeMap::new();
        let mut begin = begins.pop().unwrap_or_default();
        let live = begin.first().map_or(Vec::new(), Stream::slots);
        let mut before: Vec<Vec<Slopes>> = Vec::new();
        let backwards =
            |at: usize, s: &mut Stream| run.backwards(here, &tensors, std::mem::take(s), &slopes[at], at as u64);
        room.each(&mut begin, &live, backwards, |_, (slopes, given)| {
            before.push(slopes);
            for (what, g) in given {
                let (_, is_table) = what;
                let (sum, count): &mut (Vec<Tensor>, usize) = sums.entry(what).or_default();
                *count += g.dim(0)?;
                add(sum, &g, if is_table { usize::MAX } else { BAND })?;
            }
            Ok(())
        })?;
        slopes = before;
        for ((index, is_table), (sum, count)) in sums {
            let means = means(sum, (count, losses), is_table)?;
            found(if is_table { Found::Table(index, means) } else { Found::Rows(index, means) })?;
        }
    }
    Ok(())
}

/// Rows of g^T g that are computed together, from the diagonal on.
const TOGETHER: usize = 128;

/// Adds g^T g of each `band` columns of g `[tokens, rows]`: [`TOGETHER`] rows of a band after the other, each from the diagonal on.
fn add(sums: &mut Vec<Tensor>, g: &Tensor, band: usize) -> FloatResult<()> {
    let (g, rows) = (g.t()?.contiguous()?, g.dim(1)?);
    let parts = (0..rows).step_by(band).flat_map(|first| {
        let end = rows.min(first.saturating_add(band));
        (first..end).step_by(TOGETHER).map(move |row| (row, end))
    });
    for (at, (first, end)) in parts.enumerate() {
        let more = g.narrow(0, first, TOGETHER.min(end - first))?.matmul(&g.narrow(0, first, end - first)?.t()?)?;
        match sums.get_mut(at) {
            None => sums.push(more),
            Some(sum) => *sum = (&*sum + more)?,
        }
    }
    Ok(())
}

/// What [`add`] summed up over `count` gradients as means, one band after the other.
fn means(sums: Vec<Tensor>, (count, losses): (usize, u64), is_table: bool) -> FloatResult<Vec<f32>> {
    let mut means = Vec::new();
    let mut sums = sums.into_iter().peekable();
    while let Some(first) = sums.peek() {
        let rows = first.dim(1)?;
        let mut mean = vec![0f32; rows * rows];
        for (sum, first) in sums.by_ref().take(rows.div_ceil(TOGETHER)).zip((0..).step_by(TOGETHER)) {
            let part: Vec<f32> = (sum / count.max(1) as f64)?.flatten_all()?.to_vec1()?;
            for (line, row) in part.chunks_exact(rows - first).zip(first..) {
                for (value, col) in line.iter().zip(first..) {
                    mean[row * rows + col] = *value;
                    mean[col * rows + row] = *value;
                }
            }
        }
        if !is_table {
            normalise(&mut mean, rows, (count, losses));
        }
        means.extend(mean);
    }
    Ok(means)
}

/// Times that G of one loss is damped as a Hessian is: a gradient of a loss by chance is mostly noise.
const DAMPING: f32 = 4.0;

/// Makes the mean of a diagonal one, and damps it.
fn normalise(g: &mut [f32], rows: usize, (gradients, losses): (usize, u64)) {
    let mean = (0..rows).map(|r| g[r * rows + r]).sum::<f32>() / rows.max(1) as f32;
    g.iter_mut().for_each(|g| *g /= mean.max(f32::MIN_POSITIVE));
    let by = DAMPING / losses as f32 * damping(gradients, rows);
    (0..rows).for_each(|r| g[r * rows + r] += by);
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

/// Gradients of the loss of a text with respect to what slots hold, the tensors of each one after the other.
type Slopes = BTreeMap<u32, Vec<Tensor>>;

/// Gradients with respect to what a matrix, or an embedding (true), gives `[tokens, rows]`.
type Given = Vec<((u32, bool), Tensor)>;

struct Run<'r> {
    config: &'r LlmConfig,
    program: &'r Steps,
    device: &'r Device,
    wanted: &'r BTreeSet<u32>,
    /// Losses whose gradients are taken.
    losses: u64,
    /// The slots that nobody needs after each op.
    ends: Vec<Vec<u32>>,
}

/// What an op read, as variables, and what it made of that, by slots.
#[derive(Default)]
struct Made {
    read: Vec<(u32, Vec<Var>)>,
    made: Vec<(u32, Vec<Tensor>)>,
}

impl Run<'_> {
    fn tensors(&self, model: &dyn Model, ops: &Range<usize>) -> FloatResult<Vec<Vec<Tensor>>> {
        ops.clone().map(|at| operands(model, self.program, &self.program.ops()[at], self.device)).collect()
    }

    fn forwards(
        &self,
        model: &dyn Model,
        ops: Range<usize>,
        streams: &mut [Stream],
        room: &mut Room,
    ) -> FloatResult<()> {
        for at in ops {
            let op = &self.program.ops()[at];
            let tensors = operands(model, self.program, op, self.device)?;
            step_all(self.config, self.program, (op, &self.ends[at]), &tensors, streams, room)?;
        }
        Ok(())
    }

    /// Computes an op, keeping what it read and made. Nothing need be kept of a product with a matrix.
    fn forward(&self, op: &Op, tensors: &[Tensor], s: &mut Stream) -> FloatResult<Made> {
        let mut kept = Made::default();
        let is_product = op.code == ops::matmul::OP.code;
        let held = |s: &Stream| -> BTreeMap<u32, Vec<Tensor>> {
            slots(op).into_iter().filter_map(|slot| Some((slot, s.held(slot)?.to_vec()))).collect()
        };
        let before = held(s);
        if !is_product {
            for (slot, held) in &before {
                let vars = held.iter().map(Var::from_tensor).collect::<candle_core::Result<Vec<Var>>>()?;
                s.put(*slot, vars.iter().map(|var| var.as_tensor().clone()).collect());
                kept.read.push((*slot, vars));
            }
        }
        step(self.config, self.program, op, tensors, s)?;
        for (slot, held) in held(s).into_iter().filter(|_| !is_product) {
            let ids = held.iter().map(Tensor::id);
            if kept.read.iter().any(|(read, vars)| *read == slot && ids.clone().eq(vars.iter().map(|var| var.id()))) {
                // Only read.
                s.put(slot, before[&slot].clone());
            } else {
                s.put(slot, held.iter().map(Tensor::detach).collect());
                kept.made.push((slot, held));
            }
        }
        Ok(kept)
    }

    /// Computes a layer of a text again, from what it begins with, and from gradients of what it ends with (at the program's end: of
    /// losses that `seed` makes) those of what it begins with, and of what each matrix, or an embedding (true), gives.
    fn backwards(
        &self,
        ops: &Range<usize>,
        tensors: &[Vec<Tensor>],
        mut s: Stream,
        slopes: &[Slopes],
        seed: u64,
    ) -> FloatResult<(Vec<Slopes>, Given)> {
        let (head, logits) = (self.program.head(), self.program.logits_slot());
        let mut kept = Vec::new();
        for (at, tensors) in ops.clone().zip(tensors) {
            kept.push(self.forward(&self.program.ops()[at], tensors, &mut s)?);
            self.ends[at].iter().filter(|slot| **slot != logits).for_each(|slot| s.drop(*slot));
        }
        let mut slopes = slopes.to_vec();
        if head.is_some_and(|head| ops.contains(&head)) {
            let p = softmax(s.value(logits)?)?;
            let slope = |loss| Ok(Slopes::from([(logits, vec![signed(&p, self.losses * seed + loss)?])]));
            slopes = (0..self.losses).map(slope).collect::<FloatResult<_>>()?;
        }
        drop(s);
        let mut given = Vec::new();
        for ((at, tensors), kept) in ops.clone().zip(tensors).zip(kept).rev() {
            let op = &self.program.ops()[at];
            let index = of_op(self.program, at).filter(|index| self.wanted.contains(index));
            if op.code == ops::matmul::OP.code {
                let missing = || candle_core::Error::Msg("a matrix has no part in the loss".into());
                let mut all = Vec::new();
                for slopes in &mut slopes {
                    let slope = slopes.get(&op.args[3]).ok_or_else(missing)?[0].clone();
                    if op.flags & ops::matmul::ACCUMULATE == 0 {
                        slopes.remove(&op.args[3]);
                    }
                    all.push(slope);
                }
                let all = Tensor::cat(&all, 0)?;
                let through = all.matmul(&tensors[0].t()?)?;
                let each = through.dim(0)? / slopes.len();
                for (draw, slopes) in slopes.iter_mut().enumerate() {
                    meets(slopes, op.args[0], vec![through.narrow(0, draw * each, each)?])?;
                }
                given.extend(index.map(|index| ((index, false), all)));
                continue;
            }
            if let Some(index) = index {
                let rows: Vec<&Tensor> =
                    slopes.iter().filter_map(|slopes| Some(&slopes.get(&op.args[0])?[0])).collect();
                let scale = if op.args[2] == 0 { 1.0 } else { (self.config.dim as f64).sqrt() };
                given.push(((index, true), (Tensor::cat(&rows, 0)? * scale)?));
            }
            for slopes in &mut slopes {
                kept.backward(slopes)?;
            }
        }
        Ok((slopes, given))
    }
}

/// Adds to the gradients of what a slot holds.
fn meets(slopes: &mut Slopes, slot: u32, more: Vec<Tensor>) -> FloatResult<()> {
    let sum = match slopes.remove(&slot) {
        None => more,
        Some(old) => old.iter().zip(&more).map(|(a, b)| a + b).collect::<candle_core::Result<_>>()?,
    };
    slopes.insert(slot, sum);
    Ok(())
}

impl Made {
    /// Makes gradients with respect to what an op read of those with respect to what it made.
    fn backward(&self, slopes: &mut Slopes) -> FloatResult<()> {
        let mut along: Option<Tensor> = None;
        for (slot, made) in &self.made {
            for (made, slope) in made.iter().zip(slopes.remove(slot).unwrap_or_default()) {
                let more = (made * slope)?.sum_all()?;
                along = Some(match along {
                    None => more,
                    Some(along) => (along + more)?,
                });
            }
        }
        let Some(along) = along else { return Ok(()) };
        let grads = along.backward()?;
        for (slot, vars) in &self.read {
            let all: Option<Vec<Tensor>> = vars.iter().map(|var| grads.get(var).map(Tensor::detach)).collect();
            if let Some(all) = all {
                meets(slopes, *slot, all)?;
            }
        }
        Ok(())
    }
}

/// A gradient v by chance of a loss with respect to logits `[tokens, vocab]`, of which softmax makes `p`. With r of signs by chance and s
/// the root of p, it is `s r - p (s . r)`: the mean of v v^T is `(diag s - p s^T) (diag s - s p^T)`, which is, s being of length one,
/// `diag p - p p^T`, the divergence's curvature. (So it is of the gradients `p - e_t` for drawn tokens t. But those are mostly small and
/// seldom large.)
fn signed(p: &Tensor, seed: u64) -> FloatResult<Tensor> {
    let (tokens, vocab) = p.dims2()?;
    let mut slope: Vec<f32> = p.flatten_all()?.to_vec1()?;
    for (position, slope) in slope.chunks_exact_mut(vocab).enumerate() {
        let mut sum = 0f32;
        let mut roots = Vec::with_capacity(vocab);
        for (p, part) in slope.chunks(64).zip(0..) {
            let signs = hash(seed << 32 | (position as u64) << 16 | part);
            roots.extend(p.iter().enumerate().map(|(at, p)| if signs >> at & 1 == 0 { p.sqrt() } else { -p.sqrt() }));
        }
        roots.iter().for_each(|root| sum += root);
        slope.iter_mut().zip(&roots).for_each(|(p, root)| *p = root - *p * sum);
    }
    Ok(Tensor::from_vec(slope, (tokens, vocab), p.device())?)
}

/// A number for each seed (SplitMix64, Steele, Lea and Flood 2014).
fn hash(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::open_model;
    use crate::lower::{Ranges, language_model};

    /// Logits of a text `[tokens, vocab]`, with `by` added to one element of what an op gives.
    fn logits(model: &dyn Model, run: &Run<'_>, text: &Text, change: Option<(usize, usize, usize, f32)>) -> Tensor {
        let mut s = Stream::new(&text.tokens);
        for (at, tensors) in run.tensors(model, &(0..run.program.ops().len())).unwrap().into_iter().enumerate() {
            let op = &run.program.ops()[at];
            step(run.config, run.program, op, &tensors, &mut s).unwrap();
            if let Some((_, row, col, by)) = change.filter(|(changed, ..)| *changed == at) {
                let slot = if op.code == ops::embed::OP.code { op.args[0] } else { op.args[3] };
                let mut values = s.value(slot).unwrap().to_vec2::<f32>().unwrap();
                values[row][col] += by;
                s.put(slot, vec![Tensor::new(values, run.device).unwrap()]);
            }
        }
        s.value(run.program.logits_slot()).unwrap().clone()
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
            let wanted = &(0..program.tensors().len() as u32).collect();
            let (config, device) = (model.config(), &Device::Cpu);
            let run = Run { config, program, device, wanted, losses: 1, ends: ends(program.ops()) };
            // The loss whose gradients `curvature` takes.
            let along = signed(&softmax(&logits(model, &run, &text, None)).unwrap(), 0).unwrap();
            let loss = |(at, row, col): (usize, usize, usize), by: f32| -> f64 {
                let logits = logits(model, &run, &text, Some((at, row, col, by))).to_vec2::<f32>().unwrap();
                let pairs = logits.iter().flatten().zip(along.flatten_all().unwrap().to_vec1::<f32>().unwrap());
                pairs.map(|(logit, slope)| f64::from(*logit) * f64::from(slope)).sum()
            };
            let folder = tempfile::tempdir().unwrap();
            let (mut table, mut rows) = (Vec::new(), Vec::new());
            // No room in memory: what layers begin with goes through a file.
            let room = (0, folder.path());
            let texts = std::slice::from_ref(&text);
            curvature::<FloatError>(model, program, texts, wanted, room, run.device, &mut |found| {
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
                    let [more, less] = [1e-2, -1e-2].map(|by| loss((at, row, col), by));
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

    /// What [`add`] leaves out below the diagonal is there again, in bands as in one.
    #[test]
    fn sums_are_those_of_whole_products() {
        let (tokens, rows) = (9, 2 * TOGETHER + 10);
        let g: Vec<f32> = (0..tokens * rows).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
        let tensor = Tensor::from_slice(&g, (tokens, rows), &Device::Cpu).unwrap();
        let mean = |i: usize, j: usize| (0..tokens).map(|t| g[t * rows + i] * g[t * rows + j]).sum::<f32>() / 4.0;
        for band in [usize::MAX, TOGETHER + 40] {
            let mut sums = Vec::new();
            add(&mut sums, &tensor, band).unwrap();
            let found = means(sums, (4, 1), true).unwrap();
            let width = band.min(rows);
            let whole = (0..rows).step_by(width).flat_map(|first| {
                let here = first..rows.min(first + width);
                here.clone().flat_map(move |i| here.clone().map(move |j| (i, j)))
            });
            assert_eq!(found, whole.map(|(i, j)| mean(i, j)).collect::<Vec<f32>>());
        }
    }

    #[test]
    fn gradients_by_chance_have_the_curvature_of_the_divergence() {
        let p = [0.1f32, 0.6, 0.3];
        let many = Tensor::from_vec(p.repeat(4000), (4000, 3), &Device::Cpu).unwrap();
        let slope = signed(&many, 5).unwrap().to_vec2::<f32>().unwrap();
        for (i, p_i) in p.iter().enumerate() {
            for (j, p_j) in p.iter().enumerate() {
                let found = slope.iter().map(|v| v[i] * v[j]).sum::<f32>() / 4000.0;
                let curvature = if i == j { p_i - p_i * p_j } else { -p_i * p_j };
                assert!((found - curvature).abs() < 0.01, "{i}, {j}: {found} and {curvature}");
            }
        }
    }
}
