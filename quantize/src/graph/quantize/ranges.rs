//! Scales of activations: int8, asymmetric, one scale a tensor, as TensorFlow Lite's operators ask for them; or int16,
//! symmetric (its 16x8 scheme), for all that need not be int8.
//!
//! Some operators move elements and do not compute: what goes in and what comes out have one scale, and so have all that
//! are put side by side. Values that must share form a class, and a class gets one range. Some results have a range by
//! nature: softmax and sigmoid [0, 1), tanh [-1, 1); their scales are fixed. Where a fixed scale meets another in one
//! class, a [`Op::Requantize`] comes between.

use super::observe::{Seen, masked};
use super::scalar;
use crate::graph::{Binary, DType, Data, Graph, Node, Op, Quant, Reduction, State, Unary, Value, ValueId};
use crate::layers::cell_frac;

/// How the range of a grid is chosen from what was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// From the smallest to the largest.
    MinMax,
    /// Without this share of the elements on either side.
    Percentile(f64),
    /// So that the mean squared error is least.
    Mse,
}

/// How far what is masked is below all else: e^-7 is less than half a step of a softmax.
const MASKED: f32 = 7.0;

/// Whether a value is an activation to be quantized.
pub fn is_activation(value: &Value) -> bool {
    value.data.is_none() && value.is_float()
}

/// The value that one stands for, if it is one of those that were added.
pub fn stands_for(added: &[(ValueId, ValueId)], id: ValueId) -> ValueId {
    added.iter().find(|(new, _)| *new == id).map_or(id, |(_, old)| *old)
}

/// Gives every activation of floats a scale, and rewrites the initial values of states in theirs. Returns the values that
/// it added, each with the one that it stands for.
pub fn quantize(graph: &mut Graph, seen: &[Option<Seen>], rule: Rule, int16: bool) -> Vec<(ValueId, ValueId)> {
    let mut added = separate(graph);
    let wide = if int16 { widths(graph, &mut added) } else { vec![false; graph.values.len()] };
    let seen = |id: ValueId| seen.get(stands_for(&added, id))?.as_ref();
    let (classes, fixed) = (classes(graph), fixed(graph, &wide));
    let cells = cells(graph, &classes);
    let carried: Vec<(ValueId, ValueId)> = graph.nodes.iter().flat_map(carried).collect();
    let mut members = vec![Vec::new(); graph.values.len()];
    (0..graph.values.len()).for_each(|id| members[classes[id]].push(id));
    for class in &members {
        if !class.iter().any(|id| is_activation(&graph.values[*id])) {
            continue;
        }
        let cell = cells[class[0]];
        let plain = if wide[class[0]] { DType::I16 } else { DType::I8 };
        let quant = class.iter().find_map(|id| fixed[*id].clone()).unwrap_or_else(|| {
            let mut all = Seen::default();
            for id in class {
                if let Some(seen) = seen(*id) {
                    all.min = all.min.min(seen.min);
                    all.max = all.max.max(seen.max);
                    all.some.extend(&seen.some);
                    all.masked |= seen.masked;
                } else if let Some(Data::F32(floats)) = &graph.values[*id].data {
                    all.see(floats);
                    all.some.extend(floats.iter().filter(|x| !masked(**x)));
                }
            }
            // Constants that layers begin with are no members, but must be on the grid.
            let begin = carried.iter().filter(|(_, state)| classes[*state] == classes[class[0]]);
            for floats in begin.filter_map(|(first, _)| match &graph.values[*first].data {
                Some(Data::F32(floats)) => Some(floats),
                _ => None,
            }) {
                all.min = floats.iter().copied().fold(all.min, f32::min);
                all.max = floats.iter().copied().fold(all.max, f32::max);
            }
            if cell == Some(DType::I16) {
                return Quant::one(2f32.powi(-15), 0);
            }
            if cell.is_some() {
                let frac = cell_frac(f64::from(all.max.max(-all.min)));
                return Quant::one(2f32.powi(-i32::from(frac)), 0);
            }
            let (low, high) = range(&all, rule);
            // What is masked is the grid's lowest, which a softmax must make nothing of.
            constant_grid(low - if all.masked { MASKED } else { 0.0 }, high, plain)
        });
        let dtype = cell.unwrap_or(plain);
        for id in class {
            let value = &mut graph.values[*id];
            if is_activation(value) {
                value.dtype = dtype;
                value.quant = Some(quant.clone());
            } else if let Some(Data::F32(floats)) = &value.data {
                // A constant among them; others may read it as something else, but not as another class.
                value.data = Some(Data::Int(integers(floats, &quant, dtype)));
                value.dtype = dtype;
                value.quant = Some(quant.clone());
            }
        }
    }
    let Graph { states, values, .. } = graph;
    for State { read, initial, .. } in states {
        let Value { quant, dtype, .. } = &values[*read];
        if let (Data::F32(floats), Some(quant)) = (&*initial, quant) {
            *initial = Data::Int(integers(floats, quant, *dtype));
        }
    }
    added
}

/// The grid of int8 from `low` to `high`, which has 0 exactly.
pub fn grid(low: f32, high: f32) -> Quant {
    let (low, high) = (f64::from(low.min(0.0)), f64::from(high.max(0.0)));
    let scale = if high > low { ((high - low) / 255.0).max(1e-30) as f32 } else { 1.0 };
    let zero = (-128.0 - low / f64::from(scale)).round().clamp(-128.0, 127.0);
    Quant::one(scale, zero as i32)
}

/// The grid of int16 that has 0 as its 0 and holds `low` and `high`.
fn symmetric(low: f32, high: f32) -> Quant {
    let most = high.max(-low);
    Quant::one(if most > 0.0 { (most / 32767.0).max(1e-30) } else { 1.0 }, 0)
}

/// The grid for numbers from `low` to `high`, of this type.
pub fn constant_grid(low: f32, high: f32, dtype: DType) -> Quant {
    if dtype == DType::I16 { symmetric(low, high) } else { grid(low, high) }
}

/// Floats in the integers of a grid.
pub fn integers(floats: &[f32], quant: &Quant, dtype: DType) -> Vec<i64> {
    let (low, high) = dtype.range().unwrap_or((i64::MIN, i64::MAX));
    let (scale, zero) = quant.single().unwrap_or((1.0, 0));
    let integer = |x: &f32| (f64::from(*x) / f64::from(scale)).round_ties_even() + f64::from(zero);
    floats.iter().map(|x| (integer(x) as i64).clamp(low, high)).collect()
}

/// Mean squared error of elements on the grid from `low` to `high`.
fn error(some: &[f32], low: f32, high: f32) -> f64 {
    let Some((scale, zero)) = grid(low, high).single() else { return f64::INFINITY };
    let (inverse, zero) = (1.0 / scale, zero as f32);
    let one = |x: &f32| {
        let rounded = ((x * inverse).round() + zero).clamp(-128.0, 127.0) - zero;
        f64::from(x - rounded * scale).powi(2)
    };
    some.iter().map(one).sum()
}

/// The range for what was seen.
fn range(seen: &Seen, rule: Rule) -> (f32, f32) {
    match rule {
        Rule::MinMax => (seen.min, seen.max),
        Rule::Percentile(share) => {
            let mut some = seen.some.clone();
            some.sort_by(f32::total_cmp);
            let (Some(last), cut) = (some.len().checked_sub(1), (some.len() as f64 * share) as usize) else {
                return (seen.min, seen.max);
            };
            (some[cut.min(last)].min(0.0), some[last - cut.min(last)].max(0.0))
        }
        Rule::Mse => {
            let factors = || (0..28).map(|i| 1.0 - i as f32 * 0.025);
            let best = |of: &dyn Fn(f32) -> (f32, f32)| {
                let tried = factors().map(|f| (error(&seen.some, of(f).0, of(f).1), of(f)));
                tried.min_by(|a, b| a.0.total_cmp(&b.0)).map_or((seen.min, seen.max), |(_, range)| range)
            };
            let both = best(&|f| (seen.min * f, seen.max * f));
            let low = best(&|f| (seen.min * f, both.1));
            best(&|f| (low.0, seen.max * f))
        }
    }
}

/// Scales that results have by nature, as TFLite has them; `wide`: which values are int16.
fn fixed(graph: &Graph, wide: &[bool]) -> Vec<Option<Quant>> {
    let mut fixed: Vec<Option<Quant>> =
        graph.values.iter().map(|v| v.quant.clone().filter(|_| v.data.is_none())).collect();
    for node in &graph.nodes {
        let quant = match &node.op {
            Op::Unary(Unary::Sigmoid | Unary::Tanh) if wide[node.outputs[0]] => Quant::one(1.0 / 32768.0, 0),
            Op::Softmax { log: false, .. } | Op::Unary(Unary::Sigmoid) => Quant::one(1.0 / 256.0, -128),
            Op::Unary(Unary::Tanh) => Quant::one(1.0 / 128.0, 0),
            _ => continue,
        };
        node.outputs.iter().for_each(|o| fixed[*o] = Some(quant.clone()));
    }
    fixed
}

/// States of recurrent layers that are not int8, for values of a class that only such layers and what moves elements read and
/// write (other ops take int8): cells of LSTMs int32, a power of two a step, states of GRUs int16 of 15 fraction bits, as
/// the runtime has them.
fn cells(graph: &Graph, classes: &[usize]) -> Vec<Option<DType>> {
    let mut cells = vec![None; graph.values.len()];
    for node in &graph.nodes {
        if let Some((dtype, before, after)) = cell(node) {
            [before, after].into_iter().flatten().for_each(|id| cells[classes[id]] = Some(dtype));
        }
    }
    for node in &graph.nodes {
        let kept: Vec<ValueId> = cell(node).map_or_else(Vec::new, |(_, a, b)| a.into_iter().chain(b).collect());
        let moves = matches!(node.op, Op::Reshape | Op::Transpose { .. } | Op::Slice { .. } | Op::Concat { .. });
        let other = |id: &&ValueId| !moves && !kept.contains(id);
        node.inputs.iter().flatten().chain(&node.outputs).filter(other).for_each(|id| cells[classes[*id]] = None);
    }
    (0..cells.len()).map(|id| cells[classes[id]]).collect()
}

/// The state of a recurrent layer that is not int8: its type, the value that a run begins with, and that which it leaves.
fn cell(node: &Node) -> Option<(DType, Option<ValueId>, Option<ValueId>)> {
    let (dtype, input, output) = match node.op {
        Op::Lstm { .. } => (DType::I32, 5, 2),
        Op::Gru { .. } => (DType::I16, 5, 1),
        _ => return None,
    };
    Some((dtype, node.inputs.get(input).copied().flatten(), node.outputs.get(output).copied()))
}

/// What a recurrent layer begins with and what it leaves, in pairs that have one grid; the hidden state of an LSTM is its
/// result, too.
fn carried(node: &Node) -> Vec<(ValueId, ValueId)> {
    let mut pairs = Vec::new();
    if let Some((_, before, after)) = cell(node) {
        pairs.extend(before.zip(after));
    }
    if let (Op::Lstm { .. }, Some(y)) = (&node.op, node.outputs.first()) {
        let hidden = [node.inputs.get(4).copied().flatten(), node.outputs.get(1).copied()];
        pairs.extend(hidden.into_iter().flatten().map(|h| (h, *y)));
    }
    pairs
}

/// Which of a node's inputs share their scale with its result, or with each other.
fn shared<'n>(values: &[Value], node: &'n Node) -> &'n [Option<ValueId>] {
    match &node.op {
        Op::Reshape
        | Op::Transpose { .. }
        | Op::Slice { .. }
        | Op::Gather { .. }
        | Op::Expand
        | Op::Pad { .. }
        | Op::Pool2d { .. }
        | Op::Resize { .. }
        | Op::TopK { .. }
        | Op::Unary(Unary::Identity)
        | Op::Reduce { kind: Reduction::Max | Reduction::Min, .. } => &node.inputs[..1],
        Op::Concat { .. } => &node.inputs,
        Op::Binary(Binary::Max | Binary::Min) if scalar(values, node).is_none() => &node.inputs,
        // The result is a truth value.
        Op::Binary(f) if f.is_comparison() && scalar(values, node).is_none() => &node.inputs,
        Op::Select => node.inputs.get(1..).unwrap_or_default(),
        _ => &[],
    }
}

/// Whether an op computes with int16 as well as with int8.
fn takes_int16(op: &Op) -> bool {
    match op {
        Op::Conv2d { .. } | Op::ConvTranspose2d { .. } | Op::FullyConnected | Op::MatMul { .. } | Op::Pool2d { .. } => {
            true
        }
        Op::Reshape | Op::Transpose { .. } | Op::Slice { .. } | Op::Concat { .. } | Op::Pad { .. } | Op::Expand => true,
        Op::Unary(_) | Op::Function(_) | Op::Requantize => true,
        Op::Binary(f) => {
            use Binary::{Add, Hypot, Max, Min, Mul, SquaredDifference, Sub};
            matches!(f, Add | Hypot | Max | Min | Mul | SquaredDifference | Sub)
        }
        Op::Reduce { kind, .. } => matches!(kind, Reduction::Mean | Reduction::Sum | Reduction::Max | Reduction::Min),
        _ => false,
    }
}

/// Which values are int16: all but those that ops make or share a scale with which know int8 only. A requantization is put
/// before whatever would meet both; the values that are new are added to `added`.
fn widths(graph: &mut Graph, added: &mut Vec<(ValueId, ValueId)>) -> Vec<bool> {
    let classes = classes(graph);
    let mut narrow = vec![false; graph.values.len()];
    for node in graph.nodes.iter().filter(|n| !takes_int16(&n.op)) {
        let kept = carried(node).into_iter().flat_map(|(a, b)| [a, b]);
        node.outputs.iter().copied().chain(kept).for_each(|id| narrow[classes[id]] = true);
    }
    let mut wide: Vec<bool> = classes.iter().map(|class| !narrow[*class]).collect();
    let mut index = 0;
    while index < graph.nodes.len() {
        let node = &graph.nodes[index];
        let wanted = takes_int16(&node.op) && node.outputs.first().is_some_and(|o| wide[*o]);
        // What is fed to a recurrent layer may be either; its states are of its results' classes.
        let first = usize::from(matches!(node.op, Op::Lstm { .. } | Op::Gru { .. }));
        let most = if first == 1 { 1 } else { node.inputs.len() };
        let meets = |which: &usize| {
            let id = node.inputs[*which].filter(|id| is_activation(&graph.values[*id]) && wide[*id] != wanted);
            Some((*which, id?))
        };
        let others: Vec<(usize, ValueId)> =
            if node.op == Op::Requantize { vec![] } else { (first..most).filter_map(|w| meets(&w)).collect() };
        for (which, id) in others {
            graph.values.push(graph.values[id].clone());
            let new = graph.values.len() - 1;
            wide.push(wanted);
            let name = graph.nodes[index].name.clone();
            added.push((new, stands_for(added, id)));
            graph.nodes[index].inputs[which] = Some(new);
            graph.node_at(index, "Requantize", &name, Op::Requantize, &[id], &[new]);
            index += 1;
        }
        index += 1;
    }
    wide
}

/// The class of each value, as the index of one of it.
fn classes(graph: &Graph) -> Vec<usize> {
    let mut parent: Vec<usize> = (0..graph.values.len()).collect();
    fn root(parent: &mut [usize], mut id: usize) -> usize {
        while parent[id] != id {
            parent[id] = parent[parent[id]];
            id = parent[id];
        }
        id
    }
    let mut join = |a: usize, b: usize| {
        let (a, b) = (root(&mut parent, a), root(&mut parent, b));
        parent[a] = b;
    };
    for node in &graph.nodes {
        let Some(output) = node.outputs.first() else { continue };
        shared(&graph.values, node).iter().flatten().for_each(|input| join(*input, *output));
        if let (Op::Binary(Binary::Hypot), [Some(a), Some(b)]) = (&node.op, &node.inputs[..]) {
            join(*a, *b);
        }
    }
    // A constant is coded when it is lowered.
    let computed = |id: ValueId| graph.values[id].data.is_none();
    let pairs = graph.nodes.iter().flat_map(carried).filter(|(a, b)| computed(*a) && computed(*b));
    pairs.for_each(|(a, b)| join(a, b));
    graph.states.iter().for_each(|s| join(s.read, s.write));
    (0..parent.len()).map(|id| root(&mut parent, id)).collect()
}

/// Puts a requantization behind each result with a scale by nature that shares a class with what has another, or with what
/// is computed or given; and gives every reader of a shared constant its own. Returns the new values, each with the one that
/// it stands for.
fn separate(graph: &mut Graph) -> Vec<(ValueId, ValueId)> {
    let Graph { nodes, values, .. } = graph;
    for node in nodes {
        let shared = shared(values, node).to_vec();
        for input in node.inputs.iter_mut().filter(|i| shared.contains(i)) {
            if let Some(id) = input.filter(|id| matches!(values[*id].data, Some(Data::F32(_)))) {
                values.push(values[id].clone());
                *input = Some(values.len() - 1);
            }
        }
    }
    let (classes, fixed) = (classes(graph), fixed(graph, &vec![false; graph.values.len()]));
    let mut origin = vec![false; graph.values.len()];
    for node in graph.nodes.iter().filter(|n| shared(&graph.values, n).is_empty()) {
        node.outputs.iter().for_each(|o| origin[*o] = true);
    }
    graph.inputs.iter().chain(graph.states.iter().map(|s| &s.read)).for_each(|id| origin[*id] = true);
    let mut behind = Vec::new();
    for id in (0..graph.values.len()).filter(|id| fixed[*id].is_some()) {
        let other = |o: &usize| *o != id && classes[*o] == classes[id] && origin[*o] && fixed[*o] != fixed[id];
        if (0..graph.values.len()).any(|o| other(&o)) {
            behind.push(id);
        }
    }
    let mut added = Vec::new();
    for id in behind {
        let value = Value { quant: None, dtype: DType::F32, ..graph.values[id].clone() };
        graph.values.push(value);
        let new = graph.values.len() - 1;
        for node in &mut graph.nodes {
            if shared(&graph.values, node).contains(&Some(id)) {
                node.inputs.iter_mut().filter(|i| **i == Some(id)).for_each(|i| *i = Some(new));
            }
        }
        graph.states.iter_mut().filter(|s| s.write == id).for_each(|s| s.write = new);
        let made = graph.nodes.iter().position(|n| n.outputs.contains(&id)).map_or(0, |i| i + 1);
        let name = graph.values[id].name.clone();
        graph.node_at(made, "Requantize", &name, Op::Requantize, &[id], &[new]);
        added.push((new, id));
    }
    added
}
