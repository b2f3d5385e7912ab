//! Changes of shape: two in a row are one, and they move behind what does not see the shape.

use super::{Links, per_channel, repeat, value_like};
use crate::graph::{Graph, Op};

/// The pass.
pub fn run(graph: &mut Graph) -> bool {
    repeat(graph, merge) | repeat(graph, sink)
}

/// A reshape of a reshape reads what that one reads.
fn merge(graph: &mut Graph) -> bool {
    let links = Links::of(graph);
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let before = links.maker(node, 0).map(|m| &graph.nodes[m]);
        if let (Op::Reshape, Some(Op::Reshape)) = (&node.op, before.map(|b| &b.op)) {
            let from = before.and_then(|b| b.inputs[0]);
            if from.map(|v| &graph.values[v].quant) == graph.output(node, 0).map(|v| &v.quant) {
                graph.nodes[index].inputs = vec![from];
                return true;
            }
        }
    }
    false
}

/// f(reshape(x)) is reshape(f(x)) for functions of single elements, and for those of an element and its channel where the
/// channels stay. So activations and biases meet the layers that they belong to.
fn sink(graph: &mut Graph) -> bool {
    let links = Links::of(graph);
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let (Some(to), Some(outputs)) = (graph.output(node, 0), node.outputs.first().copied()) else { continue };
        // Which input is the reshaped one.
        let which = match &node.op {
            Op::Unary(_) | Op::Requantize | Op::Cast => 0,
            Op::Binary(_) if node.inputs.len() == 2 => {
                let constant = |i: usize| graph.input(node, i).is_some_and(|v| v.data.is_some());
                match (constant(0), constant(1)) {
                    (false, true) => 0,
                    (true, false) => 1,
                    _ => continue,
                }
            }
            _ => continue,
        };
        let Some(maker) = links.only_maker(node, which).filter(|m| graph.nodes[*m].op == Op::Reshape) else { continue };
        let reshape = &graph.nodes[maker];
        let (Some(x), Some(reshaped)) = (graph.input(reshape, 0), graph.output(reshape, 0)) else { continue };
        let Some(x_id) = reshape.inputs[0].filter(|_| x.data.is_none()) else { continue };
        if reshaped.shape != to.shape || x.quant != reshaped.quant {
            continue;
        }
        if let Op::Binary(_) = node.op {
            let Some(other) = graph.input(node, 1 - which) else { continue };
            let channels = to.shape.last().copied().unwrap_or(1);
            let stays = other.count() == 1 || x.shape.last() == Some(&channels) && per_channel(other, channels);
            if !stays || other.shape.len() > x.shape.len() || !other.is_float() && other.quant.is_none() {
                continue;
            }
        }
        let shape = x.shape.clone();
        let inner = value_like(graph, outputs, &shape);
        let (mut before, mut after) = (graph.nodes[index].clone(), graph.nodes[maker].clone());
        before.inputs[which] = Some(x_id);
        before.outputs = vec![inner];
        after.inputs = vec![Some(inner)];
        after.outputs = vec![outputs];
        // The reshape goes to where the function was; other inputs of the function are made before that.
        graph.nodes[index] = before;
        graph.nodes.insert(index + 1, after);
        graph.nodes.remove(maker);
        return true;
    }
    false
}
