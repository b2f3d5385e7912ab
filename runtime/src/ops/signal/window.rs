//! Window: samples times a window's weights, TFLM's `SignalWindow`.
//!
//! Arguments: in slot (I16), out slot (I16, as many elements), weights (I16, as many), right shift (0 to 31). Flag 2: backward.
//! NUMERICS.md, "window".

use super::super::tensor::Elements;
use super::super::{BACKWARD, OpDef, Overlap, Run, arg, ensure, turned};
use super::{half, halves, i16_arg};
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef = OpDef {
    code: 51,
    name: "window",
    args: 4,
    flags: BACKWARD,
    slots: &[0, 1],
    overlap: Overlap::Elements(&[(0, 1)]),
    check,
    run,
};

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (input, output, weights) = (i16_arg(image, op, 0)?, i16_arg(image, op, 1)?, halves(image, op, 2)?);
    ensure(input.cols == output.cols && weights.len() == output.cols as usize && arg(op, 3)? <= 31)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (input, output) = (i16_arg(r.image, op, 0)?, i16_arg(r.image, op, 1)?);
    let (weights, shift) = (halves(r.image, op, 2)?, arg(op, 3)?);
    let [x, to] = Elements::of(r, [&input, &output])?;
    let mut done = Some(());
    turned(op, 0..output.cols as usize, |at| {
        let value = x.get(at).zip(half(weights, at)).map(|(x, w)| (x * w).wrapping_shr(shift));
        done = done.and(value.and_then(|v| to.put(at, v.max(i16::MIN.into()).min(i16::MAX.into()))));
    });
    done
}
