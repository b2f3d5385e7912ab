//! The gated linear unit, of vectors: [`crate::kernels::scalar::rows::glu`]. Of that a compiler makes no vectors for AVX2, which lacks its
//! shifts; for AVX-512 some that are 64 bits wide throughout, with a gather.
//!
//! Products of 64 bits are those of even and those of odd elements. Where a factor has room it is doubled, so that what is wanted of a
//! product is its upper half: those of two products are one vector again by one instruction.

use core::arch::x86_64::*;
use core::array::from_fn;

use crate::fixed::exp::{LN_2, TABLE};
use crate::fixed::rsqrt::{SEED, SLOPE};
use crate::fixed::sigmoid::LOG2_E;

/// 2^(-i/64) in Q31.
const TWICE: [u32; 64] = {
    let (mut table, mut i) = (TABLE, 0);
    while i < 64 {
        table[i] *= 2;
        i += 1;
    }
    table
};

/// Vectors side by side, so that one's instructions run while another's wait for each other.
const SIDE: usize = 4;

/// The op of `V`, `LANES` and the primitives beside them.
macro_rules! glu {
    ($features:literal) => {
        type Whole = [V; SIDE];
        /// Even and odd elements of each, in the lower half of 64 bits. What lies in the upper half is nobody's.
        type Halves = [[V; 2]; SIDE];
        type Elements = [i32; SIDE * LANES];

        features! { $features;
            /// See [`crate::kernels::rows::glu`]; `frac` is 0 to 28, `shift` 1 to 63.
            pub fn glu(gate: &mut [i32], up: &[i32], frac: u32, shift: u32) {
                let count = gate.len().min(up.len());
                let ((gates, gate), (ups, up)) = (gate[..count].as_chunks_mut(), up[..count].as_chunks());
                gates.iter_mut().zip(ups).for_each(|(gate, up)| at_once(gate, up, frac, shift));
                if !gate.is_empty() {
                    let (mut padded, mut ups) = ([0; SIDE * LANES], [0; SIDE * LANES]);
                    padded[..gate.len()].copy_from_slice(gate);
                    ups[..up.len()].copy_from_slice(up);
                    at_once(&mut padded, &ups, frac, shift);
                    gate.copy_from_slice(&padded[..gate.len()]);
                }
            }

            fn at_once(gate: &mut Elements, up: &Elements, frac: u32, shift: u32) {
                let (to, up) = (gate.as_chunks_mut().0, up.as_chunks().0);
                let (x, up) = (from_fn(|i| load(&to[i])), from_fn(|i| load(&up[i])));
                let silu = silu(x, exponential(exponent(x, frac)));
                let product = plus(signed_products(silu, halves(up)), 1 << (shift - 1));
                for (to, [even, odd]) in to.iter_mut().zip(product) {
                    store(saturated(right_signed(even, shift), right_signed(odd, shift)), to);
                }
            }

            /// `|x| * log2(e)` in Q16. From `|x| = 2^(frac + 5)` on e^-|x| is 0, and so far this has 22 bits.
            fn exponent(x: Whole, frac: u32) -> Whole {
                let size = x.map(|x| least(size(x), splat((1u32 << (frac + 5).min(31)) as i32)));
                let product = plus(products(halves(size), all(LOG2_E as i64)), 1 << (frac + 13));
                low(right(product, frac + 14))
            }

            /// See [`crate::fixed::exp::exp2_neg_q16`]. `d` has 22 bits.
            fn exponential(d: Whole) -> Whole {
                let ten = d.map(|d| both(d, splat(1023)));
                // The product without its lower 16 bits, by the constant's upper and by its lower half.
                let (upper, lower) = (splat((LN_2 >> 16) as i32), splat((LN_2 & 0xFFFF) as i32));
                let x = ten.map(|ten| add(product16(ten, upper), high16(ten, lower)));
                let double = halves(x.map(|x| add(x, x)));
                let square = products(double, double);
                let (half, cube) = (high(square), high(products(right(square, 32), double)));
                let poly = from_fn(|i| {
                    // Half of x^3, below 683, by 2^16 / 3 (rounded up).
                    let sixth = high16(cube[i], splat(21_846));
                    let poly = sub(add(sub(splat(1 << 30), x[i]), right32(half[i], 1)), sixth);
                    add(poly, poly)
                });
                let top = halves(d.map(|d| looked_up(right32(d, 10))));
                let value = high(plus(products(top, halves(poly)), 1 << 31));
                from_fn(|i| {
                    let moved = right_each(add(value[i], value[i]), right32(d[i], 16));
                    where_below(d[i], 31 << 16, right32(add(moved, splat(1)), 1))
                })
            }

            /// `x * sigmoid(x)`, see [`crate::kernels::scalar::rows::silu`]; `e` is e^-|x|.
            fn silu(x: Whole, e: Whole) -> Halves {
                let one = splat(1 << 30);
                let inverse = reciprocal(halves(e.map(|e| add(e, one))));
                // Of what is below 0 e / (1 + e), else 1 / (1 + e).
                let above = halves(from_fn(|i| by_sign(x[i], e[i], one)));
                let sigmoid = low(right(products(above, inverse), 30));
                // From 0 to 2^31: less by 2^31 it has a sign, and the product, by x, is less by x.
                let signed = halves(sigmoid.map(|v| sub(v, splat(i32::MIN))));
                let product = right(plus(signed_products(halves(x), signed), 1 << 30), 31);
                zipped(product, halves(x), |a, b| add64(a, b))
            }

            /// See [`crate::fixed::rsqrt::recip`]. `d` is 2^30 to 2^31.
            fn reciprocal(d: Halves) -> Halves {
                let mut y = minus(SEED as i64, right(products(d, all(SLOPE as i64)), 31));
                for _ in 0..3 {
                    let rest = minus(2 << 30, right(products(d, y), 31));
                    y = right(products(y, rest), 30);
                }
                y
            }

            fn halves(v: Whole) -> Halves {
                v.map(|v| [v, odd(v)])
            }

            fn low(v: Halves) -> Whole {
                v.map(|[even, odd]| lower_halves(even, odd))
            }

            fn high(v: Halves) -> Whole {
                v.map(|[even, odd]| upper_halves(even, odd))
            }

            fn all(value: i64) -> Halves {
                [[splat64(value); 2]; SIDE]
            }

            fn products(a: Halves, b: Halves) -> Halves {
                zipped(a, b, |a, b| product(a, b))
            }

            fn signed_products(a: Halves, b: Halves) -> Halves {
                zipped(a, b, |a, b| signed_product(a, b))
            }

            fn plus(a: Halves, b: i64) -> Halves {
                zipped(a, all(b), |a, b| add64(a, b))
            }

            fn minus(a: i64, b: Halves) -> Halves {
                zipped(all(a), b, |a, b| sub64(a, b))
            }

            fn right(v: Halves, bits: u32) -> Halves {
                v.map(|v| v.map(|v| right64(v, bits)))
            }

            fn zipped(a: Halves, b: Halves, function: impl Fn(V, V) -> V) -> Halves {
                from_fn(|i| from_fn(|half| function(a[i][half], b[i][half])))
            }
        }
    };
}

/// 512 bits.
pub mod avx512 {
    use super::*;

    type V = __m512i;
    const LANES: usize = 16;
    glu! { "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,bmi2,lzcnt" }

    features! { "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,bmi2,lzcnt";
        fn load(from: &[i32; LANES]) -> V {
            // SAFETY: 64 bytes are there; the load asks for no alignment.
            unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
        }

        fn store(v: V, to: &mut [i32; LANES]) {
            // SAFETY: 64 bytes are there; the store asks for no alignment.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), v) };
        }

        fn splat(value: i32) -> V {
            _mm512_set1_epi32(value)
        }

        fn splat64(value: i64) -> V {
            _mm512_set1_epi64(value)
        }

        fn add(a: V, b: V) -> V {
            _mm512_add_epi32(a, b)
        }

        fn sub(a: V, b: V) -> V {
            _mm512_sub_epi32(a, b)
        }

        fn add64(a: V, b: V) -> V {
            _mm512_add_epi64(a, b)
        }

        fn sub64(a: V, b: V) -> V {
            _mm512_sub_epi64(a, b)
        }

        /// Bits of both.
        fn both(a: V, b: V) -> V {
            _mm512_and_si512(a, b)
        }

        fn size(v: V) -> V {
            _mm512_abs_epi32(v)
        }

        /// The lesser, without signs.
        fn least(a: V, b: V) -> V {
            _mm512_min_epu32(a, b)
        }

        /// Of the lower halves of 64 bits.
        fn product(a: V, b: V) -> V {
            _mm512_mul_epu32(a, b)
        }

        fn signed_product(a: V, b: V) -> V {
            _mm512_mul_epi32(a, b)
        }

        /// Of the lower halves of 32 bits, below 2^15; the upper ones are 0.
        fn product16(a: V, b: V) -> V {
            _mm512_madd_epi16(a, b)
        }

        /// The upper half of a product of lower halves of 32 bits; the upper ones are 0.
        fn high16(a: V, b: V) -> V {
            _mm512_mulhi_epu16(a, b)
        }

        fn right64(v: V, bits: u32) -> V {
            _mm512_srl_epi64(v, _mm_cvtsi32_si128(bits as i32))
        }

        /// 64 bits with their sign.
        fn right_signed(v: V, bits: u32) -> V {
            _mm512_sra_epi64(v, _mm_cvtsi32_si128(bits as i32))
        }

        fn right32(v: V, bits: u32) -> V {
            _mm512_srl_epi32(v, _mm_cvtsi32_si128(bits as i32))
        }

        fn right_each(v: V, bits: V) -> V {
            _mm512_srlv_epi32(v, bits)
        }

        /// Odd elements where even ones are.
        fn odd(v: V) -> V {
            _mm512_castps_si512(_mm512_movehdup_ps(_mm512_castsi512_ps(v)))
        }

        fn lower_halves(even: V, odd: V) -> V {
            _mm512_mask_shuffle_epi32::<0xA0>(even, 0xAAAA, odd)
        }

        fn upper_halves(even: V, odd: V) -> V {
            _mm512_mask_shuffle_epi32::<0xF5>(odd, 0x5555, even)
        }

        /// 64 bits to 32.
        fn saturated(even: V, odd: V) -> V {
            let limited = |v| _mm512_max_epi64(_mm512_min_epi64(v, splat64(i32::MAX.into())), splat64(i32::MIN.into()));
            lower_halves(limited(even), limited(odd))
        }

        /// Of the second where `v` is below 0, else of the third.
        fn by_sign(v: V, below: V, else_: V) -> V {
            _mm512_mask_mov_epi32(else_, _mm512_movepi32_mask(v), below)
        }

        /// 0 elsewhere. Neither has a sign.
        fn where_below(v: V, limit: i32, kept: V) -> V {
            _mm512_maskz_mov_epi32(_mm512_cmplt_epi32_mask(v, splat(limit)), kept)
        }

        /// Of [`TWICE`], by the lowest six bits.
        fn looked_up(i: V) -> V {
            // SAFETY: 64 bytes of each are there; the load asks for no alignment.
            let [a, b, c, d] = from_fn(|at| unsafe { _mm512_loadu_si512(TWICE.as_ptr().add(16 * at).cast()) });
            let second = _mm512_test_epi32_mask(i, splat(32));
            _mm512_mask_blend_epi32(second, _mm512_permutex2var_epi32(a, i, b), _mm512_permutex2var_epi32(c, i, d))
        }
    }
}

/// 256 bits.
pub mod avx2 {
    use super::*;

    type V = __m256i;
    const LANES: usize = 8;
    glu! { "avx2,bmi2,lzcnt" }

    features! { "avx2,bmi2,lzcnt";
        fn load(from: &[i32; LANES]) -> V {
            // SAFETY: 32 bytes are there; the load asks for no alignment.
            unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
        }

        fn store(v: V, to: &mut [i32; LANES]) {
            // SAFETY: 32 bytes are there; the store asks for no alignment.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), v) };
        }

        fn splat(value: i32) -> V {
            _mm256_set1_epi32(value)
        }

        fn splat64(value: i64) -> V {
            _mm256_set1_epi64x(value)
        }

        fn add(a: V, b: V) -> V {
            _mm256_add_epi32(a, b)
        }

        fn sub(a: V, b: V) -> V {
            _mm256_sub_epi32(a, b)
        }

        fn add64(a: V, b: V) -> V {
            _mm256_add_epi64(a, b)
        }

        fn sub64(a: V, b: V) -> V {
            _mm256_sub_epi64(a, b)
        }

        /// Bits of both.
        fn both(a: V, b: V) -> V {
            _mm256_and_si256(a, b)
        }

        fn size(v: V) -> V {
            _mm256_abs_epi32(v)
        }

        /// The lesser, without signs.
        fn least(a: V, b: V) -> V {
            _mm256_min_epu32(a, b)
        }

        /// Of the lower halves of 64 bits.
        fn product(a: V, b: V) -> V {
            _mm256_mul_epu32(a, b)
        }

        fn signed_product(a: V, b: V) -> V {
            _mm256_mul_epi32(a, b)
        }

        /// Of the lower halves of 32 bits, below 2^15; the upper ones are 0.
        fn product16(a: V, b: V) -> V {
            _mm256_madd_epi16(a, b)
        }

        /// The upper half of a product of lower halves of 32 bits; the upper ones are 0.
        fn high16(a: V, b: V) -> V {
            _mm256_mulhi_epu16(a, b)
        }

        fn right64(v: V, bits: u32) -> V {
            _mm256_srl_epi64(v, _mm_cvtsi32_si128(bits as i32))
        }

        /// 64 bits with their sign.
        fn right_signed(v: V, bits: u32) -> V {
            // Without a sign each is more by 2^63.
            let sign = splat64(i64::MIN);
            sub64(right64(_mm256_xor_si256(v, sign), bits), right64(sign, bits))
        }

        fn right32(v: V, bits: u32) -> V {
            _mm256_srl_epi32(v, _mm_cvtsi32_si128(bits as i32))
        }

        fn right_each(v: V, bits: V) -> V {
            _mm256_srlv_epi32(v, bits)
        }

        /// Odd elements where even ones are.
        fn odd(v: V) -> V {
            _mm256_castps_si256(_mm256_movehdup_ps(_mm256_castsi256_ps(v)))
        }

        fn lower_halves(even: V, odd: V) -> V {
            _mm256_blend_epi32::<0xAA>(even, _mm256_shuffle_epi32::<0xA0>(odd))
        }

        fn upper_halves(even: V, odd: V) -> V {
            _mm256_blend_epi32::<0xAA>(_mm256_shuffle_epi32::<0xF5>(even), odd)
        }

        /// 64 bits to 32.
        fn saturated(even: V, odd: V) -> V {
            let (low, high) = (lower_halves(even, odd), upper_halves(even, odd));
            let sign = _mm256_srai_epi32::<31>(high);
            let fits = _mm256_cmpeq_epi32(high, _mm256_srai_epi32::<31>(low));
            _mm256_blendv_epi8(_mm256_xor_si256(sign, splat(i32::MAX)), low, fits)
        }

        /// Of the second where `v` is below 0, else of the third.
        fn by_sign(v: V, below: V, else_: V) -> V {
            let [v, below, else_] = [v, below, else_].map(|v| _mm256_castsi256_ps(v));
            _mm256_castps_si256(_mm256_blendv_ps(else_, below, v))
        }

        /// 0 elsewhere. Neither has a sign.
        fn where_below(v: V, limit: i32, kept: V) -> V {
            both(kept, _mm256_cmpgt_epi32(splat(limit), v))
        }

        /// Of [`TWICE`], by the lowest six bits.
        fn looked_up(i: V) -> V {
            // SAFETY: six bits never lead beyond the table.
            unsafe { _mm256_i32gather_epi32::<4>(TWICE.as_ptr().cast(), both(i, splat(63))) }
        }
    }
}
