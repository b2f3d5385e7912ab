//! Pcan: per-channel amplitude normalization by the noise (Wang et al., arXiv 1607.05666), TFLM's `SignalPCAN`.
//!
//! Arguments: in slot, slot of the noise, out slot (I32, as many elements, uint32 bits), gains (I16 of 125: those of noise 0 and 1,
//! then from each power of two on a value and two coefficients, one unused), right shift of the product (0 to 63). Flag 2:
//! backward. NUMERICS.md, "pcan".

use super::super::tensor::{elementwise, i32_arg};
use super::super::{BACKWARD, OpDef, Overlap, Run, arg, ensure};
use super::{half, halves, width};
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef = OpDef {
    code: 57,
    name: "pcan",
    args: 5,
    flags: BACKWARD,
    slots: &[0, 1, 2],
    overlap: Overlap::Elements(&[(0, 1), (0, 2), (1, 2)]),
    check,
    run,
};

fn gains<'a>(image: &Image<'a>, op: &Op) -> Option<&'a [[u8; 2]; 125]> {
    halves(image, op, 3)?.try_into().ok()
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let [x, noise, out] = [i32_arg(image, op, 0)?, i32_arg(image, op, 1)?, i32_arg(image, op, 2)?];
    gains(image, op)?;
    ensure(x.cols == out.cols && noise.cols == out.cols && arg(op, 4)? <= 63)
}

/// The gain for a noise: a parabola from its highest bit on, in Q15 of ten bits.
fn gain(gains: &[[u8; 2]; 125], noise: u32) -> i16 {
    let at = |at: u32| half(gains, at as usize).unwrap_or(0);
    if noise <= 2 {
        return at(noise) as i16;
    }
    let bits = width(noise);
    let first = (4 * bits).saturating_sub(6);
    let aligned = if bits < 11 { noise.wrapping_shl(11 - bits) } else { noise.wrapping_shr(bits - 11) };
    let fraction = (aligned & 0x3FF) as i32;
    let slope = ((at(first + 2) * fraction) >> 5).wrapping_add(at(first + 1) << 5);
    (slope.wrapping_mul(fraction).wrapping_add(1 << 14) >> 15).wrapping_add(at(first)) as i16
}

/// x^2 / 4 below 2, x - 1 from there on; x with 12 fraction bits, the result with 6.
fn shrunk(x: u32) -> u32 {
    if x < 2 << 12 { x.wrapping_mul(x) >> 20 } else { (x >> 6).wrapping_sub(1 << 6) }
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let [x, noise, out] = [i32_arg(r.image, op, 0)?, i32_arg(r.image, op, 1)?, i32_arg(r.image, op, 2)?];
    let (gains, shift) = (gains(r.image, op)?, arg(op, 4)?);
    elementwise(r, op, [&x, &noise, &out], &|x, noise| {
        let gain = i32::from(gain(gains, noise as u32)) as u32;
        shrunk(u64::from(x as u32).wrapping_mul(gain.into()).wrapping_shr(shift) as u32) as i32
    })
}
