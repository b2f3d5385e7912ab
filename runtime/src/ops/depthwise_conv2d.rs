//! Depthwise 2D convolution of int8 or int16, TensorFlow Lite's `DEPTHWISE_CONV_2D`.
//!
//! Arguments and flags as `conv2d`'s, the weights being I8 `[1, kernel height, kernel width, out channels]`; output channel c
//! reads input channel `c / (out channels / in channels)`. NUMERICS.md, "depthwise_conv2d".

use super::window::{NARROW, SINGLE_ROUNDING, window};
use super::{BACKWARD, OpDef, Overlap, Run, layer};
use crate::image::Op;
use crate::kernels::scalar::int8;

/// The op.
pub static OP: OpDef = OpDef {
    code: 11,
    name: "depthwise_conv2d",
    args: 10,
    flags: SINGLE_ROUNDING | BACKWARD | NARROW,
    slots: &[0, 1],
    overlap: Overlap::Units(&[(0, 1)]),
    check: |image, op| layer::check(image, op, window),
    run,
};

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let conv = r.kernels.int8().depthwise_conv2d;
    layer::run(r, op, window, (conv, const { layer::if_wide(int8::depthwise_conv2d) }))
}
