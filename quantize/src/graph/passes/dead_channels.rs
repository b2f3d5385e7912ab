//! Dead-channel folding: channels that are constants, and channels that nobody reads, are not computed.
//!
//! A channel whose weights are all zero is the constant `act(bias)`; so is one that is computed from constants. Wherever it
//! is read, it is worth a term of the reader's bias. A channel that meets only zero weights need not be there. Training
//! leaves many of both (MLPerf Tiny's visual wake words net has half of its multiplications in them), and neither costs a
//! bit to take away:
//!
//! 1. `constants`, forwards: each channel's number, as it is stored, if it is the same for all pixels and all inputs. Integers
//!    are requantized as the runtime does it.
//! 2. `removable`: every channel that is not asked for. A layer asks for the channels that meet weights of its own remaining
//!    channels, unless they are constants which a bias can replace: where windows reach over the edge, only the
//!    constant zero, as there is zero beyond. Other ops ask for what is asked of them. The largest set is found by taking
//!    all and giving back until nothing changes.
//! 3. `remove`.

use crate::graph::{Data, Graph, Node, Op, PadMode, PoolKind, Quant, Reduction, Unary, Value, ValueId};
use crate::lower::quantize_multiplier;
use mote_runtime::fixed::tflite;

/// The pass.
pub fn run(graph: &mut Graph) -> bool {
    let constants = constants(graph);
    let removable = removable(graph, &constants);
    let found = removable.iter().any(|r| r.contains(&true));
    if found {
        remove(graph, &constants, &removable);
    }
    found
}

/// A channel's number, as it is stored: a float, or an integer.
type Channels = Vec<Option<f64>>;

/// How a node's channels, the elements of its last dimension, depend on its operands'.
enum Relation {
    /// Each on all (of its group) by weights.
    Layer {
        /// Whether each output channel reads the input channel of the same number only.
        depthwise: bool,
        /// Whether windows may reach over the image's edge.
        edges: bool,
    },
    /// Each on those of the same number.
    Same,
    /// The dimensions before are put beside the channels, pixel after pixel.
    Flatten,
    /// One operand's behind another's.
    Concat,
    /// Otherwise.
    Other,
}

fn channels(value: &Value) -> usize {
    value.shape.last().copied().unwrap_or(1)
}

fn relation(graph: &Graph, node: &Node) -> Relation {
    let (Some(x), [output]) = (graph.input(node, 0), &node.outputs[..]) else { return Relation::Other };
    let y = &graph.values[*output];
    match &node.op {
        Op::Conv2d { .. } | Op::FullyConnected => layer_relation(graph, node, x, y),
        Op::Unary(_) | Op::Requantize => Relation::Same,
        Op::Binary(_) => {
            let rank = y.shape.len();
            let fits = |v: &Value| v.shape.len() == rank && channels(v) == channels(y) || v.data.is_some();
            if node.inputs.iter().flatten().all(|v| fits(&graph.values[*v])) { Relation::Same } else { Relation::Other }
        }
        Op::Pool2d { .. } | Op::Resize { .. } => Relation::Same,
        Op::Pad { before, .. } if before.last() == Some(&0) && channels(x) == channels(y) => Relation::Same,
        Op::Reduce { axes, .. } if !axes.contains(&(x.shape.len().wrapping_sub(1))) && channels(x) == channels(y) => {
            Relation::Same
        }
        Op::Reshape if channels(x) == channels(y) => Relation::Same,
        Op::Reshape if channels(x) > 0 && channels(y).is_multiple_of(channels(x)) => Relation::Flatten,
        Op::Concat { axis } if axis + 1 == y.shape.len() => Relation::Concat,
        _ => Relation::Other,
    }
}

fn layer_relation(graph: &Graph, node: &Node, x: &Value, y: &Value) -> Relation {
    let (Some(w), weights) = (graph.input(node, 1), node.inputs[1].unwrap_or_default()) else { return Relation::Other };
    let bias = graph.input(node, 2);
    let known = w.data.is_some() && bias.is_none_or(|b| b.data.is_some()) && !graph.coded.contains_key(&weights);
    let integers = |v: &Value| v.quant.is_some() && matches!(v.data, None | Some(Data::Int(_)));
    // All floats, or all integers as TFLite has them: one scale for an image, zero points of 0 for weights.
    let floats = x.is_float() && y.is_float() && w.is_float() && bias.is_none_or(Value::is_float);
    let single = |v: &Value| v.quant.as_ref().is_some_and(|q| q.single().is_some());
    let by_row = |v: &Value| {
        v.quant.as_ref().is_some_and(|q| (q.single().is_some() || q.axis == 0) && q.zero_points.iter().all(|z| *z == 0))
    };
    let quantized = single(x) && single(y) && integers(w) && by_row(w) && bias.is_none_or(|b| integers(b) && by_row(b));
    if !known || !floats && !quantized || channels(x) == 0 {
        return Relation::Other;
    }
    match &node.op {
        Op::Conv2d { window, groups } => {
            let edges = window.before != [0; 2] || window.after != [0; 2];
            match *groups {
                1 => Relation::Layer { depthwise: false, edges },
                g if g == channels(x) && g == channels(y) => Relation::Layer { depthwise: true, edges },
                _ => Relation::Other,
            }
        }
        _ if channels(w).is_multiple_of(channels(x)) => Relation::Layer { depthwise: false, edges: false },
        _ => Relation::Other,
    }
}

/// The number that stands for the real 0.
fn zero(value: &Value) -> f64 {
    value.quant.as_ref().and_then(Quant::single).map_or(0.0, |(_, zero)| f64::from(zero))
}

/// Elements as they are stored.
fn stored(value: &Value, i: usize) -> f64 {
    match &value.data {
        Some(Data::F32(floats)) => floats.get(i).map_or(0.0, |f| f64::from(*f)),
        Some(Data::Int(ints)) => ints.get(i).map_or(0.0, |i| *i as f64),
        None => 0.0,
    }
}

/// Weights of a layer: row by row, each weight with the input channel that it meets.
struct Layer<'g> {
    x: &'g Value,
    y: &'g Value,
    w: &'g Value,
    bias: Option<&'g Value>,
    depthwise: bool,
    edges: bool,
    rows: usize,
    row: usize,
}

impl<'g> Layer<'g> {
    fn of(graph: &'g Graph, node: &Node) -> Option<Self> {
        let Relation::Layer { depthwise, edges } = relation(graph, node) else { return None };
        let (x, w, y) = (graph.input(node, 0)?, graph.input(node, 1)?, graph.output(node, 0)?);
        let rows = *w.shape.first().filter(|r| **r > 0)?;
        Some(Self { x, y, w, bias: graph.input(node, 2), depthwise, edges, rows, row: w.count() / rows })
    }

    /// The weights of a row that are not zero, each with its input channel.
    fn weights(&self, row: usize) -> impl Iterator<Item = (f64, usize)> {
        let first = if self.depthwise { row } else { 0 };
        let (taps, channels) = (channels(self.w), channels(self.x));
        let all = (0..self.row).map(move |i| (stored(self.w, row * self.row + i), (first + i % taps) % channels));
        all.filter(|(w, _)| *w != 0.0)
    }

    /// What constant inputs add to a row's sum; `None` for one that a bias cannot replace.
    fn worth(&self, weight: f64, constant: Option<f64>) -> Option<f64> {
        let above = constant? - zero(self.x);
        (!self.edges || above == 0.0).then_some(weight * above)
    }
}

/// For each value, the channels that are constants.
fn constants(graph: &Graph) -> Vec<Channels> {
    let mut all: Vec<Channels> = graph.values.iter().map(|v| vec![None; channels(v)]).collect();
    for node in &graph.nodes {
        let [output] = node.outputs[..] else { continue };
        let y = &graph.values[output];
        let x_id = node.inputs.first().copied().flatten();
        let (Some(x), Some(known)) = (x_id.map(|x| &graph.values[x]), x_id.map(|x| &all[x])) else { continue };
        let same = x.quant == y.quant && x.dtype == y.dtype;
        let result: Channels = match relation(graph, node) {
            Relation::Layer { .. } => match Layer::of(graph, node) {
                Some(layer) => (0..layer.rows).map(|row| layer_constant(&layer, node, row, known)).collect(),
                None => continue,
            },
            Relation::Same if same => {
                let kept = |c: &Option<f64>| c.filter(|c| keeps(node, y, *c));
                known.iter().map(kept).collect()
            }
            Relation::Flatten if same => (0..channels(y)).map(|i| known[i % known.len()]).collect(),
            Relation::Concat => {
                let inputs = || node.inputs.iter().flatten();
                if inputs().any(|v| graph.values[*v].quant != y.quant) {
                    continue;
                }
                inputs().flat_map(|v| all[*v].iter().copied()).collect()
            }
            _ => continue,
        };
        if result.len() == channels(y) {
            all[output] = result;
        }
    }
    all
}

/// Whether a node gives back a number that all of a channel's elements are.
fn keeps(node: &Node, y: &Value, number: f64) -> bool {
    let real = match y.quant.as_ref().map(Quant::single) {
        None => number,
        Some(Some((scale, zero))) => (number - f64::from(zero)) * f64::from(scale),
        Some(None) => return false,
    };
    let inside = |[low, high]: [f32; 2]| f64::from(low) <= real && real <= f64::from(high);
    let op = match &node.op {
        Op::Reshape | Op::Resize { .. } => true,
        Op::Unary(Unary::Clip(low, high)) => inside([*low, *high]),
        Op::Pad { mode: PadMode::Constant(c), .. } => f64::from(*c) == real,
        Op::Pad { .. } => true,
        Op::Pool2d { kind: PoolKind::Average { count_padding: true }, window, .. } => {
            window.before == [0; 2] && window.after == [0; 2]
        }
        Op::Pool2d { .. } => true,
        Op::Reduce { kind, .. } => matches!(kind, Reduction::Max | Reduction::Min | Reduction::Mean),
        _ => false,
    };
    op && node.clamp.is_none_or(inside)
}

/// The number that a row of a layer gives, whatever comes in.
fn layer_constant(layer: &Layer<'_>, node: &Node, row: usize, known: &Channels) -> Option<f64> {
    let bias = layer.bias.map_or(0.0, |b| stored(b, row));
    let sum = layer.weights(row).try_fold(bias, |sum, (w, c)| Some(sum + layer.worth(w, known[c])?))?;
    let [low, high] = node.clamp.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]);
    let Some((scale, zero_point)) = layer.y.quant.as_ref().and_then(Quant::single) else {
        return Some((sum as f32).max(low).min(high).into());
    };
    let (s_in, _) = layer.x.quant.as_ref()?.single()?;
    let scales = &layer.w.quant.as_ref()?.scales;
    let s_w = *scales.get(if scales.len() == 1 { 0 } else { row })?;
    // As TFLite folds scales and activations, in its types.
    let (multiplier, shift) = quantize_multiplier(f64::from(s_in) * f64::from(s_w) / f64::from(scale))?;
    let range = layer.y.dtype.range()?;
    let bound = |x: f32| ((x / scale).round() as i64).saturating_add(zero_point.into()).clamp(range.0, range.1);
    let [low, high] =
        [if low.is_finite() { bound(low) } else { range.0 }, if high.is_finite() { bound(high) } else { range.1 }];
    let acc = i32::try_from(sum as i64).ok()?;
    let result =
        i64::from(tflite::requantize(acc, multiplier, shift, tflite::Rounding::Double)) + i64::from(zero_point);
    Some(result.max(low).min(high) as f64)
}

/// For each value, the channels that need not be there.
fn removable(graph: &Graph, constants: &[Channels]) -> Vec<Vec<bool>> {
    let mut made = vec![false; graph.values.len()];
    graph.nodes.iter().flat_map(|n| &n.outputs).for_each(|o| made[*o] = true);
    graph.outputs.iter().chain(graph.states.iter().map(|s| &s.write)).for_each(|o| made[*o] = false);
    let mut all: Vec<Vec<bool>> = graph.values.iter().zip(&made).map(|(v, m)| vec![*m; channels(v)]).collect();
    let relations: Vec<Relation> = graph.nodes.iter().map(|n| relation(graph, n)).collect();
    let layers: Vec<Option<Layer<'_>>> = graph.nodes.iter().map(|n| Layer::of(graph, n)).collect();
    loop {
        let mut changed = false;
        let mut keep = |all: &mut Vec<Vec<bool>>, value: ValueId, channel: usize| {
            changed |= std::mem::replace(&mut all[value][channel], false);
        };
        for ((node, relation), layer) in graph.nodes.iter().zip(&relations).zip(&layers) {
            let tensors: Vec<ValueId> =
                node.inputs.iter().flatten().copied().filter(|v| graph.values[*v].data.is_none()).collect();
            let Some(&output) = node.outputs.first() else { continue };
            // Channel i of one value is there if and only if channel j of the other is.
            let mut tie = |all: &mut Vec<Vec<bool>>, a: ValueId, i: usize, b: ValueId, j: usize| {
                if !(all[a][i] && all[b][j]) {
                    keep(all, a, i);
                    keep(all, b, j);
                }
            };
            match relation {
                Relation::Layer { depthwise: true, .. } => {
                    (0..all[output].len()).for_each(|c| tie(&mut all, tensors[0], c, output, c));
                }
                Relation::Layer { .. } => {
                    let Some(layer) = layer else { continue };
                    for row in (0..layer.rows).filter(|row| !all[output][*row]).collect::<Vec<_>>() {
                        for (weight, channel) in layer.weights(row) {
                            if layer.worth(weight, constants[tensors[0]][channel]).is_none() {
                                keep(&mut all, tensors[0], channel);
                            }
                        }
                    }
                }
                Relation::Same => {
                    for v in tensors {
                        (0..all[output].len()).for_each(|c| tie(&mut all, v, c, output, c));
                    }
                }
                Relation::Flatten => {
                    let few = all[tensors[0]].len();
                    (0..all[output].len()).for_each(|c| tie(&mut all, tensors[0], c % few, output, c));
                }
                Relation::Concat => {
                    let mut first = 0;
                    for v in node.inputs.iter().flatten() {
                        let count = all[*v].len();
                        (0..count).for_each(|c| tie(&mut all, *v, c, output, first + c));
                        first += count;
                    }
                }
                Relation::Other => {
                    for v in node.inputs.iter().flatten().chain(&node.outputs) {
                        (0..all[*v].len()).for_each(|c| keep(&mut all, *v, c));
                    }
                }
            }
        }
        // An image of no channels is none: one is kept.
        if !changed {
            let used = graph.uses();
            let full = (0..all.len()).find(|v| used[*v] > 0 && !all[*v].is_empty() && all[*v].iter().all(|r| *r));
            match full {
                Some(v) => all[v][0] = false,
                None => return all,
            }
        }
    }
}

/// The elements of `data` ([outer, inner] rows) whose row is kept.
fn keep_rows<T: Copy>(data: &[T], inner: usize, dropped: impl Fn(usize) -> bool) -> Vec<T> {
    data.chunks(inner.max(1)).enumerate().filter(|(i, _)| !dropped(*i)).flat_map(|(_, row)| row).copied().collect()
}

fn keep_data(data: &Data, inner: usize, dropped: impl Fn(usize) -> bool) -> Data {
    match data {
        Data::F32(floats) => Data::F32(keep_rows(floats, inner, dropped)),
        Data::Int(ints) => Data::Int(keep_rows(ints, inner, dropped)),
    }
}

fn keep_quant(quant: Option<&Quant>, dropped: &[bool]) -> Option<Quant> {
    let quant = quant?;
    let each = quant.scales.len() == dropped.len() && quant.single().is_none();
    Some(Quant {
        scales: if each { keep_rows(&quant.scales, 1, |i| dropped[i]) } else { quant.scales.clone() },
        zero_points: if each { keep_rows(&quant.zero_points, 1, |i| dropped[i]) } else { quant.zero_points.clone() },
        axis: quant.axis,
    })
}

fn remove(graph: &mut Graph, constants: &[Channels], removable: &[Vec<bool>]) {
    // New constants for every reader: another may read the old ones.
    let mut changes: Vec<(usize, usize, Value)> = Vec::new();
    let mut groups = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let Some(&output) = node.outputs.first() else { continue };
        let rows = &removable[output];
        if let Some(layer) = Layer::of(graph, node) {
            let Some(x) = node.inputs[0] else { continue };
            let columns = &removable[x];
            if !rows.contains(&true) && !columns.contains(&true) {
                continue;
            }
            changes.extend(
                layer_changes(&layer, rows, columns, &constants[x]).into_iter().map(|(which, v)| (index, which, v)),
            );
            if layer.depthwise {
                groups.push((index, rows.iter().filter(|r| !**r).count()));
            }
        } else if let (Op::Binary(_), true) = (&node.op, rows.contains(&true)) {
            for (which, id) in node.inputs.iter().enumerate() {
                let Some(value) = id.map(|id| &graph.values[id]) else { continue };
                let Some(data) = value.data.as_ref().filter(|_| channels(value) == rows.len()) else { continue };
                let data = keep_data(data, 1, |i| rows[i % rows.len()]);
                changes.push((index, which, narrowed(value, data, rows)));
            }
        }
    }
    for (index, which, value) in changes {
        graph.values.push(value);
        let id = graph.values.len() - 1;
        let inputs = &mut graph.nodes[index].inputs;
        inputs.resize(inputs.len().max(which + 1), None);
        inputs[which] = Some(id);
    }
    for (index, count) in groups {
        if let Op::Conv2d { groups, .. } = &mut graph.nodes[index].op {
            *groups = count;
        }
    }
    for (value, dropped) in graph.values.iter_mut().zip(removable) {
        if let (Some(last), true) = (value.shape.last_mut(), dropped.contains(&true)) {
            *last = dropped.iter().filter(|d| !**d).count();
        }
    }
}

/// A constant without the channels of its last dimension that are dropped.
fn narrowed(value: &Value, data: Data, dropped: &[bool]) -> Value {
    let mut shape = value.shape.clone();
    if let Some(last) = shape.last_mut() {
        *last = dropped.iter().filter(|d| !**d).count();
    }
    Value { shape, data: Some(data), ..value.clone() }
}

/// New weights and bias of a layer, as its inputs 1 and 2.
fn layer_changes(layer: &Layer<'_>, rows: &[bool], columns: &[bool], known: &Channels) -> Vec<(usize, Value)> {
    let Some(data) = &layer.w.data else { return Vec::new() };
    let kept: Vec<usize> = (0..layer.rows).filter(|row| !rows[*row]).collect();
    // What the dropped inputs are worth to each row.
    let worth = |row: &usize| {
        let dropped = layer.weights(*row).filter(|(_, c)| columns[*c] && !layer.depthwise);
        dropped.map(|(w, c)| layer.worth(w, known[c]).unwrap_or(0.0)).sum::<f64>()
    };
    let worths: Vec<f64> = kept.iter().map(worth).collect();
    let mut shape = layer.w.shape.clone();
    shape[0] = kept.len();
    let mut data = keep_data(data, layer.row, |row| rows[row]);
    if !layer.depthwise && columns.contains(&true) {
        let taps = channels(layer.w);
        data = keep_data(&data, 1, |i| columns[i % taps % columns.len()]);
        if let Some(last) = shape.last_mut() {
            *last = (0..taps).filter(|i| !columns[i % columns.len()]).count();
        }
    }
    let quant = keep_quant(layer.w.quant.as_ref(), rows);
    let mut changes = vec![(1, Value { shape, quant: quant.clone(), data: Some(data), ..layer.w.clone() })];
    let biases = kept.iter().zip(&worths).map(|(row, worth)| layer.bias.map_or(0.0, |b| stored(b, *row)) + worth);
    let integers = matches!(layer.w.data, Some(Data::Int(_)));
    // TFLite adds a bias modulo 2^32.
    let biases = if integers {
        Data::Int(biases.map(|b| i64::from(b as i64 as i32)).collect())
    } else {
        Data::F32(biases.map(|b| b as f32).collect())
    };
    if let Some(bias) = layer.bias {
        let quant = keep_quant(bias.quant.as_ref(), rows);
        changes.push((2, Value { shape: vec![kept.len()], quant, data: Some(biases), ..bias.clone() }));
    } else if worths.iter().any(|w| *w != 0.0) {
        let s_in = layer.x.quant.as_ref().and_then(Quant::single).map(|(s, _)| s);
        let scaled = quant.zip(s_in).map(|(w, s)| Quant { scales: w.scales.iter().map(|w| w * s).collect(), ..w });
        let dtype = if integers { crate::graph::DType::I32 } else { layer.w.dtype };
        let name = format!("{}.bias", layer.w.name);
        changes.push((2, Value { name, shape: vec![kept.len()], dtype, quant: scaled, data: Some(biases) }));
    }
    changes
}
