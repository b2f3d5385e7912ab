//! Fully connected layer of int8 or int16, TensorFlow Lite's `FULLY_CONNECTED`: a convolution whose pixels are the rows.
//!
//! Arguments: in slot, out slot (both I8 or both I16: rows of in features, as many rows of out features), weights (I8 `[out
//! features, in features]`), channels, numbers (`ops/window.rs`), the weights' zero point. Flag 1: single rounding; 2: backward;
//! 4: narrow sums of int16. NUMERICS.md, "fully_connected".

use super::window::{self, NARROW, SINGLE_ROUNDING};
use super::{BACKWARD, OpDef, Overlap, Run, layer};
use crate::image::Op;
use crate::kernels::scalar::int8;

/// The op.
pub static OP: OpDef = OpDef {
    code: 12,
    name: "fully_connected",
    args: 6,
    flags: SINGLE_ROUNDING | BACKWARD | NARROW,
    slots: &[0, 1],
    overlap: Overlap::Units(&[(0, 1)]),
    check: |image, op| layer::check(image, op, window::rows),
    run,
};

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let conv = r.kernels.int8().conv2d;
    layer::run(r, op, window::rows, (conv, const { layer::if_wide(int8::conv2d) }))
}
