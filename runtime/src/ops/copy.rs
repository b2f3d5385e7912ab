//! Copy: a box of up to six dimensions, with a stride for each on either side. What only moves elements is this op:
//! transpose, slice, concat, split, pad (after `fill`), tile, broadcast, nearest resize by whole factors, space to depth.
//!
//! Arguments: in slot, out slot (plain tensors of one type), layout (I32 `[3, rank]`, rank 1 to 6: dimensions, strides in the
//! input, strides in the output, in elements, the last dimension innermost), first element of the input, of the output. A
//! stride may be 0 or negative. The output's other elements stay as they are. NUMERICS.md, "copy".

use super::tensor::{element_bytes, tensor_arg, words};
use super::{OpDef, Overlap, Run, arg, desc_arg, ensure};
use crate::image::plan::Slot;
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef =
    OpDef { code: 18, name: "copy", args: 5, flags: 0, slots: &[0, 1], overlap: Overlap::Apart, check, run };

/// Most dimensions of a box.
const RANK: usize = 6;

/// One dimension of the box.
#[derive(Clone, Copy)]
struct Axis {
    count: u32,
    /// Elements from one to the next: in the input, in the output.
    strides: [i32; 2],
}

/// The box, outermost dimension first.
fn layout(image: &Image<'_>, op: &Op) -> Option<[Axis; RANK]> {
    let [three, rank, a, b] = desc_arg(image, op, 2)?.dims;
    let rank = rank as usize;
    ensure(three == 3 && rank <= RANK && a == 1 && b == 1)?;
    let (counts, strides) = words(image, op, 2)?.split_at_checked(rank)?;
    let (from, to) = strides.split_at_checked(rank)?;
    let mut axes = [Axis { count: 1, strides: [0; 2] }; RANK];
    let word = |w: &[u8; 4]| i32::from_le_bytes(*w);
    for (axis, ((count, from), to)) in axes.iter_mut().skip(RANK - rank).zip(counts.iter().zip(from).zip(to)) {
        *axis = Axis { count: u32::from_le_bytes(*count), strides: [word(from), word(to)] };
    }
    Some(axes)
}

/// Checks that the box, from element `first` on, lies in a slot; `side` 0: the input's strides, 1: the output's.
fn ensure_inside(axes: &[Axis], side: usize, first: u32, slot: &Slot) -> Option<()> {
    let (mut least, mut largest) = (i64::from(first), i64::from(first));
    for axis in axes {
        let reach = i64::from(axis.count.checked_sub(1)?).checked_mul(i64::from(*axis.strides.get(side)?))?;
        let end = if reach < 0 { &mut least } else { &mut largest };
        *end = end.checked_add(reach)?;
    }
    ensure(least >= 0 && largest < i64::from(slot.cols))
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (from, to) = (tensor_arg(image, op, 0)?, tensor_arg(image, op, 1)?);
    let axes = layout(image, op)?;
    // No element is written twice without another left out: the work is bounded by the output.
    let count = axes.iter().try_fold(1u32, |n, axis| n.checked_mul(axis.count))?;
    ensure(from.kind == to.kind && from.frac == to.frac && count <= to.cols)?;
    ensure_inside(&axes, 0, arg(op, 3)?, &from)?;
    ensure_inside(&axes, 1, arg(op, 4)?, &to)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (input, output) = (tensor_arg(r.image, op, 0)?, tensor_arg(r.image, op, 1)?);
    let bytes = element_bytes(&output);
    let mut axes = layout(r.image, op)?;
    for stride in axes.iter_mut().flat_map(|axis| &mut axis.strides) {
        *stride = stride.wrapping_mul(bytes as i32); // of a dimension of one element: never used
    }
    let at = [arg(op, 3)?, arg(op, 4)?].map(|first| (first as usize).wrapping_mul(bytes));
    let [from, to] = r.slots([&input, &output])?;
    copy(&axes, from, to, at, bytes)
}

/// Copies the box from byte `at[0]` of `from` to byte `at[1]` of `to`, strides in bytes, `bytes` to an element.
fn copy(axes: &[Axis], from: &[u8], to: &mut [u8], mut at: [usize; 2], bytes: usize) -> Option<()> {
    let Some((axis, rest)) = axes.split_first() else {
        return copy_bytes(from, to, at, bytes);
    };
    let count = axis.count as usize;
    if rest.is_empty() && axis.strides == [bytes as i32; 2] {
        return copy_bytes(from, to, at, count * bytes);
    }
    for _ in 0..count {
        copy(rest, from, to, at, bytes)?;
        for (at, stride) in at.iter_mut().zip(axis.strides) {
            *at = at.wrapping_add(stride as isize as usize);
        }
    }
    Some(())
}

fn copy_bytes(from: &[u8], to: &mut [u8], [a, b]: [usize; 2], count: usize) -> Option<()> {
    to.get_mut(b..)?.get_mut(..count)?.copy_from_slice(from.get(a..)?.get(..count)?);
    Some(())
}
