//! Helium, the vectors of Armv8.1-M (Cortex-M55, M85): sixteen products of int8 an instruction, summed in a core register.
//!
//! Loops are naked functions, since Rust has no vectors of this kind. Their last turn is predicated (`LETP`), so no count need be a
//! multiple of anything. What they compute is what [`super::scalar`] computes; `boards/qemu-m55/examples/kernels.rs` compares them.
#![allow(unsafe_code)]

mod coded;
mod dots;
pub mod int8;
mod lines;
mod rescale;
mod taps;

pub(super) use coded::KERNELS;
