//! Nets: from a file of another runtime to an image.

use crate::graph::{Graph, passes};
use crate::import;
use crate::import::tflite::{Tflite, is_tflite};
use crate::lower::{self, Dims};
use crate::quantize::{Meta, QUANTIZER, QuantizeError, TensorReport, hex, write};
use crate::write::Weights;
use mote_runtime::fixed::tflite::Rounding;
use mote_runtime::image::{Dtype, Ports, TensorDesc, section};
use std::path::Path;

/// What a net is quantized with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the model.
    pub name: String,
    /// Its licence.
    pub license: Option<String>,
    /// The rounding of TensorFlow Lite that a model of integers was made for.
    pub rounding: Rounding,
}

/// Whether a file is a net of a kind that [`quantize`] takes.
#[must_use]
pub fn is_net(path: &Path) -> bool {
    is_tflite(path)
}

/// The graph of a file, and its SHA-256.
///
/// # Errors
/// [`import::ImportError`].
pub fn graph(path: &Path) -> import::Result<(Graph, [u8; 32])> {
    let model = Tflite::open(path)?;
    Ok((model.graph()?, model.source_hash()?))
}

/// Bits of an element.
fn bits(dtype: Dtype) -> u8 {
    match dtype {
        Dtype::N4 => 4,
        Dtype::I8 | Dtype::U8 | Dtype::N8 => 8,
        Dtype::I16 => 16,
        Dtype::I32 => 32,
        Dtype::U64 => 64,
    }
}

/// Writes the image of the net at `path`. Returns what the image says of itself and its bytes.
///
/// # Errors
/// [`QuantizeError`]; `out` is then as it was before.
pub fn quantize(path: &Path, settings: &Settings, out: &Path) -> Result<(Meta, u64), QuantizeError> {
    let (mut graph, hash) = graph(path)?;
    passes::run(&mut graph);
    let missing = |missing| QuantizeError::Unsupported { path: path.to_owned(), missing };
    let net = lower::net(&graph, settings.rounding).map_err(missing)?;
    let mut weights = Weights::begin(out)?;
    let mut descs = Vec::new();
    let mut tensors = Vec::new();
    for constant in &net.lowered.tensors {
        let span = weights.append(&constant.bytes)?;
        let dims = constant.dims();
        let rank = constant.dims.len() as u8;
        let (dtype, exponent, codebook) = (constant.dtype, constant.exponent, constant.codebook);
        descs.push(TensorDesc { dtype, rank, exponent, dims, span, codebook });
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
    // Of a channel's three numbers only the bias is the model's.
    let parameters = |t: &TensorReport| t.shape.iter().product::<usize>() / if t.bits == 32 { 3 } else { 1 };
    let parameters: usize = tensors.iter().map(parameters).sum();
    let bytes: u64 = tensors.iter().map(|t| t.bytes).sum();
    let meta = Meta {
        name: settings.name.clone(),
        license: settings.license.clone(),
        source_sha256: hex(&hash),
        quantizer: QUANTIZER.to_owned(),
        config: None,
        bits: 8,
        calibration_tokens: 0,
        tensors,
        parameters: parameters as u64,
        bits_per_weight: bytes as f64 * 8.0 / parameters.max(1) as f64,
    };
    let mut io = Vec::new();
    Ports::write(&net.inputs, &net.outputs, &mut |bytes| io.extend_from_slice(bytes));
    let bytes = write(weights, &net.lowered, &descs, &meta, Some((section::IO, &io)))?;
    Ok((meta, bytes))
}
