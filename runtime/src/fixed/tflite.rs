//! TensorFlow Lite's fixed point, to the bit: how its int8 operators bring a 32-bit sum to the scale of the output.
//!
//! A real multiplier is `m * 2^(shift - 31)` with `m` in [2^30, 2^31). TFLite was built with two ways of rounding, and
//! a model was quantized for one of them; an op's flag says which. Source: gemmlowp's `fixedpoint.h` and TFLite's
//! `kernels/internal/common.h`. NUMERICS.md, "TFLite's fixed point".

/// How a product is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// First to 32 bits, halves up; then by the right shift, halves away from zero. TFLite's default.
    Double,
    /// Once, halves up (`TFLITE_SINGLE_ROUNDING`).
    Single,
}

/// `a * b * 2^-31`, halves up, saturated: gemmlowp's `SaturatingRoundingDoublingHighMul`.
///
/// There it truncates towards zero after adding a nudge that has the product's sign; an exact half below zero goes up as well,
/// since that nudge is one less. So it is the product plus a half, rounded down.
#[must_use]
#[cfg_attr(all(mote_lanes, target_arch = "arm"), inline(never))] // by a function of 64 bits
pub fn high_mul(a: i32, b: i32) -> i32 {
    if a == i32::MIN && b == i32::MIN {
        return i32::MAX;
    }
    ((i64::from(a) * i64::from(b) + (1 << 30)) >> 31) as i32
}

/// `x * 2^-exponent`, halves away from zero: gemmlowp's `RoundingDivideByPOT`. Beyond exponent 31: 0.
#[must_use]
#[cfg_attr(all(mote_lanes, target_arch = "arm"), inline(never))]
pub fn divide_by_pot(x: i32, exponent: u32) -> i32 {
    if exponent > 31 {
        return 0;
    }
    let mask = 1i32.wrapping_shl(exponent).wrapping_sub(1);
    let rest = x & mask;
    let half = (mask >> 1) + i32::from(x < 0);
    x.wrapping_shr(exponent) + i32::from(rest > half)
}

/// `x * 2^exponent`, saturated, `exponent` 1 to 30: gemmlowp's `SaturatingRoundingMultiplyByPOT`.
#[must_use]
#[cfg_attr(all(mote_lanes, target_arch = "arm"), inline(never))]
pub fn multiply_by_pot(x: i32, exponent: u32) -> i32 {
    let moved = x.wrapping_shl(exponent);
    if moved.wrapping_shr(exponent) == x { moved } else { i32::MAX ^ x >> 31 }
}

/// `x * m * 2^(shift - 31)`: TFLite's `MultiplyByQuantizedMultiplier`. `shift` is -31 to 30, others count as the nearest;
/// what a left shift pushes out of 32 bits is lost, as there.
#[must_use]
pub fn requantize(x: i32, m: i32, shift: i32, rounding: Rounding) -> i32 {
    let shift = shift.clamp(-31, 30);
    match rounding {
        Rounding::Double => {
            let moved = x.wrapping_shl(shift.max(0).unsigned_abs());
            divide_by_pot(high_mul(moved, m), shift.min(0).unsigned_abs())
        }
        Rounding::Single => {
            let total = (31 - shift).unsigned_abs();
            let product = i64::from(x) * i64::from(m);
            (product.wrapping_add(1i64 << (total - 1)) >> total) as i32
        }
    }
}

/// As [`requantize`], for loops over elements: what nearly every model asks for is inlined.
#[inline(always)]
#[must_use]
pub fn requantize_each(x: i32, m: i32, shift: i32, rounding: Rounding) -> i32 {
    if rounding == Rounding::Double && m > 0 && (-31..=0).contains(&shift) {
        divide_by_pot(high_mul(x, m), shift.unsigned_abs())
    } else {
        requantize(x, m, shift, rounding)
    }
}

/// `x * m * 2^(shift - 31)` for sums of 48 bits, `m` rounded to 16 bits first: TFLite's `MultiplyByQuantizedMultiplier` of
/// int64. `shift` is -31 to 7, others count as the nearest; the result is modulo 2^32.
#[must_use]
pub fn requantize_wide(x: i64, m: i32, shift: i32) -> i32 {
    let reduced = if m < 0x7FFF_0000 { (m + (1 << 15)) >> 16 } else { 0x7FFF };
    let total = (15 - shift.clamp(-31, 7)).unsigned_abs();
    (x.wrapping_mul(reduced.into()).wrapping_add(1i64 << (total - 1)) >> total) as i32
}

/// e^a for `a` <= 0 with `integer_bits` (2 to 5) above its fraction (5: Q5.26), in Q0.31: gemmlowp's
/// `exp_on_negative_values`.
///
/// `a` is cut to a remainder in [-1/4, 0), whose exponential is a polynomial of degree 4 around -1/8, and a sum of powers of
/// two, each of which is a factor.
#[must_use]
pub fn exp_on_negative(a: i32, integer_bits: u32) -> i32 {
    /// e^(-1/4), e^(-1/2), e^-1, ... e^-16 in Q0.31; factor i belongs to the bit of 2^(i - 2) in the remainder.
    const FACTORS: [i32; 7] = [1_672_461_947, 1_302_514_674, 790_015_084, 290_630_308, 39_332_535, 720_401, 242];
    if a == 0 {
        return i32::MAX;
    }
    let quarter_bit = 29u32.wrapping_sub(integer_bits) & 31;
    let quarter = 1i32 << quarter_bit;
    let rest = (a & (quarter - 1)) - quarter;
    let powers = rest.wrapping_sub(a);
    let mut result = exp_near_zero(multiply_by_pot(rest, integer_bits));
    for (factor, bit) in FACTORS.into_iter().zip(quarter_bit..31) {
        if powers.wrapping_shr(bit) & 1 != 0 {
            result = high_mul(result, factor);
        }
    }
    result
}

/// e^a for `a` in [-1/4, 0), Q0.31.
fn exp_near_zero(a: i32) -> i32 {
    const EXP_EIGHTH: i32 = 1_895_147_668; // e^(-1/8)
    const THIRD: i32 = 715_827_883;
    let x = a + (1 << 28);
    let x2 = high_mul(x, x);
    let x3 = high_mul(x2, x);
    let x4 = high_mul(x2, x2);
    let high = divide_by_pot(high_mul(divide_by_pot(x4, 2) + x3, THIRD) + x2, 1);
    EXP_EIGHTH + high_mul(EXP_EIGHTH, x + high)
}

/// 1 / (1 + a) for `a` in [0, 1), both Q0.31: gemmlowp's `one_over_one_plus_x_for_x_in_0_1`.
#[must_use]
pub fn one_over_one_plus(a: i32) -> i32 {
    multiply_by_pot(two_over_one_plus(a), 1)
}

/// (1 - a) / (1 + a) for `a` in [0, 1), both Q0.31: gemmlowp's `one_minus_x_over_one_plus_x_for_x_in_0_1`.
#[must_use]
pub fn one_minus_over_one_plus(a: i32) -> i32 {
    multiply_by_pot(two_over_one_plus(a).wrapping_sub(1 << 29), 2)
}

/// 2 / (1 + a) in Q2.29 for `a` in [0, 1) in Q0.31: three steps of Newton's.
fn two_over_one_plus(a: i32) -> i32 {
    const A48_OVER_17: i32 = 1_515_870_810; // Q2.29
    const MINUS_32_OVER_17: i32 = -1_010_580_540;
    let sum = i64::from(a) + i64::from(i32::MAX);
    let half_denominator = ((sum + if sum >= 0 { 1 } else { -1 }) / 2) as i32;
    let mut x = A48_OVER_17.wrapping_add(high_mul(half_denominator, MINUS_32_OVER_17));
    for _ in 0..3 {
        let rest = (1i32 << 29).wrapping_sub(high_mul(half_denominator, x));
        x = x.wrapping_add(multiply_by_pot(high_mul(x, rest), 2));
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_shifts_are_gemmlowp_s() {
        assert_eq!(high_mul(i32::MIN, i32::MIN), i32::MAX);
        assert_eq!(high_mul(i32::MIN, i32::MAX), -i32::MAX);
        for (a, b) in
            [(3, 1 << 30), (-3, 1 << 30), (1 << 30, 1), (-(1 << 30), 1), (7, -(1 << 30)), (12_345, 2_000_000_000)]
        {
            let exact = f64::from(a) * f64::from(b) / 2f64.powi(31);
            assert_eq!(f64::from(high_mul(a, b)), (exact + 0.5).floor(), "{a} {b}");
        }
        for x in -70..=70 {
            for e in 0..6u32 {
                let exact = f64::from(x) / 2f64.powi(e as i32);
                assert_eq!(f64::from(divide_by_pot(x, e)), exact.round(), "{x} {e}");
            }
        }
        assert_eq!(divide_by_pot(i32::MIN, 31), -1);
        assert_eq!(divide_by_pot(i32::MAX, 31), 1);
        assert_eq!((multiply_by_pot(1 << 29, 2), multiply_by_pot(-5, 1)), (i32::MAX, -10));
    }

    /// The two ways differ where the first rounding makes a half of what was less.
    #[test]
    fn roundings_differ_by_at_most_one() {
        let mut seed = 1u32;
        let mut differ = 0;
        for _ in 0..100_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let x = (seed as i32) >> 8;
            let m = (1 << 30) | (seed.rotate_left(11) as i32 & 0x3FFF_FFFF);
            let shift = -((seed >> 27) as i32 % 16);
            let double = requantize(x, m, shift, Rounding::Double);
            let single = requantize(x, m, shift, Rounding::Single);
            assert_eq!(requantize_each(x, m, shift, Rounding::Double), double, "{x} {m} {shift}");
            let exact = f64::from(x) * f64::from(m) * 2f64.powi(shift - 31);
            assert!((f64::from(single) - exact).abs() <= 0.5, "{x} {m} {shift}");
            assert!((f64::from(double) - exact).abs() <= 1.0 && (double - single).abs() <= 1, "{x} {m} {shift}");
            differ += i32::from(double != single);
        }
        assert!(differ > 0);
        // Any numbers at all: no panic.
        for shift in [i32::MIN, -31, 0, 30, i32::MAX] {
            for x in [i32::MIN, -1, 0, 1, i32::MAX] {
                for rounding in [Rounding::Double, Rounding::Single] {
                    assert_eq!(requantize_each(x, x, shift, rounding), requantize(x, x, shift, rounding));
                }
            }
        }
    }

    #[test]
    fn functions_against_f64() {
        let (mut worst_exp, mut worst_recip) = (0f64, 0f64);
        for i in 0..200_000i32 {
            let a = -i.wrapping_mul(10_737);
            let exact = (f64::from(a) * 2f64.powi(-26)).exp();
            worst_exp = worst_exp.max((f64::from(exp_on_negative(a, 5)) * 2f64.powi(-31) - exact).abs());
            let finer = a / 2;
            let exact = (f64::from(finer) * 2f64.powi(-27)).exp();
            worst_exp = worst_exp.max((f64::from(exp_on_negative(finer, 4)) * 2f64.powi(-31) - exact).abs());
            let b = i * 10_737;
            let exact = 1.0 / (1.0 + f64::from(b) * 2f64.powi(-31));
            worst_recip = worst_recip.max((f64::from(one_over_one_plus(b)) * 2f64.powi(-31) - exact).abs());
            let exact = 2.0 * exact - 1.0;
            let got = f64::from(one_minus_over_one_plus(b)) * 2f64.powi(-31);
            worst_recip = worst_recip.max((got - exact).abs() / 4.0);
        }
        assert!(worst_exp < 2f64.powi(-20), "{worst_exp:e}");
        assert!(worst_recip < 2f64.powi(-28), "{worst_recip:e}");
        assert_eq!(exp_on_negative(i32::MIN, 5), 0);
    }
}
