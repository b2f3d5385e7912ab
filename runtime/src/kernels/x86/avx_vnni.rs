//! AVX-VNNI: `vpdpbusd` on half a line, for processors without AVX-512. The same source also makes a backend of AVX-512's
//! encoding of these instructions, so that a machine with that tests it.

macro_rules! backend {
    ($features:literal, $dpbusd:ident, $name:literal) => {
        use core::arch::x86_64::*;

        /// `vpdpbusd` multiplies unsigned with signed bytes: levels are raised by so much.
        const RAISED: i32 = 128;

        half_lines! { $features }
        features! { $features;
            fn book(levels: [i8; 16]) -> V {
                bytes(twice(levels))
            }

            fn bytes(codes: V) -> V {
                _mm256_xor_si256(codes, _mm256_set1_epi8(i8::MIN))
            }

            fn dot4(sum: V, levels: V, x: V) -> V {
                $dpbusd(sum, levels, x)
            }

            fn dot8(sum: V, levels: V, x: V) -> V {
                dot4(sum, levels, x)
            }
        }
        tiles_of_rows! { $features }
        tiles_of_pixels! { $features }
        matmul_kernels! { $features; KERNELS = $name, Avx2 }
    };
}

mod vex {
    backend! { "avxvnni,avx2,bmi2,lzcnt", _mm256_dpbusd_avx_epi32, "x86_64-i8-avxvnni" }
}
mod evex {
    backend! { "avx512vnni,avx512vl,avx512f,avx2,bmi2,lzcnt", _mm256_dpbusd_epi32, "x86_64-i8-avx512vnni-256" }
}

pub use evex::KERNELS as OVER_AVX512;
pub use vex::KERNELS;
