//! Nets that are quantized already: from a TensorFlow Lite file to an image, without a bit of change.

use crate::import::tflite::Tflite;
use crate::lower;
use crate::quantize::{Meta, QUANTIZER, QuantizeError, TensorReport, hex, write};
use crate::write::Weights;
use mote_runtime::image::{Dtype, Ports, TensorDesc, section};
use std::path::Path;

/// Writes the image of `model` at `out`. Returns what the image says of itself and its bytes.
///
/// # Errors
/// [`QuantizeError`]; `out` is then as it was before.
pub fn quantize(
    model: &Tflite,
    name: String,
    license: Option<String>,
    out: &Path,
) -> Result<(Meta, u64), QuantizeError> {
    let graph = model.graph()?;
    let missing = |missing| QuantizeError::Unsupported { path: model.path().to_owned(), missing };
    let net = lower::tflite(&graph).map_err(missing)?;
    let mut weights = Weights::begin(out)?;
    let mut descs = Vec::new();
    let mut tensors = Vec::new();
    for constant in &net.lowered.tensors {
        let span = weights.append(&constant.bytes)?;
        let mut dims = [1; 4];
        dims.iter_mut().zip(&constant.dims).for_each(|(to, from)| *to = *from as u32);
        let rank = constant.dims.len() as u8;
        descs.push(TensorDesc { dtype: constant.dtype, rank, exponent: 0, dims, span, codebook: [0; 16] });
        tensors.push(TensorReport {
            name: constant.name.clone(),
            shape: constant.dims.clone(),
            bits: if constant.dtype == Dtype::I8 { 8 } else { 32 },
            hadamard: 0,
            relative_error: 0.0,
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
        name,
        license,
        source_sha256: hex(&model.source_hash()?),
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
    let bytes = write(weights, &net.lowered, &descs, &meta, &[(section::IO, &io)])?;
    Ok((meta, bytes))
}
