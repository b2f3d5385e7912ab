//! Sum, difference, product or quotient of two tensors of int32: integers as they are, modulo 2^32, without scales.
//!
//! Arguments: first slot, second slot, out slot (I32, as many elements), which: 0 sum, 1 difference, 2 product, 3 quotient (towards
//! zero; by 0: 0). Flag 2: backward. NUMERICS.md, "arithmetic".

use super::tensor::{elementwise, i32_arg};
use super::{BACKWARD, OpDef, Overlap, Run, arg, ensure};
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef = OpDef {
    code: 48,
    name: "arithmetic",
    args: 4,
    flags: BACKWARD,
    slots: &[0, 1, 2],
    overlap: Overlap::Elements(&[(0, 1), (0, 2), (1, 2)]),
    check,
    run,
};

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let [a, b, out] = [i32_arg(image, op, 0)?, i32_arg(image, op, 1)?, i32_arg(image, op, 2)?];
    ensure(a.cols == out.cols && b.cols == out.cols && arg(op, 3)? <= 3)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let [a, b, out] = [i32_arg(r.image, op, 0)?, i32_arg(r.image, op, 1)?, i32_arg(r.image, op, 2)?];
    let which = arg(op, 3)?;
    elementwise(r, op, [&a, &b, &out], &|x, y| match which {
        0 => x.wrapping_add(y),
        1 => x.wrapping_sub(y),
        2 => x.wrapping_mul(y),
        _ if y == 0 => 0,
        _ => x.wrapping_div(y),
    })
}
