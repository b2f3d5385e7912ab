//! Gated linear unit, in place: `gate = silu(gate) * up` (Shazeer, arXiv 2002.05202, SwiGLU).
//!
//! Arguments: gate slot (I32), up slot (I32, the same shape), out slot: the gate slot's place with the result's
//! fraction bits. NUMERICS.md, "glu".

use super::{I32Rows, OpDef, Overlap, Run, ensure, slot_arg};
use crate::fixed::sigmoid::sigmoid;
use crate::fixed::{saturate, shift_round};
use crate::image::plan::{Kind, Slot};
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef =
    OpDef { code: 9, name: "glu", args: 3, flags: 0, slots: &[0, 1], overlap: Overlap::Apart, check, run };

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let gate = slot_arg(image, op, 0, Kind::I32)?;
    let up = slot_arg(image, op, 1, Kind::I32)?;
    let out = slot_arg(image, op, 2, Kind::I32)?;
    ensure(up.rows == gate.rows && up.cols == gate.cols && (0..=28).contains(&gate.frac))?;
    ensure(out == Slot { frac: out.frac, ..gate })
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let gate_slot = slot_arg(r.image, op, 0, Kind::I32)?;
    let up_slot = slot_arg(r.image, op, 1, Kind::I32)?;
    let out = slot_arg(r.image, op, 2, Kind::I32)?;
    let rows = r.rows_of(&gate_slot);
    let [gate, up] = r.slots([&gate_slot, &up_slot])?;
    let (mut gate, mut up) = (I32Rows::new(&gate_slot, gate)?, I32Rows::new(&up_slot, up)?);
    let gate_frac = i32::from(gate_slot.frac);
    let shift = gate_frac + i32::from(up_slot.frac) - i32::from(out.frac);
    for row in 0..rows {
        for (g, u) in gate.row(row)?.iter_mut().zip(up.row(row)?) {
            *g = saturate(shift_round(i64::from(silu(*g, gate_frac)) * i64::from(*u), shift));
        }
    }
    Some(())
}

/// `x * sigmoid(x)` for `x` with `frac` fraction bits (0 to 28); the result has as many.
#[must_use]
pub fn silu(x: i32, frac: i32) -> i32 {
    saturate(shift_round(i64::from(x) * sigmoid(x, frac), 31))
}

#[cfg(test)]
mod tests {
    use super::silu;

    #[test]
    fn silu_error() {
        for frac in [12, 16, 20, 24] {
            let mut worst = 0f64;
            let unit = 2f64.powi(-frac);
            for i in -400_000..=400_000i64 {
                let x = (i * (20 << frac) / 400_000) as i32;
                let value = f64::from(x) * unit;
                let exact = value / (1.0 + (-value).exp());
                worst =
                    worst.max((f64::from(silu(x, frac)) * unit - exact).abs() / (unit + exact.abs() * 2f64.powi(-14)));
            }
            assert!(worst < 1.0, "frac {frac}: {worst}");
        }
        assert_eq!(silu(0, 20), 0);
        assert_eq!(silu(i32::MAX, 20), i32::MAX);
        assert_eq!(silu(i32::MIN, 20), 0);
    }
}
