//! Energy: the squared size of frequencies, TFLM's `SignalEnergy`.
//!
//! Arguments: in slot (I16 of 2 n: real and imaginary parts), out slot (I32 of n, uint32 bits), first frequency and the one
//! after the last (at most n); the others are 0. NUMERICS.md, "energy".

use super::super::tensor::i32_arg;
use super::super::{OpDef, Overlap, Run, arg, ensure};
use super::{elements, i16_arg};
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef =
    OpDef { code: 54, name: "energy", args: 4, flags: 0, slots: &[0, 1], overlap: Overlap::Apart, check, run };

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (input, output) = (i16_arg(image, op, 0)?, i32_arg(image, op, 1)?);
    ensure(output.cols.checked_mul(2)? == input.cols && arg(op, 2)? <= arg(op, 3)? && arg(op, 3)? <= output.cols)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (input, output) = (i16_arg(r.image, op, 0)?, i32_arg(r.image, op, 1)?);
    let range = arg(op, 2)? as usize..arg(op, 3)? as usize;
    let [x, y] = r.slots([&input, &output])?;
    let (x, y) = (elements::<i16>(&input, x)?, elements::<i32>(&output, y)?);
    for (at, (to, parts)) in y.iter_mut().zip(x.as_chunks::<2>().0).enumerate() {
        let [re, im] = parts.map(|v| i32::from(v) * i32::from(v));
        *to = if range.contains(&at) { re.wrapping_add(im) } else { 0 };
    }
    Some(())
}
