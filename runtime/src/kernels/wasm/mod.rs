//! WebAssembly: SIMD128, and the dot products of relaxed SIMD.
//!
//! A module cannot ask what runs it: an engine that lacks an instruction refuses the whole module. So backends are chosen when the
//! module is compiled (`-C target-feature=+simd128`, `+simd128,+relaxed-simd`), and a page that has several modules takes the best one
//! that its engine accepts (`WebAssembly.validate`).
#![allow(unsafe_code)]
// Functions of an instruction set are safe to call here, since a module that has been accepted has it. The macros are for machines
// where that isn't so.
#![allow(unused_unsafe)]

#[macro_use]
mod pairs;
pub mod reads;
#[cfg(target_feature = "relaxed-simd")]
mod relaxed;
mod simd128;

use super::Kernels;

/// The backends of this module, the fastest first.
pub fn available() -> impl Iterator<Item = &'static Kernels> {
    let all = [
        #[cfg(target_feature = "relaxed-simd")]
        &relaxed::KERNELS,
        &simd128::KERNELS,
    ];
    all.into_iter()
}
