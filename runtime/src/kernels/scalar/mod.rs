//! The specification: plain loops over the weight layout of [`crate::image::tensors`].

pub(super) mod attention;
mod coded;
pub mod int8;
pub(crate) mod nibbles;
mod rescale;
pub(crate) mod rows;

pub(super) use coded::{n4, n5, n8, t3, t4};
pub(super) use rescale::rescale;

use super::{BlocksFn, Isa, Kernels};

/// Of codes that are not built in.
const NONE: BlocksFn = |_, _, _, _| {};

/// The scalar backend.
pub static KERNELS: Kernels = Kernels {
    name: "any-i8-scalar",
    // Firmware links what it is built for (Cargo.toml); images with others are refused (`Dtype::is_built_in`).
    t3: if cfg!(feature = "t3") { t3 } else { NONE },
    n4: if cfg!(feature = "n4") { n4 } else { NONE },
    t4: if cfg!(feature = "t4") { t4 } else { NONE },
    n5: if cfg!(feature = "n5") { n5 } else { NONE },
    n8: if cfg!(feature = "n8") { n8 } else { NONE },
    isa: Isa::Portable,
    #[cfg(mote_vector)]
    int8: super::Int8 { conv2d: int8::conv2d, depthwise_conv2d: int8::depthwise_conv2d, add: int8::add },
};
