//! Leaky rectifier with a slope for each channel, TensorFlow Lite's `PRELU`, int8 or int16. With one slope it is `LEAKY_RELU` (of
//! int8 a `lookup` is).
//!
//! Arguments: in slot (I8 or I16, `[rows, channels]`), out slot (the same), slopes (I8 `[channels]`), multiplier, shift and zero
//! point of what is not below 0, zero points of input and slopes, multiplier and shift of what is. Flag 1: single rounding.
//! NUMERICS.md, "prelu".

use core::num::NonZeroUsize;

use super::tensor::{Elements, Rescale, element_arg, quantized_arg};
use super::window::SINGLE_ROUNDING;
use super::{BACKWARD, OpDef, Overlap, Run, arg, ensure, turned};
use crate::image::{Dtype, Image, Op};
use crate::view::as_i8;

/// The op.
pub static OP: OpDef = OpDef {
    code: 39,
    name: "prelu",
    args: 10,
    flags: SINGLE_ROUNDING | BACKWARD,
    slots: &[0, 1],
    overlap: Overlap::Elements(&[(0, 1)]),
    check,
    run,
};

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (input, out, slopes) = (quantized_arg(image, op, 0)?, quantized_arg(image, op, 1)?, slopes(image, op)?);
    ensure(input.kind == out.kind && input.cols == out.cols)?;
    ensure((input.cols as usize).checked_rem(slopes.len())? == 0)?;
    element_arg(op, 6, &input)?;
    i8::try_from(arg(op, 7)? as i32).ok()?;
    Rescale::new(op, 3, &out).map(|_| ())
}

fn slopes<'a>(image: &Image<'a>, op: &Op) -> Option<&'a [i8]> {
    image.raw(arg(op, 2)?, Dtype::I8).map(as_i8)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (input, out, slopes) = (quantized_arg(r.image, op, 0)?, quantized_arg(r.image, op, 1)?, slopes(r.image, op)?);
    let (zero, zero_slope, above) = (element_arg(op, 6, &input)?, arg(op, 7)? as i32, Rescale::new(op, 3, &out)?);
    let below = Rescale { multiplier: arg(op, 8)? as i32, shift: arg(op, 9)? as i32, ..above };
    let channels = NonZeroUsize::new(slopes.len())?;
    let [from, to] = Elements::of(r, [&input, &out])?;
    let mut done = Some(());
    turned(op, 0..out.cols as usize, |at| {
        let slope = slopes.get(at % channels).map_or(0, |slope| i32::from(*slope) - zero_slope);
        let value = from.get(at).map(|x| x - zero).map(|x| if x >= 0 { above.of(x) } else { below.of(x * slope) });
        done = done.and(value.and_then(|value| to.put(at, value)));
    });
    done
}
