//! Nets: from a file of another runtime to an image.

use crate::graph::{Graph, passes};
use crate::import;
use crate::import::tflite::{Tflite, is_tflite};
use crate::lower::{self, Dims, Net};
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
    let described = Described { name: &settings.name, license: settings.license.as_deref(), hash, bits: 8 };
    save(&net, &described, None, out)
}

/// What an image says of the model it came from.
pub(crate) struct Described<'d> {
    pub name: &'d str,
    pub license: Option<&'d str>,
    pub hash: [u8; 32],
    /// Bits of the weights' codes.
    pub bits: u8,
}

/// Writes a lowered net at `out`, with `text` as its TEXT section.
pub(crate) fn save(
    net: &Net,
    described: &Described<'_>,
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
