//! Layer norm written out as means, differences and a root becomes one node.
//!
//! ```text
//! m = mean(x);  d = x - m;  v = mean(d * d);  y = d / sqrt(v + epsilon);  (y * gain);  (+ bias)
//! ```

use super::{Links, float_constant, float_input, repeat, scalar_input};
use crate::graph::{Binary, Graph, Node, NormKind, Op, Reduction, Unary, ValueId};

/// The pass.
pub fn run(graph: &mut Graph) -> bool {
    repeat(graph, norm) | repeat(graph, gain_and_bias)
}

/// The operands of a node that is this function of two.
fn binary(node: &Node, op: Binary) -> Option<[ValueId; 2]> {
    match node.inputs[..] {
        [Some(x), Some(y)] if node.op == Op::Binary(op) && node.clamp.is_none() => Some([x, y]),
        _ => None,
    }
}

/// x and the first of the dimensions that the node takes the mean over: all from there on.
fn mean(graph: &Graph, node: &Node) -> Option<(ValueId, usize)> {
    let Op::Reduce { kind: Reduction::Mean, axes } = &node.op else { return None };
    let x = node.inputs[0]?;
    let (rank, first) = (graph.values[x].shape.len(), *axes.iter().min()?);
    let kept = graph.output(node, 0)?.shape.len() == rank;
    (kept && axes.len() == rank - first && (first..rank).all(|d| axes.contains(&d))).then_some((x, first))
}

fn norm(graph: &mut Graph) -> bool {
    let links = Links::of(graph);
    let node = |v: ValueId| links.makers[v].map(|m| &graph.nodes[m]);
    // x and the first dimension, for a value that is x less its mean.
    let centred = |v: ValueId| {
        let [x, m] = binary(node(v)?, Binary::Sub)?;
        let (of, axis) = mean(graph, node(m)?)?;
        (of == x).then_some((x, axis))
    };
    let squared = |v: ValueId| match (&node(v)?.op, &node(v)?.inputs[..]) {
        // The difference may have been computed twice.
        (Op::Binary(Binary::Mul), [Some(a), Some(b)]) if centred(*a)? == centred(*b)? => Some(*a),
        _ => super::squared(graph, node(v)?),
    };
    let found = graph.nodes.iter().enumerate().find_map(|(index, last)| {
        let [d, root] = binary(last, Binary::Div)?;
        let (x, axis) = centred(d)?;
        let root = node(root).filter(|n| n.op == Op::Unary(Unary::Sqrt))?;
        let sum = node(root.inputs[0]?)?;
        let [a, b] = binary(sum, Binary::Add)?;
        let (variance, epsilon) = match (scalar_input(graph, sum, 0), scalar_input(graph, sum, 1)) {
            (_, Some(epsilon)) => (a, epsilon),
            (Some(epsilon), _) => (b, epsilon),
            _ => return None,
        };
        let (square, over) = mean(graph, node(variance)?)?;
        let whole = over == axis && centred(squared(square)?)? == (x, axis) && graph.values[x].is_float();
        whole.then_some((index, x, axis, epsilon))
    });
    let Some((index, x, axis, epsilon)) = found else { return false };
    graph.nodes[index].op = Op::Norm { kind: NormKind::Layer { axis }, epsilon };
    graph.nodes[index].kind = "LayerNormalization".into();
    graph.nodes[index].inputs = vec![Some(x)];
    true
}

/// A multiplication behind a norm is its gain, an addition behind that its bias.
fn gain_and_bias(graph: &mut Graph) -> bool {
    let links = Links::of(graph);
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let slot = match node.op {
            Op::Binary(Binary::Mul) => 1,
            Op::Binary(Binary::Add) => 2,
            _ => continue,
        };
        let x = usize::from(float_input(graph, node, 0).is_some());
        let Some(maker) = links.only_maker(node, x) else { continue };
        let (before, from) = (&graph.nodes[maker], graph.input(node, x));
        let Op::Norm { kind: NormKind::Layer { axis }, .. } = before.op else { continue };
        let free = before.inputs.get(slot).copied().flatten().is_none();
        // A bias first and a gain then would scale the bias, too.
        let in_order = slot == 2 || before.inputs.get(2).copied().flatten().is_none();
        let (Some(from), Some(k)) = (from, float_input(graph, node, 1 - x)) else { continue };
        if !free || !in_order || graph.output(node, 0).map(|v| &v.shape) != Some(&from.shape) || before.clamp.is_some()
        {
            continue;
        }
        let shape = from.shape[axis..].to_vec();
        let given = graph.input(node, 1 - x).map(|v| v.shape.clone()).unwrap_or_default();
        let given: Vec<_> = given.into_iter().skip_while(|d| *d == 1).collect();
        let wanted: Vec<_> = shape.iter().copied().skip_while(|d| *d == 1).collect();
        let k = match k {
            [one] => vec![*one; shape.iter().product()],
            k if given == wanted => k.to_vec(),
            _ => continue,
        };
        let name = graph.input(node, 1 - x).map(|v| v.name.clone()).unwrap_or_default();
        let (clamp, outputs) = (node.clamp, node.outputs.clone());
        let constant = float_constant(graph, name, &shape, k);
        let norm = &mut graph.nodes[maker];
        norm.inputs.resize(norm.inputs.len().max(slot + 1), None);
        norm.inputs[slot] = Some(constant);
        norm.outputs = outputs;
        norm.clamp = clamp;
        graph.nodes.remove(index);
        return true;
    }
    false
}
