//! What the values of a graph are on calibration samples.

use crate::graph::{Data, Graph, Tensor, eval};

/// What is kept of a value over all samples.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The smallest element; 0 at most, for 0 must be a number of every grid.
    pub min: f32,
    /// The largest element; 0 at least.
    pub max: f32,
    /// Some of the elements, evenly from all samples.
    pub some: Vec<f32>,
    /// Whether there are elements that are [`masked`], which count for nothing else.
    pub masked: bool,
}

/// Whether a number only says that its place counts for nothing: attention adds it before a softmax.
pub fn masked(x: f32) -> bool {
    x < -1e9
}

/// Elements that are kept of a value, about.
const KEPT: usize = 1 << 15;

impl Seen {
    fn add(&mut self, tensor: &Tensor, samples: usize, turn: usize) {
        let Data::F32(values) = &tensor.data else { return };
        self.see(values);
        let step = (values.len() * samples).div_ceil(KEPT).max(1);
        // Other elements in every sample, and in every row.
        let step = if step > 1 { step | 1 } else { 1 };
        let some = values.iter().skip((turn * 7) % step).step_by(step);
        self.some.extend(some.filter(|x| x.is_finite() && !masked(**x)));
    }

    /// Takes numbers into the range.
    pub fn see(&mut self, values: &[f32]) {
        self.masked |= values.iter().any(|x| masked(*x));
        for x in values.iter().filter(|x| x.is_finite() && !masked(**x)) {
            self.min = self.min.min(*x);
            self.max = self.max.max(*x);
        }
    }
}

/// Runs `graph` on each sample, one after another, states going on from one to the next; calls `done` after each. For each
/// value that is computed, or an input, or a state: what was seen.
///
/// # Errors
/// [`eval::EvalError`].
pub fn observe(
    graph: &Graph,
    samples: &[Vec<Tensor>],
    done: &mut dyn FnMut(),
) -> Result<Vec<Option<Seen>>, eval::EvalError> {
    let mut seen: Vec<Option<Seen>> = vec![None; graph.values.len()];
    let mut evaluator = eval::Evaluator::new(graph)?;
    for (turn, sample) in samples.iter().enumerate() {
        evaluator.visit(sample, |id, tensor| {
            if matches!(tensor.data, Data::F32(_)) {
                seen[id].get_or_insert_default().add(tensor, samples.len(), turn);
            }
        })?;
        done();
    }
    Ok(seen)
}
