//! AVX-512 VNNI: a line of the weights is a vector; `vpdpbusd` sums 4 columns of its 16 rows.

use core::arch::x86_64::*;

/// A block's rows.
type V = __m512i;
const LANES: usize = 16;
/// Rows of codes that fit the registers beside the weights.
const TILE: usize = 6;
/// Blocks side by side, so that codes are loaded once for two: loads are one a cycle, as `vpdpbusd` are.
const PAIR: usize = 2;
/// `vpdpbusd` multiplies unsigned with signed bytes: levels are raised by so much.
const RAISED: i32 = 128;

features! { "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512vnni,avx2,bmi2,lzcnt";
    fn load(bytes: &[u8; 64]) -> V {
        // SAFETY: 64 bytes are there; the load asks for no alignment.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    fn book(levels: [i8; 16]) -> V {
        let raised = levels.map(|level| level.wrapping_add(i8::MIN));
        // SAFETY: 16 bytes are there; the load asks for no alignment.
        _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(raised.as_ptr().cast()) })
    }

    fn low(codes: V, book: V) -> V {
        _mm512_shuffle_epi8(book, _mm512_and_si512(codes, _mm512_set1_epi8(15)))
    }

    fn high(codes: V, book: V) -> V {
        low(_mm512_srli_epi16::<4>(codes), book)
    }

    /// Raised levels are negated modulo 256: 128 + l and 128 - l sum to it.
    fn negated(levels: V, signs: [u8; LANES / 2]) -> V {
        negated_at(levels, u64::from_le_bytes(signs))
    }

    fn negated_at(levels: V, mask: u64) -> V {
        _mm512_mask_sub_epi8(levels, mask, _mm512_setzero_si512(), levels)
    }

    /// The codes of one and of two rows before.
    fn rows_before(line: &[u8; 64], _whole: usize) -> [V; 2] {
        let line = load(line);
        [_mm512_alignr_epi32::<15>(line, line), _mm512_alignr_epi32::<14>(line, line)]
    }

    /// Codes, their lowest bits turned by those of others.
    fn turned(codes: V, others: V) -> V {
        // a ^ (b & c)
        _mm512_ternarylogic_epi32::<0x78>(codes, others, _mm512_set1_epi8(0x11))
    }

    /// Levels, raised ones too, negated where the codes of the row before have `bit`.
    fn negated_where(levels: V, before: V, bit: i8) -> V {
        negated_at(levels, _mm512_test_epi8_mask(before, _mm512_set1_epi8(bit)))
    }

    fn bytes(codes: V) -> V {
        _mm512_xor_si512(codes, _mm512_set1_epi8(i8::MIN))
    }

    fn dot4(sum: V, levels: V, x: V) -> V {
        _mm512_dpbusd_epi32(sum, levels, x)
    }

    fn dot8(sum: V, levels: V, x: V) -> V {
        dot4(sum, levels, x)
    }

    fn splat(value: i32) -> V {
        _mm512_set1_epi32(value)
    }

    fn scales(bytes: &[u8; LANES]) -> V {
        // SAFETY: 16 bytes are there; the load asks for no alignment.
        _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
    }

    fn add_scaled(sum: V, value: V, scale: V) -> V {
        _mm512_add_epi32(sum, _mm512_mullo_epi32(value, scale))
    }

    fn flush(part: V, sums: &mut [i64; LANES]) {
        let halves = [_mm512_castsi512_si256(part), _mm512_extracti64x4_epi64::<1>(part)];
        for (half, sums) in halves.into_iter().zip(sums.as_chunks_mut::<8>().0) {
            // SAFETY: 8 numbers are there; neither load nor store asks for alignment.
            unsafe {
                let sum = _mm512_add_epi64(_mm512_loadu_si512(sums.as_ptr().cast()), _mm512_cvtepi32_epi64(half));
                _mm512_storeu_si512(sums.as_mut_ptr().cast(), sum);
            }
        }
    }
}

matmul_kernels! { "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512vnni,avx2,bmi2,lzcnt"; KERNELS = "x86_64-i8-avx512vnni", Avx512 }
