//! The graph in floats: what it means, the reference of every comparison, and what folds constants.
//!
//! A value with a [`Quant`](super::Quant) is evaluated as the real numbers that its integers stand for, and a result is
//! rounded to the nearest of them (halves to even), so a quantized graph gives what integer arithmetic comes near to.
//! Values without are floats, or integers of any width (indices, shapes).
//!
//! Each node is checked before it runs ([`shape::check`]), so that kernels may trust their operands' shapes; there are no
//! other conditions on a graph, and an unsound one gives an error.

mod conv;
mod elementwise;
mod matmul;
mod moves;
mod recurrent;
mod reduce;
mod resize;

pub(crate) use elementwise::{composed, function, function2, of_floats};
pub(crate) use moves::broadcast_places;

use super::{DType, Data, Graph, Node, Op, Tensor, Value, ValueId, shape};
use std::borrow::Cow;
use std::sync::Arc;

/// Why a graph could not be evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The graph holds operators that Mote lacks.
    #[error("operators that Mote lacks:\n{}", .0.join("\n"))]
    Unsupported(Vec<String>),
    /// A node's operands do not fit it, or one another.
    #[error("{node}: {what}")]
    Node {
        /// The node.
        node: String,
        /// What does not fit.
        what: String,
    },
    /// An input, output or state does not fit the graph.
    #[error("{0}")]
    Graph(String),
}

/// A node's operands and the values it computes, as a kernel sees them.
struct Args<'a> {
    inputs: &'a [Option<&'a Tensor>],
    outputs: &'a [&'a Value],
}

/// What a kernel gives: a tensor for each output, or what is wrong.
type Outcome = Result<Vec<Tensor>, String>;

impl<'a> Args<'a> {
    fn given(&self, i: usize) -> Option<&'a Tensor> {
        self.inputs.get(i).copied().flatten()
    }

    fn x(&self, i: usize) -> Result<&'a Tensor, String> {
        self.given(i).ok_or_else(|| format!("operand {i} is missing"))
    }

    fn floats(&self, i: usize) -> Result<&'a [f32], String> {
        match &self.x(i)?.data {
            Data::F32(v) => Ok(v),
            Data::Int(_) => Err(format!("operand {i} is of integers (expected floats)")),
        }
    }

    fn floats_if(&self, i: usize) -> Result<Option<&'a [f32]>, String> {
        self.given(i).map(|_| self.floats(i)).transpose()
    }

    fn ints(&self, i: usize) -> Result<&'a [i64], String> {
        match &self.x(i)?.data {
            Data::Int(v) => Ok(v),
            Data::F32(_) => Err(format!("operand {i} is of floats (expected integers)")),
        }
    }

    fn shape(&self, i: usize) -> &'a [usize] {
        self.given(i).map_or(&[], |x| &x.shape)
    }

    /// Shape of the first result.
    fn out(&self) -> &'a [usize] {
        self.outputs.first().map_or(&[], |o| &o.shape)
    }

    /// The first result.
    fn floats_out(&self, data: Vec<f32>) -> Outcome {
        Ok(vec![Tensor::floats(self.out(), data)])
    }
}

fn dispatch(op: &Op, args: &Args) -> Outcome {
    match op {
        Op::Conv2d { window, groups } => conv::conv(args, window, *groups),
        Op::ConvTranspose2d { window } => conv::transposed(args, window),
        Op::Pool2d { kind, kernel, window } => conv::pool(args, *kind, *kernel, window),
        Op::FullyConnected => matmul::fully_connected(args),
        Op::MatMul { transposed } => matmul::matmul(args, *transposed),
        Op::Unary(f) => elementwise::unary(args, *f),
        Op::Binary(f) => elementwise::binary(args, *f),
        Op::Function(f) => args.floats_out(elementwise::composed(f, args.floats(0)?)?),
        Op::Select => elementwise::select(args),
        Op::Cast => elementwise::cast(args),
        Op::Requantize => elementwise::requantize(args),
        Op::Concat { axis } => moves::concat(args, *axis),
        Op::Slice { starts, steps } => moves::slice(args, starts, steps),
        Op::Insert { starts } => moves::insert(args, starts),
        Op::Reshape => moves::reshape(args),
        Op::Transpose { perm } => moves::transpose(args, perm),
        Op::Gather { axis } => moves::gather(args, *axis),
        Op::Pad { before, mode } => moves::pad(args, before, *mode),
        Op::Expand => moves::expand(args),
        Op::Reduce { kind, axes } => reduce::reduce(args, *kind, axes),
        Op::Softmax { axis, beta, log } => reduce::softmax(args, *axis, *beta, *log),
        Op::Norm { kind, epsilon } => reduce::norm(args, *kind, *epsilon),
        Op::ArgMax { axis, least } => reduce::argmax(args, *axis, *least),
        Op::TopK { axis, least } => reduce::topk(args, *axis, *least),
        Op::Resize { coordinates, interpolation } => resize::resize(args, *coordinates, *interpolation),
        Op::Lstm { direction } => recurrent::lstm(args, *direction),
        Op::Gru { direction, reset_after } => recurrent::gru(args, *direction, *reset_after),
        Op::Signal(_) => Err("an audio front end of integers, which has no floats".to_owned()),
        Op::Unsupported(why) => Err(why.clone()),
    }
}

/// Evaluates one node: `inputs` as they stand for themselves (real numbers where the value has a Quant), `outputs` the
/// values it computes.
///
/// # Errors
/// What does not fit.
pub fn node(node: &Node, inputs: &[Option<&Tensor>], outputs: &[&Value]) -> Result<Vec<Tensor>, String> {
    let shapes: Vec<Option<&[usize]>> = inputs.iter().map(|i| i.map(|t| &t.shape[..])).collect();
    let stated: Vec<&[usize]> = outputs.iter().map(|v| &v.shape[..]).collect();
    shape::check(&node.op, &shapes, &stated)?;
    // Nothing is nothing, however large its other dimensions.
    if outputs.iter().all(|v| v.count() == 0) && !matches!(node.op, Op::Unsupported(_)) {
        let empty = |v: &&Value| match v.dtype == DType::F32 || v.quant.is_some() {
            true => Tensor::floats(&v.shape, vec![]),
            false => Tensor::ints(&v.shape, vec![]),
        };
        return Ok(outputs.iter().map(empty).collect());
    }
    let mut results = dispatch(&node.op, &Args { inputs, outputs })?;
    for (tensor, value) in results.iter_mut().zip(outputs) {
        if let (Some([low, high]), Data::F32(v)) = (node.clamp, &mut tensor.data) {
            // Not f32::clamp, which panics on a range that a file gives the wrong way round.
            v.iter_mut().for_each(|x| *x = x.max(low).min(high));
        }
        settle(value, tensor);
    }
    Ok(results)
}

/// Makes a tensor what its value says: real numbers on the grid of its Quant, or integers of its width.
fn settle(value: &Value, tensor: &mut Tensor) {
    let range = value.dtype.range();
    match (&value.quant, &mut tensor.data) {
        (Some(_), Data::F32(v)) => {
            let (low, high) = range.unwrap_or((i64::MIN, i64::MAX));
            for_each_scale(value, v.len(), |i, scale, zero| {
                let q = f64::from((v[i] / scale).round_ties_even()) + f64::from(zero);
                v[i] = ((q.clamp(low as f64, high as f64) - f64::from(zero)) * f64::from(scale)) as f32;
            });
        }
        (Some(_), Data::Int(q)) => {
            let mut v = vec![0.0; q.len()];
            for_each_scale(value, q.len(), |i, scale, zero| {
                v[i] = ((q[i] as f64 - f64::from(zero)) * f64::from(scale)) as f32;
            });
            tensor.data = Data::F32(v);
        }
        (None, Data::Int(v)) => match (value.dtype, range) {
            (DType::I64 | DType::Bool | DType::F32, _) | (_, None) => (),
            (_, Some((low, high))) => {
                v.iter_mut().for_each(|x| *x = low.wrapping_add(x.wrapping_sub(low).rem_euclid(high - low + 1)));
            }
        },
        (None, Data::F32(_)) => (),
    }
}

/// Calls with each element's index, scale and zero point.
fn for_each_scale(value: &Value, count: usize, mut f: impl FnMut(usize, f32, i32)) {
    let Some(quant) = &value.quant else { return };
    let inner: usize = value.shape.get(quant.axis + 1..).map_or(1, |s| s.iter().product()).max(1);
    let pairs: Vec<(f32, i32)> = quant.scales.iter().copied().zip(quant.zero_points.iter().copied()).collect();
    let Some(last) = pairs.len().checked_sub(1) else { return };
    for i in 0..count {
        let (scale, zero) = pairs[if last == 0 { 0 } else { (i / inner) % (last + 1) }];
        f(i, scale, zero);
    }
}

/// A tensor as `value` holds it: real numbers on its grid, if it has one.
#[must_use]
pub fn held(value: &Value, tensor: &Tensor) -> Tensor {
    let mut tensor = tensor.clone();
    settle(value, &mut tensor);
    tensor
}

/// The integers that a tensor of real numbers is stored as; integers are given back.
#[must_use]
pub fn stored(value: &Value, tensor: &Tensor) -> Vec<i64> {
    match &tensor.data {
        Data::Int(v) => v.clone(),
        Data::F32(v) => {
            let (low, high) = value.dtype.range().unwrap_or((i64::MIN, i64::MAX));
            let mut out = vec![0; v.len()];
            for_each_scale(value, v.len(), |i, scale, zero| {
                let q = f64::from((v[i] / scale).round_ties_even()) + f64::from(zero);
                out[i] = (q as i64).clamp(low, high);
            });
            out
        }
    }
}

/// The tensor that a constant is evaluated as.
#[must_use]
pub fn constant(value: &Value) -> Option<Tensor> {
    let mut tensor = Tensor { shape: value.shape.clone(), data: value.data.clone()? };
    if shape::count(&value.shape)? != tensor.count() {
        return None;
    }
    settle(value, &mut tensor);
    Some(tensor)
}

/// Evaluates a graph once, its states as in a first run: a tensor for each input, in the inputs' order (floats, or
/// integers of a value that has a Quant); a tensor for each output.
///
/// # Errors
/// [`EvalError`].
pub fn run(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, EvalError> {
    Evaluator::new(graph)?.run(inputs)
}

/// A graph, its constants, and its states from one run to the next.
pub struct Evaluator<'g> {
    graph: &'g Graph,
    constants: Vec<Option<Arc<Tensor>>>,
    uses: Vec<usize>,
    states: Vec<Arc<Tensor>>,
}

impl<'g> Evaluator<'g> {
    /// Prepares the constants.
    ///
    /// # Errors
    /// [`EvalError`]: all unsupported operators of the graph, or what is unsound.
    pub fn new(graph: &'g Graph) -> Result<Self, EvalError> {
        let lacking = |n: &Node| match &n.op {
            Op::Unsupported(why) => Some(format!("{n}: {why}")),
            _ => None,
        };
        let lacking: Vec<String> = graph.nodes.iter().filter_map(lacking).collect();
        if !lacking.is_empty() {
            return Err(EvalError::Unsupported(lacking));
        }
        let ids = graph.nodes.iter().flat_map(|n| n.inputs.iter().flatten().chain(&n.outputs));
        let ids = ids.chain(&graph.inputs).chain(&graph.outputs);
        let ids = ids.chain(graph.states.iter().flat_map(|s| [&s.read, &s.write]));
        if let Some(id) = ids.copied().find(|id| *id >= graph.values.len()) {
            return Err(EvalError::Graph(format!("value {id} of {}", graph.values.len())));
        }
        let mut constants = Vec::with_capacity(graph.values.len());
        for value in &graph.values {
            let made = value.data.as_ref().map(|_| {
                let what = || EvalError::Graph(format!("constant {:?} does not hold {:?}", value.name, value.shape));
                constant(value).map(Arc::new).ok_or_else(what)
            });
            constants.push(made.transpose()?);
        }
        let mut evaluator = Self { graph, constants, uses: graph.uses(), states: Vec::new() };
        evaluator.reset()?;
        Ok(evaluator)
    }

    /// Puts all states back to what a first run begins with.
    ///
    /// # Errors
    /// [`EvalError::Graph`] where an initial state does not fit its value.
    pub fn reset(&mut self) -> Result<(), EvalError> {
        let first = |s: &super::State| {
            let value = Value { data: Some(s.initial.clone()), ..self.graph.values[s.read].clone() };
            constant(&value)
                .map(Arc::new)
                .ok_or_else(|| EvalError::Graph(format!("state {:?} of another size", s.name)))
        };
        self.states = self.graph.states.iter().map(first).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Evaluates the graph, and keeps its states for the next run.
    ///
    /// # Errors
    /// [`EvalError`].
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, EvalError> {
        self.visit(inputs, |_, _| ())
    }

    /// As [`run`](Self::run), and calls `visitor` with each input's, state's and result's tensor, in the order of the nodes.
    ///
    /// # Errors
    /// [`EvalError`].
    pub fn visit(
        &mut self,
        inputs: &[Tensor],
        mut visitor: impl FnMut(ValueId, &Tensor),
    ) -> Result<Vec<Tensor>, EvalError> {
        let graph = self.graph;
        let mut held = self.constants.clone();
        let mut left = self.uses.clone();
        if inputs.len() != graph.inputs.len() {
            let (given, takes) = (inputs.len(), graph.inputs.len());
            return Err(EvalError::Graph(format!("{given} inputs were given, the graph takes {takes}")));
        }
        for (id, tensor) in graph.inputs.iter().zip(inputs) {
            let value = &graph.values[*id];
            held[*id] = Some(Arc::new(accept(value, tensor)?));
        }
        for (state, tensor) in graph.states.iter().zip(&self.states) {
            held[state.read] = Some(Arc::clone(tensor));
        }
        for id in graph.inputs.iter().chain(graph.states.iter().map(|s| &s.read)) {
            held[*id].iter().for_each(|t| visitor(*id, t));
        }
        for step in &graph.nodes {
            let fail = |what| EvalError::Node { node: step.to_string(), what };
            let outputs: Vec<&Value> = step.outputs.iter().map(|o| &graph.values[*o]).collect();
            let operand = |i: &Option<ValueId>| match i {
                None => Ok(None),
                Some(id) => held[*id].as_deref().map(Some).ok_or_else(|| fail(format!("value {id} is not there yet"))),
            };
            let operands = step.inputs.iter().map(operand).collect::<Result<Vec<_>, _>>()?;
            let results = node(step, &operands, &outputs).map_err(fail)?;
            for (id, tensor) in step.outputs.iter().zip(results) {
                visitor(*id, &tensor);
                held[*id] = (left[*id] > 0).then(|| Arc::new(tensor));
            }
            for id in step.inputs.iter().flatten() {
                left[*id] = left[*id].saturating_sub(1);
                if left[*id] == 0 {
                    held[*id] = None;
                }
            }
        }
        let find = |id: &ValueId| {
            held[*id].clone().ok_or_else(|| EvalError::Graph(format!("no node computes {:?}", graph.values[*id].name)))
        };
        let outputs = graph.outputs.iter().map(|o| find(o).map(|t| (*t).clone())).collect::<Result<_, _>>()?;
        self.states = graph.states.iter().map(|s| find(&s.write)).collect::<Result<_, _>>()?;
        Ok(outputs)
    }
}

/// An input's tensor, if it is of the value's shape and kind.
fn accept(value: &Value, tensor: &Tensor) -> Result<Tensor, EvalError> {
    let kind = match (&tensor.data, value.dtype, &value.quant) {
        (Data::F32(_), DType::F32, _) | (_, _, Some(_)) => true,
        (Data::F32(_), ..) => false,
        (Data::Int(_), dtype, None) => dtype != DType::F32,
    };
    if !kind || tensor.shape != value.shape || shape::count(&tensor.shape) != Some(tensor.count()) {
        let Value { name, shape, dtype, .. } = value;
        let found: Cow<str> = match tensor.data {
            Data::F32(_) => "floats".into(),
            Data::Int(_) => "integers".into(),
        };
        let what =
            format!("input {name:?} was given {found} of shape {:?}, it takes {dtype:?} of {shape:?}", tensor.shape);
        return Err(EvalError::Graph(what));
    }
    let mut tensor = tensor.clone();
    settle(value, &mut tensor);
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Binary, Quant, State, Unary, Window};

    #[test]
    fn quantized_values_are_real_numbers_on_their_grid() {
        let mut g = Graph::default();
        let x = g.value("x", &[4], DType::I8);
        g.values[x].quant = Some(Quant::one(0.5, 10));
        let w = g.constant("w", Tensor::ints(&[2, 2], vec![1, 2, 3, 4]));
        g.values[w].quant = Some(Quant { scales: vec![1.0, 10.0], zero_points: vec![0, 1], axis: 0 });
        let rows = g.value("rows", &[2, 2], DType::I8);
        g.values[rows].quant = g.values[x].quant.clone();
        let y = g.value("y", &[2, 2], DType::I8);
        g.values[y].quant = Some(Quant::one(2.0, 0));
        g.node("Reshape", "r", Op::Reshape, &[x], &[rows]);
        g.node("MatMul", "m", Op::FullyConnected, &[rows, w], &[y]);
        (g.inputs, g.outputs) = (vec![x], vec![y]);
        // x: 1, -2, 0, 60; w: [[1, 2], [20, 30]]; the products: -3, -40, 120, 1800, of which even ones up to 254 are kept.
        let out = run(&g, &[Tensor::ints(&[4], vec![12, 6, 10, 127])]).unwrap();
        assert_eq!(out, [Tensor::floats(&[2, 2], vec![-4.0, -40.0, 116.0, 254.0])]);
        assert_eq!(stored(&g.values[y], &out[0]), [-2, -20, 58, 127]);
        let same = run(&g, &[Tensor::floats(&[4], vec![1.1, -2.0, 0.0, 1000.0])]).unwrap();
        assert_eq!(same, out, "floats are taken to the grid");
        let why = run(&g, &[Tensor::floats(&[2], vec![0.0; 2])]).unwrap_err().to_string();
        assert!(why.contains("\"x\" was given floats of shape [2]"), "{why}");
    }

    #[test]
    fn states_are_kept_and_results_cut_to_their_range() {
        let mut g = Graph::default();
        let x = g.value("x", &[1], DType::F32);
        let (read, write) = (g.value("before", &[1], DType::F32), g.value("after", &[1], DType::F32));
        g.node("Add", "a", Op::Binary(Binary::Add), &[x, read], &[write]);
        g.nodes[0].clamp = Some([0.0, 6.0]);
        g.states.push(State { name: "sum".into(), read, write, initial: Data::F32(vec![0.5]) });
        (g.inputs, g.outputs) = (vec![x], vec![write]);
        let mut e = Evaluator::new(&g).unwrap();
        let mut seen = Vec::new();
        let mut step = |e: &mut Evaluator| {
            let out = e.visit(&[Tensor::floats(&[1], vec![2.0])], |id, t| seen.push((id, t.clone()))).unwrap();
            let Data::F32(v) = &out[0].data else { panic!("{out:?}") };
            v[0]
        };
        assert_eq!([step(&mut e), step(&mut e), step(&mut e)], [2.5, 4.5, 6.0]);
        e.reset().unwrap();
        assert_eq!(step(&mut e), 2.5);
        assert_eq!(seen.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [x, read, write].repeat(4));
    }

    #[test]
    fn unsound_graphs_give_errors() {
        let mut g = Graph::default();
        let (x, y) = (g.value("x", &[1, 4, 4, 2], DType::F32), g.value("y", &[1, 2, 2, 3], DType::F32));
        let w = g.constant("w", Tensor::floats(&[3, 3, 3, 2], vec![1.0; 54]));
        let window = Window { stride: [1, 1], dilation: [1, 1], before: [0, 0], after: [0, 0] };
        g.node("Conv", "c", Op::Conv2d { window, groups: 1 }, &[x, w], &[y]);
        (g.inputs, g.outputs) = (vec![x], vec![y]);
        let ones = [Tensor::floats(&[1, 4, 4, 2], vec![1.0; 32])];
        assert_eq!(run(&g, &ones).unwrap(), [Tensor::floats(&[1, 2, 2, 3], vec![18.0; 12])]);
        let broken = |change: &dyn Fn(&mut Graph)| {
            let mut g = g.clone();
            change(&mut g);
            run(&g, &ones).unwrap_err().to_string()
        };
        let window = Window { before: [usize::MAX, 1], ..window };
        for (change, word) in [
            (&(|g: &mut Graph| g.values[2].shape = vec![3, 3, 3, 3]) as &dyn Fn(&mut Graph), "does not hold"),
            (&|g| g.values[1].shape = vec![1, 2, 2, 4], "expected [1, 2, 2, 3]"),
            (&|g| g.nodes[0].op = Op::Conv2d { window, groups: 1 }, "a window of"),
            (&|g| g.nodes[0].op = Op::Conv2d { window, groups: 2 }, "in 2 groups"),
            (&|g| g.nodes[0].op = Op::Slice { starts: vec![0; 4], steps: vec![i64::MIN; 4] }, "do not give"),
            (&|g| g.nodes[0].op = Op::Unary(Unary::Abs), "expected [1, 4, 4, 2]"),
            (&|g| g.nodes[0].op = Op::Lstm { direction: crate::graph::Direction::Forward }, "operand 2 is missing"),
            (&|g| g.nodes[0].inputs[1] = None, "operand 1 is missing"),
            (&|g| g.nodes[0].inputs[0] = Some(77), "value 77 of 3"),
            (&|g| g.nodes[0].inputs[0] = Some(1), "not there yet"),
            (&|g| g.nodes[0].op = Op::Unsupported("Einsum".into()), "Conv \"c\": Einsum"),
            (&|g| g.nodes.clear(), "no node computes \"y\""),
        ] {
            let why = broken(change);
            assert!(why.contains(word), "{word}: {why}");
        }
    }
}
