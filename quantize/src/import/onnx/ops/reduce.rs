//! Operators over all elements along some dimensions.

use super::super::builder::{Builder, Done, Step, axes, axis, malformed, unsupported};
use super::Table;
use crate::graph::shape::Shape;
use crate::graph::{Binary, DType, Op, Reduction, Unary, ValueId};

pub(super) const OPERATORS: Table = &[
    ("ArgMax", argmax),
    ("ArgMin", argmax),
    ("Hardmax", hardmax),
    ("LogSoftmax", softmax),
    ("LpNormalization", lp_normalization),
    ("ReduceL1", reduce),
    ("ReduceL2", reduce),
    ("ReduceLogSum", reduce),
    ("ReduceLogSumExp", reduce),
    ("ReduceMax", reduce),
    ("ReduceMean", reduce),
    ("ReduceMin", reduce),
    ("ReduceProd", reduce),
    ("ReduceSum", reduce),
    ("ReduceSumSquare", reduce),
    ("Softmax", softmax),
    ("TopK", topk),
];

/// A shape without some dimensions, or with 1 in their place.
fn without(shape: &[usize], axes: &[usize], keep: bool) -> Shape {
    let each = shape.iter().enumerate().map(|(d, n)| if axes.contains(&d) { keep.then_some(1) } else { Some(*n) });
    each.flatten().collect()
}

/// The reduction along these dimensions, 1 in their place.
pub(super) fn along(b: &mut Builder, kind: Reduction, x: ValueId, axes: &[usize]) -> Done<ValueId> {
    let shape = without(&b.shape(x), axes, true);
    b.shaped(Op::Reduce { kind, axes: axes.to_vec() }, &[x], &shape)
}

fn reduce(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let kind = match &s.kind["Reduce".len()..] {
        "L1" => Reduction::L1,
        "L2" => Reduction::L2,
        "LogSum" => Reduction::LogSum,
        "LogSumExp" => Reduction::LogSumExp,
        "Max" => Reduction::Max,
        "Mean" => Reduction::Mean,
        "Min" => Reduction::Min,
        "Prod" => Reduction::Prod,
        "Sum" => Reduction::Sum,
        _ => Reduction::SumSquare,
    };
    let x = s.x(0)?;
    // Axes became an input: of the sum in opset 13, of the others in 18.
    let given = match s.given(1) {
        Some(id) => b.ints("axes", id)?,
        None => s.ints("axes").unwrap_or(&[]).to_vec(),
    };
    let rank = b.rank(x);
    let all = match &given[..] {
        [] if s.int("noop_with_empty_axes", 0) != 0 => {
            use Reduction::{Max, Mean, Min, Prod, Sum};
            return match kind {
                Max | Mean | Min | Prod | Sum => Ok(vec![x]),
                _ => unsupported("noop_with_empty_axes"),
            };
        }
        [] => (0..rank).collect(),
        some => axes(some, rank)?,
    };
    if b.at(x).dtype != DType::F32 && matches!(kind, Reduction::L2 | Reduction::LogSum | Reduction::LogSumExp) {
        return unsupported("of integers");
    }
    let shape = without(&b.shape(x), &all, s.int("keepdims", 1) != 0);
    Ok(vec![b.shaped(Op::Reduce { kind, axes: all }, &[x], &shape)?])
}

/// Before opset 13 all dimensions from `axis` on were one.
fn coerced(b: &Builder, s: &Step, x: ValueId) -> Done<(Shape, usize)> {
    let shape = b.shape(x);
    if shape.is_empty() {
        return malformed("a single number");
    }
    let axis = axis(s.int("axis", if s.opset < 13 { 1 } else { -1 }), shape.len())?;
    if s.opset < 13 && axis + 1 < shape.len() {
        return Ok((vec![shape[..axis].iter().product(), shape[axis..].iter().product()], 1));
    }
    Ok((shape, axis))
}

fn softmax(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let x = s.x(0)?;
    let (from, (shape, axis)) = (b.shape(x), coerced(b, s, x)?);
    let x = b.reshape(x, &shape)?;
    let y = b.op(Op::Softmax { axis, beta: 1.0, log: s.kind == "LogSoftmax" }, &[x])?;
    Ok(vec![b.reshape(y, &from)?])
}

/// 1 at the first of the largest, 0 elsewhere.
fn hardmax(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let x = s.x(0)?;
    let (from, (shape, axis)) = (b.shape(x), coerced(b, s, x)?);
    let x = b.reshape(x, &shape)?;
    let best = b.shaped(Op::ArgMax { axis, least: false }, &[x], &without(&shape, &[axis], true))?;
    let along: Shape = shape.iter().enumerate().map(|(d, n)| if d == axis { *n } else { 1 }).collect();
    let index = b.indices(&along, (0..shape[axis] as i64).collect())?;
    let hit = b.binary(Binary::Equal, best, index)?;
    let y = b.cast(hit, DType::F32)?;
    Ok(vec![b.reshape(y, &from)?])
}

fn argmax(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let mut x = s.x(0)?;
    let shape = b.shape(x);
    let axis = axis(s.int("axis", 0), shape.len())?;
    let last = s.int("select_last_index", 0) != 0;
    if last {
        // The last of equals is the first seen from the other end.
        let mut starts = vec![0; shape.len()];
        let mut steps = vec![1; shape.len()];
        (starts[axis], steps[axis]) = (shape[axis].saturating_sub(1), -1);
        x = b.shaped(Op::Slice { starts, steps }, &[x], &shape)?;
    }
    let to = without(&shape, &[axis], s.int("keepdims", 1) != 0);
    let mut y = b.shaped(Op::ArgMax { axis, least: s.kind == "ArgMin" }, &[x], &to)?;
    if last {
        let end = b.indices(&[], vec![shape[axis] as i64 - 1])?;
        y = b.binary(Binary::Sub, end, y)?;
    }
    Ok(vec![y])
}

fn topk(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let x = s.x(0)?;
    let mut shape = b.shape(x);
    let axis = axis(s.int("axis", -1), shape.len())?;
    let k = match s.given(1) {
        Some(id) => b.ints("K", id)?.first().copied().unwrap_or(0),
        None => s.int("k", 0),
    };
    shape[axis] = usize::try_from(k).ok().filter(|k| *k <= shape[axis]).ok_or_else(|| format!("{k} of {shape:?}"))?;
    let (dtype, op) = (b.at(x).dtype, Op::TopK { axis, least: s.int("largest", 1) == 0 });
    b.emit(op, &[Some(x)], &[(shape.clone(), dtype, None), (shape, DType::I64, None)])
}

fn lp_normalization(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let x = s.x(0)?;
    let axis = axis(s.int("axis", -1), b.rank(x))?;
    let norm = match s.int("p", 2) {
        1 => along(b, Reduction::L1, x, &[axis])?,
        2 => along(b, Reduction::L2, x, &[axis])?,
        p => return unsupported(format!("p = {p} (Mote has 1 and 2)")),
    };
    // What is 0 everywhere stays so.
    let least = b.unary(Unary::Clip(f32::MIN_POSITIVE, f32::INFINITY), norm)?;
    Ok(vec![b.binary(Binary::Div, x, least)?])
}
