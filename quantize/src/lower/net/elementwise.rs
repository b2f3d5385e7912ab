//! Ops that work element by element, or row by row.

use super::fixed::quantize_multiplier;
use super::movement::Box;
use super::reduce::turned;
use super::tables::{table, table_of, table16};
use super::{Affine, Context, Lowering, ints, numbers, whole, wide, word};
use crate::graph::eval::{broadcast_places, composed, function as function_of, function2, of_floats};
use crate::graph::quantize::scalar;
use crate::graph::{Binary, DType, Data, Node, Op, Unary, Value};
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
    if whole::is_whole(x) && c.kind(x)? != Kind::I8 {
        return whole::unary(c, node, f);
    }
    if f == Unary::Identity && (c.kind(x)?, c.kind(y)?) != (Kind::I8, Kind::I8) {
        let to = c.output(node)?;
        return requantize(c, (from, x), (to, y));
    }
    if c.kind(y)? == Kind::I16 {
        return by_table(c, node, 0, &function_of(f));
    }
    let out = c.affine(y)?;
    let mut table = table(f, c.affine(x)?, out, c.rounding)?;
    let (min, max) = c.range(node, out);
    table.iter_mut().for_each(|v| *v = (*v).clamp(min as i8, max as i8));
    let to = c.output(node)?;
    c.lookup(from, to, &node.kind, table);
    Ok(())
}

/// Adds what brings the integers of one value, of any width, to those of another.
pub(super) fn requantize(c: &mut Context<'_>, (from, x): (u32, &Value), (to, y): (u32, &Value)) -> Lowering<()> {
    let (a, b) = (c.scaled(x)?, c.scaled(y)?);
    c.requantize(from, to, f64::from(a.scale) / f64::from(b.scale), [a.zero, b.zero])
}

pub(super) fn binary(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::Binary(f) = node.op else {
        return Err("another op".into());
    };
    if let Some(which) = scalar(&c.graph.values, node) {
        return with_number(c, node, f, which);
    }
    let (x, y) = (c.value(node, 0)?, c.value(node, 1)?);
    if whole::is_whole(x) && whole::is_whole(y) {
        return whole::binary(c, node, f);
    }
    // The square of a tensor, and what else is of one and itself.
    if node.inputs[0] == node.inputs[1] && matches!(c.kind(x)?, Kind::I8 | Kind::I16) {
        let of = function2(f).ok_or_else(|| format!("{f:?} of two activations"))?;
        return by_table(c, node, 0, &|x| of(x, x));
    }
    match f {
        Binary::Add => add(c, node, 0),
        Binary::Sub => add(c, node, ops::add::SUBTRACT),
        Binary::Mul => mul(c, node),
        Binary::Div => wide::div(c, node),
        Binary::Max | Binary::Min => maximum(c, node, f == Binary::Min),
        Binary::Hypot => hypot(c, node),
        Binary::SquaredDifference => squared_difference(c, node),
        Binary::Prelu => prelu(c, node),
        _ if f.is_comparison() => whole::compare(c, node, f),
        other => Err(format!("{other:?} of two activations")),
    }
}

/// A function of an activation and a constant number, operand `which`.
fn with_number(c: &mut Context<'_>, node: &Node, f: Binary, which: usize) -> Lowering<()> {
    let number = match c.value(node, which)?.data.as_ref() {
        Some(Data::F32(v)) => v[0],
        Some(Data::Int(v)) => v[0] as f32,
        None => return Err("a constant without a number".into()),
    };
    let sides = move |x: f32| if which == 1 { (x, number) } else { (number, x) };
    match (function2(f), of_floats(f)) {
        (Some(f), _) => by_table(c, node, 1 - which, &|x| f(sides(x).0, sides(x).1)),
        (_, Some(f)) => by_table(c, node, 1 - which, &|x| f32::from(u8::from(f(sides(x).0, sides(x).1)))),
        _ => Err(format!("{f:?} of an activation and a number")),
    }
}

/// A function that is a graph.
pub(super) fn function(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::Function(f) = &node.op else {
        return Err("another op".into());
    };
    composed(f, &[0.0])?;
    by_table(c, node, 0, &|x| composed(f, &[x]).map_or(f32::NAN, |y| y[0]))
}

/// Any function of operand `which`, computed in floats and rounded once.
fn by_table(c: &mut Context<'_>, node: &Node, which: usize, f: &dyn Fn(f32) -> f32) -> Lowering<()> {
    let (x, y) = (c.value(node, which)?, c.made(node)?);
    if x.count() != y.count() {
        return Err(format!("{:?} to {:?}", x.shape, y.shape));
    }
    if (c.kind(x)?, c.kind(y)?) == (Kind::I16, Kind::I16) {
        let table = table16(f, c.scaled(x)?, c.scaled(y)?, c.limits(node)?);
        let from = c.input(node, which)?;
        let to = c.output(node)?;
        c.lookup16(from, to, &node.kind, table);
        return Ok(());
    }
    let (input, out) = (c.affine(x)?, c.affine(y)?);
    let (min, max) = c.range(node, out);
    let table = table_of(f, input, out).map(|v| v.clamp(min as i8, max as i8));
    let from = c.input(node, which)?;
    let to = c.output(node)?;
    c.lookup(from, to, &node.kind, table);
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
    Ok(Operands { slots: c.pair(node)?, a, b, out })
}

fn mul(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Operands { slots, a, b, out } = operands(c, node)?;
    let limits = c.limits(node)?;
    let to = c.output(node)?;
    c.product(slots, to, [a, b, out], limits)
}

impl Context<'_> {
    /// Adds a product of two slots: what the factors and the result stand for, least and largest result.
    pub(super) fn product(
        &mut self,
        [x, y]: [u32; 2],
        to: u32,
        [a, b, out]: [Affine; 3],
        (min, max): (i32, i32),
    ) -> Lowering<()> {
        let real = f64::from(a.scale) * f64::from(b.scale) / f64::from(out.scale);
        let (m, s) = quantize_multiplier(real).ok_or("scales out of range")?;
        let args = [x, y, to].into_iter().chain([m, s, out.zero, a.zero, b.zero, min, max].map(|v| v as u32));
        self.op(&ops::mul::OP, &args.collect::<Vec<_>>(), &[x, y], to);
        Ok(())
    }

    /// Adds a sum of two slots, or with the flag a difference, of int8 or (`wide`) int16.
    pub(super) fn sum(
        &mut self,
        [x, y]: [u32; 2],
        to: u32,
        [a, b, out]: [Affine; 3],
        (min, max): (i32, i32),
        (flags, wide): (u16, bool),
    ) -> Lowering<()> {
        let head_room = if wide { 15 } else { 20 };
        let twice = 2.0 * f64::from(a.scale.max(b.scale));
        let last = twice / (f64::from(1 << head_room) * f64::from(out.scale));
        let reals = [f64::from(a.scale) / twice, f64::from(b.scale) / twice, last];
        let [ma, mb, mo] = reals.map(quantize_multiplier);
        let ((ma, ea), (mb, eb), (mo, eo)) =
            ma.zip(mb).zip(mo).map(|((a, b), o)| (a, b, o)).ok_or("scales out of range")?;
        let (shifts, zeros) = (word([ea, eb, eo, 0]), word([a.zero, b.zero, 0, 0]));
        let numbers = numbers(wide, [0, out.zero, min, max]);
        let args = [x, y, to, ma as u32, mb as u32, mo as u32, shifts, zeros, numbers];
        self.op_with(&ops::add::OP, flags, &args, &[x, y], to);
        Ok(())
    }
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

/// One slope for each channel, the last dimension, or for each element; they are constant.
fn prelu(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let (x, slopes, y) = (c.value(node, 0)?, c.value(node, 1)?, c.made(node)?);
    let (input, alpha, out) = (c.affine(x)?, c.affine(slopes)?, c.affine(y)?);
    if slopes.dtype != DType::I8 {
        return Err(format!("slopes of {:?}", slopes.dtype));
    }
    let given = ints(slopes)?;
    let per_channel = slopes.count() == x.shape.last().copied().unwrap_or(0) && slopes.shape.last() == x.shape.last();
    let all: Vec<i64> = if per_channel {
        given.to_vec()
    } else {
        broadcast_places(&slopes.shape, &x.shape).into_iter().map(|i| given[i]).collect()
    };
    let table = c.bytes(&slopes.name, &[all.len()], all.into_iter());
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
    let Operands { slots, a, b, out } = operands(c, node)?;
    let wide = c.kind(c.made(node)?)? == Kind::I16;
    let limits = c.limits(node)?;
    let to = c.output(node)?;
    c.sum(slots, to, [a, b, out], limits, (flags, wide))
}

pub(super) fn softmax(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::Softmax { axis, beta, log } = node.op else {
        return Err("another op".into());
    };
    if log {
        return wide::log_softmax(c, node, axis, beta);
    }
    let mut from = c.input(node, 0)?;
    let (x, y) = (c.value(node, 0)?, c.made(node)?);
    let (input, out) = (c.affine(x)?, c.affine(y)?);
    if out != (Affine { scale: 1.0 / 256.0, zero: -128 }) {
        return Err(format!("a softmax whose output has scale {} and zero point {}", out.scale, out.zero));
    }
    let row = x.shape.get(axis).copied().filter(|n| (1..4096).contains(n)).ok_or("a row of 4096 or more elements")?;
    if x.shape != y.shape {
        return Err("a softmax that changes the shape".into());
    }
    // `PreprocessSoftmaxScaling` with 5 integer bits, and `CalculateInputRadius`.
    let real = f64::from(beta) * f64::from(input.scale) * f64::from(1 << 26);
    // (There the limit is 2^31 - 1; from 2^30 on any step is e^-16 or less.)
    let real = real.min(2f64.powi(30) - 1.0);
    let (multiplier, shift) = quantize_multiplier(real).filter(|(_, s)| *s >= 0).ok_or("a scale out of range")?;
    let radius = 31.0 * f64::from(1 << 26) / 2f64.powi(shift);
    let end = c.output(node)?;
    let (mut to, last) = (end, axis + 1 == x.shape.len());
    if !last {
        from = c.copied(from, Kind::I8, x.count(), turned(&x.shape, axis, false))?;
        to = c.builder_slot(Kind::I8, x.count());
    }
    let least = -(radius.floor() as i32);
    c.op(&ops::softmax::OP, &[from, to, row as u32, multiplier as u32, shift as u32, least as u32], &[from], to);
    if !last {
        c.copy(to, end, &Box { dims: turned(&x.shape, axis, true), ..Box::default() }, false)?;
    }
    Ok(())
}
