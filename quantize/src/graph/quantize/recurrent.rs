//! Recurrent layers in codes: both matrices, in the order that the op has them in.

use super::coded::{hessian, single};
use crate::codes::{Coding, code_matrix_for};
use crate::graph::{Data, Graph, Op, Value, ValueId};
use crate::layers::{self, Affine, Code, Recurrent, gru_order, lstm_order, with_room_for_bias};

/// Whether a node is a recurrent layer with constant matrices.
pub fn is_layer(graph: &Graph, index: usize) -> bool {
    let node = &graph.nodes[index];
    let floats = |which| graph.input(node, which).is_some_and(|v| matches!(v.data, Some(Data::F32(_))));
    matches!(node.op, Op::Lstm { .. } | Op::Gru { .. }) && floats(1) && floats(2)
}

fn affine(graph: &Graph, id: Option<ValueId>) -> Affine {
    let quant = id.and_then(|id| graph.values[id].quant.as_ref()?.single());
    let (scale, zero) = quant.unwrap_or((1.0, 0));
    Affine { scale: scale.into(), zero_point: zero as i8 }
}

/// Gives a recurrent layer its coded matrices: their floats as the constants, the codes beside; without a coding, of 8 bits.
/// `met`: the rows that each meets, if codes are to be chosen by them.
pub fn code(graph: &mut Graph, index: usize, coding: Option<Coding>, met: Option<&[Vec<f32>; 2]>) {
    let node = &graph.nodes[index];
    let weights = [1, 2].map(|which| graph.input(node, which).cloned());
    let [Some(w), Some(r)] = weights else { return };
    let (Some(Data::F32(input)), Some(Data::F32(recurrent))) = (&w.data, &r.data) else { return };
    let coding = coding.unwrap_or(Coding::N8);
    let coder: Code<'_> = &|which, steps, rows, cols| match met.map(|m| &m[which]) {
        Some(met) if met.len() >= 2 * cols => {
            with_room_for_bias(code_matrix_for(steps, rows, cols, coding, &single(&hessian(met, cols)), &[], &[]))
        }
        _ => layers::code(steps, rows, cols, coding, None),
    };
    let (scales, rows) = ((affine(graph, node.inputs[0]), affine(graph, node.outputs.first().copied())), r.shape[0]);
    let zeros = vec![0.0; rows];
    let lstm = matches!(node.op, Op::Lstm { .. });
    let order: &[usize] = if lstm { &lstm_order::ONNX } else { &gru_order::ONNX };
    let layer = Recurrent { input, recurrent, input_bias: &zeros, recurrent_bias: &zeros, order };
    let coded = if lstm { layers::lstm(&layer, scales, coder) } else { layers::gru(&layer, scales, coder) };
    let both = [(&w, coded.input, coded.input_weights), (&r, coded.recurrent, coded.recurrent_weights)];
    for (which, (value, linear, floats)) in both.into_iter().enumerate() {
        graph.values.push(Value { data: Some(Data::F32(floats)), ..value.clone() });
        let id = graph.values.len() - 1;
        graph.coded.insert(id, linear.weights);
        graph.nodes[index].inputs[1 + which] = Some(id);
    }
}
