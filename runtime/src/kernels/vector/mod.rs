//! Products of coded matrices and convolutions of int8 for cores with vectors, written once, over the primitives of a backend.
//!
//! A backend is a file of primitives over its vectors (`../x86/avx512.rs`, `../wasm/pairs.rs`); the macros here make its kernels of them,
//! since functions of one instruction set cannot be generic over another's.
#![allow(unsafe_code)]

#[macro_use]
pub mod matmul;
#[macro_use]
pub mod int8;
#[cfg(not(target_arch = "aarch64"))] // which has instructions that take codes of several rows
#[macro_use]
pub mod broadcast;
