//! Which layers keep 8-bit weights: those where a byte more takes away most of what four bits cost.
//!
//! 1. Layers whose codes are no smaller than int8: rows are padded to 16 and columns to 32, which small layers do not fill.
//! 2. Measured: the net with all layers at 8 bits, and one after another with its codes. What the outputs then lose, over the
//!    bytes that int8 takes more, is a layer's worth. The dearest are kept while the bytes last.

use super::{Settings, coded_matrix, layers, recurrent};
use crate::graph::{Data, Graph, Tensor, eval};

/// Samples that outputs are compared on; of a net with states, which must have seen something first, more.
const SAMPLES: [usize; 2] = [64, 512];

/// Bytes of a layer's weights as int8, with a bias, a multiplier and a shift a channel; and as codes with a bias. Those of a
/// recurrent layer are in codes either way.
fn bytes([plain, coded]: [&Graph; 2], index: usize) -> Option<(usize, usize)> {
    let node = &coded.nodes[index];
    if recurrent::is_layer(coded, index) {
        let all = |graph: &Graph| {
            let matrices = graph.nodes[index].inputs[1..3].iter().flatten();
            matrices.map(|w| graph.coded.get(w).map(|m| m.bytes.len())).sum::<Option<usize>>()
        };
        return all(plain).zip(all(coded));
    }
    let matrix = coded_matrix(coded, node)?;
    Some((matrix.rows * (matrix.cols + 12), matrix.bytes.len() + 4 * matrix.rows))
}

/// Outputs on the samples.
fn outputs(graph: &Graph, samples: &[Vec<Tensor>]) -> Result<Vec<Vec<Tensor>>, eval::EvalError> {
    let mut evaluator = eval::Evaluator::new(graph)?;
    samples.iter().map(|s| evaluator.run(s)).collect()
}

/// Mean square of what outputs are off, each output's over its own variance.
fn lost(float: &[Vec<Tensor>], other: &[Vec<Tensor>]) -> f64 {
    let count = float.first().map_or(0, Vec::len);
    let one = |output: usize| {
        let (mut off, mut sum, mut square, mut n) = (0f64, 0f64, 0f64, 0f64);
        for (a, b) in float.iter().zip(other) {
            if let (Data::F32(a), Data::F32(b)) = (&a[output].data, &b[output].data) {
                for (a, b) in a.iter().zip(b) {
                    off += f64::from(a - b).powi(2);
                    sum += f64::from(*a);
                    square += f64::from(*a).powi(2);
                    n += 1.0;
                }
            }
        }
        off / (square - sum * sum / f64::max(n, 1.0)).max(1e-30)
    };
    (0..count).map(one).sum()
}

/// The layers, by their place among the layers, that should keep 8 bits. `float` is the graph before, `plain` the one with
/// all weights int8, `coded` the one with all that may be in codes, which are its nodes `at`.
pub(super) fn keep(
    [float, plain, coded]: [&Graph; 3],
    at: &[usize],
    samples: &[Vec<Tensor>],
    settings: &Settings,
) -> Result<Vec<usize>, eval::EvalError> {
    let samples = &samples[..samples.len().min(SAMPLES[usize::from(!float.states.is_empty())])];
    let expected = outputs(float, samples)?;
    let floor = lost(&expected, &outputs(plain, samples)?);
    // The other graphs have the float graph's layers in its order.
    let places = (0..layers(float).len()).filter(|p| !settings.keep.contains(p));
    let total: usize = at.iter().filter_map(|i| bytes([plain, coded], *i)).map(|(_, codes)| codes).sum();
    let mut room = (total as f64 * settings.room) as usize;
    let mut kept = settings.keep.clone();
    let mut worth = Vec::new();
    for (place, index) in places.zip(at.iter().copied()) {
        let Some((int8, codes)) = bytes([plain, coded], index) else { continue };
        let Some(more) = int8.checked_sub(codes).filter(|m| *m > 0) else {
            kept.push(place);
            continue;
        };
        if more > room {
            continue;
        }
        let mut one = plain.clone();
        let inputs = one.nodes[index].inputs.len().max(coded.nodes[index].inputs.len());
        one.nodes[index].inputs.resize(inputs, None);
        // Weights and bias, or both matrices.
        for which in 1..inputs.min(3) {
            if let Some(constant) = coded.input(&coded.nodes[index], which) {
                one.values.push(constant.clone());
                one.nodes[index].inputs[which] = Some(one.values.len() - 1);
            }
        }
        let loss = lost(&expected, &outputs(&one, samples)?) - floor;
        worth.push((loss / more as f64, more, place));
    }
    worth.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (_, more, place) in worth.into_iter().filter(|(gain, ..)| *gain > 0.0) {
        if more <= room {
            room -= more;
            kept.push(place);
        }
    }
    kept.sort_unstable();
    Ok(kept)
}
