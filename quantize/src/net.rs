//! Nets: from a file of another runtime to an image.

use crate::codes::Coding;
use crate::graph::quantize as integers;
use crate::graph::{DType, Graph, Node, Op, ValueId, passes};
use crate::import::tflite::{Tflite, is_tflite};
use crate::import::{self, onnx};
use crate::lower::{Dims, Net};
use crate::quantize::{Meta, PatchReport, QUANTIZER, QuantizeError, TensorReport, hex, write};
use crate::ram::{self, Planned, Ram, Unplanned};
use crate::samples::{self, Input, Scaling};
use crate::write::Weights;
use mote_runtime::fixed::tflite::Rounding;
use mote_runtime::image::{Dtype, Ports, TensorDesc, section};
use std::path::{Path, PathBuf};

/// What a net is quantized with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the model.
    pub name: String,
    /// Its licence.
    pub license: Option<String>,
    /// The rounding of TensorFlow Lite that a model of integers was made for.
    pub rounding: Rounding,
    /// What an ONNX file leaves open.
    pub open: onnx::Options,
    /// What a model of floats needs beside.
    pub float: Option<Float>,
    /// How large its arena may be.
    pub ram: Ram,
}

impl Settings {
    /// Those of a model of integers.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            license: None,
            rounding: Rounding::Double,
            open: onnx::Options::default(),
            float: None,
            ram: Ram::Any,
        }
    }
}

/// What a net of floats is quantized with.
#[derive(Clone, Debug)]
pub struct Float {
    /// A folder, or a file, with samples of its inputs.
    pub samples: PathBuf,
    /// What pixels become; without it [0, 1].
    pub scaling: Option<Scaling>,
    /// Samples of a sound from one run to the next, if its pieces overlap.
    pub hop: Option<usize>,
    /// Bits, and how they are chosen.
    pub settings: integers::Settings,
}

/// Whether a file is a net of a kind that [`quantize`] takes.
#[must_use]
pub fn is_net(path: &Path) -> bool {
    is_tflite(path) || path.is_file() && onnx::is_onnx(path).unwrap_or(false)
}

/// The graph of a file, and its SHA-256; `options`: what an ONNX file leaves open.
///
/// # Errors
/// [`import::ImportError`].
pub fn graph(path: &Path, options: &onnx::Options) -> import::Result<(Graph, [u8; 32])> {
    if is_tflite(path) {
        if *options != onnx::Options::default() {
            return Err(import::ImportError::Unsupported {
                path: path.to_owned(),
                found: "a shape, constant or state for a TensorFlow Lite model".into(),
                supported: "it has its own; only ONNX files leave them open".into(),
            });
        }
        let model = Tflite::open(path)?;
        return Ok((model.graph()?, model.source_hash()?));
    }
    let graph = onnx::open(path, options)?;
    Ok((graph, import::hash_files(&[path.to_owned()])?))
}

/// The graph of a file as it is lowered or quantized: through the passes, images channels-last; and the file's SHA-256.
///
/// # Errors
/// [`import::ImportError`].
pub fn prepared(path: &Path, options: &onnx::Options) -> import::Result<(Graph, [u8; 32])> {
    let (mut graph, hash) = graph(path, options)?;
    // Before the passes, which take a transposition of one channel away; and again, for what they have brought to the ends.
    passes::channels_last(&mut graph);
    passes::run(&mut graph);
    while !passes::channels_last(&mut graph).is_empty() {
        passes::run(&mut graph);
    }
    Ok((graph, hash))
}

/// Whether something is computed in floats: more than a change from or to integers.
#[must_use]
pub fn is_float(graph: &Graph) -> bool {
    let float = |id: &ValueId| graph.values[*id].is_float() && graph.values[*id].data.is_none();
    let reads = |n: &Node| n.inputs.iter().flatten().any(float);
    graph.nodes.iter().any(|n| n.op != Op::Requantize && (reads(n) || n.outputs.iter().any(float)))
}

/// Inputs of a graph, as samples of them are read; `hop`: samples of a sound from one run to the next.
#[must_use]
pub fn inputs(graph: &Graph, hop: Option<usize>) -> Vec<Input> {
    let input = |id: &ValueId| {
        let value = &graph.values[*id];
        let integers = value.dtype != DType::F32 && value.quant.is_none();
        Input { name: value.name.clone(), shape: value.shape.clone(), integers, hop }
    };
    graph.inputs.iter().map(input).collect()
}

/// What Mote lacks of a node.
fn lacking(node: &Node) -> Option<String> {
    match &node.op {
        Op::Unsupported(why) => Some(format!("{} ({}): {why}", node.kind, node.name)),
        _ => None,
    }
}

/// Bits of an element.
fn bits(dtype: Dtype) -> u8 {
    match dtype {
        Dtype::T3 => 3,
        Dtype::N4 | Dtype::T4 => 4,
        Dtype::N5 => 5,
        Dtype::I8 | Dtype::U8 | Dtype::N8 => 8,
        Dtype::I16 => 16,
        Dtype::I32 => 32,
        Dtype::U64 => 64,
    }
}

/// Writes the image of the net at `path`. A net of floats is quantized; `progress` is told the share of that which is
/// done. Returns what the image says of itself and its bytes.
///
/// # Errors
/// [`QuantizeError`]; `out` is then as it was before.
pub fn quantize(
    path: &Path,
    settings: &Settings,
    out: &Path,
    progress: &mut dyn FnMut(f32),
) -> Result<(Meta, u64), QuantizeError> {
    let (mut graph, hash) = prepared(path, &settings.open)?;
    let missing = |missing| QuantizeError::Unsupported { path: path.to_owned(), missing };
    let lacking: Vec<String> = graph.nodes.iter().filter_map(lacking).collect();
    if !lacking.is_empty() {
        return Err(missing(lacking));
    }
    let (mut coded_bits, mut samples) = (8, 0);
    if is_float(&graph) {
        let inputs = inputs(&graph, settings.float.as_ref().and_then(|f| f.hop));
        let Some(float) = &settings.float else {
            let shapes = inputs.iter().map(|i| format!("{} {:?}", i.name, i.shape)).collect();
            return Err(QuantizeError::NoSamples { path: path.to_owned(), shapes });
        };
        let scaling = float.scaling.clone().unwrap_or_else(|| Scaling::one(0.0, 255.0));
        let runs = samples::read(&float.samples, &inputs, &scaling)?;
        graph = integers::quantize(&graph, &runs, &float.settings, progress)?;
        samples = runs.len();
        coded_bits = float.settings.coding.map_or(8, Coding::bits);
    }
    let planned = ram::plan(&graph, settings.rounding, settings.ram).map_err(|why| match why {
        Unplanned::Missing(nodes) => missing(nodes),
        Unplanned::TooLarge(plans) => too_large(path, settings.ram, &plans),
    })?;
    let patches = planned.patches.iter().map(|p| p.report(&graph)).collect();
    let Settings { name, license, .. } = settings;
    let described = Described { name, license: license.as_deref(), hash, bits: coded_bits, samples };
    save_patched(&planned.net, &described, patches, None, out)
}

/// That even the smallest of these two plans, the other being without patches, does not fit.
fn too_large(path: &Path, ram: Ram, [smallest, plain]: &[Planned; 2]) -> QuantizeError {
    let asked = if let Ram::Bytes(bytes) = ram { bytes } else { 0 };
    let (arena, more) = (smallest.arena, smallest.macs as f64 / plain.macs.max(1) as f64 - 1.0);
    QuantizeError::Ram { path: path.to_owned(), asked, arena, more: 100.0 * more, plain: plain.arena }
}

/// What an image says of the model it came from.
pub struct Described<'d> {
    /// Its name.
    pub name: &'d str,
    /// Its licence, if known.
    pub license: Option<&'d str>,
    /// SHA-256 of its files.
    pub hash: [u8; 32],
    /// Bits of the weights' codes.
    pub bits: u8,
    /// Runs that it was calibrated on.
    pub samples: usize,
}

/// Writes a lowered net at `out`, with `text` as its TEXT section. Returns what the image says of itself and its bytes.
///
/// # Errors
/// [`QuantizeError`]; `out` is then as it was before.
pub fn save(
    net: &Net,
    described: &Described<'_>,
    text: Option<&[u8]>,
    out: &Path,
) -> Result<(Meta, u64), QuantizeError> {
    save_patched(net, described, vec![], text, out)
}

/// As [`save`], of a net of which these stretches are in patches.
fn save_patched(
    net: &Net,
    described: &Described<'_>,
    patches: Vec<PatchReport>,
    text: Option<&[u8]>,
    out: &Path,
) -> Result<(Meta, u64), QuantizeError> {
    let mut weights = Weights::begin(out)?;
    let mut descs = Vec::new();
    let mut tensors = Vec::new();
    for constant in &net.lowered.tensors {
        let span = weights.append(&constant.bytes)?;
        let rank = constant.dims.len() as u8;
        let (dtype, exponent, codebook) = (constant.dtype, constant.exponent, constant.codebook);
        descs.push(TensorDesc { dtype, rank, exponent, dims: constant.dims(), span, codebook });
        tensors.push(TensorReport {
            name: constant.name.clone(),
            shape: constant.dims.clone(),
            bits: bits(dtype),
            hadamard: 0,
            relative_error: constant.relative_error,
            fits_i32: true,
            row_bound: 0,
            bytes: span.bytes,
        });
    }
    let parameters: usize = net.lowered.tensors.iter().map(|t| t.parameters).sum();
    let bytes: u64 = tensors.iter().map(|t| t.bytes).sum();
    let meta = Meta {
        name: described.name.to_owned(),
        license: described.license.map(str::to_owned),
        source_sha256: hex(&described.hash),
        quantizer: QUANTIZER.to_owned(),
        config: None,
        bits: described.bits,
        calibration_tokens: 0,
        calibration_samples: described.samples,
        patches,
        tensors,
        parameters: parameters as u64,
        bits_per_weight: bytes as f64 * 8.0 / parameters.max(1) as f64,
    };
    let mut io = Vec::new();
    Ports::write(&net.inputs, &net.outputs, &mut |bytes| io.extend_from_slice(bytes));
    let sections: Vec<(u32, &[u8])> =
        text.map(|text| (section::TEXT, text)).into_iter().chain([(section::IO, &io[..])]).collect();
    let bytes = write(weights, &net.lowered, &descs, &meta, &sections)?;
    Ok((meta, bytes))
}
