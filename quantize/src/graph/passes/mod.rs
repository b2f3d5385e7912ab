//! Passes: changes of a graph that keep what it computes, and take away what need not be computed on the device.
//!
//! A pass is one file and one row in [`PASSES`]. It looks for a place where its rule holds, changes that, and says whether it
//! did; [`run`] goes through the table until none does. Passes take integer graphs, too: there they change no bit.

mod activations;
mod affine;
mod constants;
mod dead_channels;
mod dense;
mod duplicates;
mod hypot;
mod identities;
mod layer_norm;
mod layout;
mod lstm;
mod padding;
mod qdq;
mod reshapes;
mod states;
mod sums;
mod swish;
#[cfg(test)]
mod tests;

use super::{Binary, Data, Graph, Node, Op, Quant, Tensor, Unary, Value, ValueId};

pub use layout::channels_last;

/// Changes a graph, and says whether it did.
pub type Pass = fn(&mut Graph) -> bool;

/// All passes by name, in the order in which they run.
pub const PASSES: [(&str, Pass); 17] = [
    ("integers on values", qdq::run),
    ("constant folding", constants::run),
    ("identities", identities::run),
    ("reshapes", reshapes::run),
    ("layout", layout::run),
    ("common subexpressions", duplicates::run),
    ("layer norm", layer_norm::run),
    ("swish", swish::run),
    ("hypot", hypot::run),
    ("sums", sums::run),
    ("matmul to fully connected", dense::run),
    ("affine folding", affine::run),
    ("activations", activations::run),
    ("padding", padding::run),
    ("packed states", states::run),
    ("lstm", lstm::run),
    ("dead channels", dead_channels::run),
];

/// Rounds over the table, at most; each takes away what the one before has uncovered. Nets need three or four.
const ROUNDS: usize = 32;

/// Runs all passes until none finds anything.
pub fn run(graph: &mut Graph) {
    for _ in 0..ROUNDS {
        let mut changed = false;
        for (_, pass) in PASSES {
            changed |= pass(graph);
            graph.prune();
        }
        if !changed {
            break;
        }
    }
}

/// Applies a rule until it finds no place any more.
fn repeat(graph: &mut Graph, rule: impl Fn(&mut Graph) -> bool) -> bool {
    // Every rule takes away a node or moves one towards the outputs: the bound is for what nobody thought of.
    let most = 16 * (graph.nodes.len() + 16);
    (0..most).take_while(|_| rule(graph)).count() > 0
}

/// Who makes and who reads the values of a graph, as it was when this was made.
struct Links {
    /// Index of the node that makes a value.
    makers: Vec<Option<usize>>,
    /// How often a value is read.
    uses: Vec<usize>,
}

impl Links {
    fn of(graph: &Graph) -> Self {
        let mut makers = vec![None; graph.values.len()];
        for (index, node) in graph.nodes.iter().enumerate() {
            node.outputs.iter().for_each(|o| makers[*o] = Some(index));
        }
        Self { makers, uses: graph.uses() }
    }

    /// The node that makes input `which` of `node`.
    fn maker(&self, node: &Node, which: usize) -> Option<usize> {
        self.makers[(*node.inputs.get(which)?)?]
    }

    /// The node that makes input `which` of `node`, which nobody else reads.
    fn only_maker(&self, node: &Node, which: usize) -> Option<usize> {
        let value = (*node.inputs.get(which)?)?;
        (self.uses[value] == 1).then(|| self.makers[value]).flatten()
    }

    /// The nodes that read a value.
    fn readers<'g>(&self, graph: &'g Graph, value: ValueId) -> impl Iterator<Item = (usize, &'g Node)> {
        graph.nodes.iter().enumerate().filter(move |(_, n)| n.inputs.contains(&Some(value)))
    }
}

/// Makes everybody who reads `old` read `new`. False, and nothing changed, if a graph's output or a state's next would
/// become an input, a constant, or another's.
fn replace(graph: &mut Graph, old: ValueId, new: ValueId) -> bool {
    let leaves = |graph: &Graph, v: &ValueId| graph.outputs.contains(v) || graph.states.iter().any(|s| s.write == *v);
    if leaves(graph, &old) {
        let made = graph.nodes.iter().any(|n| n.outputs.contains(&new));
        if !made || leaves(graph, &new) {
            return false;
        }
        graph.values[new].name = graph.values[old].name.clone();
    }
    let all = graph.nodes.iter_mut().flat_map(|n| n.inputs.iter_mut().flatten());
    let ends = graph.outputs.iter_mut().chain(graph.states.iter_mut().map(|s| &mut s.write));
    all.chain(ends).filter(|v| **v == old).for_each(|v| *v = new);
    true
}

/// Adds a value like `like` of another shape.
fn value_like(graph: &mut Graph, like: ValueId, shape: &[usize]) -> ValueId {
    let (like, shape) = (&graph.values[like], shape.to_vec());
    let value = Value { name: like.name.clone(), shape, dtype: like.dtype, quant: like.quant.clone(), data: None };
    graph.values.push(value);
    graph.values.len() - 1
}

/// The floats of a constant that are no integers' stand-ins.
fn floats(value: &Value) -> Option<&[f32]> {
    match &value.data {
        Some(Data::F32(floats)) => Some(floats),
        _ => None,
    }
}

/// The floats of input `which` of a node, if that is a constant.
fn float_input<'g>(graph: &'g Graph, node: &Node, which: usize) -> Option<&'g [f32]> {
    floats(graph.input(node, which)?)
}

/// The number that input `which` of a node is, if it is a constant float of one element.
fn scalar_input(graph: &Graph, node: &Node, which: usize) -> Option<f32> {
    match float_input(graph, node, which)? {
        [one] => Some(*one),
        _ => None,
    }
}

/// What a node squares: x x, x^2.
fn squared(graph: &Graph, node: &Node) -> Option<ValueId> {
    let square = match (&node.op, &node.inputs[..]) {
        (Op::Unary(Unary::Square), _) => true,
        (Op::Binary(Binary::Mul), [a, b]) => a == b,
        (Op::Binary(Binary::Pow), _) => scalar_input(graph, node, 1) == Some(2.0),
        _ => false,
    };
    node.inputs[0].filter(|_| square)
}

/// Adds a constant of floats.
fn float_constant(graph: &mut Graph, name: String, shape: &[usize], floats: Vec<f32>) -> ValueId {
    graph.constant(name, Tensor { shape: shape.to_vec(), data: Data::F32(floats) })
}

/// `perm` of the inverse permutation.
fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(to, from)| inverse[*from] = to);
    inverse
}

/// Elements of `shape` in the order of the permuted array: dimension i of the result is dimension `perm[i]`.
fn permute<T: Copy>(shape: &[usize], perm: &[usize], elements: &[T]) -> Vec<T> {
    let mut strides = vec![1; shape.len()];
    (1..shape.len()).rev().for_each(|d| strides[d - 1] = strides[d] * shape[d]);
    let mut out = Vec::with_capacity(elements.len());
    let mut at = vec![0; shape.len()];
    for _ in 0..elements.len() {
        out.push(elements[at.iter().zip(perm).map(|(i, from)| i * strides[*from]).sum::<usize>()]);
        for d in (0..perm.len()).rev() {
            at[d] += 1;
            if at[d] < shape[perm[d]] {
                break;
            }
            at[d] = 0;
        }
    }
    out
}

/// Elements of an array in the order of the permuted one.
fn permute_data(shape: &[usize], perm: &[usize], data: &Data) -> Data {
    match data {
        Data::F32(floats) => Data::F32(permute(shape, perm, floats)),
        Data::Int(ints) => Data::Int(permute(shape, perm, ints)),
    }
}

/// What `quant` is after a transposition by `perm`.
fn permute_quant(quant: Option<&Quant>, perm: &[usize]) -> Option<Quant> {
    let mut quant = quant?.clone();
    if quant.single().is_none() {
        quant.axis = perm.iter().position(|d| *d == quant.axis)?;
    }
    Some(quant)
}

/// Whether a dimension that channels are counted along is the last, for ops that count them there: a constant that is
/// broadcast along the last dimension only, to `channels` or one element.
fn per_channel(value: &Value, channels: usize) -> bool {
    let (last, rest) = value.shape.split_last().unwrap_or((&1, &[]));
    rest.iter().all(|d| *d == 1) && (*last == 1 || *last == channels)
}

/// Whether the node computes each element from one element of input 0 and nothing else.
fn is_elementwise(op: &Op) -> bool {
    matches!(op, Op::Unary(_))
}
