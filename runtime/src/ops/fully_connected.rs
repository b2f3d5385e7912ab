//! Fully connected layer of int8, TensorFlow Lite's `FULLY_CONNECTED`: a convolution whose pixels are the rows.
//!
//! Arguments: in slot (I8, rows of in features), out slot (I8, as many rows of out features), weights (I8 `[out features,
//! in features]`), channels (I32 `[out features, 3]`: bias, multiplier, shift), numbers (`ops/window.rs`). Flag 1: single
//! rounding; 2: backward. NUMERICS.md, "fully_connected".

use super::window::{self, SINGLE_ROUNDING};
use super::{BACKWARD, OpDef, Overlap, Run, arg, ensure, i8_arg};
use crate::image::{Dtype, Image, Op};
use crate::kernels::scalar::int8;
use crate::view::as_i8;

/// The op.
pub static OP: OpDef = OpDef {
    code: 12,
    name: "fully_connected",
    args: 5,
    flags: SINGLE_ROUNDING | BACKWARD,
    slots: &[0, 1],
    overlap: Overlap::Units(&[(0, 1)]),
    check,
    run,
};

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (input, output) = (i8_arg(image, op, 0)?, i8_arg(image, op, 1)?);
    let [out_features, in_features, a, b] = window::weights(image, op, 2)?.dims;
    let g = window::rows(op, in_features, &input)?;
    ensure(a == 1 && b == 1)?;
    window::ensure_output(&g, out_features as usize, &output)?;
    window::ensure_channels(image, op, 3, out_features, in_features.into())?;
    window::numbers(op, 4).map(|_| ())
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (input, output) = (i8_arg(r.image, op, 0)?, i8_arg(r.image, op, 1)?);
    let [_, in_features, ..] = window::weights(r.image, op, 2)?.dims;
    let g = window::rows(op, in_features, &input)?;
    let (weights, channels) = (as_i8(r.image.raw(arg(op, 2)?, Dtype::I8)?), window::channels(r.image, op, 3)?);
    let (zero_point, o) = window::numbers(op, 4)?;
    let [from, to] = r.cells([&input, &output])?;
    int8::conv2d(&g, (from, zero_point), weights, channels, &o, to)
}
