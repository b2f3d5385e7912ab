//! Takes away nodes that give back what they are given.

use super::{floats, repeat, replace, scalar_input};
use crate::graph::{Binary, Graph, Node, Op, Reduction, Unary};

/// The pass.
pub fn run(graph: &mut Graph) -> bool {
    repeat(graph, |graph| {
        let found = |(i, node): (usize, &Node)| Some((i, same(graph, node)?));
        let places: Vec<_> = graph.nodes.iter().enumerate().filter_map(found).collect();
        places.into_iter().any(|(index, from)| {
            let old = graph.nodes[index].outputs[0];
            // The node itself reads `from` and goes with what nobody reads.
            replace(graph, old, from) && {
                graph.nodes.remove(index);
                true
            }
        })
    }) | repeat(graph, ones)
        | empty_parts(graph)
}

/// Parts of a concatenation that have no elements are left out; whether there were any.
fn empty_parts(graph: &mut Graph) -> bool {
    let Graph { nodes, values, .. } = graph;
    let mut changed = false;
    for node in nodes.iter_mut().filter(|n| matches!(n.op, Op::Concat { .. })) {
        let full = |id: &Option<usize>| id.is_some_and(|id| values[id].count() > 0);
        if node.inputs.iter().any(full) && !node.inputs.iter().all(full) {
            node.inputs.retain(full);
            changed = true;
        }
    }
    changed
}

/// The input that a node's output equals.
fn same(graph: &Graph, node: &Node) -> Option<usize> {
    let [output] = node.outputs[..] else { return None };
    let output = &graph.values[output];
    let first = (*node.inputs.first()?)?;
    let unchanged = |which: usize| {
        let from = graph.input(node, which)?;
        let same = from.shape == output.shape && from.dtype == output.dtype && from.quant == output.quant;
        same.then(|| node.inputs[which]).flatten()
    };
    let whole = |shape: &[usize]| graph.values[first].shape == shape;
    let is = match &node.op {
        _ if node.clamp.is_some() => return None,
        Op::Unary(Unary::Identity) | Op::Reshape | Op::Expand | Op::Cast | Op::Requantize => true,
        Op::Unary(Unary::Clip(min, max)) => *min == f32::NEG_INFINITY && *max == f32::INFINITY,
        Op::Transpose { perm } => perm.iter().enumerate().all(|(i, p)| i == *p),
        Op::Slice { starts, steps } => {
            whole(&output.shape) && starts.iter().all(|s| *s == 0) && steps.iter().all(|s| *s == 1)
        }
        Op::Pad { before, .. } => whole(&output.shape) && before.iter().all(|b| *b == 0),
        Op::Concat { .. } => node.inputs.len() == 1,
        Op::Reduce { axes, kind } => axes.is_empty() && kept(*kind),
        Op::Binary(op) => {
            let (neutral, both) = match op {
                Binary::Add => (0.0, true),
                Binary::Sub => (0.0, false),
                Binary::Mul => (1.0, true),
                Binary::Div | Binary::Pow => (1.0, false),
                _ => return None,
            };
            let is = |which: usize| {
                graph.input(node, which).and_then(floats).is_some_and(|k| k.iter().all(|k| *k == neutral))
            };
            return match () {
                () if is(1) => unchanged(0),
                () if both && is(0) => unchanged(1),
                () => None,
            };
        }
        _ => false,
    };
    is.then(|| unchanged(0)).flatten()
}

/// Whether a reduction of one element is that element.
fn kept(kind: Reduction) -> bool {
    matches!(kind, Reduction::Max | Reduction::Mean | Reduction::Min | Reduction::Prod | Reduction::Sum)
}

/// Reductions over dimensions of one element, repetitions to no more elements, and transpositions that move only dimensions
/// of one element are changes of shape; x ^ 2 is a square.
fn ones(graph: &mut Graph) -> bool {
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let (Some(from), Some(to)) = (graph.input(node, 0), graph.output(node, 0)) else { continue };
        let same = from.quant == to.quant && from.dtype == to.dtype && node.clamp.is_none();
        let op = match &node.op {
            Op::Reduce { kind, axes } if same && kept(*kind) && axes.iter().all(|a| from.shape[*a] == 1) => Op::Reshape,
            Op::Expand if same && from.count() == to.count() => Op::Reshape,
            Op::Transpose { perm } if same && node.inputs.len() == 1 => {
                let moved: Vec<_> = perm.iter().filter(|d| from.shape[**d] != 1).collect();
                if !moved.is_sorted() {
                    continue;
                }
                Op::Reshape
            }
            Op::Binary(Binary::Pow) if scalar_input(graph, node, 1) == Some(2.0) && from.shape == to.shape => {
                Op::Unary(Unary::Square)
            }
            _ => continue,
        };
        let node = &mut graph.nodes[index];
        node.op = op;
        node.inputs.truncate(1);
        return true;
    }
    false
}
