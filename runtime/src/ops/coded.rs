//! What ops over int8 rows and coded weights share: sums that need no scale, and where those of a block begin.
//!
//! The weights of these ops are coded in steps of the result a step of the input, so `level * scale * mult * 2^-exponent`
//! is all there is to multiply by; zero points of the input lie in the bias. NUMERICS.md, "Coded rows".
//!
//! The kernels take int8. A row of int16 is two rows for them, its low and its high bytes, and reads the weights twice.

use super::{Run, arg, ensure, i8_cols};
use crate::image::plan::{Kind, Slot};
use crate::image::tensors::{BLOCK, GROUP};
use crate::image::{Coded, Dtype, Image, Op};
use crate::kernels::{BlocksFn, Codes};
use crate::view;

/// Columns of a matrix, at most; half as many for int16.
const MOST_COLUMNS: usize = 1 << 16;

/// An input, and how its elements become rows for the kernels.
pub(crate) enum Input<'a> {
    I8(&'a [i8]),
    I16(&'a [i16]),
}

/// Rows of int8 that an element of the slot is one of: 1, or 2 of int16. `None` for other slots.
pub(crate) fn planes(slot: &Slot) -> Option<usize> {
    match slot.kind {
        Kind::I8 => Some(1),
        Kind::I16 => Some(2),
        _ => None,
    }
}

impl<'a> Input<'a> {
    /// The elements of a slot of I8 or I16.
    pub(crate) fn new(slot: &Slot, bytes: &'a mut [u8]) -> Option<Self> {
        match slot.kind {
            Kind::I8 => Some(Self::I8(i8_cols(slot, bytes)?)),
            Kind::I16 => Some(Self::I16(view::as_elements(bytes)?.get(..slot.cols as usize)?)),
            _ => None,
        }
    }

    /// Puts `len` elements from `from` on at column `to` of a row with `padded` columns: all low bytes, then all high ones.
    pub(crate) fn put(&self, from: usize, len: usize, row: &mut [i8], (to, padded): (usize, usize)) -> Option<()> {
        let (low, high) = row.split_at_mut_checked(padded)?;
        let low = low.get_mut(to..)?.get_mut(..len)?;
        match self {
            Self::I8(x) => low.iter_mut().zip(x.get(from..)?.get(..len)?).for_each(|(to, x)| *to = *x),
            Self::I16(x) => {
                let places = low.iter_mut().zip(high.get_mut(to..)?);
                for (x, (low, high)) in x.get(from..)?.get(..len)?.iter().zip(places) {
                    let x = i32::from(*x).min(127 * 256 + 127);
                    (*low, *high) = (x as i8, ((x + 128) >> 8) as i8);
                }
            }
        }
        Some(())
    }
}

/// Multipliers and biases of a block.
pub(crate) type Numbers = ([u16; BLOCK], [i64; BLOCK]);

/// A coded matrix and its bias, of the same rows.
pub(crate) struct Linear<'a> {
    pub weights: Coded<'a>,
    bias: &'a [[u8; 4]],
    /// Bits that bring the bias to the weights' exponent, 0 to 31.
    lift: u32,
}

impl<'a> Linear<'a> {
    /// The matrix (coded `[rows, cols]`) that argument `weights` names and the bias (I32 `[rows]`, with an exponent) that
    /// argument `bias` names, for rows of so many planes. `None` unless no sum of theirs can overflow.
    pub(crate) fn new(image: &Image<'a>, op: &Op, (weights, bias): (usize, usize), planes: usize) -> Option<Self> {
        let (weights, bias) = (image.coded(arg(op, weights)?)?, arg(op, bias)?);
        let desc = image.tensor(bias).ok()?;
        let rows = u32::try_from(weights.rows).ok()?;
        ensure(desc.dims == [rows, 1, 1, 1] && weights.cols <= MOST_COLUMNS / planes)?;
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
    pub(crate) fn kernel(&self, r: &Run<'_>) -> BlocksFn {
        r.kernels.blocks(&self.weights)
    }

    /// `sum of weight * x + bias` of the rows of block `block`, exact, with the weights' exponent as fraction bits. `x`
    /// has the padded columns, or twice as many: low bytes, then high ones. Rows beyond the last are anything.
    pub(crate) fn sums(&self, kernel: BlocksFn, block: usize, x: &[i8]) -> [i64; BLOCK] {
        self.finish(block, self.products(kernel, block, x))
    }

    /// The same before multipliers and bias: what the kernel gives.
    pub(crate) fn products(&self, kernel: BlocksFn, block: usize, x: &[i8]) -> [i64; BLOCK] {
        let mut sums = [0i64; BLOCK];
        let (low, high) = x.split_at_checked(self.padded()).unwrap_or((x, &[]));
        kernel(&self.weights, block..block + 1, &Codes::one(low), &mut |_, _, low| {
            low.iter().for_each(|low| sums = *low);
        });
        if !high.is_empty() {
            kernel(&self.weights, block..block + 1, &Codes::one(high), &mut |_, _, upper| {
                sums.iter_mut().zip(upper.as_flattened()).for_each(|(sum, upper)| *sum += upper << 8);
            });
        }
        sums
    }

    /// Sums of block `block` times their multipliers, and the bias.
    pub(crate) fn finish(&self, block: usize, mut sums: [i64; BLOCK]) -> [i64; BLOCK] {
        let mut numbers = Numbers::default();
        self.put_numbers(block, &mut numbers);
        let (mults, biases) = numbers;
        for ((sum, mult), bias) in sums.iter_mut().zip(mults).zip(biases) {
            // |acc| < 2^38, of int16 2^46, and mult < 2^16; |bias| <= 2^31, lifted by 31 bits at most: the sum is below 2^63.
            *sum = *sum * i64::from(mult) + bias;
        }
        sums
    }

    /// Puts the multipliers of block `block`, and its biases with the weights' exponent as fraction bits, where zeros are; none are put
    /// beyond the last row. Not a result: a small core would copy it.
    pub(crate) fn put_numbers(&self, block: usize, (mults, biases): &mut Numbers) {
        *mults = self.weights.block_mults(block);
        let unit = 1u32 << (self.lift & 31);
        for (to, bias) in biases.iter_mut().zip(self.bias.get(block * BLOCK..).unwrap_or_default()) {
            *to = i64::from(i32::from_le_bytes(*bias)) * i64::from(unit);
        }
    }
}
