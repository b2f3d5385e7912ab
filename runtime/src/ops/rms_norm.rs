//! RMS norm: `out = x / sqrt(mean(x^2) + eps) * gamma`, over each `width` columns of a row.
//!
//! Arguments: in slot (I32), out slot (I32, the same shape), gamma (I16 `[width]`, or none), eps low and high word,
//! mantissa and exponent of sqrt(width), width. `eps` is stored as `eps * width * 2^(2 frac)`, so that the sum of
//! squares needs no division. NUMERICS.md, "rms_norm".

use super::{I32Rows, OpDef, Overlap, Run, arg, ensure, optional, rows_of, slot_arg};
use crate::image::plan::Kind;
use crate::image::{Image, Op};
use crate::kernels::rows;
use crate::view::for_rows;

/// The op.
pub static OP: OpDef =
    OpDef { code: 3, name: "rms_norm", args: 8, flags: 0, slots: &[0, 1], overlap: Overlap::Apart, check, run };

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let input = &slot_arg(image, op, 0, Kind::I32);
    let input = input.as_ref()?;
    let out = &slot_arg(image, op, 1, Kind::I32);
    let out = out.as_ref()?;
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
    let input = &slot_arg(r.image, op, 0, Kind::I32);
    let input = input.as_ref()?;
    let output = &slot_arg(r.image, op, 1, Kind::I32);
    let output = output.as_ref()?;
    let gamma = optional(op, 2).and_then(|g| r.image.vector16(g));
    let eps = u64::from(arg(op, 3)?) | u64::from(arg(op, 4)?) << 32;
    let root = (u64::from(arg(op, 5)?), arg(op, 6)? as i32);
    let width = arg(op, 7)? as usize;
    let (rows, cols, isa) = (r.part.of(r.rows_of(input)), input.cols as usize, r.kernels.isa);
    let pool = r.pool;
    let [from, to] = r.slots([input, output])?;
    let (from, to) = (I32Rows::new(input, from)?, I32Rows::new(output, to)?);
    let (stride, from) = (from.stride, &*from.data);
    let out_frac = i32::from(output.frac);
    for_rows(pool, rows, (to.data, to.stride), (&mut [], 0), &|row, to, _: &mut [u8]| {
        let from = from.get(row * stride..).and_then(|f| f.get(..cols)).unwrap_or(&[]);
        rows_of(from, to, width).for_each(|(x, y)| rows::rms_norm(isa, x, y, gamma, eps, root, out_frac));
    })
}
