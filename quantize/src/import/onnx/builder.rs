//! A graph under construction. What can be computed from constants is, as each node is added; so shapes that a file computes
//! are numbers by the time an operator asks for them.

use super::proto::NodeProto;
use crate::graph::shape::{self, Shape};
use crate::graph::{Binary, DType, Data, Graph, Node, Op, PoolKind, Quant, Tensor, Unary, Value, ValueId, eval};
use std::collections::{HashMap, HashSet};

/// Why a node of the file does not become nodes of the graph.
#[derive(Debug)]
pub(super) enum Stop {
    /// Mote lacks it.
    Unsupported(String),
    /// It is not as ONNX says.
    Malformed(String),
}

pub(super) type Done<T> = Result<T, Stop>;

impl From<String> for Stop {
    fn from(what: String) -> Self {
        Self::Malformed(what)
    }
}

pub(super) fn unsupported<T>(why: impl Into<String>) -> Done<T> {
    Err(Stop::Unsupported(why.into()))
}

pub(super) fn malformed<T>(what: impl Into<String>) -> Done<T> {
    Err(Stop::Malformed(what.into()))
}

/// Bytes of all values together that an import may come to.
const MAX_BYTES: usize = 1 << 30;
/// Multiplications that constant folding may cost; what is beyond stays in the graph.
const MAX_WORK: usize = 1 << 30;

/// A node of the file.
pub(super) struct Step<'p> {
    pub proto: &'p NodeProto,
    /// Its operator.
    pub kind: String,
    /// Version of the operator set.
    pub opset: i64,
    /// Its operands; `None`: left out.
    pub inputs: Vec<Option<ValueId>>,
}

impl Step<'_> {
    pub fn given(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }

    pub fn x(&self, i: usize) -> Done<ValueId> {
        self.given(i).ok_or_else(|| Stop::Malformed(format!("input {i} is missing")))
    }

    /// Whether the file has a name for output `i`.
    pub fn wants(&self, i: usize) -> bool {
        self.proto.output.get(i).is_some_and(|o| !o.is_empty())
    }

    fn attribute(&self, name: &str) -> Option<&super::proto::AttributeProto> {
        self.proto.attribute.iter().find(|a| a.name() == name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.attribute(name).is_some()
    }

    pub fn int(&self, name: &str, absent: i64) -> i64 {
        self.attribute(name).and_then(|a| a.i).unwrap_or(absent)
    }

    pub fn float(&self, name: &str, absent: f32) -> f32 {
        self.attribute(name).and_then(|a| a.f).unwrap_or(absent)
    }

    pub fn text(&self, name: &str, absent: &str) -> String {
        let found = self.attribute(name).and_then(|a| a.s.as_deref());
        found.map_or_else(|| absent.to_owned(), |s| String::from_utf8_lossy(s).into_owned())
    }

    pub fn texts(&self, name: &str) -> Vec<String> {
        let found = self.attribute(name).map_or(&[][..], |a| &a.strings);
        found.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect()
    }

    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|a| &a.ints[..])
    }

    pub fn floats(&self, name: &str) -> Option<&[f32]> {
        self.attribute(name).map(|a| &a.floats[..])
    }

    pub fn tensor(&self, name: &str) -> Option<&super::proto::TensorProto> {
        self.attribute(name).and_then(|a| a.t.as_ref())
    }

    pub fn graph(&self, name: &str) -> Done<&super::proto::GraphProto> {
        let found = self.attribute(name).and_then(|a| a.g.as_deref());
        found.ok_or_else(|| Stop::Malformed(format!("attribute {name} is missing")))
    }

    /// A list of lengths, small enough to be added and multiplied.
    pub fn sizes(&self, name: &str, absent: &[usize]) -> Done<Vec<usize>> {
        let size = |v: &i64| usize::try_from(*v).ok().filter(|v| *v < 1 << 31);
        match self.ints(name) {
            None => Ok(absent.to_vec()),
            Some(all) => all
                .iter()
                .map(size)
                .collect::<Option<_>>()
                .ok_or_else(|| Stop::Unsupported(format!("{name} of {all:?} (Mote takes 0 and above)"))),
        }
    }
}

/// Index of a dimension that may be counted from the end.
pub(super) fn axis(axis: i64, rank: usize) -> Done<usize> {
    let from = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    match usize::try_from(from) {
        Ok(a) if a < rank => Ok(a),
        _ => malformed(format!("dimension {axis} of {rank}")),
    }
}

/// As [`axis`], each once.
pub(super) fn axes(all: &[i64], rank: usize) -> Done<Vec<usize>> {
    let found = all.iter().map(|a| axis(*a, rank)).collect::<Done<Vec<usize>>>()?;
    match found.iter().collect::<HashSet<_>>().len() == found.len() {
        true => Ok(found),
        false => malformed(format!("dimensions {all:?}, one of them twice")),
    }
}

/// Builds the graph.
pub(super) struct Builder {
    pub graph: Graph,
    /// Names to values, the innermost subgraph's last.
    pub scopes: Vec<HashMap<String, ValueId>>,
    /// Results of what is unsupported, whose shapes nobody knows.
    pub unknown: HashSet<ValueId>,
    /// Element types as the file states them, of values that may be kept in another.
    pub types: HashMap<ValueId, i32>,
    /// Floats that are read from constant integers, and the constant.
    dequantized: HashMap<ValueId, ValueId>,
    /// Values that a node reads.
    read: HashSet<ValueId>,
    bytes: usize,
    work: usize,
    /// Operator, name and first output of the node of the file that is being imported.
    pub now: [String; 3],
}

impl Builder {
    pub fn new() -> Self {
        Self {
            graph: Graph::default(),
            scopes: vec![HashMap::new()],
            unknown: HashSet::new(),
            types: HashMap::new(),
            dequantized: HashMap::new(),
            read: HashSet::new(),
            bytes: 0,
            work: 0,
            now: Default::default(),
        }
    }

    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.scopes.iter().rev().find_map(|s| s.get(name)).copied()
    }

    pub fn bind(&mut self, name: &str, id: ValueId) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.to_owned(), id);
        }
    }

    pub fn at(&self, id: ValueId) -> &Value {
        &self.graph.values[id]
    }

    pub fn shape(&self, id: ValueId) -> Shape {
        self.at(id).shape.clone()
    }

    pub fn rank(&self, id: ValueId) -> usize {
        self.at(id).shape.len()
    }

    /// Adds a value, if there is room for it.
    pub fn value(&mut self, value: Value) -> Done<ValueId> {
        let each = if value.data.is_some() && value.dtype != DType::F32 { 8 } else { 4 };
        let fits = shape::count(&value.shape).map(|n| n * each + 64 + self.bytes).filter(|n| *n <= MAX_BYTES);
        let Some(bytes) = fits else {
            let Value { name, shape, .. } = value;
            return unsupported(format!(
                "{name:?} of shape {shape:?}: with it all tensors take more than {MAX_BYTES} bytes"
            ));
        };
        self.bytes = bytes;
        self.graph.values.push(value);
        Ok(self.graph.values.len() - 1)
    }

    pub fn constant(&mut self, tensor: Tensor, dtype: DType) -> Done<ValueId> {
        let Tensor { shape, data } = tensor;
        let name = self.now[2].clone();
        self.value(Value { name, shape, dtype, quant: None, data: Some(data) })
    }

    pub fn scalar(&mut self, v: f32) -> Done<ValueId> {
        self.constant(Tensor::floats(&[], vec![v]), DType::F32)
    }

    /// A number as the type of another value.
    pub fn number(&mut self, v: f32, like: ValueId) -> Done<ValueId> {
        match self.at(like).dtype {
            DType::F32 => self.scalar(v),
            dtype => self.constant(Tensor::ints(&[], vec![v as i64]), dtype),
        }
    }

    pub fn indices(&mut self, shape: &[usize], v: Vec<i64>) -> Done<ValueId> {
        self.constant(Tensor::ints(shape, v), DType::I64)
    }

    /// The elements of a constant that is no quantized one.
    pub fn known(&self, id: ValueId) -> Option<&Data> {
        let value = self.at(id);
        value.data.as_ref().filter(|_| value.quant.is_none())
    }

    fn not_known<T>(&self, what: &str, id: ValueId) -> Done<T> {
        let name = &self.at(id).name;
        unsupported(format!("{what} {name:?} is computed at run time (Mote takes a constant)"))
    }

    /// The integers of a constant operand.
    pub fn ints(&self, what: &str, id: ValueId) -> Done<Vec<i64>> {
        match self.known(id) {
            Some(Data::Int(v)) => Ok(v.clone()),
            Some(Data::F32(_)) => malformed(format!("{what} of floats")),
            None => self.not_known(what, id),
        }
    }

    /// The floats of a constant operand.
    pub fn floats(&self, what: &str, id: ValueId) -> Done<Vec<f32>> {
        match self.known(id) {
            Some(Data::F32(v)) => Ok(v.clone()),
            Some(Data::Int(v)) => Ok(v.iter().map(|v| *v as f32).collect()),
            None => self.not_known(what, id),
        }
    }

    /// The one number of a constant operand.
    pub fn single(&self, what: &str, id: ValueId) -> Done<f32> {
        match self.floats(what, id)?[..] {
            [v] => Ok(v),
            ref all => malformed(format!("{what} of {} elements (expected one)", all.len())),
        }
    }

    /// Adds a node, or what it computes from constants.
    pub fn emit(
        &mut self,
        op: Op,
        inputs: &[Option<ValueId>],
        outputs: &[(Shape, DType, Option<Quant>)],
    ) -> Done<Vec<ValueId>> {
        let [kind, name, first] = self.now.clone();
        let make = |(shape, dtype, quant): &(Shape, DType, Option<Quant>)| Value {
            name: first.clone(),
            shape: shape.clone(),
            dtype: *dtype,
            quant: quant.clone(),
            data: None,
        };
        let values: Vec<Value> = outputs.iter().map(make).collect();
        let operands: Vec<Option<&Value>> = inputs.iter().map(|i| i.map(|i| &self.graph.values[i])).collect();
        let shapes: Vec<Option<&[usize]>> = operands.iter().map(|v| v.map(|v| &v.shape[..])).collect();
        let stated: Vec<&[usize]> = outputs.iter().map(|o| &o.0[..]).collect();
        shape::check(&op, &shapes, &stated)?;
        let node = Node { name, kind, op, inputs: inputs.to_vec(), outputs: Vec::new(), clamp: None };
        let constant = operands.iter().flatten().all(|v| v.data.is_some() && v.quant.is_none());
        let work = work(&node.op, &shapes, &stated);
        let folds = constant
            && !inputs.is_empty()
            && !matches!(node.op, Op::Requantize | Op::Unsupported(_))
            && self.work.saturating_add(work) <= MAX_WORK;
        if !folds {
            let ids = values.into_iter().map(|v| self.value(v)).collect::<Done<Vec<_>>>()?;
            self.read.extend(inputs.iter().flatten());
            self.graph.nodes.push(Node { outputs: ids.clone(), ..node });
            return Ok(ids);
        }
        self.work += work;
        // What is made of one constant alone keeps its name.
        let only = inputs.first().copied().flatten().filter(|_| inputs.len() == 1).map(|id| self.at(id).name.clone());
        // Room is asked for before anything is computed.
        let bytes: usize = values.iter().map(|v| shape::count(&v.shape).unwrap_or(0) * 8).sum();
        if self.bytes + bytes > MAX_BYTES {
            return unsupported(format!("constants of more than {MAX_BYTES} bytes"));
        }
        let tensors: Vec<Option<Tensor>> = operands.iter().map(|v| v.and_then(eval::constant)).collect();
        let operands: Vec<Option<&Tensor>> = tensors.iter().map(Option::as_ref).collect();
        let outputs: Vec<&Value> = values.iter().collect();
        let results = eval::node(&node, &operands, &outputs)?;
        let value = |(v, t): (Value, Tensor)| {
            let name = only.clone().unwrap_or_else(|| v.name.clone());
            Value { name, data: Some(t.data), ..v }
        };
        let made: Vec<Value> = values.into_iter().zip(results).map(value).collect();
        made.into_iter().map(|v| self.value(v)).collect()
    }

    /// A node with one result, whose shape follows from its operands'; of the first operand's type, truth values of
    /// comparisons.
    pub fn op(&mut self, op: Op, inputs: &[ValueId]) -> Done<ValueId> {
        let shapes: Vec<Option<&[usize]>> = inputs.iter().map(|i| Some(&self.at(*i).shape[..])).collect();
        let inferred = shape::infer(&op, &shapes)?.unwrap_or_default();
        match inferred.into_iter().next() {
            Some(shape) => self.shaped(op, inputs, &shape),
            None => malformed("a node whose shape does not follow"),
        }
    }

    /// A node with one result of this shape, of the first operand's type.
    pub fn shaped(&mut self, op: Op, inputs: &[ValueId], shape: &[usize]) -> Done<ValueId> {
        let comparison = matches!(op, Op::Binary(f) if f.is_comparison());
        let dtype = match (&op, inputs) {
            _ if comparison => DType::Bool,
            (Op::ArgMax { .. }, _) => DType::I64,
            (Op::Select, [_, x, ..]) | (_, [x, ..]) => self.at(*x).dtype,
            _ => DType::F32,
        };
        let quant = self.moved(&op, inputs)?;
        let real = quant.is_none() && inputs.iter().any(|x| self.at(*x).quant.is_some());
        let dtype = if real && !comparison { DType::F32 } else { dtype };
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        Ok(self.emit(op, &inputs, &[(shape.to_vec(), dtype, quant)])?[0])
    }

    /// The Quant of a result whose elements are operands'.
    fn moved(&self, op: &Op, inputs: &[ValueId]) -> Done<Option<Quant>> {
        let data = match (op, inputs) {
            (Op::Concat { .. }, all) => all,
            (Op::Select, [_, rest @ ..]) => rest,
            (
                Op::Reshape
                | Op::Transpose { .. }
                | Op::Slice { .. }
                | Op::Expand
                | Op::Gather { .. }
                | Op::Pad { .. }
                | Op::Resize { .. }
                | Op::TopK { .. }
                | Op::Pool2d { kind: PoolKind::Max, .. },
                [x, ..],
            ) => std::slice::from_ref(x),
            (Op::Unary(Unary::Clip(..)), [x]) => std::slice::from_ref(x),
            _ => return Ok(None),
        };
        let Some(first) = data.first().and_then(|x| self.at(*x).quant.as_ref()) else {
            return match data.iter().any(|x| self.at(*x).quant.is_some()) {
                true => unsupported("quantized and other operands together"),
                false => Ok(None),
            };
        };
        if data.iter().any(|x| self.at(*x).quant.as_ref() != Some(first)) {
            return unsupported("operands of different scales together, without a change of scale");
        }
        match (first.single(), op) {
            (Some(_), _) => Ok(Some(first.clone())),
            (None, Op::Transpose { perm }) => {
                let axis = perm.iter().position(|p| *p == first.axis).unwrap_or(0);
                Ok(Some(Quant { axis, ..first.clone() }))
            }
            _ => unsupported("scales by channel of an activation"),
        }
    }

    /// Whether a value is a constant, or floats of constant integers.
    pub fn is_weight(&self, x: ValueId) -> bool {
        self.at(x).data.is_some() || self.dequantized.contains_key(&x)
    }

    /// The constant integers behind floats, or the value itself if it is a quantized constant.
    fn quantized_constant(&self, x: ValueId) -> Option<ValueId> {
        let value = self.at(x);
        let itself = (value.data.is_some() && value.quant.is_some()).then_some(x);
        itself.or_else(|| self.dequantized.get(&x).copied())
    }

    /// Moves the elements of a quantized constant, which stays one.
    fn move_constant(&mut self, op: Op, x: ValueId, shape: &[usize], axis: usize) -> Done<Option<ValueId>> {
        let Some(from) = self.quantized_constant(x) else { return Ok(None) };
        let value = self.at(from).clone();
        let plain = Value { quant: None, ..value.clone() };
        let (Some(tensor), quant) = (eval::constant(&plain), value.quant) else { return Ok(None) };
        let to = Value { shape: shape.to_vec(), data: None, ..plain };
        let node = Node { name: String::new(), kind: String::new(), op, inputs: vec![], outputs: vec![], clamp: None };
        let moved = eval::node(&node, &[Some(&tensor)], &[&to])?.pop();
        let quant = quant.map(|q| Quant { axis, ..q });
        let made = self.value(Value { data: moved.map(|t| t.data), quant, ..to })?;
        if from == x { Ok(Some(made)) } else { self.dequantize(made).map(Some) }
    }

    /// Floats of a quantized value.
    pub fn dequantize(&mut self, x: ValueId) -> Done<ValueId> {
        let shape = self.shape(x);
        let y = self.emit(Op::Requantize, &[Some(x)], &[(shape, DType::F32, None)])?[0];
        if self.at(x).data.is_some() {
            self.dequantized.insert(y, x);
        }
        Ok(y)
    }

    /// A value with this Quant: itself, or another that stands for its integers so.
    pub fn with_quant(&mut self, x: ValueId, quant: Quant) -> Done<ValueId> {
        let value = self.at(x).clone();
        let channels = value.shape.get(quant.axis).copied().unwrap_or(1);
        if quant.single().is_none() && channels != quant.scales.len() {
            return malformed(format!("{} scales for {:?}", quant.scales.len(), value.shape));
        }
        match &value.quant {
            Some(found) if *found == quant => return Ok(x),
            Some(_) => {
                return unsupported(format!("{:?} is read with another scale than it was made with", value.name));
            }
            None if value.dtype == DType::F32 => return malformed(format!("{:?} of floats, with a scale", value.name)),
            None => (),
        }
        if value.data.is_some() {
            self.value(Value { quant: Some(quant), ..value })
        } else if self.read.contains(&x) {
            Ok(self.emit(Op::Unary(Unary::Identity), &[Some(x)], &[(value.shape, value.dtype, Some(quant))])?[0])
        } else {
            self.graph.values[x].quant = Some(quant);
            Ok(x)
        }
    }

    pub fn transpose(&mut self, x: ValueId, perm: &[usize]) -> Done<ValueId> {
        if perm.iter().copied().eq(0..self.rank(x)) {
            return Ok(x);
        }
        let op = Op::Transpose { perm: perm.to_vec() };
        let shape = shape::infer(&op, &[Some(&self.at(x).shape)])?.and_then(|s| s.into_iter().next());
        let shape = shape.ok_or_else(|| "no shape".to_owned())?;
        let axis = self.quantized_constant(x).and_then(|q| self.at(q).quant.as_ref()).map_or(0, |q| q.axis);
        let axis = perm.iter().position(|p| *p == axis).unwrap_or(0);
        match self.move_constant(op.clone(), x, &shape, axis)? {
            Some(moved) => Ok(moved),
            None => self.shaped(op, &[x], &shape),
        }
    }

    pub fn reshape(&mut self, x: ValueId, shape: &[usize]) -> Done<ValueId> {
        let from = self.shape(x);
        if from == shape {
            return Ok(x);
        }
        if shape::count(&from) != shape::count(shape) {
            return malformed(format!("{from:?} in shape {shape:?}"));
        }
        if let Some(quant) = self.quantized_constant(x).and_then(|q| self.at(q).quant.clone()) {
            // The dimension of channels is the one with as many elements, and as many after it.
            let after = |s: &[usize], d: usize| s[d + 1..].iter().product::<usize>();
            let same = |d: &usize| shape[*d] == from[quant.axis] && after(shape, *d) == after(&from, quant.axis);
            let axis = match quant.single() {
                Some(_) => Some(0),
                None => (0..shape.len()).find(same),
            };
            let Some(axis) = axis else {
                return unsupported("weights with scales by channel, in a shape without that dimension");
            };
            if let Some(moved) = self.move_constant(Op::Reshape, x, shape, axis)? {
                return Ok(moved);
            }
        }
        self.shaped(Op::Reshape, &[x], shape)
    }

    pub fn slice(&mut self, x: ValueId, axis: usize, start: usize, count: usize) -> Done<ValueId> {
        let mut shape = self.shape(x);
        let mut starts = vec![0; shape.len()];
        (starts[axis], shape[axis]) = (start, count);
        let steps = vec![1; shape.len()];
        self.shaped(Op::Slice { starts, steps }, &[x], &shape)
    }

    pub fn concat(&mut self, parts: &[ValueId], axis: usize) -> Done<ValueId> {
        match parts {
            [one] => Ok(*one),
            _ => self.op(Op::Concat { axis }, parts),
        }
    }

    pub fn unary(&mut self, f: Unary, x: ValueId) -> Done<ValueId> {
        self.op(Op::Unary(f), &[x])
    }

    pub fn binary(&mut self, f: Binary, x: ValueId, y: ValueId) -> Done<ValueId> {
        self.op(Op::Binary(f), &[x, y])
    }

    /// The same numbers as another type.
    pub fn cast(&mut self, x: ValueId, dtype: DType) -> Done<ValueId> {
        if self.at(x).dtype == dtype {
            return Ok(x);
        }
        let shape = self.shape(x);
        Ok(self.emit(Op::Cast, &[Some(x)], &[(shape, dtype, None)])?[0])
    }

    /// Channels from the second dimension to the last.
    pub fn channels_last(&mut self, x: ValueId) -> Done<ValueId> {
        let rank = self.rank(x);
        let perm: Vec<usize> = std::iter::once(0).chain(2..rank).chain((rank > 1).then_some(1)).take(rank).collect();
        self.transpose(x, &perm)
    }

    /// Channels from the last dimension to the second.
    pub fn channels_first(&mut self, x: ValueId) -> Done<ValueId> {
        let rank = self.rank(x);
        let perm: Vec<usize> =
            if rank < 3 { (0..rank).collect() } else { [0, rank - 1].into_iter().chain(1..rank - 1).collect() };
        self.transpose(x, &perm)
    }

    /// [n, c, (h,) w] as an image [n, h, w, c], h 1 if there is none.
    pub fn image(&mut self, x: ValueId) -> Done<ValueId> {
        let rank = self.rank(x);
        if rank != 3 && rank != 4 {
            return unsupported(format!("{} spatial dimensions (Mote has 1 and 2)", rank.saturating_sub(2)));
        }
        let x = self.channels_last(x)?;
        match self.shape(x)[..] {
            [n, w, c] => self.reshape(x, &[n, 1, w, c]),
            _ => Ok(x),
        }
    }

    /// The way back, to as many dimensions as before.
    pub fn back(&mut self, y: ValueId, rank: usize) -> Done<ValueId> {
        let y = match (rank, &self.shape(y)[..]) {
            (3, &[n, 1, w, c]) => self.reshape(y, &[n, w, c])?,
            _ => y,
        };
        self.channels_first(y)
    }
}

/// About how many multiplications or copies a node costs.
fn work(op: &Op, inputs: &[Option<&[usize]>], outputs: &[&[usize]]) -> usize {
    let count = |s: &[usize]| shape::count(s).unwrap_or(usize::MAX / 4);
    let all = inputs.iter().flatten().copied().chain(outputs.iter().copied()).map(count).sum::<usize>();
    let given = |i: usize| inputs.get(i).copied().flatten().unwrap_or(&[]);
    let out = outputs.first().map_or(0, |o| count(o));
    let each = match op {
        Op::Conv2d { .. } | Op::ConvTranspose2d { .. } => given(1).iter().skip(1).product(),
        Op::FullyConnected => given(1).last().copied().unwrap_or(1),
        Op::MatMul { .. } => given(0).last().copied().unwrap_or(1),
        Op::Pool2d { kernel, .. } => kernel[0].saturating_mul(kernel[1]),
        Op::Lstm { .. } | Op::Gru { .. } => count(given(2)).saturating_add(count(given(1))),
        _ => 8,
    };
    all.saturating_add(out.saturating_mul(each))
}
