//! Ops that sum or choose along dimensions.

use super::fixed::quantize_multiplier;
use super::movement::{Box, strides};
use super::{Context, Lowering};
use crate::graph::{Node, Op, Reduction, Value};
use mote_runtime::ops;

/// The dimensions of a value seen as [outer, count, inner], where `axes` (ascending) are those counted; `None` if others lie
/// between them.
fn split(shape: &[usize], axes: &[usize]) -> Option<[usize; 3]> {
    let (first, last) = (*axes.first()?, *axes.last()?);
    let apart = (first..=last).any(|i| !axes.contains(&i) && shape[i] != 1);
    let product = |dims: &[usize]| dims.iter().product();
    (!apart).then(|| [product(&shape[..first]), product(&shape[first..=last]), product(&shape[last + 1..])])
}

impl Context<'_> {
    /// A node's input 0 as [outer, count, inner] over `axes`: its slot, or a copy with those dimensions last.
    fn gathered(&mut self, node: &Node, axes: &[usize]) -> Lowering<(u32, usize, usize)> {
        let x = self.value(node, 0)?;
        let from = self.input(node, 0)?;
        if let Some([_, count, inner]) = split(&x.shape, axes) {
            return Ok((from, count, inner));
        }
        let a = strides(&x.shape);
        let order = (0..x.shape.len()).filter(|i| !axes.contains(i)).chain(axes.iter().copied());
        let perm: Vec<usize> = order.collect();
        let sizes: Vec<usize> = perm.iter().map(|i| x.shape[*i]).collect();
        let dims = perm.iter().zip(&sizes).zip(strides(&sizes)).map(|((i, size), to)| (*size, a[*i], to)).collect();
        let to = self.builder_slot(self.kind(x)?, x.count());
        self.copy(from, to, &Box { dims, ..Box::default() }, false)?;
        Ok((to, axes.iter().map(|i| x.shape[*i]).product(), 1))
    }
}

pub(super) fn reduce(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::Reduce { kind, axes } = &node.op else {
        return Err("another op".into());
    };
    let (x, y) = (c.value(node, 0)?, c.made(node)?);
    if c.kind(x)? != c.kind(y)? || node.clamp.is_some() {
        return Err(format!("{:?} to {:?}", x.dtype, y.dtype));
    }
    if axes.is_empty() {
        return super::movement::reshape(c, node);
    }
    // TFLite's order: the multiplier of the scales first, then the division by the count, in integers.
    let numbers = match kind {
        Reduction::Sum | Reduction::Mean => {
            let (input, out) = (c.scaled(x)?, c.scaled(y)?);
            let real = f64::from(input.scale) / f64::from(out.scale);
            let (mut m, mut s) = quantize_multiplier(real).ok_or("scales out of range")?;
            if *kind == Reduction::Mean {
                let count: usize = axes.iter().map(|i| x.shape[*i]).product();
                let up = (count.ilog2() as i32).min(32).min(31 + s);
                m = ((i64::from(m) << up) / count as i64) as i32;
                s -= up;
            }
            [m, s, out.zero, input.zero].map(|v| v as u32)
        }
        Reduction::Max | Reduction::Min if x.quant == y.quant => [0; 4],
        other => return Err(format!("{other:?}, or other scales")),
    };
    let (from, count, inner) = c.gathered(node, axes)?;
    let to = c.output(node)?;
    let args = [&[from, to, count as u32, inner as u32], &numbers[..]].concat();
    match kind {
        Reduction::Max => c.op_with(&ops::reduce::OP, ops::reduce::MAXIMUM, &args[..4], &[from], to),
        Reduction::Min => c.op_with(&ops::reduce::OP, ops::reduce::MINIMUM, &args[..4], &[from], to),
        _ => c.op(&ops::reduce::OP, &args, &[from], to),
    }
    Ok(())
}

pub(super) fn arg_max(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::ArgMax { axis, least } = node.op else {
        return Err("another op".into());
    };
    let (from, count, inner) = c.gathered(node, &[axis])?;
    let to = c.output(node)?;
    c.op_with(&ops::arg_max::OP, u16::from(least), &[from, to, count as u32, inner as u32], &[from], to);
    Ok(())
}

/// Along the last dimension.
pub(super) fn top_k(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::TopK { axis, least: false } = node.op else {
        return Err("the smallest".into());
    };
    let (&[values, indices], x) = (&node.outputs[..], c.value(node, 0)?) else {
        return Err(format!("{} outputs", node.outputs.len()));
    };
    if axis + 1 != x.shape.len() || c.graph.values[values].quant != x.quant {
        return Err("another dimension than the last, or another scale".into());
    }
    let from = c.input(node, 0)?;
    let (v, i) = (c.new_slot(values)?, c.new_slot(indices)?);
    let k = c.graph.values[values].shape[axis];
    c.builder.op(ops::top_k::OP.code, 0, &[from, v, i, x.shape[axis] as u32, k as u32], &[from], &[v, i]);
    Ok(())
}

/// Both matrices are activations.
pub(super) fn matmul(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::MatMul { transposed } = node.op else {
        return Err("another op".into());
    };
    let (x, y, made) = (c.value(node, 0)?, c.value(node, 1)?, c.made(node)?);
    let (a, b, out) = (c.affine(x)?, c.affine(y)?, c.affine(made)?);
    let matrix = |v: &Value| match v.shape[..] {
        [.., rows, cols] => Ok((rows, cols)),
        _ => Err(format!("a matrix of shape {:?}", v.shape)),
    };
    let ((m, k), (p, q)) = (matrix(x)?, matrix(y)?);
    let (n, inner) = if transposed { (p, q) } else { (q, p) };
    let batch = x.count().checked_div(m * k).unwrap_or(0);
    if inner != k || made.count() != batch * m * n || (y.count() != k * n && y.count() != batch * k * n) {
        return Err(format!("{:?} times {:?} to {:?}", x.shape, y.shape, made.shape));
    }
    if node.clamp.is_some() {
        return Err("a fused activation".into());
    }
    // The product of the scales is a float in TFLite.
    let real = f64::from(a.scale * b.scale) / f64::from(out.scale);
    let (mult, shift) = quantize_multiplier(real).ok_or("scales out of range")?;
    let (from, with) = (c.input(node, 0)?, c.input(node, 1)?);
    let to = c.output(node)?;
    let numbers = [mult, shift, out.zero, a.zero, b.zero, m as i32, k as i32, n as i32].map(|v| v as u32);
    let flags = if transposed { ops::batch_matmul::TRANSPOSED } else { 0 };
    c.op_with(&ops::batch_matmul::OP, flags, &[&[from, with, to], &numbers[..]].concat(), &[from, with], to);
    Ok(())
}
