//! Depthwise 2D convolution of int8, TensorFlow Lite's `DEPTHWISE_CONV_2D`.
//!
//! Arguments as `conv2d`'s, the weights being I8 `[1, kernel height, kernel width, out channels]`; output channel c reads
//! input channel `c / (out channels / in channels)`. Flag 1: single rounding; 2: backward. NUMERICS.md, "depthwise_conv2d".

use core::num::NonZeroUsize;

use super::window::{self, SINGLE_ROUNDING};
use super::{BACKWARD, OpDef, Overlap, Run, arg, ensure, i8_arg};
use crate::image::{Dtype, Image, Op};
use crate::kernels::scalar::int8;
use crate::view::as_i8;

/// The op.
pub static OP: OpDef = OpDef {
    code: 11,
    name: "depthwise_conv2d",
    args: 9,
    flags: SINGLE_ROUNDING | BACKWARD,
    slots: &[0, 1],
    overlap: Overlap::Units(&[(0, 1)]),
    check,
    run,
};

fn parts(image: &Image<'_>, op: &Op) -> Option<(int8::Window, u32, NonZeroUsize)> {
    let [one, kh, kw, out_channels] = window::weights(image, op, 2)?.dims;
    let g = window::window(op, 4, [kh as usize, kw as usize], &i8_arg(image, op, 0)?)?;
    let multiplier = NonZeroUsize::new((out_channels as usize).checked_div(g.channels)?)?;
    ensure(one == 1 && multiplier.get().checked_mul(g.channels)? == out_channels as usize)?;
    Some((g, out_channels, multiplier))
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (g, out_channels, _) = parts(image, op)?;
    window::ensure_output(&g, out_channels as usize, &i8_arg(image, op, 1)?)?;
    window::ensure_channels(image, op, 3, out_channels, (g.y.kernel as u64).checked_mul(g.x.kernel as u64)?)?;
    window::numbers(op, 8).map(|_| ())
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (g, _, multiplier) = parts(r.image, op)?;
    let (input, output) = (i8_arg(r.image, op, 0)?, i8_arg(r.image, op, 1)?);
    let (weights, channels) = (as_i8(r.image.raw(arg(op, 2)?, Dtype::I8)?), window::channels(r.image, op, 3)?);
    let (zero_point, o) = window::numbers(op, 8)?;
    let [from, to] = r.cells([&input, &output])?;
    int8::depthwise_conv2d(&g, multiplier, (from, zero_point), weights, channels, &o, to)
}
