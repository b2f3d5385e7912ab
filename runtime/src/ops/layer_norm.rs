//! Layer norm: `out = (x - mean(x)) / sqrt(var(x) + eps) * gamma + beta`, over a row.
//!
//! Arguments: in slot (I32), out slot (I32, the same shape), gamma (I16 `[cols]`), beta (I32 `[cols]` with the out slot's
//! fraction bits), eps low and high word, mantissa and exponent of sqrt(cols). Mean and variance are exact: what is
//! normalised is `cols * x - sum`, so nothing is divided, and `eps` is stored as `eps * cols^3 * 2^(2 frac)`.
//! NUMERICS.md, "layer norm".

use super::{I32Rows, OpDef, Overlap, Run, arg, desc_arg, ensure, slot_arg};
use crate::fixed::{saturate, shift_round};
use crate::image::plan::Kind;
use crate::image::{Dtype, Image, Op};
use crate::kernels::scalar::rows::{NORM_FRAC, normaliser};

/// The op.
pub static OP: OpDef =
    OpDef { code: 40, name: "layer_norm", args: 8, flags: 0, slots: &[0, 1], overlap: Overlap::Apart, check, run };

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let input = &slot_arg(image, op, 0, Kind::I32);
    let input = input.as_ref()?;
    let out = &slot_arg(image, op, 1, Kind::I32);
    let out = out.as_ref()?;
    ensure(input.rows == out.rows && input.cols == out.cols && input.cols <= 1 << 17)?;
    let dims = [input.cols, 1, 1, 1];
    image.vector16(arg(op, 2)?)?;
    ensure(desc_arg(image, op, 2)?.dims == dims)?;
    let beta = &desc_arg(image, op, 3);
    let beta = beta.as_ref()?;
    ensure(beta.dtype == Dtype::I32 && beta.dims == dims && beta.exponent == i32::from(out.frac))?;
    // eps below 2^63: with the squares it stays in 64 bits.
    ensure(arg(op, 5)? < 1 << 31 && arg(op, 6)? < 1 << 16 && arg(op, 7)? < 64)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let input = &slot_arg(r.image, op, 0, Kind::I32);
    let input = input.as_ref()?;
    let output = &slot_arg(r.image, op, 1, Kind::I32);
    let output = output.as_ref()?;
    let gamma = r.image.vector16(arg(op, 2)?)?;
    let beta = r.image.raw(arg(op, 3)?, Dtype::I32)?.as_chunks::<4>().0;
    let eps = u64::from(arg(op, 4)?) | u64::from(arg(op, 5)?) << 32;
    let root = (u64::from(arg(op, 6)?), arg(op, 7)? as i32);
    let rows = r.part.of(r.rows_of(input));
    let [from, to] = r.slots([input, output])?;
    let (mut from, mut to) = (I32Rows::new(input, from)?, I32Rows::new(output, to)?);
    let shift_gamma = NORM_FRAC + gamma.exponent - i32::from(output.frac);
    for row in rows {
        let y = to.row(row)?;
        let lost = centre(from.row(row)?, y);
        let (unit, shift) = normaliser(y, eps.checked_shr(2 * lost).unwrap_or(0), root);
        for ((y, gamma), beta) in y.iter_mut().zip(gamma.iter()).zip(beta) {
            let normal = i64::from(saturate(shift_round(i64::from(*y) * unit, shift)));
            let scaled = shift_round(normal * i64::from(gamma), shift_gamma);
            *y = saturate(scaled.saturating_add(i64::from(i32::from_le_bytes(*beta))));
        }
    }
    Some(())
}

/// `out = (cols * x - sum(x)) * 2^-lost`, rounded, with the least `lost` at which every value fits 32 bits.
fn centre(x: &[i32], out: &mut [i32]) -> u32 {
    let (n, sum) = (x.len() as i64, x.iter().map(|x| i64::from(*x)).sum::<i64>());
    // |n x| and |sum| are at most 2^17 * 2^31.
    let centred = |x: &i32| i64::from(*x).wrapping_mul(n).wrapping_sub(sum);
    let most = x.iter().map(|x| centred(x).unsigned_abs()).fold(0, u64::max);
    let lost = (64 - most.leading_zeros()).saturating_sub(31);
    for (out, x) in out.iter_mut().zip(x) {
        *out = saturate(shift_round(centred(x), lost as i32));
    }
    lost
}
