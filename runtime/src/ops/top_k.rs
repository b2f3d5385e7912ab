//! The k largest elements of each row and where they are, in falling order; of equal ones the first comes first. TensorFlow
//! Lite's `TOPK_V2`.
//!
//! Arguments: in slot (plain, `[rows, n]`), values slot (`[rows, k]`, of the same type), indices slot (I32, `[rows, k]`), n, k.
//! Cost: k passes over a row, no memory. NUMERICS.md, "top_k".

use super::tensor::{Elements, i32_arg, tensor_arg};
use super::{OpDef, Overlap, Run, arg, ensure};
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef =
    OpDef { code: 26, name: "top_k", args: 5, flags: 0, slots: &[0, 1, 2], overlap: Overlap::Apart, check, run };

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (input, values, indices) = (tensor_arg(image, op, 0)?, tensor_arg(image, op, 1)?, i32_arg(image, op, 2)?);
    let (n, k) = (arg(op, 3)?, arg(op, 4)?);
    let rows = input.cols.checked_div(n)?;
    ensure(rows.checked_mul(n)? == input.cols && k <= n && rows.checked_mul(k)? == values.cols)?;
    ensure(input.kind == values.kind && input.frac == values.frac && values.cols == indices.cols)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (input, values, indices) = (tensor_arg(r.image, op, 0)?, tensor_arg(r.image, op, 1)?, i32_arg(r.image, op, 2)?);
    let (n, k) = (arg(op, 3)? as usize, arg(op, 4)? as usize);
    let rows = (input.cols as usize).checked_div(n)?;
    let [from, to, at] = Elements::of(r, [&input, &values, &indices])?;
    for row in 0..rows {
        // The last one taken: the next is the first largest of those that are smaller, or as large and further on.
        let mut last: Option<(i32, usize)> = None;
        for i in 0..k {
            let mut next: Option<(i32, usize)> = None;
            for place in 0..n {
                let x = from.get(row * n + place)?;
                let left = last.is_none_or(|(v, p)| x < v || (x == v && place > p));
                if left && next.is_none_or(|(v, _)| x > v) {
                    next = Some((x, place));
                }
            }
            let (value, place) = next?;
            to.put(row * k + i, value)?;
            at.put(row * k + i, place as i32)?;
            last = next;
        }
    }
    Some(())
}
