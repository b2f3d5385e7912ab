//! Ops that move elements and change none: all are copies of boxes (`ops/copy.rs`).

use super::{Constant, Context, Lowering, ints};
use crate::codes::CodedMatrix;
use crate::graph::{Coordinates, DType, Interpolation, Nearest, Node, Op, PadMode};
use mote_runtime::image::Dtype;
use mote_runtime::image::plan::Kind;
use mote_runtime::image::program::NONE;
use mote_runtime::ops;

/// Dimensions of a copy, at most.
const RANK: usize = 6;

/// Elements from one index to the next, for each dimension of a row-major array.
pub(super) fn strides(shape: &[usize]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i] as i64;
    }
    strides
}

/// A box that is copied: for each dimension its size and both strides; and its first element on both sides.
#[derive(Clone, Debug, Default)]
pub(super) struct Box {
    pub(super) dims: Vec<(usize, i64, i64)>,
    pub(super) from: i64,
    pub(super) to: i64,
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
        if dims.len() > RANK {
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

/// A part is copied into the slot of the whole, which becomes the result's.
pub(super) fn insert(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::Insert { starts } = &node.op else {
        return Err("another op".into());
    };
    let (part, y) = (c.value(node, 1)?, c.made(node)?);
    let (a, b) = (strides(&part.shape), strides(&y.shape));
    let first = starts.iter().zip(&b).map(|(start, stride)| *start as i64 * stride).sum();
    let dims = (0..y.shape.len()).map(|i| (part.shape[i], a[i], b[i])).collect();
    let from = c.moved(node, 1)?;
    let whole = node.inputs[0];
    let to = match whole {
        None => c.output(node)?,
        Some(whole) if c.graph.uses()[whole] == 1 && !c.graph.inputs.contains(&whole) => {
            let slot = c.input(node, 0)?;
            c.slots.insert(node.outputs[0], slot);
            slot
        }
        Some(_) => return Err("a change of what is read elsewhere, too".into()),
    };
    c.copy(from, to, &Box { dims, from: 0, to: first }, whole.is_some())
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
    let mut from = c.moved(node, 0)?;
    let mut dims = repeated(&x.shape, &y.shape)?;
    if (Box { dims: dims.clone(), ..Box::default() }).joined().len() > RANK {
        // The last two dimensions first, then the others.
        let at = x.shape.len().saturating_sub(2);
        let half = [&x.shape[..at], &y.shape[y.shape.len() - 2..]].concat();
        from = c.copied(from, c.kind(y)?, half.iter().product(), repeated(&x.shape, &half)?)?;
        dims = repeated(&half, &y.shape)?;
    }
    let to = c.output(node)?;
    c.copy(from, to, &Box { dims, ..Box::default() }, false)
}

/// The dimensions of a copy that broadcasts or repeats `from` to `to`.
pub(super) fn repeated(from: &[usize], to: &[usize]) -> Lowering<Vec<(usize, i64, i64)>> {
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
        self.copied(from, self.kind(x)?, y.count(), dims)
    }

    /// Both operands in the shape of the node's output, in slots of their own: ops read no slot twice.
    pub(super) fn pair(&mut self, node: &Node) -> Lowering<[u32; 2]> {
        let [x, y] = [self.broadcast(node, 0)?, self.broadcast(node, 1)?];
        if x != y {
            return Ok([x, y]);
        }
        let (kind, count) = (self.kind(self.value(node, 0)?)?, self.made(node)?.count());
        Ok([x, self.copied(x, kind, count, Box::all(count).dims)?])
    }

    /// A box of a slot in a new one of `count` elements.
    pub(super) fn copied(
        &mut self,
        from: u32,
        kind: Kind,
        count: usize,
        dims: Vec<(usize, i64, i64)>,
    ) -> Lowering<u32> {
        let to = self.builder_slot(kind, count);
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
        DType::I8 | DType::U8 | DType::Bool => Some(Kind::I8),
        DType::I16 => Some(Kind::I16),
        DType::I32 | DType::U32 | DType::I64 => Some(Kind::I32),
        DType::F32 | DType::I4 => None,
    }
}

/// Rows of a constant table, or of an activation.
pub(super) fn gather(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::Gather { axis } = node.op else {
        return Err("another op".into());
    };
    let (table, indices, y) = (c.value(node, 0)?, c.value(node, 1)?, c.made(node)?);
    if let Some(matrix) = node.inputs[0].and_then(|id| c.graph.coded.get(&id)).filter(|_| axis == 0) {
        return coded_gather(c, node, matrix.clone());
    }
    if table.quant != y.quant || table.dtype != y.dtype || c.kind(indices)? != Kind::I32 {
        return Err(format!("{:?} by {:?} to {:?}", table.dtype, indices.dtype, y.dtype));
    }
    let at = c.input(node, 1)?;
    let inner: usize = table.shape[axis + 1..].iter().product();
    if axis == 0 && table.data.is_some() && table.dtype == DType::I8 {
        let rows = c.bytes(&table.name, &[table.shape[0], inner], ints(table)?.iter().copied());
        let to = c.output(node)?;
        c.op(&ops::gather::OP, &[at, to, rows], &[at], to);
        return Ok(());
    }
    let from = c.input(node, 0)?;
    let to = c.output(node)?;
    let args = [at, to, from, table.shape[axis] as u32, inner as u32];
    c.op(&ops::gather::SLOT, &args, &[at, from], to);
    Ok(())
}

/// Rows of a constant table in codes, which are in steps of the output (`graph::quantize::tables`).
fn coded_gather(c: &mut Context<'_>, node: &Node, matrix: CodedMatrix) -> Lowering<()> {
    let (table, y) = (c.value(node, 0)?, c.made(node)?);
    let (count, zero) = (table.shape[0], c.affine(y)?.zero);
    let words = matrix.cols * count / table.count().max(1);
    let (at, to) = (c.input(node, 1)?, c.output(node)?);
    let rows = c.builder.tensor(Constant { parameters: table.count(), ..Constant::coded(&table.name, matrix) });
    c.op(&ops::gather_coded::OP, &[at, to, rows, words as u32, count as u32, zero as u32], &[at], to);
    Ok(())
}

/// Where each output row (or column) reads, in 1/1024 of an input pixel.
fn places(from: usize, to: usize, coordinates: Coordinates, interpolation: Interpolation) -> Lowering<Vec<i32>> {
    let aligned = coordinates == Coordinates::AlignCorners && to > 1;
    let half = match coordinates {
        Coordinates::HalfPixel => true,
        Coordinates::PytorchHalfPixel => to > 1,
        Coordinates::AlignCorners | Coordinates::Asymmetric => false,
    };
    let last = from as i64 - 1;
    let place = |i: usize| match interpolation {
        // TFLite's `ComputeInterpolationValuesInteger`.
        Interpolation::Linear => {
            let divided = |a: usize, b: usize| ((1024 * a + b / 2) / b) as i64;
            let step = if aligned { divided(from - 1, to - 1) } else { divided(from, to) };
            let place = i as i64 * step + if half { step / 2 - 512 } else { 0 };
            Ok(place.clamp(0, 1024 * last) as i32)
        }
        // TFLite's `GetNearestNeighbor`, in float32 as there.
        Interpolation::Nearest(how) => {
            let scale = if aligned { last as f32 / (to - 1) as f32 } else { from as f32 / to as f32 };
            let at = (i as f32 + if half { 0.5 } else { 0.0 }) * scale;
            let whole = match (how, half) {
                (Nearest::Floor, false) | (Nearest::RoundPreferCeil, true) => at.floor(),
                (Nearest::RoundPreferCeil, false) => (at + 0.5).floor(),
                (Nearest::RoundPreferFloor, half) => (at - if half { 0.5 } else { 0.0 } - 0.5).ceil(),
                (Nearest::Ceil, half) => (at - if half { 0.5 } else { 0.0 }).ceil(),
                (Nearest::Floor, true) => (at - 0.5).floor(),
            };
            Ok(1024 * (whole as i64).clamp(0, last) as i32)
        }
    };
    (0..to).map(place).collect()
}

pub(super) fn resize(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::Resize { coordinates, interpolation } = node.op else {
        return Err("another op".into());
    };
    let (x, y) = (c.value(node, 0)?, c.made(node)?);
    let (&[1, ih, iw, channels], &[1, oh, ow, made]) = (&x.shape[..], &y.shape[..]) else {
        return Err(format!("shapes {:?} to {:?} (one image)", x.shape, y.shape));
    };
    if channels != made || ih.max(iw) >= 1 << 16 {
        return Err(format!("shapes {:?} to {:?}", x.shape, y.shape));
    }
    let mut tables = [0; 2];
    for (table, (from, to)) in tables.iter_mut().zip([(ih, oh), (iw, ow)]) {
        let places = places(from, to, coordinates, interpolation)?;
        let bytes = places.iter().flat_map(|p| p.to_le_bytes()).collect();
        *table = c.constant("places of a resize", Dtype::I32, &[to], bytes);
    }
    let from = c.moved(node, 0)?;
    let to = c.output(node)?;
    c.op(&ops::resize::OP, &[from, to, super::pair([ih, iw]), tables[0], tables[1]], &[from], to);
    Ok(())
}
