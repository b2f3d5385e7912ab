//! What the kernels read ahead and beside: codes that come later, and sums of codes.

use core::arch::x86_64::*;

use crate::image::tensors::GROUP;

/// `-RAISED * (sum of the group's codes)` of each group of a row. Four groups at a time: sums of eight bytes each, then of four
/// such sums.
#[inline]
#[target_feature(enable = "avx2")]
pub fn base_sums<const RAISED: i32>(row: &[[i8; GROUP]], bases: &mut [i32]) {
    let groups = row.len().min(bases.len());
    let (row, bases) = (&row[..groups], &mut bases[..groups]);
    let eights = |group: &[i8; GROUP]| {
        // SAFETY: 32 bytes are there; the load asks for no alignment.
        let codes = unsafe { _mm256_loadu_si256(group.as_ptr().cast()) };
        _mm256_sad_epu8(_mm256_xor_si256(codes, _mm256_set1_epi8(i8::MIN)), _mm256_setzero_si256())
    };
    let pairs = |a, b| _mm256_add_epi64(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    let (fours, rest) = row.as_chunks::<4>();
    let (four_bases, rest_bases) = bases.as_chunks_mut::<4>();
    for ([a, b, c, d], bases) in fours.iter().zip(four_bases.iter_mut()) {
        let (ab, cd) = (pairs(eights(a), eights(b)), pairs(eights(c), eights(d)));
        let sums =
            _mm256_add_epi64(_mm256_permute2x128_si256::<0x20>(ab, cd), _mm256_permute2x128_si256::<0x31>(ab, cd));
        // Bytes have been raised by 128 to be unsigned, 32 of them.
        let mut words = [0u64; 4];
        // SAFETY: 32 bytes are there; the store asks for no alignment.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), sums) };
        *bases = words.map(|sum| RAISED * (32 * 128 - sum as i32));
    }
    for (group, base) in rest.iter().zip(rest_bases) {
        *base = -RAISED * group.iter().map(|x| i32::from(*x)).sum::<i32>();
    }
}

/// Asks for what comes `ahead` groups later. Addresses beyond the end do no harm.
#[inline(always)]
pub fn fetch<T>(group: &T, ahead: usize) {
    hint::<_MM_HINT_T0, T>(group, ahead);
}

/// The same, into the second cache.
#[inline(always)]
pub fn fetch_far<T>(group: &T, ahead: usize) {
    hint::<_MM_HINT_T1, T>(group, ahead);
}

#[inline(always)]
fn hint<const CACHE: i32, T>(group: &T, ahead: usize) {
    let ahead = core::ptr::from_ref(group).wrapping_add(ahead).cast::<i8>();
    for line in (0..size_of::<T>()).step_by(64) {
        // SAFETY: a prefetch reads nothing; it is a hint.
        unsafe { _mm_prefetch::<CACHE>(ahead.wrapping_add(line)) };
    }
}
