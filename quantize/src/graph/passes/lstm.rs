//! One step of an LSTM written out as sums, gates and products becomes one node, if its hidden and cell state are the graph's
//! own: a runtime keeps cells in more bits than products of int8 would have.
//!
//! ```text
//! g = W x + R h + b, in four parts;  c' = sigmoid(f) * c + sigmoid(i) * tanh(g);  h' = sigmoid(o) * tanh(c')
//! ```

use super::{Links, float_constant, float_input, value_like};
use crate::graph::{Binary, Direction, Graph, Node, Op, Unary, Value, ValueId};

/// The pass.
pub fn run(graph: &mut Graph) -> bool {
    super::repeat(graph, |graph| {
        let links = Links::of(graph);
        let found = (0..graph.nodes.len()).find_map(|index| Search { graph, links: &links }.step(index));
        let Some(step) = found else { return false };
        fuse(graph, &step);
        true
    })
}

/// A step that was found.
struct Step {
    /// Index of the nodes that compute the next cells, and the next hidden state.
    nodes: [usize; 2],
    /// x, h, c.
    operands: [ValueId; 3],
    /// For x and for h, `[4 units, features]`.
    weights: [ValueId; 2],
    bias: Vec<f32>,
    /// First rows of the input, output, forget and cell gate.
    gates: [usize; 4],
    batch: usize,
    units: usize,
}

/// Two things in either order.
fn either<T: Copy>([a, b]: [T; 2]) -> impl Iterator<Item = [T; 2]> {
    [[a, b], [b, a]].into_iter()
}

struct Search<'g> {
    graph: &'g Graph,
    links: &'g Links,
}

impl<'g> Search<'g> {
    /// The node that makes a value, if it cuts no range.
    fn maker(&self, value: ValueId) -> Option<&'g Node> {
        self.links.makers[value].map(|m| &self.graph.nodes[m]).filter(|n| n.clamp.is_none())
    }

    /// The operands of a value that is this function of two.
    fn binary(&self, value: ValueId, op: Binary) -> Option<[ValueId; 2]> {
        let node = self.maker(value).filter(|n| n.op == Op::Binary(op))?;
        Some([node.inputs[0]?, node.inputs[1]?])
    }

    /// The operand of a value that is this function.
    fn unary(&self, value: ValueId, op: Unary) -> Option<ValueId> {
        self.maker(value).filter(|n| n.op == Op::Unary(op))?.inputs[0]
    }

    /// x and y of a value that is sigmoid(x) * tanh(y).
    fn gated(&self, value: ValueId) -> Option<(ValueId, ValueId)> {
        let both = self.binary(value, Binary::Mul)?;
        either(both).find_map(|[a, b]| Some((self.unary(a, Unary::Sigmoid)?, self.unary(b, Unary::Tanh)?)))
    }

    /// The value that this one is in another shape.
    fn unshaped(&self, value: ValueId) -> ValueId {
        match self.maker(value) {
            Some(Node { op: Op::Reshape, inputs, .. }) => inputs[0].map_or(value, |v| self.unshaped(v)),
            _ => value,
        }
    }

    /// The sum of all gates, and the first row of the part that a gate is.
    fn part(&self, value: ValueId, units: usize) -> Option<(ValueId, usize)> {
        let node = self.maker(value)?;
        let Op::Slice { starts, steps } = &node.op else { return None };
        let from = node.inputs[0]?;
        let (whole, part) = (&self.graph.values[from].shape, &self.graph.values[value].shape);
        let (last, before) = starts.split_last()?;
        let fits = whole.last() == Some(&(4 * units)) && part.last() == Some(&units) && steps.iter().all(|s| *s == 1);
        (fits && before.iter().all(|s| *s == 0) && whole[..before.len()] == part[..before.len()])
            .then_some((from, *last))
    }

    /// What is added up to a value: fully connected layers, and constants.
    fn terms(&self, value: ValueId, layers: &mut Vec<&'g Node>, bias: &mut [f32]) -> Option<()> {
        // A number, or one for each row.
        let mut add = |floats: &[f32]| {
            let fits = floats.len() == 1 || floats.len() == bias.len();
            bias.iter_mut().zip(floats.iter().cycle()).filter(|_| fits).for_each(|(b, x)| *b += x);
            fits.then_some(())
        };
        if let Some(floats) = super::floats(&self.graph.values[value]) {
            return add(floats);
        }
        if let Some(both) = self.binary(value, Binary::Add) {
            return both.into_iter().try_for_each(|v| self.terms(v, layers, bias));
        }
        let node = self.maker(value).filter(|n| n.op == Op::FullyConnected)?;
        if node.inputs.get(2).copied().flatten().is_some() {
            add(float_input(self.graph, node, 2)?)?;
        }
        float_input(self.graph, node, 1)?;
        layers.push(node);
        Some(())
    }

    /// Whether `before` is the state that `after` is written to.
    fn carried(&self, before: ValueId, after: ValueId) -> bool {
        let (before, after) = (self.unshaped(before), self.unshaped(after));
        self.graph.states.iter().any(|s| s.read == before && self.unshaped(s.write) == after)
    }

    /// The step whose next hidden state the node computes.
    fn step(&self, index: usize) -> Option<Step> {
        let (graph, node) = (self.graph, &self.graph.nodes[index]);
        let hidden = *node.outputs.first().filter(|o| graph.values[**o].is_float())?;
        let (output, cells) = self.gated(hidden)?;
        let sum = self.binary(cells, Binary::Add)?;
        let (forgotten, (input, new)) = either(sum).find_map(|[a, b]| Some((a, self.gated(b)?)))?;
        let (forget, before) = either(self.binary(forgotten, Binary::Mul)?)
            .find_map(|[a, b]| Some((self.unary(a, Unary::Sigmoid)?, b)).filter(|(_, c)| self.carried(*c, cells)))?;

        let units = *graph.values[hidden].shape.last()?;
        let batch = graph.values[hidden].count() / units.max(1);
        let parts = [input, output, forget, new].map(|v| self.part(v, units));
        let [Some((sum, _)), ..] = parts else { return None };
        let mut gates = [0; 4];
        for (gate, part) in gates.iter_mut().zip(parts) {
            *gate = part.filter(|(from, _)| *from == sum)?.1;
        }
        let (mut layers, mut bias) = (Vec::new(), vec![0.0; 4 * units]);
        self.terms(sum, &mut layers, &mut bias)?;
        let [a, b] = layers[..] else { return None };
        let [x, h] = either([a, b]).find(|[_, h]| h.inputs[0].is_some_and(|h| self.carried(h, hidden)))?;
        let rows = |n: &Node| graph.values[n.inputs[0].unwrap_or_default()].count() / self.columns(n);
        let fits = batch > 0 && rows(x) == batch && rows(h) == batch && self.columns(h) == units;
        let operands = [x.inputs[0]?, h.inputs[0]?, before];
        let weights = [x.inputs[1]?, h.inputs[1]?];
        let nodes = [self.links.makers[cells]?, index];
        fits.then_some(Step { nodes, operands, weights, bias, gates, batch, units })
    }

    /// Features that a fully connected layer takes.
    fn columns(&self, node: &Node) -> usize {
        self.graph.input(node, 1).and_then(|w| w.shape.last().copied()).unwrap_or(1).max(1)
    }
}

/// Rows of `4 units` in the order of the node's gates.
fn in_order(floats: &[f32], step: &Step) -> Vec<f32> {
    let columns = floats.len() / (4 * step.units);
    step.gates.iter().flat_map(|g| &floats[g * columns..(g + step.units) * columns]).copied().collect()
}

fn fuse(graph: &mut Graph, step: &Step) {
    let Step { nodes: [at_cells, at_hidden], operands, batch, units, .. } = *step;
    let (kind, name) = ("LSTM", graph.nodes[at_hidden].name.clone());
    let [cells, hidden] = [at_cells, at_hidden].map(|at| graph.nodes[at].outputs[0]);
    let weights = step.weights.map(|w| {
        let Value { name, shape, .. } = graph.values[w].clone();
        let floats = super::floats(&graph.values[w]).map(|f| in_order(f, step)).unwrap_or_default();
        float_constant(graph, name, &shape, floats)
    });
    let bias = float_constant(graph, format!("{name}.bias"), &[4 * units], in_order(&step.bias, step));
    let features = graph.values[operands[0]].count() / batch;
    let shapes = [vec![1, batch, features], vec![batch, units], vec![batch, units]];
    let first = graph.nodes.len();
    let [x, h, c] = [0, 1, 2].map(|i| {
        let shaped = value_like(graph, operands[i], &shapes[i]);
        graph.node("Reshape", &name, Op::Reshape, &[operands[i]], &[shaped]);
        shaped
    });
    let y = value_like(graph, hidden, &[1, batch, units]);
    let [h_next, c_next] = [hidden, cells].map(|v| value_like(graph, v, &[batch, units]));
    let op = Op::Lstm { direction: Direction::Forward };
    graph.node(kind, &name, op, &[x, weights[0], weights[1], bias, h, c], &[y, h_next, c_next]);
    // Whoever reads the states' next values does so as before.
    graph.node("Reshape", &name, Op::Reshape, &[c_next], &[cells]);
    let new: Vec<Node> = graph.nodes.drain(first..).collect();
    let reshape = Node { inputs: vec![Some(h_next)], outputs: vec![hidden], ..new[0].clone() };
    graph.nodes[at_hidden] = reshape;
    graph.nodes.splice(at_cells..=at_cells, new);
}
