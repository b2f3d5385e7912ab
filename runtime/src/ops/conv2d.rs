//! 2D convolution of int8, TensorFlow Lite's `CONV_2D`.
//!
//! Arguments: in slot (I8), out slot (I8), weights (I8 `[out channels, kernel height, kernel width, in channels]`), channels
//! (I32 `[out channels, 3]`: bias, multiplier, shift), input size, output size, steps, padding above | left << 16, numbers
//! (`ops/window.rs`). Flag 1: single rounding; 2: backward. NUMERICS.md, "conv2d".

use super::window::{self, SINGLE_ROUNDING};
use super::{BACKWARD, OpDef, Overlap, Run, arg, ensure, i8_arg};
use crate::image::{Dtype, Image, Op};
use crate::kernels::scalar::int8;
use crate::view::as_i8;

/// The op.
pub static OP: OpDef = OpDef {
    code: 10,
    name: "conv2d",
    args: 9,
    flags: SINGLE_ROUNDING | BACKWARD,
    slots: &[0, 1],
    overlap: Overlap::Units(&[(0, 1)]),
    check,
    run,
};

fn parts(image: &Image<'_>, op: &Op) -> Option<(int8::Window, u32)> {
    let [out_channels, kh, kw, in_channels] = window::weights(image, op, 2)?.dims;
    let g = window::window(op, 4, [kh as usize, kw as usize], &i8_arg(image, op, 0)?)?;
    ensure(g.channels == in_channels as usize)?;
    Some((g, out_channels))
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (g, out_channels) = parts(image, op)?;
    window::ensure_output(&g, out_channels as usize, &i8_arg(image, op, 1)?)?;
    let products = [g.y.kernel, g.x.kernel, g.channels].iter().try_fold(1u64, |n, d| n.checked_mul(*d as u64))?;
    window::ensure_channels(image, op, 3, out_channels, products)?;
    window::numbers(op, 8).map(|_| ())
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (g, _) = parts(r.image, op)?;
    let (input, output) = (i8_arg(r.image, op, 0)?, i8_arg(r.image, op, 1)?);
    let (weights, channels) = (as_i8(r.image.raw(arg(op, 2)?, Dtype::I8)?), window::channels(r.image, op, 3)?);
    let (zero_point, o) = window::numbers(op, 8)?;
    let [from, to] = r.cells([&input, &output])?;
    int8::conv2d(&g, (from, zero_point), weights, channels, &o, to)
}
