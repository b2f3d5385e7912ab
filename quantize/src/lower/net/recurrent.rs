//! Recurrent layers and norms.
//!
//! The ops read and write their states in place, so a layer has slots for them of its own: what a run begins with is copied
//! there, or zeros are filled in, and what it leaves is read from there.

use super::elementwise::requantize;
use super::movement::Box;
use super::{Constant, Context, Lowering, word};
use crate::codes::CodedMatrix;
use crate::graph::{DType, Data, Direction, Node, NormKind, Op, Quant, Tensor, Value, eval};
use crate::layers::{self, CodedRecurrent, Recurrent, gru_order, lstm_order};
use mote_runtime::image::Dtype;
use mote_runtime::image::plan::{Kind, Rows};
use mote_runtime::image::tensors::GROUP;
use mote_runtime::ops::{self, OpDef};

/// Flag of both ops: from the last step to the first.
const REVERSE: u16 = 1;

/// A constant's floats.
fn floats<'v>(value: &'v Value, what: &str) -> Lowering<&'v [f32]> {
    match &value.data {
        Some(Data::F32(floats)) => Ok(floats),
        _ => Err(format!("{what} that are no constant floats")),
    }
}

/// What recurrent layers have in common.
struct Layer<'g> {
    weights: [&'g Value; 2],
    codes: [&'g CodedMatrix; 2],
    batch: usize,
    units: usize,
}

impl<'g> Layer<'g> {
    fn new(c: &Context<'g>, node: &Node, gates: usize) -> Lowering<Self> {
        let weights = [c.value(node, 1)?, c.value(node, 2)?];
        let (x, y) = (c.value(node, 0)?, c.graph.output(node, 0).ok_or("a layer without a result")?);
        let (&[steps, batch, features], &[rows, units]) = (&x.shape[..], &weights[1].shape[..]) else {
            return Err(format!("shapes {:?} and {:?}", x.shape, weights[1].shape));
        };
        let fits = rows == gates * units && weights[0].shape == [rows, features] && y.shape == [steps, batch, units];
        if !fits || steps * batch * features * units == 0 {
            return Err(format!("weights of shapes {:?} and {:?}", weights[0].shape, weights[1].shape));
        }
        // NUMERICS.md, 15.1.
        let most = if x.dtype == DType::I16 { 1 << 15 } else { 1 << 16 };
        if features > most || units > 1 << 16 {
            return Err(format!("a layer of {features} features and {units} units"));
        }
        let matrix = |which: usize| c.graph.coded.get(&node.inputs[which]?);
        let [Some(w), Some(r)] = [1, 2].map(matrix) else {
            return Err("weights without codes".into());
        };
        let coded = |m: &CodedMatrix, cols| (m.rows, m.cols) == (rows, cols);
        if !coded(w, features) || !coded(r, units) {
            return Err("codes of another shape".into());
        }
        Ok(Self { weights, codes: [w, r], batch, units })
    }

    /// A bias for all gates; zeros if it is left out.
    fn bias(&self, c: &Context<'g>, node: &Node, which: usize, gates: usize) -> Lowering<Vec<f32>> {
        let bias = match c.graph.input(node, which) {
            None => vec![0.0; gates * self.units],
            Some(bias) => floats(bias, "biases")?.to_vec(),
        };
        if bias.len() == gates * self.units { Ok(bias) } else { Err(format!("{} biases", bias.len())) }
    }
}

impl Context<'_> {
    /// Puts what a layer begins with into its slot for a state whose elements are `like`: input `which` of the node, or zeros.
    fn begin(&mut self, node: &Node, which: usize, like: &Value, to: u32) -> Lowering<()> {
        let Some(initial) = self.graph.input(node, which) else {
            let (_, zero) = like.quant.as_ref().and_then(Quant::single).unwrap_or_default();
            self.fill(to, zero);
            return Ok(());
        };
        if initial.count() != like.count() {
            return Err(format!("a state of shape {:?} for {:?}", initial.shape, like.shape));
        }
        if let Some(Data::F32(floats)) = &initial.data {
            if like.dtype == DType::I16 && floats.iter().any(|x| x.abs() > 1.0) {
                return Err("a first state of a GRU beyond 1".into());
            }
            let integers = eval::stored(like, &Tensor::floats(&like.shape, floats.clone()));
            return self.fill_with(to, like, &Data::Int(integers));
        }
        let from = self.input(node, which)?;
        if initial.dtype == like.dtype && initial.quant == like.quant {
            return self.copy(from, to, &Box::all(like.count()), false);
        }
        requantize(self, (from, initial), (to, like))
    }

    /// Gives output `which` of the node what a layer leaves in its slot for a state.
    fn end(&mut self, node: &Node, which: usize, like: &Value, from: u32) -> Lowering<()> {
        let Some(id) = node.outputs.get(which).copied() else { return Ok(()) };
        let value = &self.graph.values[id];
        if self.graph.uses()[id] == 0 {
            return Ok(());
        }
        if value.dtype == like.dtype && value.quant == like.quant {
            self.slots.insert(id, from);
            return Ok(());
        }
        let to = self.new_slot(id)?;
        requantize(self, (from, like), (to, value))
    }

    /// Adds a recurrent op. `states` are those that it keeps, each with the inputs and outputs of the node that they are; the
    /// first is the hidden one. `extra`: bytes of scratch a unit that the op needs besides rows.
    fn recurrent(
        &mut self,
        (def, flags): (&OpDef, u16),
        node: &Node,
        layer: &Layer<'_>,
        coded: CodedRecurrent,
        states: &[(Value, usize, usize)],
        extra: usize,
    ) -> Lowering<()> {
        let (x, y) = (self.value(node, 0)?, &self.graph.values[node.outputs[0]]);
        let planes = if x.dtype == DType::I16 { 2 } else { 1 };
        let from = self.input(node, 0)?;
        let mut slots = Vec::new();
        for (like, input, _) in states {
            let slot = self.builder.slot(self.kind(like)?, Rows::One, like.count(), super::frac(like));
            self.begin(node, *input, like, slot)?;
            slots.push(slot);
        }
        let [padded, again] =
            [coded.input.weights.cols, coded.recurrent.weights.cols].map(|n| n.next_multiple_of(GROUP));
        let scratch = self.builder_slot(Kind::I8, extra * layer.units + planes * padded + again);
        // If only the last step's result is read, as the state, it is all that there is.
        let steps = if self.graph.uses()[node.outputs[0]] > 0 { y.count() } else { layer.batch * layer.units };
        let to = self.builder_slot(Kind::I8, steps);
        self.slots.insert(node.outputs[0], to);
        let [w, w_bias] = self.linear(&layer.weights[0].name, coded.input);
        let [r, r_bias] = self.linear(&layer.weights[1].name, coded.recurrent);
        let args = [from, to, slots[0], scratch, w, w_bias, r, r_bias, coded.hidden];
        let args: Vec<u32> = args.into_iter().chain(slots[1..].iter().copied()).collect();
        let reads: Vec<u32> = [from].into_iter().chain(slots.iter().copied()).collect();
        let writes: Vec<u32> = [to, scratch].into_iter().chain(slots.iter().copied()).collect();
        self.builder.op(def.code, flags, &args, &reads, &writes);
        for ((like, _, output), slot) in states.iter().zip(slots) {
            self.end(node, *output, like, slot)?;
        }
        Ok(())
    }
}

fn reverse(direction: Direction) -> u16 {
    if direction == Direction::Reverse { REVERSE } else { 0 }
}

/// A state of a layer as its op keeps it.
fn kept(layer: &Layer<'_>, dtype: DType, quant: Quant) -> Value {
    Value { name: "state".into(), shape: vec![layer.batch, layer.units], dtype, quant: Some(quant), data: None }
}

/// Scales of a layer's input and output.
fn scales(c: &Context<'_>, node: &Node) -> Lowering<(layers::Affine, layers::Affine)> {
    let (x, y) = (c.value(node, 0)?, &c.graph.values[node.outputs[0]]);
    Ok((c.scaled(x)?.into(), c.affine(y)?.into()))
}

pub(super) fn lstm(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::Lstm { direction } = node.op else {
        return Err("another op".into());
    };
    let layer = Layer::new(c, node, 4)?;
    let (bias, none) = (layer.bias(c, node, 3, 4)?, vec![0.0; 4 * layer.units]);
    let weights = Recurrent {
        input: floats(layer.weights[0], "weights")?,
        recurrent: floats(layer.weights[1], "weights")?,
        input_bias: &bias,
        recurrent_bias: &none,
        order: &lstm_order::ONNX,
    };
    let coded = layers::lstm(&weights, scales(c, node)?, &|which, _, _, _| layer.codes[which].clone());
    // Int32 of the grid that calibration gave the cells; where other ops take them as int8, of the same range.
    let cells = [c.graph.output(node, 2), c.graph.input(node, 5)];
    let cells = cells.into_iter().flatten().find(|v| v.data.is_none()).ok_or("a layer without a cell state")?;
    let quant = match cells.dtype {
        DType::I32 => cells.quant.clone().ok_or("cells without a scale")?,
        _ => Quant::one(2f32.powi(-i32::from(layers::cell_frac(255.0 * f64::from(c.affine(cells)?.scale)))), 0),
    };
    let hidden = c.graph.values[node.outputs[0]].quant.clone().unwrap_or(Quant::one(1.0, 0));
    let states = [(kept(&layer, DType::I8, hidden), 4, 1), (kept(&layer, DType::I32, quant), 5, 2)];
    c.recurrent((&ops::lstm::OP, reverse(direction)), node, &layer, coded, &states, 0)
}

pub(super) fn gru(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    /// Bytes of scratch a unit for two gates.
    const GATES: usize = 8;
    let Op::Gru { direction, reset_after } = node.op else {
        return Err("another op".into());
    };
    let layer = Layer::new(c, node, 3)?;
    let biases = [layer.bias(c, node, 3, 3)?, layer.bias(c, node, 4, 3)?];
    let weights = Recurrent {
        input: floats(layer.weights[0], "weights")?,
        recurrent: floats(layer.weights[1], "weights")?,
        input_bias: &biases[0],
        recurrent_bias: &biases[1],
        order: &gru_order::ONNX,
    };
    let coded = layers::gru(&weights, scales(c, node)?, &|which, _, _, _| layer.codes[which].clone());
    let states = [(kept(&layer, DType::I16, Quant::one(2f32.powi(-15), 0)), 5, 1)];
    let after = if reset_after { ops::gru::RESET_AFTER } else { 0 };
    c.recurrent((&ops::gru::OP, reverse(direction) | after), node, &layer, coded, &states, GATES)
}

pub(super) fn norm(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::Norm { kind, epsilon } = node.op else {
        return Err("another op".into());
    };
    let (x, y) = (c.value(node, 0)?, c.made(node)?);
    let (input, out) = (c.affine(x)?, c.affine(y)?);
    let channels = x.shape.last().copied().unwrap_or(1);
    let pixels = x.shape.get(1..x.shape.len().saturating_sub(1)).map_or(1, |s| s.iter().product());
    // [outer, depth, inner, width]: all of depth and width are normalised together.
    let [depth, inner, width] = match kind {
        NormKind::Layer { axis } | NormKind::Rms { axis } => [1, 1, x.shape[axis..].iter().product()],
        NormKind::Instance => [pixels, channels, 1],
        NormKind::Group { groups } => [pixels, groups, channels.checked_div(groups).unwrap_or(0)],
    };
    let constant = |which, default: f32| -> Lowering<Vec<f32>> {
        let values = match c.graph.input(node, which) {
            None => vec![default; inner * width],
            Some(value) => floats(value, "gains or biases")?.to_vec(),
        };
        if values.len() == inner * width { Ok(values) } else { Err(format!("{} gains or biases", values.len())) }
    };
    let (gains, biases) = (constant(1, 1.0)?, constant(2, 0.0)?);
    if depth * width == 0 || depth * width > 1 << 18 {
        return Err(format!("a norm over {} elements", depth * width));
    }
    let coded = layers::norm((&gains, &biases), (depth * width, epsilon.into()), (input.into(), out.into()));
    let count = gains.len();
    let bytes = coded.gains.iter().flat_map(|v| v.to_le_bytes()).collect();
    let gains = Constant::plain(&format!("{} (gains)", node.name), Dtype::I16, &[count], bytes);
    let gains = c.builder.tensor(Constant { exponent: coded.gain_exponent, parameters: count, ..gains });
    let bytes = coded.bias.values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let biases = Constant::plain(&format!("{} (biases)", node.name), Dtype::I32, &[count], bytes);
    let biases = c.builder.tensor(Constant { exponent: coded.bias.exponent, parameters: count, ..biases });
    let (min, max) = c.range(node, out);
    let numbers = word([input.zero, out.zero, min, max]);
    let from = c.input(node, 0)?;
    let to = c.output(node)?;
    let sizes = [depth, inner, width].map(|n| n as u32);
    let eps = [coded.eps as u32, (coded.eps >> 32) as u32];
    let args = [&[from, to, gains, biases][..], &sizes, &eps, &[numbers]].concat();
    let flags = if matches!(kind, NormKind::Rms { .. }) { ops::norm::NO_MEAN } else { 0 };
    c.op_with(&ops::norm::OP, flags, &args, &[from], to);
    Ok(())
}
