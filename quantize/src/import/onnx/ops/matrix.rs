//! Matrix products.

use super::super::builder::{Builder, Done, Step, malformed};
use super::Table;
use crate::graph::{Binary, Op, ValueId};

pub(super) const OPERATORS: Table = &[("Gemm", gemm), ("MatMul", matmul)];

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
    let weights = b.rank(y) == 2 && b.is_weight(y) && !b.is_weight(x) && b.at(y).shape[0] > 0;
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
