//! Coded weights.

use crate::kernels::{Kernels, scalar};

/// The kernels.
pub static KERNELS: Kernels = Kernels { name: "any-i8-lanes", ..scalar::KERNELS };
