//! From a float model to an image, an op at a time.
//!
//! ```text
//! lower                                        -> program
//! for each layer:  gradients of the loss       -> what errors count, a file of each matrix
//! for each op:     run it in floats            -> ranges, importances
//!                  code its matrix             -> a file of its own (`parts.rs`), dropped
//! lower with the ranges                        -> the same program, its fraction bits, its memory
//! matrices, gains, biases, rotary steps        -> the weights (`merge.rs`)
//! write
//! ```
//!
//! The largest things in memory are one layer's matrices in floats, one matrix being coded, and what a layer makes of the text, up to a limit.

use crate::allocate::allocate;
use crate::balance::Balanced;
use crate::calibrate::{Coder, Met, Scope, Text, calibrate, is_matrix, met_as_embedding};
use crate::codes::{
    CodedMatrix, Coding, Stats, code_matrix, code_matrix_for, damp, decode, factor, hadamard_rows, times_inverse_of,
};
use crate::curvature::{Found as Curvature, curvature, has_curvature};
use crate::float::{Device, FloatError};
use crate::graph::eval::EvalError;
use crate::import::{ImportError, LlmConfig, Model, Weight};
use crate::lower::{Lowered, ROPE_STEPS, Ranges, SINUSOID_STEPS, Source, Steps, balances, language_model};
use crate::merge::{Label, Piece, Pieces, assemble, write_layers};
use crate::parts::{Key, PartsError, Work, matrix_name};
use crate::samples::SampleError;
use crate::write::{Weights, WriteError};
use candle_core::Tensor;
use mote_runtime::image::program::HEAD_BYTES as PROGRAM_HEAD;
use mote_runtime::image::{Dtype, Limits, TensorDesc, section};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// The model could not be read.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The float evaluator.
    #[error(transparent)]
    Float(#[from] FloatError),
    /// The model needs what Mote lacks.
    #[error("{path}: {} not supported: {}", count(missing.len()), missing.join("; "))]
    Unsupported {
        /// The model.
        path: PathBuf,
        /// Everything in it that is not.
        missing: Vec<String>,
    },
    /// Two codes of 4 bits share a byte.
    #[error("heads have {head_dim} elements: a cache in 4 bits needs an even number (--kv-bits 8)")]
    OddHeads {
        /// Width of a head.
        head_dim: usize,
    },
    /// The image could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A weight is not a number.
    #[error("tensor {name} holds values that are not finite: the model is damaged")]
    NotFinite {
        /// The tensor.
        name: String,
    },
    /// The samples that a net of floats is calibrated with.
    #[error(transparent)]
    Samples(#[from] SampleError),
    /// A net that cannot be evaluated on its samples.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A net of floats, and nothing to calibrate it with.
    #[error(
        "{path} computes in floats: give samples of its inputs ({}) with --calibrate DIR (.npy, .png, .jpg, .bmp, .wav)",
        shapes.join(", ")
    )]
    NoSamples {
        /// The model.
        path: PathBuf,
        /// Name and shape of each input.
        shapes: Vec<String>,
    },
    /// No plan of a net is as small as was asked for.
    #[error(
        "{path}: an arena of {asked} bytes was asked for; the smallest found takes {arena} ({more:.1} % more \
         multiply-accumulates than the {plain} bytes without patches)"
    )]
    Ram {
        /// The model.
        path: PathBuf,
        /// Bytes asked for.
        asked: u64,
        /// Bytes of the smallest plan.
        arena: u64,
        /// Per cent by which that multiplies more.
        more: f64,
        /// Bytes without patches.
        plain: u64,
    },
    /// What is finished could not be kept, or not be put together.
    #[error(transparent)]
    Parts(#[from] PartsError),
    /// Fewer bits a weight than the narrowest codes take.
    #[error("{asked} bits a weight were asked for; with every matrix in 3-bit codes the model takes {least:.3}")]
    Budget {
        /// Asked for.
        asked: f64,
        /// The fewest.
        least: f64,
    },
    /// The context asked for is impossible.
    #[error("a context of {asked} was asked for; the model was made for 1 to {longest}")]
    Context {
        /// Asked for.
        asked: usize,
        /// The model's.
        longest: usize,
    },
}

fn count(missing: usize) -> String {
    if missing == 1 { "1 thing is".into() } else { format!("{missing} things are") }
}

/// How codes are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// The nearest.
    Nearest,
    /// The nearest, with scales and levels for the columns that matter.
    Weighted,
    /// For what the rows give, each code after what the ones before have lost.
    #[default]
    Feedback,
}

/// How to quantize.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How codes are chosen.
    pub rounding: Rounding,
    /// Whether channels are rescaled first.
    pub balance: bool,
    /// How matrices are coded.
    pub coding: Coding,
    /// How the output matrix is coded, and with it the embedding if they are one.
    pub head: Coding,
    /// Bits a weight, all tensors counted: if given, each matrix gets the coding that is worth most under it.
    pub budget: Option<f64>,
    /// Longest context; the model's if none is given.
    pub context: Option<usize>,
    /// Bits of the keys and values in the cache: 8 or 4.
    pub kv_bits: u8,
    /// The model's name.
    pub name: String,
    /// Its licence, if known.
    pub license: Option<String>,
    /// Texts to calibrate with.
    pub calibration: Vec<Text>,
    /// The layers that are coded, an encoder's before the decoder's; all, if none are given.
    pub layers: Option<Range<usize>>,
    /// Bytes of activations that calibration holds in memory; what is more goes to a file.
    pub spill: u64,
    /// Where calibration computes.
    pub device: Device,
}

/// [`Settings::spill`] where nothing is said.
pub const SPILL: u64 = 1 << 30;

impl Settings {
    /// Everything in one coding, by the best method.
    #[must_use]
    pub fn new(name: impl Into<String>, coding: Coding, calibration: Vec<Text>) -> Self {
        Self {
            rounding: Rounding::default(),
            balance: true,
            coding,
            head: coding,
            budget: None,
            context: None,
            kv_bits: 8,
            name: name.into(),
            license: None,
            calibration,
            layers: None,
            spill: SPILL,
            device: Device::Cpu,
        }
    }
}

/// The longest context, of at most `most` positions, with which a language model's arena has no more than `ram` bytes, for one
/// token at a time and one thread; `kv_bits` as in [`Settings`].
///
/// # Errors
/// The bytes that a context of one position takes.
pub fn longest_context(c: &LlmConfig, kv_bits: u8, most: usize, ram: u64) -> Result<usize, u64> {
    let arena = |context: usize| {
        let mut program = language_model(c, &Ranges::default());
        program.set_kv_bits(kv_bits);
        program.finish(context).arena(Limits { batch: 1, context: context as u32, threads: 1 })
    };
    let least = arena(1);
    if least > ram {
        return Err(least);
    }
    let (mut low, mut high) = (1, most.max(1));
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if arena(middle) <= ram { low = middle } else { high = middle - 1 }
    }
    Ok(low)
}

/// What became of one tensor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TensorReport {
    /// Hugging Face's name.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Bits of a code, or of an integer.
    pub bits: u8,
    /// log2 of the Walsh-Hadamard block its columns were transformed by.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hadamard: u32,
    /// ||W - W'|| / ||W||.
    pub relative_error: f64,
    /// Whether every row's sum provably fits int32, whatever the activations.
    pub fits_i32: bool,
    /// Largest bound of a row's sum.
    pub row_bound: u64,
    /// Bytes in the image.
    pub bytes: u64,
}

/// A stretch of a net that is computed in patches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatchReport {
    /// The image that they are cut from; without it the first.
    pub from: Option<String>,
    /// The image that they make.
    pub to: String,
    /// How many, down and across.
    pub count: [usize; 2],
}

impl fmt::Display for PatchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [down, across] = self.count;
        write!(f, "{down} x {across} patches from ")?;
        match &self.from {
            Some(from) => write!(f, "\"{from}\"")?,
            None => write!(f, "the input")?,
        }
        write!(f, " to \"{}\"", self.to)
    }
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

fn is_none(samples: &usize) -> bool {
    *samples == 0
}

/// What an image says of itself: its META section.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Meta {
    /// Name of the model.
    pub name: String,
    /// Licence, if known.
    pub license: Option<String>,
    /// SHA-256 of the files that held the weights.
    pub source_sha256: String,
    /// Version of the quantizer.
    pub quantizer: String,
    /// Architecture and sizes of a language model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<LlmConfig>,
    /// Bits of the matrices' codes.
    pub bits: u8,
    /// Tokens of calibration text.
    pub calibration_tokens: usize,
    /// Runs on calibration samples, of a net.
    #[serde(default, skip_serializing_if = "is_none")]
    pub calibration_samples: usize,
    /// What of a net is computed in patches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patches: Vec<PatchReport>,
    /// All tensors, in the order of the tensor table.
    pub tensors: Vec<TensorReport>,
    /// Weights in matrices, gains and biases.
    pub parameters: u64,
    /// Bits of all tensors over their number of weights.
    pub bits_per_weight: f64,
}

/// A tensor in the image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Placed {
    #[serde(serialize_with = "desc_bytes", deserialize_with = "desc_of_bytes")]
    pub desc: TensorDesc,
    pub report: TensorReport,
}

fn desc_bytes<S: serde::Serializer>(desc: &TensorDesc, to: S) -> Result<S::Ok, S::Error> {
    desc.to_bytes().to_vec().serialize(to)
}

fn desc_of_bytes<'d, D: serde::Deserializer<'d>>(from: D) -> Result<TensorDesc, D::Error> {
    let bytes = Vec::<u8>::deserialize(from)?;
    TensorDesc::read(&bytes, 0).ok_or_else(|| serde::de::Error::custom("no tensor's record"))
}

/// Quantizes `model` to an image at `out`; `texts` are its TEXT sections, by their kinds. `progress` is told each tensor's name and the
/// number of bytes that its weights had as f32. Returns what the image says of itself and its bytes.
///
/// # Errors
/// [`QuantizeError`]; `out` is then as it was before.
pub fn quantize(
    model: &dyn Model,
    texts: &[(u32, &[u8])],
    settings: &Settings,
    out: &Path,
    progress: &mut dyn FnMut(&str, u64),
) -> Result<(Meta, u64), QuantizeError> {
    let key = Key::new(model, settings)?;
    let work = Work::open(&Work::beside(out), &key)?;
    quantize_in(work, &key, model, texts, settings, out, progress)
}

/// As [`quantize`], keeping what is finished in `work`, which was opened with the run's `key`, and taking from there what is finished
/// already. The image is the same either way. Once it is in place `work` is removed; if it does not come to that, `work` stays.
///
/// # Errors
/// As [`quantize`].
pub fn quantize_in(
    work: Work,
    key: &Key,
    model: &dyn Model,
    texts: &[(u32, &[u8])],
    settings: &Settings,
    out: &Path,
    progress: &mut dyn FnMut(&str, u64),
) -> Result<(Meta, u64), QuantizeError> {
    finish(work, key, model, settings, progress, &mut |label, ranges, pieces| {
        assemble(key, label, ranges, pieces, texts, out)
    })
}

/// The same for `settings.layers` alone: writes a file for [`merge`](crate::merge::merge). What stands before the first layer is the
/// first's, what comes after the last the last's. The layers before are in floats. Returns the file's bytes.
///
/// # Errors
/// As [`quantize`].
pub fn quantize_layers(
    work: Work,
    key: &Key,
    model: &dyn Model,
    texts: &[(u32, &[u8])],
    settings: &Settings,
    out: &Path,
    progress: &mut dyn FnMut(&str, u64),
) -> Result<u64, QuantizeError> {
    finish(work, key, model, settings, progress, &mut |label, ranges, pieces| {
        write_layers(key, label, ranges, pieces, texts, out)
    })
}

/// Codes what `work` lacks and hands all to `put_together`.
fn finish<T>(
    mut work: Work,
    key: &Key,
    model: &dyn Model,
    settings: &Settings,
    progress: &mut dyn FnMut(&str, u64),
    put_together: &mut dyn FnMut(&Label, &Ranges, &mut Pieces<'_>) -> Result<T, QuantizeError>,
) -> Result<T, QuantizeError> {
    let mut done = || {
        let c = model.config();
        let context = settings.context.unwrap_or(c.max_context);
        if !(1..=c.max_context).contains(&context) {
            return Err(QuantizeError::Context { asked: context, longest: c.max_context });
        }
        if settings.kv_bits == 4 && !c.head_dim.is_multiple_of(2) {
            return Err(QuantizeError::OddHeads { head_dim: c.head_dim });
        }
        let balances = if settings.balance { balances(c) } else { vec![] };
        let model: &dyn Model = &Balanced::new(model, &balances)?;
        let ranges = code(&mut work, key, model, settings, progress)?;
        put_together(&Label::new(c, settings), &ranges, &mut |index, source| match source.weight() {
            Some(weight) if !is_matrix(source) => Ok(Piece::Floats(finite(model, weight)?)),
            _ => {
                let (placed, bytes) = work.get(&matrix_name(index))?;
                Ok(Piece::Matrix(placed, bytes))
            }
        })
    };
    let done = done();
    if done.is_ok() || work.matrices() == 0 {
        work.remove()?;
    }
    done
}

/// Codes the matrices of `key.range` that `work` lacks, and returns the ranges of the places that the program has seen.
fn code(
    work: &mut Work,
    key: &Key,
    model: &dyn Model,
    settings: &Settings,
    progress: &mut dyn FnMut(&str, u64),
) -> Result<Ranges, QuantizeError> {
    let program = &language_model(&key.config, &Ranges::default());
    let head = program.head().map(|at| program.ops()[at].args[1]);
    let follow = settings.rounding == Rounding::Feedback;
    if follow && has_curvature(model, program) {
        find_curvature(work, key, model, program, settings)?;
    }
    let allocated = match settings.budget {
        None => HashMap::new(),
        Some(bits) => allocate(work, model, program, settings, bits, &mut |name| progress(name, 0))?,
    };
    for (index, weight) in (0..).zip(program.tensors()).filter_map(|(index, source)| Some((index, source.weight()?))) {
        if work.has(&matrix_name(index)) {
            progress(&weight.name, bytes_of(weight));
        }
    }
    let ops = program.layer_ops(&key.range);
    let folder = work.folder().to_owned();
    let scope = Scope { ops, follow, spill: (settings.spill, &folder), device: &settings.device };
    let mut pieces = Coded { work, model, program, settings, head, allocated, progress };
    calibrate(model, program, &settings.calibration, &scope, &mut pieces)
}

/// Keeps the curvature of what is to be coded and has none yet: of the layers' matrices, with a budget of all layers'.
fn find_curvature(
    work: &mut Work,
    key: &Key,
    model: &dyn Model,
    program: &Steps,
    settings: &Settings,
) -> Result<(), QuantizeError> {
    let ops = program.layer_ops(&key.range);
    let left = |(at, index): &(usize, u32)| {
        let coded = matches!(program.tensors()[*index as usize], Source::Coded(..));
        let found = [matrix_name(*index), rows_name(*index), table_name(*index)].iter().any(|name| work.has(name));
        coded && !found && (settings.budget.is_some() || ops.contains(at))
    };
    let wanted: BTreeSet<u32> = program.last_uses().into_iter().filter(left).map(|(_, index)| index).collect();
    let folder = work.folder().to_owned();
    let room = (settings.spill, folder.as_path());
    curvature(model, program, &settings.calibration, &wanted, room, &settings.device, &mut |found| {
        let (name, values) = match &found {
            Curvature::Rows(index, values) => (rows_name(*index), values),
            Curvature::Table(index, values) => (table_name(*index), values),
        };
        if !values.iter().all(|v| v.is_finite()) {
            // A damaged weight is named. What overflows without one is coded as if nothing were known.
            return program.tensors().iter().filter_map(Source::weight).try_for_each(|w| finite(model, w).map(|_| ()));
        }
        Ok(work.put(&name, &(), bytemuck::cast_slice(values))?)
    })
}

/// The names of a matrix's curvature by rows, and of an embedding's.
fn rows_name(index: u32) -> String {
    format!("rows-{index:05}")
}

fn table_name(index: u32) -> String {
    format!("table-{index:05}")
}

/// Bytes of a weight as f32.
fn bytes_of(weight: &Weight) -> u64 {
    4 * weight.shape.iter().product::<usize>() as u64
}

/// Codes matrices to `work`.
struct Coded<'r> {
    work: &'r mut Work,
    model: &'r dyn Model,
    program: &'r Steps,
    settings: &'r Settings,
    head: Option<u32>,
    /// The codings of a budget.
    allocated: HashMap<u32, Coding>,
    progress: &'r mut dyn FnMut(&str, u64),
}

impl Coder<QuantizeError> for Coded<'_> {
    fn has(&self, index: u32) -> bool {
        self.work.has(&matrix_name(index))
    }

    fn code(&mut self, index: u32, met: &Met) -> Result<(), QuantizeError> {
        let Settings { coding, head, .. } = *self.settings;
        let (weight, log2, coding) = match &self.program.tensors()[index as usize] {
            Source::Coded(weight, log2) if Some(index) == self.head => (weight, *log2, head),
            Source::Coded(weight, log2) => (weight, *log2, coding),
            Source::Positions(weight) => (weight, 0, Coding::N8),
            source => unreachable!("{source:?} is no matrix"),
        };
        let coding = self.allocated.get(&index).copied().unwrap_or(coding);
        let curved = Curved::of(self.work, index)?;
        let matrix = coded(self.model, weight, log2, coding, self.settings, met, &curved)?;
        let placed = place(weight.name.clone(), log2, &matrix);
        self.work.put(&matrix_name(index), &placed, &matrix.bytes)?;
        (self.progress)(&weight.name, bytes_of(weight));
        Ok(())
    }

    fn values(&mut self, index: u32) -> Result<Vec<f32>, QuantizeError> {
        kept_values(self.work, &matrix_name(index))
    }
}

/// The values of a matrix that was kept, `[rows, cols]`, not transformed.
pub(crate) fn kept_values(work: &Work, name: &str) -> Result<Vec<f32>, QuantizeError> {
    let (Placed { desc, report }, bytes) = work.get(name)?;
    Ok(mote_runtime::image::Coded::new(&desc, &bytes).map_or_else(Vec::new, |view| decode(&view, report.hadamard)))
}

/// The quantizer and its version, for META.
pub(crate) const QUANTIZER: &str = concat!("mote ", env!("CARGO_PKG_VERSION"));

/// Writes the image of a lowered program whose tensors are in `weights`; `more` are the sections that not every image has.
/// Returns its bytes.
pub(crate) fn write<S>(
    weights: Weights,
    lowered: &Lowered<S>,
    tensors: &[TensorDesc],
    meta: &Meta,
    more: &[(u32, &[u8])],
) -> Result<u64, WriteError> {
    let json = serde_json::to_vec(meta).unwrap_or_default();
    let (program, plan) = (program_bytes(lowered), plan_bytes(lowered));
    let table: Vec<u8> = tensors.iter().flat_map(TensorDesc::to_bytes).collect();
    let mut sections: Vec<(u32, &[u8])> =
        vec![(section::PROGRAM, &program), (section::PLAN, &plan), (section::TENSORS, &table), (section::META, &json)];
    sections.extend_from_slice(more);
    weights.finish(&sections)
}

fn finite(model: &dyn Model, weight: &Weight) -> Result<Vec<f32>, QuantizeError> {
    let values = model.tensor(weight)?;
    let whole = values.iter().all(|v| v.is_finite());
    if whole { Ok(values) } else { Err(QuantizeError::NotFinite { name: weight.name.clone() }) }
}

/// What was found of a matrix's curvature; nothing where there is none.
pub(crate) struct Curved {
    rows: Vec<f32>,
    table: Vec<f32>,
}

impl Curved {
    /// Reads what was kept.
    pub(crate) fn of(work: &Work, index: u32) -> Result<Self, PartsError> {
        let values = |name: String| -> Result<Vec<f32>, PartsError> {
            if !work.has(&name) {
                return Ok(Vec::new());
            }
            let ((), bytes) = work.get(&name)?;
            Ok(bytemuck::pod_collect_to_vec(&bytes))
        };
        Ok(Self { rows: values(rows_name(index))?, table: values(table_name(index))? })
    }
}

pub(crate) fn coded(
    model: &dyn Model,
    weight: &Weight,
    log2: u32,
    coding: Coding,
    settings: &Settings,
    met: &Met,
    curved: &Curved,
) -> Result<CodedMatrix, QuantizeError> {
    let (rows, cols) = (weight.shape[0], weight.shape[1]);
    let mut values = finite(model, weight)?;
    // (W H / n)(H x) = W x, since H H = n.
    hadamard_rows(&mut values, cols, log2);
    let scale = 2f32.powi(-(log2 as i32));
    values.iter_mut().for_each(|v| *v *= scale);
    if met.hessian.is_empty() {
        return Ok(code_matrix(&values, rows, cols, coding, None));
    }
    Ok(match settings.rounding {
        Rounding::Nearest => code_matrix(&values, rows, cols, coding, None),
        Rounding::Weighted => {
            let importance: Vec<f32> = (0..cols).map(|c| met.hessian[c * cols + c]).collect();
            code_matrix(&values, rows, cols, coding, Some(&importance))
        }
        Rounding::Feedback => {
            let both = (!curved.table.is_empty()).then(|| met_as_embedding(met, &curved.table, log2));
            let met = both.as_ref().unwrap_or(met);
            correct(&mut values, met, cols, &settings.device)?;
            code_matrix_for(&values, rows, cols, coding, &met.hessian, &met.matters, &curved.rows)
        }
    })
}

/// Share of the mean of a Hessian's diagonal that is added to it for corrections: most of what is lost is noise of this text.
/// Of `llm`'s divergence 0.01 takes nothing off, 0.2 six per cent, 0.5 five.
const CORRECTION_DAMPING: f64 = 0.2;

/// Rows that are corrected at a time: a head has so many that what they take matters.
const CORRECTED_ROWS: usize = 2048;

/// Weights that make up for what matrices before have lost: least squares for what the matrix should give of what it meets, and for
/// what the residual lacks, `W + (W drift + owed) H^-1` (the asymmetric calibration of GPTAQ, arXiv 2504.02692, section 3; the
/// residual's share is ours).
fn correct(values: &mut [f32], met: &Met, cols: usize, device: &Device) -> Result<(), FloatError> {
    if met.drift.is_empty() {
        return Ok(());
    }
    let mut hessian: Vec<f64> = met.hessian.iter().map(|h| f64::from(*h)).collect();
    damp(&mut hessian, cols, CORRECTION_DAMPING);
    let lower = factor(hessian, cols);
    let tensor = |values: &[f32]| Tensor::from_slice(values, (values.len() / cols, cols), device);
    let drift = tensor(&met.drift)?;
    let mut owed = met.owed.chunks(CORRECTED_ROWS * cols);
    for values in values.chunks_mut(CORRECTED_ROWS * cols) {
        let lost: Vec<f32> = tensor(values)?.matmul(&drift)?.flatten_all()?.to_vec1()?;
        let mut change: Vec<f64> = lost.iter().map(|v| f64::from(*v)).collect();
        change.iter_mut().zip(owed.next().unwrap_or(&[])).for_each(|(change, owed)| *change += f64::from(*owed));
        times_inverse_of(&mut change, &lower, cols);
        values.iter_mut().zip(&change).for_each(|(v, change)| *v += *change as f32);
    }
    Ok(())
}

pub(crate) fn place(name: String, hadamard: u32, matrix: &CodedMatrix) -> Placed {
    let Stats { relative_error, row_bound, .. } = matrix.stats;
    let report = TensorReport {
        name,
        shape: vec![matrix.rows, matrix.cols],
        bits: matrix.dtype.code_bits().unwrap_or(8),
        hadamard,
        relative_error,
        fits_i32: matrix.stats.fits_i32(),
        row_bound,
        bytes: matrix.bytes.len() as u64,
    };
    Placed { desc: matrix.desc(), report }
}

/// Gains and biases, of these values, and rotary steps.
pub(crate) fn small(
    c: &LlmConfig,
    source: &Source,
    values: &[f32],
    weights: &mut Weights,
) -> Result<Placed, QuantizeError> {
    let (name, dtype, exponent, bytes, error) = match source {
        Source::Coded(weight, _) | Source::Positions(weight) => unreachable!("{} was not coded", weight.name),
        Source::Gain(weight) => {
            let top = values.iter().fold(1e-9f64, |m, v| m.max(f64::from(v.abs())));
            let exponent = (32767.0 / top).log2().floor() as i32;
            let (bytes, error) = integers(values, exponent, |v| (v as i16).to_le_bytes());
            (weight.name.clone(), Dtype::I16, exponent, bytes, error)
        }
        Source::Bias(weight, frac) => {
            let frac = i32::from(*frac);
            let (bytes, error) = integers(values, frac, |v| (v as i32).to_le_bytes());
            (weight.name.clone(), Dtype::I32, frac, bytes, error)
        }
        Source::RopeSteps => (ROPE_STEPS.into(), Dtype::U64, 64, turns(c.rope_frequencies()), 0.0),
        Source::SinusoidSteps => (SINUSOID_STEPS.into(), Dtype::U64, 64, turns(c.sinusoid_frequencies()), 0.0),
    };
    let width = match dtype {
        Dtype::I16 => 2,
        Dtype::I32 => 4,
        _ => 8,
    };
    let count = bytes.len() / width;
    let span = weights.append(&bytes)?;
    let desc = TensorDesc { dtype, rank: 1, exponent, dims: [count as u32, 1, 1, 1], span, codebook: [0; 16] };
    let report = TensorReport {
        name,
        shape: vec![count],
        bits: 8 * width as u8,
        hadamard: 0,
        relative_error: error,
        fits_i32: true,
        row_bound: 0,
        bytes: span.bytes,
    };
    Ok(Placed { desc, report })
}

/// Angles in radians as turns in 2^-64.
fn turns(angles: Vec<f64>) -> Vec<u8> {
    let turns = angles.into_iter().map(|f| f / std::f64::consts::TAU);
    turns.flat_map(|t| ((t.fract() * 2f64.powi(64)) as u64).to_le_bytes()).collect()
}

/// Values times 2^exponent, rounded, and the relative error of that.
fn integers<const N: usize>(values: &[f32], exponent: i32, bytes: impl Fn(f64) -> [u8; N]) -> (Vec<u8>, f64) {
    let scale = 2f64.powi(exponent);
    let (mut out, mut lost, mut total) = (Vec::new(), 0f64, 0f64);
    for v in values.iter().map(|v| f64::from(*v)) {
        let integer = (v * scale).round();
        out.extend(bytes(integer));
        lost += (integer / scale - v).powi(2);
        total += v * v;
    }
    (out, if total > 0.0 { (lost / total).sqrt() } else { 0.0 })
}

/// The PROGRAM section.
#[must_use]
pub fn program_bytes<S>(lowered: &Lowered<S>) -> Vec<u8> {
    let mut bytes = vec![0; PROGRAM_HEAD];
    bytes[..4].copy_from_slice(&(lowered.entries.len() as u32).to_le_bytes());
    bytes[4..8].copy_from_slice(&(lowered.ops.len() as u32).to_le_bytes());
    bytes.extend(lowered.entries.iter().flat_map(|e| e.to_bytes()));
    bytes.extend(lowered.ops.iter().flat_map(|o| o.to_bytes()));
    bytes
}

/// The PLAN section.
#[must_use]
pub fn plan_bytes<S>(lowered: &Lowered<S>) -> Vec<u8> {
    let mut bytes = lowered.plan.to_bytes().to_vec();
    bytes.extend(lowered.slots.iter().flat_map(|s| s.to_bytes()));
    bytes
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
