//! Products of coded matrices and convolutions of int8 for cores with vectors, written once, over the primitives of a backend.
//!
//! A backend is a file of primitives over its vectors (`../x86/avx512.rs`, `../wasm/pairs.rs`); the macros here make its kernels of them,
//! since functions of one instruction set cannot be generic over another's.
#![allow(unsafe_code)]

#[macro_use]
pub mod matmul;
#[macro_use]
pub mod int8;
#[cfg(not(any(target_arch = "aarch64", target_arch = "riscv64")))] // which have tiles of their own
#[macro_use]
pub mod broadcast;
