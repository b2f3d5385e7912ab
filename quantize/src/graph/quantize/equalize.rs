//! Cross-layer equalisation: one layer's channels divided by what the next layer's columns are multiplied by, so that
//! both use their grids alike (Nagel et al. 2019, "Data-free quantization through weight equalization and bias
//! correction", section 4.1). What the graph computes stays: between the two are only functions with `f(s x) = s f(x)`, s > 0.

use crate::graph::{Data, Graph, Op, Reduction, Unary, ValueId};

/// Rounds over all pairs of layers; the scales of long chains settle after a few.
const ROUNDS: usize = 8;

/// Equalises all pairs of layers of a float graph. Returns how many there are.
pub fn equalize(graph: &mut Graph) -> usize {
    own_weights(graph);
    let pairs: Vec<_> = (0..graph.nodes.len()).filter_map(|i| Some((i, next(graph, i)?))).collect();
    for _ in 0..ROUNDS {
        for (first, second) in &pairs {
            pair(graph, *first, *second);
        }
    }
    pairs.len()
}

/// Gives each layer constants of its own.
fn own_weights(graph: &mut Graph) {
    let Graph { nodes, values, .. } = graph;
    for node in nodes.iter_mut().filter(|n| is_layer(&n.op)) {
        for input in node.inputs[1..].iter_mut().flatten() {
            values.push(values[*input].clone());
            *input = values.len() - 1;
        }
    }
}

fn is_layer(op: &Op) -> bool {
    matches!(op, Op::Conv2d { .. } | Op::ConvTranspose2d { .. } | Op::FullyConnected)
}

fn floats(graph: &Graph, id: Option<ValueId>) -> Option<&[f32]> {
    match &graph.values[id?].data {
        Some(Data::F32(floats)) => Some(floats),
        _ => None,
    }
}

/// The layer that alone reads what layer `first` gives, through functions that scale.
fn next(graph: &Graph, first: usize) -> Option<usize> {
    let uses = graph.uses();
    let homogeneous = |clamp: Option<[f32; 2]>| clamp.is_none_or(|c| c == [0.0, f32::INFINITY]);
    let layer = &graph.nodes[first];
    let constant = |i: usize| {
        let inputs = &graph.nodes[i].inputs;
        inputs[1..].iter().flatten().all(|id| floats(graph, Some(*id)).is_some())
    };
    if !is_layer(&layer.op) || !homogeneous(layer.clamp) || !constant(first) {
        return None;
    }
    let mut value = layer.outputs[0];
    loop {
        let index = graph.nodes.iter().position(|n| n.inputs.contains(&Some(value))).filter(|_| uses[value] == 1)?;
        let node = &graph.nodes[index];
        let channels = *graph.values[value].shape.last()?;
        if is_layer(&node.op) {
            // Depthwise with a multiplier, or in groups: left alone.
            let fits = match &node.op {
                Op::Conv2d { groups, .. } => {
                    *groups == 1 || *groups == channels && graph.output(node, 0)?.shape.last() == Some(&channels)
                }
                Op::FullyConnected => graph.input(node, 1)?.shape[1].is_multiple_of(channels),
                _ => true,
            };
            return (fits && node.inputs[0] == Some(value) && constant(index)).then_some(index);
        }
        let y = *node.outputs.first()?;
        let channels_stay = graph.values[y].shape.last()?.is_multiple_of(channels);
        let scales = match &node.op {
            Op::Unary(Unary::Clip(0.0, f32::INFINITY) | Unary::LeakyRelu(_) | Unary::Identity) => true,
            Op::Pool2d { .. } | Op::Reshape => true,
            Op::Reduce { kind: Reduction::Mean | Reduction::Max, axes } => {
                !axes.contains(&(graph.values[value].shape.len() - 1))
            }
            _ => false,
        };
        if !scales || !channels_stay || !homogeneous(node.clamp) {
            return None;
        }
        value = y;
    }
}

/// The input channel, of `channels`, that weight `i` of row `row` of a layer meets.
fn channel(graph: &Graph, layer: usize, channels: usize, row: usize, i: usize) -> usize {
    let node = &graph.nodes[layer];
    let taps = graph.input(node, 1).and_then(|w| w.shape.last().copied()).unwrap_or(1);
    match node.op {
        Op::Conv2d { groups, .. } if groups > 1 => row % channels,
        _ => i % taps % channels,
    }
}

fn pair(graph: &mut Graph, first: usize, second: usize) {
    let [a, b] = [first, second].map(|i| graph.nodes[i].inputs[1].unwrap_or_default());
    let (channels, rows) = (graph.values[a].shape[0], graph.values[b].shape[0]);
    let (Some(wa), Some(wb)) = (floats(graph, Some(a)), floats(graph, Some(b))) else { return };
    let (row_a, row_b) = (wa.len() / channels, wb.len() / rows);
    let peak_a: Vec<f32> = wa.chunks(row_a).map(|w| w.iter().fold(0f32, |m, w| m.max(w.abs()))).collect();
    let mut peak_b = vec![0f32; channels];
    let meets: Vec<usize> = (0..wb.len()).map(|i| channel(graph, second, channels, i / row_b, i % row_b)).collect();
    wb.iter().zip(&meets).for_each(|(w, c)| peak_b[*c] = peak_b[*c].max(w.abs()));
    // Dead channels have nothing to be equal to.
    let factor = |(a, b): (&f32, &f32)| if *a > 1e-12 && *b > 1e-12 { (a / b).sqrt().clamp(1e-4, 1e4) } else { 1.0 };
    let factors: Vec<f32> = peak_a.iter().zip(&peak_b).map(factor).collect();
    let bias = graph.nodes[first].inputs.get(2).copied().flatten();
    let mut change = |id: ValueId, f: &dyn Fn(usize) -> f32| {
        if let Some(Data::F32(floats)) = &mut graph.values[id].data {
            floats.iter_mut().enumerate().for_each(|(i, w)| *w *= f(i));
        }
    };
    change(a, &|i| 1.0 / factors[i / row_a]);
    change(b, &|i| factors[meets[i]]);
    if let Some(bias) = bias {
        change(bias, &|i| 1.0 / factors[i]);
    }
}
