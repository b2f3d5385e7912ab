//! Rounding shifts and scales: how an exact integer sum becomes a fixed-point number.

/// A dynamic scale: `value = integer * mant * 2^-exp`. A row of zeros has mantissa 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scale {
    /// Mantissa, 16 513 to 33 026 (see [`quantizer`]).
    pub mant: u32,
    /// Exponent.
    pub exp: i32,
}

/// `v * 2^-shift` for a shift of 1 to 63, halves rounded up: [`shift_round`] without a branch.
#[must_use]
#[inline(always)]
pub fn round_right(v: i64, shift: u32) -> i64 {
    let twice = v >> (shift.wrapping_sub(1) & 63);
    twice - (twice >> 1) // half of it, rounded up
}

/// `v * 2^-shift`, halves rounded up, saturated to 64 bits. Negative shifts multiply.
#[must_use]
pub fn shift_round(v: i64, shift: i32) -> i64 {
    if shift > 0 {
        if shift >= 64 {
            return 0;
        }
        return round_right(v, shift.unsigned_abs());
    }
    let left = shift.unsigned_abs();
    let moved = v.wrapping_shl(left);
    if v == 0 || (left < 63 && (moved >> left) == v) {
        moved
    } else if v > 0 {
        i64::MAX
    } else {
        i64::MIN
    }
}

/// The nearest int32.
#[must_use]
#[inline]
pub fn saturate(v: i64) -> i32 {
    v.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}

/// How to map int32 values of magnitude at most `amax` (> 0) to int8 in -127..=127.
///
/// Returns `(inv, shift, scale)` with `code = shift_round(v * inv, shift)` and `v ~ code * scale`, `scale` for
/// integers (`frac` = 0). NUMERICS.md, "quantize".
#[must_use]
pub fn quantizer(amax: u32) -> (i64, i32, Scale) {
    let n = amax.leading_zeros() & 31;
    let top = amax << n;
    let a15 = (top.saturating_sub(1) >> 17) + 1;
    let inv = (127 << 24) / a15;
    let mant = ((a15 << 7) + 63) / 127;
    (i64::from(inv), 41 - n as i32, Scale { mant, exp: n as i32 - 10 })
}

/// Largest magnitude in `row`; 0 for an empty row.
#[must_use]
#[cfg_attr(mote_vector, inline)]
pub fn amax(row: &[i32]) -> u32 {
    row.iter().map(|v| v.unsigned_abs()).fold(0, u32::max)
}

/// Quantizes `row` (fixed point, `frac` fraction bits) into `codes` with one scale. Codes beyond the row become 0.
#[cfg_attr(mote_vector, inline(always))]
pub fn quantize_row(row: &[i32], frac: i32, codes: &mut [i8]) -> Scale {
    let peak = amax(row);
    if peak == 0 {
        codes.fill(0);
        return Scale::default();
    }
    let (inv, shift, scale) = quantizer(peak); // the shift is 10 to 41
    for (code, v) in codes.iter_mut().zip(row) {
        *code = round_right(i64::from(*v) * inv, shift.unsigned_abs()) as i8;
    }
    codes.iter_mut().skip(row.len()).for_each(|code| *code = 0);
    Scale { mant: scale.mant, exp: scale.exp + frac }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shift_round_is_the_nearest_integer() {
        for v in -70i64..=70 {
            for s in 0..6 {
                let exact = v as f64 / f64::from(1 << s);
                assert_eq!(shift_round(v, s), (exact + 0.5).floor() as i64, "{v} {s}");
            }
        }
        assert_eq!(shift_round(i64::MAX, 1), 1 << 62);
        assert_eq!(shift_round(i64::MAX, 63), 1);
        assert_eq!(shift_round(i64::MIN, 63), -1);
        assert_eq!(shift_round(i64::MAX, 64), 0);
        assert_eq!(shift_round(i64::MIN, 64), 0);
        assert_eq!(shift_round(1, -62), 1 << 62);
        assert_eq!(shift_round(1, -63), i64::MAX);
        assert_eq!(shift_round(-1, -200), i64::MIN);
        assert_eq!(shift_round(0, -200), 0);
    }

    /// Dense sweep over magnitudes: codes stay in range, and the value comes back within half a step plus the
    /// 2^-14 by which the scale's mantissa is rounded.
    #[test]
    fn quantizer_bounds() {
        let mut worst = 0f64;
        let mut amax = 1u32;
        while amax <= 1 << 31 {
            let (inv, shift, scale) = quantizer(amax);
            assert!((16_513..=33_026).contains(&scale.mant));
            let unit = f64::from(scale.mant) * 2f64.powi(-scale.exp);
            for k in -64i64..=64 {
                let v = i64::from(amax) * k / 64;
                let code = shift_round(v * inv, shift);
                assert!((-127..=127).contains(&code), "{amax} {k} {code}");
                worst = worst.max((code as f64 * unit - v as f64).abs() / unit);
            }
            amax = amax.saturating_add(amax / 97 + 1);
            if amax > 1 << 31 {
                break;
            }
        }
        assert!(worst < 0.512, "{worst}");
    }
}
