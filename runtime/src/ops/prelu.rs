//! Leaky rectifier with a slope for each channel, TensorFlow Lite's `PRELU`, int8. (With one slope for all it is a `lookup`.)
//!
//! Arguments: in slot (I8, `[rows, channels]`), out slot (I8, the same shape), slopes (I8 `[channels]`), multiplier, shift and zero
//! point of what is not below 0, zero points of input and slopes, multiplier and shift of what is. Flag 1: single rounding.
//! NUMERICS.md, "prelu".

use super::tensor::{Rescale, element_arg};
use super::window::SINGLE_ROUNDING;
use super::{BACKWARD, OpDef, Overlap, Run, arg, ensure, i8_arg, turned};
use core::cell::Cell;

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
    let (input, out, slopes) = (i8_arg(image, op, 0)?, i8_arg(image, op, 1)?, image.raw(arg(op, 2)?, Dtype::I8)?);
    let channels = slopes.len();
    ensure(input.cols == out.cols && (input.cols as usize).checked_rem(channels)? == 0)?;
    element_arg(op, 6, &input)?;
    element_arg(op, 7, &out)?;
    Rescale::new(op, 3, &out).map(|_| ())
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (input, out, slopes) = (i8_arg(r.image, op, 0)?, i8_arg(r.image, op, 1)?, r.image.raw(arg(op, 2)?, Dtype::I8)?);
    let (zero, zero_slope, above) =
        (element_arg(op, 6, &input)?, element_arg(op, 7, &out)?, Rescale::new(op, 3, &out)?);
    let below = Rescale { multiplier: arg(op, 8)? as i32, shift: arg(op, 9)? as i32, ..above };
    let [from, to] = r.cells([&input, &out])?;
    // Not `chunks`: the compiler must see that nothing is divided by zero.
    let channels = slopes.len();
    turned(op, 0..from.len().checked_div(channels)?, |pixel| {
        let at = pixel * channels..pixel * channels + channels;
        let (Some(from), Some(to)) = (from.get(at.clone()), to.get(at)) else { return };
        turned(op, from.iter().zip(to).zip(as_i8(slopes)), |((x, to), slope): ((&Cell<i8>, &Cell<i8>), _)| {
            let x = i32::from(x.get()) - zero;
            let y = if x >= 0 { above.of(x) } else { below.of(x * (i32::from(*slope) - zero_slope)) };
            to.set(y as i8);
        });
    });
    Some(())
}
