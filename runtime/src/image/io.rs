//! Inputs and outputs of a program that is not a language model's: where they lie, their shapes, and what their integers
//! mean.
//!
//! ```text
//! IO section: 8-byte head, then 40-byte records, inputs first
//! head               record
//!  0  u32 inputs      0  u32 slot                    12  u32 mantissa
//!  4  u32 outputs     4  u8  element type            16  i32 exponent
//!                     5  u8  rank, 1 to 4            20  [u32;4] dims, 1 beyond the rank
//!                     6  u16 zero                    36  u32 zero
//!                     8  i32 zero point
//! ```
//!
//! The element type is I8, U8, I16 or I32; U8 lies in a slot of int8, byte by byte, the others in slots of their own kind.
//! `real = (integer - zero point) * mantissa * 2^-exponent`; mantissa 0: the model does not say.

use super::header::{products, put, words};
use super::tensors::{Dtype, shape_ok};
use super::{ensure, ensure_or, section};
use crate::error::{Error, Result};

/// Bytes of the head.
pub const HEAD_BYTES: usize = 8;
/// Bytes of a record.
pub const RECORD_BYTES: usize = 40;

/// Element types of inputs and outputs, as Rust has them: `i8`, `u8`, `i16`, `i32`.
pub trait Element: sealed::Sealed {
    /// The type in the image.
    const DTYPE: Dtype;
}

mod sealed {
    pub trait Sealed: bytemuck::Pod {}
}

macro_rules! elements {
    ($($t:ty = $dtype:ident),*) => {$(
        impl sealed::Sealed for $t {}
        impl Element for $t {
            const DTYPE: Dtype = Dtype::$dtype;
        }
    )*};
}
elements!(i8 = I8, u8 = U8, i16 = I16, i32 = I32);

/// One input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its slot.
    pub slot: u32,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Dimensions there are, 1 to 4.
    pub rank: u8,
    /// The integer that stands for 0.
    pub zero_point: i32,
    /// Mantissa of the scale; 0: unknown.
    pub mantissa: u32,
    /// Exponent of the scale.
    pub exponent: i32,
    /// Dimensions; 1 beyond the rank.
    pub dims: [u32; 4],
}

impl Port {
    /// The record's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; RECORD_BYTES] {
        let mut r = [0; RECORD_BYTES];
        put(&mut r, 0, &self.slot.to_le_bytes());
        put(&mut r, 4, &[self.dtype as u8, self.rank]);
        put(&mut r, 8, &self.zero_point.to_le_bytes());
        put(&mut r, 12, &self.mantissa.to_le_bytes());
        put(&mut r, 16, &self.exponent.to_le_bytes());
        for (i, dim) in self.dims.iter().enumerate() {
            put(&mut r, 20 + 4 * i, &dim.to_le_bytes());
        }
        r
    }

    pub(super) fn decode(r: &[u8; RECORD_BYTES]) -> Option<Self> {
        let [slot, head, zero_point, mantissa, exponent, dims @ .., zero] = words::<{ RECORD_BYTES / 4 }>(r);
        let (dtype, rank, exponent) = (Dtype::of(head as u8)?, (head >> 8) as u8, exponent as i32);
        shape_ok(rank, &dims)?;
        // What of a zero point is in an element of that type.
        let zero_point = zero_point as i32;
        let kept = match dtype {
            Dtype::I8 => Some(i32::from(zero_point as i8)),
            Dtype::U8 => Some(i32::from(zero_point as u8)),
            Dtype::I16 => Some(i32::from(zero_point as i16)),
            Dtype::I32 => Some(zero_point),
            Dtype::U64 | Dtype::T3 | Dtype::N4 | Dtype::T4 | Dtype::N5 | Dtype::N8 => None,
        };
        ensure(head >> 16 == 0 && zero == 0 && (-256..=256).contains(&exponent) && kept == Some(zero_point))?;
        Some(Self { slot, dtype, rank, zero_point, mantissa, exponent, dims })
    }

    /// Dimensions, as many as there are.
    #[must_use]
    pub fn shape(&self) -> &[u32] {
        self.dims.get(..self.rank.into()).unwrap_or(&self.dims)
    }

    /// Elements; `None` if that overflows.
    #[must_use]
    pub fn elements(&self) -> Option<u32> {
        u32::try_from(products(&self.dims)?).ok()
    }
}

/// The table of inputs and outputs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ports<'a> {
    inputs: usize,
    pub(super) records: &'a [[u8; RECORD_BYTES]],
}

impl<'a> Ports<'a> {
    /// Finds the records of an IO section.
    ///
    /// # Errors
    /// [`Error::Section`].
    pub fn read(bytes: &'a [u8]) -> Result<Self> {
        let bad = Error::Section { section: section::IO };
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(bad)?;
        let [inputs, outputs] = words(head);
        let (records, tail) = rest.as_chunks::<RECORD_BYTES>();
        let stated = inputs.checked_add(outputs);
        ensure_or(tail.is_empty() && stated.is_some_and(|stated| records.len() == stated as usize), bad)?;
        Ok(Self { inputs: inputs as usize, records })
    }

    /// The section's bytes.
    pub fn write(inputs: &[Port], outputs: &[Port], emit: &mut dyn FnMut(&[u8])) {
        emit(&(inputs.len() as u32).to_le_bytes());
        emit(&(outputs.len() as u32).to_le_bytes());
        for port in inputs.iter().chain(outputs) {
            emit(&port.to_bytes());
        }
    }

    /// Inputs in order.
    pub fn inputs(&self) -> impl Iterator<Item = Port> + 'a {
        self.records.iter().take(self.inputs).filter_map(Port::decode)
    }

    /// Outputs in order.
    pub fn outputs(&self) -> impl Iterator<Item = Port> + 'a {
        self.records.iter().skip(self.inputs).filter_map(Port::decode)
    }

    /// Input `index`, or output.
    #[inline(never)]
    pub(crate) fn port(&self, is_output: bool, index: u32) -> Option<Port> {
        let (inputs, outputs) = self.records.split_at_checked(self.inputs)?;
        Port::decode(if is_output { outputs } else { inputs }.get(index as usize)?)
    }
}
