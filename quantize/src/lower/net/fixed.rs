//! Real multipliers as integers, as TensorFlow Lite makes them.

/// A float as it is: `mantissa * 2^-exponent`.
pub(super) fn exact(value: f32) -> (u32, i32) {
    let bits = value.to_bits();
    let (exponent, fraction) = ((bits >> 23 & 0xFF) as i32, bits & 0x7F_FFFF);
    if exponent == 0 { (fraction, 149) } else { (fraction | 1 << 23, 150 - exponent) }
}

/// TFLite's `QuantizeMultiplier`: `real = multiplier * 2^(shift - 31)`, the multiplier in [2^30, 2^31). `None` for what no
/// ratio of scales is.
pub(crate) fn quantize_multiplier(real: f64) -> Option<(i32, i32)> {
    if !real.is_finite() || real < 0.0 {
        return None;
    }
    if real < f64::MIN_POSITIVE {
        return Some((0, 0));
    }
    let mut shift = (real.to_bits() >> 52) as i32 - 1022; // frexp
    let fraction = f64::from_bits(real.to_bits() & ((1 << 52) - 1) | 1022 << 52);
    let mut fixed = (fraction * 2f64.powi(31)).round() as i64;
    if fixed == 1 << 31 {
        fixed /= 2;
        shift += 1;
    }
    // A shift to the left by more moves every sum out of 32 bits.
    match shift {
        ..-31 => Some((0, 0)),
        -31..=30 => Some((fixed as i32, shift)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multipliers_are_tflite_s() {
        for (real, expected) in [
            (0.0, Some((0, 0))),
            (1.0, Some((1 << 30, 1))),
            (0.5, Some((1 << 30, 0))),
            (0.25, Some((1 << 30, -1))),
            (1.0 - 1e-12, Some((1 << 30, 1))),
            (1e-12, Some((0, 0))),
            (0.75, Some((3 << 29, 0))),
            (1e12, None),
            (-1.0, None),
            (f64::NAN, None),
        ] {
            assert_eq!(quantize_multiplier(real), expected, "{real}");
        }
        for value in [0.1f32, 1.0, 0.003_921_569, 1e-40, 3.4e38] {
            let (mantissa, exponent) = exact(value);
            assert_eq!((f64::from(mantissa) * 2f64.powi(-exponent)) as f32, value);
        }
    }
}
