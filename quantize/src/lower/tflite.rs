//! Int8 models of TensorFlow Lite: each operator is one op of the runtime, its scales folded into integer multipliers as
//! TFLite's own `Prepare` functions fold them, in the same float types and the same order of operations.
//!
//! To add an operator: a function here and a row in [`OPERATORS`]. Whatever a model needs and this page lacks is collected,
//! so that one error names all of it.

use super::Builder;
use crate::import::tflite::{Graph, Operator, Tensor, Type};
use mote_runtime::image::plan::{Kind, Rows};
use mote_runtime::image::{Dtype, Port, program::entry};
use mote_runtime::ops;
use std::borrow::Cow;
use std::collections::HashMap;

/// A tensor of the image.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant<'a> {
    /// For people.
    pub name: String,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Dimensions, 1 to 4 of them.
    pub dims: Vec<usize>,
    /// Its bytes.
    pub bytes: Cow<'a, [u8]>,
}

/// A lowered net.
#[derive(Clone, Debug)]
pub struct Net<'a> {
    /// Program, slots and tensors.
    pub lowered: super::Lowered<Constant<'a>>,
    /// Inputs.
    pub inputs: Vec<Port>,
    /// Outputs.
    pub outputs: Vec<Port>,
}

/// What an operator lacks; the words complete "is not supported".
type Lowering<T> = Result<T, String>;

/// Lowers operators to ops of the runtime.
type Lower = for<'g, 'a> fn(&mut Context<'g, 'a>, &Operator<'a>) -> Lowering<()>;

/// Operators by their number in the schema.
const OPERATORS: [(i32, Lower); 9] = [
    (0, add),
    (1, average_pool2d),
    (3, conv2d),
    (4, depthwise_conv2d),
    (9, fully_connected),
    (17, max_pool2d),
    (22, same_bytes), // RESHAPE
    (25, softmax),
    (43, same_bytes), // SQUEEZE
];

/// Names by number, for messages.
const NAMES: &str = "\
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP FLOOR \
    FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC \
    LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX \
    SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD \
    UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE \
    UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE \
    BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL \
    LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT \
    RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT \
    UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR \
    LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK \
    ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4 \
    NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES";

struct Context<'g, 'a> {
    graph: &'g Graph<'a>,
    builder: Builder<Constant<'a>>,
    /// Slots of the tensors that have been computed.
    slots: HashMap<i32, u32>,
}

/// Lowers a graph.
///
/// # Errors
/// Everything that is not supported, one entry each.
pub fn tflite<'a>(graph: &Graph<'a>) -> Result<Net<'a>, Vec<String>> {
    let mut missing = Vec::new();
    let mut c = Context { graph, builder: Builder::default(), slots: HashMap::new() };
    for index in &graph.inputs {
        match c.new_slot(*index) {
            Ok(_) => {}
            Err(why) => {
                missing.push(format!("input {index}: {why}"));
                c.stand_in(*index);
            }
        }
    }
    c.builder.entry(entry::RUN);
    for (at, operator) in graph.operators.iter().enumerate() {
        let lower = OPERATORS.iter().find(|(code, _)| *code == operator.code).map(|(_, lower)| lower);
        let done = lower.map_or(Err("the operator".into()), |lower| lower(&mut c, operator));
        if let Err(why) = done {
            let name = NAMES.split(' ').nth(operator.code.max(0) as usize);
            let name = name.map_or_else(|| format!("operator code {}", operator.code), str::to_owned);
            let output = operator.outputs.first().and_then(|o| graph.tensor(*o)).map_or_else(String::new, Tensor::name);
            missing.push(format!("{name} (operator {at}, output \"{output}\"): {why}"));
            operator.outputs.iter().for_each(|output| c.stand_in(*output));
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

impl<'g, 'a> Context<'g, 'a> {
    fn tensor(&self, indices: &[i32], which: usize) -> Lowering<&'g Tensor<'a>> {
        let index = indices.get(which).copied().ok_or_else(|| format!("operand {which} left out"))?;
        self.graph.tensor(index).ok_or_else(|| format!("operand {which} left out"))
    }

    /// A slot for tensor `index`, which must be int8 with one scale.
    fn new_slot(&mut self, index: i32) -> Lowering<u32> {
        let tensor = self.graph.tensor(index).ok_or("a tensor that is not there")?;
        tensor.int8().ok_or_else(|| format!("a tensor of {:?} with {} scales", tensor.dtype, tensor.scales().len()))?;
        let count = tensor.count().filter(|n| (1..1 << 28).contains(n));
        let count = count.ok_or_else(|| format!("a tensor of shape {:?}", tensor.shape))?;
        if !tensor.data.is_empty() || tensor.variable {
            return Err("a constant or a state where an activation is expected".into());
        }
        let slot = self.builder.slot(Kind::I8, Rows::One, count, 0);
        self.slots.insert(index, slot);
        Ok(slot)
    }

    /// A slot for a tensor that could not be lowered, so that what reads it is not blamed as well.
    fn stand_in(&mut self, index: i32) {
        let slot = self.builder.slot(Kind::I8, Rows::One, 1, 0);
        self.slots.insert(index, slot);
    }

    /// The slot of an operator's input `which`.
    fn input(&self, o: &Operator<'_>, which: usize) -> Lowering<u32> {
        let index = o.inputs.get(which).copied().unwrap_or(-1);
        let computed = || format!("an input {which} that is a constant or left out");
        self.slots.get(&index).copied().ok_or_else(computed)
    }

    fn output(&mut self, o: &Operator<'_>) -> Lowering<u32> {
        let [index] = o.outputs[..] else {
            return Err(format!("{} outputs", o.outputs.len()));
        };
        self.new_slot(index)
    }

    /// Scale and zero point of input 0, and of the output.
    fn scales(&self, o: &Operator<'_>) -> Lowering<((f32, i8), (f32, i8))> {
        let of = |t: &Tensor<'_>| t.int8().ok_or_else(|| format!("a tensor of {:?}", t.dtype));
        Ok((of(self.tensor(&o.inputs, 0)?)?, of(self.tensor(&o.outputs, 0)?)?))
    }

    fn ports(&self, indices: &[i32]) -> Lowering<Vec<Port>> {
        let port = |index: &i32| {
            let slot = self.slots.get(index).copied().ok_or("an input or output that nothing computes")?;
            let tensor = self.graph.tensor(*index).ok_or("an input or output that is not there")?;
            let (scale, zero_point) = tensor.int8().ok_or("an input or output that is not int8")?;
            let (mantissa, exponent) = exact(scale);
            // What has more dimensions is told as one.
            let count = [tensor.count().unwrap_or(0)];
            let shape = if (1..=4).contains(&tensor.shape.len()) { &tensor.shape[..] } else { &count };
            let mut dims = [1; 4];
            dims.iter_mut().zip(shape).for_each(|(to, from)| *to = *from as u32);
            let rank = shape.len() as u8;
            Ok(Port { slot, dtype: Dtype::I8, rank, zero_point: zero_point.into(), mantissa, exponent, dims })
        };
        indices.iter().map(port).collect()
    }

    /// The constant int8 weights of input 1, with as many dimensions as `rank`.
    fn weights(&mut self, o: &Operator<'_>, rank: usize) -> Lowering<(u32, &'g Tensor<'a>)> {
        let w = self.tensor(&o.inputs, 1)?;
        if w.dtype != Type::I8 || w.data.is_empty() {
            return Err(format!("weights of {:?}", w.dtype));
        }
        if w.shape.len() != rank || w.count() != Some(w.data.len()) || w.shape.iter().any(|d| *d > u32::MAX as usize) {
            return Err(format!("weights of shape {:?} in {} bytes", w.shape, w.data.len()));
        }
        if w.zero_points().any(|z| z != 0) {
            return Err("weights with a zero point".into());
        }
        let constant =
            Constant { name: w.name(), dtype: Dtype::I8, dims: w.shape.clone(), bytes: Cow::Borrowed(w.data) };
        Ok((self.builder.tensor(constant), w))
    }

    /// The table of output channels: bias, multiplier, shift. `real(s)` is the multiplier of weights with scale `s`.
    fn channels(&mut self, o: &Operator<'_>, count: usize, dim: i32, real: &dyn Fn(f32) -> f64) -> Lowering<u32> {
        let w = self.tensor(&o.inputs, 1)?;
        let scales: Vec<f32> = w.scales().collect();
        if scales.len() != 1 && (scales.len() != count || w.channel_dim != dim) {
            return Err(format!("{} scales along dimension {} for {count} channels", scales.len(), w.channel_dim));
        }
        let bias = o.inputs.get(2).and_then(|index| self.graph.tensor(*index));
        let biases = bias.map_or(&[][..], |b| b.data.as_chunks::<4>().0);
        if bias.is_some_and(|b| b.dtype != Type::I32 || b.data.len() != 4 * count) {
            return Err("a bias that is not int32, or not one a channel".into());
        }
        let mut bytes = Vec::new();
        for channel in 0..count {
            let scale = scales[if scales.len() == 1 { 0 } else { channel }];
            let (multiplier, shift) =
                quantize_multiplier(real(scale)).ok_or("a scale that is not a positive number")?;
            bytes.extend(biases.get(channel).copied().unwrap_or_default());
            bytes.extend(multiplier.to_le_bytes());
            bytes.extend(shift.to_le_bytes());
        }
        let name = format!("{} (bias, multiplier, shift)", w.name());
        Ok(self.builder.tensor(Constant { name, dtype: Dtype::I32, dims: vec![count, 3], bytes: bytes.into() }))
    }

    fn op(&mut self, def: &ops::OpDef, args: &[u32], reads: &[u32], write: u32) {
        self.builder.op(def.code, 0, args, reads, &[write]);
    }
}

/// Four numbers of a byte each, the first lowest.
fn word(bytes: [i32; 4]) -> u32 {
    u32::from_le_bytes(bytes.map(|b| b as u8))
}

/// A float as it is: `mantissa * 2^-exponent`.
fn exact(value: f32) -> (u32, i32) {
    let bits = value.to_bits();
    let (exponent, fraction) = ((bits >> 23 & 0xFF) as i32, bits & 0x7F_FFFF);
    if exponent == 0 { (fraction, 149) } else { (fraction | 1 << 23, 150 - exponent) }
}

/// TFLite's `QuantizeMultiplier`: `real = multiplier * 2^(shift - 31)`, the multiplier in [2^30, 2^31). `None` for what no
/// ratio of scales is.
fn quantize_multiplier(real: f64) -> Option<(i32, i32)> {
    if !real.is_finite() || real < 0.0 {
        return None;
    }
    if real < f64::MIN_POSITIVE {
        return Some((0, 0));
    }
    let mut shift = (real.to_bits() >> 52) as i32 - 1022; // frexp
    let fraction = f64::from_bits(real.to_bits() & ((1 << 52) - 1) | 1022 << 52);
    let mut fixed = (fraction * 2f64.powi(31)).round() as i64;
    if fixed == 1 << 31 {
        fixed /= 2;
        shift += 1;
    }
    // A shift to the left by more moves every sum out of 32 bits.
    match shift {
        ..-31 => Some((0, 0)),
        -31..=30 => Some((fixed as i32, shift)),
        _ => None,
    }
}

/// Least and largest output of a fused activation: `CalculateActivationRangeQuantized`.
fn activation(code: u8, (scale, zero): (f32, i8)) -> Lowering<(i32, i32)> {
    let quantized = |real: f32| i32::from(zero).saturating_add((real / scale).round() as i32);
    let (min, max) = match code {
        0 => (-128, 127),
        1 => (quantized(0.0), 127),
        2 => (quantized(-1.0), quantized(1.0)),
        3 => (quantized(0.0), quantized(6.0)),
        other => return Err(format!("the fused activation {other}")),
    };
    Ok((min.clamp(-128, 127), max.clamp(-128, 127)))
}

/// A window's place: kernel, stride and dilation, vertical first, and TFLite's padding (0: SAME, 1: VALID).
struct Steps {
    kernel: [usize; 2],
    stride: [i32; 2],
    dilation: [i32; 2],
    padding: u8,
}

/// The words of a window (`ops/window.rs`): input size, output size, steps, padding above and left.
fn window(input: &Tensor<'_>, output: &Tensor<'_>, s: &Steps) -> Lowering<[u32; 4]> {
    let (&[1, ih, iw, _], &[1, oh, ow, _]) = (&input.shape[..], &output.shape[..]) else {
        return Err(format!("shapes {:?} to {:?} (one image of height, width, channels)", input.shape, output.shape));
    };
    let mut pads = [0; 2];
    for (i, (input, output)) in [(ih, oh), (iw, ow)].into_iter().enumerate() {
        let (stride, dilation) = (s.stride[i], s.dilation[i]);
        if !(1..=255).contains(&stride) || !(1..=255).contains(&dilation) || s.kernel[i] == 0 {
            return Err(format!("stride {stride}, dilation {dilation}, a window of {}", s.kernel[i]));
        }
        let limit = |n: usize| i64::try_from(n).ok().filter(|n| *n < 1 << 16).ok_or("a side of 65536 or more");
        let (input, output, kernel) = (limit(input)?, limit(output)?, limit(s.kernel[i])?);
        let (stride, dilation) = (i64::from(stride), i64::from(dilation));
        let reach = (kernel - 1) * dilation + 1;
        let expected = match s.padding {
            0 => (input + stride - 1) / stride,
            1 => (input + stride - reach) / stride,
            other => return Err(format!("padding {other}")),
        };
        if output != expected || output < 1 {
            return Err(format!("an output side of {output} where {expected} is expected"));
        }
        pads[i] = ((output - 1) * stride + reach - input).max(0) / 2;
        if pads[i] >= 1 << 16 {
            return Err("a padding of 65536 or more".into());
        }
    }
    let pair = |a: usize, b: usize| a as u32 | (b as u32) << 16;
    let steps = word([s.stride[0], s.stride[1], s.dilation[0], s.dilation[1]]);
    Ok([pair(ih, iw), pair(oh, ow), steps, pair(pads[0] as usize, pads[1] as usize)])
}

fn conv2d(c: &mut Context<'_, '_>, o: &Operator<'_>) -> Lowering<()> {
    convolution(c, o, &ops::conv2d::OP)
}

fn depthwise_conv2d(c: &mut Context<'_, '_>, o: &Operator<'_>) -> Lowering<()> {
    convolution(c, o, &ops::depthwise_conv2d::OP)
}

/// The two differ in their weights' channels and in the place of their options.
fn convolution(c: &mut Context<'_, '_>, o: &Operator<'_>, def: &ops::OpDef) -> Lowering<()> {
    let depthwise = def.code == ops::depthwise_conv2d::OP.code;
    let from = c.input(o, 0)?;
    let (input, output) = (c.tensor(&o.inputs, 0)?, c.tensor(&o.outputs, 0)?);
    let ((s_in, z_in), out) = c.scales(o)?;
    // Padding, stride across, stride down, then (depth multiplier,) activation, dilation across, dilation down.
    let rest = if depthwise { 4 } else { 3 };
    let (weights, w) = c.weights(o, 4)?;
    let &[w0, kh, kw, w3] = &w.shape[..] else {
        return Err(format!("weights of shape {:?}", w.shape));
    };
    let steps = Steps {
        kernel: [kh, kw],
        stride: [o.options.int(2, 0), o.options.int(1, 0)],
        dilation: [o.options.int(rest + 2, 1), o.options.int(rest + 1, 1)],
        padding: o.options.byte(0),
    };
    let [size, out_size, steps, pads] = window(input, output, &steps)?;
    let (cin, count, products) = (input.shape[3], if depthwise { w3 } else { w0 }, if depthwise { 1 } else { w3 });
    let fits = if depthwise { w0 == 1 && cin != 0 && count % cin == 0 } else { w3 == cin };
    if !fits || output.shape[3] != count {
        return Err(format!("weights of shape {:?} for {cin} to {} channels", w.shape, output.shape[3]));
    }
    if kh * kw * products > 1 << 16 {
        return Err("more than 65536 products to a sum".into());
    }
    let (min, max) = activation(o.options.byte(rest), out)?;
    let dim = if depthwise { 3 } else { 0 };
    let real = |scale: f32| f64::from(s_in) * f64::from(scale) / f64::from(out.0);
    let channels = c.channels(o, count, dim, &real)?;
    let numbers = word([z_in.into(), out.1.into(), min, max]);
    let to = c.output(o)?;
    c.op(def, &[from, to, weights, channels, size, out_size, steps, pads, numbers], &[from], to);
    Ok(())
}

fn fully_connected(c: &mut Context<'_, '_>, o: &Operator<'_>) -> Lowering<()> {
    let from = c.input(o, 0)?;
    let (input, output) = (c.tensor(&o.inputs, 0)?, c.tensor(&o.outputs, 0)?);
    let ((s_in, z_in), out) = c.scales(o)?;
    if o.options.byte(1) != 0 {
        return Err("shuffled weights".into());
    }
    let (min, max) = activation(o.options.byte(0), out)?;
    let (weights, w) = c.weights(o, 2)?;
    let (count, features) = (w.shape[0], w.shape[1]);
    let rows = input.count().and_then(|n| n.checked_div(features)).unwrap_or(0);
    let fits = Some(rows * features) == input.count() && rows.checked_mul(count) == output.count();
    if !fits || features > 1 << 16 {
        return Err(format!("weights of shape {:?} for {:?} to {:?}", w.shape, input.shape, output.shape));
    }
    let real = |scale: f32| f64::from(s_in) * f64::from(scale) / f64::from(out.0);
    let channels = c.channels(o, count, 0, &real)?;
    let numbers = word([z_in.into(), out.1.into(), min, max]);
    let to = c.output(o)?;
    c.op(&ops::fully_connected::OP, &[from, to, weights, channels, numbers], &[from], to);
    Ok(())
}

fn average_pool2d(c: &mut Context<'_, '_>, o: &Operator<'_>) -> Lowering<()> {
    pool2d(c, o, &ops::average_pool2d::OP)
}

fn max_pool2d(c: &mut Context<'_, '_>, o: &Operator<'_>) -> Lowering<()> {
    pool2d(c, o, &ops::max_pool2d::OP)
}

fn pool2d(c: &mut Context<'_, '_>, o: &Operator<'_>, def: &ops::OpDef) -> Lowering<()> {
    let from = c.input(o, 0)?;
    let (input, output) = (c.tensor(&o.inputs, 0)?, c.tensor(&o.outputs, 0)?);
    let (a, b) = c.scales(o)?;
    if a != b {
        return Err("a pool that changes the scale".into());
    }
    let side = |id| usize::try_from(o.options.int(id, 0)).map_err(|_| "a window of negative size");
    let kernel = [side(4)?, side(3)?];
    let (stride, padding) = ([o.options.int(2, 0), o.options.int(1, 0)], o.options.byte(0));
    let [size, out_size, steps, pads] = window(input, output, &Steps { kernel, stride, dilation: [1, 1], padding })?;
    if input.shape[3] != output.shape[3] {
        return Err("a pool that changes the number of channels".into());
    }
    let (min, max) = activation(o.options.byte(5), b)?;
    let to = c.output(o)?;
    let kernel = kernel[0] as u32 | (kernel[1] as u32) << 16;
    c.op(def, &[from, to, size, out_size, steps, pads, kernel, word([0, 0, min, max])], &[from], to);
    Ok(())
}

fn add(c: &mut Context<'_, '_>, o: &Operator<'_>) -> Lowering<()> {
    let (x, y) = (c.input(o, 0)?, c.input(o, 1)?);
    let (a, b, output) = (c.tensor(&o.inputs, 0)?, c.tensor(&o.inputs, 1)?, c.tensor(&o.outputs, 0)?);
    if x == y || a.shape != b.shape || a.shape != output.shape {
        return Err(format!("adding {:?} to {:?} (other shapes, or a tensor to itself)", b.shape, a.shape));
    }
    let ((sa, za), out) = c.scales(o)?;
    let (sb, zb) = b.int8().ok_or("a tensor that is not int8")?;
    let (min, max) = activation(o.options.byte(0), out)?;
    let twice = 2.0 * f64::from(sa.max(sb));
    let reals = [f64::from(sa) / twice, f64::from(sb) / twice, twice / (f64::from(1 << 20) * f64::from(out.0))];
    let [ma, mb, mo] = reals.map(quantize_multiplier);
    let ((ma, ea), (mb, eb), (mo, eo)) =
        ma.zip(mb).zip(mo).map(|((a, b), o)| (a, b, o)).ok_or("scales out of range")?;
    let to = c.output(o)?;
    let (shifts, zeros) = (word([ea, eb, eo, 0]), word([za.into(), zb.into(), 0, 0]));
    let numbers = word([0, out.1.into(), min, max]);
    c.op(&ops::add::OP, &[x, y, to, ma as u32, mb as u32, mo as u32, shifts, zeros, numbers], &[x, y], to);
    Ok(())
}

fn softmax(c: &mut Context<'_, '_>, o: &Operator<'_>) -> Lowering<()> {
    let from = c.input(o, 0)?;
    let input = c.tensor(&o.inputs, 0)?;
    let ((scale, _), out) = c.scales(o)?;
    if out != (1.0 / 256.0, -128) {
        return Err(format!("a softmax whose output has scale {} and zero point {}", out.0, out.1));
    }
    let row = input.shape.last().copied().filter(|n| (1..4096).contains(n)).ok_or("a row of 4096 or more elements")?;
    if input.shape != c.tensor(&o.outputs, 0)?.shape {
        return Err("a softmax that changes the shape".into());
    }
    // `PreprocessSoftmaxScaling` with 5 integer bits, and `CalculateInputRadius`.
    let real = f64::from(o.options.float(0)) * f64::from(scale) * f64::from(1 << 26);
    let real = real.min(2f64.powi(31) - 1.0);
    let (multiplier, shift) = quantize_multiplier(real).filter(|(_, s)| *s >= 0).ok_or("a scale out of range")?;
    let radius = 31.0 * f64::from(1 << 26) / 2f64.powi(shift);
    let to = c.output(o)?;
    let least = -(radius.floor() as i32);
    c.op(&ops::softmax::OP, &[from, to, row as u32, multiplier as u32, shift as u32, least as u32], &[from], to);
    Ok(())
}

/// Operators whose output is their input under another shape: no op, the same slot.
fn same_bytes(c: &mut Context<'_, '_>, o: &Operator<'_>) -> Lowering<()> {
    let from = c.input(o, 0)?;
    let (a, b) = c.scales(o)?;
    let output = c.tensor(&o.outputs, 0)?;
    if a != b || output.count() != c.tensor(&o.inputs, 0)?.count() || !output.data.is_empty() {
        return Err("a change of shape that changes scale or size".into());
    }
    c.slots.insert(o.outputs[0], from);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multipliers_are_tflite_s() {
        for (real, expected) in [
            (0.0, Some((0, 0))),
            (1.0, Some((1 << 30, 1))),
            (0.5, Some((1 << 30, 0))),
            (0.25, Some((1 << 30, -1))),
            (1.0 - 1e-12, Some((1 << 30, 1))),
            (1e-12, Some((0, 0))),
            (0.75, Some((3 << 29, 0))),
            (1e12, None),
            (-1.0, None),
            (f64::NAN, None),
        ] {
            assert_eq!(quantize_multiplier(real), expected, "{real}");
        }
        for value in [0.1f32, 1.0, 0.003_921_569, 1e-40, 3.4e38] {
            let (mantissa, exponent) = exact(value);
            assert_eq!((f64::from(mantissa) * 2f64.powi(-exponent)) as f32, value);
        }
    }
}
