//! Ops that sum or choose along dimensions.

use super::fixed::quantize_multiplier;
use super::movement::{Box, repeated, strides};
use super::{Context, Lowering};
use crate::graph::{Node, Op, Reduction, Value};
use mote_runtime::image::plan::Kind;
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
    pub(super) fn gathered(&mut self, node: &Node, axes: &[usize]) -> Lowering<(u32, usize, usize)> {
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
        let to = self.copied(from, self.kind(x)?, x.count(), dims)?;
        Ok((to, axes.iter().map(|i| x.shape[*i]).product(), 1))
    }
}

pub(super) fn reduce(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::Reduce { kind, axes } = &node.op else {
        return Err("another op".into());
    };
    let mut axes = axes.clone();
    axes.sort_unstable();
    let axes = &axes;
    let (x, y) = (c.value(node, 0)?, c.made(node)?);
    if c.kind(x)? != c.kind(y)? || node.clamp.is_some() {
        return Err(format!("{:?} to {:?}", x.dtype, y.dtype));
    }
    if axes.is_empty() {
        return super::movement::reshape(c, node);
    }
    if matches!(kind, Reduction::L1 | Reduction::L2 | Reduction::SumSquare | Reduction::LogSum | Reduction::LogSumExp) {
        return super::wide::reduce(c, node, *kind, axes);
    }
    // TFLite's order: the multiplier of the scales first, then the division by the count, in integers.
    let numbers = match kind {
        Reduction::Sum | Reduction::Mean if x.quant.is_none() => {
            return Err(format!("{kind:?} of integers without a scale"));
        }
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

/// Dimensions of `shape`, `axis` last.
fn with_last(rank: usize, axis: usize) -> Vec<usize> {
    (0..rank).filter(|i| *i != axis).chain([axis]).collect()
}

/// The dimensions of a copy of elements of `shape` that puts `axis` last; `back`: that which undoes it.
pub(super) fn turned(shape: &[usize], axis: usize, back: bool) -> Vec<(usize, i64, i64)> {
    let perm = with_last(shape.len(), axis);
    let sizes: Vec<usize> = perm.iter().map(|i| shape[*i]).collect();
    let (own, other) = (strides(shape), strides(&sizes));
    let dims = perm.iter().zip(&sizes).zip(other);
    dims.map(|((i, size), other)| if back { (*size, other, own[*i]) } else { (*size, own[*i], other) }).collect()
}

/// The smallest are the largest of all bits turned round.
pub(super) fn top_k(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::TopK { axis, least } = node.op else {
        return Err("another op".into());
    };
    let (&[values, indices], x) = (&node.outputs[..], c.value(node, 0)?) else {
        return Err(format!("{} outputs", node.outputs.len()));
    };
    let made = &c.graph.values[values];
    if made.quant != x.quant {
        return Err("another scale".into());
    }
    let (kind, last) = (c.kind(x)?, axis + 1 == x.shape.len());
    let (n, k) = (x.shape[axis], made.shape[axis]);
    let mut from = c.input(node, 0)?;
    if least {
        from = c.turned_round(from, kind, x.count())?;
    }
    if !last {
        from = c.copied(from, kind, x.count(), turned(&x.shape, axis, false))?;
    }
    let count = made.count();
    let (mut v, mut i) = (c.new_slot(values)?, c.new_slot(indices)?);
    let ends = [v, i];
    if least || !last {
        v = c.builder_slot(kind, count);
    }
    if !last {
        i = c.builder_slot(Kind::I32, count);
    }
    c.builder.op(ops::top_k::OP.code, 0, &[from, v, i, n as u32, k as u32], &[from], &[v, i]);
    if least {
        v = c.turned_round(v, kind, count)?;
    }
    let back = if last { Box::all(count).dims } else { turned(&made.shape, axis, true) };
    for (slot, end) in [v, i].into_iter().zip(ends).filter(|(slot, end)| slot != end) {
        c.copy(slot, end, &Box { dims: back.clone(), ..Box::default() }, false)?;
    }
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
    let batch = made.count().checked_div(m * n).unwrap_or(0);
    if inner != k || made.count() != batch * m * n {
        return Err(format!("{:?} times {:?} to {:?}", x.shape, y.shape, made.shape));
    }
    if node.clamp.is_some() {
        return Err("a fused activation".into());
    }
    // The product of the scales is a float in TFLite.
    let real = f64::from(a.scale * b.scale) / f64::from(out.scale);
    let (mult, shift) = quantize_multiplier(real).ok_or("scales out of range")?;
    // One matrix y serves all, as it is; whatever else is broadcast is copied.
    let mut whole = |which: usize, matrix: &Value| -> Lowering<u32> {
        let from = c.input(node, which)?;
        if matrix.count() == batch * m * k && which == 0 || matrix.count() == batch * k * n && which == 1 {
            return Ok(from);
        }
        if which == 1 && matrix.count() == k * n {
            return Ok(from);
        }
        let [.., rows, cols] = matrix.shape[..] else { return Err("no matrix".into()) };
        let shape = [&made.shape[..made.shape.len() - 2], &[rows, cols]].concat();
        c.copied(from, Kind::I8, shape.iter().product(), repeated(&matrix.shape, &shape)?)
    };
    let (from, with) = (whole(0, x)?, whole(1, y)?);
    let to = c.output(node)?;
    let numbers = [mult, shift, out.zero, a.zero, b.zero, m as i32, k as i32, n as i32].map(|v| v as u32);
    let flags = if transposed { ops::batch_matmul::TRANSPOSED } else { 0 };
    c.op_with(&ops::batch_matmul::OP, flags, &[&[from, with, to], &numbers[..]].concat(), &[from, with], to);
    Ok(())
}
