//! Plain tensors: one row of int8, int16 or int32, reached by one piece of code whatever the type.

use super::arg;
use crate::image::plan::Slot;
use crate::image::{Dtype, Image, Op};
use crate::view;

/// Argument `which` as the slot of one plain tensor.
pub(crate) fn tensor_arg(image: &Image<'_>, op: &Op, which: usize) -> Option<Slot> {
    let slot = image.slot(arg(op, which)?).ok()?;
    slot.plain().map(|_| slot)
}

/// Bytes of an element of a plain tensor's slot.
pub(crate) fn element_bytes(slot: &Slot) -> usize {
    match slot.plain() {
        Some(Dtype::I16) => 2,
        Some(Dtype::I32) => 4,
        _ => 1,
    }
}

/// Least and largest element of a plain tensor's slot.
pub(crate) fn element_range(slot: &Slot) -> (i32, i32) {
    match slot.plain() {
        Some(Dtype::I16) => (i16::MIN.into(), i16::MAX.into()),
        Some(Dtype::I32) => (i32::MIN, i32::MAX),
        _ => (i8::MIN.into(), i8::MAX.into()),
    }
}

/// The elements of a plain tensor, in the arena.
pub(crate) enum Elements<'a> {
    I8(&'a mut [i8]),
    I16(&'a mut [i16]),
    I32(&'a mut [i32]),
}

impl<'a> Elements<'a> {
    pub(crate) fn new(slot: &Slot, bytes: &'a mut [u8]) -> Option<Self> {
        let cols = slot.cols as usize;
        Some(match slot.plain()? {
            Dtype::I16 => Self::I16(view::as_elements(bytes)?.get_mut(..cols)?),
            Dtype::I32 => Self::I32(view::as_elements(bytes)?.get_mut(..cols)?),
            _ => Self::I8(view::as_elements(bytes)?.get_mut(..cols)?),
        })
    }

    /// Writes element `at`, of which the low bits count.
    pub(crate) fn put(&mut self, at: usize, value: i32) -> Option<()> {
        match self {
            Self::I8(all) => *all.get_mut(at)? = value as i8,
            Self::I16(all) => *all.get_mut(at)? = value as i16,
            Self::I32(all) => *all.get_mut(at)? = value,
        }
        Some(())
    }
}

/// The words of the I32 tensor that argument `which` names.
pub(crate) fn words<'a>(image: &Image<'a>, op: &Op, which: usize) -> Option<&'a [[u8; 4]]> {
    Some(image.raw(arg(op, which)?, Dtype::I32)?.as_chunks().0)
}
