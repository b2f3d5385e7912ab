//! AVX-512 with VNNI and VBMI: a line of the weights is a vector; `vpdpbusd` sums 4 columns of its 16 rows, `vpermb` looks levels up.
//! Processors with VNNI alone (Cascade Lake) take 256 bits at a time (`avx_vnni.rs`).

use core::arch::x86_64::*;

use super::nets;

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

    /// `vpermb` takes 6 bits of each byte and ignores the rest; of them the lower 4 count here.
    fn book(levels: [i8; 16]) -> V {
        let raised = levels.map(|level| level.wrapping_add(i8::MIN));
        // SAFETY: 16 bytes are there; the load asks for no alignment.
        _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(raised.as_ptr().cast()) })
    }

    /// The levels of T4's windows, that begin at low nibbles and at high ones, from those of windows whose bit 4 is not set and of those where
    /// it is.
    fn windows(codes: V, halves: [V; 2]) -> [V; 2] {
        let [clear, set] = halves;
        // All 64, once for all groups. Raised levels, too, are negated so.
        let both = _mm512_mask_blend_epi64(0xCC, clear, set);
        let levels = _mm512_mask_sub_epi8(both, 0xFFFF_FFFF_0000_0000, _mm512_setzero_si512(), both);
        [_mm512_permutexvar_epi8(codes, levels), _mm512_permutexvar_epi8(_mm512_ror_epi32::<4>(codes), levels)]
    }

    /// The levels of low and of high nibbles.
    fn nibbles(codes: V, book: V) -> [V; 2] {
        [_mm512_permutexvar_epi8(codes, book), _mm512_permutexvar_epi8(_mm512_srli_epi16::<4>(codes), book)]
    }

    /// The bits of `low` that `bits`, the same of each byte, has, and the others of `high`.
    fn picked(bits: u8, low: V, high: V) -> V {
        _mm512_ternarylogic_epi32::<0xCA>(_mm512_set1_epi8(bits as i8), low, high)
    }

    /// Bits in which they differ.
    fn differing(a: V, b: V) -> V {
        _mm512_xor_si512(a, b)
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

    /// Byte `i` of each is among word `i`'s.
    fn turned(rows: [&[u8; BLOCK]; 4]) -> [V; 1] {
        // SAFETY: 16 bytes are there; the load asks for no alignment.
        [nets::above_one_another(rows.map(|row| unsafe { _mm_loadu_si128(row.as_ptr().cast()) }))]
    }

    fn widened(x: &[i8; LANES]) -> V {
        // SAFETY: 16 bytes are there; the load asks for no alignment.
        _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(x.as_ptr().cast()) })
    }

    fn words(x: &[i32; LANES]) -> V {
        // SAFETY: 64 bytes are there; the load asks for no alignment.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }

    fn plus(a: V, b: V) -> V {
        _mm512_add_epi32(a, b)
    }

    fn up_by(x: V, bits: u32) -> V {
        _mm512_sll_epi32(x, _mm_cvtsi32_si128(bits as i32))
    }

    fn minus(a: V, b: V) -> V {
        _mm512_sub_epi32(a, b)
    }

    /// `fixed::tflite::requantize` with double rounding of sums and what is added to them, the multiplier positive: what is
    /// added, multiplier, right shift, the bits that drops.
    fn rounded(sums: V, numbers: [V; 4]) -> V {
        let [bias, multiplier, right, dropped] = numbers;
        let x = _mm512_add_epi32(sums, bias);
        // The product and a half in 64 bits, of even and of odd elements; 31 bits less.
        let half = _mm512_set1_epi64(1 << 30);
        let odd = |v: V| _mm512_srli_epi64::<32>(v);
        let evens = _mm512_add_epi64(_mm512_mul_epi32(x, multiplier), half);
        let odds = _mm512_add_epi64(_mm512_mul_epi32(odd(x), odd(multiplier)), half);
        let low = _mm512_set1_epi64(0xFFFF_FFFF);
        let high =
            _mm512_ternarylogic_epi32::<0xCA>(low, _mm512_srli_epi64::<31>(evens), _mm512_slli_epi64::<1>(odds));
        // Halves away from zero: `fixed::tflite::divide_by_pot`. A difference's sign instead of a comparison, whose mask would have to
        // become a vector.
        let most = minus(_mm512_srli_epi32::<1>(dropped), _mm512_srai_epi32::<31>(high));
        let up = _mm512_srai_epi32::<31>(minus(most, _mm512_and_si512(high, dropped)));
        minus(_mm512_srav_epi32(high, right), up)
    }

    fn limited(x: V, min: V, max: V, zero: V) -> V {
        _mm512_add_epi32(_mm512_min_epi32(_mm512_max_epi32(x, min), max), zero)
    }

    /// The lowest bytes of all elements.
    fn narrow(x: V, to: &mut [i8; LANES]) {
        // SAFETY: 16 bytes are there; the store asks for no alignment.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(x)) };
    }

    /// The sums, 32 bits each, into those of 16 channels.
    fn add_to(part: V, sums: &mut [i32; LANES]) {
        // SAFETY: 64 bytes are there; neither load nor store asks for alignment.
        unsafe {
            let sum = _mm512_add_epi32(_mm512_loadu_si512(sums.as_ptr().cast()), part);
            _mm512_storeu_si512(sums.as_mut_ptr().cast(), sum);
        }
    }

    /// Element `j` of vector `i` becomes element `i` of vector `j`.
    fn transposed(v: [V; LANES]) -> [V; LANES] {
        let pair = |a, b| [_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)];
        let four = |a, b| [_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)];
        // Vectors 4 i to 4 i + 3: of each 128 bits elements j, turned.
        let mut quads = [[_mm512_setzero_si512(); 4]; 4];
        for (quad, v) in quads.iter_mut().zip(v.as_chunks::<4>().0) {
            let ([a0, a1], [b0, b1]) = (pair(v[0], v[1]), pair(v[2], v[3]));
            let ([c0, c1], [d0, d1]) = (four(a0, b0), four(a1, b1));
            *quad = [c0, c1, d0, d1];
        }
        let mut out = v;
        for j in 0..4 {
            let (ab, cd) = ([quads[0][j], quads[1][j]], [quads[2][j], quads[3][j]]);
            let even = |[a, b]: [V; 2]| _mm512_shuffle_i32x4::<0x88>(a, b); // lanes 0 and 2 of each
            let odd = |[a, b]: [V; 2]| _mm512_shuffle_i32x4::<0xDD>(a, b); // 1 and 3
            let (ab_even, ab_odd, cd_even, cd_odd) = (even(ab), odd(ab), even(cd), odd(cd));
            out[j] = even([ab_even, cd_even]);
            out[8 + j] = odd([ab_even, cd_even]);
            out[4 + j] = even([ab_odd, cd_odd]);
            out[12 + j] = odd([ab_odd, cd_odd]);
        }
        out
    }

    /// Bits of bytes to the right, or left if `by` is below 0; what comes from the neighbour is not what is taken.
    fn shifted(v: V, by: i32) -> V {
        let right = _mm512_srl_epi16(v, _mm_cvtsi32_si128(by));
        if by < 0 { _mm512_sll_epi16(v, _mm_cvtsi32_si128(-by)) } else { right }
    }

    fn splat(value: i32) -> V {
        _mm512_set1_epi32(value)
    }

    fn scales(bytes: &[u8; BLOCK], _whole: usize) -> V {
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

tiles_of_rows! { "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512vnni,avx512vbmi,avx2,bmi2,lzcnt" }
tiles_of_pixels! { "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512vnni,avx512vbmi,avx2,bmi2,lzcnt" }
matmul_kernels! { "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512vnni,avx512vbmi,avx2,bmi2,lzcnt"; BY_PATCHES = "x86_64-i8-avx512vnni", Avx512 }

/// The backend: convolutions without patches where they fit.
pub static KERNELS: Kernels = Kernels {
    int8: Int8 {
        // SAFETY: the table is given out only where its instructions are (`super::available`).
        conv2d: |g, groups, x, w, cs, o, out| unsafe { nets::conv2d(g, groups, x, w, cs, o, out) },
        depthwise_conv2d: |g, multiplier, x, w, cs, o, out| unsafe {
            nets::depthwise_conv2d(g, multiplier, x, w, cs, o, out)
        },
        add: |x, y, to, s, o| unsafe { nets::add(x, y, to, s, o) },
    },
    ..BY_PATCHES
};
