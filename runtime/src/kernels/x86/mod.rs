//! x86-64: AVX2, AVX-VNNI and AVX-512 with VNNI and VBMI, and what this machine has of them.
//!
//! A backend is a file of a few primitives over its vectors; [`super::vector`] makes the kernels of them. The tables are private,
//! because their functions may only run where their instructions are: [`available`] is the only way to them.
#![allow(unsafe_code)]

#[macro_use]
mod halves;
pub mod attention;
mod avx2;
mod avx512;
mod avx_vnni;
mod detect;
pub mod glu;
mod nets;
pub mod reads;

use core::arch::x86_64::*;

use super::Kernels;

/// The backends of this machine, the fastest first.
pub fn available() -> impl Iterator<Item = &'static Kernels> {
    let has = detect::features();
    let all = [
        (has.avx512_vbmi, &avx512::KERNELS),
        (has.avx_vnni, &avx_vnni::KERNELS),
        (has.avx512_vnni, &avx_vnni::OVER_AVX512),
        (has.avx2, &avx2::KERNELS),
    ];
    all.into_iter().filter_map(|(there, kernels)| there.then_some(kernels))
}

/// Element `i` of each 128 bits is the sum of those of vector `i`.
#[inline]
#[target_feature(enable = "avx512f")]
fn sums_of_four([a, b, c, d]: [__m512i; 4]) -> __m512i {
    let pairs = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (ab, cd) = (pairs(a, b), pairs(c, d));
    _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
}
