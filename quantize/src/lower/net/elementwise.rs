//! Ops that work element by element, or row by row.

use super::fixed::quantize_multiplier;
use super::tables::table;
use super::{Affine, Context, Lowering, word};
use crate::graph::{Binary, Node, Op, Unary};
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
    let out = c.affine(y)?;
    let mut table = table(f, c.affine(x)?, out, c.rounding)?;
    let (min, max) = c.range(node, out);
    table.iter_mut().for_each(|v| *v = (*v).clamp(min as i8, max as i8));
    let to = c.output(node)?;
    c.lookup(from, to, &node.kind, table);
    Ok(())
}

pub(super) fn binary(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    match node.op {
        Op::Binary(Binary::Add) => add(c, node),
        Op::Binary(other) => Err(format!("{other:?} of two activations")),
        _ => Err("another op".into()),
    }
}

fn add(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let (a, b, made) = (c.value(node, 0)?, c.value(node, 1)?, c.made(node)?);
    let (x, y) = (c.broadcast(node, 0)?, c.broadcast(node, 1)?);
    if x == y {
        return Err("adding a tensor to itself".into());
    }
    let (a, b, out) = (c.affine(a)?, c.affine(b)?, c.affine(made)?);
    let twice = 2.0 * f64::from(a.scale.max(b.scale));
    let last = twice / (f64::from(1 << 20) * f64::from(out.scale));
    let reals = [f64::from(a.scale) / twice, f64::from(b.scale) / twice, last];
    let [ma, mb, mo] = reals.map(quantize_multiplier);
    let ((ma, ea), (mb, eb), (mo, eo)) =
        ma.zip(mb).zip(mo).map(|((a, b), o)| (a, b, o)).ok_or("scales out of range")?;
    let (min, max) = c.range(node, out);
    let to = c.output(node)?;
    let (shifts, zeros) = (word([ea, eb, eo, 0]), word([a.zero, b.zero, 0, 0]));
    let numbers = word([0, out.zero, min, max]);
    c.op(&ops::add::OP, &[x, y, to, ma as u32, mb as u32, mo as u32, shifts, zeros, numbers], &[x, y], to);
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
