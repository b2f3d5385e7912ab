//! Nets: a graph whose every activation is integers, to ops of the runtime. Scales are folded into integer multipliers as
//! TensorFlow Lite's own `Prepare` functions fold them, in the same float types and the same order of operations, so that
//! its int8 models give the same bytes.
//!
//! To add an op of the graph: a function in the file of its kind and a row in [`find`]. Whatever a model needs and these
//! pages lack is collected, so that one error names all of it.

mod conv;
mod elementwise;
mod fixed;
mod movement;
mod recurrent;
mod reduce;
mod signal;
mod tables;
mod whole;
mod wide;

use super::{Builder, Lowered};
use crate::codes::CodedMatrix;
use crate::graph::{DType, Data, Graph, Node, Op, State, Unary, Value, ValueId};
use crate::layers;
use crate::plan::net::CHANGES;
use fixed::exact;
pub(crate) use fixed::quantize_multiplier;
use mote_runtime::fixed::tflite::Rounding;
use mote_runtime::image::plan::{Kind, Rows};
use mote_runtime::image::{Dtype, Port, program::entry};
use mote_runtime::ops::{self, window::SINGLE_ROUNDING};
use std::collections::HashMap;

/// A tensor of the image.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// For people.
    pub name: String,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Dimensions, 1 to 4 of them.
    pub dims: Vec<usize>,
    /// `value = integer * 2^-exponent`; 0 where ops have scales of their own.
    pub exponent: i32,
    /// What codes of 4 and 5 bits stand for.
    pub codebook: [i8; 16],
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What was lost, for codes.
    pub relative_error: f64,
    /// How many of the model's numbers it holds.
    pub parameters: usize,
}

impl Constant {
    /// A tensor of integers that are none of the model's numbers.
    #[must_use]
    pub fn plain(name: &str, dtype: Dtype, dims: &[usize], bytes: Vec<u8>) -> Self {
        let (name, dims) = (name.to_owned(), dims.to_vec());
        Self { name, dtype, dims, exponent: 0, codebook: [0; 16], bytes, relative_error: 0.0, parameters: 0 }
    }

    /// A matrix in codes.
    #[must_use]
    pub fn coded(name: &str, matrix: CodedMatrix) -> Self {
        let desc = matrix.desc();
        Self {
            name: name.to_owned(),
            dtype: desc.dtype,
            dims: vec![matrix.rows, matrix.cols],
            exponent: desc.exponent,
            codebook: desc.codebook,
            relative_error: matrix.stats.relative_error,
            parameters: matrix.rows * matrix.cols,
            bytes: matrix.bytes,
        }
    }
}

/// A lowered net.
#[derive(Clone, Debug)]
pub struct Net {
    /// Program, slots and tensors.
    pub lowered: Lowered<Constant>,
    /// Inputs.
    pub inputs: Vec<Port>,
    /// Outputs.
    pub outputs: Vec<Port>,
}

/// What a node lacks; the words complete "is not supported".
type Lowering<T> = Result<T, String>;

/// Lowers a node to ops of the runtime.
type Lower = fn(&mut Context<'_>, &Node) -> Lowering<()>;

/// What lowers an op of the graph.
fn find(op: &Op) -> Lower {
    match op {
        Op::Conv2d { .. } => conv::conv2d,
        Op::ConvTranspose2d { .. } => conv::conv_transpose2d,
        Op::FullyConnected => conv::fully_connected,
        Op::Pool2d { .. } => conv::pool2d,
        Op::Binary(_) => elementwise::binary,
        Op::Softmax { .. } => elementwise::softmax,
        Op::Unary(_) | Op::Requantize => elementwise::unary,
        Op::Function(_) => elementwise::function,
        Op::Cast => whole::cast,
        Op::Select => whole::select,
        Op::Signal(_) => signal::signal,
        Op::MatMul { .. } => reduce::matmul,
        Op::Reduce { .. } => reduce::reduce,
        Op::ArgMax { .. } => reduce::arg_max,
        Op::TopK { .. } => reduce::top_k,
        Op::Gather { .. } => movement::gather,
        Op::Resize { .. } => movement::resize,
        Op::Lstm { .. } => recurrent::lstm,
        Op::Gru { .. } => recurrent::gru,
        Op::Norm { .. } => recurrent::norm,
        Op::Reshape => movement::reshape,
        Op::Transpose { .. } => movement::transpose,
        Op::Slice { .. } => movement::slice,
        Op::Insert { .. } => movement::insert,
        Op::Concat { .. } => movement::concat,
        Op::Expand => movement::expand,
        Op::Pad { .. } => movement::pad,
        Op::Unsupported(_) => |_, node| match &node.op {
            Op::Unsupported(why) => Err(why.clone()),
            _ => Ok(()),
        },
    }
}

/// Ops that round nothing: their flag 1 is another.
const INTEGERS_ONLY: [u16; 3] = [ops::maximum::OP.code, ops::arg_max::OP.code, ops::top_k::OP.code];

struct Context<'g> {
    graph: &'g Graph,
    builder: Builder<Constant>,
    /// Slots of the values that have been computed.
    slots: HashMap<ValueId, u32>,
    rounding: Rounding,
}

/// An activation's one scale and zero point. Bytes of 0 to 255 lie in the arena as int8, less 128.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Affine {
    scale: f32,
    zero: i32,
}

impl From<Affine> for layers::Affine {
    fn from(a: Affine) -> Self {
        Self { scale: a.scale.into(), zero_point: a.zero as i8 }
    }
}

/// Lowers a graph; `rounding` is that of TFLite which the model was made for.
///
/// # Errors
/// Everything that is not supported, one entry each.
pub fn net(graph: &Graph, rounding: Rounding) -> Result<Net, Vec<String>> {
    planned(&integer_ends(graph), rounding, CHANGES)
}

/// As [`net`], of a graph with integer ends; the planner tries `changes` orders of the slots.
pub(crate) fn planned(graph: &Graph, rounding: Rounding, changes: usize) -> Result<Net, Vec<String>> {
    let mut missing = Vec::new();
    let mut c = Context { graph, builder: Builder::default(), slots: HashMap::new(), rounding };
    c.builder.search(changes);
    for input in &graph.inputs {
        if let Err(why) = c.new_slot(*input) {
            missing.push(format!("input \"{}\": {why}", graph.values[*input].name));
            c.stand_in(*input);
        }
    }
    c.reset(&mut missing);
    c.builder.entry(entry::RUN);
    let arrived = c.unsigned(&graph.inputs);
    for node in &graph.nodes {
        if let Err(why) = c.words(node).and_then(|()| find(&node.op)(&mut c, node)) {
            missing.push(format!("{} ({}): {why}", node.kind, node.name));
            node.outputs.iter().for_each(|output| c.stand_in(*output));
        }
    }
    for state in &graph.states {
        if let Err(why) = c.leave(state) {
            missing.push(format!("state \"{}\": {why}", state.name));
        }
    }
    c.unsigned(&graph.outputs);
    let inputs = c.ports(&graph.inputs, &arrived);
    let outputs = c.ports(&graph.outputs, &[]);
    match (inputs, outputs) {
        (Ok(inputs), Ok(outputs)) if missing.is_empty() && !inputs.is_empty() && !outputs.is_empty() => {
            let slots = |ports: &[Port]| ports.iter().map(|p| p.slot).collect();
            c.builder.ports(slots(&inputs), slots(&outputs));
            Ok(Net { lowered: c.builder.finish(1, 0, 0), inputs, outputs })
        }
        (inputs, outputs) => {
            if missing.is_empty() {
                missing.extend([inputs.err(), outputs.err()].into_iter().flatten());
            }
            if missing.is_empty() {
                missing.push("a model without inputs or outputs".into());
            }
            Err(missing)
        }
    }
}

/// A graph whose first and last nodes change floats to integers and back, without them: the caller does that. Inputs that
/// nothing reads (the output's shape, of a transposed convolution) are left out.
pub(crate) fn integer_ends(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    let uses = graph.uses();
    graph.inputs.retain(|input| uses[*input] > 0);
    let mut left_out = vec![];
    for (at, node) in graph.nodes.iter().enumerate() {
        let (Op::Requantize, [Some(from)], [to]) = (&node.op, &node.inputs[..], &node.outputs[..]) else {
            continue;
        };
        let float = |id: ValueId| graph.values[id].is_float();
        let (inputs, outputs) = (&mut graph.inputs, &mut graph.outputs);
        if let Some(input) = inputs.iter_mut().find(|i| *i == from && float(*from) && uses[*from] == 1) {
            *input = *to;
            left_out.push(at);
        } else if let Some(output) = outputs.iter_mut().find(|o| *o == to && float(*to) && uses[*to] == 1) {
            *output = *from;
            left_out.push(at);
        }
    }
    let mut at = 0..;
    graph.nodes.retain(|_| at.next().is_none_or(|at: usize| !left_out.contains(&at)));
    graph
}

impl<'g> Context<'g> {
    /// The value of a node's input `which`.
    fn value(&self, node: &Node, which: usize) -> Lowering<&'g Value> {
        self.graph.input(node, which).ok_or_else(|| format!("input {which} left out"))
    }

    /// The value of a node's one output.
    fn made(&self, node: &Node) -> Lowering<&'g Value> {
        match node.outputs[..] {
            [output] => Ok(&self.graph.values[output]),
            _ => Err(format!("{} outputs", node.outputs.len())),
        }
    }

    /// Scale and zero point of an int8 activation, as its bytes lie in the arena. Integers of 8 bits and truth values that
    /// stand for themselves have scale 1.
    fn affine(&self, value: &Value) -> Lowering<Affine> {
        let itself = value.quant.is_none() && matches!(value.dtype, DType::I8 | DType::U8 | DType::Bool);
        let quant = if itself { Some((1.0, 0)) } else { value.quant.as_ref().and_then(|q| q.single()) };
        let (scale, zero) = quant.ok_or_else(|| match value.dtype {
            DType::F32 => "a tensor of floats (a model of floats is quantized with --calibrate)".to_owned(),
            other => format!("a tensor of {other:?} without one scale"),
        })?;
        let zero = match value.dtype {
            DType::I8 | DType::Bool => zero,
            DType::U8 => zero.saturating_sub(128),
            other => return Err(format!("a tensor of {other:?}")),
        };
        let fits = scale > 0.0 && (-128..=127).contains(&zero);
        if fits { Ok(Affine { scale, zero }) } else { Err(format!("scale {scale}, zero point {zero}")) }
    }

    /// As [`Self::affine`], of any integers that have a scale; those of more than 8 bits have no zero point.
    fn scaled(&self, value: &Value) -> Lowering<Affine> {
        match (value.dtype, value.quant.as_ref().and_then(|q| q.single())) {
            (DType::I16 | DType::I32, Some((scale, 0))) if scale > 0.0 => Ok(Affine { scale, zero: 0 }),
            (DType::I16 | DType::I32, _) => Err(format!("{:?} without one scale, or with a zero point", value.dtype)),
            _ => self.affine(value),
        }
    }

    /// Least and largest output of a node, int8 or int16: its fused activation.
    fn limits(&self, node: &Node) -> Lowering<(i32, i32)> {
        let y = self.made(node)?;
        let out = self.scaled(y)?;
        if y.dtype != DType::I16 {
            return Ok(self.range(node, out));
        }
        let quantized = |real: f32| (real / out.scale).round().clamp(-32_768.0, 32_767.0) as i32;
        let [min, max] = node.clamp.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]).map(quantized);
        Ok((min, max))
    }

    /// The kind of slot that a value's elements lie in.
    fn kind(&self, value: &Value) -> Lowering<Kind> {
        if value.dtype == DType::U8 || value.dtype == DType::I8 && value.quant.is_some() {
            self.affine(value)?;
        }
        movement::kind(value.dtype).ok_or_else(|| match value.dtype {
            DType::F32 => "a tensor of floats (a model of floats is quantized with --calibrate)".to_owned(),
            other => format!("a tensor of {other:?}"),
        })
    }

    /// Refuses uint32 where its bits would be taken for int32.
    fn words(&self, node: &Node) -> Lowering<()> {
        let same_bits = matches!(
            node.op,
            Op::Signal(_) | Op::Cast | Op::Reshape | Op::Slice { .. } | Op::Concat { .. } | Op::Transpose { .. }
        );
        let mut values = node.inputs.iter().flatten().chain(&node.outputs).map(|id| &self.graph.values[*id]);
        let unsigned = values.any(|value| value.dtype == DType::U32);
        if unsigned && !same_bits { Err("a tensor of uint32".into()) } else { Ok(()) }
    }

    /// A slot of its own.
    fn builder_slot(&mut self, kind: Kind, count: usize) -> u32 {
        self.builder.slot(kind, Rows::One, count, 0)
    }

    /// A slot for a value.
    fn new_slot(&mut self, id: ValueId) -> Lowering<u32> {
        let value = &self.graph.values[id];
        let kind = self.kind(value)?;
        let count = Some(value.count()).filter(|n| (1..1 << 28).contains(n));
        let count = count.ok_or_else(|| format!("a tensor of shape {:?}", value.shape))?;
        let slot = self.builder.slot(kind, Rows::One, count, frac(value));
        self.slots.insert(id, slot);
        Ok(slot)
    }

    /// The integer that stands for `real` in a value, as it lies in the arena.
    fn quantized(&self, value: &Value, real: f32) -> Lowering<i32> {
        match value.dtype {
            DType::I8 | DType::U8 => Ok(self.affine(value)?.quantized(real)),
            DType::I16 => {
                let (scale, zero) = value.quant.as_ref().and_then(|q| q.single()).ok_or("int16 without a scale")?;
                Ok((zero.saturating_add((real / scale).round() as i32)).clamp(-32_768, 32_767))
            }
            _ => Ok(real as i32),
        }
    }

    /// A slot for a value that could not be lowered, so that what reads it is not blamed as well.
    fn stand_in(&mut self, id: ValueId) {
        let slot = self.builder.slot(Kind::I8, Rows::One, 1, 0);
        self.slots.insert(id, slot);
    }

    /// The slot of a node's input `which`; a constant is put into one.
    fn input(&mut self, node: &Node, which: usize) -> Lowering<u32> {
        let id = node.inputs.get(which).copied().flatten().ok_or_else(|| format!("input {which} left out"))?;
        if let Some(slot) = self.slots.get(&id) {
            return Ok(*slot);
        }
        let value = &self.graph.values[id];
        let data = value.data.as_ref().ok_or_else(|| format!("an input {which} that nothing computes"))?;
        let slot = self.new_slot(id)?;
        // Another op that reads it fills a slot of its own: the bytes are in the arena no longer than they are needed.
        self.slots.remove(&id);
        self.fill_with(slot, value, data)?;
        Ok(slot)
    }

    /// Fills a slot with a constant in the integers of `value`.
    fn fill_with(&mut self, slot: u32, value: &Value, data: &Data) -> Lowering<()> {
        let ints = match data {
            Data::Int(ints) => ints,
            Data::F32(_) => return Err("a constant of floats".into()),
        };
        if ints.len() != value.count() {
            return Err(format!("{} numbers for {:?}", ints.len(), value.shape));
        }
        let in_arena = |v: &i64| if value.dtype == DType::U8 { v - 128 } else { *v };
        if ints.iter().all(|v| *v == ints[0]) {
            self.fill(slot, in_arena(&ints[0]) as i32);
            return Ok(());
        }
        let (dtype, bytes): (Dtype, Vec<u8>) = match self.kind(value)? {
            Kind::I8 => (Dtype::I8, ints.iter().map(|v| in_arena(v) as u8).collect()),
            Kind::I16 => (Dtype::I16, ints.iter().flat_map(|v| (*v as i16).to_le_bytes()).collect()),
            _ => (Dtype::I32, ints.iter().flat_map(|v| (*v as i32).to_le_bytes()).collect()),
        };
        let tensor = self.constant(&value.name, dtype, &[value.count()], bytes);
        self.op(&ops::fill::OP, &[slot, 0, tensor], &[], slot);
        Ok(())
    }

    /// Adds a tensor to the image.
    fn constant(&mut self, name: &str, dtype: Dtype, dims: &[usize], bytes: Vec<u8>) -> u32 {
        self.builder.tensor(Constant::plain(name, dtype, dims, bytes))
    }

    /// The entry point that gives states what they begin with; none where there are no states.
    fn reset(&mut self, missing: &mut Vec<String>) {
        if self.graph.states.is_empty() {
            return;
        }
        self.builder.entry(entry::RESET);
        for state in &self.graph.states {
            let value = &self.graph.values[state.read];
            let done = self.new_slot(state.read).and_then(|slot| {
                self.builder.keep(slot);
                self.fill_with(slot, value, &state.initial)
            });
            if let Err(why) = done {
                missing.push(format!("state \"{}\": {why}", state.name));
                self.stand_in(state.read);
            }
        }
    }

    /// Copies what a run leaves to the next to where that one begins.
    fn leave(&mut self, state: &State) -> Lowering<()> {
        let place = |id| self.slots.get(&id).copied().ok_or("a value that nothing computes");
        let (from, to) = (place(state.write)?, place(state.read)?);
        let (a, b) = (&self.graph.values[state.write], &self.graph.values[state.read]);
        if a.count() != b.count() || a.quant != b.quant || a.dtype != b.dtype {
            return Err(format!("a state of {:?} that becomes {:?}", b.shape, a.shape));
        }
        if from == to {
            return Ok(());
        }
        self.copy(from, to, &movement::Box::all(a.count()), false)
    }

    /// Bytes of 0 to 255 become int8 as they arrive, and again as they leave. Returns the slots that they were in before.
    fn unsigned(&mut self, ids: &[ValueId]) -> Vec<(ValueId, u32)> {
        let mut before = vec![];
        for id in ids {
            let value = &self.graph.values[*id];
            let Some(from) = self.slots.get(id).copied().filter(|_| value.dtype == DType::U8) else {
                continue;
            };
            let to = self.builder_slot(Kind::I8, value.count());
            self.lookup(from, to, "uint8 and int8", std::array::from_fn(|byte| (byte as u8 ^ 128) as i8));
            before.push((*id, from));
            self.slots.insert(*id, to);
        }
        before
    }

    /// Adds a function of int8 by its table.
    fn lookup(&mut self, from: u32, to: u32, name: &str, table: [i8; 256]) {
        let table = self.constant(name, Dtype::I8, &[256], table.map(|v| v as u8).to_vec());
        self.op(&ops::lookup::OP, &[from, to, table], &[from], to);
    }

    /// Adds a function of int16 by its values at -32768, -32640 and so on to 32768, straight between.
    fn lookup16(&mut self, from: u32, to: u32, name: &str, table: [i16; 513]) {
        let table = self.constant(name, Dtype::I16, &[513], table.iter().flat_map(|v| v.to_le_bytes()).collect());
        self.op(&ops::lookup::OP, &[from, to, table], &[from], to);
    }

    /// Adds the change of integers of any width to others, `real` of these a step: zero points of both.
    fn requantize(&mut self, from: u32, to: u32, real: f64, [zero_in, zero_out]: [i32; 2]) -> Lowering<()> {
        let (m, s) = quantize_multiplier(real).ok_or("scales out of range")?;
        let numbers = [m, s, zero_out, zero_in].map(|v| v as u32);
        self.op(&ops::requantize::OP, &[&[from, to], &numbers[..]].concat(), &[from], to);
        Ok(())
    }

    /// Adds what brings the integers of one value to those of another.
    fn rescale(&mut self, from: u32, x: &Value, to: u32, y: &Value) -> Lowering<()> {
        let table = tables::table(Unary::Identity, self.affine(x)?, self.affine(y)?, self.rounding)?;
        self.lookup(from, to, "change of scale", table);
        Ok(())
    }

    /// A new slot for a node's one output.
    fn output(&mut self, node: &Node) -> Lowering<u32> {
        self.made(node)?;
        self.new_slot(node.outputs[0])
    }

    /// Inputs or outputs; `elsewhere`: those that are not in their value's slot.
    fn ports(&self, ids: &[ValueId], elsewhere: &[(ValueId, u32)]) -> Lowering<Vec<Port>> {
        let port = |id: &ValueId| {
            let moved = elsewhere.iter().find(|(of, _)| of == id).map(|(_, slot)| *slot);
            let slot = moved.or(self.slots.get(id).copied()).ok_or("an input or output that nothing computes")?;
            let value = &self.graph.values[*id];
            let dtype = match (value.dtype, self.kind(value)?) {
                (DType::U8, _) => Dtype::U8,
                (_, Kind::I8) => Dtype::I8,
                (_, Kind::I16) => Dtype::I16,
                _ => Dtype::I32,
            };
            let (scale, zero_point) = value.quant.as_ref().and_then(|q| q.single()).unwrap_or_default();
            let (mantissa, exponent) = exact(scale);
            // What has more dimensions is told as one.
            let count = [value.count()];
            let shape = if (1..=4).contains(&value.shape.len()) { &value.shape[..] } else { &count };
            let mut dims = [1; 4];
            dims.iter_mut().zip(shape).for_each(|(to, from)| *to = *from as u32);
            let rank = shape.len() as u8;
            Ok(Port { slot, dtype, rank, zero_point, mantissa, exponent, dims })
        };
        ids.iter().map(port).collect()
    }

    /// Adds an op that reads slots and fills one.
    fn op(&mut self, def: &ops::OpDef, args: &[u32], reads: &[u32], write: u32) {
        self.op_with(def, 0, args, reads, write);
    }

    /// As [`Self::op`], with flags of its own.
    fn op_with(&mut self, def: &ops::OpDef, flags: u16, args: &[u32], reads: &[u32], write: u32) {
        let rounds = self.rounding == Rounding::Single && !INTEGERS_ONLY.contains(&def.code);
        let single = if rounds { def.flags & SINGLE_ROUNDING } else { 0 };
        self.builder.op(def.code, flags | single, args, reads, &[write]);
    }

    /// Adds weights of int8.
    fn bytes(&mut self, name: &str, dims: &[usize], ints: impl Iterator<Item = i64>) -> u32 {
        let weights = Constant::plain(name, Dtype::I8, dims, ints.map(|v| v as u8).collect());
        self.builder.tensor(Constant { parameters: weights.bytes.len(), ..weights })
    }

    /// Least and largest output of a node: its fused activation in the integers of its output
    /// (TFLite's `CalculateActivationRangeQuantized`).
    fn range(&self, node: &Node, out: Affine) -> (i32, i32) {
        let [min, max] = node.clamp.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]);
        (out.quantized(min), out.quantized(max))
    }
}

impl Affine {
    /// The integer that stands for `real`, cut to int8.
    fn quantized(&self, real: f32) -> i32 {
        match real {
            f32::INFINITY => 127,
            f32::NEG_INFINITY => -128,
            real => self.zero.saturating_add((real / self.scale).round() as i32).clamp(-128, 127),
        }
    }
}

/// Fraction bits of int32 whose step is a power of two that the runtime's cells have; 0 of all others.
fn frac(value: &Value) -> i16 {
    let step = value.quant.as_ref().filter(|_| value.dtype == DType::I32).and_then(|q| q.single());
    (0..=24).find(|frac| step == Some((2f32.powi(-i32::from(*frac)), 0))).unwrap_or(0)
}

/// The integers of a constant.
fn ints(value: &Value) -> Lowering<&[i64]> {
    match &value.data {
        Some(Data::Int(ints)) => Ok(ints),
        Some(Data::F32(_)) => Err("a constant of floats".into()),
        None => Err("an operand that is not constant".into()),
    }
}

/// Four numbers of a byte each, the first lowest.
fn word(bytes: [i32; 4]) -> u32 {
    u32::from_le_bytes(bytes.map(|b| b as u8))
}

/// The word "numbers" of `ops/window.rs`: zero points of input and output, least and largest output; int16 (`wide`) has no
/// zero points.
fn numbers(wide: bool, [zero_in, zero_out, min, max]: [i32; 4]) -> u32 {
    if wide { pair([min, max].map(|v| (v as i16 as u16).into())) } else { word([zero_in, zero_out, min, max]) }
}

/// Two numbers of 16 bits, the first lowest.
fn pair([a, b]: [usize; 2]) -> u32 {
    a as u32 | (b as u32) << 16
}
