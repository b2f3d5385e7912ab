//! Log: natural logarithms, TFLM's `SignalFilterBankLog`.
//!
//! Arguments: in slot (I32, uint32 bits), out slot (I16, as many elements), table (I16 of 129: what log2(1 + i / 128) is above
//! i / 128, in Q16), factor of the result, left shift of the input (0 to 31). NUMERICS.md, "log".

use super::super::tensor::i32_arg;
use super::super::{OpDef, Overlap, Run, arg, ensure};
use super::{elements, half, halves, i16_arg};
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef =
    OpDef { code: 58, name: "log", args: 5, flags: 0, slots: &[0, 1], overlap: Overlap::Apart, check, run };

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (input, output) = (i32_arg(image, op, 0)?, i16_arg(image, op, 1)?);
    ensure(input.cols == output.cols && halves(image, op, 2)?.len() == 129 && arg(op, 4)? <= 31)
}

/// log2 of x >= 2 in Q16.
fn log2(table: &[[u8; 2]], x: u32) -> u32 {
    let whole = 31 - x.leading_zeros().min(31);
    // The bits below the highest one, as Q16.
    let below = x ^ 1u32.wrapping_shl(whole);
    let fraction = if whole < 16 { below.wrapping_shl(16 - whole) } else { below.wrapping_shr(whole - 16) } as i32;
    let at = |at: i32| half(table, at as usize).unwrap_or(0);
    let segment = fraction >> 9;
    let (low, high) = (at(segment), at(segment + 1));
    let between = ((high - low) * (fraction & 511)) >> 16;
    (whole << 16).wrapping_add((fraction + low + between) as u32)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    /// ln 2 in Q16.
    const LN_2: u64 = 45_426;
    let (input, output, table) = (i32_arg(r.image, op, 0)?, i16_arg(r.image, op, 1)?, halves(r.image, op, 2)?);
    let (factor, up) = (arg(op, 3)?, arg(op, 4)?);
    let [x, y] = r.slots([&input, &output])?;
    for (to, x) in elements::<i16>(&output, y)?.iter_mut().zip(elements::<i32>(&input, x)?.iter()) {
        let x = (*x as u32).wrapping_shl(up);
        let ln = ((LN_2 * u64::from(log2(table, x)) + (1 << 15)) >> 16) as u32;
        let scaled = factor.wrapping_mul(ln).wrapping_add(1 << 15) >> 16;
        *to = if x > 1 { scaled.min(i16::MAX as u32) as i16 } else { 0 };
    }
    Some(())
}
