//! What recurrent ops share: a step's input and state as rows for two coded matrices, and the state as int8.
//!
//! Arguments of both: in slot (I8 or I16 `[steps, batch, in]`), out slot (I8 `[steps, batch, units]`, or `[batch, units]` for the
//! last step's alone), state slot, scratch slot (I8), input weights (coded `[gates * units, in]`) and bias (I32), recurrent
//! weights (coded `[gates * units, units]`) and bias (I32), hidden (below). Weights give gates in units of 1.
//!
//! ```text
//! hidden    1 / scale of the hidden state as int8: mantissa, 16 bits | exponent << 16 (int8) | zero point << 24 (int8)
//! ```
//!
//! The state is read and left in its slot: one that lives from run to run, an input and output of the program, or one that
//! `fill` sets to zero before. Flag 1: steps are taken from the last to the first.

use super::coded::{Input, Linear, planes};
use super::cost::Part;
#[cfg(feature = "steps")]
use super::cost::Units;
use super::tensor::{quantized_arg, tensor_arg};
use super::{Run, arg, ensure, i8_arg};
use crate::fixed::{Scale, saturate, shift_round};
use crate::image::tensors::BLOCK;
use crate::image::{Image, Op};
use crate::kernels::BlocksFn;

/// Flag: from the last step to the first.
pub const REVERSE: u16 = 1;

/// Fraction bits of what goes into sigmoid and tanh.
pub(crate) const GATE_FRAC: i32 = 16;

/// A recurrent layer's shapes and constants.
pub(crate) struct Layer<'a> {
    pub input: Linear<'a>,
    pub recurrent: Linear<'a>,
    pub units: usize,
    /// Bytes of a row of x: the padded columns, twice for int16.
    pub x_row: usize,
    batch: usize,
    steps: usize,
    /// Whether each step has an output, or the last alone.
    every: bool,
    /// One over the hidden state's scale.
    inverse: Scale,
    zero_point: i32,
}

/// The kernels of a layer's two matrices.
pub(crate) type Kernels = [BlocksFn; 2];

impl<'a> Layer<'a> {
    /// Reads and checks what `op` says of a layer with so many gates a unit. `extra` bytes a unit of the scratch are the op's.
    pub(crate) fn new(image: &Image<'a>, op: &Op, gates: usize, extra: usize) -> Option<Self> {
        let x = quantized_arg(image, op, 0)?;
        let planes = planes(&x)?;
        let (input, recurrent) = (Linear::new(image, op, (4, 5), planes)?, Linear::new(image, op, (6, 7), 1)?);
        let units = recurrent.weights.cols;
        let rows = gates.checked_mul(units)?;
        ensure(input.weights.rows == rows && recurrent.weights.rows == rows)?;
        let cols = |slot: crate::image::Slot| slot.cols as usize;
        let (out, state) = (cols(i8_arg(image, op, 1)?), tensor_arg(image, op, 2)?);
        let whole = |n: usize, of: usize| n.checked_div(of).filter(|times| *times != 0 && times * of == n);
        let batch = whole(cols(state), units)?;
        let steps = whole(cols(x), batch.checked_mul(input.weights.cols)?)?;
        let results = whole(out, cols(state))?;
        ensure(results == steps || results == 1)?;
        let x_row = input.padded() * planes;
        let scratch = units.checked_mul(extra)?.checked_add(x_row)?.checked_add(recurrent.padded())?;
        ensure(cols(i8_arg(image, op, 3)?) >= scratch)?;
        let [m0, m1, exp, zero_point] = arg(op, 8)?.to_le_bytes();
        let inverse = Scale { mant: u16::from_le_bytes([m0, m1]).into(), exp: i32::from(exp as i8) };
        let zero_point = i32::from(zero_point as i8);
        Some(Self { input, recurrent, units, x_row, batch, steps, every: results == steps, inverse, zero_point })
    }

    pub(crate) fn kernels(&self, r: &Run<'_>) -> Kernels {
        [self.input.kernel(r), self.recurrent.kernel(r)]
    }

    /// The units: steps.
    #[cfg(feature = "steps")]
    pub(crate) fn units(&self) -> Units {
        let cols = self.input.weights.cols.saturating_add(self.units);
        Units::new(self.steps, &[self.batch, self.input.weights.rows, cols])
    }

    /// The int8 of a hidden value with `frac` fraction bits, at most 2^31 as an integer.
    pub(crate) fn quantize(&self, value: i64, frac: i32) -> i8 {
        let steps = saturate(shift_round(value.wrapping_mul(self.inverse.mant.into()), frac + self.inverse.exp));
        steps.saturating_add(self.zero_point).clamp(i8::MIN.into(), i8::MAX.into()) as i8
    }

    /// What the hidden value `r * h` is as int8, `r` in Q31.
    pub(crate) fn scaled(&self, r: i64, h: i8) -> i8 {
        let steps = saturate(shift_round(r * (i64::from(h) - i64::from(self.zero_point)), 31));
        steps.saturating_add(self.zero_point).clamp(i8::MIN.into(), i8::MAX.into()) as i8
    }

    /// The two sums of the rows of a block, each rounded to Q16: from the input, and from the hidden state.
    pub(crate) fn sums(&self, kernels: Kernels, block: usize, (x, h): (&[i8], &[i8])) -> [[i32; BLOCK]; 2] {
        let round = |of: &Linear<'_>, kernel, row| {
            of.sums(kernel, block, row).map(|sum| saturate(shift_round(sum, of.weights.exponent - GATE_FRAC)))
        };
        [round(&self.input, kernels[0], x), round(&self.recurrent, kernels[1], h)]
    }

    /// Calls `cell(row of x, number of the batch's element, its output)` for each step of `part` and element of the batch, in the
    /// op's order. `row` is scratch for the row of x; `cell` writes the hidden state of `units` to the output.
    pub(crate) fn run(
        &self,
        (op, part): (&Op, Part),
        (x, row, out): (&Input<'_>, &mut [i8], &mut [i8]),
        mut cell: impl FnMut(&[i8], usize, &mut [i8]) -> Option<()>,
    ) -> Option<()> {
        let cols = self.input.weights.cols;
        row.fill(0);
        for step in part.of(self.steps) {
            let step = if op.flags & REVERSE != 0 { self.steps - 1 - step } else { step };
            for element in 0..self.batch {
                let at = step * self.batch + element;
                x.put(at * cols, cols, row, (0, self.input.padded()))?;
                let place = if self.every { at } else { element } * self.units;
                cell(row, element, out.get_mut(place..)?.get_mut(..self.units)?)?;
            }
        }
        Some(())
    }
}
