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

use super::{Builder, Lowered};
use crate::graph::{DType, Data, Graph, Node, Op, Value, ValueId};
use fixed::exact;
use mote_runtime::image::plan::{Kind, Rows};
use mote_runtime::image::{Dtype, Port, program::entry};
use mote_runtime::ops;
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
    /// Its bytes.
    pub bytes: Vec<u8>,
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
        Op::FullyConnected => conv::fully_connected,
        Op::Pool2d { .. } => conv::pool2d,
        Op::Binary(_) => elementwise::binary,
        Op::Softmax { .. } => elementwise::softmax,
        Op::Reshape => movement::reshape,
        Op::Unsupported(_) => |_, node| match &node.op {
            Op::Unsupported(why) => Err(why.clone()),
            _ => Ok(()),
        },
        _ => |_, _| Err("the operator".into()),
    }
}

struct Context<'g> {
    graph: &'g Graph,
    builder: Builder<Constant>,
    /// Slots of the values that have been computed.
    slots: HashMap<ValueId, u32>,
}

/// An activation's one scale and zero point. Bytes of 0 to 255 lie in the arena as int8, less 128.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Affine {
    scale: f32,
    zero: i32,
}

/// Lowers a graph.
///
/// # Errors
/// Everything that is not supported, one entry each.
pub fn net(graph: &Graph) -> Result<Net, Vec<String>> {
    let mut missing = Vec::new();
    let mut c = Context { graph, builder: Builder::default(), slots: HashMap::new() };
    for input in &graph.inputs {
        if let Err(why) = c.new_slot(*input) {
            missing.push(format!("input \"{}\": {why}", graph.values[*input].name));
            c.stand_in(*input);
        }
    }
    c.builder.entry(entry::RUN);
    for node in &graph.nodes {
        if let Err(why) = find(&node.op)(&mut c, node) {
            missing.push(format!("{} ({}): {why}", node.kind, node.name));
            node.outputs.iter().for_each(|output| c.stand_in(*output));
        }
    }
    let (inputs, outputs) = (c.ports(&graph.inputs), c.ports(&graph.outputs));
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

    /// Scale and zero point of an int8 activation.
    fn affine(&self, value: &Value) -> Lowering<Affine> {
        let quant = value.quant.as_ref().and_then(|q| q.single());
        match (value.dtype, quant) {
            (DType::I8, Some((scale, zero))) if scale > 0.0 && (-128..=127).contains(&zero) => {
                Ok(Affine { scale, zero })
            }
            (DType::I8, _) => Err("an int8 tensor without one scale".into()),
            (other, _) => Err(format!("a tensor of {other:?}")),
        }
    }

    /// A slot for a value, which must be integers with one scale.
    fn new_slot(&mut self, id: ValueId) -> Lowering<u32> {
        let value = &self.graph.values[id];
        self.affine(value)?;
        let count = Some(value.count()).filter(|n| (1..1 << 28).contains(n));
        let count = count.ok_or_else(|| format!("a tensor of shape {:?}", value.shape))?;
        if value.data.is_some() {
            return Err("a constant where an activation is expected".into());
        }
        let slot = self.builder.slot(Kind::I8, Rows::One, count, 0);
        self.slots.insert(id, slot);
        Ok(slot)
    }

    /// A slot for a value that could not be lowered, so that what reads it is not blamed as well.
    fn stand_in(&mut self, id: ValueId) {
        let slot = self.builder.slot(Kind::I8, Rows::One, 1, 0);
        self.slots.insert(id, slot);
    }

    /// The slot of a node's input `which`.
    fn input(&self, node: &Node, which: usize) -> Lowering<u32> {
        let id = node.inputs.get(which).copied().flatten();
        let slot = id.and_then(|id| self.slots.get(&id).copied());
        slot.ok_or_else(|| format!("an input {which} that is a constant or left out"))
    }

    /// A new slot for a node's one output.
    fn output(&mut self, node: &Node) -> Lowering<u32> {
        self.made(node)?;
        self.new_slot(node.outputs[0])
    }

    fn ports(&self, ids: &[ValueId]) -> Lowering<Vec<Port>> {
        let port = |id: &ValueId| {
            let slot = self.slots.get(id).copied().ok_or("an input or output that nothing computes")?;
            let value = &self.graph.values[*id];
            let Affine { scale, zero } = self.affine(value)?;
            let (mantissa, exponent) = exact(scale);
            // What has more dimensions is told as one.
            let count = [value.count()];
            let shape = if (1..=4).contains(&value.shape.len()) { &value.shape[..] } else { &count };
            let mut dims = [1; 4];
            dims.iter_mut().zip(shape).for_each(|(to, from)| *to = *from as u32);
            let rank = shape.len() as u8;
            Ok(Port { slot, dtype: Dtype::I8, rank, zero_point: zero, mantissa, exponent, dims })
        };
        ids.iter().map(port).collect()
    }

    /// Adds an op that reads slots and fills one.
    fn op(&mut self, def: &ops::OpDef, args: &[u32], reads: &[u32], write: u32) {
        self.builder.op(def.code, 0, args, reads, &[write]);
    }

    /// Adds a constant of int8.
    fn bytes(&mut self, name: &str, dims: &[usize], ints: impl Iterator<Item = i64>) -> u32 {
        let bytes = ints.map(|v| v as u8).collect();
        let (name, dims) = (name.to_owned(), dims.to_vec());
        self.builder.tensor(Constant { name, dtype: Dtype::I8, dims, bytes })
    }

    /// Least and largest output of a node: its fused activation in the integers of its output
    /// (TFLite's `CalculateActivationRangeQuantized`).
    fn range(&self, node: &Node, out: Affine) -> (i32, i32) {
        let quantized = |real: f32| match real {
            f32::INFINITY => 127,
            f32::NEG_INFINITY => -128,
            real => out.zero.saturating_add((real / out.scale).round() as i32),
        };
        let [min, max] = node.clamp.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]).map(quantized);
        (min.clamp(-128, 127), max.clamp(-128, 127))
    }
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

/// Two numbers of 16 bits, the first lowest.
fn pair([a, b]: [usize; 2]) -> u32 {
    a as u32 | (b as u32) << 16
}
