//! Ops that move elements: which element of the operand each element of the result is.

use super::{Args, Data, Outcome, Tensor};
use crate::graph::PadMode;

/// Elements from one index to the next, along each dimension.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d] * shape[d];
    }
    strides
}

/// All sums of one entry of each table, the last table's entries fastest: places of elements, dimension by dimension.
pub(super) fn places(tables: &[Vec<usize>]) -> Vec<usize> {
    tables.iter().fold(vec![0], |all, table| all.iter().flat_map(|a| table.iter().map(move |t| a + t)).collect())
}

/// Places in an array of `shape` that is read as if it were broadcast to `to`.
pub(crate) fn broadcast_places(shape: &[usize], to: &[usize]) -> Vec<usize> {
    let extra = to.len() - shape.len();
    let strides = strides(shape);
    let table = |d: usize| match d.checked_sub(extra) {
        None => vec![0; to[d]],
        Some(from) => (0..to[d]).map(|i| i % shape[from] * strides[from]).collect(),
    };
    places(&(0..to.len()).map(table).collect::<Vec<_>>())
}

pub(super) fn take(data: &Data, places: &[usize]) -> Data {
    match data {
        Data::F32(v) => Data::F32(places.iter().map(|p| v[*p]).collect()),
        Data::Int(v) => Data::Int(places.iter().map(|p| v[*p]).collect()),
    }
}

fn moved(args: &Args, places: &[usize]) -> Outcome {
    Ok(vec![Tensor { shape: args.out().to_vec(), data: take(&args.x(0)?.data, places) }])
}

pub(super) fn reshape(args: &Args) -> Outcome {
    Ok(vec![Tensor { shape: args.out().to_vec(), data: args.x(0)?.data.clone() }])
}

pub(super) fn expand(args: &Args) -> Outcome {
    moved(args, &broadcast_places(args.shape(0), args.out()))
}

pub(super) fn transpose(args: &Args, perm: &[usize]) -> Outcome {
    let (from, to) = (strides(args.shape(0)), args.out());
    let table = |(p, n): (&usize, &usize)| (0..*n).map(|i| i * from[*p]).collect();
    moved(args, &places(&perm.iter().zip(to).map(table).collect::<Vec<_>>()))
}

pub(super) fn slice(args: &Args, starts: &[usize], steps: &[i64]) -> Outcome {
    let (from, to) = (strides(args.shape(0)), args.out());
    let at = |d: usize, i: usize| (starts[d] as i64 + i as i64 * steps[d]) as usize * from[d];
    moved(args, &places(&(0..to.len()).map(|d| (0..to[d]).map(|i| at(d, i)).collect()).collect::<Vec<_>>()))
}

pub(super) fn gather(args: &Args, axis: usize) -> Outcome {
    let shape = args.shape(0);
    let n = shape[axis];
    let inner: usize = shape[axis + 1..].iter().product();
    let outer: usize = shape[..axis].iter().product();
    let place = |i: &i64| {
        let from = if *i < 0 { *i + n as i64 } else { *i };
        usize::try_from(from).ok().filter(|f| *f < n).map(|f| f * inner).ok_or_else(|| format!("index {i} of {n}"))
    };
    let along = args.ints(1)?.iter().map(place).collect::<Result<Vec<_>, _>>()?;
    let rows = (0..outer).map(|o| o * n * inner).collect();
    moved(args, &places(&[rows, along, (0..inner).collect()]))
}

pub(super) fn concat(args: &Args, axis: usize) -> Outcome {
    let out = args.out();
    let outer: usize = out[..axis].iter().product();
    let rows: Vec<usize> = args.inputs.iter().flatten().map(|t| t.shape[axis..].iter().product()).collect();
    fn join<T: Copy>(parts: &[&[T]], rows: &[usize], outer: usize) -> Vec<T> {
        let row = |o: usize| parts.iter().zip(rows).flat_map(move |(p, n)| &p[o * n..(o + 1) * n]);
        (0..outer).flat_map(row).copied().collect()
    }
    let data = match &args.x(0)?.data {
        Data::F32(_) => {
            let parts = (0..rows.len()).map(|i| args.floats(i)).collect::<Result<Vec<_>, _>>()?;
            Data::F32(join(&parts, &rows, outer))
        }
        Data::Int(_) => {
            let parts = (0..rows.len()).map(|i| args.ints(i)).collect::<Result<Vec<_>, _>>()?;
            Data::Int(join(&parts, &rows, outer))
        }
    };
    Ok(vec![Tensor { shape: out.to_vec(), data }])
}

/// Puts elements in their places.
fn scatter<T: Copy>(mut all: Vec<T>, places: &[usize], from: &[T]) -> Vec<T> {
    places.iter().zip(from).for_each(|(p, x)| all[*p] = *x);
    all
}

pub(super) fn insert(args: &Args, starts: &[usize]) -> Outcome {
    let (part, out) = (args.x(1)?, args.out());
    let to = strides(out);
    let table = |d: usize| (0..part.shape[d]).map(|i| (i + starts[d]) * to[d]).collect();
    let places = places(&(0..out.len()).map(table).collect::<Vec<_>>());
    let whole = args.given(0);
    let data = match &part.data {
        Data::F32(v) => {
            let whole =
                whole.map_or_else(|| Ok(vec![0.0; out.iter().product()]), |_| args.floats(0).map(<[_]>::to_vec));
            Data::F32(scatter(whole?, &places, v))
        }
        Data::Int(v) => {
            let whole = whole.map_or_else(|| Ok(vec![0; out.iter().product()]), |_| args.ints(0).map(<[_]>::to_vec));
            Data::Int(scatter(whole?, &places, v))
        }
    };
    Ok(vec![Tensor { shape: out.to_vec(), data }])
}

pub(super) fn pad(args: &Args, before: &[usize], mode: PadMode) -> Outcome {
    let (shape, out) = (args.shape(0), args.out());
    let from = strides(shape);
    if let PadMode::Constant(fill) = mode {
        let to = strides(out);
        let table = |d: usize| (0..shape[d]).map(|i| (i + before[d]) * to[d]).collect();
        let places = places(&(0..out.len()).map(table).collect::<Vec<_>>());
        let count = out.iter().product();
        let data = match &args.x(0)?.data {
            Data::F32(v) => Data::F32(scatter(vec![fill; count], &places, v)),
            Data::Int(v) => Data::Int(scatter(vec![fill as i64; count], &places, v)),
        };
        return Ok(vec![Tensor { shape: out.to_vec(), data }]);
    }
    let source = |d: usize, i: usize| {
        let (n, at) = (shape[d] as i64, i as i64 - before[d] as i64);
        // Mirrored sequences repeat after there and back.
        let back = |at: i64, period: i64, turn: i64| if at < n { at } else { period - turn - at };
        let at = match mode {
            PadMode::Constant(_) | PadMode::Edge => at.clamp(0, n - 1),
            PadMode::Reflect if n == 1 => 0,
            PadMode::Reflect => back(at.rem_euclid(2 * n - 2), 2 * n - 2, 0),
            PadMode::Symmetric => back(at.rem_euclid(2 * n), 2 * n, 1),
            PadMode::Wrap => at.rem_euclid(n),
        };
        at as usize * from[d]
    };
    moved(args, &places(&(0..out.len()).map(|d| (0..out[d]).map(|i| source(d, i)).collect()).collect::<Vec<_>>()))
}
