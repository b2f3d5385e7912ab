//! Operators that move elements, ask for shapes, or make constants.

use super::super::builder::{Builder, Done, Step, axes, axis, malformed, unsupported};
use super::Table;
use crate::graph::shape::{self, Shape};
use crate::graph::{Binary, DType, Op, PadMode, Tensor, ValueId};

pub(super) const OPERATORS: Table = &[
    ("Concat", concat),
    ("Constant", constant),
    ("ConstantOfShape", constant_of_shape),
    ("DepthToSpace", depth_to_space),
    ("Dropout", dropout),
    ("Expand", expand),
    ("EyeLike", eye_like),
    ("Flatten", flatten),
    ("Gather", gather),
    ("GatherElements", gather_elements),
    ("GatherND", gather_nd),
    ("Identity", identity),
    ("OneHot", one_hot),
    ("Pad", pad),
    ("Range", range),
    ("Reshape", reshape),
    ("Shape", shape_of),
    ("Size", size),
    ("Slice", slice),
    ("SpaceToDepth", space_to_depth),
    ("Split", split),
    ("Squeeze", squeeze),
    ("Tile", tile),
    ("Transpose", transpose),
    ("Trilu", trilu),
    ("Unsqueeze", unsqueeze),
];

fn identity(_: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    Ok(vec![s.x(0)?])
}

/// Nothing at inference; the mask is true everywhere.
fn dropout(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let x = s.x(0)?;
    let training = match s.given(2) {
        Some(id) => b.ints("training_mode", id)?.first() != Some(&0),
        None => false,
    };
    let ratio = match s.given(1) {
        Some(id) if training => b.single("ratio", id)?,
        _ => 0.5,
    };
    if training && ratio != 0.0 {
        return unsupported("training");
    }
    let mut results = vec![x];
    if s.wants(1) {
        let shape = b.shape(x);
        let one = b.constant(Tensor::ints(&[], vec![1]), DType::Bool)?;
        results.push(b.shaped(Op::Expand, &[one], &shape)?);
    }
    Ok(results)
}

fn constant(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let floats = |v: &[f32]| Tensor::floats(&[v.len()], v.to_vec());
    let (tensor, dtype) = if let Some(t) = s.tensor("value") {
        t.read()?
    } else if s.has("value_float") {
        (Tensor::floats(&[], vec![s.float("value_float", 0.0)]), DType::F32)
    } else if s.has("value_int") {
        (Tensor::ints(&[], vec![s.int("value_int", 0)]), DType::I64)
    } else if let Some(v) = s.floats("value_floats").filter(|_| s.has("value_floats")) {
        (floats(v), DType::F32)
    } else if let Some(v) = s.ints("value_ints") {
        (Tensor::ints(&[v.len()], v.to_vec()), DType::I64)
    } else {
        return unsupported("a sparse constant, or one of strings");
    };
    let id = b.constant(tensor, dtype)?;
    if let Some(t) = s.tensor("value") {
        b.types.insert(id, t.data_type());
    }
    Ok(vec![id])
}

/// Lengths, each small enough to be multiplied.
fn lengths(all: &[i64]) -> Done<Shape> {
    Ok(super::super::proto::dims(all)?)
}

fn constant_of_shape(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let shape = lengths(&b.ints("shape", s.x(0)?)?)?;
    let (tensor, dtype) = match s.tensor("value") {
        Some(t) => t.read()?,
        None => (Tensor::floats(&[1], vec![0.0]), DType::F32),
    };
    if tensor.count() != 1 {
        return malformed(format!("a value of {} elements", tensor.count()));
    }
    let one = b.constant(Tensor { shape: vec![], ..tensor }, dtype)?;
    Ok(vec![if shape.is_empty() { one } else { b.shaped(Op::Expand, &[one], &shape)? }])
}

fn shape_of(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let shape: Vec<i64> = b.shape(s.x(0)?).iter().map(|d| *d as i64).collect();
    let rank = shape.len() as i64;
    let bound = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
    let (start, end) = (bound(s.int("start", 0)), bound(s.int("end", rank)));
    let part = shape.get(start..end).unwrap_or(&[]).to_vec();
    Ok(vec![b.indices(&[part.len()], part)?])
}

fn size(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let count = b.at(s.x(0)?).count() as i64;
    Ok(vec![b.indices(&[], vec![count])?])
}

fn range(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let dtype = b.at(s.x(0)?).dtype;
    let too_long = |n: f64| n > shape::MAX_ELEMENTS as f64;
    if dtype == DType::F32 {
        let [start, limit, delta] =
            [b.single("start", s.x(0)?)?, b.single("limit", s.x(1)?)?, b.single("delta", s.x(2)?)?].map(f64::from);
        let n = ((limit - start) / delta).ceil().max(0.0);
        if too_long(n) {
            return malformed(format!("the range from {start} to {limit} by {delta}"));
        }
        let all = (0..n as usize).map(|i| (start + i as f64 * delta) as f32).collect();
        return Ok(vec![b.constant(Tensor::floats(&[n as usize], all), dtype)?]);
    }
    let one = |b: &Builder, what, i| Done::Ok(b.ints(what, s.x(i)?)?.first().copied().unwrap_or(0));
    let (start, limit, delta) = (one(b, "start", 0)?, one(b, "limit", 1)?, one(b, "delta", 2)?);
    let n = ((limit as f64 - start as f64) / delta as f64).ceil().max(0.0);
    if delta == 0 || too_long(n) {
        return malformed(format!("the range from {start} to {limit} by {delta}"));
    }
    let all = (0..n as i64).map(|i| start.wrapping_add(i.wrapping_mul(delta))).collect();
    Ok(vec![b.constant(Tensor::ints(&[n as usize], all), dtype)?])
}

fn reshape(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let x = s.x(0)?;
    let wanted = match s.given(1) {
        Some(id) => b.ints("shape", id)?,
        None => s.ints("shape").unwrap_or(&[]).to_vec(),
    };
    let from = b.shape(x);
    let mut to = Shape::new();
    for (d, n) in wanted.iter().enumerate() {
        to.push(match *n {
            -1 => 1,
            0 if s.int("allowzero", 0) == 0 => *from.get(d).ok_or_else(|| format!("{wanted:?} of {from:?}"))?,
            n => usize::try_from(n).map_err(|_| format!("shape {wanted:?}"))?,
        });
    }
    let mut open = wanted.iter().enumerate().filter(|(_, n)| **n == -1).map(|(d, _)| d);
    if let Some(d) = open.next() {
        let (all, known) = (shape::count(&from).unwrap_or(0), shape::count(&to).unwrap_or(0));
        if open.next().is_some() || known == 0 || all % known != 0 {
            return malformed(format!("{from:?} in shape {wanted:?}"));
        }
        to[d] = all / known;
    }
    Ok(vec![b.reshape(x, &to)?])
}

fn flatten(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let shape = b.shape(s.x(0)?);
    let at = match s.int("axis", 1) {
        a if a == shape.len() as i64 => shape.len(),
        a => axis(a, shape.len())?,
    };
    Ok(vec![b.reshape(s.x(0)?, &[shape[..at].iter().product(), shape[at..].iter().product()])?])
}

/// Axes: an attribute before opset 13, an input since.
fn given_axes(b: &Builder, s: &Step) -> Done<Option<Vec<i64>>> {
    match s.given(1) {
        Some(id) => Ok(Some(b.ints("axes", id)?)),
        None => Ok(s.ints("axes").map(<[i64]>::to_vec)),
    }
}

fn squeeze(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let shape = b.shape(s.x(0)?);
    let gone = match given_axes(b, s)? {
        Some(all) => axes(&all, shape.len())?,
        None => (0..shape.len()).filter(|d| shape[*d] == 1).collect(),
    };
    let to: Shape = (0..shape.len()).filter(|d| !gone.contains(d)).map(|d| shape[d]).collect();
    Ok(vec![b.reshape(s.x(0)?, &to)?])
}

fn unsqueeze(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let shape = b.shape(s.x(0)?);
    let all = given_axes(b, s)?.unwrap_or_default();
    let rank = shape.len() + all.len();
    let new = axes(&all, rank)?;
    let mut old = shape.iter();
    let to: Shape = (0..rank).filter_map(|d| if new.contains(&d) { Some(1) } else { old.next().copied() }).collect();
    Ok(vec![b.reshape(s.x(0)?, &to)?])
}

fn transpose(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let rank = b.rank(s.x(0)?);
    let reversed: Vec<usize> = (0..rank).rev().collect();
    let perm = s.sizes("perm", &reversed)?;
    Ok(vec![b.transpose(s.x(0)?, &perm)?])
}

fn concat(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let parts = (0..s.inputs.len()).map(|i| s.x(i)).collect::<Done<Vec<_>>>()?;
    let axis = axis(s.int("axis", 1), b.rank(s.x(0)?))?;
    Ok(vec![b.concat(&parts, axis)?])
}

fn split(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let x = s.x(0)?;
    let axis = axis(s.int("axis", 0), b.rank(x))?;
    let n = b.shape(x)[axis];
    let sizes = match s.given(1) {
        Some(id) => lengths(&b.ints("split", id)?)?,
        None if s.has("split") => s.sizes("split", &[])?,
        None => {
            // All as long; the last takes what is left.
            let parts = s.int("num_outputs", s.proto.output.len() as i64).clamp(1, 1 << 20) as usize;
            let each = n.div_ceil(parts);
            (0..parts).map(|p| each.min(n.saturating_sub(p * each))).collect()
        }
    };
    if sizes.len() < s.proto.output.len() || sizes.iter().try_fold(0usize, |n, s| n.checked_add(*s)) != Some(n) {
        return malformed(format!("{n} in parts of {sizes:?}"));
    }
    let mut start = 0;
    let mut parts = Vec::new();
    for size in sizes.into_iter().take(s.proto.output.len()) {
        parts.push(if size == n { x } else { b.slice(x, axis, start, size)? });
        start += size;
    }
    Ok(parts)
}

fn slice(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let x = s.x(0)?;
    let shape = b.shape(x);
    let mut lists: [Option<Vec<i64>>; 4] = Default::default();
    for (i, name) in ["starts", "ends", "axes", "steps"].into_iter().enumerate() {
        lists[i] = match s.given(i + 1) {
            Some(id) => Some(b.ints(name, id)?),
            None if s.opset < 10 => s.ints(name).map(<[i64]>::to_vec),
            None => None,
        };
    }
    let [starts, ends, on, steps] = lists;
    let (Some(starts), Some(ends)) = (starts, ends) else { return malformed("starts and ends are missing") };
    let on = on.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), on.len(), steps.len()] != [starts.len(); 3] {
        return malformed("starts, ends, axes and steps of different lengths");
    }
    let mut to = shape.clone();
    let (mut first, mut by) = (vec![0; shape.len()], vec![1; shape.len()]);
    for (i, d) in axes(&on, shape.len())?.into_iter().enumerate() {
        let (n, step) = (shape[d] as i64, steps[i]);
        if step == 0 {
            return malformed("a step of 0");
        }
        let from_end = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
        let (start, end) = match step > 0 {
            true => (from_end(starts[i]).clamp(0, n), from_end(ends[i]).clamp(0, n)),
            false => (from_end(starts[i]).clamp(-1, n - 1), from_end(ends[i]).clamp(-1, n - 1)),
        };
        let span = if step > 0 { end - start } else { start - end };
        let count = span.max(0).unsigned_abs().div_ceil(step.unsigned_abs());
        to[d] = count as usize;
        (first[d], by[d]) = if count == 0 { (0, 1) } else { (start as usize, if count == 1 { 1 } else { step }) };
    }
    if to == shape && by.iter().all(|s| *s == 1) {
        return Ok(vec![x]);
    }
    Ok(vec![b.shaped(Op::Slice { starts: first, steps: by }, &[x], &to)?])
}

fn gather(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let axis = axis(s.int("axis", 0), b.rank(s.x(0)?))?;
    Ok(vec![b.op(Op::Gather { axis }, &[s.x(0)?, s.x(1)?])?])
}

/// Elements of x at places counted from its first: what the other gathers are, by constant indices.
fn at_places(b: &mut Builder, x: ValueId, places: Vec<i64>, inner: &[usize], shape: &[usize]) -> Done<ValueId> {
    let each: usize = inner.iter().product();
    let rows = b.at(x).count().checked_div(each).unwrap_or(0);
    let flat = b.reshape(x, &[rows, each])?;
    let indices = b.indices(&[places.len()], places)?;
    let y = b.op(Op::Gather { axis: 0 }, &[flat, indices])?;
    b.reshape(y, shape)
}

fn gather_elements(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let (x, indices) = (s.x(0)?, b.ints("indices", s.x(1)?)?);
    let (from, to) = (b.shape(x), b.shape(s.x(1)?));
    let along = axis(s.int("axis", 0), from.len())?;
    if from.len() != to.len() || (0..from.len()).any(|d| d != along && to[d] > from[d]) {
        return malformed(format!("indices of shape {to:?} for {from:?}"));
    }
    let mut places = Vec::with_capacity(indices.len());
    for (i, chosen) in indices.into_iter().enumerate() {
        // Where element i of the indices lies, dimension by dimension from the last.
        let (mut rest, mut place, mut step) = (i, 0, 1);
        for d in (0..to.len()).rev() {
            place += step * if d == along { axis(chosen, from[d])? } else { rest % to[d] };
            (rest, step) = (rest / to[d], step * from[d]);
        }
        places.push(place as i64);
    }
    Ok(vec![at_places(b, x, places, &[], &to)?])
}

fn gather_nd(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let (x, indices) = (s.x(0)?, b.ints("indices", s.x(1)?)?);
    let (from, of) = (b.shape(x), b.shape(s.x(1)?));
    let batch = usize::try_from(s.int("batch_dims", 0)).unwrap_or(usize::MAX);
    let [outer @ .., k] = &of[..] else { return malformed("indices of no dimension") };
    let depth = batch.checked_add(*k).filter(|d| *d <= from.len() && batch <= outer.len() && *k > 0);
    let Some(depth) = depth.filter(|_| from.get(..batch) == outer.get(..batch)) else {
        return malformed(format!("indices of shape {of:?} for {from:?}"));
    };
    let each: usize = outer[batch..].iter().product();
    let mut places = Vec::new();
    for (i, tuple) in indices.chunks_exact(*k).enumerate() {
        let mut place = i / each.max(1);
        for (chosen, n) in tuple.iter().zip(&from[batch..depth]) {
            place = place * n + axis(*chosen, *n)?;
        }
        places.push(place as i64);
    }
    let shape = [outer, &from[depth..]].concat();
    Ok(vec![at_places(b, x, places, &from[depth..], &shape)?])
}

fn expand(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let (x, wanted) = (s.x(0)?, lengths(&b.ints("shape", s.x(1)?)?)?);
    let from = b.shape(x);
    let to = shape::broadcast(&from, &wanted).ok_or_else(|| format!("{from:?} broadcast to {wanted:?}"))?;
    Ok(vec![if to == from { x } else { b.shaped(Op::Expand, &[x], &to)? }])
}

fn tile(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let (x, times) = (s.x(0)?, lengths(&b.ints("repeats", s.x(1)?)?)?);
    let from = b.shape(x);
    if times.len() != from.len() {
        return malformed(format!("{times:?} repeats of {from:?}"));
    }
    let to: Shape = from.iter().zip(&times).map(|(n, t)| n.saturating_mul(*t)).collect();
    Ok(vec![if to == from { x } else { b.shaped(Op::Expand, &[x], &to)? }])
}

fn pad(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let x = s.x(0)?;
    let from = b.shape(x);
    let pads = match s.given(1) {
        Some(id) => b.ints("pads", id)?,
        None => s.ints("pads").unwrap_or(&[]).to_vec(),
    };
    let on = match s.given(3) {
        Some(id) => axes(&b.ints("axes", id)?, from.len())?,
        None => (0..from.len()).collect(),
    };
    if pads.len() != 2 * on.len() || pads.iter().any(|p| p.unsigned_abs() >= 1 << 31) {
        return malformed(format!("pads {pads:?} for {} dimensions", on.len()));
    }
    let fill = match s.given(2) {
        Some(id) => b.single("constant_value", id)?,
        None => s.float("value", 0.0),
    };
    // The number given is one of the integers.
    let fill = match b.at(x).quant.as_ref().map(|q| q.single()) {
        None => fill,
        Some(Some((scale, zero))) => (fill - zero as f32) * scale,
        Some(None) => return unsupported("scales by channel of an activation"),
    };
    let mode = match &s.text("mode", "constant")[..] {
        "constant" => PadMode::Constant(fill),
        "reflect" => PadMode::Reflect,
        "edge" => PadMode::Edge,
        "wrap" => PadMode::Wrap,
        other => return malformed(format!("mode = {other:?}")),
    };
    let (mut before, mut to, mut kept) = (vec![0; from.len()], from.clone(), from.clone());
    let mut starts = vec![0; from.len()];
    for (i, d) in on.iter().copied().enumerate() {
        let [first, last] = [pads[i], pads[i + on.len()]];
        // Negative padding cuts off.
        let cut = |p: i64| if p < 0 { p.unsigned_abs() as usize } else { 0 };
        starts[d] = cut(first);
        kept[d] = from[d].checked_sub(cut(first) + cut(last)).ok_or_else(|| format!("pads {pads:?} for {from:?}"))?;
        before[d] = first.max(0) as usize;
        to[d] = kept[d] + before[d] + last.max(0) as usize;
    }
    let mut y = x;
    if kept != from {
        let steps = vec![1; from.len()];
        y = b.shaped(Op::Slice { starts, steps }, &[y], &kept)?;
    }
    if to != kept {
        y = b.shaped(Op::Pad { before, mode }, &[y], &to)?;
    }
    Ok(vec![y])
}

fn block(s: &Step) -> Done<usize> {
    usize::try_from(s.int("blocksize", 0))
        .ok()
        .filter(|n| (1..1 << 16).contains(n))
        .ok_or_else(|| super::super::builder::Stop::Malformed(format!("blocksize = {}", s.int("blocksize", 0))))
}

fn depth_to_space(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let (x, k) = (s.x(0)?, block(s)?);
    let shape = b.shape(x);
    let &[n, c, h, w] = &shape[..] else { return malformed(format!("an image of shape {shape:?}")) };
    if c % (k * k) != 0 {
        return malformed(format!("{c} channels in blocks of {k} by {k}"));
    }
    let c = c / (k * k);
    let (apart, perm) = match &s.text("mode", "DCR")[..] {
        "DCR" => ([n, k, k, c, h, w], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([n, c, k, k, h, w], [0, 1, 4, 2, 5, 3]),
        other => return malformed(format!("mode = {other:?}")),
    };
    let y = b.reshape(x, &apart)?;
    let y = b.transpose(y, &perm)?;
    Ok(vec![b.reshape(y, &[n, c, h * k, w * k])?])
}

fn space_to_depth(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let (x, k) = (s.x(0)?, block(s)?);
    let shape = b.shape(x);
    let &[n, c, h, w] = &shape[..] else { return malformed(format!("an image of shape {shape:?}")) };
    if h % k != 0 || w % k != 0 {
        return malformed(format!("{shape:?} in blocks of {k} by {k}"));
    }
    let y = b.reshape(x, &[n, c, h / k, k, w / k, k])?;
    let y = b.transpose(y, &[0, 3, 5, 1, 2, 4])?;
    Ok(vec![b.reshape(y, &[n, c * k * k, h / k, w / k])?])
}

fn eye_like(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let shape = b.shape(s.x(0)?);
    let &[rows, cols] = &shape[..] else { return malformed(format!("a matrix of shape {shape:?}")) };
    let dtype = match s.int("dtype", 0) {
        0 => b.at(s.x(0)?).dtype,
        n => super::super::proto::dtype(i32::try_from(n).unwrap_or(0))?,
    };
    let k = s.int("k", 0);
    let one = |i: usize| ((i / cols) as i64).checked_add(k) == Some((i % cols) as i64);
    let all: Vec<i64> = (0..rows * cols).map(|i| i64::from(one(i))).collect();
    let eye = b.indices(&shape, all)?;
    Ok(vec![b.cast(eye, dtype)?])
}

/// The upper or the lower triangle, by a mask.
fn trilu(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let x = s.x(0)?;
    let shape = b.shape(x);
    let [.., rows, cols] = shape[..] else { return malformed(format!("matrices of shape {shape:?}")) };
    let k = match s.given(1) {
        Some(id) => b.ints("k", id)?.first().copied().unwrap_or(0),
        None => 0,
    };
    let upper = s.int("upper", 1) != 0;
    let keep = |r: usize, c: usize| {
        let distance = c as i64 - r as i64;
        if upper { distance >= k } else { distance <= k }
    };
    let mask = (0..rows).flat_map(|r| (0..cols).map(move |c| i64::from(keep(r, c)))).collect();
    let mask = b.constant(Tensor::ints(&[rows, cols], mask), DType::Bool)?;
    let zero = b.number(0.0, x)?;
    Ok(vec![b.op(Op::Select, &[mask, x, zero])?])
}

fn one_hot(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let (indices, values) = (s.x(0)?, s.x(2)?);
    let depth = b.single("depth", s.x(1)?)?;
    if !(0.0..1e6).contains(&depth) || b.shape(values) != [2] {
        return malformed(format!("a depth of {depth}, values of shape {:?}", b.shape(values)));
    }
    let rank = b.rank(indices) + 1;
    let axis = axis(s.int("axis", -1), rank)?;
    let mut shape = b.shape(indices);
    shape.insert(axis, 1);
    let mut index = b.cast(indices, DType::I64)?;
    index = b.reshape(index, &shape)?;
    // Negative indices count from the end; those outside are found nowhere.
    let (length, zero) = (b.indices(&[], vec![depth as i64])?, b.indices(&[], vec![0])?);
    let negative = b.binary(Binary::Less, index, zero)?;
    let moved = b.binary(Binary::Add, index, length)?;
    index = b.op(Op::Select, &[negative, moved, index])?;
    let along: Shape = (0..rank).map(|d| if d == axis { depth as usize } else { 1 }).collect();
    let places = b.indices(&along, (0..depth as i64).collect())?;
    let hit = b.binary(Binary::Equal, index, places)?;
    let part = |b: &mut Builder, i: usize| {
        let one = b.slice(values, 0, i, 1)?;
        b.reshape(one, &[])
    };
    let (off, on) = (part(b, 0)?, part(b, 1)?);
    Ok(vec![b.op(Op::Select, &[hit, on, off])?])
}
