//! Cortex-M with the DSP extension (M4, M7, M33 and later): two products of 16 bits an instruction.
//!
//! Loops are naked functions, since a loop of theirs takes all fourteen registers. What they compute is what
//! [`super::scalar`] computes; `boards/qemu-m4/examples/kernels.rs` compares them.
#![allow(unsafe_code)]

mod coded;
mod dots;
pub mod int8;
mod lines;
mod rescale;
mod taps;
mod tiles;

pub(super) use coded::KERNELS;
