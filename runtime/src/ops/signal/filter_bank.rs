//! Filter bank: energies to the square roots of what overlapping filters give, TFLM's `SignalFilterBank` and
//! `SignalFilterBankSquareRoot`. (Between them TFLM has uint64; here it is a register.)
//!
//! Arguments: in slot (I32, uint32 bits), slot of the root's right shift (I32, one element: auto scale's), out slot (I32 of
//! `channels`), weights of each channel (I16), weights for the next one (I16, as many), first frequency, first weight and
//! number of weights of each channel (I16 of `channels + 1`). NUMERICS.md, "filter_bank".

use super::super::tensor::i32_arg;
use super::super::{OpDef, Overlap, Run, ensure};
use super::{elements, half, halves};
use crate::fixed::root::root;
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef =
    OpDef { code: 55, name: "filter_bank", args: 8, flags: 0, slots: &[0, 1, 2], overlap: Overlap::Apart, check, run };

/// Where a channel reads: first frequency, first weight, number of both.
fn channel(tables: &[&[[u8; 2]]; 3], at: usize) -> Option<[usize; 3]> {
    let [first, weight, count] = tables;
    let index = |table: &[[u8; 2]]| usize::try_from(half(table, at)?).ok();
    Some([index(first)?, index(weight)?, index(count)?])
}

fn tables<'a>(image: &Image<'a>, op: &Op) -> Option<[&'a [[u8; 2]]; 3]> {
    Some([halves(image, op, 5)?, halves(image, op, 6)?, halves(image, op, 7)?])
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (input, bits, output) = (i32_arg(image, op, 0)?, i32_arg(image, op, 1)?, i32_arg(image, op, 2)?);
    let (here, next, tables) = (halves(image, op, 3)?, halves(image, op, 4)?, tables(image, op)?);
    let channels = (output.cols as usize).checked_add(1)?;
    ensure(bits.cols == 1 && here.len() == next.len() && tables.iter().all(|table| table.len() == channels))?;
    for at in 0..channels {
        let [first, weight, count] = channel(&tables, at)?;
        ensure(first + count <= input.cols as usize && weight + count <= here.len())?;
    }
    Some(())
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let image = r.image;
    let (input, bits, output) = (i32_arg(image, op, 0)?, i32_arg(image, op, 1)?, i32_arg(image, op, 2)?);
    let (here, next, tables) = (halves(image, op, 3)?, halves(image, op, 4)?, tables(image, op)?);
    let [x, b, y] = r.slots([&input, &bits, &output])?;
    let (x, y) = (elements::<i32>(&input, x)?, elements::<i32>(&output, y)?);
    let shift = *elements::<i32>(&bits, b)?.first()? as u32;
    // Channel 0 only leads up to the first one.
    let mut begun = 0u64;
    for at in 0..=y.len() {
        let [first, weight, count] = channel(&tables, at)?;
        let (mut sum, mut after) = (begun, 0u64);
        for j in 0..count {
            let energy = u64::from(*x.get(first + j)? as u32);
            // Weights are signed: modulo 2^64.
            let product = |w: i32| (i64::from(w) as u64).wrapping_mul(energy);
            sum = sum.wrapping_add(product(half(here, weight + j)?));
            after = after.wrapping_add(product(half(next, weight + j)?));
        }
        if let Some(to) = at.checked_sub(1).and_then(|at| y.get_mut(at)) {
            *to = root(sum).wrapping_shr(shift) as i32;
        }
        begun = after;
    }
    Some(())
}
