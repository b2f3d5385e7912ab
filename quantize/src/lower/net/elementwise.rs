//! Ops that work element by element, or row by row.

use super::fixed::quantize_multiplier;
use super::tables::{table, table16};
use super::{Affine, Context, Lowering, ints, numbers, word};
use crate::graph::{Binary, DType, Node, Op, Unary, Value};
use mote_runtime::image::Dtype;
use mote_runtime::image::plan::Kind;
use mote_runtime::ops;

/// Functions of one number, and changes of scale.
pub(super) fn unary(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let f = match node.op {
        Op::Unary(f) => f,
        _ => Unary::Identity,
    };
    let (x, y) = (c.value(node, 0)?, c.made(node)?);
    let from = c.input(node, 0)?;
    if f == Unary::Identity && x.dtype == y.dtype && x.quant == y.quant {
        c.slots.insert(node.outputs[0], from);
        return Ok(());
    }
    if f == Unary::Identity && (c.kind(x)?, c.kind(y)?) != (Kind::I8, Kind::I8) {
        let to = c.output(node)?;
        return requantize(c, (from, x), (to, y));
    }
    if c.kind(y)? == Kind::I16 {
        return unary16(c, node, f);
    }
    let out = c.affine(y)?;
    let mut table = table(f, c.affine(x)?, out, c.rounding)?;
    let (min, max) = c.range(node, out);
    table.iter_mut().for_each(|v| *v = (*v).clamp(min as i8, max as i8));
    let to = c.output(node)?;
    c.lookup(from, to, &node.kind, table);
    Ok(())
}

/// A function of int16: straight between 513 of its values.
fn unary16(c: &mut Context<'_>, node: &Node, f: Unary) -> Lowering<()> {
    let (x, y) = (c.value(node, 0)?, c.made(node)?);
    if c.kind(x)? != Kind::I16 {
        return Err(format!("{:?} to {:?}", x.dtype, y.dtype));
    }
    let (input, out, limits) = (c.scaled(x)?, c.scaled(y)?, c.limits(node)?);
    let bytes = table16(f, input, out, limits).iter().flat_map(|v| v.to_le_bytes()).collect();
    let table = c.constant(&node.kind, Dtype::I16, &[513], bytes);
    let from = c.input(node, 0)?;
    let to = c.output(node)?;
    c.op(&ops::lookup::OP, &[from, to, table], &[from], to);
    Ok(())
}

/// Adds what brings the integers of one value, of any width, to those of another.
pub(super) fn requantize(c: &mut Context<'_>, (from, x): (u32, &Value), (to, y): (u32, &Value)) -> Lowering<()> {
    let (a, b) = (c.scaled(x)?, c.scaled(y)?);
    let real = f64::from(a.scale) / f64::from(b.scale);
    let (m, s) = quantize_multiplier(real).ok_or("scales out of range")?;
    let numbers = [m, s, b.zero, a.zero].map(|v| v as u32);
    c.op(&ops::requantize::OP, &[&[from, to], &numbers[..]].concat(), &[from], to);
    Ok(())
}

pub(super) fn binary(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::Binary(f) = node.op else {
        return Err("another op".into());
    };
    let integers = |v: &Value| v.dtype == DType::I32 && v.quant.is_none();
    if integers(c.value(node, 0)?) && integers(c.value(node, 1)?) && integers(c.made(node)?) {
        return whole(c, node, f);
    }
    match f {
        Binary::Add => add(c, node, 0),
        Binary::Sub => add(c, node, ops::add::SUBTRACT),
        Binary::Mul => mul(c, node),
        Binary::Max | Binary::Min => maximum(c, node, f == Binary::Min),
        Binary::Hypot => hypot(c, node),
        Binary::SquaredDifference => squared_difference(c, node),
        Binary::Prelu => prelu(c, node),
        other => Err(format!("{other:?} of two activations")),
    }
}

/// Of int32 as they are.
fn whole(c: &mut Context<'_>, node: &Node, f: Binary) -> Lowering<()> {
    let which = match f {
        Binary::Add => 0,
        Binary::Sub => 1,
        Binary::Mul => 2,
        Binary::Div => 3,
        Binary::Max | Binary::Min => 4,
        other => return Err(format!("{other:?} of integers without a scale")),
    };
    if node.clamp.is_some() {
        return Err("an activation of integers without a scale".into());
    }
    let [x, y] = [c.broadcast(node, 0)?, c.broadcast(node, 1)?];
    if x == y {
        return Err("a tensor and itself".into());
    }
    let to = c.output(node)?;
    if which == 4 {
        c.op_with(&ops::maximum::OP, u16::from(f == Binary::Min), &[x, y, to], &[x, y], to);
    } else {
        c.op(&ops::arithmetic::OP, &[x, y, to, which], &[x, y], to);
    }
    Ok(())
}

/// Integers to another width.
pub(super) fn cast(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let (x, y) = (c.value(node, 0)?, c.made(node)?);
    let (from_kind, to_kind) = (c.kind(x)?, c.kind(y)?);
    if [x, y].iter().any(|v| v.dtype == DType::U8) || x.count() != y.count() {
        return Err(format!("{:?} of {:?} to {:?} of {:?}", x.dtype, x.shape, y.dtype, y.shape));
    }
    // int64 is int32 here, so the sign of what was uint32 would be another.
    if (x.dtype, y.dtype) == (DType::U32, DType::I64) {
        return Err("uint32 to int64".into());
    }
    let from = c.input(node, 0)?;
    if from_kind == to_kind {
        c.slots.insert(node.outputs[0], from);
        return Ok(());
    }
    let to = c.output(node)?;
    c.op(&ops::cast::OP, &[from, to], &[from], to);
    Ok(())
}

/// A binary op's operands: slots in the shape of the output, and what their integers stand for.
struct Operands {
    slots: [u32; 2],
    a: Affine,
    b: Affine,
    out: Affine,
}

fn operands(c: &mut Context<'_>, node: &Node) -> Lowering<Operands> {
    let (x, y, made) = (c.value(node, 0)?, c.value(node, 1)?, c.made(node)?);
    let kind = c.kind(made)?;
    if c.kind(x)? != kind || c.kind(y)? != kind {
        return Err(format!("{:?} and {:?} to {:?}", x.dtype, y.dtype, made.dtype));
    }
    let (a, b, out) = (c.scaled(x)?, c.scaled(y)?, c.scaled(made)?);
    let slots = [c.broadcast(node, 0)?, c.broadcast(node, 1)?];
    if slots[0] == slots[1] {
        return Err("a tensor and itself".into());
    }
    Ok(Operands { slots, a, b, out })
}

fn mul(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Operands { slots: [x, y], a, b, out } = operands(c, node)?;
    let real = f64::from(a.scale) * f64::from(b.scale) / f64::from(out.scale);
    let (m, s) = quantize_multiplier(real).ok_or("scales out of range")?;
    let (min, max) = c.limits(node)?;
    let to = c.output(node)?;
    let args = [x, y, to].into_iter().chain([m, s, out.zero, a.zero, b.zero, min, max].map(|v| v as u32));
    c.op(&ops::mul::OP, &args.collect::<Vec<_>>(), &[x, y], to);
    Ok(())
}

fn maximum(c: &mut Context<'_>, node: &Node, least: bool) -> Lowering<()> {
    let Operands { slots: [x, y], a, b, out } = operands(c, node)?;
    if a != b || a != out || node.clamp.is_some() {
        return Err("operands of other scales than the result".into());
    }
    let to = c.output(node)?;
    c.op_with(&ops::maximum::OP, u16::from(least), &[x, y, to], &[x, y], to);
    Ok(())
}

fn hypot(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Operands { slots: [x, y], a, b, out } = operands(c, node)?;
    if a != b || node.clamp.is_some() {
        return Err("parts of two scales".into());
    }
    let real = f64::from(a.scale) / f64::from(out.scale) / f64::from(1 << ops::hypot::FRAC);
    let (m, s) = quantize_multiplier(real).ok_or("scales out of range")?;
    let to = c.output(node)?;
    let numbers = [m, s, out.zero, a.zero].map(|v| v as u32);
    c.op(&ops::hypot::OP, &[&[x, y, to], &numbers[..]].concat(), &[x, y], to);
    Ok(())
}

fn squared_difference(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Operands { slots: [x, y], a, b, out } = operands(c, node)?;
    let twice = 2.0 * f64::from(a.scale.max(b.scale));
    let up = if c.kind(c.made(node)?)? == Kind::I8 { 7 } else { 0 };
    // TFLite Micro computes the denominator in float32.
    let last = twice * twice / f64::from((1 << (2 * up)) as f32 * out.scale);
    let multiplier = |real| quantize_multiplier(real).ok_or("scales out of range");
    let (ma, sa) = multiplier(f64::from(a.scale) / twice)?;
    let (mb, sb) = multiplier(f64::from(b.scale) / twice)?;
    let (m, s) = multiplier(last)?;
    let to = c.output(node)?;
    let numbers = [m, s, out.zero, a.zero, b.zero, ma, mb].map(|v| v as u32);
    let args = [x, y, to].into_iter().chain(numbers).chain([word([sa, sb, 0, 0])]).collect::<Vec<_>>();
    c.op(&ops::squared_difference::OP, &args, &[x, y], to);
    Ok(())
}

/// One slope for each channel, the last dimension; they are constant.
fn prelu(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let (x, slopes, y) = (c.value(node, 0)?, c.value(node, 1)?, c.made(node)?);
    let (input, alpha, out) = (c.affine(x)?, c.affine(slopes)?, c.affine(y)?);
    if slopes.count() != x.shape.last().copied().unwrap_or(0) || slopes.dtype != DType::I8 {
        return Err(format!("slopes of shape {:?} for {:?}", slopes.shape, x.shape));
    }
    let table = c.bytes(&slopes.name, &[slopes.count()], ints(slopes)?.iter().copied());
    let multiplier = |real| quantize_multiplier(real).ok_or("scales out of range");
    let (m, s) = multiplier(f64::from(input.scale) / f64::from(out.scale))?;
    let (mb, sb) = multiplier(f64::from(input.scale) * f64::from(alpha.scale) / f64::from(out.scale))?;
    let from = c.input(node, 0)?;
    let to = c.output(node)?;
    let numbers = [m, s, out.zero, input.zero, alpha.zero, mb, sb].map(|v| v as u32);
    let args = [from, to, table].into_iter().chain(numbers).collect::<Vec<_>>();
    c.op(&ops::prelu::OP, &args, &[from], to);
    Ok(())
}

/// A sum, or with the flag a difference.
fn add(c: &mut Context<'_>, node: &Node, flags: u16) -> Lowering<()> {
    let Operands { slots: [x, y], a, b, out } = operands(c, node)?;
    let wide = c.kind(c.made(node)?)? == Kind::I16;
    let head_room = if wide { 15 } else { 20 };
    let twice = 2.0 * f64::from(a.scale.max(b.scale));
    let last = twice / (f64::from(1 << head_room) * f64::from(out.scale));
    let reals = [f64::from(a.scale) / twice, f64::from(b.scale) / twice, last];
    let [ma, mb, mo] = reals.map(quantize_multiplier);
    let ((ma, ea), (mb, eb), (mo, eo)) =
        ma.zip(mb).zip(mo).map(|((a, b), o)| (a, b, o)).ok_or("scales out of range")?;
    let (min, max) = c.limits(node)?;
    let to = c.output(node)?;
    let (shifts, zeros) = (word([ea, eb, eo, 0]), word([a.zero, b.zero, 0, 0]));
    let numbers = numbers(wide, [0, out.zero, min, max]);
    let args = [x, y, to, ma as u32, mb as u32, mo as u32, shifts, zeros, numbers];
    c.op_with(&ops::add::OP, flags, &args, &[x, y], to);
    Ok(())
}

pub(super) fn softmax(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::Softmax { axis, beta, log: false } = node.op else {
        return Err("the logarithm of a softmax".into());
    };
    let from = c.input(node, 0)?;
    let (x, y) = (c.value(node, 0)?, c.made(node)?);
    let (input, out) = (c.affine(x)?, c.affine(y)?);
    if out != (Affine { scale: 1.0 / 256.0, zero: -128 }) {
        return Err(format!("a softmax whose output has scale {} and zero point {}", out.scale, out.zero));
    }
    if axis + 1 != x.shape.len() {
        return Err("a softmax along another dimension than the last".into());
    }
    let row = x.shape.last().copied().filter(|n| (1..4096).contains(n)).ok_or("a row of 4096 or more elements")?;
    if x.shape != y.shape {
        return Err("a softmax that changes the shape".into());
    }
    // `PreprocessSoftmaxScaling` with 5 integer bits, and `CalculateInputRadius`.
    let real = f64::from(beta) * f64::from(input.scale) * f64::from(1 << 26);
    let real = real.min(2f64.powi(31) - 1.0);
    let (multiplier, shift) = quantize_multiplier(real).filter(|(_, s)| *s >= 0).ok_or("a scale out of range")?;
    let radius = 31.0 * f64::from(1 << 26) / 2f64.powi(shift);
    let to = c.output(node)?;
    let least = -(radius.floor() as i32);
    c.op(&ops::softmax::OP, &[from, to, row as u32, multiplier as u32, shift as u32, least as u32], &[from], to);
    Ok(())
}
