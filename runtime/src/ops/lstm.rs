//! Long short-term memory (Hochreiter and Schmidhuber 1997; ONNX `LSTM`, Keras), int8 with coded weights.
//!
//! Arguments: as `ops/recurrent.rs` has them, the state slot being the hidden state (I8 `[batch, units]`); then the cell
//! state's slot (I32 `[batch, units]`, 0 to 24 fraction bits): cells integrate, some to hundreds, and what a step adds may be
//! less than a 2^-15th of that. A unit's four rows of weights lie together: gates i, f, g, o. So a block of 16 rows is four units,
//! and no gate is stored. NUMERICS.md, "lstm".

use super::coded::Input;
#[cfg(feature = "steps")]
use super::cost::Units;
use super::recurrent::{GATE_FRAC, Layer, REVERSE};
use super::tensor::quantized_arg;
use super::{OpDef, Overlap, Run, ensure, i8_arg, i8_cols, slot_arg};
use crate::fixed::sigmoid::{sigmoid, tanh};
use crate::fixed::{saturate, shift_round};
use crate::image::plan::Kind;
use crate::image::{Image, Op, Slot};
use crate::view;

/// The op.
pub static OP: OpDef = OpDef {
    code: 30,
    name: "lstm",
    args: 10,
    flags: REVERSE,
    slots: &[0, 1, 2, 3, 9],
    overlap: Overlap::Apart,
    check,
    run,
};

/// Gates of a unit.
const GATES: usize = 4;

fn parts<'a>(image: &Image<'a>, op: &Op) -> Option<(Layer<'a>, Slot, i32)> {
    let (layer, cell) = (Layer::new(image, op, GATES, 0)?, slot_arg(image, op, 9, Kind::I32)?);
    ensure(cell.cols == i8_arg(image, op, 2)?.cols && (0..=24).contains(&cell.frac))?;
    Some((layer, cell, cell.frac.into()))
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    parts(image, op).map(|_| ())
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (layer, cell_slot, frac) = parts(r.image, op)?;
    let slot = |which| i8_arg(r.image, op, which);
    let (input, output, state, scratch) = (quantized_arg(r.image, op, 0)?, slot(1)?, slot(2)?, slot(3)?);
    let (kernels, units, part) = (layer.kernels(r), layer.units, r.part);
    let [x, out, h, rows, c] = r.slots([&input, &output, &state, &scratch, &cell_slot])?;
    let (x, out, h) = (Input::new(&input, x)?, i8_cols(&output, out)?, i8_cols(&state, h)?);
    let c = view::as_i32(c)?;
    let (x_row, rest) = i8_cols(&scratch, rows)?.split_at_mut_checked(layer.x_row)?;
    let h_row = rest.get_mut(..layer.recurrent.padded())?;
    h_row.fill(0);
    layer.run((op, part), (&x, x_row, out), |x, element, out| {
        let (h, c) = (h.get_mut(element * units..)?.get_mut(..units)?, c.get_mut(element * units..)?);
        h_row.iter_mut().zip(h.iter()).for_each(|(to, h)| *to = *h);
        for (block, (h, c)) in h.chunks_mut(4).zip(c.chunks_mut(4)).enumerate() {
            let [from_x, from_h] = layer.sums(kernels, block, (x, h_row));
            let mut sums = [0i32; 16];
            for ((sum, x), h) in sums.iter_mut().zip(from_x).zip(from_h) {
                *sum = x.saturating_add(h);
            }
            for (([i, f, g, o], h), c) in sums.as_chunks::<GATES>().0.iter().zip(h).zip(c) {
                let gate = |x: i32| sigmoid(x, GATE_FRAC);
                // Q31 times the cell's fraction; Q31 times Q31, shifted to the same.
                let kept = gate(*f) * i64::from(*c);
                let new = shift_round(gate(*i) * tanh(*g, GATE_FRAC), 31 - frac);
                *c = saturate(shift_round(kept + new, 31));
                let cell = saturate(shift_round((*c).into(), frac - GATE_FRAC));
                *h = layer.quantize(shift_round(gate(*o) * tanh(cell, GATE_FRAC), 31), 31);
            }
        }
        out.iter_mut().zip(h.iter()).for_each(|(to, h)| *to = *h);
        Some(())
    })
}

/// The units: steps.
#[cfg(feature = "steps")]
pub(crate) fn units(r: &Run<'_>, op: &Op) -> Option<Units> {
    Some(parts(r.image, op)?.0.units())
}
