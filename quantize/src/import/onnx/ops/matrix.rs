//! Matrix products.

use super::super::builder::{Builder, Done, Step, axis, malformed, unsupported};
use super::Table;
use crate::graph::shape::Shape;
use crate::graph::{Binary, DType, Op, Reduction, Tensor, ValueId};

pub(super) const OPERATORS: Table = &[("CumSum", cumulative), ("Einsum", einsum), ("Gemm", gemm), ("MatMul", matmul)];

/// y = alpha A' B' + beta C.
fn gemm(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let (mut x, mut w) = (s.x(0)?, s.x(1)?);
    if b.rank(x) != 2 || b.rank(w) != 2 {
        return malformed(format!("matrices of shapes {:?} and {:?}", b.at(x).shape, b.at(w).shape));
    }
    if s.int("transA", 0) != 0 {
        x = b.transpose(x, &[1, 0])?;
    }
    if s.int("transB", 0) == 0 {
        w = b.transpose(w, &[1, 0])?;
    }
    if s.float("alpha", 1.0) != 1.0 {
        let alpha = b.scalar(s.float("alpha", 1.0))?;
        w = b.binary(Binary::Mul, w, alpha)?;
    }
    let mut bias = s.given(2);
    if let (Some(c), true) = (bias, s.float("beta", 1.0) != 1.0) {
        let beta = b.scalar(s.float("beta", 1.0))?;
        bias = Some(b.binary(Binary::Mul, c, beta)?);
    }
    let n = b.at(w).shape[0];
    let shape = [b.at(x).shape[0], n];
    // A number a column is a bias; else it is added.
    let (bias, sum) = match bias.map(|c| (c, b.shape(c))) {
        None => (None, None),
        Some((c, of)) if of == [n] || of == [1, n] => (Some(b.reshape(c, &[n])?), None),
        Some((c, _)) => (None, Some(c)),
    };
    let inputs: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
    let y = b.shaped(Op::FullyConnected, &inputs, &shape)?;
    match sum {
        None => Ok(vec![y]),
        Some(c) => Ok(vec![b.binary(Binary::Add, y, c)?]),
    }
}

/// The product as NumPy's; by a constant matrix it is a fully connected layer.
fn matmul(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    Ok(vec![product(b, s.x(0)?, s.x(1)?)?])
}

pub(super) fn product(b: &mut Builder, mut x: ValueId, mut y: ValueId) -> Done<ValueId> {
    let (from, of) = (b.shape(x), b.shape(y));
    if from.is_empty() || of.is_empty() {
        return malformed("a product of single numbers");
    }
    // A vector is a row on the left, a column on the right; the dimension is taken away again.
    if from.len() == 1 {
        x = b.reshape(x, &[1, from[0]])?;
    }
    if of.len() == 1 {
        y = b.reshape(y, &[of[0], 1])?;
    }
    let rank = b.rank(x);
    let columns = b.at(y).shape[b.rank(y) - 1];
    let real = b.at(y).dtype == DType::F32 || b.at(y).quant.is_some();
    let weights = real && b.rank(y) == 2 && b.is_weight(y) && !b.is_weight(x) && b.at(y).shape[0] > 0;
    let z = if weights {
        if b.at(x).shape[rank - 1] != b.at(y).shape[0] {
            return malformed(format!("the product of {from:?} and {of:?}"));
        }
        let w = b.transpose(y, &[1, 0])?;
        let shape = [&b.shape(x)[..rank - 1], &[columns]].concat();
        b.shaped(Op::FullyConnected, &[x, w], &shape)?
    } else {
        b.op(Op::MatMul { transposed: false }, &[x, y])?
    };
    let mut shape = b.shape(z);
    if of.len() == 1 {
        shape.pop();
    }
    if from.len() == 1 {
        shape.remove(shape.len() - if of.len() == 1 { 1 } else { 2 });
    }
    b.reshape(z, &shape)
}

/// Sums of all elements before, and of the element itself: a product with a triangular matrix.
fn cumulative(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let x = s.x(0)?;
    let rank = b.rank(x);
    let along = axis(b.ints("axis", s.x(1)?)?.first().copied().unwrap_or(0), rank)?;
    let (exclusive, reverse) = (s.int("exclusive", 0) != 0, s.int("reverse", 0) != 0);
    // The dimension goes last, and back.
    let perm: Vec<usize> = (0..rank)
        .map(|d| {
            if d == along {
                rank - 1
            } else if d == rank - 1 {
                along
            } else {
                d
            }
        })
        .collect();
    let n = b.shape(x)[along];
    if n > 1 << 12 {
        return unsupported(format!("over {n} elements (Mote takes up to 4096)"));
    }
    let counts = |from: usize, to: usize| match (exclusive, reverse) {
        (false, false) => from <= to,
        (true, false) => from < to,
        (false, true) => from >= to,
        (true, true) => from > to,
    };
    let ones = (0..n * n).map(|i| i64::from(counts(i / n, i % n))).collect();
    let ones = b.constant(Tensor::ints(&[n, n], ones), DType::I64)?;
    let dtype = b.at(x).dtype;
    let (rows, ones) = (b.transpose(x, &perm)?, b.cast(ones, dtype)?);
    let y = if rank == 1 { b.reshape(rows, &[1, n])? } else { rows };
    let y = product(b, y, ones)?;
    let y = if rank == 1 { b.reshape(y, &[n])? } else { y };
    Ok(vec![b.transpose(y, &perm)?])
}

/// Letters of one operand; those of an ellipsis are dimensions without a letter, counted from the last.
fn letters(term: &str, rank: Option<usize>) -> Done<Vec<u32>> {
    let plain = term.replace("...", "");
    if !plain.chars().all(|c| c.is_ascii_alphabetic()) || term.matches("...").count() > 1 {
        return malformed(format!("{term:?}"));
    }
    let hidden = match rank {
        Some(rank) => rank.checked_sub(plain.len()).ok_or_else(|| format!("{term:?} of {rank} dimensions"))?,
        None => 0,
    };
    let mut all = Vec::new();
    let (before, after) = term.split_once("...").unwrap_or((term, ""));
    all.extend(before.chars().map(u32::from));
    if term.contains("...") {
        all.extend((0..hidden as u32).rev());
    } else if hidden > 0 {
        return malformed(format!("{term:?} for more dimensions"));
    }
    all.extend(after.chars().map(u32::from));
    Ok(all)
}

/// Sums of products by letters: dimensions of one operand alone that the result lacks are summed, then a matrix product over
/// those of both that it lacks.
fn einsum(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let equation = s.text("equation", "").replace(' ', "");
    let (from, to) = equation.split_once("->").map_or((&equation[..], None), |(from, to)| (from, Some(to)));
    let terms: Vec<&str> = from.split(',').collect();
    if terms.len() != s.inputs.len() || terms.len() > 2 {
        return unsupported(format!("{} operands (Mote takes one or two)", terms.len()));
    }
    let mut operands = Vec::new();
    for (i, term) in terms.iter().enumerate() {
        let of = letters(term, Some(b.rank(s.x(i)?)))?;
        if (1..of.len()).any(|d| of[..d].contains(&of[d])) {
            return unsupported("a letter twice in one operand");
        }
        operands.push((s.x(i)?, of));
    }
    let hidden: Vec<u32> = {
        let mut all: Vec<u32> = operands.iter().flat_map(|o| o.1.iter().copied()).filter(|l| *l < 32).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all.dedup();
        all
    };
    let wanted = match to {
        Some(to) => letters(to, Some(to.replace("...", "").len() + if to.contains("...") { hidden.len() } else { 0 }))?,
        None => {
            // Without an arrow: letters that are there once, by the alphabet.
            let all: Vec<u32> = operands.iter().flat_map(|o| o.1.iter().copied()).filter(|l| *l >= 32).collect();
            let mut once: Vec<u32> =
                all.iter().copied().filter(|l| all.iter().filter(|m| *m == l).count() == 1).collect();
            once.sort_unstable();
            [hidden, once].concat()
        }
    };
    let found = |l: &u32| operands.iter().any(|o| o.1.contains(l));
    if !wanted.iter().all(found) || (1..wanted.len()).any(|d| wanted[..d].contains(&wanted[d])) {
        return malformed(format!("equation {equation:?}"));
    }
    // Each operand alone: what nobody else names is summed.
    for i in 0..operands.len() {
        let (x, of) = operands[i].clone();
        let other = |l: &u32| operands.iter().enumerate().any(|(j, o)| j != i && o.1.contains(l));
        let gone: Vec<usize> = (0..of.len()).filter(|d| !wanted.contains(&of[*d]) && !other(&of[*d])).collect();
        if !gone.is_empty() {
            let left: Vec<usize> = (0..of.len()).filter(|d| !gone.contains(d)).collect();
            let shape: Shape = left.iter().map(|d| b.at(x).shape[*d]).collect();
            let y = b.shaped(Op::Reduce { kind: Reduction::Sum, axes: gone }, &[x], &shape)?;
            operands[i] = (y, left.iter().map(|d| of[*d]).collect());
        }
    }
    let (y, of) = match &operands[..] {
        [(x, of)] => (*x, of.clone()),
        [(x, left), (y, right)] => contract(b, (*x, left), (*y, right), &wanted)?,
        _ => return malformed("no operands"),
    };
    let perm = wanted.iter().map(|l| of.iter().position(|o| o == l)).collect::<Option<Vec<usize>>>();
    Ok(vec![b.transpose(y, &perm.ok_or_else(|| format!("equation {equation:?}"))?)?])
}

/// [both, left alone, summed] times [both, summed, right alone], and the letters of the result.
fn contract(
    b: &mut Builder,
    (x, left): (ValueId, &[u32]),
    (y, right): (ValueId, &[u32]),
    wanted: &[u32],
) -> Done<(ValueId, Vec<u32>)> {
    let both: Vec<u32> = left.iter().copied().filter(|l| right.contains(l) && wanted.contains(l)).collect();
    let summed: Vec<u32> = left.iter().copied().filter(|l| right.contains(l) && !wanted.contains(l)).collect();
    let alone = |of: &[u32], other: &[u32]| of.iter().copied().filter(|l| !other.contains(l)).collect::<Vec<u32>>();
    let (rows, columns) = (alone(left, right), alone(right, left));
    let length =
        |b: &Builder, x: ValueId, of: &[u32], l: &u32| of.iter().position(|o| o == l).map(|d| b.at(x).shape[d]);
    let lengths = |b: &Builder, x: ValueId, of: &[u32], all: &[u32]| -> Done<Shape> {
        Ok(all.iter().map(|l| length(b, x, of, l)).collect::<Option<Shape>>().ok_or("a letter".to_owned())?)
    };
    let shared = [&both[..], &summed[..]].concat();
    if lengths(b, x, left, &shared)? != lengths(b, y, right, &shared)? {
        return unsupported("a letter for two lengths");
    }
    let ordered = |b: &mut Builder, x: ValueId, of: &[u32], groups: [&[u32]; 3]| -> Done<ValueId> {
        let order = groups.concat();
        let perm: Option<Vec<usize>> = order.iter().map(|l| of.iter().position(|o| o == l)).collect();
        let moved = b.transpose(x, &perm.ok_or("a letter".to_owned())?)?;
        let shape = groups.map(|g| lengths(b, x, of, g).map(|s| s.iter().product::<usize>()));
        let [p, q, r] = shape;
        b.reshape(moved, &[p?, q?, r?])
    };
    let (sizes, of_rows, of_columns) =
        (lengths(b, x, left, &both)?, lengths(b, x, left, &rows)?, lengths(b, y, right, &columns)?);
    let x = ordered(b, x, left, [&both, &rows, &summed])?;
    let y = ordered(b, y, right, [&both, &summed, &columns])?;
    let z = b.op(Op::MatMul { transposed: false }, &[x, y])?;
    let z = b.reshape(z, &[sizes, of_rows, of_columns].concat())?;
    Ok((z, [both, rows, columns].concat()))
}
