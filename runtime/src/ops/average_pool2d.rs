//! Average pooling of int8 or int16, TensorFlow Lite's `AVERAGE_POOL_2D`. Input and output have the same scale and zero point.
//!
//! Arguments: in slot, out slot (both I8 or both I16), input size, output size, steps (dilations 1), padding above | left << 16, window
//! size, numbers with zero points 0 (`ops/window.rs`). Flag 2: backward; 4: halves up. NUMERICS.md, "pools".

use core::cell::Cell;

use super::window::{Folds, check_pool, run_pool};
use super::{BACKWARD, OpDef, Overlap, Run};
use crate::image::Op;
use crate::kernels::scalar::int8::Quantized;

/// The op.
pub static OP: OpDef = OpDef {
    code: 13,
    name: "average_pool2d",
    args: 8,
    flags: BACKWARD | UPWARD,
    slots: &[0, 1],
    overlap: Overlap::Units(&[(0, 1)]),
    check: check_pool,
    run,
};

/// Flag: halves are rounded up, which is what "away from zero" is of uint8.
pub const UPWARD: u16 = 4;

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    static FOLDS: Folds = Folds { start: 0, of_i8: sum, of_i16: sum };
    run_pool(r, op, &FOLDS, mean)
}

/// The quotient, halves away from zero or upward. A window has a tap inside, or the image would have been refused.
fn mean(sum: i32, count: i32, flags: u16) -> Option<i32> {
    let up = flags & UPWARD != 0;
    let all = sum.wrapping_add(if up || sum > 0 { count / 2 } else { -(count / 2) });
    let quotient = all.checked_div(count)?;
    Some(if up && quotient * count > all { quotient - 1 } else { quotient })
}

fn sum<T: Quantized>(all: &mut [i32], x: &[Cell<T>]) {
    all.iter_mut().zip(x).for_each(|(all, x)| *all = all.wrapping_add(x.get().into()));
}
