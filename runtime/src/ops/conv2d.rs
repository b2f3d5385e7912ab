//! 2D convolution of int8 or int16, TensorFlow Lite's `CONV_2D`.
//!
//! Arguments: in slot, out slot (both I8 or both I16), weights (I8 `[out channels, kernel height, kernel width, depth]`),
//! channels, input size, output size, steps, padding above | left << 16, numbers (`ops/window.rs`), the weights' zero point.
//! With `depth` less than the input's channels these form groups of `depth`, each with as many output channels. Flag 1: single
//! rounding; 2: backward; 4: narrow sums of int16. NUMERICS.md, "conv2d".

use super::window::{NARROW, SINGLE_ROUNDING, window};
use super::{BACKWARD, OpDef, Overlap, Run, layer};
use crate::image::Op;
use crate::kernels::scalar::int8;

/// The op.
pub static OP: OpDef = OpDef {
    code: 10,
    name: "conv2d",
    args: 10,
    flags: SINGLE_ROUNDING | BACKWARD | NARROW,
    slots: &[0, 1],
    overlap: Overlap::Units(&[(0, 1)]),
    check: |image, op| layer::check(image, op, window),
    run,
};

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let conv = r.kernels.int8().conv2d;
    layer::run(r, op, window, (conv, const { layer::if_wide(int8::conv2d) }))
}
