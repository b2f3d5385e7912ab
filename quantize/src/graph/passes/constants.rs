//! Constant folding: what depends on constants only is computed now, by the float evaluator.

use super::repeat;
use crate::graph::{Data, Graph, Op, eval};

/// Results of more elements than this are left to be computed where they are wanted: a file of a few bytes can ask for
/// arrays that fill the memory.
const MOST_ELEMENTS: usize = 1 << 24;

/// The pass.
pub fn run(graph: &mut Graph) -> bool {
    repeat(graph, fold)
}

fn fold(graph: &mut Graph) -> bool {
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let constant = |v: &usize| graph.values[*v].data.is_some() && !graph.coded.contains_key(v);
        let ends = |v: &usize| graph.outputs.contains(v) || graph.states.iter().any(|s| s.write == *v);
        let small = node.outputs.iter().all(|o| graph.values[*o].count() <= MOST_ELEMENTS);
        let unsupported = matches!(node.op, Op::Unsupported(_));
        if unsupported || !small || !node.inputs.iter().flatten().all(constant) || node.outputs.iter().any(ends) {
            continue;
        }
        let tensors: Vec<_> = node.inputs.iter().map(|i| i.and_then(|i| eval::constant(&graph.values[i]))).collect();
        if tensors.iter().zip(&node.inputs).any(|(t, i)| t.is_none() != i.is_none()) {
            continue;
        }
        let inputs: Vec<_> = tensors.iter().map(Option::as_ref).collect();
        let outputs: Vec<_> = node.outputs.iter().map(|o| &graph.values[*o]).collect();
        // What fails here fails again, with a better message, where the graph is run.
        let Ok(results) = eval::node(node, &inputs, &outputs) else { continue };
        let ids = node.outputs.clone();
        for (id, tensor) in ids.into_iter().zip(results) {
            let integers = graph.values[id].quant.is_some().then(|| eval::stored(&graph.values[id], &tensor));
            graph.values[id].data = Some(integers.map_or(tensor.data, Data::Int));
        }
        graph.nodes.remove(index);
        return true;
    }
    false
}
