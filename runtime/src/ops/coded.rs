//! What ops over int8 rows and coded weights share: sums that need no scale, and where those of a block begin.
//!
//! The weights of these ops are coded in steps of the result a step of the input, so `level * scale * mult * 2^-exponent`
//! is all there is to multiply by; zero points of the input lie in the bias. NUMERICS.md, "Coded rows".

use super::{Run, arg, ensure};
use crate::image::tensors::{BLOCK, GROUP};
use crate::image::{Coded, Dtype, Image, Op};
use crate::kernels::BlockFn;

/// Columns of a matrix, at most.
const MOST_COLUMNS: usize = 1 << 16;

/// A coded matrix and its bias, of the same rows.
pub(crate) struct Linear<'a> {
    pub weights: Coded<'a>,
    bias: &'a [[u8; 4]],
    /// Bits that bring the bias to the weights' exponent, 0 to 31.
    lift: u32,
}

impl<'a> Linear<'a> {
    /// The matrix (N4 or N8 `[rows, cols]`) that argument `weights` names and the bias (I32 `[rows]`, with an exponent) that
    /// argument `bias` names. `None` unless no sum of theirs can overflow.
    pub(crate) fn new(image: &Image<'a>, op: &Op, weights: usize, bias: usize) -> Option<Self> {
        let (weights, bias) = (image.coded(arg(op, weights)?)?, arg(op, bias)?);
        let desc = image.tensor(bias).ok()?;
        let rows = u32::try_from(weights.rows).ok()?;
        ensure(desc.dims == [rows, 1, 1, 1] && weights.cols <= MOST_COLUMNS)?;
        let lift = u32::try_from(weights.exponent.checked_sub(desc.exponent)?).ok()?;
        let bias = image.raw(bias, Dtype::I32)?.as_chunks::<4>().0;
        (lift < 32).then_some(Self { weights, bias, lift })
    }

    /// Columns with padding, as rows of activations have them; zeros beyond the columns.
    pub(crate) fn padded(&self) -> usize {
        self.weights.groups * GROUP
    }

    /// Blocks of 16 rows.
    pub(crate) fn blocks(&self) -> usize {
        self.weights.rows.div_ceil(BLOCK)
    }

    /// The kernel for these weights.
    pub(crate) fn kernel(&self, r: &Run<'_>) -> BlockFn {
        if self.weights.bits == 4 { r.kernels.n4_block } else { r.kernels.n8_block }
    }

    /// `sum of weight * x + bias` of the rows of block `block`, exact, with the weights' exponent as fraction bits. `x`
    /// has the padded columns. Rows beyond the last are anything.
    pub(crate) fn sums(&self, kernel: BlockFn, block: usize, x: &[i8]) -> [i64; BLOCK] {
        let mut sums = [0i64; BLOCK];
        kernel(&self.weights, block, x, &mut sums);
        let first = block * BLOCK;
        let biases = self.bias.iter().skip(first).copied().chain(core::iter::repeat([0; 4]));
        for ((sum, bias), row) in sums.iter_mut().zip(biases).zip(first..) {
            // |acc| < 2^38 and mult < 2^16; |bias| <= 2^31, lifted by 31 bits at most: the sum is below 2^63.
            *sum = *sum * i64::from(self.weights.mult(row)) + (i64::from(i32::from_le_bytes(bias)) << self.lift);
        }
        sums
    }
}
