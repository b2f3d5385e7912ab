//! Rows of a table by their indices: TensorFlow Lite's `GATHER` and embeddings. An index below 0 counts from the end; one
//! that is outside after that is brought to the nearest inside.
//!
//! `gather`: the table is constant. Arguments: indices slot (I32), out slot (I8, `[indices, cols]`), table (I8 `[rows, cols]`).
//! `gather_slot`: it is a tensor `[outer, count, inner]`. Arguments: indices slot (I32), out slot (`[outer, indices, inner]`),
//! slot of the tensor (the out slot's type), count, inner. NUMERICS.md, "gather".

use super::tensor::{Around, around, element_bytes, i32_arg, tensor_arg};
use super::{OpDef, Overlap, Run, arg, desc_arg, ensure, i8_arg};
use crate::image::{Dtype, Image, Op};
use crate::view;

/// Of a constant table.
pub static OP: OpDef =
    OpDef { code: 23, name: "gather", args: 3, flags: 0, slots: &[0, 1], overlap: Overlap::Apart, check, run };
/// Of a tensor in the arena.
pub static SLOT: OpDef = OpDef {
    code: 37,
    name: "gather_slot",
    args: 5,
    flags: 0,
    slots: &[0, 1, 2],
    overlap: Overlap::Apart,
    check: check_slot,
    run: run_slot,
};

/// The table's shape.
fn table(image: &Image<'_>, op: &Op) -> Option<Around> {
    let desc = &desc_arg(image, op, 2);
    let desc = desc.as_ref()?;
    let [count, inner, a, b] = desc.dims;
    (desc.dtype == Dtype::I8 && a == 1 && b == 1).then_some(Around {
        outer: 1,
        count: count as usize,
        inner: inner as usize,
    })
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (indices, out) = (i32_arg(image, op, 0)?, i8_arg(image, op, 1)?);
    ensure(table(image, op)?.inner.checked_mul(indices.cols as usize)? == out.cols as usize)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (indices, out, table) = (i32_arg(r.image, op, 0)?, i8_arg(r.image, op, 1)?, table(r.image, op)?);
    let data = r.image.raw(arg(op, 2)?, Dtype::I8)?;
    let [at, to] = r.slots([&indices, &out])?;
    gather(&table, data, view::as_i32(at)?.get(..indices.cols as usize)?, to)
}

fn check_slot(image: &Image<'_>, op: &Op) -> Option<()> {
    let (indices, out, data) = (i32_arg(image, op, 0)?, tensor_arg(image, op, 1)?, tensor_arg(image, op, 2)?);
    let a = around(op, 3, &data)?;
    let rows = a.outer.checked_mul(indices.cols as usize)?;
    ensure(data.kind == out.kind && data.frac == out.frac && rows.checked_mul(a.inner)? == out.cols as usize)
}

fn run_slot(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (indices, out, data) = (i32_arg(r.image, op, 0)?, tensor_arg(r.image, op, 1)?, tensor_arg(r.image, op, 2)?);
    let a = around(op, 3, &data)?;
    let bytes = Around { inner: a.inner * element_bytes(&data), ..a };
    let [at, to, from] = r.slots([&indices, &out, &data])?;
    gather(&bytes, from, view::as_i32(at)?.get(..indices.cols as usize)?, to)
}

/// `out[o, i, :] = data[o, indices[i], :]`, `a.inner` in bytes.
fn gather(a: &Around, data: &[u8], indices: &[i32], out: &mut [u8]) -> Option<()> {
    let mut to = 0;
    for outer in 0..a.outer {
        for index in indices {
            let from = data.get((outer * a.count + nearest(*index, a.count)?) * a.inner..)?.get(..a.inner)?;
            out.get_mut(to..)?.get_mut(..a.inner)?.copy_from_slice(from);
            to += a.inner;
        }
    }
    Some(())
}

/// The place among `count` that an index means: below 0 it counts from the end, outside it is the nearest inside.
pub(crate) fn nearest(index: i32, count: usize) -> Option<usize> {
    let (index, count) = (i64::from(index), i64::try_from(count).ok()?);
    Some(if index < 0 { index + count } else { index }.max(0).min(count - 1) as usize)
}
