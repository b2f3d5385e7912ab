//! Where the largest element of one dimension is: TensorFlow Lite's `ARG_MAX` and `ARG_MIN`. Of equal ones the first.
//!
//! Arguments: in slot (plain, `[outer, count, inner]`), out slot (I32, `[outer, inner]`), count, inner. Flag 1: the smallest.
//! NUMERICS.md, "arg_max".

use super::tensor::{Around, Elements, around, i32_arg, tensor_arg};
use super::{OpDef, Overlap, Run, ensure};
use crate::image::{Image, Op};

/// Flag: the smallest element.
pub const MINIMUM: u16 = 1;

/// The op.
pub static OP: OpDef =
    OpDef { code: 25, name: "arg_max", args: 4, flags: MINIMUM, slots: &[0, 1], overlap: Overlap::Apart, check, run };

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (input, out) = (tensor_arg(image, op, 0)?, i32_arg(image, op, 1)?);
    let a = around(op, 2, &input)?;
    ensure(a.outer.checked_mul(a.inner)? == out.cols as usize)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (input, out) = (tensor_arg(r.image, op, 0)?, i32_arg(r.image, op, 1)?);
    let Around { outer, count, inner } = around(op, 2, &input)?;
    let [from, to] = Elements::of(r, [&input, &out])?;
    for (o, i) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
        let (mut best, mut place) = (from.get(o * count * inner + i)?, 0);
        for n in 1..count {
            let x = from.get((o * count + n) * inner + i)?;
            if if op.flags & MINIMUM != 0 { x < best } else { x > best } {
                (best, place) = (x, n);
            }
        }
        to.put(o * inner + i, place as i32)?;
    }
    Some(())
}
