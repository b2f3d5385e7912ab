//! The loops of attention with `vpdpbusd`: [`crate::kernels::scalar::attention`].

use core::arch::x86_64::*;

use super::sums_of_four;
use crate::fixed::Scale;
use crate::kernels::Head;
use crate::kernels::scalar::attention::{Loops, attend_by, whole_rows};

/// See [`crate::kernels::rows::attend`]. Only tables of machines with these instructions lead here.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512vnni,avx2,bmi2,lzcnt")]
pub fn attend(
    head: &Head<'_>,
    q: (&[i32], i32),
    unit: Scale,
    scratch: &mut [i32],
    out: (&mut [i32], i32),
) -> Option<()> {
    attend_by::<Vectors, 64, 64, 64>(head, q, unit, scratch, out)
}

struct Vectors;

impl Loops for Vectors {
    const ANY_WIDTH: bool = true;

    #[inline(always)]
    fn dots(q: &[i8], k: &[i8], scores: &mut [i32]) {
        // SAFETY: only `attend` gets here, which has the instructions.
        unsafe { dots(q, k, scores) }
    }

    #[inline(always)]
    fn weighted<const N: usize>(v: &[i8], row: usize, width: usize, weights: &[i32]) -> [i32; N] {
        // SAFETY: as above.
        let sums = unsafe { weighted(v, row, width, weights) };
        core::array::from_fn(|at| sums.get(at).copied().unwrap_or(0))
    }
}

/// The first so many of 64 bytes.
fn first_bytes(count: usize) -> u64 {
    if count < 64 { (1 << count) - 1 } else { u64::MAX }
}

/// Keys are raised by 128, since the instruction multiplies unsigned with signed bytes; that is 128 times the sum of `q` too much.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn dots(q: &[i8], k: &[i8], scores: &mut [i32]) {
    let keys = k.len().checked_div(q.len()).unwrap_or(0).min(scores.len());
    let raised = 128 * q.iter().map(|q| i32::from(*q)).sum::<i32>();
    for (chunk, scores) in scores[..keys].chunks_mut(16).enumerate() {
        let mut sums = [_mm512_set1_epi32(0); 16];
        for at in (0..q.len()).step_by(64) {
            let mask = first_bytes(q.len() - at);
            // SAFETY: the mask ends where `q` does.
            let codes = unsafe { _mm512_maskz_loadu_epi8(mask, q.as_ptr().add(at)) };
            for (key, sum) in sums.iter_mut().enumerate() {
                // Beyond the last key it is read again.
                let key = 16 * chunk + key.min(scores.len() - 1);
                // SAFETY: `key < keys`, each of which has as many bytes as `q`.
                let key = unsafe { _mm512_maskz_loadu_epi8(mask, k.as_ptr().add(key * q.len() + at)) };
                *sum = _mm512_dpbusd_epi32(*sum, _mm512_xor_si512(key, _mm512_set1_epi8(i8::MIN)), codes);
            }
        }
        let dots = _mm512_sub_epi32(totals(sums), _mm512_set1_epi32(raised));
        // SAFETY: so many are there.
        unsafe { _mm512_mask_storeu_epi32(scores.as_mut_ptr(), first_bytes(scores.len()) as u16, dots) };
    }
}

/// Element `i` is the sum of vector `i`.
#[inline]
#[target_feature(enable = "avx512f")]
fn totals(v: [__m512i; 16]) -> __m512i {
    let lanes =
        |[a, b]: [__m512i; 2]| _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xDD>(a, b));
    let four = |at: usize| sums_of_four([v[at], v[at + 1], v[at + 2], v[at + 3]]);
    lanes([lanes([four(0), four(4)]), lanes([four(8), four(12)])])
}

/// Four positions' values at a time, byte by byte beside each other; times the lower and the upper byte of the weights.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn weighted(v: &[i8], row: usize, width: usize, weights: &[i32]) -> [i32; 64] {
    let mask = first_bytes(width);
    let rows = whole_rows(v, row, width).min(weights.len());
    let mut sums = [[_mm512_set1_epi32(0); 4]; 2];
    for (four, weights) in weights[..rows].chunks(4).enumerate() {
        // Beyond the last row it is read again, with no weight.
        let place = |at: usize| (4 * four + at.min(weights.len() - 1)) * row;
        // SAFETY: that row is one of `rows`, the last of which ends in `v`.
        let values = |at: usize| unsafe { _mm512_maskz_loadu_epi8(mask, v.as_ptr().add(place(at))) };
        let (a, b, c, d) = (values(0), values(1), values(2), values(3));
        let ab = [_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)];
        let cd = [_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d)];
        let quads = [
            _mm512_unpacklo_epi16(ab[0], cd[0]),
            _mm512_unpackhi_epi16(ab[0], cd[0]),
            _mm512_unpacklo_epi16(ab[1], cd[1]),
            _mm512_unpackhi_epi16(ab[1], cd[1]),
        ];
        // SAFETY: so many are there.
        let weights = unsafe { _mm_maskz_loadu_epi32(first_bytes(weights.len()) as u8, weights.as_ptr()) };
        for (sums, shift) in sums.iter_mut().zip([0, 8]) {
            let bytes = _mm_cvtepi32_epi8(_mm_srl_epi32(weights, _mm_cvtsi32_si128(shift)));
            let bytes = _mm512_broadcastd_epi32(bytes);
            for (sum, quad) in sums.iter_mut().zip(quads) {
                *sum = _mm512_dpbusd_epi32(*sum, bytes, quad);
            }
        }
    }
    let mut out = [0; 64];
    let [low, high] = sums;
    for (part, (low, high)) in low.into_iter().zip(high).enumerate() {
        let mut words = [0i32; 16];
        // SAFETY: 64 bytes are there; the store asks for no alignment.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), _mm512_add_epi32(low, _mm512_slli_epi32::<8>(high))) };
        for (lane, words) in words.as_chunks::<4>().0.iter().enumerate() {
            out[16 * lane + 4 * part..][..4].copy_from_slice(words);
        }
    }
    out
}
