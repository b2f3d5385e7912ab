//! Maximum or minimum of two tensors of one shape, scale and zero point, TensorFlow Lite's `MAXIMUM` and `MINIMUM`.
//!
//! Arguments: first slot, second slot, out slot (plain tensors of one type). Flag 1: the minimum; 2: backward. NUMERICS.md, "maximum".

use super::tensor::{elementwise, tensor_arg};
use super::{BACKWARD, OpDef, Overlap, Run, ensure};
use crate::image::{Image, Op};

/// Flag: the minimum.
pub const MINIMUM: u16 = 1;

/// The op.
pub static OP: OpDef = OpDef {
    code: 21,
    name: "maximum",
    args: 3,
    flags: MINIMUM | BACKWARD,
    slots: &[0, 1, 2],
    overlap: Overlap::Elements(&[(0, 1), (0, 2), (1, 2)]),
    check,
    run,
};

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let [a, b, out] = [tensor_arg(image, op, 0)?, tensor_arg(image, op, 1)?, tensor_arg(image, op, 2)?];
    ensure(a.kind == out.kind && b.kind == out.kind && a.cols == out.cols && b.cols == out.cols)?;
    ensure(a.frac == out.frac && b.frac == out.frac)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let [a, b, out] = [tensor_arg(r.image, op, 0)?, tensor_arg(r.image, op, 1)?, tensor_arg(r.image, op, 2)?];
    let least = op.flags & MINIMUM != 0;
    elementwise(r, op, [&a, &b, &out], &|x, y| if least { x.min(y) } else { x.max(y) })
}
