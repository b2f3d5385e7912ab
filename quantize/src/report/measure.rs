//! What a report of a language model, or of word vectors, says beyond the image itself: read off the finished image and its float
//! model, whatever wrote the one from the other.

use super::ReportError;
use super::continuations::{Continuation, continuations};
use crate::allocate::{Trial, measure};
use crate::balance::Balanced;
use crate::calibrate::{Coder, Met, Scope, Text, calibrate, is_matrix};
use crate::codes::{decode, hadamard_rows};
use crate::float::metrics::{Comparison, LockStep, integer_logits};
use crate::float::{Device, FloatError, FloatModel, Result as FloatResult};
use crate::import::{ImageModel, Model, Weight};
use crate::lower::{Ranges, Source, Steps, balances, language_model as lower};
use crate::quantize::{Settings, TensorReport};
use candle_core::Tensor;
use mote_host::{Arena, Threads};
use std::path::Path;

/// Bars of an error histogram.
pub const BINS: usize = 33;
/// What its ends stand for, in root mean squares of the errors; what lies further out is in the outermost bars.
pub const REACH: f64 = 4.0;
/// Positions that both models are compared at, at most.
const POSITIONS: usize = 1024;
/// Multiply-accumulates that measuring all matrices one by one may take, about: a minute or two.
const MOST_MACS: usize = 2_000_000_000_000;
/// Positions that each matrix is measured at, at least.
const LEAST: usize = 32;
/// Tokens of the prompt that are processed at a time.
const BATCH: u32 = 32;

/// Weights minus what their codes stand for.
#[derive(Clone, Debug, PartialEq)]
pub struct Errors {
    /// ||W - W'|| / ||W||.
    pub relative: f64,
    /// How many errors lie in each of the bars from -`REACH` to `REACH`.
    pub histogram: [u64; BINS],
}

impl Errors {
    /// Those of one tensor.
    #[must_use]
    pub fn between(weights: &[f32], decoded: &[f32]) -> Self {
        let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
        let errors = || weights.iter().zip(decoded).map(|(w, q)| f64::from(*w) - f64::from(*q));
        let (lost, total) = (squares(&mut errors()), squares(&mut weights.iter().map(|w| f64::from(*w))));
        let rms = (lost / weights.len().max(1) as f64).sqrt();
        let mut histogram = [0; BINS];
        for error in errors() {
            let place = if rms > 0.0 { (error / rms / REACH + 1.0) / 2.0 } else { 0.5 };
            histogram[((place * BINS as f64) as usize).min(BINS - 1)] += 1;
        }
        Self { relative: if total > 0.0 { (lost / total).sqrt() } else { 0.0 }, histogram }
    }
}

/// What was measured of one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Its errors.
    pub errors: Option<Errors>,
    /// Share that is lost of what its rows give on the calibration text: e^T H e / w^T H w, H the damped mean of x x^T.
    pub rows: Option<f64>,
    /// Mean KL divergence, in nats, of the model with this tensor as in the image and all others in floats.
    pub divergence: Option<f64>,
}

/// What was measured of a model.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// By tensor, in the order of the tensor table; empty if nothing was.
    pub tensors: Vec<Found>,
    /// Positions that each matrix's divergence was measured at.
    pub alone: usize,
    /// The whole image against the float model.
    pub whole: Option<Comparison>,
    /// Whether that was on text that calibration had not seen.
    pub held: bool,
    /// Texts of both.
    pub continuations: Vec<Continuation>,
}

/// What a language model is tried on.
#[derive(Clone, Debug)]
pub struct Tried {
    /// What both models read.
    pub texts: Vec<Text>,
    /// Whether calibration has not seen that.
    pub held: bool,
    /// What they continue; sources for a model with an encoder.
    pub prompts: Vec<Vec<u32>>,
}

/// Measures the image of a language model against the float model that it was made from, which is in memory meanwhile; `settings`
/// are those that it was made with. `progress` is told what is being measured.
///
/// # Errors
/// [`ReportError`].
pub fn language_model(
    model: &dyn Model,
    image: &Path,
    settings: &Settings,
    tried: &Tried,
    progress: &mut dyn FnMut(&str),
) -> Result<Findings, ReportError> {
    let balances = if settings.balance { balances(model.config()) } else { vec![] };
    let model: &dyn Model = &Balanced::new(model, &balances)?;
    let (coded, host) = (ImageModel::open(image)?, mote_host::Model::open(image)?);
    let program = lower(model.config(), &Ranges::default());
    let mut found = vec![Found::default(); program.tensors().len()];
    for (source, found) in program.tensors().iter().zip(&mut found) {
        if let Some(weight) = source.weight() {
            found.errors = Some(Errors::between(&model.tensor(weight)?, &coded.tensor(weight)?));
        }
    }
    let folder = crate::write::folder(image);
    let scope =
        Scope { ops: 0..program.ops().len(), follow: false, spill: (settings.spill, folder), device: &settings.device };
    let device = &settings.device;
    let mut tensors = Tensors { model, coded: &coded, program: &program, device, found: &mut found, progress };
    calibrate(model, &program, &settings.calibration, &scope, &mut tensors)?;

    let float = FloatModel::load_on(model, device)?;
    let longest = host.image().plan().max_context as usize;
    let texts = shortened(&tried.texts, POSITIONS, longest);
    let matrices = || program.tensors().iter().filter(|source| is_matrix(source));
    let weights: usize = matrices().filter_map(Source::weight).map(|w| w.shape.iter().product::<usize>()).sum();
    let most = (MOST_MACS / (matrices().count() * weights).max(1)).clamp(LEAST, POSITIONS);
    let few = shortened(&texts, most, longest);
    let indices = (0..).zip(program.tensors()).filter(|(_, source)| is_matrix(source)).map(|(index, _)| index);
    let indices: Vec<u32> = indices.collect();
    measure(model, &program, &few.iter().collect::<Vec<_>>(), &indices, device, &mut tensors)?;
    let alone = few.iter().map(|text| text.tokens.len()).sum();

    progress("the whole");
    let whole = compare(&float, &host, &texts)?;
    progress("continuations");
    let continuations = continuations(&float, &host, &tried.prompts)?;
    Ok(Findings { tensors: found, alone, whole, held: tried.held, continuations })
}

/// What the tensors of an image are, for what measures them one by one.
struct Tensors<'t, 'p> {
    model: &'t dyn Model,
    coded: &'t ImageModel,
    program: &'t Steps,
    device: &'t Device,
    found: &'t mut [Found],
    progress: &'t mut (dyn FnMut(&str) + 'p),
}

impl Coder<FloatError> for Tensors<'_, '_> {
    fn has(&self, index: u32) -> bool {
        !matches!(self.program.tensors()[index as usize], Source::Coded(..))
    }

    fn code(&mut self, index: u32, met: &Met) -> FloatResult<()> {
        if let Source::Coded(weight, log2) = &self.program.tensors()[index as usize] {
            (self.progress)(&weight.name);
            let (weights, decoded) = (self.model.tensor(weight)?, self.coded.tensor(weight)?);
            self.found[index as usize].rows =
                lost_of_rows(weight, *log2, weights, &decoded, &met.hessian, self.device)?;
        }
        Ok(())
    }

    fn values(&mut self, index: u32) -> FloatResult<Vec<f32>> {
        let weight = self.program.tensors()[index as usize].weight();
        weight.map_or(Ok(vec![]), |weight| Ok(self.coded.tensor(weight)?))
    }
}

impl Trial<FloatError> for Tensors<'_, '_> {
    fn values(&mut self, index: u32) -> FloatResult<Vec<f32>> {
        Coder::values(self, index)
    }

    fn costs(&mut self, index: u32, divergence: f64) -> FloatResult<()> {
        self.found[index as usize].divergence = Some(divergence);
        Ok(())
    }
}

/// The first of `texts`, each cut to `longest`, with `most` tokens in all.
fn shortened(texts: &[Text], most: usize, longest: usize) -> Vec<Text> {
    let mut left = most;
    let cut = texts.iter().map(|text| {
        let tokens = &text.tokens[..text.tokens.len().min(longest).min(left)];
        left -= tokens.len();
        Text { source: text.source[..text.source.len().min(longest)].to_vec(), tokens: tokens.to_vec() }
    });
    cut.filter(|text| !text.tokens.is_empty()).collect()
}

/// sum of e^T H e over that of w^T H w, of a matrix's rows w and what is lost of them e, all transformed as H is.
fn lost_of_rows(
    weight: &Weight,
    log2: u32,
    weights: Vec<f32>,
    decoded: &[f32],
    hessian: &[f32],
    device: &Device,
) -> FloatResult<Option<f64>> {
    let (rows, cols) = (weight.shape[0], weight.shape[1]);
    if hessian.is_empty() {
        return Ok(None);
    }
    let hessian = Tensor::from_slice(hessian, (cols, cols), device)?;
    let form = |mut values: Vec<f32>| -> FloatResult<f64> {
        hadamard_rows(&mut values, cols, log2);
        let x = Tensor::from_vec(values, (rows, cols), device)?;
        let by_row: Vec<f32> = (x.matmul(&hessian)? * &x)?.sum(1)?.to_vec1()?;
        Ok(by_row.into_iter().map(f64::from).sum())
    };
    let lost = form(weights.iter().zip(decoded).map(|(w, q)| w - q).collect())?;
    let total = form(weights)?;
    Ok((total > 0.0).then(|| lost / total))
}

/// The image, in integers, against the float model, in lock step.
fn compare(float: &FloatModel, image: &mote_host::Model, texts: &[Text]) -> Result<Option<Comparison>, ReportError> {
    let longest = texts.iter().map(|text| text.tokens.len().max(text.source.len())).max().unwrap_or(0) as u32;
    let threads = threads();
    let mut arena = Arena::for_limits(image, image.limits(BATCH, longest.max(1), threads))?;
    let pool = Threads::new(threads as usize);
    let mut session = image.session(&mut arena, &pool)?;
    let mut steps = LockStep::default();
    for text in texts {
        let (expected, got) = (logits(float, text)?, integer_logits(&mut session, text, BATCH)?);
        for (at, (expected, got)) in expected.iter().zip(&got).enumerate() {
            steps.push(expected, got, text.tokens.get(at + 1).copied());
        }
    }
    Ok(steps.finish())
}

/// What the model gives at each position of a text.
fn logits(model: &FloatModel, text: &Text) -> FloatResult<Vec<Vec<f32>>> {
    let mut session = model.session();
    if !text.source.is_empty() {
        session.encode(&text.source)?;
    }
    session.forward(&text.tokens)
}

pub(super) fn threads() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(64) as u32)
}

/// Measures the image of word vectors against its floats, as unit vectors.
///
/// # Errors
/// [`ReportError`].
pub fn vectors(path: &Path, image: &Path, tensors: &[TensorReport]) -> Result<Findings, ReportError> {
    let (vectors, _) = crate::import::vectors::read(path)?;
    let image = mote_host::Model::open(image)?;
    let units = crate::vectors::units(vectors);
    let found = (0..).zip(tensors).map(|(index, _)| {
        let coded = image.image().coded(index);
        let errors = coded.filter(|c| c.rows * c.cols == units.len()).map(|c| Errors::between(&units, &decode(&c, 0)));
        Found { errors, ..Found::default() }
    });
    Ok(Findings { tensors: found.collect(), ..Findings::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_by_hand() {
        // Errors of 1, -1, 0 and 0: a root mean square of 0.7, so that they lie 1.4 of them out.
        let errors = Errors::between(&[3.0, 3.0, 3.0, 3.0], &[2.0, 4.0, 3.0, 3.0]);
        assert!((errors.relative - (2f64 / 36.0).sqrt()).abs() < 1e-12);
        let bars: Vec<usize> = (0..BINS).filter(|bar| errors.histogram[*bar] > 0).collect();
        let at = |rms: f64| ((rms / REACH + 1.0) / 2.0 * BINS as f64) as usize;
        assert_eq!(bars, [at(-2f64.sqrt()), BINS / 2, at(2f64.sqrt())]);
        assert_eq!(errors.histogram.iter().sum::<u64>(), 4);
        let none = Errors::between(&[1.0, 0.0], &[1.0, 0.0]);
        assert_eq!((none.relative, none.histogram[BINS / 2]), (0.0, 2));
    }

    #[test]
    fn what_rows_lose_by_hand() {
        let weight = Weight::new("w", &[1, 2]);
        // w = (2, 1), e = (0, 1), H = diag(1, 9): 9 of 4 + 9.
        let lost = |log2| lost_of_rows(&weight, log2, vec![2.0, 1.0], &[2.0, 0.0], &[1.0, 0.0, 0.0, 9.0], &Device::Cpu);
        assert!((lost(0).unwrap().unwrap() - 9.0 / 13.0).abs() < 1e-6);
        // Transformed: w = (3, 1), e = (1, -1): 10 of 18.
        assert!((lost(1).unwrap().unwrap() - 10.0 / 18.0).abs() < 1e-6);
        assert_eq!(lost_of_rows(&weight, 0, vec![2.0, 1.0], &[2.0, 0.0], &[], &Device::Cpu).unwrap(), None);
    }

    #[test]
    fn texts_are_shortened() {
        let text = |n: u32| Text { source: (0..3).collect(), tokens: (0..n).collect() };
        let cut = shortened(&[text(5), text(1), text(9)], 8, 4);
        assert_eq!(cut.iter().map(|t| t.tokens.len()).collect::<Vec<_>>(), [4, 1, 3]);
        assert_eq!(cut[0].source.len(), 3);
    }
}
