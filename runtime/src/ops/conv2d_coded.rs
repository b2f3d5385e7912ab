//! 2D convolution of int8 with coded weights, 4 or 8 bits; with a window of the whole image a fully connected layer.
//!
//! Arguments: in slot (I8), out slot (I8), patch slot (I8, scratch), weights (N4 or N8 `[out channels, kernel height * kernel
//! width * in channels]`), bias (I32 `[out channels]`), input size, output size, steps, padding above | left << 16, kernel
//! height | width << 16, numbers (`ops/window.rs`). NUMERICS.md, "conv2d_coded".
//!
//! A patch, the inputs under one output pixel, is copied into a row of the patch slot, as many patches at a time as it has
//! rows: each block of weights is then read once for all of them. Where every patch lies in the image as one row already, and
//! fills its groups of 32, nothing is copied and the patch slot may be of any size.

use super::coded::Linear;
use super::{OpDef, Overlap, Run, arg, ensure, i8_arg, i8_cols, window};
use crate::fixed::{saturate, shift_round};
use crate::image::plan::Kind;
use crate::image::tensors::BLOCK;
use crate::image::{Image, Op};
use crate::kernels::scalar::int8::{Axis, Window};

/// The op.
pub static OP: OpDef = OpDef {
    code: 29,
    name: "conv2d_coded",
    args: 11,
    flags: 0,
    slots: &[0, 1, 2],
    overlap: Overlap::Apart,
    check,
    run,
};

fn parts<'a>(image: &Image<'a>, op: &Op) -> Option<(Window, Linear<'a>)> {
    let kernel = arg(op, 9)?;
    let g = window::window(op, 5, [(kernel & 0xFFFF) as usize, (kernel >> 16) as usize], &i8_arg(image, op, 0)?)?;
    let linear = Linear::new(image, op, 3, 4)?;
    let columns = [g.y.kernel, g.x.kernel, g.channels].iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
    (columns == linear.weights.cols).then_some((g, linear))
}

/// Whether every patch is one row of the image's memory, groups filled.
fn in_place(g: &Window, linear: &Linear<'_>) -> bool {
    let inside = |a: &Axis| a.pad == 0 && (a.output - 1) * a.stride + (a.kernel - 1) * a.dilation.get() < a.input;
    let across = g.x.kernel == 1 || g.x.dilation.get() == 1;
    let down = g.y.kernel == 1 || (g.y.dilation.get() == 1 && g.x.kernel == g.x.input);
    across && down && inside(&g.y) && inside(&g.x) && linear.padded() == linear.weights.cols
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (g, linear) = parts(image, op)?;
    window::ensure_output(&g, linear.weights.rows, &i8_arg(image, op, 1)?)?;
    ensure(i8_arg(image, op, 2)?.cols as usize >= linear.padded() || in_place(&g, &linear))?;
    window::numbers(op, 10, Kind::I8).map(|_| ())
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (g, linear) = parts(r.image, op)?;
    let (input, output, patches) = (i8_arg(r.image, op, 0)?, i8_arg(r.image, op, 1)?, i8_arg(r.image, op, 2)?);
    let (zero_point, o) = window::numbers(op, 10, Kind::I8)?;
    let (kernel, padded, in_place) = (linear.kernel(r), linear.padded(), in_place(&g, &linear));
    let (rows, pixels) = (linear.weights.rows, g.y.output.checked_mul(g.x.output)?);
    let [from, to, scratch] = r.slots([&input, &output, &patches])?;
    let (from, scratch) = (&*i8_cols(&input, from)?, i8_cols(&patches, scratch)?);
    let together = if in_place { pixels } else { scratch.len().checked_div(padded)? };
    let position = |pixel: usize| Some((pixel.checked_div(g.x.output)?, pixel.checked_rem(g.x.output)?));
    for (tile, to) in i8_cols(&output, to)?.chunks_mut(together.checked_mul(rows)?.max(1)).enumerate() {
        let first = tile * together;
        if !in_place {
            for (patch, pixel) in scratch.chunks_mut(padded.max(1)).zip(first..pixels) {
                gather(&g, from, zero_point as i8, position(pixel)?, patch)?;
            }
        }
        for block in 0..linear.blocks() {
            for (i, to) in to.chunks_mut(rows.max(1)).enumerate() {
                let x = if in_place {
                    let (y, x) = position(first + i)?;
                    from.get((y * g.y.stride * g.x.input + x * g.x.stride) * g.channels..)?
                } else {
                    scratch.get(i * padded..)?
                };
                let sums = linear.sums(kernel, block, x.get(..padded)?);
                for (to, sum) in to.iter_mut().skip(block * BLOCK).zip(sums) {
                    *to = o.clamp(saturate(shift_round(sum, linear.weights.exponent)));
                }
            }
        }
    }
    Some(())
}

/// Copies the inputs under output pixel `(y, x)` into `patch`: [kernel height, kernel width, channels], the zero point for
/// those outside the image, zeros beyond.
fn gather(g: &Window, from: &[i8], zero_point: i8, (y, x): (usize, usize), patch: &mut [i8]) -> Option<()> {
    let ((rows, iy), (cols, ix)) = (g.y.taps(y), g.x.taps(x));
    let (taps, rest) = patch.split_at_mut_checked(g.y.kernel * g.x.kernel * g.channels)?;
    rest.fill(0);
    if rows.len() != g.y.kernel || cols.len() != g.x.kernel {
        taps.fill(zero_point);
    }
    // Taps side by side are side by side in the image, too, unless the window is dilated.
    let together = if g.x.dilation.get() == 1 { cols.len().max(1) } else { 1 };
    let run = together * g.channels;
    for (n, ky) in rows.enumerate() {
        let row = (iy + n * g.y.dilation.get()) * g.x.input;
        for (n, kx) in cols.clone().step_by(together).enumerate() {
            let from = from.get((row + ix + n * g.x.dilation.get()) * g.channels..)?.get(..run)?;
            let to = taps.get_mut((ky * g.x.kernel + kx) * g.channels..)?.get_mut(..run)?;
            to.copy_from_slice(from);
        }
    }
    Some(())
}
