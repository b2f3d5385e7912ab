//! Quantized models: scales and zero points become the Quants of values, on which ops stand for real numbers.

use super::super::builder::{Builder, Done, Step, axis, malformed, unsupported};
use super::Table;
use super::matrix::product;
use super::reduce::along;
use super::spatial::convolution;
use crate::graph::{Binary, DType, Op, Quant, Reduction, Unary, Value, ValueId, eval};

pub(super) const OPERATORS: Table = &[
    ("ConvInteger", conv_integer),
    ("DequantizeLinear", dequantize),
    ("DynamicQuantizeLinear", dynamic),
    ("MatMulInteger", matmul_integer),
    ("QLinearConv", qlinear_conv),
    ("QLinearMatMul", qlinear_matmul),
    ("QuantizeLinear", quantize),
    ("com.microsoft.DequantizeLinear", dequantize),
    ("com.microsoft.QGemm", qgemm),
    ("com.microsoft.QLinearAdd", qlinear_binary),
    ("com.microsoft.QLinearConcat", qlinear_concat),
    ("com.microsoft.QLinearGlobalAveragePool", qlinear_global_average),
    ("com.microsoft.QLinearLeakyRelu", qlinear_unary),
    ("com.microsoft.QLinearMul", qlinear_binary),
    ("com.microsoft.QLinearSigmoid", qlinear_unary),
    ("com.microsoft.QuantizeLinear", quantize),
];

/// The Quant of operands `scale` and the one after it, and the zero point's type.
fn quant(b: &Builder, s: &Step, scale: usize, along: usize) -> Done<(Quant, Option<DType>)> {
    let scales = b.floats("scale", s.x(scale)?)?;
    let (zeros, dtype) = match s.given(scale + 1) {
        Some(id) => (b.ints("zero point", id)?, Some(b.at(id).dtype)),
        None => (vec![0; scales.len()], None),
    };
    let zero_points: Vec<i32> = zeros.iter().filter_map(|z| i32::try_from(*z).ok()).collect();
    if zero_points.len() != scales.len() || b.rank(s.x(scale)?) > 1 {
        return unsupported(format!(
            "{} scales, {} zero points (Mote has one, or one a channel)",
            scales.len(),
            zeros.len()
        ));
    }
    if !scales.iter().all(|s| s.is_normal() && *s > 0.0) {
        return malformed("a scale that is no positive number");
    }
    let axis = if scales.len() == 1 { 0 } else { along };
    Ok((Quant { scales, zero_points, axis }, dtype))
}

/// Operand `i` as what it stands for, by the scale at `scale`.
fn operand(b: &mut Builder, s: &Step, i: usize, scale: usize, along: usize) -> Done<ValueId> {
    let (quant, _) = quant(b, s, scale, along)?;
    b.with_quant(s.x(i)?, quant)
}

/// A node whose result is rounded to the integers of the scale at `scale`.
fn rounded(b: &mut Builder, s: &Step, op: Op, inputs: &[ValueId], shape: &[usize], scale: usize) -> Done<ValueId> {
    let (quant, dtype) = quant(b, s, scale, 0)?;
    let dtype = stored_as(dtype)?;
    let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
    Ok(b.emit(op, &inputs, &[(shape.to_vec(), dtype, Some(quant))])?[0])
}

fn stored_as(zero_point: Option<DType>) -> Done<DType> {
    match zero_point.unwrap_or(DType::U8) {
        t @ (DType::I4 | DType::I8 | DType::U8 | DType::I16) => Ok(t),
        other => unsupported(format!("quantized numbers of {other:?}")),
    }
}

fn blocks(s: &Step) -> Done<()> {
    match s.int("block_size", 0) {
        0 => Ok(()),
        n => unsupported(format!("scales by blocks of {n}")),
    }
}

fn quantize(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    blocks(s)?;
    let x = s.x(0)?;
    let axis = axis(s.int("axis", 1), b.rank(x).max(2))?;
    let (quant, dtype) = quant(b, s, 1, axis)?;
    for i in [1, 2] {
        let number = s.given(i).and_then(|id| b.types.get(&id));
        if let Some(number) = number.filter(|n| !matches!(n, 1 | 2 | 3 | 5 | 10 | 16 | 22)) {
            return unsupported(format!("quantized numbers of {}", super::super::proto::type_name(*number)));
        }
    }
    let dtype = match (dtype, s.int("output_dtype", 0)) {
        (None, 0) => DType::U8,
        (None, n @ (2 | 3 | 5 | 22)) => super::super::proto::dtype(n as i32)?,
        (None, n) => return unsupported(format!("quantized numbers of {}", super::super::proto::type_name(n as i32))),
        (dtype, _) => stored_as(dtype)?,
    };
    if b.at(x).dtype != DType::F32 {
        return unsupported("integers quantized again");
    }
    let shape = b.shape(x);
    if quant.single().is_none() && shape.get(quant.axis) != Some(&quant.scales.len()) {
        return malformed(format!("{} scales for {shape:?}", quant.scales.len()));
    }
    if b.known(x).is_some() {
        // A constant becomes integers now.
        let value = Value { dtype, quant: Some(quant), data: None, ..b.at(x).clone() };
        let real = eval::constant(b.at(x)).ok_or("an unsound constant".to_owned())?;
        let data = crate::graph::Data::Int(eval::stored(&value, &real));
        return Ok(vec![b.value(Value { data: Some(data), ..value })?]);
    }
    b.emit(Op::Requantize, &[Some(x)], &[(shape, dtype, Some(quant))])
}

fn dequantize(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    blocks(s)?;
    let axis = axis(s.int("axis", 1), b.rank(s.x(0)?).max(2))?;
    let (quant, _) = quant(b, s, 1, axis)?;
    let x = b.with_quant(s.x(0)?, quant)?;
    Ok(vec![b.dequantize(x)?])
}

/// One scale for all of x, by its range at run time; uint8.
fn dynamic(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let x = s.x(0)?;
    let all: Vec<usize> = (0..b.rank(x)).collect();
    let reach = |b: &mut Builder, kind, f| {
        let zero = b.scalar(0.0)?;
        let most = along(b, kind, x, &all)?;
        let most = b.reshape(most, &[])?;
        b.binary(f, most, zero)
    };
    let (low, high) = (reach(b, Reduction::Min, Binary::Min)?, reach(b, Reduction::Max, Binary::Max)?);
    let (span, steps) = (b.binary(Binary::Sub, high, low)?, b.scalar(255.0)?);
    let scale = b.binary(Binary::Div, span, steps)?;
    let byte = |b: &mut Builder, v| {
        let cut = b.unary(Unary::Clip(0.0, 255.0), v)?;
        b.unary(Unary::Round, cut)
    };
    let below = b.binary(Binary::Div, low, scale)?;
    let below = b.unary(Unary::Neg, below)?;
    let zero = byte(b, below)?;
    let steps = b.binary(Binary::Div, x, scale)?;
    let steps = b.unary(Unary::Round, steps)?;
    let raised = b.binary(Binary::Add, steps, zero)?;
    let y = byte(b, raised)?;
    Ok(vec![b.cast(y, DType::U8)?, scale, b.cast(zero, DType::U8)?])
}

/// Integers less their zero point, int32. A list of zero points is one for each index of the dimension so many from the end.
fn less_zero(b: &mut Builder, s: &Step, i: usize, zero: usize, from_end: usize) -> Done<ValueId> {
    let x = b.cast(s.x(i)?, DType::I32)?;
    let Some(z) = s.given(zero) else { return Ok(x) };
    let mut z = b.cast(z, DType::I32)?;
    match b.shape(z)[..] {
        [1] => z = b.reshape(z, &[])?,
        [n] => z = b.reshape(z, &[vec![n], vec![1; from_end]].concat())?,
        _ => (),
    }
    b.binary(Binary::Sub, x, z)
}

fn matmul_integer(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let (x, y) = (less_zero(b, s, 0, 2, 1)?, less_zero(b, s, 1, 3, 0)?);
    if b.rank(x) < 2 || b.rank(y) < 2 {
        return unsupported("vectors");
    }
    Ok(vec![b.op(Op::MatMul { transposed: false }, &[x, y])?])
}

fn conv_integer(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let rank = b.rank(s.x(0)?);
    let (x, w) = (less_zero(b, s, 0, 2, 0)?, less_zero(b, s, 1, 3, rank.saturating_sub(1))?);
    let (x, w) = (b.image(x)?, b.image(w)?);
    let op = convolution(b, s, x, w, rank)?;
    let y = b.op(op, &[x, w])?;
    Ok(vec![b.back(y, rank)?])
}

/// The bias of a quantized layer: int32 of the scale of a product.
fn bias(b: &mut Builder, s: &Step, i: usize, x: ValueId, w: ValueId) -> Done<Option<ValueId>> {
    let Some(bias) = s.given(i) else { return Ok(None) };
    let (Some(of_x), Some(of_w)) = (b.at(x).quant.as_ref().and_then(Quant::single), b.at(w).quant.clone()) else {
        return unsupported("scales by channel of an activation");
    };
    let scales: Vec<f32> = of_w.scales.iter().map(|s| s * of_x.0).collect();
    let quant = Quant { zero_points: vec![0; scales.len()], scales, axis: 0 };
    b.with_quant(bias, quant).map(Some)
}

fn qlinear_conv(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let rank = b.rank(s.x(0)?);
    let (x, w) = (operand(b, s, 0, 1, 0)?, operand(b, s, 3, 4, 0)?);
    let bias = bias(b, s, 8, x, w)?;
    let (x, w) = (b.image(x)?, b.image(w)?);
    let op = convolution(b, s, x, w, rank)?;
    let inputs: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
    let shapes: Vec<Option<&[usize]>> = inputs.iter().map(|i| Some(&b.at(*i).shape[..])).collect();
    let shape = crate::graph::shape::infer(&op, &shapes)?.and_then(|s| s.into_iter().next()).unwrap_or_default();
    let y = rounded(b, s, op, &inputs, &shape, 6)?;
    Ok(vec![b.back(y, rank)?])
}

/// Rounds a real result to the scale at `scale`: the last node's own result if it is a new one.
fn round_last(b: &mut Builder, s: &Step, y: ValueId, scale: usize) -> Done<ValueId> {
    let (quant, dtype) = quant(b, s, scale, 0)?;
    let dtype = stored_as(dtype)?;
    match b.graph.nodes.last_mut() {
        Some(node) if node.outputs == [y] => {
            let value = &mut b.graph.values[y];
            (value.quant, value.dtype) = (Some(quant), dtype);
            Ok(y)
        }
        _ => malformed("a product of constants"),
    }
}

fn qlinear_matmul(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let last = b.rank(s.x(3)?).saturating_sub(1);
    let (x, y) = (operand(b, s, 0, 1, 0)?, operand(b, s, 3, 4, last)?);
    let z = product(b, x, y)?;
    Ok(vec![round_last(b, s, z, 6)?])
}

fn qgemm(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    if s.float("alpha", 1.0) != 1.0 || s.given(7).is_none() {
        return unsupported("alpha, or a result of floats");
    }
    let along = usize::from(s.int("transB", 0) == 0);
    let (mut x, mut w) = (operand(b, s, 0, 1, 0)?, operand(b, s, 3, 4, along)?);
    if s.int("transA", 0) != 0 {
        x = b.transpose(x, &[1, 0])?;
    }
    if s.int("transB", 0) == 0 {
        w = b.transpose(w, &[1, 0])?;
    }
    let bias = bias(b, s, 6, x, w)?;
    let inputs: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
    let (rows, columns) = (b.shape(x), b.shape(w));
    let (&[m, _], &[n, _]) = (&rows[..], &columns[..]) else {
        return malformed(format!("matrices of shapes {rows:?} and {columns:?}"));
    };
    Ok(vec![rounded(b, s, Op::FullyConnected, &inputs, &[m, n], 7)?])
}

fn qlinear_binary(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let (x, y) = (operand(b, s, 0, 1, 0)?, operand(b, s, 3, 4, 0)?);
    let f = if s.kind.ends_with("Add") { Binary::Add } else { Binary::Mul };
    let z = b.binary(f, x, y)?;
    Ok(vec![round_last(b, s, z, 6)?])
}

fn qlinear_unary(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let x = operand(b, s, 0, 1, 0)?;
    let f = if s.kind.ends_with("Sigmoid") { Unary::Sigmoid } else { Unary::LeakyRelu(s.float("alpha", 0.01)) };
    let shape = b.shape(x);
    Ok(vec![rounded(b, s, Op::Unary(f), &[x], &shape, 3)?])
}

fn qlinear_global_average(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let mut x = operand(b, s, 0, 1, 0)?;
    let last = s.int("channels_last", 0) != 0;
    if !last {
        x = b.channels_last(x)?;
    }
    let mut shape = b.shape(x);
    if shape.len() < 3 {
        return malformed(format!("an image of shape {shape:?}"));
    }
    let axes: Vec<usize> = (1..shape.len() - 1).collect();
    axes.iter().for_each(|a| shape[*a] = 1);
    let y = rounded(b, s, Op::Reduce { kind: Reduction::Mean, axes }, &[x], &shape, 3)?;
    Ok(vec![if last { y } else { b.channels_first(y)? }])
}

fn qlinear_concat(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let mut parts = Vec::new();
    for i in (2..s.inputs.len()).step_by(3) {
        let part = operand(b, s, i, i + 1, 0)?;
        let shape = b.shape(part);
        parts.push(rounded(b, s, Op::Requantize, &[part], &shape, 0)?);
    }
    let Some(first) = parts.first() else { return malformed("no parts") };
    let axis = axis(s.int("axis", 1), b.rank(*first))?;
    Ok(vec![b.concat(&parts, axis)?])
}
