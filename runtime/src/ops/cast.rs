//! Cast: integers to another width, TensorFlow Lite's `CAST`: wider ones keep their sign, narrower ones their low bits.
//!
//! Arguments: in slot, out slot (plain tensors of as many elements). Flag 2: backward. NUMERICS.md, "cast".

use super::tensor::{elementwise, tensor_arg};
use super::{BACKWARD, OpDef, Overlap, Run, ensure};
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef = OpDef {
    code: 59,
    name: "cast",
    args: 2,
    flags: BACKWARD,
    slots: &[0, 1],
    overlap: Overlap::Elements(&[(0, 1)]),
    check,
    run,
};

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    ensure(tensor_arg(image, op, 0)?.cols == tensor_arg(image, op, 1)?.cols)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (input, output) = (tensor_arg(r.image, op, 0)?, tensor_arg(r.image, op, 1)?);
    elementwise(r, op, [&input, &input, &output], &|x, _| x)
}
