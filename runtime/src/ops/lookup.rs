//! Lookup: any function of int8 to int8 by a table of its 256 values, of int16 to int16 by 512 steps. Unary functions, changes of
//! scale and zero point, int8 from uint8 and back.
//!
//! Arguments: in slot, out slot (both I8 or both I16, as many elements), table: of I8 an I8 or U8 of 256 values, those of 0 to 127,
//! then of -128 to -1; of I16 an I16 of 513, those at -32768, -32640 and so on, straight between. Flag 2: backward. NUMERICS.md,
//! "lookup".

use super::tensor::{Plain, Steps, elementwise, quantized_arg};
use super::{BACKWARD, OpDef, Overlap, Run, arg, cut, ensure, turned};
use crate::image::plan::Kind;
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

/// Products that take as long as looking up an element.
const EACH: usize = 64;

fn table<'a>(image: &Image<'a>, op: &Op) -> Option<&'a [u8; 256]> {
    let index = arg(op, 2)?;
    let bytes = image.raw(index, Dtype::I8).or_else(|| image.raw(index, Dtype::U8))?;
    bytes.try_into().ok()
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (input, output) = (quantized_arg(image, op, 0)?, quantized_arg(image, op, 1)?);
    ensure(input.kind == output.kind && input.cols == output.cols)?;
    if input.kind == Kind::I8 { table(image, op).map(|_| ()) } else { Steps::new(image, op, 2).map(|_| ()) }
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (input, output) = (quantized_arg(r.image, op, 0)?, quantized_arg(r.image, op, 1)?);
    if cfg!(feature = "int16") && input.kind == Kind::I16 {
        let steps = Steps::new(r.image, op, 2)?;
        return elementwise(r, op, [&input, &input, &output], &|x, _| steps.at(x as i16).into());
    }
    let table = table(r.image, op)?;
    let slots = [&Plain::arg(r.image, op, 0)?, &Plain::arg(r.image, op, 1)?];
    cut::run_elements::<u8, 2>(r, slots, EACH, |[from, to]| {
        turned(op, from.iter().zip(to), |(from, to)| to.set(table[usize::from(from.get())]));
    })
}
