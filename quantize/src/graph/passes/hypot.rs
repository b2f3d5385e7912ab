//! The root of the sum of two squares becomes one node: between the square and the root a number would need twice the bits.

use super::{Links, repeat, squared};
use crate::graph::{Binary, Graph, Node, Op, Unary, ValueId};

/// The pass.
pub fn run(graph: &mut Graph) -> bool {
    repeat(graph, |graph| {
        let links = Links::of(graph);
        let found = graph.nodes.iter().enumerate().find_map(|(index, node)| Some((index, legs(graph, &links, node)?)));
        let Some((index, legs)) = found else { return false };
        graph.nodes[index].op = Op::Binary(Binary::Hypot);
        graph.nodes[index].inputs = legs.map(Some).to_vec();
        true
    })
}

/// The two values that a node is the root of the squares of.
fn legs(graph: &Graph, links: &Links, node: &Node) -> Option<[ValueId; 2]> {
    let sum = &graph.nodes[links.maker(node, 0).filter(|_| node.op == Op::Unary(Unary::Sqrt))?];
    if sum.op != Op::Binary(Binary::Add) || sum.clamp.is_some() {
        return None;
    }
    let leg = |which| {
        let node = &graph.nodes[links.maker(sum, which)?];
        squared(graph, node).filter(|x| node.clamp.is_none() && graph.values[*x].is_float())
    };
    let legs = [leg(0)?, leg(1)?];
    // Not broadcast, nor a value with itself.
    let alike = legs.iter().all(|v| Some(&graph.values[*v].shape) == graph.output(node, 0).map(|y| &y.shape));
    (alike && legs[0] != legs[1]).then_some(legs)
}
