//! What the ops of convolutional nets share: a window's arguments, and how sums become int8.
//!
//! ```text
//! sizes     height | width << 16
//! steps     stride down | stride across << 8 | dilation down << 16 | dilation across << 24
//! numbers   input zero point | output zero point << 8 | least output << 16 | largest output << 24     (int8 each)
//! ```

use core::num::NonZeroUsize;

use super::{BACKWARD, Run, arg, bytes_arg, ensure, i8_arg};
use crate::fixed::tflite::Rounding;
use crate::image::plan::Slot;
use crate::image::{Dtype, Image, Op, TensorDesc};
use crate::kernels::scalar::int8::{self, Axis, Channel, Output, Window};

/// Flag: the product is rounded once, not twice (`fixed::tflite::Rounding`).
pub const SINGLE_ROUNDING: u16 = 1;

/// Sums of so many products of int8 by int8 less a zero point fit int32.
const MOST_PRODUCTS: u64 = 1 << 16;

/// A pair in one word: low half, high half.
fn pair(op: &Op, which: usize) -> Option<[usize; 2]> {
    let word = arg(op, which)?;
    Some([(word & 0xFFFF) as usize, (word >> 16) as usize])
}

/// The window whose sizes begin at argument `at`: input size, output size, steps, padding above and left.
/// With `kernel` taps down and across; `channels` of the input follow from its slot. `None` for what is no window of it.
#[must_use]
pub fn window(op: &Op, at: usize, kernel: [usize; 2], input: &Slot) -> Option<Window> {
    let ([ih, iw], [oh, ow], [ph, pw]) = (pair(op, at)?, pair(op, at + 1)?, pair(op, at + 3)?);
    let [sh, sw, dh, dw] = bytes_arg(op, at + 2)?.map(usize::from);
    let axis = |input, output, kernel, stride, dilation, pad| {
        let dilation = NonZeroUsize::new(dilation)?;
        // Both ends of the output have a tap or the gap between two inside: strides and pads are those of this image.
        let ok = input != 0 && output != 0 && kernel != 0 && stride != 0 && kernel <= 0xFFFF;
        let reach = (kernel as u64 - u64::from(kernel != 0)) * dilation.get() as u64;
        let starts = pad as u64 <= reach;
        let ends = (output as u64).saturating_sub(1) * (stride as u64) < input as u64 + pad as u64;
        (ok && starts && ends).then_some(Axis { input, output, kernel, stride, dilation, pad })
    };
    let y = axis(ih, oh, kernel[0], sh, dh, ph)?;
    let x = axis(iw, ow, kernel[1], sw, dw, pw)?;
    let pixels = ih.checked_mul(iw)?;
    let channels = (input.cols as usize).checked_div(pixels)?;
    let backward = op.flags & BACKWARD != 0;
    (channels != 0 && channels.checked_mul(pixels)? == input.cols as usize).then_some(Window {
        y,
        x,
        channels,
        backward,
    })
}

/// The window of a fully connected layer: one tap on each row of `features` elements of `input`.
#[must_use]
pub fn rows(op: &Op, features: u32, input: &Slot) -> Option<Window> {
    let rows = input.cols.checked_div(features)?;
    let whole = rows != 0 && rows.checked_mul(features)? == input.cols;
    let (y, x) = (Axis::each(1), Axis::each(rows as usize));
    whole.then_some(Window { y, x, channels: features as usize, backward: op.flags & BACKWARD != 0 })
}

/// Checks that `out` holds `channels` of the window's output.
pub(crate) fn ensure_output(g: &Window, channels: usize, out: &Slot) -> Option<()> {
    ensure(g.y.output.checked_mul(g.x.output)?.checked_mul(channels)? == out.cols as usize)
}

/// The input's zero point and how sums become outputs: argument `which`.
pub(crate) fn numbers(op: &Op, which: usize) -> Option<(i32, Output)> {
    let [zero_in, zero_out, min, max] = bytes_arg(op, which)?.map(|b| b as i8);
    let rounding = if op.flags & SINGLE_ROUNDING != 0 { Rounding::Single } else { Rounding::Double };
    let output = Output { zero_point: zero_out.into(), min, max, rounding };
    (min <= max).then_some((zero_in.into(), output))
}

/// The record of the plain int8 weights that argument `which` names.
pub(crate) fn weights(image: &Image<'_>, op: &Op, which: usize) -> Option<TensorDesc> {
    let desc = image.tensor(arg(op, which)?).ok()?;
    (desc.dtype == Dtype::I8).then_some(desc)
}

/// Checks that argument `which` is a table of `count` channels, and that the `products` of each sum fit int32.
pub(crate) fn ensure_channels(image: &Image<'_>, op: &Op, which: usize, count: u32, products: u64) -> Option<()> {
    let desc = image.tensor(arg(op, which)?).ok()?;
    ensure(desc.dtype == Dtype::I32 && desc.dims == [count, 3, 1, 1] && products <= MOST_PRODUCTS)
}

/// The table of channels that argument `which` names.
pub(crate) fn channels<'a>(image: &Image<'a>, op: &Op, which: usize) -> Option<&'a [Channel]> {
    Some(image.raw(arg(op, which)?, Dtype::I32)?.as_chunks::<4>().0.as_chunks::<3>().0)
}

/// A pool's window over `input`: sizes from argument 2 on, the kernel's at 6.
#[must_use]
pub fn pool(op: &Op, input: &Slot) -> Option<Window> {
    window(op, 2, pair(op, 6)?, input)
}

/// Checks a pool: input and output have one scale and zero point, so it works on their integers.
pub(crate) fn check_pool(image: &Image<'_>, op: &Op) -> Option<()> {
    let g = pool(op, &i8_arg(image, op, 0)?)?;
    ensure_output(&g, g.channels, &i8_arg(image, op, 1)?)?;
    let [_, _, down, across] = bytes_arg(op, 4)?;
    let (zero_in, o) = numbers(op, 7)?;
    ensure(down == 1 && across == 1 && zero_in == 0 && o.zero_point == 0)
}

/// Runs a pool: `start` and `fold` over the taps inside the image; `result` of that and their number, before the clamp.
pub(crate) fn run_pool(
    r: &mut Run<'_>,
    op: &Op,
    fold: (i32, fn(i32, i32) -> i32),
    result: impl Fn(i32, i32) -> Option<i32>,
) -> Option<()> {
    let (input, output) = (i8_arg(r.image, op, 0)?, i8_arg(r.image, op, 1)?);
    let g = pool(op, &input)?;
    let (_, o) = numbers(op, 7)?;
    let [from, to] = r.cells([&input, &output])?;
    let clamped = |folded: i32, count: i32| Some(o.clamp(result(folded, count)?));
    int8::pool2d(&g, from, fold, clamped, to)
}
