//! Common subexpressions: equal constants are one, and nodes that compute the same from the same.

use super::{repeat, replace};
use crate::graph::{Data, Graph, Value, ValueId};
use std::collections::HashMap;

/// The pass.
pub fn run(graph: &mut Graph) -> bool {
    constants(graph) | repeat(graph, nodes)
}

/// What makes a constant itself: everything but its name, floats by their bits.
type Key = (Vec<usize>, String, Vec<u64>);

fn key(value: &Value) -> Option<Key> {
    let bits = match value.data.as_ref()? {
        Data::F32(floats) => floats.iter().map(|f| u64::from(f.to_bits())).collect(),
        Data::Int(ints) => ints.iter().map(|i| *i as u64).collect(),
    };
    Some((value.shape.clone(), format!("{:?} {:?}", value.dtype, value.quant), bits))
}

fn constants(graph: &mut Graph) -> bool {
    let mut seen: HashMap<Key, ValueId> = HashMap::new();
    let used = graph.uses();
    let mut same = vec![None; graph.values.len()];
    for id in (0..graph.values.len()).filter(|id| used[*id] > 0 && !graph.coded.contains_key(id)) {
        if let Some(key) = key(&graph.values[id]) {
            same[id] = Some(*seen.entry(key).or_insert(id)).filter(|first| *first != id);
        }
    }
    let mut changed = false;
    for input in graph.nodes.iter_mut().flat_map(|n| n.inputs.iter_mut().flatten()) {
        if let Some(first) = same[*input] {
            (*input, changed) = (first, true);
        }
    }
    changed
}

fn nodes(graph: &mut Graph) -> bool {
    let mut seen = HashMap::new();
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let results: Vec<_> = node.outputs.iter().map(|o| (&graph.values[*o].shape, &graph.values[*o].quant)).collect();
        let types: Vec<_> = node.outputs.iter().map(|o| graph.values[*o].dtype).collect();
        let key = format!("{:?} {:?} {:?} {results:?} {types:?}", node.op, node.inputs, node.clamp);
        let first = *seen.entry(key).or_insert(index);
        if first != index {
            let pairs: Vec<_> =
                graph.nodes[index].outputs.iter().copied().zip(graph.nodes[first].outputs.clone()).collect();
            if pairs.into_iter().all(|(old, new)| replace(graph, old, new)) {
                graph.nodes.remove(index);
                return true;
            }
        }
    }
    false
}
