//! Products of matrices that are both activations: TensorFlow Lite's `BATCH_MATMUL`, int8.
//!
//! Arguments: first slot (I8, `[batch, m, k]`), second slot (I8, `[batch, k, n]`, or one `[k, n]` for all), out slot (I8, `[batch,
//! m, n]`), multiplier, shift and zero point of the output, zero points of first and second, m, k, n. Flag 1: single rounding;
//! 4: the second is `[batch, n, k]`. NUMERICS.md, "batch_matmul".

use super::tensor::{Rescale, element_arg};
use super::window::SINGLE_ROUNDING;
use super::{OpDef, Overlap, Run, arg, ensure, i8_arg, i8_cols};
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

/// Sums of so many products of two int8 less a zero point each fit int32.
const MOST_PRODUCTS: usize = 1 << 15;
/// Columns whose sums are computed side by side, so that the second factor is read in order.
const TILE: usize = 16;

fn shape(op: &Op) -> Option<[usize; 3]> {
    Some([arg(op, 8)? as usize, arg(op, 9)? as usize, arg(op, 10)? as usize])
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let [a, b, out] = [i8_arg(image, op, 0)?, i8_arg(image, op, 1)?, i8_arg(image, op, 2)?];
    let [m, k, n] = shape(op)?;
    let ([a, b, out], each) = ([&a, &b, &out].map(|slot| slot.cols as usize), k.checked_mul(n)?);
    let batch = a.checked_div(m.checked_mul(k)?)?;
    ensure(k <= MOST_PRODUCTS && batch * m * k == a && batch.checked_mul(m)?.checked_mul(n)? == out)?;
    ensure(each == b || batch.checked_mul(each)? == b)?;
    rescale(image, op).map(|_| ())
}

/// What becomes of a sum, and the factors' zero points.
fn rescale(image: &Image<'_>, op: &Op) -> Option<(Rescale, [i32; 2])> {
    let [a, b, out] = [i8_arg(image, op, 0)?, i8_arg(image, op, 1)?, i8_arg(image, op, 2)?];
    Some((Rescale::new(op, 3, &out)?, [element_arg(op, 6, &a)?, element_arg(op, 7, &b)?]))
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let [a, b, out] = [i8_arg(r.image, op, 0)?, i8_arg(r.image, op, 1)?, i8_arg(r.image, op, 2)?];
    let ([m, k, n], (rescale, [za, zb])) = (shape(op)?, rescale(r.image, op)?);
    let transposed = op.flags & TRANSPOSED != 0;
    let [x, y, to] = r.slots([&a, &b, &out])?;
    let (x, y, to) = (i8_cols(&a, x)?, &*i8_cols(&b, y)?, i8_cols(&out, to)?);
    let mut to = to.iter_mut();
    for (row, x) in x.chunks(k.max(1)).enumerate() {
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
