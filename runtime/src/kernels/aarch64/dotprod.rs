//! `SDOT` (Armv8.2's dotprod).

use super::quads::*;

sdot! { "neon,dotprod" }
sdot_tiles! { "neon,dotprod" }
matmul_kernels! { "neon,dotprod"; KERNELS = "aarch64-i8-dotprod", Portable }
