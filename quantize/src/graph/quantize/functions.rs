//! Functions of single elements that follow each other, with constant numbers, become one ([`Op::Function`]): on the device a
//! table, where nothing between is rounded to 8 bits.

use super::ranges::is_activation;
use super::{DType, Graph, Node, Op, Value, ValueId};
use std::collections::BTreeSet;

/// Nodes of one function, at most.
const MOST: usize = 64;

/// The change.
pub fn run(graph: &mut Graph) {
    for root in (0..graph.nodes.len()).rev() {
        if let Some((nodes, x)) = region(graph, root) {
            let function = function(graph, &nodes, root, x);
            let node = &mut graph.nodes[root];
            (node.op, node.inputs, node.clamp) = (Op::Function(Box::new(function)), vec![Some(x)], None);
        }
    }
    graph.prune();
}

/// What a node reads that is no constant, if it computes each element of its result from one element of each, and from
/// constant numbers.
fn operands(graph: &Graph, node: &Node) -> Option<Vec<ValueId>> {
    if !matches!(node.op, Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast) {
        return None;
    }
    let made = graph.output(node, 0)?;
    let mut read = Vec::new();
    for id in node.inputs.iter().flatten() {
        let value = &graph.values[*id];
        match &value.data {
            Some(_) if value.count() == 1 && value.quant.is_none() => {}
            None if value.count() == made.count() => read.push(*id),
            _ => return None,
        }
    }
    let between = |value: &Value| is_activation(value) || value.dtype == DType::Bool;
    let all = read.iter().map(|id| &graph.values[*id]).chain([made]).all(between);
    (all && !read.is_empty()).then_some(read)
}

/// The largest set of nodes that together are a function of one value of floats, node `root` the last; and that value.
fn region(graph: &Graph, root: usize) -> Option<(BTreeSet<usize>, ValueId)> {
    if !is_activation(graph.output(&graph.nodes[root], 0)?) {
        return None;
    }
    let maker = |id: ValueId| graph.nodes[..root].iter().rposition(|n| n.outputs.contains(&id));
    let mut nodes = BTreeSet::from([root]);
    let mut read: BTreeSet<ValueId> = operands(graph, &graph.nodes[root])?.into_iter().collect();
    let mut best = None;
    loop {
        if let (1, Some(x), 2..) = (read.len(), read.first(), nodes.len())
            && is_activation(&graph.values[*x])
        {
            best = Some((nodes.clone(), *x));
        }
        // The last that is made: no other follows from one before it.
        let last = read.iter().filter_map(|id| Some((maker(*id)?, *id))).max();
        let Some((index, id)) = last.filter(|_| nodes.len() < MOST) else { return best };
        let Some(more) = operands(graph, &graph.nodes[index]) else { return best };
        read.remove(&id);
        read.extend(more);
        nodes.insert(index);
    }
}

/// The nodes as a graph of their own, of single elements.
fn function(graph: &Graph, nodes: &BTreeSet<usize>, root: usize, x: ValueId) -> Graph {
    let mut f = Graph { values: graph.values.clone(), inputs: vec![x], ..Graph::default() };
    f.outputs = graph.nodes[root].outputs.clone();
    f.nodes = nodes.iter().map(|index| graph.nodes[*index].clone()).collect();
    f.compact();
    for value in &mut f.values {
        value.shape = if value.data.is_some() { vec![] } else { vec![1] };
    }
    f
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Binary, Data, Tensor, Unary, eval};

    /// x tanh(ln(1 + e^x)) is one node of the same numbers; a sum with another activation is none.
    #[test]
    fn a_chain_is_one_function() {
        let mut g = Graph::default();
        let x = g.value("x", &[2, 3], DType::F32);
        let one = g.constant("1", Tensor::floats(&[1], vec![1.0]));
        let [e, sum, log, gate, y, z] = ["e", "sum", "log", "gate", "y", "z"].map(|n| g.value(n, &[2, 3], DType::F32));
        let other = g.value("other", &[2, 3], DType::F32);
        g.node("Exp", "e", Op::Unary(Unary::Exp), &[x], &[e]);
        g.node("Add", "sum", Op::Binary(Binary::Add), &[one, e], &[sum]);
        g.node("Log", "log", Op::Unary(Unary::Log), &[sum], &[log]);
        g.node("Tanh", "gate", Op::Unary(Unary::Tanh), &[log], &[gate]);
        g.node("Mul", "y", Op::Binary(Binary::Mul), &[x, gate], &[y]);
        g.node("Add", "z", Op::Binary(Binary::Add), &[y, other], &[z]);
        (g.inputs, g.outputs) = (vec![x, other], vec![z]);
        let inputs = [vec![-2.0, -1.0, -0.5, 0.0, 1.0, 3.0], vec![0.5; 6]].map(|v| Tensor::floats(&[2, 3], v));
        let before = eval::run(&g, &inputs).unwrap();
        run(&mut g);
        let kinds: Vec<bool> = g.nodes.iter().map(|n| matches!(n.op, Op::Function(_))).collect();
        assert_eq!(kinds, [true, false]);
        assert_eq!(eval::run(&g, &inputs).unwrap(), before);
        let Data::F32(values) = &before[0].data else { panic!("floats") };
        assert!((values[5] - (3.0 * (1f32 + 3f32.exp()).ln().tanh() + 0.5)).abs() < 1e-6);
    }
}
