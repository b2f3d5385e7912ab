//! `x sigmoid(x)` becomes Silu; `x clip(x + 3, 0, 6) / 6`, however it is written, HardSwish.

use super::{Links, repeat, scalar_input};
use crate::graph::{Binary, Graph, Node, Op, Unary, Value, ValueId};

/// The pass.
pub fn run(graph: &mut Graph) -> bool {
    repeat(graph, find)
}

/// A sixth as a float, from whichever side it was computed.
fn is_sixth(x: f32) -> bool {
    (x - 1.0 / 6.0).abs() < 1e-6
}

fn find(graph: &mut Graph) -> bool {
    let links = Links::of(graph);
    let shown = Shown { graph, links: &links };
    let found = (0..graph.nodes.len()).find_map(|i| Some((i, shown.swish(&graph.nodes[i])?)));
    let Some((index, (x, function))) = found else { return false };
    let node = &mut graph.nodes[index];
    node.op = Op::Unary(function);
    node.inputs = vec![Some(x)];
    true
}

struct Shown<'g> {
    graph: &'g Graph,
    links: &'g Links,
}

impl Shown<'_> {
    fn maker(&self, value: ValueId) -> Option<&Node> {
        self.links.makers[value].map(|m| &self.graph.nodes[m])
    }

    /// Both operands of a product, in both orders.
    fn factors(&self, node: &Node) -> Option<[(ValueId, ValueId); 2]> {
        match node.inputs[..] {
            [Some(x), Some(y)] if node.op == Op::Binary(Binary::Mul) && node.clamp.is_none() => Some([(x, y), (y, x)]),
            _ => None,
        }
    }

    /// x, if the node is `x * sixth` or `x / 6`.
    fn sixth(&self, node: &Node) -> Option<ValueId> {
        let number = |which| scalar_input(self.graph, node, which);
        match node.op {
            Op::Binary(Binary::Div) if number(1) == Some(6.0) && node.clamp.is_none() => node.inputs[0],
            Op::Binary(Binary::Mul) if number(1).is_some_and(is_sixth) && node.clamp.is_none() => node.inputs[0],
            Op::Binary(Binary::Mul) if number(0).is_some_and(is_sixth) && node.clamp.is_none() => node.inputs[1],
            _ => None,
        }
    }

    /// Whether `gate` is clip(x + 3, 0, 6).
    fn is_relu6_of_sum(&self, gate: ValueId, x: ValueId) -> bool {
        let three = |node: &Node| {
            let number = |which| scalar_input(self.graph, node, which) == Some(3.0);
            node.op == Op::Binary(Binary::Add)
                && (number(1) && node.inputs[0] == Some(x) || number(0) && node.inputs[1] == Some(x))
        };
        self.maker(gate).is_some_and(|clip| match clip.op {
            Op::Unary(Unary::Clip(0.0, 6.0)) => clip.inputs[0].and_then(|s| self.maker(s)).is_some_and(three),
            Op::Binary(Binary::Add) => clip.clamp == Some([0.0, 6.0]) && three(clip),
            _ => false,
        })
    }

    fn swish(&self, node: &Node) -> Option<(ValueId, Unary)> {
        // All of it divided at the end.
        let product = self.sixth(node).and_then(|v| self.maker(v)).and_then(|n| self.factors(n));
        let gated = |(x, gate): &(ValueId, ValueId)| self.is_relu6_of_sum(*gate, *x).then_some((*x, Unary::HardSwish));
        let last = product.and_then(|both| both.iter().find_map(gated));
        let here = || {
            self.factors(node)?.iter().find_map(|(x, gate)| {
                let maker = self.maker(*gate)?;
                match maker.op {
                    Op::Unary(Unary::Sigmoid) if maker.inputs[0] == Some(*x) => Some((*x, Unary::Silu)),
                    Op::Unary(Unary::HardSigmoid(alpha, 0.5)) if is_sixth(alpha) && maker.inputs[0] == Some(*x) => {
                        Some((*x, Unary::HardSwish))
                    }
                    // The gate, or x, divided before.
                    _ => {
                        let gate_over = self.sixth(maker).filter(|gate| self.is_relu6_of_sum(*gate, *x));
                        let x_over =
                            self.maker(*x).and_then(|m| self.sixth(m)).filter(|x| self.is_relu6_of_sum(*gate, *x));
                        gate_over.map(|_| *x).or(x_over).map(|x| (x, Unary::HardSwish))
                    }
                }
            })
        };
        let (x, function) = last.or_else(here)?;
        (self.graph.values[x].is_float() && self.graph.output(node, 0).is_some_and(Value::is_float))
            .then_some((x, function))
    }
}
