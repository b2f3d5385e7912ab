//! SIMD128, which every browser since 2023 has: products of int16, two of which are summed.

use core::arch::wasm32::*;

/// Levels stay as they are.
const RAISED: i32 = 0;

pairs! { "simd128"; look up by i8x16_swizzle }
features! { "simd128";
    fn book(levels: [i8; 16]) -> V {
        twice(levels)
    }

    /// Negated where `all` is all ones.
    fn turned_at(levels: v128, all: v128) -> v128 {
        i8x16_sub(v128_xor(levels, all), all)
    }

    fn dot4(sum: V, levels: V, x: V) -> V {
        dot8(sum, levels, x)
    }
}

tiles_of_rows! { "simd128" }
tiles_of_pixels! { "simd128" }
matmul_kernels! { "simd128"; KERNELS = "wasm32-i8-simd128", Portable }
