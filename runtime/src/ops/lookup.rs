//! Lookup: any function of int8 to int8, by a table of its 256 values. Unary functions, changes of scale and zero point, int8
//! from uint8 and back.
//!
//! Arguments: in slot (I8), out slot (I8, as many elements), table (I8 or U8, 256 values: of 0 to 127, then of -128 to -1).
//! Flag 2: backward. NUMERICS.md, "lookup".

use super::{BACKWARD, OpDef, Overlap, Run, arg, ensure, i8_arg, turned};
use crate::image::{Dtype, Image, Op};

/// The op.
pub static OP: OpDef = OpDef {
    code: 17,
    name: "lookup",
    args: 3,
    flags: BACKWARD,
    slots: &[0, 1],
    overlap: Overlap::Elements(&[(0, 1)]),
    check,
    run,
};

fn table<'a>(image: &Image<'a>, op: &Op) -> Option<&'a [u8; 256]> {
    let index = arg(op, 2)?;
    let bytes = image.raw(index, Dtype::I8).or_else(|| image.raw(index, Dtype::U8))?;
    bytes.try_into().ok()
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    table(image, op)?;
    ensure(i8_arg(image, op, 0)?.cols == i8_arg(image, op, 1)?.cols)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (input, output, table) = (i8_arg(r.image, op, 0)?, i8_arg(r.image, op, 1)?, table(r.image, op)?);
    let [from, to] = r.cells::<u8, 2>([&input, &output])?;
    turned(op, from.iter().zip(to), |(from, to)| to.set(table[usize::from(from.get())]));
    Some(())
}
