//! Sums of functions and functions of sums become one node, which needs no 8 bits for what lies between:
//!
//! ```text
//! sum(|x|) = L1       sum(x * x) = SumSquare     sqrt(SumSquare) = L2     log(sum(x)) = LogSum     log(sum(e^x)) = LogSumExp
//! e / sum(e) = softmax, e = e^x or e^(x - max(x));  log(softmax) = its logarithm
//! ```

use super::{Links, repeat};
use crate::graph::{Binary, Graph, Node, Op, Reduction, Unary, Value, ValueId};

/// The pass.
pub fn run(graph: &mut Graph) -> bool {
    repeat(graph, one)
}

/// What a node becomes, and of what.
type Found = (Op, ValueId);

fn one(graph: &mut Graph) -> bool {
    let links = Links::of(graph);
    let found = graph.nodes.iter().enumerate().find_map(|(index, node)| {
        let float = node.clamp.is_none() && graph.output(node, 0).is_some_and(Value::is_float);
        let new = match &node.op {
            Op::Reduce { kind: Reduction::Sum, axes } => of_terms(graph, &links, node, axes),
            Op::Unary(Unary::Sqrt | Unary::Log) => of_result(graph, &links, node),
            Op::Binary(Binary::Div) => softmax(graph, &links, node),
            _ => None,
        };
        new.filter(|_| float).map(|new| (index, new))
    });
    let Some((index, (op, x))) = found else { return false };
    let node = &mut graph.nodes[index];
    (node.op, node.inputs) = (op, vec![Some(x)]);
    true
}

/// The node that makes input `which`, if it cuts nothing off; what it reads.
fn before<'g>(graph: &'g Graph, links: &Links, node: &Node, which: usize) -> Option<(&'g Node, ValueId)> {
    let maker = &graph.nodes[links.only_maker(node, which)?];
    Some((maker, maker.inputs[0]?)).filter(|(maker, _)| maker.clamp.is_none())
}

/// A sum of absolute values or of squares.
fn of_terms(graph: &Graph, links: &Links, node: &Node, axes: &[usize]) -> Option<Found> {
    let squares = |n: &Node| n.op == Op::Binary(Binary::Mul) && n.inputs[0] == n.inputs[1];
    // A square reads its operand twice.
    let (terms, x) = before(graph, links, node, 0)?;
    let kind = match terms.op {
        Op::Unary(Unary::Abs) => Reduction::L1,
        Op::Unary(Unary::Square) => Reduction::SumSquare,
        _ if squares(terms) => Reduction::SumSquare,
        _ => return None,
    };
    Some((Op::Reduce { kind, axes: axes.to_vec() }, x))
}

/// The root or the logarithm of a sum, the logarithm of a softmax.
fn of_result(graph: &Graph, links: &Links, node: &Node) -> Option<Found> {
    let (inner, x) = before(graph, links, node, 0)?;
    let log = node.op == Op::Unary(Unary::Log);
    match &inner.op {
        Op::Reduce { kind: Reduction::SumSquare, axes } if !log => {
            Some((Op::Reduce { kind: Reduction::L2, axes: axes.clone() }, x))
        }
        Op::Reduce { kind: Reduction::Sum, axes } if log => {
            let exp = before(graph, links, inner, 0).filter(|(n, _)| n.op == Op::Unary(Unary::Exp));
            let (kind, x) = exp.map_or((Reduction::LogSum, x), |(_, x)| (Reduction::LogSumExp, x));
            Some((Op::Reduce { kind, axes: axes.clone() }, x))
        }
        Op::Softmax { axis, beta, log: false } if log => Some((Op::Softmax { axis: *axis, beta: *beta, log }, x)),
        _ => None,
    }
}

/// e / sum(e) along one dimension.
fn softmax(graph: &Graph, links: &Links, node: &Node) -> Option<Found> {
    let [Some(e), Some(sum)] = node.inputs[..] else { return None };
    let made = |v: ValueId| links.makers[v].map(|m| &graph.nodes[m]).filter(|n| n.clamp.is_none());
    let (exp, sum) = (made(e).filter(|n| n.op == Op::Unary(Unary::Exp))?, made(sum)?);
    let along = |n: &Node, kind: Reduction, of: ValueId| match &n.op {
        Op::Reduce { kind: k, axes } if *k == kind && axes.len() == 1 && n.inputs[0] == Some(of) => Some(axes[0]),
        _ => None,
    };
    let axis = along(sum, Reduction::Sum, e)?;
    let rank = |v: ValueId| graph.values[v].shape.len();
    let x = exp.inputs[0]?;
    // The largest may have been taken away before, which changes nothing.
    let less = made(x).filter(|n| n.op == Op::Binary(Binary::Sub)).and_then(|n| match n.inputs[..] {
        [Some(x), Some(max)] => (along(made(max)?, Reduction::Max, x)? == axis).then_some(x),
        _ => None,
    });
    let x = less.unwrap_or(x);
    let kept = rank(*sum.outputs.first()?) == rank(e) && graph.values[x].shape == graph.values[e].shape;
    kept.then_some((Op::Softmax { axis, beta: 1.0, log: false }, x))
}
