//! Sum of two int8 tensors of one shape, TensorFlow Lite's `ADD`.
//!
//! Arguments: first slot (I8), second slot (I8), out slot (I8), multipliers of first, second and sum, their shifts (a byte
//! each), zero points of first and second (a byte each), numbers without an input's zero point (`ops/window.rs`). Flag 1:
//! single rounding; 2: backward. NUMERICS.md, "add".

use super::window::{self, SINGLE_ROUNDING};
use super::{BACKWARD, OpDef, Overlap, Run, arg, bytes_arg, ensure, i8_arg, turned};
use crate::fixed::tflite::requantize;
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef = OpDef {
    code: 15,
    name: "add",
    args: 9,
    flags: SINGLE_ROUNDING | BACKWARD,
    slots: &[0, 1, 2],
    overlap: Overlap::Elements(&[(0, 1), (0, 2), (1, 2)]),
    check,
    run,
};

/// Bits that both terms are moved up by before they are brought to one scale.
const HEAD_ROOM: u32 = 20;

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (a, b, out) = (i8_arg(image, op, 0)?, i8_arg(image, op, 1)?, i8_arg(image, op, 2)?);
    let ([.., c, d], [.., e]) = (bytes_arg(op, 7)?, bytes_arg(op, 6)?);
    let (zero_in, _) = window::numbers(op, 8)?;
    ensure(a.cols == b.cols && a.cols == out.cols && zero_in == 0 && [c, d, e] == [0; 3])
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (a, b, out) = (i8_arg(r.image, op, 0)?, i8_arg(r.image, op, 1)?, i8_arg(r.image, op, 2)?);
    let multiplier = |which| arg(op, which).map(|m| m as i32);
    let (ma, mb, mo) = (multiplier(3)?, multiplier(4)?, multiplier(5)?);
    let [sa, sb, so, _] = bytes_arg(op, 6)?.map(|b| i32::from(b as i8));
    let [za, zb, ..] = bytes_arg(op, 7)?.map(|b| i32::from(b as i8));
    let (_, o) = window::numbers(op, 8)?;
    let [x, y, to] = r.cells([&a, &b, &out])?;
    turned(op, x.iter().zip(y).zip(to), |((x, y), to)| {
        let x = requantize((i32::from(x.get()) - za) << HEAD_ROOM, ma, sa, o.rounding);
        let y = requantize((i32::from(y.get()) - zb) << HEAD_ROOM, mb, sb, o.rounding);
        to.set(o.clamp(requantize(x.wrapping_add(y), mo, so, o.rounding)));
    });
    Some(())
}
