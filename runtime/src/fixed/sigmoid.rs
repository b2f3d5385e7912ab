//! Sigmoid and hyperbolic tangent, from 2^-d and a reciprocal: no table of their own. NUMERICS.md, "sigmoid, tanh".

use super::exp::exp2_neg_q16;
use super::requantize::round_right;
use super::rsqrt::recip;

/// log2(e) in Q30.
pub const LOG2_E: u64 = 1_549_082_005;

/// `e^-|x|` and `1 / (1 + e^-|x|)` in Q30 and Q31, for `x` with `frac` fraction bits. |x| log2 e is rounded to Q16.
#[cfg_attr(mote_vector, inline)]
fn halves(x: i32, frac: i32) -> (u32, u32) {
    let z = round_right((u64::from(x.unsigned_abs()) * LOG2_E) as i64, (frac + 14).unsigned_abs()); // 13 to 42
    let e = exp2_neg_q16(u32::try_from(z).unwrap_or(u32::MAX));
    (e, recip((1 << 30) + e)) // 2 / (1 + e) in Q30
}

/// `1 / (1 + e^-x)` in Q31, 0 to 2^31, for `x` with `frac` fraction bits (0 to 28).
///
/// sigmoid(|x|) = 1 / (1 + e), sigmoid(-|x|) = e / (1 + e) with e = e^-|x|.
#[must_use]
#[cfg_attr(mote_vector, inline)]
pub fn sigmoid(x: i32, frac: i32) -> i64 {
    let (e, inverse) = halves(x, frac);
    if x < 0 { ((u64::from(e) * u64::from(inverse)) >> 30) as i64 } else { inverse.into() }
}

/// tanh(x) in Q31, -2^31 to 2^31, for `x` with `frac` fraction bits (1 to 28): 2 sigmoid(2 |x|) - 1, with the sign of `x`.
#[must_use]
pub fn tanh(x: i32, frac: i32) -> i64 {
    let (_, inverse) = halves(x, frac - 1);
    let size = (2 * i64::from(inverse) - (1 << 31)).clamp(0, 1 << 31);
    if x < 0 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every 16th of Q16 from -24 to 24.
    fn worst(function: fn(i32, i32) -> i64, exact: fn(f64) -> f64) -> f64 {
        let inputs = (-(24i32 << 16)..=24 << 16).step_by(16);
        let error = |x: i32| (function(x, 16) as f64 * 2f64.powi(-31) - exact(f64::from(x) * 2f64.powi(-16))).abs();
        inputs.map(error).fold(0f64, f64::max)
    }

    #[test]
    fn errors_against_f64() {
        let (s, t) = (worst(sigmoid, |x| 1.0 / (1.0 + (-x).exp())), worst(tanh, f64::tanh));
        println!("sigmoid 2^{:.2}, tanh 2^{:.2}", s.log2(), t.log2());
        assert!(s < 2f64.powi(-19) && t < 2f64.powi(-18), "{s:e} {t:e}");
    }

    /// So `x * sigmoid(x)` fits what `x` does: vectors need not saturate it.
    #[test]
    fn never_above_one() {
        assert!((0..=31 << 16).all(|z| recip((1 << 30) + exp2_neg_q16(z)) <= 1 << 31));
    }

    #[test]
    fn ends_and_middle() {
        for frac in [1, 16, 28] {
            assert_eq!((sigmoid(0, frac), tanh(0, frac)), ((1 << 30) - 1, 0));
        }
        for (x, s, t) in [(i32::MAX, 1 << 31, 1 << 31), (i32::MIN, 0, -(1 << 31))] {
            assert_eq!((sigmoid(x, 16), tanh(x, 16)), (s, t));
        }
        assert!((-200_000..200_000).all(|x| tanh(-x, 16) == -tanh(x, 16)));
    }
}
