//! A product with a constant matrix is a fully connected layer.

use super::{permute_data, permute_quant, repeat};
use crate::graph::{Graph, Op, Value};

/// The pass.
pub fn run(graph: &mut Graph) -> bool {
    repeat(graph, |graph| {
        for index in 0..graph.nodes.len() {
            let node = &graph.nodes[index];
            let Op::MatMul { transposed } = node.op else { continue };
            let (Some(x), Some(y)) = (graph.input(node, 0), graph.input(node, 1)) else { continue };
            let (&[rows, cols], Some(data)) = (&y.shape[..], &y.data) else { continue };
            if x.shape.len() < 2 || x.data.is_some() || node.inputs.len() != 2 {
                continue;
            }
            let perm: &[usize] = if transposed { &[0, 1] } else { &[1, 0] };
            let weights = Value {
                name: y.name.clone(),
                shape: perm.iter().map(|d| [rows, cols][*d]).collect(),
                dtype: y.dtype,
                quant: permute_quant(y.quant.as_ref(), perm),
                data: Some(permute_data(&[rows, cols], perm, data)),
            };
            // Zero points by column cannot be told apart from those by row once they are gone.
            if weights.quant.is_none() != y.quant.is_none() {
                continue;
            }
            graph.values.push(weights);
            let id = graph.values.len() - 1;
            let node = &mut graph.nodes[index];
            node.inputs[1] = Some(id);
            node.op = Op::FullyConnected;
            return true;
        }
        false
    })
}
