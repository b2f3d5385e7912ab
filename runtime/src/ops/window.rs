//! What the ops of convolutional nets share: a window's arguments, and how sums become int8 or int16.
//!
//! ```text
//! sizes     height | width << 16
//! steps     stride down | stride across << 8 | dilation down << 16 | dilation across << 24
//! numbers   input zero point | output zero point << 8 | least output << 16 | largest output << 24     (int8 each)
//!           of int16, without zero points: least output | largest output << 16
//! channels  I32 [out channels, 3]: bias, multiplier, shift
//!           of int16 [out channels, 4]: bias (two words, low first), multiplier, shift
//! ```

use core::num::NonZeroUsize;

use super::cut::{self, Whole};
use super::tensor::{Plain, rounding};
use super::{BACKWARD, Run, arg, bytes_arg, desc_arg, ensure, times_in};
use crate::image::header::products;
use crate::image::plan::Kind;
use crate::image::{Dtype, Image, Op, TensorDesc};
use crate::kernels::scalar::int8::{self, Axis, Finish, Fold, Output, Quantized, Window};

/// Flag: the product is rounded once, not twice (`fixed::tflite::Rounding`).
pub const SINGLE_ROUNDING: u16 = 1;

/// Flag of ops on int16 with weights: sums are int32, as TFLite's are where the bias is int32.
pub const NARROW: u16 = 4;

/// Sums of so many products of int8 by int8 less a zero point fit int32; of half as many where both have zero points.
const MOST_PRODUCTS: u64 = 1 << 16;

/// A pair in one word: low half, high half.
fn pair(op: &Op, which: usize) -> Option<[usize; 2]> {
    let word = arg(op, which)?;
    Some([(word & 0xFFFF) as usize, (word >> 16) as usize])
}

/// The window whose sizes begin at argument `at`: input size, output size, steps, padding above and left.
/// With `kernel` taps down and across; `input`: elements of the input, from which its channels follow. `None` for what is no window of it.
#[must_use]
pub fn window(op: &Op, at: usize, kernel: [usize; 2], input: u32) -> Option<Window> {
    any_window(op, at, kernel, input).filter(|g| ensure(is_inside(&g.y) && is_inside(&g.x)).is_some())
}

/// Whether both ends of the output have a tap or the gap between two inside: strides and pads are those of this image. Sizes are of 16
/// bits, steps of 8.
fn is_inside(a: &Axis) -> bool {
    a.pad <= (a.kernel - 1) * a.dilation.get() && (a.output - 1) * a.stride < a.input + a.pad
}

/// As [`window`], of a transposed convolution: dilations 1, and any padding.
#[must_use]
pub fn transposed_window(op: &Op, at: usize, kernel: [usize; 2], input: u32) -> Option<Window> {
    let not_dilated = |g: &Window| ensure(g.y.dilation.get() == 1 && g.x.dilation.get() == 1).is_some();
    any_window(op, at, kernel, input).filter(not_dilated)
}

fn any_window(op: &Op, at: usize, kernel: [usize; 2], input: u32) -> Option<Window> {
    let (y, x) = &(axis(op, at, 0, kernel[0]), axis(op, at, 1, kernel[1]));
    let (y, x) = (y.as_ref()?, x.as_ref()?);
    let channels = times_in(y.input * x.input, input as usize)?.get(); // of 16 bits each
    Some(Window { y: *y, x: *x, channels, backward: op.flags & BACKWARD != 0 })
}

/// The vertical axis of a window, 0, or the horizontal one, 1.
#[inline(never)]
fn axis(op: &Op, at: usize, which: usize, kernel: usize) -> Option<Axis> {
    let half = |at: usize| Some((arg(op, at)? >> (16 * which) & 0xFFFF) as usize);
    let steps = arg(op, at + 2)? >> (8 * which);
    let (input, output, pad) = (half(at)?, half(at + 1)?, half(at + 3)?);
    let (stride, dilation) = ((steps & 0xFF) as usize, NonZeroUsize::new((steps >> 16 & 0xFF) as usize)?);
    ensure(input != 0 && output != 0 && kernel != 0 && stride != 0 && kernel <= 0xFFFF)?;
    Some(Axis { input, output, kernel, stride, dilation, pad })
}

/// The window of a fully connected layer: one tap on each row of `features` elements of `input`.
#[must_use]
pub fn rows(op: &Op, _: usize, [_, features]: [usize; 2], input: u32) -> Option<Window> {
    let rows = times_in(features, input as usize)?.get();
    let (y, x) = (Axis::each(1), Axis::each(rows));
    Some(Window { y, x, channels: features, backward: op.flags & BACKWARD != 0 })
}

/// Checks that `out` holds `channels` of the window's output.
pub(crate) fn ensure_output(g: &Window, channels: u32, out: u32) -> Option<()> {
    ensure(products(&[g.y.output as u32, g.x.output as u32, channels]) == Some(out.into()))
}

/// The input's zero point and how sums become elements of this kind: argument `which`.
pub(crate) fn numbers(op: &Op, which: usize, kind: Kind) -> Option<(i32, Output)> {
    let [zero_in, zero_point, min, max] = match kind {
        Kind::I16 if cfg!(feature = "int16") => {
            let word = arg(op, which)?;
            [0, 0, i32::from(word as i16), i32::from((word >> 16) as i16)]
        }
        _ => bytes_arg(op, which)?.map(|b| i32::from(b as i8)),
    };
    let output = Output { zero_point, min, max, rounding: rounding(op), narrow: op.flags & NARROW != 0 };
    ensure(min <= max)?;
    Some((zero_in, output))
}

/// The slots of arguments 0 and 1: input and output, both int8 or both int16.
pub(crate) fn slots(image: &Image<'_>, op: &Op) -> Option<[Plain; 2]> {
    let [input, output] = &[Plain::arg(image, op, 0), Plain::arg(image, op, 1)];
    let (input, output) = (input.as_ref()?, output.as_ref()?);
    ensure(input.kind == output.kind)?;
    Some([*input, *output])
}

/// The record of the plain int8 weights that argument `which` names.
pub(crate) fn weights(image: &Image<'_>, op: &Op, which: usize) -> Option<TensorDesc> {
    desc_arg(image, op, which).filter(|desc| ensure(desc.dtype == Dtype::I8).is_some())
}

/// What an op with weights has: a table of channels (argument 3), numbers, the weights' zero point.
pub(crate) struct Sums {
    /// Zero point of the input.
    pub zero_in: i32,
    /// Zero point of the weights.
    pub zero_weights: i32,
    /// How sums become outputs.
    pub output: Output,
}

impl Sums {
    /// Of an op on slots of this kind: numbers in argument `at`, the weights' zero point in the low byte of the next. `None` if
    /// the table is not of `count` channels, or if `products` of each sum are too many to be exact.
    pub(crate) fn new(
        image: &Image<'_>,
        op: &Op,
        kind: Kind,
        at: usize,
        (count, products): (u32, Option<u64>),
    ) -> Option<Self> {
        let numbers = &numbers(op, at, kind);
        let (zero_in, output) = numbers.as_ref()?;
        // The rest of the word is 0.
        let zero = arg(op, at + 1)?;
        let zero_weights = i32::from(zero as i8);
        let desc = &desc_arg(image, op, 3);
        let (desc, words) = (desc.as_ref()?, if kind == Kind::I16 { 4 } else { 3 });
        ensure(desc.dtype == Dtype::I32 && desc.dims == [count, words, 1, 1] && zero <= 0xFF)?;
        ensure(kind == Kind::I16 || op.flags & NARROW == 0)?;
        let most = if zero_weights == 0 { MOST_PRODUCTS } else { MOST_PRODUCTS / 2 };
        ensure(products.is_some_and(|n| n <= most))?;
        Some(Self { zero_in: *zero_in, zero_weights, output: *output })
    }
}

/// The table of channels, argument 3.
pub(crate) fn channels<'a, C: bytemuck::Pod>(image: &Image<'a>, op: &Op) -> Option<&'a [C]> {
    bytemuck::try_cast_slice(image.raw(arg(op, 3)?, Dtype::I32)?).ok()
}

/// A pool's window over `input`: sizes from argument 2 on, the kernel's at 6.
#[must_use]
pub fn pool(op: &Op, input: u32) -> Option<Window> {
    window(op, 2, pair(op, 6)?, input)
}

/// Checks a pool: input and output have one scale and zero point, so it works on their integers.
pub(crate) fn check_pool(image: &Image<'_>, op: &Op) -> Option<()> {
    let slots = &slots(image, op);
    let ([input, output], g) = (slots.as_ref()?, &pool(op, slots.as_ref()?[0].cols));
    let g = g.as_ref()?;
    ensure_output(g, g.channels as u32, output.cols)?;
    let [_, _, down, across] = bytes_arg(op, 4)?;
    let numbers = &numbers(op, 7, input.kind);
    let (zero_in, o) = numbers.as_ref()?;
    ensure(down == 1 && across == 1 && *zero_in == 0 && o.zero_point == 0)
}

/// How a pool folds: from what, and elements of which type.
pub(crate) struct Folds {
    pub start: i32,
    pub of_i8: Fold<i8>,
    pub of_i16: Fold<i16>,
}

/// Runs a pool: folds the taps inside the image.
pub(crate) fn run_pool(r: &mut Run<'_>, op: &Op, folds: &'static Folds, finish: Finish) -> Option<()> {
    let slots = &slots(r.image, op);
    let slots = slots.as_ref()?;
    match slots[0].kind {
        Kind::I16 if cfg!(feature = "int16") => pool_of(r, op, slots, (folds.start, folds.of_i16), finish),
        _ => pool_of(r, op, slots, (folds.start, folds.of_i8), finish),
    }
}

fn pool_of<T: Quantized>(
    r: &mut Run<'_>,
    op: &Op,
    slots: &[Plain; 2],
    fold: (i32, Fold<T>),
    finish: Finish,
) -> Option<()> {
    let mut g = pool(op, slots[0].cols);
    let (g, numbers) = (g.as_mut()?, &numbers(op, 7, slots[0].kind));
    let (_, o) = numbers.as_ref()?;
    let (each, flags) = (cut::pool_each(g), op.flags);
    cut::run::<T, ()>(r, slots, Whole { g, weights: &[], channels: &[], filter: None, each }, move |p| {
        int8::pool2d(p.g, p.from, fold, (finish, flags, o), p.to)
    })
}
