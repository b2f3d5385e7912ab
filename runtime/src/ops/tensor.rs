//! What the ops on plain tensors share: one row of int8, int16 or int32, reached by one piece of code whatever the type.

use core::cell::Cell;
use core::ops::Range;

use super::window::SINGLE_ROUNDING;
use super::{Run, any_slot, arg, ensure, times_in, turned};
use crate::fixed::tflite::{Rounding, requantize, requantize_wide};
use crate::image::plan::{Kind, Slot};
use crate::image::{Dtype, Image, Limits, Op};
use crate::view;

/// Argument `which` as the slot of one plain tensor.
pub(crate) fn tensor_arg(image: &Image<'_>, op: &Op, which: usize) -> Option<Slot> {
    let slot = any_slot(image, op, which)?;
    slot.plain().map(|_| slot)
}

/// The slot of an int8 or int16 tensor in short: a slot itself is not cheap to hand on.
#[derive(Clone, Copy)]
pub(crate) struct Plain {
    index: u32,
    pub kind: Kind,
    pub cols: u32,
}

impl Plain {
    /// Argument `which`.
    #[inline(never)]
    pub(crate) fn arg(image: &Image<'_>, op: &Op, which: usize) -> Option<Self> {
        let index = arg(op, which)?;
        let slot = &image.slot_at(index);
        let Slot { kind, cols, .. } = *slot.as_ref()?;
        // Slots of these kinds have one row.
        ensure(matches!(kind, Kind::I8 | Kind::I16))?;
        Some(Self { index, kind, cols })
    }

    /// Its bytes in the arena.
    pub(crate) fn place(&self, image: &Image<'_>, limits: Limits) -> Option<Range<usize>> {
        image.place(self.index, limits)
    }
}

/// As [`tensor_arg`], of int8 or int16: tensors that stand for real numbers.
pub(crate) fn quantized_arg(image: &Image<'_>, op: &Op, which: usize) -> Option<Slot> {
    tensor_arg(image, op, which).filter(|slot| slot.plain() != Some(Dtype::I32))
}

/// As [`tensor_arg`], of int32: indices.
pub(crate) fn i32_arg(image: &Image<'_>, op: &Op, which: usize) -> Option<Slot> {
    tensor_arg(image, op, which).filter(|slot| slot.plain() == Some(Dtype::I32))
}

/// Bytes of an element of a plain tensor's slot.
pub(crate) fn element_bytes(slot: &Slot) -> usize {
    match slot.plain() {
        Some(Dtype::I16) if cfg!(feature = "int16") => 2,
        Some(Dtype::I32) => 4,
        _ => 1,
    }
}

/// Least and largest element of a plain tensor's slot.
pub(crate) fn element_range(slot: &Slot) -> [i32; 2] {
    match slot.plain() {
        Some(Dtype::I16) if cfg!(feature = "int16") => [i16::MIN.into(), i16::MAX.into()],
        Some(Dtype::I32) => [i32::MIN, i32::MAX],
        _ => [i8::MIN.into(), i8::MAX.into()],
    }
}

/// Argument `which` as a number in the range of a slot's elements: a zero point, a constant, a bound.
pub(crate) fn element_arg(op: &Op, which: usize, slot: &Slot) -> Option<i32> {
    let value = arg(op, which)? as i32;
    let [least, largest] = element_range(slot);
    (least..=largest).contains(&value).then_some(value)
}

/// The elements of a plain tensor in the arena, read and written one by one: slots may overlap.
pub(crate) struct Elements<'a> {
    cells: &'a [Cell<u8>],
    /// Bytes of an element.
    size: usize,
}

impl<'a> Elements<'a> {
    /// Those of several slots.
    pub(crate) fn of<const N: usize>(r: &'a mut Run<'_>, slots: [&Slot; N]) -> Option<[Self; N]> {
        let limits = r.limits;
        let all = view::as_cells(r.arena)?;
        let mut elements = [const { Self { cells: &[], size: 1 } }; N];
        for (to, slot) in elements.iter_mut().zip(slots) {
            let size = element_bytes(slot);
            let cells = all.get(slot.place(limits)?.start..)?;
            *to = Self { cells: cells.get(..(slot.cols as usize).checked_mul(size)?)?, size };
        }
        Some(elements)
    }

    fn cells<const N: usize>(&self, at: usize) -> Option<&'a [Cell<u8>; N]> {
        self.cells.get(at.checked_mul(N)?..)?.first_chunk()
    }

    /// Element `at`.
    pub(crate) fn get(&self, at: usize) -> Option<i32> {
        Some(match self.size {
            1 => i32::from(self.cells.get(at)?.get() as i8),
            2 if cfg!(feature = "int16") => i16::from_ne_bytes(self.cells(at)?.each_ref().map(Cell::get)).into(),
            _ => i32::from_ne_bytes(self.cells(at)?.each_ref().map(Cell::get)),
        })
    }

    /// Folds the elements from `at` on into as many numbers, one by one.
    pub(crate) fn fold(&self, at: usize, all: &mut [i32], fold: impl Fn(i32, i32) -> i32) -> Option<()> {
        let bytes = self.cells.get(at.checked_mul(self.size)?..)?.get(..all.len().checked_mul(self.size)?)?;
        match self.size {
            1 => all.iter_mut().zip(bytes).for_each(|(all, x)| *all = fold(*all, (x.get() as i8).into())),
            _ => {
                for (all, x) in all.iter_mut().zip(at..) {
                    *all = fold(*all, self.get(x)?);
                }
            }
        }
        Some(())
    }

    /// Writes element `at`, of which the low bits count.
    pub(crate) fn put(&self, at: usize, value: i32) -> Option<()> {
        match self.size {
            1 => self.cells.get(at)?.set(value as u8),
            2 if cfg!(feature = "int16") => set(self.cells(at)?, (value as i16).to_ne_bytes()),
            _ => set(self.cells(at)?, value.to_ne_bytes()),
        }
        Some(())
    }
}

fn set<const N: usize>(cells: &[Cell<u8>; N], bytes: [u8; N]) {
    for (cell, byte) in cells.iter().zip(bytes) {
        cell.set(byte);
    }
}

/// How a sum becomes an element of the output: TFLite's requantization.
pub(crate) struct Rescale {
    pub multiplier: i32,
    pub shift: i32,
    pub zero_point: i32,
    /// Least and largest result.
    pub range: [i32; 2],
    pub rounding: Rounding,
}

impl Rescale {
    /// Arguments `at` to `at + 2`: multiplier, shift, zero point of the output, whose slot is `out`.
    pub(crate) fn new(op: &Op, at: usize, out: &Slot) -> Option<Self> {
        let zero_point = element_arg(op, at + 2, out)?;
        let (multiplier, shift) = (arg(op, at)? as i32, arg(op, at + 1)? as i32);
        Some(Self { multiplier, shift, zero_point, range: element_range(out), rounding: rounding(op) })
    }

    pub(crate) fn of(&self, sum: i32) -> i32 {
        self.limit(requantize(sum, self.multiplier, self.shift, self.rounding))
    }

    /// The same of a sum of int16 products.
    pub(crate) fn of_wide(&self, sum: i64) -> i32 {
        self.limit(requantize_wide(sum, self.multiplier, self.shift))
    }

    fn limit(&self, v: i32) -> i32 {
        let [least, largest] = self.range;
        v.saturating_add(self.zero_point).max(least).min(largest)
    }
}

/// The rounding that an op's flag asks for.
pub(crate) fn rounding(op: &Op) -> Rounding {
    if op.flags & SINGLE_ROUNDING != 0 { Rounding::Single } else { Rounding::Double }
}

/// A tensor around one of its dimensions: `[outer, count, inner]`.
pub(crate) struct Around {
    pub outer: usize,
    pub count: usize,
    pub inner: usize,
}

/// The slot's tensor with arguments `at` and `at + 1` as count and inner.
pub(crate) fn around(op: &Op, at: usize, slot: &Slot) -> Option<Around> {
    let (count, inner) = (arg(op, at)?, arg(op, at + 1)?);
    let each = count.checked_mul(inner)?;
    let outer = times_in(each as usize, slot.cols as usize)?;
    Some(Around { outer: outer.get(), count: count as usize, inner: inner as usize })
}

/// Writes `f` of the elements of the slots `a` and `b`, one by one, to the slot `out`, which may lie on them
/// ([`super::Overlap::Elements`]). For functions of one tensor `a` and `b` are the same.
pub(crate) fn elementwise(
    r: &mut Run<'_>,
    op: &Op,
    [a, b, out]: [&Slot; 3],
    f: &dyn Fn(i32, i32) -> i32,
) -> Option<()> {
    let [x, y, to] = Elements::of(r, [a, b, out])?;
    let mut done = Some(());
    turned(op, 0..out.cols as usize, |at| {
        let value = x.get(at).zip(y.get(at)).map(|(x, y)| f(x, y));
        done = done.and(value.and_then(|value| to.put(at, value)));
    });
    done
}

/// A function of int16 in 512 steps of 128, straight between them, as TFLite's `LUTLookup` has it.
pub(crate) struct Steps<'a>(&'a [[u8; 2]; 513]);

impl<'a> Steps<'a> {
    /// The I16 tensor that argument `which` names: values at -32768, -32640, ... 32768.
    pub(crate) fn new(image: &Image<'a>, op: &Op, which: usize) -> Option<Self> {
        image.raw(arg(op, which)?, Dtype::I16)?.as_chunks().0.try_into().ok().map(Self)
    }

    pub(crate) fn at(&self, x: i16) -> i16 {
        let at = (256 + (i32::from(x) >> 7)) as usize;
        let value = |at: usize| self.0.get(at).map_or(0, |bytes| i16::from_le_bytes(*bytes));
        let (base, slope) = (value(at), value(at + 1).wrapping_sub(value(at)));
        base.wrapping_add(((i32::from(slope) * i32::from(x & 127) + 64) >> 7) as i16)
    }
}

/// The words of the I32 tensor that argument `which` names.
pub(crate) fn words<'a>(image: &Image<'a>, op: &Op, which: usize) -> Option<&'a [[u8; 4]]> {
    Some(image.raw(arg(op, which)?, Dtype::I32)?.as_chunks().0)
}
