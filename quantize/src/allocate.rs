//! Bits by what they are worth: which matrices of a language model get 5 or 8 bits under a budget of bits a weight.
//!
//! What a matrix costs is measured: with it alone in 4 bits, how far does the model's output go from what it was, in KL divergence
//! on some of the calibration text? Such divergences add up (the sum of all is within a few per cent of the whole), and fall to a
//! quarter with each bit, so that a step from one width to the next has a worth and a price. The steps of most worth a bit are
//! taken for as long as the budget lasts. Mixed precision by measured sensitivity is HAWQ's idea (arXiv 1905.03696), which takes
//! curvature for it. The whole model is in memory meanwhile, in floats.

use crate::calibrate::{Text, calibrate};
use crate::codes::Coding;
use crate::float::metrics::LockStep;
use crate::float::{FloatModel, Result as FloatResult};
use crate::import::{LlmConfig, Model, Weight};
use crate::lower::{Source, Steps, parameters};
use crate::quantize::{QuantizeError, Rounding, coded};
use mote_runtime::image::TensorDesc;
use std::collections::HashMap;

/// The widths there are, and what is left at each of the divergence at the first.
const WIDTHS: [(Coding, f64); 3] = [(Coding::T4, 1.0), (Coding::N5, 0.32), (Coding::N8, 0.005)];

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
    model: &dyn Model,
    program: &Steps,
    texts: &[Text],
    rounding: Rounding,
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

    let mut decoded: HashMap<u32, Vec<f32>> = HashMap::new();
    calibrate(model, program, texts, &mut |index, met| {
        if let Source::Coded(weight, log2) = &program.tensors()[index as usize] {
            progress(&weight.name);
            let matrix = coded(model, weight, *log2, WIDTHS[0].0, rounding, met)?;
            decoded.insert(index, matrix.decode_untransformed(*log2));
        }
        Ok::<_, QuantizeError>(None)
    })?;
    let mut float = FloatModel::load(model)?;
    let step = texts.len().div_ceil(WINDOWS).max(1);
    let sample: Vec<&Text> = texts.iter().step_by(step).collect();
    let wanted = sample.iter().map(|text| logits(&float, text)).collect::<FloatResult<Vec<_>>>()?;
    for matrix in &mut candidates {
        let Some(values) = decoded.get(&matrix.index) else { continue };
        progress(&matrix.weight.name);
        matrix.divergence = alone(&mut float, matrix.index, matrix.weight, values, &sample, &wanted)?;
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

/// What one matrix costs: the mean KL divergence from `wanted`, what the model gives on `texts`, of what it gives with these values
/// of the tensor `index`.
pub(crate) fn alone(
    float: &mut FloatModel,
    index: u32,
    weight: &Weight,
    values: &[f32],
    texts: &[&Text],
    wanted: &[Vec<Vec<f32>>],
) -> FloatResult<f64> {
    let before = float.replace(index, weight, values)?;
    let mut steps = LockStep::default();
    for (text, wanted) in texts.iter().zip(wanted) {
        let found = logits(float, text)?;
        wanted.iter().zip(&found).for_each(|(p, q)| steps.push(p, q, None));
    }
    float.restore(before);
    Ok(steps.finish().map_or(0.0, |found| found.kld.mean))
}

/// What the model gives at each position of a text.
pub(crate) fn logits(model: &FloatModel, text: &Text) -> FloatResult<Vec<Vec<f32>>> {
    let mut session = model.session();
    if !text.source.is_empty() {
        session.encode(&text.source)?;
    }
    session.forward(&text.tokens)
}
