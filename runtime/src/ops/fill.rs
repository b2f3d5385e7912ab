//! Fill: gives every element of a plain tensor a constant, the same for all or each its own.
//!
//! Arguments: out slot (plain), the constant (int32 in the range of the elements; 0 with a tensor), a tensor of the slot's type
//! and size, or none. A slot of I8 takes a tensor of U8, too. NUMERICS.md, "fill".

use super::tensor::{Elements, element_arg, element_bytes, tensor_arg};
use super::{OpDef, Overlap, Run, arg, ensure, optional};
use crate::image::plan::{Kind, Slot};
use crate::image::{Dtype, Image, Op};

/// The op.
pub static OP: OpDef =
    OpDef { code: 19, name: "fill", args: 3, flags: 0, slots: &[0], overlap: Overlap::Apart, check, run };

/// The bytes of the constant tensor `index`, if it has the slot's type and size.
fn constants<'a>(image: &Image<'a>, index: u32, slot: &Slot) -> Option<&'a [u8]> {
    let dtype = slot.plain()?;
    let unsigned = image.raw(index, Dtype::U8).filter(|_| dtype == Dtype::I8);
    let bytes = unsigned.or_else(|| image.raw(index, dtype))?;
    (Some(bytes.len()) == (slot.cols as usize).checked_mul(element_bytes(slot))).then_some(bytes)
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (out, value) = (tensor_arg(image, op, 0)?, arg(op, 1)? as i32);
    if let Some(index) = optional(op, 2) {
        constants(image, index, &out)?;
        return ensure(value == 0);
    }
    element_arg(op, 1, &out).map(|_| ())
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (slot, value) = (tensor_arg(r.image, op, 0)?, arg(op, 1)? as i32);
    let image = r.image;
    if slot.kind == Kind::I8 && optional(op, 2).is_none() {
        let [bytes] = r.slots([&slot])?;
        bytes.fill(value as u8);
        return Some(());
    }
    let [out] = Elements::of(r, [&slot])?;
    let Some(index) = optional(op, 2) else {
        return (0..slot.cols as usize).try_for_each(|at| out.put(at, value));
    };
    for (at, bytes) in constants(image, index, &slot)?.chunks(element_bytes(&slot).max(1)).enumerate() {
        // Little-endian: the lowest byte first.
        out.put(at, bytes.iter().rev().fold(0, |high: i32, low| high << 8 | i32::from(*low)))?;
    }
    Some(())
}
