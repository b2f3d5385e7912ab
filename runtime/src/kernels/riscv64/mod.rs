//! RISC-V with the vector extension (RVV 1.0), vectors of 128 bits or more.
//!
//! Rust has no stable type for its vectors, and inline assembly no operands of them: a primitive over a vector cannot be written. So
//! loops are naked functions, as on Cortex-M: of coded matrices in [`lines`], of convolutions in [`nets`], and [`tile`], in which
//! both end; of attention in [`attention`]. An element is a row of weights or an output channel, so nothing is summed across a vector; how many lie side by side, the
//! functions are told, and no register's size is assumed but that of 128 bits at least. What they compute is what [`super::scalar`]
//! computes.
#![allow(unsafe_code)]

#[macro_use]
mod function;
mod attention;
mod coded;
mod detect;
mod int8;
mod lines;
mod nets;
mod tile;

pub use attention::attend;

use super::Kernels;

/// The backends of this machine.
pub fn available() -> impl Iterator<Item = &'static Kernels> {
    detect::has_vectors().then_some(&coded::KERNELS).into_iter()
}
