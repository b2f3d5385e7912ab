//! Word vectors: from a file of floats to an image of unit vectors in codes.

use crate::codes::{CodedMatrix, Coding, code_matrix};
use crate::import::tokenizer::Vocabulary;
use crate::import::vectors::{Vectors, read};
use crate::lower;
use crate::net::{Described, Settings, save};
use crate::quantize::{Meta, QuantizeError};
use mote_runtime::image::tensors::BLOCK;
use std::path::Path;

/// Writes the image of the word vectors at `path`. Returns what the image says of itself and its bytes.
///
/// # Errors
/// [`QuantizeError`]; `out` is then as it was before.
pub fn quantize(path: &Path, coding: Coding, settings: &Settings, out: &Path) -> Result<(Meta, u64), QuantizeError> {
    let (mut vectors, hash) = read(path)?;
    let text = Vocabulary::words(path, std::mem::take(&mut vectors.words))?.to_bytes();
    let net = lower::vectors(code(vectors, coding));
    let (name, license, bits) = (&settings.name, settings.license.as_deref(), coding.bits());
    let described = Described { name, license, hash, bits, samples: 0 };
    save(&net, &described, Some(&text), out)
}

/// Codes unit vectors, so that what the codes stand for has length 1 again: the error of a code is then an error of
/// direction only, and dot products with one query are in the order of their cosines.
fn code(vectors: Vectors, coding: Coding) -> CodedMatrix {
    let dims = vectors.dims;
    let values = units(vectors);
    let rows = values.len() / dims;
    let mut matrix = code_matrix(&values, rows, dims, coding, None);
    let decoded = matrix.decode();
    let first = matrix.bytes.len() - 2 * rows.next_multiple_of(BLOCK);
    for (mult, vector) in matrix.bytes[first..].as_chunks_mut::<2>().0.iter_mut().zip(decoded.chunks(dims)) {
        let length = length(vector);
        if length > 0.0 {
            let unit = f64::from(u16::from_le_bytes(*mult)) / length;
            *mult = (unit.round().min(65_535.0) as u16).to_le_bytes();
        }
    }
    matrix
}

/// All vectors, each of length 1.
pub(crate) fn units(vectors: Vectors) -> Vec<f32> {
    let Vectors { mut values, dims, .. } = vectors;
    for vector in values.chunks_mut(dims) {
        let length = length(vector);
        // A vector of zeros has no direction: it stays what it is, and is near to nothing.
        vector.iter_mut().for_each(|v| *v = (f64::from(*v) / length.max(1e-30)) as f32);
    }
    values
}

fn length(vector: &[f32]) -> f64 {
    vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Coded rows have length 1 again, whatever their length was, and zeros stay zeros.
    #[test]
    fn coded_vectors_are_unit_vectors() {
        let dims = 40;
        let mut state = 1u64;
        let mut values: Vec<f32> = (0..50 * dims)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / 2f32.powi(23) - 1.0
            })
            .collect();
        values[..dims].fill(0.0);
        values[dims..2 * dims].iter_mut().for_each(|v| *v *= 1000.0);
        for coding in [Coding::N4Learned, Coding::N8] {
            let vectors = Vectors { words: vec![], dims, values: values.clone(), repeated: 0 };
            let decoded = code(vectors, coding).decode();
            assert!(decoded[..dims].iter().all(|v| *v == 0.0));
            for row in decoded.chunks(dims).skip(1) {
                assert!((length(row) - 1.0).abs() < 1e-3, "{}", length(row));
            }
        }
    }
}
