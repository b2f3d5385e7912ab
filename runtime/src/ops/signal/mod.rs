//! Signal: the fixed-point audio front end of TensorFlow Lite Micro (`signal/`), from samples to the logarithms of a filter bank.
//!
//! ```text
//! samples ─ window ─ auto_scale ─ rfft ─ energy ─ filter_bank ─ spectral_subtraction ─ pcan ─ log
//!                        └─ bits ─────────────────────┘                └─ noise ────────┘
//! ```
//!
//! All in integers, the bits of TFLM's C code. What is uint32 there lies in slots of I32, bit for bit. Windows, filters and
//! tables are tensors of the image. NUMERICS.md, section 16.

pub mod auto_scale;
pub mod energy;
pub mod filter_bank;
pub mod log;
pub mod pcan;
pub mod rfft;
pub mod spectral_subtraction;
pub mod window;

use super::arg;
use super::tensor::tensor_arg;
use crate::image::plan::{Kind, Slot};
use crate::image::{Dtype, Element, Image, Op};
use crate::view;

/// Argument `which` as the slot of a tensor of int16.
fn i16_arg(image: &Image<'_>, op: &Op, which: usize) -> Option<Slot> {
    tensor_arg(image, op, which).filter(|slot| slot.kind == Kind::I16)
}

/// The elements of the I16 tensor that argument `which` names, low byte first.
fn halves<'a>(image: &Image<'a>, op: &Op, which: usize) -> Option<&'a [[u8; 2]]> {
    Some(image.raw(arg(op, which)?, Dtype::I16)?.as_chunks().0)
}

/// Element `at` of such a tensor.
fn half(table: &[[u8; 2]], at: usize) -> Option<i32> {
    table.get(at).map(|bytes| i16::from_le_bytes(*bytes).into())
}

/// The elements of a slot.
fn elements<'a, T: Element>(slot: &Slot, bytes: &'a mut [u8]) -> Option<&'a mut [T]> {
    view::as_elements(bytes)?.get_mut(..slot.cols as usize)
}

/// Bits up to the highest that is set, as TFLM counts them: of 0 they are 32.
fn width(x: u32) -> u32 {
    if x == 0 { 32 } else { 32 - x.leading_zeros() }
}
