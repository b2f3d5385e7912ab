//! RMS norm: `out = x / sqrt(mean(x^2) + eps) * gamma`, over each `width` columns of a row.
//!
//! Arguments: in slot (I32), out slot (I32, the same shape), gamma (I16 `[width]`, or none), eps low and high word,
//! mantissa and exponent of sqrt(width), width. `eps` is stored as `eps * width * 2^(2 frac)`, so that the sum of
//! squares needs no division. NUMERICS.md, "rms_norm".

use super::{I32Rows, OpDef, Overlap, Run, arg, ensure, optional, part, slot_arg};
use crate::fixed::rsqrt::rsqrt;
use crate::fixed::{requantize, saturate, shift_round};
use crate::image::plan::Kind;
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef =
    OpDef { code: 3, name: "rms_norm", args: 8, flags: 0, slots: &[0, 1], overlap: Overlap::Apart, check, run };

/// Bits of |x| that enter the sum of squares: 2^17 squares of 23 bits fit u64.
const SQUARE_BITS: u32 = 23;
/// Fraction bits of the normalised value before gamma.
pub(super) const NORM_FRAC: i32 = 22;

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let input = slot_arg(image, op, 0, Kind::I32)?;
    let out = slot_arg(image, op, 1, Kind::I32)?;
    ensure(input.rows == out.rows && input.cols == out.cols)?;
    let width = arg(op, 7)?;
    ensure(width != 0 && width <= 1 << 17 && input.cols.is_multiple_of(width))?;
    ensure(arg(op, 5)? < 1 << 16 && arg(op, 6)? < 64)?;
    optional(op, 2).map_or(Some(()), |gamma| {
        image.vector16(gamma)?;
        ensure(image.tensor(gamma).ok()?.dims == [width, 1, 1, 1])
    })
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let input = slot_arg(r.image, op, 0, Kind::I32)?;
    let output = slot_arg(r.image, op, 1, Kind::I32)?;
    let gamma = optional(op, 2).and_then(|g| r.image.vector16(g));
    let eps = u64::from(arg(op, 3)?) | u64::from(arg(op, 4)?) << 32;
    let root = (u64::from(arg(op, 5)?), arg(op, 6)? as i32);
    let width = arg(op, 7)? as usize;
    let rows = r.rows_of(&input);
    let [from, to] = r.slots([&input, &output])?;
    let (mut from, mut to) = (I32Rows::new(&input, from)?, I32Rows::new(&output, to)?);
    let out_frac = i32::from(output.frac);
    for row in 0..rows {
        let (x, y) = (from.row(row)?, to.row(row)?);
        let mut start = 0;
        while let (Some(x), Some(y)) = (part(x, start, width), part(y, start, width)) {
            let (unit, shift) = normaliser(x, eps, root);
            let normal = |x: i32| shift_round(i64::from(x) * unit, shift);
            match gamma {
                Some(gamma) => {
                    let shift = NORM_FRAC + gamma.exponent - out_frac;
                    for ((y, x), g) in y.iter_mut().zip(x.iter()).zip(gamma.iter()) {
                        *y = saturate(shift_round(i64::from(saturate(normal(*x))) * i64::from(g), shift));
                    }
                }
                None => {
                    for (y, x) in y.iter_mut().zip(x.iter()) {
                        *y = saturate(shift_round(normal(*x), NORM_FRAC - out_frac));
                    }
                }
            }
            start += width;
        }
    }
    Some(())
}

/// `(unit, shift)`: `x / rms` in Q22 is `shift_round(x * unit, shift)`. `unit` is at most 2^31, so the product fits.
pub(super) fn normaliser(x: &[i32], eps: u64, (root_mant, root_exp): (u64, i32)) -> (i64, i32) {
    let bits = 32 - requantize::amax(x).leading_zeros();
    let drop = bits.saturating_sub(SQUARE_BITS);
    let sum = x.iter().fold(0u64, |sum, x| {
        let x = shift_round(i64::from(*x), drop as i32);
        sum.wrapping_add((x * x) as u64)
    });
    let sum = sum.saturating_add(eps.checked_shr(2 * drop).unwrap_or(0));
    if sum == 0 {
        return (0, 0);
    }
    let (root, half) = rsqrt(sum);
    let unit = shift_round((u64::from(root) * root_mant) as i64, 16);
    (unit, half as i32 + drop as i32 + root_exp - 8)
}
