//! Ops that move elements and change none: all are copies of boxes (`ops/copy.rs`).

use super::{Context, Lowering};
use crate::graph::{Node, Op, PadMode};
use mote_runtime::image::Dtype;
use mote_runtime::image::plan::Kind;
use mote_runtime::image::program::NONE;
use mote_runtime::ops;

/// Elements from one index to the next, for each dimension of a row-major array.
fn strides(shape: &[usize]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i] as i64;
    }
    strides
}

/// A box that is copied: for each dimension its size and both strides; and its first element on both sides.
#[derive(Clone, Debug, Default)]
pub(super) struct Box {
    dims: Vec<(usize, i64, i64)>,
    from: i64,
    to: i64,
}

impl Box {
    /// So many elements, one after the other.
    pub(super) fn all(count: usize) -> Self {
        Self { dims: vec![(count, 1, 1)], ..Self::default() }
    }

    /// Joins dimensions that are one stretch on both sides, and leaves out those of one element.
    fn joined(&self) -> Vec<(usize, i64, i64)> {
        let mut joined: Vec<(usize, i64, i64)> = vec![];
        for dim in self.dims.iter().filter(|d| d.0 != 1) {
            match joined.last_mut() {
                Some(last) if last.1 == dim.1 * dim.0 as i64 && last.2 == dim.2 * dim.0 as i64 => {
                    *last = (last.0 * dim.0, dim.1, dim.2);
                }
                _ => joined.push(*dim),
            }
        }
        if joined.is_empty() {
            joined.push((1, 1, 1));
        }
        joined
    }
}

impl Context<'_> {
    /// Adds a copy from one slot to another; `rest`: the output keeps its other elements.
    pub(super) fn copy(&mut self, from: u32, to: u32, part: &Box, rest: bool) -> Lowering<()> {
        let dims = part.joined();
        if dims.len() > 6 {
            return Err(format!("a movement of {} dimensions", dims.len()));
        }
        let columns = [dims.iter().map(|d| d.0 as i64).collect::<Vec<_>>(), dims.iter().map(|d| d.1).collect()];
        let words = columns.into_iter().flatten().chain(dims.iter().map(|d| d.2));
        let words =
            words.map(|w| i32::try_from(w).map_err(|_| "a stride beyond 2^31")).collect::<Result<Vec<_>, _>>()?;
        let bytes = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let layout = self.constant("layout of a copy", Dtype::I32, &[3, dims.len()], bytes);
        let reads: &[u32] = if rest { &[from, to] } else { &[from] };
        self.op(&ops::copy::OP, &[from, to, layout, part.from as u32, part.to as u32], reads, to);
        Ok(())
    }

    /// Fills a slot with one integer.
    pub(super) fn fill(&mut self, to: u32, value: i32) {
        self.op(&ops::fill::OP, &[to, value as u32, NONE], &[], to);
    }

    /// The one input of a node that moves its elements, brought to the scale of the output first where that is another.
    fn moved(&mut self, node: &Node, which: usize) -> Lowering<u32> {
        let (x, y) = (self.value(node, which)?, self.made(node)?);
        let slot = self.input(node, which)?;
        if x.dtype == y.dtype && x.quant == y.quant {
            return Ok(slot);
        }
        let to = self.builder_slot(self.kind(y)?, x.count());
        self.rescale(slot, x, to, y)?;
        Ok(to)
    }
}

/// The same bytes under another shape: no op, the same slot.
pub(super) fn reshape(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    if c.value(node, 0)?.count() != c.made(node)?.count() {
        return Err("a change of shape that changes the size".into());
    }
    let from = c.moved(node, 0)?;
    c.slots.insert(node.outputs[0], from);
    Ok(())
}

pub(super) fn transpose(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::Transpose { perm } = &node.op else {
        return Err("another op".into());
    };
    let (x, y) = (c.value(node, 0)?, c.made(node)?);
    let (a, b) = (strides(&x.shape), strides(&y.shape));
    let dims = perm.iter().zip(&y.shape).zip(&b).map(|((p, size), to)| (*size, a[*p], *to)).collect();
    let part = Box { dims, ..Box::default() };
    let from = c.moved(node, 0)?;
    // Only dimensions of one element move: the same bytes.
    if part.joined().len() == 1 && part.joined()[0].1 == part.joined()[0].2 {
        c.slots.insert(node.outputs[0], from);
        return Ok(());
    }
    let to = c.output(node)?;
    c.copy(from, to, &part, false)
}

pub(super) fn slice(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::Slice { starts, steps } = &node.op else {
        return Err("another op".into());
    };
    let (x, y) = (c.value(node, 0)?, c.made(node)?);
    let (a, b) = (strides(&x.shape), strides(&y.shape));
    let first: i64 = starts.iter().zip(&a).map(|(start, stride)| *start as i64 * stride).sum();
    let dims = (0..y.shape.len()).map(|i| (y.shape[i], a[i] * steps[i], b[i])).collect();
    let from = c.moved(node, 0)?;
    let to = c.output(node)?;
    c.copy(from, to, &Box { dims, from: first, to: 0 }, false)
}

pub(super) fn concat(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::Concat { axis } = node.op else {
        return Err("another op".into());
    };
    if node.clamp.is_some() {
        return Err("a fused activation".into());
    }
    let y = c.made(node)?;
    let b = strides(&y.shape);
    let mut parts = vec![];
    for which in 0..node.inputs.len() {
        parts.push(c.moved(node, which)?);
    }
    let to = c.output(node)?;
    let mut at = 0;
    for (which, from) in parts.into_iter().enumerate() {
        let shape = &c.value(node, which)?.shape;
        if shape.len() != y.shape.len() {
            return Err("parts of other dimensions".into());
        }
        let dims = shape.iter().zip(strides(shape)).zip(&b).map(|((size, a), b)| (*size, a, *b)).collect();
        c.copy(from, to, &Box { dims, from: 0, to: at as i64 * b[axis] }, which > 0)?;
        at += shape[axis];
    }
    if at == y.shape[axis] { Ok(()) } else { Err("parts that do not fill the output".into()) }
}

/// Broadcast, or repeat: a dimension of 1 becomes any other, another one a multiple of itself.
pub(super) fn expand(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let (x, y) = (c.value(node, 0)?, c.made(node)?);
    let dims = repeated(&x.shape, &y.shape)?;
    let from = c.moved(node, 0)?;
    let to = c.output(node)?;
    c.copy(from, to, &Box { dims, ..Box::default() }, false)
}

/// The dimensions of a copy that broadcasts or repeats `from` to `to`.
fn repeated(from: &[usize], to: &[usize]) -> Lowering<Vec<(usize, i64, i64)>> {
    let missing = to.len().checked_sub(from.len()).ok_or("a broadcast to fewer dimensions")?;
    let full: Vec<usize> = std::iter::repeat_n(1, missing).chain(from.iter().copied()).collect();
    let (a, b) = (strides(&full), strides(to));
    let mut dims = vec![];
    for i in 0..to.len() {
        let times = to[i].checked_div(full[i]).filter(|t| t * full[i] == to[i]);
        let times = times.ok_or_else(|| format!("a broadcast of {from:?} to {to:?}"))?;
        dims.push((times, 0, b[i] * full[i] as i64));
        dims.push((full[i], a[i], b[i]));
    }
    Ok(dims)
}

impl Context<'_> {
    /// An operand in the shape of the node's output: its slot, or a broadcast copy of it.
    pub(super) fn broadcast(&mut self, node: &Node, which: usize) -> Lowering<u32> {
        let (x, y) = (self.value(node, which)?, self.made(node)?);
        let from = self.input(node, which)?;
        if x.count() == y.count() {
            return Ok(from);
        }
        let dims = repeated(&x.shape, &y.shape)?;
        let to = self.builder_slot(self.kind(x)?, y.count());
        self.copy(from, to, &Box { dims, ..Box::default() }, false)?;
        Ok(to)
    }
}

/// Stretches of one dimension of a padded array: where in the output, how many, where in the input, and the step there.
fn stretches(mode: PadMode, before: usize, size: usize, total: usize) -> Lowering<Vec<(usize, usize, usize, i64)>> {
    let after = total.checked_sub(before + size).ok_or("padding that takes away")?;
    let middle = (before, size, 0, 1);
    // Of what is on one side: its beginning in the input, and the step; a stretch of more than the input has is refused.
    let (most, first, last, step) = match mode {
        PadMode::Constant(_) => return Ok(vec![middle]),
        PadMode::Edge => (usize::MAX, 0, size - 1, 0),
        PadMode::Reflect => (size - 1, before, size.wrapping_sub(2), -1),
        PadMode::Symmetric => (size, before.wrapping_sub(1), size - 1, -1),
        PadMode::Wrap => (size, size.wrapping_sub(before), 0, 1),
    };
    if before.max(after) > most {
        return Err(format!("{} elements of padding around {size}", before.max(after)));
    }
    let all = [(0, before, first, step), middle, (before + size, after, last, step)];
    Ok(all.into_iter().filter(|s| s.1 > 0).collect())
}

pub(super) fn pad(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::Pad { before, mode } = &node.op else {
        return Err("another op".into());
    };
    let (x, y) = (c.value(node, 0)?, c.made(node)?);
    let (a, b) = (strides(&x.shape), strides(&y.shape));
    let from = c.moved(node, 0)?;
    let to = c.output(node)?;
    let constant = matches!(mode, PadMode::Constant(_));
    if let PadMode::Constant(value) = mode {
        c.fill(to, c.quantized(y, *value)?);
    }
    let mut boxes = vec![Box::default()];
    for i in 0..y.shape.len() {
        let all = stretches(*mode, before[i], x.shape[i], y.shape[i])?;
        let with = |part: &Box, (at, count, start, step): (usize, usize, usize, i64)| {
            let mut part = part.clone();
            part.dims.push((count, a[i] * step, b[i]));
            part.from += start as i64 * a[i];
            part.to += at as i64 * b[i];
            part
        };
        boxes = boxes.iter().flat_map(|part| all.iter().map(move |s| with(part, *s))).collect();
    }
    for (i, part) in boxes.iter().enumerate() {
        c.copy(from, to, part, constant || i > 0)?;
    }
    Ok(())
}

/// Kinds of slots whose elements a copy moves.
pub(super) fn kind(dtype: crate::graph::DType) -> Option<Kind> {
    use crate::graph::DType;
    match dtype {
        DType::I8 | DType::U8 => Some(Kind::I8),
        DType::I16 => Some(Kind::I16),
        DType::I32 | DType::I64 => Some(Kind::I32),
        DType::F32 | DType::I4 | DType::Bool => None,
    }
}
