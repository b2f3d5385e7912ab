//! Convolutions, fully connected layers, pools.

use super::fixed::quantize_multiplier;
use super::movement::{Box, strides};
use super::{Constant, Context, Lowering, ints, numbers, pair, word};
use crate::codes::CodedMatrix;
use crate::graph::{DType, Data, Node, Op, PoolKind, Value, Window};
use crate::layers;
use mote_runtime::image::Dtype;
use mote_runtime::image::plan::Kind;
use mote_runtime::image::tensors::GROUP;
use mote_runtime::ops::{self, window::NARROW};

/// Sums of more products do not fit int32.
const MOST_PRODUCTS: usize = 1 << 16;

/// Constant weights as int8, and their zero point: 0 but for those that were uint8.
fn weights(value: &Value) -> Lowering<(Vec<i64>, i32)> {
    let moved = match value.dtype {
        DType::I8 | DType::I4 => 0,
        DType::U8 => 128,
        other => return Err(format!("weights of {other:?}")),
    };
    let zeros = value.quant.as_ref().map_or(&[][..], |q| &q.zero_points);
    let zero = zeros.first().map_or(0, |z| z.saturating_sub(moved));
    if zeros.iter().any(|z| *z != zeros[0]) || !(-128..=127).contains(&zero) {
        return Err("weights with zero points of their channels".into());
    }
    Ok((ints(value)?.iter().map(|v| v - i64::from(moved)).collect(), zero))
}

/// What an op with weights takes besides its slots and its window.
struct Sums {
    /// Table of output channels.
    channels: u32,
    /// Zero points and the range of the output.
    numbers: u32,
    /// Flags.
    flags: u16,
}

impl Context<'_> {
    /// Constants of a node with weights; channels are counted along dimension 0 of these.
    fn sums(&mut self, node: &Node) -> Lowering<Sums> {
        let (x, w, y) = (self.value(node, 0)?, self.value(node, 1)?, self.made(node)?);
        let (input, out) = (self.scaled(x)?, self.scaled(y)?);
        let kind = self.kind(x)?;
        if self.kind(y)? != kind || kind == Kind::I32 {
            return Err(format!("{:?} to {:?}", x.dtype, y.dtype));
        }
        let wide = kind == Kind::I16;
        let quant = w.quant.as_ref().ok_or("weights without a scale")?;
        let count = w.shape[0];
        if quant.scales.len() != 1 && (quant.scales.len() != count || quant.axis != 0) {
            return Err(format!("{} scales along dimension {} for {count} channels", quant.scales.len(), quant.axis));
        }
        let bias = self.graph.input(node, 2);
        let biases = bias.map_or(Ok(&[][..]), ints)?;
        let fits = bias.is_none_or(|b| b.dtype == DType::I32 || (wide && b.dtype == DType::I64));
        if !fits || ![0, count].contains(&biases.len()) {
            return Err("a bias that is not int32 (or int64 of int16), or not one a channel".into());
        }
        let per_tensor = w.dtype == DType::U8;
        let mut bytes = Vec::new();
        for channel in 0..count {
            let scale = quant.scales[if quant.scales.len() == 1 { 0 } else { channel }];
            // LiteRT multiplies the scales of uint8 in float32 (`GetQuantizedConvolutionMultipler`), TFLM those of int8 in float64.
            let product = match per_tensor {
                true => f64::from(input.scale * scale),
                false => f64::from(input.scale) * f64::from(scale),
            };
            let real = product / f64::from(out.scale);
            let (multiplier, shift) = quantize_multiplier(real).ok_or("a scale that is not a positive number")?;
            let bias = biases.get(channel).copied().unwrap_or(0).to_le_bytes();
            bytes.extend(&bias[..if wide { 8 } else { 4 }]);
            bytes.extend(multiplier.to_le_bytes());
            bytes.extend(shift.to_le_bytes());
        }
        let name = format!("{} (bias, multiplier, shift)", w.name);
        let table = Constant::plain(&name, Dtype::I32, &[count, if wide { 4 } else { 3 }], bytes);
        // Of a channel's numbers only the bias is the model's.
        let channels = self.builder.tensor(Constant { parameters: biases.len(), ..table });
        let (min, max) = self.limits(node)?;
        // TFLite Micro sums int16 in int32 where the bias of a convolution or fully connected layer is int32; of others it takes
        // the bias for int64.
        let narrow = wide && bias.is_some_and(|b| b.dtype == DType::I32);
        let depthwise = matches!(node.op, Op::Conv2d { groups, .. } if groups > 1 && w.shape[3] == 1);
        if narrow && (depthwise || matches!(node.op, Op::ConvTranspose2d { .. })) {
            return Err("a bias of int32 beside int16".into());
        }
        let flags = if narrow { NARROW } else { 0 };
        let numbers = numbers(wide, [input.zero, out.zero, min, max]);
        Ok(Sums { channels, numbers, flags })
    }
}

/// The words of a window (`ops/window.rs`): input size, output size, steps, padding above and left.
fn window(x: &Value, y: &Value, w: &Window) -> Lowering<[u32; 4]> {
    let (&[1, ih, iw, _], &[1, oh, ow, _]) = (&x.shape[..], &y.shape[..]) else {
        return Err(format!("shapes {:?} to {:?} (one image of height, width, channels)", x.shape, y.shape));
    };
    let small = |n: &usize| *n < 1 << 16;
    if ![ih, iw, oh, ow].iter().chain(&w.before).all(small) || w.stride.iter().chain(&w.dilation).any(|n| *n > 255) {
        return Err("a side of 65536 or more, or a step of 256 or more".into());
    }
    let steps = word([w.stride[0], w.stride[1], w.dilation[0], w.dilation[1]].map(|n| n as i32));
    Ok([pair([ih, iw]), pair([oh, ow]), steps, pair(w.before)])
}

impl Context<'_> {
    /// The weights of a node in codes, if they go into the image so.
    fn codes(&self, node: &Node) -> Option<&CodedMatrix> {
        self.graph.coded.get(&node.inputs.get(1).copied().flatten()?)
    }

    /// Adds a coded matrix and its bias.
    pub(super) fn linear(&mut self, name: &str, linear: layers::Linear) -> [u32; 2] {
        let layers::Linear { weights, bias } = linear;
        let bytes = bias.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let values = Constant::plain(&format!("{name} (bias)"), Dtype::I32, &[bias.values.len()], bytes);
        let parameters = bias.values.len();
        let weights = self.builder.tensor(Constant::coded(name, weights));
        [weights, self.builder.tensor(Constant { exponent: bias.exponent, parameters, ..values })]
    }

    /// Adds a convolution with coded weights: `window` are its words, `kernel` its height and width.
    fn coded(&mut self, node: &Node, window: [u32; 4], kernel: [usize; 2]) -> Lowering<()> {
        /// Patches that are gathered before the weights are read: reading weights from flash is what costs. Twice as many, as many as
        /// kernels of microcontrollers make levels for at once, where they are small.
        const PATCHES: usize = 4;
        /// Bytes that twice as many may take.
        const SMALL: usize = 1024;
        let (x, y) = (self.value(node, 0)?, self.made(node)?);
        let (input, out) = (self.scaled(x)?, self.scaled(y)?);
        let wide = |v: &Value| v.dtype == DType::I16;
        let matrix = self.codes(node).ok_or("weights without codes")?.clone();
        let bias = match self.graph.input(node, 2).and_then(|b| b.data.as_ref()) {
            None => vec![0.0; matrix.rows],
            Some(Data::F32(floats)) => floats.clone(),
            Some(Data::Int(_)) => return Err("a bias of integers with coded weights".into()),
        };
        if bias.len() != matrix.rows {
            return Err(format!("{} biases for {} channels", bias.len(), matrix.rows));
        }
        let linear = layers::coded(matrix, &bias, (input.into(), out.into()));
        let from = self.input(node, 0)?;
        let name = self.value(node, 1)?.name.clone();
        let padded = linear.weights.cols.next_multiple_of(GROUP);
        let pixels = y.count() / linear.weights.rows;
        let [weights, bias] = self.linear(&name, linear);
        let planes = if wide(x) { 2 } else { 1 };
        let patch = planes * padded;
        let together = if 2 * PATCHES * patch <= SMALL { 2 * PATCHES } else { PATCHES };
        let patches = self.builder_slot(Kind::I8, patch * pixels.min(together));
        // The bounds of an int16 are those of its high byte.
        let (min, max) = match self.limits(node)? {
            (min, max) if wide(y) && (min & 255, max & 255) == (0, 255) => (min >> 8, max >> 8),
            _ if wide(y) => return Err("an activation whose bounds are no whole bytes of int16".into()),
            limits => limits,
        };
        let numbers = word([input.zero, out.zero, min, max]);
        let to = self.output(node)?;
        let [size, out_size, steps, pads] = window;
        let args = [from, to, patches, weights, bias, size, out_size, steps, pads, pair(kernel), numbers];
        self.builder.op(ops::conv2d_coded::OP.code, 0, &args, &[from], &[to, patches]);
        Ok(())
    }
}

pub(super) fn conv2d(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::Conv2d { window: steps, groups } = &node.op else {
        return Err("another op".into());
    };
    let (x, w, y) = (c.value(node, 0)?, c.value(node, 1)?, c.made(node)?);
    let [size, out_size, steps, pads] = window(x, y, steps)?;
    let &[count, kh, kw, per_group] = &w.shape[..] else {
        return Err(format!("weights of shape {:?}", w.shape));
    };
    let channels = x.shape[3];
    if per_group * groups != channels || y.shape[3] != count || count % groups != 0 {
        return Err(format!("weights of shape {:?} for {channels} to {} channels", w.shape, y.shape[3]));
    }
    if c.codes(node).is_some() && *groups == 1 {
        return c.coded(node, [size, out_size, steps, pads], [kh, kw]);
    }
    if kh * kw * per_group > MOST_PRODUCTS {
        return Err(format!("more than {MOST_PRODUCTS} products to a sum"));
    }
    let (values, zero) = weights(w)?;
    let taps = kh * kw;
    let (def, weights) = if *groups == 1 || per_group > 1 {
        (&ops::conv2d::OP, c.bytes(&w.name, &w.shape, values.iter().copied()))
    } else {
        // The runtime has them as [1, kh, kw, out].
        let order = (0..values.len()).map(|i| values[i % count * taps + i / count]);
        (&ops::depthwise_conv2d::OP, c.bytes(&w.name, &[1, kh, kw, count], order))
    };
    let sums = c.sums(node)?;
    let from = c.input(node, 0)?;
    let to = c.output(node)?;
    let zero = word([zero, 0, 0, 0]);
    let args = [from, to, weights, sums.channels, size, out_size, steps, pads, sums.numbers, zero];
    c.op_with(def, sums.flags, &args, &[from], to);
    Ok(())
}

pub(super) fn conv_transpose2d(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::ConvTranspose2d { window: steps } = &node.op else {
        return Err("another op".into());
    };
    let (x, w, y) = (c.value(node, 0)?, c.value(node, 1)?, c.made(node)?);
    let [size, out_size, words, pads] = window(x, y, steps)?;
    let &[count, kh, kw, depth] = &w.shape[..] else {
        return Err(format!("weights of shape {:?}", w.shape));
    };
    if depth != x.shape[3] || y.shape[3] != count || steps.dilation != [1, 1] || kh * kw * depth > MOST_PRODUCTS {
        return Err(format!("weights of shape {:?} for {:?} to {:?}, or gaps", w.shape, x.shape, y.shape));
    }
    let (values, zero) = weights(w)?;
    let weights = c.bytes(&w.name, &w.shape, values.iter().copied());
    let sums = c.sums(node)?;
    let from = c.input(node, 0)?;
    let to = c.output(node)?;
    let zero = word([zero, 0, 0, 0]);
    let args = [from, to, weights, sums.channels, size, out_size, words, pads, sums.numbers, zero];
    c.op_with(&ops::transpose_conv2d::OP, sums.flags, &args, &[from], to);
    Ok(())
}

pub(super) fn fully_connected(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let (x, w, y) = (c.value(node, 0)?, c.value(node, 1)?, c.made(node)?);
    let &[count, features] = &w.shape[..] else {
        return Err(format!("weights of shape {:?}", w.shape));
    };
    let rows = x.count().checked_div(features).unwrap_or(0);
    if rows * features != x.count() || rows * count != y.count() || features > MOST_PRODUCTS {
        return Err(format!("weights of shape {:?} for {:?} to {:?}", w.shape, x.shape, y.shape));
    }
    if c.codes(node).is_some() {
        if rows >= 1 << 16 {
            return Err("65536 rows or more".into());
        }
        let line = pair([rows, 1]);
        return c.coded(node, [line, line, word([1; 4]), 0], [1, 1]);
    }
    let (values, zero) = weights(w)?;
    let weights = c.bytes(&w.name, &w.shape, values.iter().copied());
    let sums = c.sums(node)?;
    let from = c.input(node, 0)?;
    let to = c.output(node)?;
    let args = [from, to, weights, sums.channels, sums.numbers, word([zero, 0, 0, 0])];
    c.op_with(&ops::fully_connected::OP, sums.flags, &args, &[from], to);
    Ok(())
}

/// An image with its padding around it, and the box that copies the image there.
fn padded(x: &Value, steps: &Window) -> (Value, Box) {
    let mut whole = x.clone();
    for (i, dim) in whole.shape[1..3].iter_mut().enumerate() {
        *dim += steps.before[i] + steps.after[i];
    }
    let (a, b) = (strides(&x.shape), strides(&whole.shape));
    let dims = (0..4).map(|i| (x.shape[i], a[i], b[i])).collect();
    let to = steps.before[0] as i64 * b[1] + steps.before[1] as i64 * b[2];
    (whole, Box { dims, from: 0, to })
}

pub(super) fn pool2d(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::Pool2d { kind, kernel, window: steps } = &node.op else {
        return Err("another op".into());
    };
    let def = match kind {
        PoolKind::Max => &ops::max_pool2d::OP,
        PoolKind::Average { .. } => &ops::average_pool2d::OP,
    };
    let (x, y) = (c.value(node, 0)?, c.made(node)?);
    let (input, out) = (c.scaled(x)?, c.scaled(y)?);
    if input != out || x.dtype != y.dtype {
        return Err("a pool that changes the scale".into());
    }
    if steps.dilation != [1, 1] || kernel.iter().any(|k| *k >= 1 << 16) {
        return Err("a pool with gaps".into());
    }
    let counted = *kind == PoolKind::Average { count_padding: true } && (steps.before, steps.after) != ([0; 2], [0; 2]);
    let whole = counted.then(|| padded(x, steps));
    let [size, out_size, steps, pads] = match &whole {
        Some((whole, _)) => window(whole, y, &Window { before: [0; 2], after: [0; 2], ..*steps })?,
        None => window(x, y, steps)?,
    };
    if x.shape[3] != y.shape[3] {
        return Err("a pool that changes the number of channels".into());
    }
    let (min, max) = c.limits(node)?;
    let wide = x.dtype == DType::I16;
    let numbers = numbers(wide, [0, 0, min, max]);
    let mut from = c.input(node, 0)?;
    if let Some((whole, inner)) = &whole {
        let image = from;
        from = c.builder_slot(c.kind(x)?, whole.count());
        c.fill(from, input.zero);
        c.copy(image, from, inner, true)?;
    }
    let to = c.output(node)?;
    let upward = x.dtype == DType::U8 && matches!(kind, PoolKind::Average { .. });
    let flags = if upward { ops::average_pool2d::UPWARD } else { 0 };
    c.op_with(def, flags, &[from, to, size, out_size, steps, pads, pair(*kernel), numbers], &[from], to);
    Ok(())
}
