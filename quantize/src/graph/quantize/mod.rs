//! From a float graph and samples of its inputs to a graph of integers.
//!
//! 1. `functions`: chains of functions of single elements become one. `subpixel`: transposed convolutions become
//!    convolutions (4 bits only); `equalize`, if it is asked for: one layer's
//!    channels against the next one's columns.
//! 2. `observe`: the float graph runs on the samples; `ranges`: every activation gets an int8 grid.
//! 3. Layer by layer, in the order in which they run: 8-bit weights are the classic int8, symmetric, a scale an output
//!    channel, the bias int32 with the input's scale times theirs; 4-bit weights are codes (`coded`), chosen with what the
//!    layer meets in the net quantized so far, their bias a float that lowering rounds. `tables`: of embeddings, too.
//! 4. Other constants: int8, one scale.
//!
//! Depthwise convolutions stay at 8 bits: their rows of 9 or so weights would fill a third of a group of 32.

mod coded;
mod equalize;
mod functions;
mod mixed;
mod observe;
mod patches;
mod ranges;
mod recurrent;
mod subpixel;
mod tables;
#[cfg(test)]
mod tests;

use ranges::stands_for;
pub use ranges::{Rule, grid};

use super::{Binary, DType, Data, Graph, Node, Op, Quant, Tensor, Value, ValueId, eval};
use crate::codes::{CodedMatrix, Coding};
use coded::Met;
use patches::Geometry;
use std::sync::Arc;

/// How codes are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feedback {
    /// The nearest ones.
    None,
    /// Least error weighted by the mean square of the inputs.
    Importance,
    /// Error feedback and learned rounding on the inputs' covariance.
    Errors,
    /// As errors, for weights that make up for what the layers before have lost, too.
    Full,
}

/// How to quantize.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How the weights of convolutions and fully connected layers are coded; `None`: plain int8.
    pub coding: Option<Coding>,
    /// Activations of int16 where ops take them, int8 elsewhere.
    pub int16: bool,
    /// How grids are chosen.
    pub rule: Rule,
    /// Cross-layer equalisation.
    pub equalize: bool,
    /// How codes are chosen.
    pub feedback: Feedback,
    /// Bias correction (Nagel et al. 2019, section 4.2, by measured means). Not of nets with states, which it harms (Silero VAD at
    /// 8 bits: probabilities off by 0.067 rms instead of 0.009), as does what [`Feedback::Full`] does more than errors.
    pub correct: bool,
    /// Layers (by their place in [`layers`]) that keep 8-bit weights.
    pub keep: Vec<usize>,
    /// More layers keep them, chosen by what their codes cost, while all weights together grow by no more than this share.
    pub room: f64,
}

impl Settings {
    /// What has proved best at these bits (BENCHMARKS.md).
    #[must_use]
    pub fn bits(bits: u8, coding: Coding) -> Self {
        let coding = (bits < 8).then_some(coding);
        Self {
            coding,
            int16: false,
            rule: Rule::MinMax,
            equalize: false,
            feedback: Feedback::Full,
            correct: true,
            keep: Vec::new(),
            room: 0.05,
        }
    }
}

/// Runs over the samples that are enough for what codes are chosen by.
const FEEDBACK_SAMPLES: usize = 512;
/// Numbers of inputs that are kept for a layer, at most.
const MOST_MET: usize = 1 << 23;

/// Quantizes a float graph, which the passes have gone through, with samples of its inputs: for each run a tensor an
/// input. `progress` is called with the share that is done.
///
/// # Errors
/// [`eval::EvalError`] where a sample does not fit.
pub fn quantize(
    graph: &Graph,
    samples: &[Vec<Tensor>],
    settings: &Settings,
    progress: &mut dyn FnMut(f32),
) -> Result<Graph, eval::EvalError> {
    let mut float = graph.clone();
    unpack(&mut float);
    functions::run(&mut float);
    if settings.coding.is_some() {
        subpixel::run(&mut float);
    }
    if settings.equalize {
        equalize::equalize(&mut float);
    }
    let mut done = 0;
    let mut tick = || {
        done += 1;
        progress(0.5 * done as f32 / samples.len() as f32);
    };
    let seen = observe::observe(&float, samples, &mut tick)?;
    let mut grids = float.clone();
    let added = ranges::quantize(&mut grids, &seen, settings.rule, settings.int16);
    let base = Base { float: &float, grids: &grids, added: &added, samples };
    let mut settings = settings.clone();
    if !graph.states.is_empty() {
        // Samples that follow one another say little of others: what is off on average in a loud passage is not in a quiet one.
        settings.correct = false;
        settings.feedback = settings.feedback.min(Feedback::Errors);
    }
    if settings.coding.is_none() {
        return base.weights(&settings);
    }
    let coded = base.weights(&settings)?;
    progress(0.75);
    let plain = base.weights(&Settings { coding: None, ..settings.clone() })?;
    // What makes weights integers or codes leaves every node where it is.
    let at = coded_layers(&grids, &settings);
    let keep = mixed::keep([&float, &plain, &coded], &at, samples, &settings)?;
    if keep == settings.keep { Ok(coded) } else { base.weights(&Settings { keep, ..settings }) }
}

/// Makes floats of the integers that layers of floats have as weights: TensorFlow Lite's "dynamic range", whose kernels
/// quantize activations as they go.
fn unpack(graph: &mut Graph) {
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        if node.op == Op::Requantize || !graph.output(node, 0).is_some_and(Value::is_float) {
            continue;
        }
        for which in 0..node.inputs.len() {
            let Some(value) = graph.input(&graph.nodes[index], which).filter(|v| v.quant.is_some()) else { continue };
            let Some(Tensor { data, .. }) = eval::constant(value) else { continue };
            let value = Value { dtype: DType::F32, quant: None, data: Some(data), ..value.clone() };
            graph.values.push(value);
            graph.nodes[index].inputs[which] = Some(graph.values.len() - 1);
        }
    }
}

/// A graph whose activations have their grids, before its weights have theirs.
struct Base<'g> {
    float: &'g Graph,
    grids: &'g Graph,
    /// Values that the float graph lacks, each with the one that it stands for.
    added: &'g [(ValueId, ValueId)],
    samples: &'g [Vec<Tensor>],
}

impl Base<'_> {
    /// The graph with integers or codes for all constants.
    fn weights(&self, settings: &Settings) -> Result<Graph, eval::EvalError> {
        let mut graph = self.grids.clone();
        if let Some(coding) = settings.coding {
            tables::run(&mut graph, self.float, coding);
        }
        let coded = coded_layers(&graph, settings);
        if settings.coding.is_none() && !settings.correct {
            for index in 0..graph.nodes.len() {
                if recurrent::is_layer(&graph, index) {
                    recurrent::code(&mut graph, index, None, None);
                } else {
                    plain(&mut graph, index);
                }
            }
        } else {
            let samples = &self.samples[..self.samples.len().min(FEEDBACK_SAMPLES)];
            let mut walk = Walk::new(self.float, &graph, samples, self.added, &coded)?;
            for index in 0..graph.nodes.len() {
                if recurrent::is_layer(&graph, index) {
                    let coding = settings.coding.filter(|_| coded.contains(&index));
                    let feedback = coding.filter(|_| settings.feedback != Feedback::None);
                    let met = feedback.map(|_| walk.hidden(&graph, index)).transpose()?;
                    recurrent::code(&mut graph, index, coding, met.as_ref());
                } else if coded.contains(&index) {
                    walk.code(&mut graph, index, settings)?;
                } else if plain(&mut graph, index) && settings.correct {
                    walk.correct(&mut graph, index)?;
                }
                walk.step(&graph, index)?;
            }
        }
        constants(&mut graph);
        Ok(graph)
    }
}

/// The operand of a function of two that is a constant number beside an activation of real numbers: together they are a
/// function of one, which lowering makes a table of, and the number stays what it is.
#[must_use]
pub fn scalar(values: &[Value], node: &Node) -> Option<usize> {
    let [Some(x), Some(y)] = node.inputs[..] else { return None };
    let Op::Binary(f) = node.op else { return None };
    let number = |id: ValueId| match &values[id].data {
        Some(Data::F32(v)) => v.len() == 1 && values[id].quant.is_none(),
        Some(Data::Int(v)) => v.len() == 1 && values[id].quant.is_none() && f == Binary::Pow,
        None => false,
    };
    let real = |id: ValueId| {
        let value = &values[id];
        value.data.is_none()
            && (value.dtype == DType::F32 || matches!(value.dtype, DType::I8 | DType::I16) && value.quant.is_some())
    };
    let same = |id: ValueId| values[id].count() == node.outputs.first().map_or(0, |o| values[*o].count());
    match (number(x), number(y)) {
        (false, true) => (real(x) && same(x)).then_some(1),
        (true, false) => (real(y) && same(y)).then_some(0),
        _ => None,
    }
}

/// Layers whose weights may be coded: nodes, in order.
#[must_use]
pub fn layers(graph: &Graph) -> Vec<usize> {
    let is_layer = |i: &usize| {
        let node = &graph.nodes[*i];
        let constant = |which: usize| matches!(graph.input(node, which).map(|v| &v.data), Some(Some(Data::F32(_))));
        let bias = node.inputs.get(2).copied().flatten().is_none() || constant(2);
        // What `subpixel` leaves of transposed convolutions has no op for codes.
        let coded = !matches!(node.op, Op::ConvTranspose2d { .. });
        let layer = coded && Geometry::of(graph, node).is_some() && constant(1) && bias;
        layer || recurrent::is_layer(graph, *i)
    };
    (0..graph.nodes.len()).filter(is_layer).collect()
}

fn coded_layers(graph: &Graph, settings: &Settings) -> Vec<usize> {
    if settings.coding.is_none() {
        return Vec::new();
    }
    let layers = layers(graph).into_iter().enumerate();
    layers.filter(|(place, _)| !settings.keep.contains(place)).map(|(_, index)| index).collect()
}

/// The one scale of an activation.
fn scale(graph: &Graph, id: Option<ValueId>) -> f32 {
    id.and_then(|id| graph.values[id].quant.as_ref()?.single()).map_or(1.0, |(scale, _)| scale)
}

fn is_layer(op: &Op) -> bool {
    matches!(op, Op::Conv2d { .. } | Op::ConvTranspose2d { .. } | Op::FullyConnected)
}

/// Classic int8 for the weights and bias of a layer of floats; whether it was one.
fn plain(graph: &mut Graph, index: usize) -> bool {
    let node = &graph.nodes[index];
    let (Some(w), bias) = (graph.input(node, 1), graph.input(node, 2)) else { return false };
    let Some(Data::F32(weights)) = w.data.as_ref().filter(|_| is_layer(&node.op)) else { return false };
    let biases = match bias.map(|b| &b.data) {
        None => None,
        Some(Some(Data::F32(biases))) => Some(biases),
        Some(_) => return false,
    };
    let s_in = f64::from(scale(graph, node.inputs[0]));
    let wide = graph.input(node, 0).is_some_and(|x| x.dtype == DType::I16);
    let out = w.shape[0];
    let row = weights.len() / out.max(1);
    let peak = |o: usize| weights[o * row..][..row].iter().fold(0f64, |m, w| m.max(f64::from(w.abs())));
    // A bias that is large beside its weights (those of a dead channel) must still fit int32.
    let room = |o: usize| biases.map_or(0.0, |b| f64::from(b[o].abs()) / s_in / f64::from(1 << 30));
    let scales: Vec<f32> = (0..out).map(|o| (peak(o) / 127.0).max(room(o)).max(1e-30) as f32).collect();
    let integer = |x: f64, most: f64| x.round().clamp(-most, most) as i64;
    let ints = weights.iter().enumerate().map(|(i, w)| integer(f64::from(*w) / f64::from(scales[i / row]), 127.0));
    let quant = |scales: Vec<f32>| Some(Quant { zero_points: vec![0; out], scales, axis: 0 });
    let new =
        Value { dtype: DType::I8, quant: quant(scales.clone()), data: Some(Data::Int(ints.collect())), ..w.clone() };
    let new_bias = bias.zip(biases).map(|(bias, biases)| {
        let scales: Vec<f32> = scales.iter().map(|s| (f64::from(*s) * s_in) as f32).collect();
        let most = if wide { 2f64.powi(48) } else { f64::from(i32::MAX) };
        let ints = biases.iter().zip(&scales).map(|(b, s)| integer(f64::from(*b) / f64::from(*s), most)).collect();
        // Sums of int16 need not fit int32.
        let dtype = if wide { DType::I64 } else { DType::I32 };
        Value { dtype, quant: quant(scales), data: Some(Data::Int(ints)), ..bias.clone() }
    });
    graph.values.push(new);
    graph.nodes[index].inputs[1] = Some(graph.values.len() - 1);
    if let Some(bias) = new_bias {
        graph.values.push(bias);
        graph.nodes[index].inputs[2] = Some(graph.values.len() - 1);
    }
    true
}

/// Adds to `sums` what a layer gives a channel, before its activation and unrounded, over all pixels.
fn add_sums(graph: &Graph, node: &Node, x: &Tensor, sums: &mut [f64]) -> Option<()> {
    let constant = |which: usize| node.inputs.get(which).copied().flatten().map(|id| eval::constant(&graph.values[id]));
    let (w, b) = (constant(1)??, constant(2).flatten());
    let y = Value { quant: None, dtype: DType::F32, ..graph.output(node, 0)?.clone() };
    let free = Node { clamp: None, ..node.clone() };
    let operands = [Some(x), Some(&w), b.as_ref()];
    let results = eval::node(&free, &operands[..node.inputs.len().min(3)], &[&y]).ok()?;
    let Data::F32(values) = &results.first()?.data else { return None };
    let channels = sums.len().max(1);
    values.iter().enumerate().for_each(|(i, v)| sums[i % channels] += f64::from(*v));
    Some(())
}

/// Int8 for the constants that are left, except those that ops take as floats: gains and biases of norms, weights of
/// recurrent layers, biases of coded layers.
fn constants(graph: &mut Graph) {
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let reads = matches!(node.op, Op::Binary(_) | Op::MatMul { .. } | Op::Select | Op::Unary(_));
        if !reads || scalar(&graph.values, node).is_some() {
            continue;
        }
        for which in 0..node.inputs.len() {
            let Some(value) = graph.input(&graph.nodes[index], which) else { continue };
            let Some(Data::F32(floats)) = value.data.as_ref().filter(|_| value.quant.is_none()) else { continue };
            let mut seen = observe::Seen::default();
            seen.see(floats);
            let made = graph.output(&graph.nodes[index], 0);
            let dtype = if made.is_some_and(|y| y.dtype == DType::I16) { DType::I16 } else { DType::I8 };
            // What masks takes any result to its grid's lowest.
            let out = made.and_then(|y| y.quant.as_ref()?.single());
            let most = out.filter(|_| seen.masked).map_or(0.0, |(scale, _)| 255.0 * scale);
            let quant = ranges::constant_grid(seen.min.min(-most), seen.max, dtype);
            let data = Some(Data::Int(ranges::integers(floats, &quant, dtype)));
            let new = Value { dtype, quant: Some(quant), data, ..value.clone() };
            graph.values.push(new);
            let id = graph.values.len() - 1;
            graph.nodes[index].inputs[which] = Some(id);
        }
    }
}

/// The quantized net, all samples side by side, as far as it is quantized.
struct Walk {
    /// What coded layers meet, by node of the quantized graph.
    met: Vec<(usize, Geometry, Met, Vec<Vec<usize>>)>,
    held: Vec<Vec<Option<Arc<Tensor>>>>,
    /// The last node that reads a value.
    last: Vec<usize>,
    /// What each other layer gives a channel in the float net, summed over all pixels and samples, by node of the
    /// quantized graph.
    sums: Vec<(usize, Vec<f64>)>,
}

/// Samples that biases are corrected on.
const MEANS: usize = 64;

impl Walk {
    /// Runs the float graph for what coded layers meet there, and for its states.
    fn new(
        float: &Graph,
        graph: &Graph,
        samples: &[Vec<Tensor>],
        added: &[(ValueId, ValueId)],
        coded: &[usize],
    ) -> Result<Self, eval::EvalError> {
        let mut met = Vec::new();
        for index in coded {
            let Some(geometry) = Geometry::of(graph, &graph.nodes[*index]) else { continue };
            // As many rows of each sample as there is room for, evenly.
            let most = (MOST_MET / geometry.cols.max(1) / samples.len().max(1)).clamp(1, 1024);
            let all = geometry.rows();
            let places = |turn: usize| {
                let count = all.min(most);
                (0..count).map(|i| (i * all / count + (turn * 7) % (all / count).max(1)) % all).collect()
            };
            let places: Vec<Vec<usize>> = (0..samples.len()).map(places).collect();
            met.push((*index, geometry, Met::default(), places));
        }
        let mut sums: Vec<(usize, Vec<f64>)> = (0..graph.nodes.len())
            .filter(|i| is_layer(&graph.nodes[*i].op) && !coded.contains(i))
            .filter_map(|i| Some((i, vec![0.0; *graph.output(&graph.nodes[i], 0)?.shape.last()?])))
            .collect();
        // What a node takes, as the float graph has it.
        let reads = |index: usize| graph.nodes[index].inputs[0].map(|id| stands_for(added, id));
        let mut held = vec![vec![None; graph.values.len()]; samples.len()];
        let mut evaluator = eval::Evaluator::new(float)?;
        for (turn, sample) in samples.iter().enumerate() {
            evaluator.visit(sample, |id, tensor| {
                for (index, geometry, met, places) in &mut met {
                    if reads(*index) == Some(id) {
                        places[turn].iter().for_each(|row| geometry.row(tensor, *row, &mut met.float));
                    }
                }
                for (index, sums) in sums.iter_mut().filter(|_| turn < MEANS) {
                    if reads(*index) == Some(id) {
                        // Weights and biases are the float net's still.
                        add_sums(graph, &graph.nodes[*index], tensor, sums);
                    }
                }
                if graph.inputs.contains(&id) || graph.states.iter().any(|s| s.read == id) {
                    // On the quantized graph's grid.
                    held[turn][id] = Some(Arc::new(eval::held(&graph.values[id], tensor)));
                }
            })?;
        }
        let mut last = vec![0; graph.values.len()];
        for (index, node) in graph.nodes.iter().enumerate() {
            node.inputs.iter().flatten().for_each(|i| last[*i] = index);
        }
        Ok(Self { met, held, last, sums })
    }

    /// Codes the weights of a layer.
    fn code(&mut self, graph: &mut Graph, index: usize, settings: &Settings) -> Result<(), eval::EvalError> {
        let (Some(at), Some(coding)) = (self.met.iter().position(|m| m.0 == index), settings.coding) else {
            return Ok(());
        };
        let (_, geometry, mut met, places) = self.met.swap_remove(at);
        let node = &graph.nodes[index];
        let reads = node.inputs[0].unwrap_or_default();
        for (held, places) in self.held.iter().zip(&places) {
            if let Some(tensor) = &held[reads] {
                places.iter().for_each(|row| geometry.row(tensor, *row, &mut met.quantized));
            }
        }
        let (Some(w), bias) = (graph.input(node, 1).cloned(), graph.input(node, 2).cloned()) else { return Ok(()) };
        let Some(Data::F32(weights)) = &w.data else { return Ok(()) };
        let biases = match bias.as_ref().and_then(|b| b.data.as_ref()) {
            Some(Data::F32(biases)) => biases.clone(),
            _ => vec![0.0; geometry.out],
        };
        let ratio = f64::from(scale(graph, node.inputs[0])) / f64::from(scale(graph, node.outputs.first().copied()));
        let layer = coded::code(&geometry, (weights, &biases), ratio, coding, settings, &met);
        let bias_name = bias.map_or_else(|| format!("{}.bias", w.name), |b| b.name);
        set_coded(graph, index, w, bias_name, layer);
        Ok(())
    }

    /// Moves the bias of a layer with int8 weights by what its channels are off on average.
    fn correct(&mut self, graph: &mut Graph, index: usize) -> Result<(), eval::EvalError> {
        let node = graph.nodes[index].clone();
        let Some((_, float)) = self.sums.iter().find(|(i, _)| *i == index) else { return Ok(()) };
        let mut sums = vec![0f64; float.len()];
        let reads = node.inputs[0].unwrap_or_default();
        let inputs: Vec<&Tensor> = self.held.iter().take(MEANS).filter_map(|h| h[reads].as_deref()).collect();
        for x in &inputs {
            add_sums(graph, &node, x, &mut sums);
        }
        let count = graph.output(&node, 0).map_or(0, Value::count) / float.len().max(1) * inputs.len();
        let Some(bias) = node.inputs.get(2).copied().flatten() else { return Ok(()) };
        let Value { quant: Some(quant), data: Some(Data::Int(ints)), dtype, .. } = &mut graph.values[bias] else {
            return Ok(());
        };
        let range = dtype.range().unwrap_or_default();
        for ((bias, scale), (float, sum)) in ints.iter_mut().zip(&quant.scales).zip(float.iter().zip(&sums)) {
            let off = (float - sum) / count.max(1) as f64 / f64::from(*scale);
            *bias = (*bias + off.round() as i64).clamp(range.0, range.1);
        }
        Ok(())
    }

    /// What the two matrices of a recurrent layer meet, rows of inputs and of hidden states.
    fn hidden(&self, graph: &Graph, index: usize) -> Result<[Vec<f32>; 2], eval::EvalError> {
        let node = &graph.nodes[index];
        let mut met = [vec![], vec![]];
        let mut keep = |which: usize, tensor: Option<&Tensor>| {
            if let Some(Data::F32(values)) = tensor.map(|t| &t.data) {
                met[which].extend(values);
            }
        };
        for operands in &self.operands(graph, node) {
            let operand = |which: usize| operands.get(which)?.as_deref();
            keep(0, operand(0));
            keep(1, operand(if matches!(node.op, Op::Lstm { .. }) { 4 } else { 5 }));
            keep(1, self.results(graph, node, operands)?.first());
        }
        Ok(met)
    }

    /// A node's operands in each sample.
    fn operands(&self, graph: &Graph, node: &Node) -> Vec<Vec<Option<Arc<Tensor>>>> {
        let constant = |id: ValueId| eval::constant(&graph.values[id]).map(Arc::new);
        let constants: Vec<_> = node.inputs.iter().map(|i| i.and_then(constant)).collect();
        let operand = |held: &[Option<Arc<Tensor>>], (id, constant): (&Option<ValueId>, &Option<Arc<Tensor>>)| {
            constant.clone().or_else(|| id.and_then(|id| held[id].clone()))
        };
        let all = |held: &Vec<_>| node.inputs.iter().zip(&constants).map(|pair| operand(held, pair)).collect();
        self.held.iter().map(all).collect()
    }

    /// What a node makes of its operands.
    fn results(
        &self,
        graph: &Graph,
        node: &Node,
        operands: &[Option<Arc<Tensor>>],
    ) -> Result<Vec<Tensor>, eval::EvalError> {
        let outputs: Vec<&Value> = node.outputs.iter().map(|o| &graph.values[*o]).collect();
        let operands: Vec<_> = operands.iter().map(Option::as_deref).collect();
        eval::node(node, &operands, &outputs).map_err(|what| eval::EvalError::Node { node: node.to_string(), what })
    }

    /// Runs a node on all samples.
    fn step(&mut self, graph: &Graph, index: usize) -> Result<(), eval::EvalError> {
        let node = &graph.nodes[index];
        for (sample, operands) in self.operands(graph, node).into_iter().enumerate() {
            let results = self.results(graph, node, &operands)?;
            let held = &mut self.held[sample];
            for (id, tensor) in node.outputs.iter().zip(results) {
                held[*id] = Some(Arc::new(tensor));
            }
            for id in node.inputs.iter().flatten().filter(|id| self.last.get(**id) == Some(&index)) {
                held[*id] = None;
            }
        }
        Ok(())
    }
}

/// Gives a layer its coded weights: their floats as the constant, the codes beside.
fn set_coded(graph: &mut Graph, index: usize, w: Value, bias_name: String, layer: coded::Layer) {
    let coded::Layer { matrix, weights, bias } = layer;
    let bias = Tensor { shape: vec![bias.len()], data: Data::F32(bias) };
    graph.values.push(Value { data: Some(Data::F32(weights)), ..w });
    let weights = graph.values.len() - 1;
    graph.coded.insert(weights, matrix);
    let bias = graph.constant(bias_name, bias);
    let node = &mut graph.nodes[index];
    node.inputs.truncate(1);
    node.inputs.extend([Some(weights), Some(bias)]);
}

/// The coded matrix of a node's weights.
#[must_use]
pub fn coded_matrix<'g>(graph: &'g Graph, node: &Node) -> Option<&'g CodedMatrix> {
    graph.coded.get(&(*node.inputs.get(1)?)?)
}
