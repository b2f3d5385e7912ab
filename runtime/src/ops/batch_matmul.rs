//! Products of matrices that are both activations: TensorFlow Lite's `BATCH_MATMUL`, int8 or int16.
//!
//! Arguments: first slot (`[batch, m, k]`), second slot (`[batch, k, n]`, or one `[k, n]` for all), out slot (`[batch, m, n]`; all
//! I8 or all I16), multiplier, shift and zero point of the output, zero points of first and second, m, k, n. Flag 1: single rounding;
//! 4: the second is `[batch, n, k]`. NUMERICS.md, "batch_matmul".

#[cfg(feature = "steps")]
use super::cost::Units;
use super::tensor::{Elements, Rescale, element_arg, quantized_arg};
use super::window::SINGLE_ROUNDING;
use super::{OpDef, Overlap, Run, arg, ensure, i8_cols};
use crate::image::plan::{Kind, Slot};
use crate::image::{Image, Op};

/// Flag: the second factor's matrices are transposed.
pub const TRANSPOSED: u16 = 4;

/// The op.
pub static OP: OpDef = OpDef {
    code: 36,
    name: "batch_matmul",
    args: 11,
    flags: SINGLE_ROUNDING | TRANSPOSED,
    slots: &[0, 1, 2],
    overlap: Overlap::Apart,
    check,
    run,
};

/// Sums of so many products of two int8 less a zero point each fit int32; of int16, 48 bits.
const MOST_PRODUCTS: usize = 1 << 15;
/// Columns whose sums are computed side by side, so that the second factor is read in order.
const TILE: usize = 16;

fn shape(op: &Op) -> Option<[usize; 3]> {
    Some([arg(op, 8)? as usize, arg(op, 9)? as usize, arg(op, 10)? as usize])
}

fn slots(image: &Image<'_>, op: &Op) -> Option<[Slot; 3]> {
    Some([quantized_arg(image, op, 0)?, quantized_arg(image, op, 1)?, quantized_arg(image, op, 2)?])
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let slots = slots(image, op)?;
    let ([a, b, out], [m, k, n]) = (slots.each_ref().map(|slot| slot.cols as usize), shape(op)?);
    let (each, batch) = (k.checked_mul(n)?, a.checked_div(m.checked_mul(k)?)?);
    ensure(slots.iter().all(|slot| slot.kind == slots[0].kind) && k <= MOST_PRODUCTS)?;
    ensure(batch * m * k == a && batch.checked_mul(m)?.checked_mul(n)? == out)?;
    ensure(each == b || batch.checked_mul(each)? == b)?;
    rescale(op, &slots).map(|_| ())
}

/// What becomes of a sum, and the factors' zero points.
fn rescale(op: &Op, [a, b, out]: &[Slot; 3]) -> Option<(Rescale, [i32; 2])> {
    Some((Rescale::new(op, 3, out)?, [element_arg(op, 6, a)?, element_arg(op, 7, b)?]))
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let slots = slots(r.image, op)?;
    if cfg!(feature = "int16") && slots[0].kind == Kind::I16 { run16(r, op, &slots) } else { run8(r, op, &slots) }
}

fn run16(r: &mut Run<'_>, op: &Op, slots: &[Slot; 3]) -> Option<()> {
    let ([m, k, n], (rescale, [za, zb])) = (shape(op)?, rescale(op, slots)?);
    let transposed = op.flags & TRANSPOSED != 0;
    let (rows, shared) = ((slots[0].cols as usize).checked_div(k)?, slots[1].cols as usize == k * n);
    let part = r.part.of(rows);
    let [x, y, to] = Elements::of(r, slots.each_ref())?;
    for (row, col) in part.flat_map(|row| (0..n).map(move |col| (row, col))) {
        let matrix = if shared { 0 } else { row.checked_div(m)? * k * n };
        let mut acc = 0i64;
        for i in 0..k {
            let at = if transposed { col * k + i } else { i * n + col };
            acc += i64::from(x.get(row * k + i)? - za) * i64::from(y.get(matrix + at)? - zb);
        }
        to.put(row * n + col, rescale.of_wide(acc))?;
    }
    Some(())
}

fn run8(r: &mut Run<'_>, op: &Op, slots: &[Slot; 3]) -> Option<()> {
    let ([m, k, n], (rescale, [za, zb])) = (shape(op)?, rescale(op, slots)?);
    let [a, b, out] = slots;
    let transposed = op.flags & TRANSPOSED != 0;
    let part = r.part.of((a.cols as usize).checked_div(k)?);
    let [x, y, to] = r.slots([a, b, out])?;
    let (x, y, to) = (i8_cols(a, x)?, &*i8_cols(b, y)?, i8_cols(out, to)?);
    let mut to = to.get_mut(part.start.checked_mul(n)?..)?.iter_mut();
    for (row, x) in x.chunks(k.max(1)).enumerate().take(part.end).skip(part.start) {
        let each = k * n;
        let y = if y.len() == each { y } else { y.get(row.checked_div(m)? * each..)?.get(..each)? };
        for first in (0..n).step_by(TILE) {
            let width = TILE.min(n - first);
            let mut acc = [0i32; TILE];
            let product = |x: &i8, y: &i8| (i32::from(*x) - za) * (i32::from(*y) - zb);
            if transposed {
                for (acc, y) in acc.iter_mut().take(width).zip(y.get(first * k..)?.chunks(k.max(1))) {
                    *acc = x.iter().zip(y).map(|(x, y)| product(x, y)).sum();
                }
            } else {
                for (x, y) in x.iter().zip(y.chunks(n.max(1))) {
                    for (acc, y) in acc.iter_mut().take(width).zip(y.get(first..)?) {
                        *acc += product(x, y);
                    }
                }
            }
            for acc in acc.iter().take(width) {
                *to.next()? = rescale.of(*acc) as i8;
            }
        }
    }
    Some(())
}

/// The units: rows of the output.
#[cfg(feature = "steps")]
pub(crate) fn units(r: &Run<'_>, op: &Op) -> Option<Units> {
    let ([_, k, n], rows) = (shape(op)?, slots(r.image, op)?[0].cols as usize);
    Some(Units::new(rows.checked_div(k)?, &[k, n]))
}
