//! Max pooling of int8 or int16, TensorFlow Lite's `MAX_POOL_2D`. Input and output have the same scale and zero point.
//!
//! Arguments: in slot, out slot (both I8 or both I16), input size, output size, steps (dilations 1), padding above | left << 16, window
//! size, numbers with zero points 0 (`ops/window.rs`). NUMERICS.md, "pools".

use core::cell::Cell;

use super::window::{Folds, check_pool, run_pool};
use super::{BACKWARD, OpDef, Overlap, Run};
use crate::image::Op;
use crate::kernels::scalar::int8::Quantized;

/// The op.
pub static OP: OpDef = OpDef {
    code: 14,
    name: "max_pool2d",
    args: 8,
    flags: BACKWARD,
    slots: &[0, 1],
    overlap: Overlap::Units(&[(0, 1)]),
    check: check_pool,
    run,
};

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    static FOLDS: Folds = Folds { start: i32::MIN, of_i8: largest, of_i16: largest };
    run_pool(r, op, &FOLDS, |largest, _, _| Some(largest))
}

fn largest<T: Quantized>(all: &mut [i32], x: &[Cell<T>]) {
    all.iter_mut().zip(x).for_each(|(all, x)| *all = (*all).max(x.get().into()));
}
