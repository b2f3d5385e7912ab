//! Bits by what they are worth: which matrices of a language model get 3, 4, 5 or 8 bits under a budget of bits a weight.
//!
//! What a matrix costs is measured: with it alone in 4 bits, how far does the model's output go from what it was, in KL divergence
//! on some of the calibration text? Such divergences add up (the sum of all is within a few per cent of the whole), and fall to a
//! third or so with the fifth bit, so that every width has a cost and a price. What costs least in all for the budget is taken. Mixed precision by measured sensitivity is HAWQ's idea (arXiv 1905.03696), which takes
//! curvature for it. What was measured is kept as coded matrices are: a run that is killed does not measure it again.

use crate::calibrate::{Coder, Met, Scope, Text, calibrate};
use crate::codes::Coding;
use crate::float::metrics::LockStep;
use crate::float::{Device, FloatError, Result as FloatResult, Stream, at_once, operand, operands, side_by_side, step};
use crate::import::{LlmConfig, Model, Weight};
use crate::lower::{Source, Steps, parameters, tensor_args};
use crate::parts::Work;
use crate::quantize::{Curved, QuantizeError, Settings, coded, kept_values, place};
use candle_core::Tensor;
use mote_runtime::image::TensorDesc;
use mote_runtime::image::program::entry;
use std::collections::HashMap;
use std::ops::Range;

/// The widths there are, and what is left at each of the divergence at [`MEASURED`].
const WIDTHS: [(Coding, f64); 4] = [(Coding::T3, 4.4), (Coding::T4, 1.0), (Coding::N5, 0.32), (Coding::N8, 0.005)];

/// The width whose divergence is measured.
const MEASURED: Coding = Coding::T4;

/// Windows of text that are looked at for each matrix.
const WINDOWS: usize = 4;

/// A matrix, what it costs in 4 bits, and the width that it has got.
struct Candidate<'p> {
    index: u32,
    weight: &'p Weight,
    divergence: f64,
    width: usize,
}

impl Candidate<'_> {
    fn bytes(&self, width: usize) -> u64 {
        coded_bytes(WIDTHS[width].0, self.weight)
    }

    /// Bytes beyond those of the first width.
    fn extra(&self, width: usize) -> u64 {
        self.bytes(width) - self.bytes(0)
    }

    /// What is left of its divergence at a width.
    fn cost(&self, width: usize) -> f64 {
        self.divergence * WIDTHS[width].1
    }
}

/// Parts that bytes are counted in when they are spent.
const SHARES: usize = 4096;

/// Gives each matrix the width with which all together cost least, for at most so many bytes more than the first width takes: a
/// knapsack of which each matrix takes one of its widths, filled by dynamic programming. Bytes are counted in shares, rounded up.
/// (Taking the steps of most worth a byte one by one leaves no room for large matrices.)
fn spend(candidates: &mut [Candidate<'_>], bytes: u64) {
    let share = bytes.div_ceil(SHARES as u64).max(1);
    // The least cost of the matrices so far, by how many shares they have got at most, and which width of the last that takes.
    let mut least = vec![0.0; (bytes / share) as usize + 1];
    let mut widths: Vec<Vec<usize>> = Vec::new();
    for m in &*candidates {
        let price = |width: usize| m.extra(width).div_ceil(share) as usize;
        let choice = |shares: usize| {
            let paid = (0..WIDTHS.len()).filter(|width| price(*width) <= shares);
            let costs = paid.map(|width| (least[shares - price(width)] + m.cost(width), width));
            costs.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::INFINITY, 0))
        };
        let best: Vec<(f64, usize)> = (0..least.len()).map(choice).collect();
        widths.push(best.iter().map(|(_, width)| *width).collect());
        least = best.into_iter().map(|(cost, _)| cost).collect();
    }
    let mut shares = least.len() - 1;
    for (m, widths) in candidates.iter_mut().zip(&widths).rev() {
        m.width = widths[shares];
        shares -= m.extra(m.width).div_ceil(share) as usize;
    }
}

fn coded_bytes(coding: Coding, matrix: &Weight) -> u64 {
    let dims = [matrix.shape[0] as u32, matrix.shape[1] as u32, 1, 1];
    TensorDesc::data_bytes(coding.dtype(), dims).unwrap_or(u64::MAX)
}

/// Bytes of what has no choice.
fn fixed_bytes(c: &LlmConfig, source: &Source) -> u64 {
    match source {
        Source::Coded(..) => 0,
        Source::Positions(weight) => coded_bytes(Coding::N8, weight),
        Source::Gain(weight) => 2 * weight.shape[0] as u64,
        Source::Bias(weight, _) => 4 * weight.shape[0] as u64,
        Source::RopeSteps => 8 * c.rope_frequencies().len() as u64,
        Source::SinusoidSteps => 8 * c.sinusoid_frequencies().len() as u64,
    }
}

/// The coding of each matrix, by its index, with which all tensors together take at most `bits` a weight. `progress` is told what is
/// being measured.
///
/// # Errors
/// [`QuantizeError::Budget`], and what measuring meets.
pub(crate) fn allocate(
    work: &mut Work,
    model: &dyn Model,
    program: &Steps,
    settings: &Settings,
    bits: f64,
    progress: &mut dyn FnMut(&str),
) -> Result<HashMap<u32, Coding>, QuantizeError> {
    let c = model.config();
    let parameters = parameters(program.tensors());
    let matrices = (0..).zip(program.tensors()).filter_map(|(index, source)| match source {
        Source::Coded(weight, _) => Some(Candidate { index, weight, divergence: 0.0, width: 0 }),
        _ => None,
    });
    let mut candidates: Vec<Candidate> = matrices.collect();
    let fixed: u64 = program.tensors().iter().map(|source| fixed_bytes(c, source)).sum();
    let least = fixed + candidates.iter().map(|m| m.bytes(0)).sum::<u64>();
    let budget = (bits * parameters as f64 / 8.0) as u64;
    if budget < least {
        return Err(QuantizeError::Budget { asked: bits, least: least as f64 * 8.0 / parameters as f64 });
    }

    if !candidates.iter().all(|m| work.has(&cost_name(m.index))) {
        let folder = work.folder().to_owned();
        let ops = 0..program.ops().len();
        let scope = Scope { ops, follow: false, spill: (settings.spill, &folder), device: &settings.device };
        let mut trials = Trials { work, model, program, settings, progress };
        calibrate(model, program, &settings.calibration, &scope, &mut trials)?;
        let texts = &settings.calibration;
        let texts: Vec<&Text> = texts.iter().step_by(texts.len().div_ceil(WINDOWS).max(1)).collect();
        let left = candidates.iter().map(|m| m.index).filter(|index| !trials.work.has(&cost_name(*index)));
        measure(model, program, &texts, &left.collect::<Vec<u32>>(), &settings.device, &mut trials)?;
    }
    for matrix in &mut candidates {
        (matrix.divergence, _) = work.get(&cost_name(matrix.index))?;
    }

    spend(&mut candidates, budget - least);
    Ok(candidates.iter().map(|m| (m.index, WIDTHS[m.width].0)).collect())
}

/// The name of what a matrix costs, and of the matrix in 4 bits that says so.
fn cost_name(index: u32) -> String {
    format!("cost-{index:05}")
}

fn trial_name(index: u32) -> String {
    format!("trial-{index:05}")
}

/// Codes each matrix in 4 bits, as if there were no other.
struct Trials<'r> {
    work: &'r mut Work,
    model: &'r dyn Model,
    program: &'r Steps,
    settings: &'r Settings,
    progress: &'r mut dyn FnMut(&str),
}

impl Coder<QuantizeError> for Trials<'_> {
    fn has(&self, index: u32) -> bool {
        let has_choice = matches!(self.program.tensors()[index as usize], Source::Coded(..));
        !has_choice || self.work.has(&trial_name(index)) || self.work.has(&cost_name(index))
    }

    fn code(&mut self, index: u32, met: &Met) -> Result<(), QuantizeError> {
        if let Source::Coded(weight, log2) = &self.program.tensors()[index as usize] {
            (self.progress)(&weight.name);
            let curved = Curved::of(self.work, index)?;
            let matrix = coded(self.model, weight, *log2, MEASURED, self.settings, met, &curved)?;
            let placed = place(weight.name.clone(), *log2, &matrix);
            self.work.put(&trial_name(index), &placed, &matrix.bytes)?;
        }
        Ok(())
    }

    fn values(&mut self, index: u32) -> Result<Vec<f32>, QuantizeError> {
        kept_values(self.work, &trial_name(index))
    }
}

impl Trial<QuantizeError> for Trials<'_> {
    fn values(&mut self, index: u32) -> Result<Vec<f32>, QuantizeError> {
        let name = self.program.tensors()[index as usize].weight().map_or("", |weight| &weight.name);
        (self.progress)(name);
        kept_values(self.work, &trial_name(index))
    }

    fn costs(&mut self, index: u32, divergence: f64) -> Result<(), QuantizeError> {
        Ok(self.work.put(&cost_name(index), &divergence, &[])?)
    }
}

/// What [`measure`] gets matrices from, and who is told what they cost.
pub(crate) trait Trial<E> {
    /// The values of a coded matrix `[rows, cols]`, not transformed.
    fn values(&mut self, index: u32) -> Result<Vec<f32>, E>;
    /// The mean KL divergence, in nats, of the model with it alone.
    fn costs(&mut self, index: u32, divergence: f64) -> Result<(), E>;
}

/// Measures what each of `matrices` costs: from the first op that uses one on, the program runs with it as coded, up to the head.
/// In memory at a time: the weights of an op and of the head, and the activations of `texts`.
///
/// # Errors
/// [`FloatError`], and `trial`'s.
pub(crate) fn measure<E: From<FloatError>>(
    model: &dyn Model,
    program: &Steps,
    texts: &[&Text],
    matrices: &[u32],
    device: &Device,
    trial: &mut impl Trial<E>,
) -> Result<(), E> {
    let run = Run { model, program, texts, device };
    let Some(head) = program.head() else { return Ok(()) };
    let begin = || -> Vec<Stream> { texts.iter().map(|text| Stream::new(&text.source)).collect() };
    let wanted = run.ops(0..head, begin(), None)?;
    let head_tensors = run.operands(head, None)?;
    let mut streams = begin();
    for at in 0..=head {
        let first = |m: &&u32| program.ops().iter().position(|op| tensor_args(op).contains(m)) == Some(at);
        for index in matrices.iter().filter(first) {
            let values = trial.values(*index)?;
            let instead = Some((*index, values.as_slice()));
            let found = run.ops(at..head, streams.clone(), instead)?;
            let tensors = if tensor_args(&program.ops()[head]).contains(index) {
                run.operands(head, instead)?
            } else {
                head_tensors.clone()
            };
            let mut steps = LockStep::default();
            let both =
                run.logits(head, &head_tensors, wanted.clone())?.into_iter().zip(run.logits(head, &tensors, found)?);
            both.for_each(|(p, q)| p.iter().zip(&q).for_each(|(p, q)| steps.push(p, q, None)));
            trial.costs(*index, steps.finish().map_or(0.0, |found| found.kld.mean))?;
        }
        if at < head {
            streams = run.ops(at..at + 1, streams, None)?;
        }
    }
    Ok(())
}

/// A program over some texts, an op's weights in memory at a time.
struct Run<'r> {
    model: &'r dyn Model,
    program: &'r Steps,
    texts: &'r [&'r Text],
    device: &'r Device,
}

impl Run<'_> {
    /// The tensors of an op, with these values of one matrix.
    fn operands(&self, at: usize, instead: Option<(u32, &[f32])>) -> FloatResult<Vec<Tensor>> {
        let op = &self.program.ops()[at];
        let mut tensors = operands(self.model, self.program, op, self.device)?;
        for (to, index) in tensors.iter_mut().zip(tensor_args(op)) {
            if let Some((_, values)) = instead.filter(|(instead, _)| *instead == index)
                && let Some(weight) = self.program.tensors()[index as usize].weight()
            {
                *to = operand(op, weight, values.to_vec(), self.device)?;
            }
        }
        Ok(tensors)
    }

    /// Computes some ops.
    fn ops(
        &self,
        ops: Range<usize>,
        mut streams: Vec<Stream>,
        instead: Option<(u32, &[f32])>,
    ) -> FloatResult<Vec<Stream>> {
        let body = self.program.entry_ops(entry::BODY).next().map(|(at, _)| at);
        for at in ops {
            let tensors = self.operands(at, instead)?;
            if Some(at) == body {
                streams.iter_mut().zip(self.texts).for_each(|(s, text)| s.tokens.clone_from(&text.tokens));
            }
            let (c, program) = (self.model.config(), self.program);
            let one = |_, s: &mut Stream| step(c, program, &program.ops()[at], &tensors, s);
            side_by_side(&mut streams, at_once(self.device), one)?;
        }
        Ok(streams)
    }

    /// The logits of texts that have come to the head, a text after the other `[tokens, vocab]`.
    fn logits(&self, head: usize, tensors: &[Tensor], mut streams: Vec<Stream>) -> FloatResult<Vec<Vec<Vec<f32>>>> {
        let (c, program) = (self.model.config(), self.program);
        let one = |_, s: &mut Stream| {
            step(c, program, &program.ops()[head], tensors, s)?;
            Ok(s.value(program.logits_slot())?.to_vec2()?)
        };
        side_by_side(&mut streams, at_once(self.device), one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All ways to give four matrices a width each, beside what is found: no more bytes than there are, and hardly more cost than the
    /// best (bytes are counted in shares).
    #[test]
    fn bits_are_spent_where_they_are_worth_most() {
        let shapes = [[2048, 256], [256, 256], [128, 256], [256, 768]];
        let weights = shapes.map(|shape| Weight::new("w", &shape));
        let divergences = [0.0019, 0.0002, 0.0004, 0.0003];
        for bytes in [0, 5_000, 20_000, 66_000, 70_000, 150_000, 10_000_000] {
            let one = |(weight, divergence)| Candidate { index: 0, weight, divergence, width: 0 };
            let mut candidates: Vec<Candidate<'_>> = weights.iter().zip(divergences).map(one).collect();
            let of = |candidates: &[Candidate<'_>], widths: &[usize]| {
                let each = candidates.iter().zip(widths);
                each.fold((0.0, 0), |(cost, used), (m, w)| (cost + m.cost(*w), used + m.extra(*w)))
            };
            let ways = (0..256).map(|way| [way % 4, way / 4 % 4, way / 16 % 4, way / 64]);
            let all = ways.map(|widths| of(&candidates, &widths)).filter(|(_, used)| *used <= bytes);
            let best = all.map(|(cost, _)| cost).fold(f64::INFINITY, f64::min);
            spend(&mut candidates, bytes);
            let widths: Vec<usize> = candidates.iter().map(|m| m.width).collect();
            let (cost, used) = of(&candidates, &widths);
            assert!(used <= bytes && cost <= 1.001 * best, "{bytes}: {widths:?} costs {cost}, the best {best}");
        }
    }
}
