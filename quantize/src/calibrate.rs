//! Calibration: the program runs some text in floats, an op at a time, and what went through each place is noted.
//!
//! Two things come of it: ranges (how many fraction bits a slot can have) and the Hessian of each matrix (the mean of x x^T
//! over the rows x that it is multiplied with; its diagonal is what llama.cpp calls an importance matrix).

use crate::codes::hadamard_rows;
use crate::float::{
    Device, FloatError, FloatModel, Result, Room, Stream, fills, operand, operands, slots, softmax, step,
};
use crate::import::{LlmConfig, Model};
use crate::lower::{LOGITS, Ranges, Source, Steps};
use candle_core::{D, Tensor};
use mote_runtime::image::Op;
use mote_runtime::image::program::entry;
use mote_runtime::ops;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

/// Tokens of one window: longer texts are cut, so that attention's cost stays linear.
pub const WINDOW: usize = 256;

/// A text of our own for models that come without one. Its subjects vary so that no domain dominates.
pub const TEXT: &str = include_str!("calibrate.txt");

/// A text to calibrate with: what an encoder reads (nothing for models without one) and what the decoder sees.
#[derive(Clone, Debug, Default)]
pub struct Text {
    /// Tokens of the source.
    pub source: Vec<u32>,
    /// Tokens of the text, or of the target with the token that begins it.
    pub tokens: Vec<u32>,
}

impl Text {
    /// One long text, cut into windows of at most `longest` tokens.
    #[must_use]
    pub fn windows(tokens: &[u32], longest: usize) -> Vec<Self> {
        let window = |tokens: &[u32]| Self { source: Vec::new(), tokens: tokens.to_vec() };
        tokens.chunks(WINDOW.min(longest)).map(window).collect()
    }
}

/// Texts for a model with an encoder: each source, and what the model itself writes for it by greedy search, until one of
/// `ends`. Stops at `most` tokens in all.
///
/// # Errors
/// [`FloatError`].
pub fn translations(model: &FloatModel, sources: &[Vec<u32>], ends: &[u32], most: usize) -> Result<Vec<Text>> {
    let c = model.config();
    let start = c.encoder.as_ref().map_or(0, |e| e.start);
    let (mut texts, mut used) = (Vec::new(), 0);
    for source in sources.iter().filter(|source| !source.is_empty()) {
        let longest = WINDOW.min(c.max_context);
        let source = source[..source.len().min(longest)].to_vec();
        let (written, _) = model.session().translate(&source, ends, longest - 1)?;
        let tokens: Vec<u32> = std::iter::once(start).chain(written).collect();
        used += source.len() + tokens.len();
        texts.push(Text { source, tokens });
        if used >= most {
            break;
        }
    }
    Ok(texts)
}

/// Texts for an encoder without a decoder: sources of at most `longest` tokens, until there are `most` in all.
#[must_use]
pub fn sources(sources: &[Vec<u32>], longest: usize, most: usize) -> Vec<Text> {
    let mut used = 0;
    let cut = |source: &Vec<u32>| source[..source.len().min(longest).min(WINDOW)].to_vec();
    let wanted = sources.iter().filter(|source| !source.is_empty()).map(cut).take_while(|source| {
        let before = used;
        used += source.len();
        before < most
    });
    wanted.map(|source| Text { source, tokens: Vec::new() }).collect()
}

/// What a matrix was multiplied with, all of it transformed as the matrix is.
#[derive(Clone, Debug, Default)]
pub struct Met {
    /// The mean of x x^T over all rows x `[cols, cols]`, damped; empty if there were none.
    pub hessian: Vec<f32>,
    /// The mean of (y - x) x^T, where y is what x would be had nothing before been coded `[cols, cols]`; empty if nothing had.
    pub drift: Vec<f32>,
    /// The mean of (s - r) x^T, where r is the residual that the product is added to and s what it would be `[rows, cols]`.
    pub owed: Vec<f32>,
    /// Of the matrix of logits, the mean of p (1 - p) `[rows]`, where p is what softmax makes of them: half of it times an error squared
    /// is what that adds to the KL divergence. Else empty.
    pub matters: Vec<f32>,
}

/// What codes the matrices of a program, each as calibration reaches it.
pub(crate) trait Coder<E> {
    /// Whether the matrix of this index is coded already: nothing need be met for it.
    fn has(&self, index: u32) -> bool;
    /// Codes a matrix for what it met.
    fn code(&mut self, index: u32, met: &Met) -> std::result::Result<(), E>;
    /// The values of a coded matrix `[rows, cols]`, not transformed.
    fn values(&mut self, index: u32) -> std::result::Result<Vec<f32>, E>;
}

/// What [`calibrate`] does with a program.
pub(crate) struct Scope<'s> {
    /// Ops whose matrices are coded. Those before run in floats, those after not at all.
    pub ops: Range<usize>,
    /// Whether what comes after a matrix meets what it gives as coded.
    pub follow: bool,
    /// Bytes of activations in memory (the device's); what is more is in a file in this folder.
    pub spill: (u64, &'s Path),
    /// Where it is computed. What is met comes from there to the CPU, which codes it.
    pub device: &'s Device,
}

/// Runs `program` over `texts` and returns the ranges of its places. `coder` gets each matrix once nothing after will use it any
/// more. In memory at a time: one op's weights, what one matrix met, and what one layer makes of the text (with `follow` twice),
/// the latter up to the limit of `scope`.
///
/// # Errors
/// [`FloatError`], and `coder`'s.
pub(crate) fn calibrate<E: From<FloatError>>(
    model: &dyn Model,
    program: &Steps,
    texts: &[Text],
    scope: &Scope<'_>,
    coder: &mut impl Coder<E>,
) -> std::result::Result<Ranges, E> {
    let c = model.config();
    let mut room =
        Room::new(scope.spill.0, scope.spill.1, scope.device).map_err(|why| FloatError::Tensor(why.into()))?;
    let mut streams: Vec<Stream> = texts.iter().map(|text| Stream::new(&text.source)).collect();
    // The same with the matrices so far as they were coded, from the first on.
    let mut coded: Vec<Stream> = Vec::new();
    let (body, head) = (program.entry_ops(entry::BODY).next().map(|(at, _)| at), program.head());
    let ops = &program.ops()[..scope.ops.end];
    let ends = ends(ops);
    let matrix_ends: HashMap<u32, usize> = program.last_uses().into_iter().map(|(at, index)| (index, at)).collect();
    let ended = |at: usize| matrix(program, &ops[at]).filter(|index| matrix_ends.get(index) == Some(&at));
    let to_code = |at: usize| ended(at).filter(|_| scope.ops.contains(&at));
    let mut ranges = Ranges::default();
    // What the last matrix met, and the slot that it was in: of q, k and v, and of gate and up, it is the same.
    let (mut last, nothing): (Option<(u32, Met)>, Met) = (None, Met::default());
    for (at, op) in ops.iter().enumerate() {
        if Some(at) == body {
            for streams in [&mut streams, &mut coded] {
                streams.iter_mut().zip(texts).for_each(|(s, text)| s.tokens.clone_from(&text.tokens));
            }
        }
        match multiplied(program, op) {
            Some(_) if last.as_ref().is_some_and(|(slot, _)| *slot == op.args[0]) => {}
            Some(log2) => {
                let same = |op: &Op| multiplied(program, op).is_some() && op.args[0] == program.ops()[at].args[0];
                let group = (at..ops.len()).take_while(|at| same(&ops[*at]));
                let wanted = group.filter_map(to_code).any(|index| !coder.has(index));
                last = None;
                if wanted {
                    last = Some((op.args[0], meet(op, &mut streams, &mut coded, log2, &mut room)?));
                }
            }
            None => last = None,
        }
        let index = to_code(at);
        if index.is_some() && scope.follow && coded.is_empty() {
            coded.clone_from(&streams);
            room.count(&coded);
        }
        let tensors = operands(model, program, op, scope.device)?;
        let is_head = Some(at) == head;
        if let (true, Some((_, met))) = (is_head, &mut last) {
            met.matters = matters(op, &mut streams, &tensors, &mut room)?;
        }
        let exact = |_, s: &mut Stream| {
            let mut seen = None;
            if is_head {
                seen = Some((LOGITS, logits_bound(s.value(op.args[0])?, &tensors)?));
            } else if let Some(slot) = step(c, program, op, &tensors, s)?
                && let Some(name) = program.range_of(slot)
            {
                seen = Some((name, largest(s.value(slot)?)?));
            }
            ends[at].iter().for_each(|slot| s.drop(*slot));
            Ok(seen)
        };
        room.each(&mut streams, &reads(op), exact, |_, seen| {
            seen.into_iter().for_each(|(name, value)| ranges.see(name, value));
            Ok(())
        })?;
        let mut with_codes = tensors;
        if let Some((index, weight)) = index.and_then(|i| Some((i, program.tensors()[i as usize].weight()?))) {
            // Its values are not needed while it is coded, nor ever again.
            with_codes.drain(..1);
            if !coder.has(index) {
                coder.code(index, last.as_ref().map_or(&nothing, |(_, met)| met))?;
            }
            if scope.follow && !is_head {
                with_codes.insert(0, operand(op, weight, coder.values(index)?, scope.device)?);
            }
        }
        if !is_head {
            step_all(c, program, (op, &ends[at]), &with_codes, &mut coded, &mut room)?;
        }
    }
    Ok(ranges)
}

/// Computes an op for all texts, and drops the slots that end with it.
pub(crate) fn step_all(
    c: &LlmConfig,
    program: &Steps,
    (op, ends): (&Op, &[u32]),
    tensors: &[Tensor],
    streams: &mut [Stream],
    room: &mut Room,
) -> Result<()> {
    let one = |_, s: &mut Stream| {
        step(c, program, op, tensors, s)?;
        ends.iter().for_each(|slot| s.drop(*slot));
        Ok(())
    };
    room.each(streams, &reads(op), one, |_, ()| Ok(()))
}

/// The slots that an op reads.
fn reads(op: &Op) -> Vec<u32> {
    slots(op).into_iter().filter(|slot| Some(*slot) != fills(op)).collect()
}

/// The slots that nobody reads after each op, before something else is in them.
pub(crate) fn ends(ops: &[Op]) -> Vec<Vec<u32>> {
    let (mut ends, mut read_later) = (vec![vec![]; ops.len()], HashSet::new());
    for (op, ends) in ops.iter().zip(&mut ends).rev() {
        let used = slots(op);
        ends.extend(used.iter().filter(|slot| !read_later.contains(*slot)));
        read_later.extend(used);
        fills(op).into_iter().for_each(|slot| _ = read_later.remove(&slot));
    }
    ends
}

/// Whether a tensor is coded.
pub(crate) fn is_matrix(source: &Source) -> bool {
    matches!(source, Source::Coded(..) | Source::Positions(_))
}

/// The coded matrix that an op uses.
fn matrix(program: &Steps, op: &Op) -> Option<u32> {
    let uses = [ops::embed::OP.code, ops::matmul::OP.code].contains(&op.code);
    let coded = |index: &u32| program.tensors().get(*index as usize).is_some_and(is_matrix);
    uses.then_some(op.args[1]).filter(coded)
}

/// The transform before the matrix that an op multiplies with. A table that is also the head is judged as the head: an embedding's
/// columns all count alike.
fn multiplied(program: &Steps, op: &Op) -> Option<u32> {
    let index = matrix(program, op).filter(|_| op.code == ops::matmul::OP.code)?;
    match program.tensors()[index as usize] {
        Source::Coded(_, log2) => Some(log2),
        _ => None,
    }
}

/// A bound of the logits by Cauchy and Schwarz, over 8: it is some ten times what is ever reached, and a slot's head room
/// comes on top.
fn logits_bound(x: &Tensor, tensors: &[Tensor]) -> Result<f64> {
    let longest = f64::from(x.sqr()?.sum(D::Minus1)?.max(0)?.to_scalar::<f32>()?).sqrt();
    let steepest = f64::from(tensors[0].sqr()?.sum(0)?.max(0)?.to_scalar::<f32>()?).sqrt();
    let bias = tensors.get(1).map_or(Ok(0.0), largest)?;
    Ok(longest * steepest / 8.0 + bias)
}

/// Positions whose logits say what the rows of their matrix count.
const POSITIONS: usize = 2048;

/// Share of the mean of what rows count that is added to it, for tokens that hardly come up.
const SELDOM: f32 = 0.1;

/// [`Met::matters`], and [`SELDOM`] of its mean.
fn matters(op: &Op, streams: &mut [Stream], tensors: &[Tensor], room: &mut Room) -> Result<Vec<f32>> {
    let (mut sum, mut count): (Option<Tensor>, usize) = (None, 0);
    let step = streams.len().div_ceil(POSITIONS / WINDOW).max(1);
    for s in streams.iter_mut().step_by(step) {
        room.enter(s, &op.args[..1])?;
        let x = s.value(op.args[0])?;
        let mut logits = x.matmul(&tensors[0])?;
        if let Some(bias) = tensors.get(1) {
            logits = logits.broadcast_add(bias)?;
        }
        let p = softmax(&logits)?;
        add(&mut sum, (&p - p.sqr()?)?.sum(0)?)?;
        count += x.dim(0)?;
        room.leave(s)?;
    }
    let Some(sum) = sum else { return Ok(Vec::new()) };
    let mut matters: Vec<f32> = (sum / count.max(1) as f64)?.to_vec1()?;
    let mean = matters.iter().sum::<f32>() / matters.len().max(1) as f32;
    matters.iter_mut().for_each(|m| *m += SELDOM * mean);
    Ok(matters)
}

/// What the head of an op met, if it is the embedding, too, whose rows' errors count `table` `[cols, cols]` there: rows count together as
/// often as they come up, as the head's do, so that there is one Hessian for all, in units of what they count.
pub(crate) fn met_as_embedding(met: &Met, table: &[f32], hadamard: u32) -> Met {
    let cols = table.len().isqrt();
    let mut table = table.to_vec();
    for _ in 0..2 {
        hadamard_rows(&mut table, cols, hadamard);
        table = (0..table.len()).map(|at| table[at % cols * cols + at / cols]).collect();
    }
    let counts = met.matters.iter().sum::<f32>() / (1.0 + SELDOM);
    let mut met = met.clone();
    met.hessian.iter_mut().zip(&table).for_each(|(h, g)| *h += g / counts.max(f32::MIN_POSITIVE));
    met
}

fn largest(x: &Tensor) -> Result<f64> {
    let x = x.flatten_all()?;
    let end = |end: Tensor| Ok::<f64, FloatError>(f64::from(end.to_scalar::<f32>()?));
    Ok(end(x.max(0)?)?.max(-end(x.min(0)?)?))
}

/// Share of the mean of a Hessian's diagonal that is added to it: what this text never used may still matter to another
/// (GPTQ, arXiv 2210.17323, section 3.3, step 3), and few rows say less than many.
pub(crate) fn damping(rows: usize, cols: usize) -> f32 {
    (0.01 + 0.5 * cols as f32 / rows.max(1) as f32).min(1.0)
}

fn add(sum: &mut Option<Tensor>, more: Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        None => more,
        Some(sum) => (sum + more)?,
    });
    Ok(())
}

/// Elements of inputs whose products are one matrix product: texts are short beside a Hessian, which each product writes anew.
const MET_TOGETHER: usize = 1 << 20;

/// Inputs `[rows, cols]` as a matrix is transformed whose blocks are 2^`hadamard` wide.
fn transformed(x: &Tensor, hadamard: u32) -> Result<Tensor> {
    if hadamard == 0 {
        return Ok(x.clone());
    }
    if !x.device().is_cpu() {
        return hadamard_product(x, hadamard);
    }
    let (rows, cols) = x.dims2()?;
    let mut values: Vec<f32> = x.flatten_all()?.to_vec1()?;
    hadamard_rows(&mut values, cols, hadamard);
    Ok(Tensor::from_vec(values, (rows, cols), x.device())?)
}

/// The same as a product with the matrix of the transform, which is of 1 and -1: what a GPU is good at, and its inputs stay there.
fn hadamard_product(x: &Tensor, hadamard: u32) -> Result<Tensor> {
    let width = 1 << hadamard;
    let mut matrix = vec![0f32; width * width];
    (0..width).for_each(|at| matrix[at * width + at] = 1.0);
    hadamard_rows(&mut matrix, width, hadamard);
    let matrix = Tensor::from_vec(matrix, (width, width), x.device())?;
    Ok(x.reshape(((), width))?.matmul(&matrix)?.reshape(x.shape())?)
}

/// What the matrix of `op` meets.
fn meet(op: &Op, exact: &mut [Stream], coded: &mut [Stream], hadamard: u32, room: &mut Room) -> Result<Met> {
    let accumulates = op.flags & ops::matmul::ACCUMULATE != 0;
    let reads = if accumulates { vec![op.args[0], op.args[3]] } else { vec![op.args[0]] };
    let (mut hessian, mut drift, mut owed, mut count) = (None, None, None, 0);
    let texts = exact.len();
    let (mut met, mut lost, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for (at, exact) in exact.iter_mut().enumerate() {
        room.enter(exact, &reads)?;
        let y = transformed(exact.value(op.args[0])?, hadamard)?;
        count += y.dim(0)?;
        if let Some(coded) = coded.get_mut(at) {
            room.enter(coded, &reads)?;
            let x = transformed(coded.value(op.args[0])?, hadamard)?;
            lost.push((y - &x)?);
            met.push(x);
            if accumulates {
                missing.push((exact.value(op.args[3])? - coded.value(op.args[3])?)?);
            }
            room.leave(coded)?;
        } else {
            met.push(y);
        }
        room.leave(exact)?;
        if met.iter().map(|x| x.elem_count()).sum::<usize>() >= MET_TOGETHER || at + 1 == texts {
            let x = Tensor::cat(&std::mem::take(&mut met), 0)?;
            for (sum, rows) in [(&mut drift, &mut lost), (&mut owed, &mut missing)] {
                if !rows.is_empty() {
                    add(sum, Tensor::cat(&std::mem::take(rows), 0)?.t()?.matmul(&x)?)?;
                }
            }
            add(&mut hessian, x.t()?.matmul(&x)?)?;
        }
    }
    let mean = |sum: Option<Tensor>| -> Result<Vec<f32>> {
        let Some(sum) = sum else { return Ok(Vec::new()) };
        Ok((sum / count.max(1) as f64)?.flatten_all()?.to_vec1()?)
    };
    let mut met = Met { hessian: mean(hessian)?, drift: mean(drift)?, owed: mean(owed)?, matters: Vec::new() };
    let cols = met.hessian.len().isqrt();
    let level = (0..cols).map(|c| met.hessian[c * cols + c]).sum::<f32>() / cols.max(1) as f32;
    let damping = damping(count, cols) * level + f32::MIN_POSITIVE;
    (0..cols).for_each(|c| met.hessian[c * cols + c] += damping);
    Ok(met)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums of integers are exact in any order.
    #[test]
    fn a_product_transforms_as_additions_do() {
        for (hadamard, rows, cols) in [(0, 3, 5), (1, 2, 6), (3, 5, 24), (5, 3, 32)] {
            let values = (0..rows * cols).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
            let x = Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap();
            let [added, multiplied] = [transformed, hadamard_product].map(|f| f(&x, hadamard).unwrap());
            let values = |x: &Tensor| x.to_vec2::<f32>().unwrap();
            assert_eq!(values(&added), values(&multiplied));
            assert_eq!(values(&added) == values(&x), hadamard == 0);
        }
    }
}
