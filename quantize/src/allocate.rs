//! Bits by what they are worth: which matrices of a language model get 5 or 8 bits under a budget of bits a weight.
//!
//! What a matrix costs is measured: with it alone in 4 bits, how far does the model's output go from what it was, in KL divergence
//! on some of the calibration text? Such divergences add up (the sum of all is within a few per cent of the whole), and fall to a
//! quarter with each bit, so that a step from one width to the next has a worth and a price. The steps of most worth a bit are
//! taken for as long as the budget lasts. Mixed precision by measured sensitivity is HAWQ's idea (arXiv 1905.03696), which takes
//! curvature for it. What was measured is kept as coded matrices are: a run that is killed does not measure it again.

use crate::calibrate::{Coder, Met, Scope, Text, calibrate};
use crate::codes::{Coding, dtype};
use crate::float::metrics::LockStep;
use crate::float::{Result as FloatResult, Stream, operand, operands, step};
use crate::import::{LlmConfig, Model, Weight};
use crate::lower::{Source, Steps, parameters, tensor_args};
use crate::parts::Work;
use crate::quantize::{QuantizeError, Rounding, Settings, coded, kept_values, place};
use candle_core::Tensor;
use mote_runtime::image::TensorDesc;
use mote_runtime::image::program::entry;
use mote_runtime::ops;
use std::collections::HashMap;
use std::ops::Range;

/// The widths there are, and what is left at each of the divergence at the first.
const WIDTHS: [(Coding, f64); 3] = [(Coding::N4Learned, 1.0), (Coding::N5, 0.25), (Coding::N8, 0.004)];

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

    /// What the next width takes off the divergence for each byte, and its bytes.
    fn step(&self) -> Option<(f64, u64)> {
        let (_, left) = WIDTHS.get(self.width + 1)?;
        let bytes = self.bytes(self.width + 1) - self.bytes(self.width);
        Some((self.divergence * (WIDTHS[self.width].1 - left) / bytes.max(1) as f64, bytes))
    }
}

fn coded_bytes(coding: Coding, matrix: &Weight) -> u64 {
    let dims = [matrix.shape[0] as u32, matrix.shape[1] as u32, 1, 1];
    TensorDesc::data_bytes(dtype(coding.bits()), dims).unwrap_or(u64::MAX)
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
        let scope = Scope { ops, follow: false, spill: (settings.spill, &folder) };
        let mut trials = Trials { work, model, program, rounding: settings.rounding, progress };
        calibrate(model, program, &settings.calibration, &scope, &mut trials)?;
        measure(work, model, program, &settings.calibration, &candidates, progress)?;
    }
    for matrix in &mut candidates {
        (matrix.divergence, _) = work.get(&cost_name(matrix.index))?;
    }

    let mut left = budget - least;
    let fits = |m: &Candidate<'_>, left: u64| m.step().filter(|(_, bytes)| *bytes <= left);
    loop {
        let worth = |m: &Candidate<'_>| fits(m, left).map_or(f64::NEG_INFINITY, |(worth, _)| worth);
        let best = candidates.iter_mut().max_by(|a, b| worth(a).total_cmp(&worth(b)));
        let Some((best, (_, bytes))) = best.and_then(|m| fits(m, left).map(|step| (m, step))) else { break };
        best.width += 1;
        left -= bytes;
    }
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
    rounding: Rounding,
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
            let matrix = coded(self.model, weight, *log2, WIDTHS[0].0, self.rounding, met)?;
            let placed = place(weight.name.clone(), *log2, &matrix);
            self.work.put(&trial_name(index), &placed, &matrix.bytes)?;
        }
        Ok(())
    }

    fn values(&mut self, index: u32) -> Result<Vec<f32>, QuantizeError> {
        kept_values(self.work, &trial_name(index))
    }
}

/// Measures what each of `candidates` costs, and keeps it: from the first op that uses its matrix on, the program runs with the
/// matrix as coded, up to the head. In memory at a time: the weights of an op and of the head, and the activations of a few windows.
fn measure(
    work: &mut Work,
    model: &dyn Model,
    program: &Steps,
    texts: &[Text],
    candidates: &[Candidate<'_>],
    progress: &mut dyn FnMut(&str),
) -> Result<(), QuantizeError> {
    let texts: Vec<&Text> = texts.iter().step_by(texts.len().div_ceil(WINDOWS).max(1)).collect();
    let run = Run { model, program, texts: &texts };
    let Some(head) =
        program.ops().iter().position(|op| op.code == ops::matmul::OP.code && op.args[3] == program.logits_slot())
    else {
        return Ok(());
    };
    let begin = || -> Vec<Stream> { texts.iter().map(|text| Stream::new(&text.source)).collect() };
    let wanted = run.ops(0..head, begin(), None)?;
    let head_tensors = run.operands(head, None)?;
    let mut streams = begin();
    for at in 0..=head {
        let first =
            |m: &&Candidate<'_>| program.ops().iter().position(|op| tensor_args(op).contains(&m.index)) == Some(at);
        for matrix in candidates.iter().filter(first).filter(|m| !work.has(&cost_name(m.index))).collect::<Vec<_>>() {
            progress(&matrix.weight.name);
            let values = kept_values(work, &trial_name(matrix.index))?;
            let instead = Some((matrix.index, values.as_slice()));
            let found = run.ops(at..head, streams.clone(), instead)?;
            let tensors = if tensor_args(&program.ops()[head]).contains(&matrix.index) {
                run.operands(head, instead)?
            } else {
                head_tensors.clone()
            };
            let mut steps = LockStep::default();
            for (p, q) in wanted.iter().zip(found) {
                let (p, q) = (run.logits(head, &head_tensors, p.clone())?, run.logits(head, &tensors, q)?);
                p.iter().zip(&q).for_each(|(p, q)| steps.push(p, q, None));
            }
            let cost = steps.finish().map_or(0.0, |found| found.kld.mean);
            work.put(&cost_name(matrix.index), &cost, &[])?;
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
}

impl Run<'_> {
    /// The tensors of an op, with these values of one matrix.
    fn operands(&self, at: usize, instead: Option<(u32, &[f32])>) -> FloatResult<Vec<Tensor>> {
        let op = &self.program.ops()[at];
        let mut tensors = operands(self.model, self.program, op)?;
        for (to, index) in tensors.iter_mut().zip(tensor_args(op)) {
            if let Some((_, values)) = instead.filter(|(instead, _)| *instead == index)
                && let Some(weight) = self.program.tensors()[index as usize].weight()
            {
                *to = operand(op, weight, values.to_vec())?;
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
            for (s, text) in streams.iter_mut().zip(self.texts) {
                if Some(at) == body {
                    s.tokens.clone_from(&text.tokens);
                }
                step(self.model.config(), self.program, &self.program.ops()[at], &tensors, s)?;
            }
        }
        Ok(streams)
    }

    /// The logits of a text that has come to the head.
    fn logits(&self, head: usize, tensors: &[Tensor], mut stream: Stream) -> FloatResult<Vec<Vec<f32>>> {
        step(self.model.config(), self.program, &self.program.ops()[head], tensors, &mut stream)?;
        Ok(stream.value(self.program.logits_slot())?.to_vec2()?)
    }
}
