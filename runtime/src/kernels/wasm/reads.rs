//! What the kernels read beside codes: sums of them. WebAssembly has nothing to fetch ahead with.

use core::arch::wasm32::*;

use crate::image::tensors::GROUP;

/// `-RAISED * (sum of the group's codes)` of each group of a row.
#[inline]
#[target_feature(enable = "simd128")]
pub fn base_sums<const RAISED: i32>(row: &[[i8; GROUP]], bases: &mut [i32]) {
    if RAISED == 0 {
        bases.fill(0);
        return;
    }
    for (group, base) in row.iter().zip(bases) {
        let mut sums = i32x4_splat(0);
        for half in group.as_chunks::<16>().0 {
            // SAFETY: 16 bytes are there; the load asks for no alignment.
            let codes = unsafe { v128_load(half.as_ptr().cast()) };
            sums = i32x4_add(sums, i32x4_extadd_pairwise_i16x8(i16x8_extadd_pairwise_i8x16(codes)));
        }
        let sums = i32x4_add(sums, i32x4_shuffle::<2, 3, 0, 1>(sums, sums));
        *base = -RAISED * (i32x4_extract_lane::<0>(sums) + i32x4_extract_lane::<1>(sums));
    }
}

/// Nothing.
#[inline(always)]
pub fn fetch<T>(_group: &T, _ahead: usize) {}

/// The same.
#[inline(always)]
pub fn fetch_far<T>(_group: &T, _ahead: usize) {}
