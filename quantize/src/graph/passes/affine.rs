//! Additions and multiplications by constants, a number a channel, go into the weights beside them: batch normalisation,
//! biases, scaled inputs.
//!
//! Behind a layer: `(W x + b) * k + a = (k W) x + (k b + a)`, k by output channel. Before one: `W (x * k) = (W k) x`, k by
//! input channel; `W (x + a) = W x + W a`, but only where no window reaches over the image's edge, for beyond it there is
//! zero and not a.

use super::{Links, float_constant, float_input, per_channel, repeat};
use crate::graph::{Binary, Graph, Node, Op};

/// The pass.
pub fn run(graph: &mut Graph) -> bool {
    repeat(graph, behind) | repeat(graph, before)
}

/// What a node does to each channel of its other input: `x * factor + term`.
struct Affine {
    /// Which input is x.
    x: usize,
    /// A number a channel, or one.
    factor: Vec<f32>,
    /// A number a channel, or one.
    term: Vec<f32>,
}

impl Affine {
    fn of(graph: &Graph, node: &Node) -> Option<Self> {
        let Op::Binary(op) = node.op else { return None };
        let output = graph.output(node, 0).filter(|v| v.is_float())?;
        let x = usize::from(float_input(graph, node, 0).is_some());
        let (from, k) = (graph.input(node, x)?, graph.input(node, 1 - x)?);
        let channels = *output.shape.last()?;
        if from.shape != output.shape
            || !from.is_float()
            || !per_channel(k, channels)
            || k.shape.len() > from.shape.len()
        {
            return None;
        }
        let k = float_input(graph, node, 1 - x)?;
        let map = |f: fn(f32) -> f32| k.iter().map(|k| f(*k)).collect();
        let (factor, term) = match (op, x) {
            (Binary::Add, _) => (vec![1.0], k.to_vec()),
            (Binary::Sub, 0) => (vec![1.0], map(|k| -k)),
            (Binary::Sub, _) => (vec![-1.0], k.to_vec()),
            (Binary::Mul, _) => (k.to_vec(), vec![0.0]),
            (Binary::Div, 0) if k.iter().all(|k| *k != 0.0) => (map(|k| 1.0 / k), vec![0.0]),
            _ => return None,
        };
        Some(Self { x, factor, term })
    }
}

/// Number `i` of a number a channel, or one for all.
fn at(numbers: &[f32], i: usize) -> f32 {
    numbers[i % numbers.len()]
}

/// The layers with weights [out, .., in] and a bias.
fn is_layer(op: &Op) -> bool {
    matches!(op, Op::Conv2d { .. } | Op::ConvTranspose2d { .. } | Op::FullyConnected)
}

/// Weights and bias (zeros if there is none) of a layer of floats.
fn layer(graph: &Graph, node: &Node) -> Option<(Vec<f32>, Vec<f32>)> {
    if !is_layer(&node.op) || !graph.input(node, 1)?.is_float() {
        return None;
    }
    let weights = float_input(graph, node, 1)?.to_vec();
    let out = *graph.input(node, 1)?.shape.first()?;
    let bias = match node.inputs.get(2).copied().flatten() {
        Some(_) => float_input(graph, node, 2)?.to_vec(),
        None => vec![0.0; out],
    };
    (bias.len() == out && out > 0).then_some((weights, bias))
}

/// Gives a layer new weights and a bias, as new constants: others may read the old ones.
fn set_layer(graph: &mut Graph, index: usize, weights: Vec<f32>, bias: Vec<f32>) {
    let Some(old) = graph.nodes[index].inputs[1].map(|w| &graph.values[w]) else { return };
    let (name, shape) = (old.name.clone(), old.shape.clone());
    let bias_name = match graph.input(&graph.nodes[index], 2) {
        Some(bias) => bias.name.clone(),
        None => format!("{name}.bias"),
    };
    let weights = float_constant(graph, name, &shape, weights);
    let bias = float_constant(graph, bias_name, &shape[..1], bias);
    let node = &mut graph.nodes[index];
    node.inputs.truncate(1);
    node.inputs.extend([Some(weights), Some(bias)]);
}

fn behind(graph: &mut Graph) -> bool {
    let links = Links::of(graph);
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let Some(affine) = Affine::of(graph, node) else { continue };
        let Some(maker) = links.only_maker(node, affine.x).filter(|m| graph.nodes[*m].clamp.is_none()) else {
            continue;
        };
        let Some((mut weights, mut bias)) = layer(graph, &graph.nodes[maker]) else { continue };
        let row = weights.len() / bias.len();
        for (o, bias) in bias.iter_mut().enumerate() {
            let factor = at(&affine.factor, o);
            weights[o * row..][..row].iter_mut().for_each(|w| *w *= factor);
            *bias = *bias * factor + at(&affine.term, o);
        }
        let (clamp, outputs) = (node.clamp, node.outputs.clone());
        set_layer(graph, maker, weights, bias);
        graph.nodes[maker].clamp = clamp;
        graph.nodes[maker].outputs = outputs;
        graph.nodes.remove(index);
        return true;
    }
    false
}

fn before(graph: &mut Graph) -> bool {
    let links = Links::of(graph);
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let Some(maker) = links.only_maker(node, 0) else { continue };
        let Some(affine) = Affine::of(graph, &graph.nodes[maker]).filter(|_| graph.nodes[maker].clamp.is_none()) else {
            continue;
        };
        let Some((mut weights, mut bias)) = layer(graph, node) else { continue };
        let edges = match &node.op {
            Op::Conv2d { window, .. } => window.before != [0; 2] || window.after != [0; 2],
            Op::ConvTranspose2d { .. } => true,
            _ => false,
        };
        if edges && affine.term.iter().any(|t| *t != 0.0) {
            continue;
        }
        let Some(w) = graph.input(node, 1) else { continue };
        let (row, per_tap) = (weights.len() / bias.len(), *w.shape.last().unwrap_or(&1));
        let groups = if let Op::Conv2d { groups, .. } = node.op { groups } else { 1 };
        let per_group = bias.len() / groups.max(1);
        for (o, bias) in bias.iter_mut().enumerate() {
            let first = o / per_group.max(1) * per_tap;
            let mut sum = 0f64;
            for (i, w) in weights[o * row..][..row].iter_mut().enumerate() {
                let channel = first + i % per_tap;
                sum += f64::from(*w) * f64::from(at(&affine.term, channel));
                *w *= at(&affine.factor, channel);
            }
            *bias += sum as f32;
        }
        let from = graph.nodes[maker].inputs[affine.x];
        set_layer(graph, index, weights, bias);
        graph.nodes[index].inputs[0] = from;
        graph.nodes.remove(maker);
        return true;
    }
    false
}
