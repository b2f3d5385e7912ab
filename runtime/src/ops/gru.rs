//! Gated recurrent unit (Cho et al., arXiv 1406.1078; ONNX `GRU`, Keras), int8 with coded weights.
//!
//! Arguments: as `ops/recurrent.rs` has them, the state slot being the hidden state with 15 fraction bits (I16 `[batch,
//! units]`): the matrices get it as int8, but what a slow unit adds in a step is less than a step of that. Rows of weights are
//! `[gates z, r, n][units]`; the scratch has 8 bytes a unit besides the rows. Flag 2: the reset gate is applied after the
//! recurrent product, its bias included (ONNX `linear_before_reset`, Keras `reset_after`). NUMERICS.md, "gru".

use super::coded::Input;
#[cfg(feature = "steps")]
use super::cost::Units;
use super::recurrent::{GATE_FRAC, Layer, REVERSE};
use super::tensor::quantized_arg;
use super::{OpDef, Overlap, Run, i8_arg, i8_cols, slot_arg};
use crate::fixed::sigmoid::{sigmoid, tanh};
use crate::fixed::{saturate, shift_round};
use crate::image::plan::{Kind, Slot};
use crate::image::tensors::BLOCK;
use crate::image::{Image, Op};
use crate::view;

/// The op.
pub static OP: OpDef = OpDef {
    code: 31,
    name: "gru",
    args: 9,
    flags: REVERSE | RESET_AFTER,
    slots: &[0, 1, 2, 3],
    overlap: Overlap::Apart,
    check,
    run,
};

/// Flag: the reset gate scales the recurrent product, not the state that goes into it.
pub const RESET_AFTER: u16 = 2;

/// Gates of a unit.
const GATES: usize = 3;
/// Bytes of scratch a unit for gates z and r.
const GATE_BYTES: usize = 8;
/// Fraction bits of the state.
const STATE_FRAC: i32 = 15;

fn parts<'a>(image: &Image<'a>, op: &Op) -> Option<(Layer<'a>, Slot)> {
    Some((Layer::new(image, op, GATES, GATE_BYTES)?, slot_arg(image, op, 2, Kind::I16)?))
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    parts(image, op).map(|_| ())
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (layer, state) = parts(r.image, op)?;
    let (input, output, scratch) = (quantized_arg(r.image, op, 0)?, i8_arg(r.image, op, 1)?, i8_arg(r.image, op, 3)?);
    let (kernels, units, part) = (layer.kernels(r), layer.units, r.part);
    let after = op.flags & RESET_AFTER != 0;
    let [x, out, state, bytes] = r.slots([&input, &output, &state, &scratch])?;
    let (x, out, state) = (Input::new(&input, x)?, i8_cols(&output, out)?, view::as_elements::<i16>(state)?);
    let (gates, rows) = bytes.split_at_mut_checked(units.checked_mul(GATE_BYTES)?)?;
    let gates = view::as_i32(gates)?;
    let (x_row, rest) = view::as_i8_mut(rows).split_at_mut_checked(layer.x_row)?;
    let h_row = rest.get_mut(..layer.recurrent.padded())?;
    h_row.fill(0);
    layer.run((op, part), (&x, x_row, out), |x, element, out| {
        let state = state.get_mut(element * units..)?.get_mut(..units)?;
        for (to, h) in h_row.iter_mut().zip(state.iter()) {
            *to = layer.quantize((*h).into(), STATE_FRAC);
        }
        // Rows 0 to 2 units are z and r, kept as the bits of Q31; the others n. A block may have both.
        for (block, gates) in gates.chunks_mut(BLOCK).enumerate() {
            let [from_x, from_h] = layer.sums(kernels, block, (x, h_row));
            for ((gate, x), h) in gates.iter_mut().zip(from_x).zip(from_h) {
                *gate = sigmoid(x.saturating_add(h), GATE_FRAC) as u32 as i32;
            }
        }
        let (z, r) = gates.split_at_checked(units)?;
        let q31 = |gate: i32| i64::from(gate as u32);
        if !after {
            for (h, r) in h_row.iter_mut().zip(r) {
                *h = layer.scaled(q31(*r), *h);
            }
        }
        let first = 2 * units;
        let mut units = state.iter_mut().zip(z.iter().zip(r));
        for block in first / BLOCK..(first + units.len()).div_ceil(BLOCK) {
            let [from_x, from_h] = layer.sums(kernels, block, (x, h_row));
            let lanes = from_x.into_iter().zip(from_h).skip(first.saturating_sub(block * BLOCK));
            for ((x, h), (state, (z, r))) in lanes.zip(units.by_ref()) {
                let h = if after { saturate(shift_round(q31(*r) * i64::from(h), 31)) } else { h };
                let n = tanh(x.saturating_add(h), GATE_FRAC);
                let (kept, new) =
                    (q31(*z) * i64::from(*state), shift_round(((1 << 31) - q31(*z)) * n, 31 - STATE_FRAC));
                *state = shift_round(kept + new, 31).clamp(i16::MIN.into(), i16::MAX.into()) as i16;
            }
        }
        for (out, h) in out.iter_mut().zip(state.iter()) {
            *out = layer.quantize((*h).into(), STATE_FRAC);
        }
        Some(())
    })
}

/// The units: steps.
#[cfg(feature = "steps")]
pub(crate) fn units(r: &Run<'_>, op: &Op) -> Option<Units> {
    Some(parts(r.image, op)?.0.units())
}
