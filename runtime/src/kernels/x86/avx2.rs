//! AVX2: half a line is a vector. `vpmaddubsw` multiplies unsigned with signed bytes and saturates sums of two; |codes| times
//! levels of the codes' sign are at most 2 * 128 * 127, which it holds.

use core::arch::x86_64::*;

/// Levels stay as they are.
const RAISED: i32 = 0;

half_lines! { "avx2,bmi2,lzcnt" }
features! { "avx2,bmi2,lzcnt";
    fn book(levels: [i8; 16]) -> V {
        twice(levels)
    }

    fn bytes(codes: V) -> V {
        codes
    }

    fn dot4(sum: V, levels: V, x: V) -> V {
        // Levels are never -128 (`TensorDesc`), so a changed sign fits.
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(levels, x));
        _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }

    /// Levels may be -128 here: even and odd columns as int16.
    fn dot8(sum: V, levels: V, x: V) -> V {
        let even = |v: V| _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(v));
        let odd = |v: V| _mm256_srai_epi16::<8>(v);
        let sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even(levels), even(x)));
        _mm256_add_epi32(sum, _mm256_madd_epi16(odd(levels), odd(x)))
    }
}

tiles_of_rows! { "avx2,bmi2,lzcnt" }
tiles_of_pixels! { "avx2,bmi2,lzcnt" }
matmul_kernels! { "avx2,bmi2,lzcnt"; KERNELS = "x86_64-i8-avx2", Avx2 }
