//! AVX-512 with VNNI and VBMI: a line of the weights is a vector; `vpdpbusd` sums 4 columns of its 16 rows, `vpermb` looks levels up.
//! Processors with VNNI alone (Cascade Lake) take 256 bits at a time (`avx_vnni.rs`).

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

features! { "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512vnni,avx512vbmi,avx2,bmi2,lzcnt";
    fn load(bytes: &[u8; 64]) -> V {
        // SAFETY: 64 bytes are there; the load asks for no alignment.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    /// `vpermb` takes 6 bits of each byte and ignores the rest. Bit 4 negates along a trellis; else the two are ignored, too.
    fn book<const KIND>(levels: [i8; 16]) -> V {
        let negative = levels.map(|level| if KIND == T4 { -level } else { level });
        let all = [levels, negative, levels, negative].map(|levels| levels.map(|level| level.wrapping_add(i8::MIN)));
        // SAFETY: 64 bytes are there; the load asks for no alignment.
        unsafe { _mm512_loadu_si512(all.as_ptr().cast()) }
    }

    /// The levels of low and of high nibbles.
    fn nibbles(codes: V, book: V) -> [V; 2] {
        [_mm512_permutexvar_epi8(codes, book), _mm512_permutexvar_epi8(_mm512_srli_epi16::<4>(codes), book)]
    }

    /// The same of codes along a trellis, from the codes of one and of two rows before.
    fn along_trellis(codes: V, rows: [V; 2], book: V) -> [V; 2] {
    let [before, before_that] = rows;
        // a ^ (b & c)
        let turned = _mm512_ternarylogic_epi32::<0x78>(codes, before_that, _mm512_set1_epi8(0x11));
        // Low nibbles of the second, high ones of the third.
        let joined = |low, high| _mm512_ternarylogic_epi32::<0xCA>(_mm512_set1_epi8(0x0F), low, high);
        let low = joined(turned, _mm512_slli_epi16::<4>(before));
        let high = joined(_mm512_srli_epi16::<4>(turned), before);
        [_mm512_permutexvar_epi8(low, book), _mm512_permutexvar_epi8(high, book)]
    }

    /// Raised levels are negated modulo 256: 128 + l and 128 - l sum to it.
    fn negated(levels: V, signs: [u8; LANES / 2]) -> V {
        _mm512_mask_sub_epi8(levels, u64::from_le_bytes(signs), _mm512_setzero_si512(), levels)
    }

    /// The codes of one and of two rows before.
    fn rows_before(line: &[u8; 64], _whole: usize) -> [V; 2] {
        let line = load(line);
        [_mm512_alignr_epi32::<15>(line, line), _mm512_alignr_epi32::<14>(line, line)]
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

matmul_kernels! { "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512vnni,avx512vbmi,avx2,bmi2,lzcnt"; KERNELS = "x86_64-i8-avx512vnni", Avx512 }
