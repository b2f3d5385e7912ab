//! Relaxed SIMD: `i32x4.relaxed_dot_i8x16_i7x16_add_s` sums four products of bytes, where the machine has an instruction for that
//! (`vpdpbusd`, `sdot`) by it. x86-64 without AVX-VNNI takes three, so the two dot products below are then about as fast as SIMD128's
//! (V8 on a Zen 4: prompts a tenth slower, text a twelfth faster).
//!
//! Engines may differ in it, results of ours may not. What the proposal leaves open, and why it does not matter here
//! (<https://github.com/WebAssembly/relaxed-simd/blob/main/proposals/relaxed-simd/Overview.md>):
//!
//! - A byte of the second operand with its highest bit set may count as signed or as unsigned. Ours never have it: levels of codebooks
//!   are -127 to 127 (`TensorDesc`), so raised by 127 they are 0 to 254, which is the sum of `min(level, 127)` and what is left, both
//!   0 to 127.
//! - Sums of two products may saturate at int16 or wrap. Ours are within 2 * 128 * 127 = 32,512, so they do neither.
//! - `i8x16.relaxed_swizzle` is open for indices beyond 15. Ours are four bits.
//!
//! Levels of 8-bit weights, and of nets, may be any int8: those are SIMD128's, in `pairs.rs`.

use core::arch::wasm32::*;

/// Levels of 8 bits stay as they are.
const RAISED: i32 = 0;
/// Those that are looked up are raised by so much.
const LOOKED_UP_RAISED: i32 = 127;

pairs! { "simd128,relaxed-simd"; look up by i8x16_relaxed_swizzle }
features! { "simd128,relaxed-simd";
    fn book(levels: [i8; 16]) -> V {
        twice(levels.map(|level| level.wrapping_add(LOOKED_UP_RAISED as i8)))
    }

    /// Negated where `all` is all ones: 127 + l becomes 127 - l, which is 255 - (127 + l) - 1.
    fn turned_at(levels: v128, all: v128) -> v128 {
        i8x16_add(v128_xor(levels, all), all)
    }

    fn dot4(sum: V, levels: V, x: V) -> V {
        from_fn(|at| {
            let most = u8x16_min(levels[at], u8x16_splat(127));
            let rest = i8x16_sub(levels[at], most);
            let sum = i32x4_relaxed_dot_i8x16_i7x16_add(x[at], most, sum[at]);
            i32x4_relaxed_dot_i8x16_i7x16_add(x[at], rest, sum)
        })
    }
}

tiles_of_rows! { "simd128,relaxed-simd" }
tiles_of_pixels! { "simd128,relaxed-simd" }
matmul_kernels! { "simd128,relaxed-simd"; KERNELS = "wasm32-i8-relaxed", Portable, LOOKED_UP_RAISED }
