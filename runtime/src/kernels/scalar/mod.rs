//! The specification: plain loops over the weight layout of [`crate::image::tensors`].

pub(super) mod attention;
mod coded;
pub mod int8;
pub(crate) mod nibbles;
mod rescale;
pub(crate) mod rows;

pub(super) use coded::{n4, n5, n8, t3, t4};
pub(super) use rescale::rescale;

use super::{Isa, Kernels};

/// The scalar backend.
pub static KERNELS: Kernels = Kernels {
    name: "any-i8-scalar",
    t3,
    n4,
    t4,
    n5,
    n8,
    isa: Isa::Portable,
    #[cfg(target_arch = "x86_64")]
    int8: super::Int8 { conv2d: int8::conv2d, depthwise_conv2d: int8::depthwise_conv2d, add: int8::add },
};
