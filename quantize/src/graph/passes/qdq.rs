//! QuantizeLinear and DequantizeLinear become what integers on values stand for.
//!
//! ```text
//! x int8 -> Requantize -> float -> f -> float -> Requantize -> y int8      x int8 -> f -> y int8
//! ```
//!
//! Every op is defined on what its operands stand for, so `f` reads x itself; and its result, which only the rounding
//! reads, is rounded where it is made. Between them, what only moves integers (the layout of an ONNX image) leaves them integers.

use super::{Links, repeat, replace};
use crate::graph::{DType, Graph, Op, Value};

/// The pass.
pub fn run(graph: &mut Graph) -> bool {
    repeat(graph, read_integers) | move_integers(graph) | repeat(graph, make_integers)
}

/// Who reads floats made of integers reads the integers.
fn read_integers(graph: &mut Graph) -> bool {
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let (Op::Requantize, Some(x)) = (&node.op, graph.input(node, 0)) else { continue };
        let float = graph.output(node, 0).is_some_and(Value::is_float);
        if !float || x.quant.is_none() {
            continue;
        }
        let (old, new) = (node.outputs[0], node.inputs[0].unwrap_or_default());
        if replace(graph, old, new) {
            graph.nodes.remove(index);
            return true;
        }
    }
    false
}

/// What a node makes that only moves integers are integers of the same scale. Outputs of the graph stay floats.
fn move_integers(graph: &mut Graph) -> bool {
    let mut changed = false;
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let moves = node.clamp.is_none() && matches!(node.op, Op::Reshape | Op::Transpose { .. } | Op::Slice { .. });
        let (Some(x), [to]) = (graph.input(node, 0), &node.outputs[..]) else { continue };
        let (to, dtype, quant) = (*to, x.dtype, x.quant.clone());
        let one_scale = quant.as_ref().is_some_and(|q| q.single().is_some());
        if moves && one_scale && graph.values[to].is_float() && !graph.outputs.contains(&to) {
            graph.values[to].dtype = dtype;
            graph.values[to].quant = quant;
            changed = true;
        }
    }
    changed
}

/// Who makes floats that are only rounded makes the integers. Integers that are only rounded again stay: that would round
/// once where the model rounds twice.
fn make_integers(graph: &mut Graph) -> bool {
    let links = Links::of(graph);
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let Op::Requantize = node.op else { continue };
        let (Some(from), Some(to)) = (graph.input(node, 0), graph.output(node, 0)) else { continue };
        let narrow = matches!(to.dtype, DType::I8 | DType::U8 | DType::I16 | DType::I4);
        let Some(maker) = links.only_maker(node, 0).filter(|_| from.is_float() && to.quant.is_some() && narrow) else {
            continue;
        };
        // A float from somewhere else than integers keeps its rounding as a node.
        let maker_reads_floats = graph.nodes[maker].inputs.iter().flatten().any(|v| graph.values[*v].is_float());
        let only_floats =
            maker_reads_floats && graph.nodes[maker].inputs.iter().flatten().all(|v| graph.values[*v].quant.is_none());
        if only_floats || graph.nodes[maker].op == Op::Cast {
            continue;
        }
        let (result, output) = (node.inputs[0].unwrap_or_default(), node.outputs[0]);
        let outputs = &mut graph.nodes[maker].outputs;
        outputs.iter_mut().filter(|o| **o == result).for_each(|o| *o = output);
        graph.nodes.remove(index);
        return true;
    }
    false
}
