//! Layer, group and instance normalization of int8, and RMS normalization: `(x - mean) / sqrt(variance + eps) * gain + bias`.
//!
//! Arguments: in slot (I8), out slot (I8, as large), gains (I16 `[inner * width]`, with an exponent, in steps of the output),
//! biases (I32 likewise), depth, inner, width, eps low and high word, numbers (`ops/window.rs`). Flag 1: the mean counts as 0.
//! NUMERICS.md, "norm".
//!
//! The input is [outer, depth, inner, width]; all of depth and width are normalised together, for each outer and inner one.
//! Layer normalization has depth and inner 1, instance normalization of an image depth = pixels, inner = channels, width 1,
//! group normalization depth = pixels, inner = groups, width = channels of a group.

use super::{OpDef, Overlap, Run, arg, desc_arg, ensure, i8_arg, i8_cols, part, window};
use crate::fixed::rsqrt::rsqrt;
use crate::fixed::{saturate, shift_round};
use crate::image::plan::Kind;
use crate::image::{Dtype, Image, Op, Vector16};

/// The op.
pub static OP: OpDef =
    OpDef { code: 32, name: "norm", args: 10, flags: NO_MEAN, slots: &[0, 1], overlap: Overlap::Apart, check, run };

/// Flag: deviations are from the zero point, not from the mean.
pub const NO_MEAN: u16 = 1;

/// Elements that are normalised together, at most: with these the sum of squares, scaled, fits u64.
const MOST: usize = 1 << 18;
/// Fraction bits of the scaled variance and of eps.
pub const EPS_FRAC: i32 = 8;
/// Fraction bits of a normalised value.
pub const NORM_FRAC: i32 = 20;

struct Parts<'a> {
    depth: usize,
    inner: usize,
    width: usize,
    gains: Vector16<'a>,
    biases: &'a [[u8; 4]],
    /// Bits that bring a bias to the fraction of a product, 0 to 31.
    lift: u32,
}

fn parts<'a>(image: &Image<'a>, op: &Op) -> Option<Parts<'a>> {
    let [depth, inner, width] = [arg(op, 4)?, arg(op, 5)?, arg(op, 6)?].map(|d| d as usize);
    let channels = u32::try_from(inner.checked_mul(width)?).ok()?;
    let (gain, bias) = (desc_arg(image, op, 2)?, desc_arg(image, op, 3)?);
    ensure(gain.dims == [channels, 1, 1, 1] && bias.dims == gain.dims && depth.checked_mul(width)? <= MOST)?;
    let lift = u32::try_from(NORM_FRAC + gain.exponent - bias.exponent).ok()?;
    let biases = image.raw(arg(op, 3)?, Dtype::I32)?.as_chunks::<4>().0;
    (lift < 32).then_some(Parts { depth, inner, width, gains: image.vector16(arg(op, 2)?)?, biases, lift })
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let p = parts(image, op)?;
    let cols = i8_arg(image, op, 0)?.cols;
    let each = p.depth.checked_mul(p.inner)?.checked_mul(p.width)?;
    ensure((cols as usize).checked_rem(each)? == 0 && i8_arg(image, op, 1)?.cols == cols)?;
    window::numbers(op, 9, Kind::I8).map(|_| ())
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let p = parts(r.image, op)?;
    let (input, output) = (i8_arg(r.image, op, 0)?, i8_arg(r.image, op, 1)?);
    let (zero_point, o) = window::numbers(op, 9, Kind::I8)?;
    let eps = u64::from(arg(op, 7)?) | u64::from(arg(op, 8)?) << 32;
    let (count, channels) = ((p.depth * p.width) as i64, p.inner * p.width);
    let shift = NORM_FRAC + p.gains.exponent;
    let [from, to] = r.slots([&input, &output])?;
    let (from, to) = (&*i8_cols(&input, from)?, i8_cols(&output, to)?);
    for outer in (0..from.len()).step_by((p.depth * channels).max(1)) {
        for first in (0..channels).step_by(p.width.max(1)) {
            // Where the rows of this group begin.
            let rows = || (outer + first..).step_by(channels.max(1)).take(p.depth);
            let (mut sum, mut squares) = (0i64, 0i64);
            for row in rows() {
                for x in from.get(row..)?.get(..p.width)? {
                    let x = i64::from(i32::from(*x) - zero_point);
                    sum += x;
                    squares += x * x;
                }
            }
            let sum = if op.flags & NO_MEAN != 0 { 0 } else { sum };
            let scaled = (count * squares - sum * sum) as u64;
            let (root, half) = rsqrt((scaled << EPS_FRAC).saturating_add(eps));
            let norm_shift = half as i32 + 30 - NORM_FRAC - EPS_FRAC / 2;
            for row in rows() {
                let constants = p.gains.iter().zip(p.biases).skip(first);
                let pixels = from.get(row..)?.get(..p.width)?.iter().zip(part(to, row, p.width)?);
                for ((x, to), (gain, bias)) in pixels.zip(constants) {
                    let deviation = count * i64::from(i32::from(*x) - zero_point) - sum;
                    let normal = saturate(shift_round(deviation * i64::from(root), norm_shift));
                    let bias = i64::from(i32::from_le_bytes(*bias)) << p.lift;
                    *to = o.clamp(saturate(shift_round(i64::from(normal) * i64::from(gain) + bias, shift)));
                }
            }
        }
    }
    Some(())
}
