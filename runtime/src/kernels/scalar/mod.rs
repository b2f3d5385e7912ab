//! The specification: plain loops over the weight layout of [`crate::image::tensors`].

mod coded;
pub mod int8;

use super::Kernels;

/// The scalar backend.
pub static KERNELS: Kernels = Kernels { name: "any-i8-scalar", n4_block: coded::n4_block, n8_block: coded::n8_block };
