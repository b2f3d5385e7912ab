//! Gated linear unit, in place: `gate = silu(gate) * up` (Shazeer, arXiv 2002.05202, SwiGLU).
//!
//! Arguments: gate slot (I32), up slot (I32, the same shape), out slot: the gate slot's place with the result's
//! fraction bits. NUMERICS.md, "glu".

use super::{I32Rows, OpDef, Overlap, Run, ensure, slot_arg};
use crate::image::plan::{Kind, Slot};
use crate::image::{Image, Op};
use crate::kernels::rows;
use crate::view::{Shape, for_column_parts};

/// The op.
pub static OP: OpDef =
    OpDef { code: 9, name: "glu", args: 3, flags: 0, slots: &[0, 1], overlap: Overlap::Apart, check, run };

/// Elements below which a part of the work is not worth another thread: fast kernels take a microsecond.
const PART: usize = 512;

/// Elements of the widest vectors, of which parts are multiples.
const VECTOR: usize = 16;

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let gate = &slot_arg(image, op, 0, Kind::I32);
    let gate = gate.as_ref()?;
    let up = &slot_arg(image, op, 1, Kind::I32);
    let up = up.as_ref()?;
    let out = &slot_arg(image, op, 2, Kind::I32);
    let out = out.as_ref()?;
    ensure(up.rows == gate.rows && up.cols == gate.cols && (0..=28).contains(&gate.frac))?;
    ensure(*out == Slot { frac: out.frac, ..*gate })
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let gate_slot = &slot_arg(r.image, op, 0, Kind::I32);
    let gate_slot = gate_slot.as_ref()?;
    let up_slot = &slot_arg(r.image, op, 1, Kind::I32);
    let up_slot = up_slot.as_ref()?;
    let out = &slot_arg(r.image, op, 2, Kind::I32);
    let out = out.as_ref()?;
    let (rows, cols) = (r.part.of(r.rows_of(gate_slot)), gate_slot.cols as usize);
    let (pool, isa) = (r.pool, r.kernels.isa);
    let [gate, up] = r.slots([gate_slot, up_slot])?;
    let (gate, up) = (I32Rows::new(gate_slot, gate)?, I32Rows::new(up_slot, up)?);
    let gate_frac = i32::from(gate_slot.frac);
    let shift = gate_frac + i32::from(up_slot.frac) - i32::from(out.frac);
    let (up_stride, up) = (up.stride, up.data.get(rows.start.checked_mul(up.stride)?..)?);
    let gate_rows = gate.data.get_mut(rows.start.checked_mul(gate.stride)?..)?;
    let granule = PART.div_ceil(rows.len().max(1)).next_multiple_of(VECTOR);
    let shape = Shape { rows: rows.len(), stride: gate.stride, cols: 0..cols, granule };
    for_column_parts(pool, (gate_rows, shape), (&mut [], 0), &|mut columns, _| {
        let first = columns.cols().start;
        for row in 0..rows.len() {
            let up = up.get(row * up_stride + first..).unwrap_or(&[]);
            rows::glu(isa, columns.row(row), up, gate_frac, shift);
        }
    })
}
