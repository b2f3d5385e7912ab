//! Cuts to a range move into the node whose result they cut.

use super::{Links, repeat};
use crate::graph::{Binary, Graph, Op, Unary};

/// The pass.
pub fn run(graph: &mut Graph) -> bool {
    repeat(graph, fuse)
}

fn fuse(graph: &mut Graph) -> bool {
    let links = Links::of(graph);
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let Op::Unary(Unary::Clip(min, max)) = node.op else { continue };
        let Some(maker) = links.only_maker(node, 0) else { continue };
        let takes = match &graph.nodes[maker].op {
            Op::Conv2d { .. } | Op::ConvTranspose2d { .. } | Op::FullyConnected | Op::Pool2d { .. } => true,
            Op::Binary(op) => matches!(op, Binary::Add | Binary::Sub | Binary::Mul),
            _ => false,
        };
        let (from, to) = (graph.input(node, 0), graph.output(node, 0));
        if !takes || from.map(|v| (&v.quant, v.dtype)) != to.map(|v| (&v.quant, v.dtype)) || node.clamp.is_some() {
            continue;
        }
        let [low, high] = graph.nodes[maker].clamp.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]);
        let cut = |x: f32| x.max(min).min(max);
        let outputs = graph.nodes[index].outputs.clone();
        graph.nodes[maker].clamp = Some([cut(low), cut(high)]);
        graph.nodes[maker].outputs = outputs;
        graph.nodes.remove(index);
        return true;
    }
    false
}
