//! Auto scale: samples shifted left as far as the largest allows, TFLM's `SignalFftAutoScale`.
//!
//! Arguments: in slot (I16), out slot (I16, as many elements), slot of the shift (I32, one element). NUMERICS.md, "auto_scale".

use super::super::tensor::i32_arg;
use super::super::{OpDef, Overlap, Run, ensure};
use super::{elements, i16_arg, width};
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef =
    OpDef { code: 52, name: "auto_scale", args: 3, flags: 0, slots: &[0, 1, 2], overlap: Overlap::Apart, check, run };

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (input, output, bits) = (i16_arg(image, op, 0)?, i16_arg(image, op, 1)?, i32_arg(image, op, 2)?);
    ensure(input.cols == output.cols && bits.cols == 1)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (input, output, bits) = (i16_arg(r.image, op, 0)?, i16_arg(r.image, op, 1)?, i32_arg(r.image, op, 2)?);
    let [x, y, b] = r.slots([&input, &output, &bits])?;
    let (x, y) = (elements::<i16>(&input, x)?, elements::<i16>(&output, y)?);
    // The largest size, in int16 as TFLM has it: -32768 has no size, and the search begins anew below it.
    let mut largest = 0i16;
    for value in x.iter() {
        if *value > largest {
            largest = *value;
        } else if -i32::from(*value) > largest.into() {
            largest = value.wrapping_neg();
        }
    }
    let shift = 15u32.saturating_sub(width(i32::from(largest) as u32));
    for (to, value) in y.iter_mut().zip(x.iter()) {
        *to = value.wrapping_shl(shift);
    }
    *elements::<i32>(&bits, b)?.first_mut()? = shift as i32;
    Some(())
}
