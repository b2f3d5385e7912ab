//! Quantize: fixed point to int8 with one scale a row, after a block Walsh-Hadamard transform if asked for.
//!
//! Arguments: in slot (I32; overwritten if there is a transform), out slot (Q8, the same shape), log2 of the
//! transform's block (0: none). The transform spreads outliers over its block; the quantizer has folded its inverse
//! into the next matrix (QuaRot, arXiv 2404.00456, section 4). NUMERICS.md, "quantize".

use super::{I32Rows, OpDef, Overlap, Run, arg, ensure, part, put_q8_row, slot_arg};
use crate::fixed::{requantize, shift_round};
use crate::image::plan::Kind;
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef =
    OpDef { code: 4, name: "quantize", args: 3, flags: 0, slots: &[0, 1], overlap: Overlap::Apart, check, run };

/// Largest block of the transform, as a power of two.
pub const MAX_LOG2_BLOCK: u32 = 12;

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let input = slot_arg(image, op, 0, Kind::I32)?;
    let out = slot_arg(image, op, 1, Kind::Q8)?;
    ensure(input.rows == out.rows && input.cols == out.cols)?;
    let log2 = arg(op, 2)?;
    ensure(log2 <= MAX_LOG2_BLOCK && input.cols.is_multiple_of(1 << log2))
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let input = slot_arg(r.image, op, 0, Kind::I32)?;
    let output = slot_arg(r.image, op, 1, Kind::Q8)?;
    let log2 = arg(op, 2)?.min(MAX_LOG2_BLOCK);
    let rows = r.rows_of(&input);
    let [from, to] = r.slots([&input, &output])?;
    let mut from = I32Rows::new(&input, from)?;
    for row in 0..rows {
        let values = from.row(row)?;
        let lost = if log2 == 0 { 0 } else { hadamard(values, log2) };
        put_q8_row(&output, to, row, values, i32::from(input.frac) - lost)?;
    }
    Some(())
}

/// In-place Walsh-Hadamard transform of each `2^log2` values, not normalised. Returns the bits by which the values
/// were shifted right beforehand, so that no sum can overflow.
fn hadamard(values: &mut [i32], log2: u32) -> i32 {
    let bits = 32 - requantize::amax(values).leading_zeros();
    let lost = (bits + log2).saturating_sub(30) as i32;
    if lost > 0 {
        for v in values.iter_mut() {
            *v = shift_round(i64::from(*v), lost) as i32;
        }
    }
    let mut half = 1usize;
    for _ in 0..log2 {
        let mut start = 0;
        while let Some((low, high)) = part(values, start, 2 * half).and_then(|p| p.split_at_mut_checked(half)) {
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (a.wrapping_add(*b), a.wrapping_sub(*b));
            }
            start += 2 * half;
        }
        half *= 2;
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::hadamard;

    #[test]
    fn hadamard_is_its_own_inverse_times_the_block() {
        let mut values: Vec<i32> = (0..48).map(|i: i32| i * i * 31 - 900 * i).collect();
        let before = values.clone();
        assert_eq!(hadamard(&mut values, 4), 0);
        let sums: Vec<i32> = before.chunks(16).map(|c| c.iter().sum()).collect();
        assert_eq!(sums, [values[0], values[16], values[32]]);
        assert_eq!(hadamard(&mut values, 4), 0);
        assert!(values.iter().zip(&before).all(|(a, b)| *a == 16 * b));
    }

    #[test]
    fn hadamard_never_overflows() {
        for extreme in [i32::MIN, i32::MAX] {
            let mut values = [extreme; 256];
            let lost = hadamard(&mut values, 8);
            let exact = f64::from(extreme) * 256.0 * 2f64.powi(-lost);
            assert!((f64::from(values[0]) - exact).abs() <= 256.0, "{} {exact}", values[0]);
            assert!(values[1..].iter().all(|v| *v == 0));
        }
    }
}
