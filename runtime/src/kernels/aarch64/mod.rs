//! aarch64: NEON, which every such core has, and the instructions that newer ones add for sums of products of int8: `SDOT` (dotprod,
//! Armv8.2) and `SMMLA` (i8mm, Armv8.6).
//!
//! A backend is a file of a few primitives over vectors of a quarter of a line, most of which [`quads`] has; [`super::vector`] makes
//! the kernels of them. The tables are private, because their functions may only run where their instructions are: [`available`] is
//! the only way to them.
#![allow(unsafe_code)]

#[macro_use]
mod tiles;
#[macro_use]
mod sdot;
mod detect;
mod dotprod;
mod i8mm;
mod neon;
mod quads;
pub mod reads;

use super::Kernels;

/// The backends of this machine, the fastest first.
pub fn available() -> impl Iterator<Item = &'static Kernels> {
    let has = detect::features();
    let all = [(has.i8mm, &i8mm::KERNELS), (has.dotprod, &dotprod::KERNELS), (true, &neon::KERNELS)];
    all.into_iter().filter_map(|(there, kernels)| there.then_some(kernels))
}
