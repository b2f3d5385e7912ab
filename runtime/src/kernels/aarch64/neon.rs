//! NEON alone: products of bytes are 16 bits wide.

use core::arch::aarch64::*;

use super::quads::*;
use crate::kernels::vector::matmul::word;

/// Four codes as [`dot4`] takes them: for each row.
type Four = V;

features! { "neon";
    fn four(codes: &[i8; GROUP], line: usize) -> Four {
        splat(word(codes, line))
    }

    fn dot4(sum: V, levels: V, x: Four) -> V {
        // Levels are never -128 (`TensorDesc`), so 16 bits hold two products.
        let [low, high] = products(levels, x);
        vpadalq_s16(sum, vpaddq_s16(low, high))
    }

    /// Levels may be -128 here.
    fn dot8(sum: V, levels: V, x: Four) -> V {
        let [low, high] = products(levels, x).map(|v| vpaddlq_s16(v));
        vaddq_s32(sum, vpaddq_s32(low, high))
    }

    /// Four products for each sum, of any int8.
    fn dots4(sum: V, x: V, w: V) -> V {
        dot8(sum, x, w)
    }

    fn products(a: V, b: V) -> [int16x8_t; 2] {
        let (a, b) = (as_signed(a), as_signed(b));
        [vmull_s8(vget_low_s8(a), vget_low_s8(b)), vmull_high_s8(a, b)]
    }
}

tiles_of_rows! { "neon" }
tiles_of_pixels! { "neon" }
matmul_kernels! { "neon"; KERNELS = "aarch64-i8-neon", Portable }
