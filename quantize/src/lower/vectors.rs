//! Word vectors: terms (indices and weights) in, the dot products of their sum with every vector out.

use super::{Builder, Constant, Net};
use crate::codes::CodedMatrix;
use mote_runtime::image::plan::{Kind, Rows};
use mote_runtime::image::{Dtype, Port, program::entry};
use mote_runtime::ops;

/// Terms that a query may have.
pub const TERMS: usize = 8;
/// Fraction bits of the sum of unit vectors, each times an int8 weight: below 2^10.
const SUM_FRAC: i16 = 20;
/// Fraction bits of the dot products.
const DOT_FRAC: i16 = 20;

/// The program over a matrix of unit vectors.
#[must_use]
pub fn vectors(matrix: CodedMatrix) -> Net {
    let (words, dims) = (matrix.rows, matrix.cols);
    let mut b = Builder::default();
    let table = b.tensor(Constant::coded("vectors", matrix));
    b.entry(entry::RUN);
    let indices = b.slot(Kind::I32, Rows::One, TERMS, 0);
    let weights = b.slot(Kind::I8, Rows::One, TERMS, 0);
    let sum = b.slot(Kind::I32, Rows::One, dims, SUM_FRAC);
    let codes = b.slot(Kind::Q8, Rows::One, dims, 0);
    let dots = b.slot(Kind::I32, Rows::One, words, DOT_FRAC);
    b.op(ops::embedding_bag::OP.code, 0, &[indices, weights, sum, table], &[indices, weights], &[sum]);
    b.op(ops::quantize::OP.code, 0, &[sum, codes, 0], &[sum], &[codes]);
    b.op(ops::matmul::OP.code, 0, &[codes, table, mote_runtime::image::program::NONE, dots], &[codes], &[dots]);
    b.ports(vec![indices, weights], vec![dots]);
    let port = |slot, dtype, count: usize, exponent| Port {
        slot,
        dtype,
        rank: 1,
        zero_point: 0,
        mantissa: 1,
        exponent,
        dims: [count as u32, 1, 1, 1],
    };
    let inputs = vec![port(indices, Dtype::I32, TERMS, 0), port(weights, Dtype::I8, TERMS, 0)];
    let outputs = vec![port(dots, Dtype::I32, words, DOT_FRAC.into())];
    Net { lowered: b.finish(1, 0, 0), inputs, outputs }
}
