//! Reciprocal and reciprocal square root by Newton's method, from linear seeds: no tables, no division.

/// 48/17 in Q30: with [`SLOPE`] the line that [`recip`] begins with.
pub const SEED: u64 = 3_031_741_621;
/// 32/17 in Q30.
pub const SLOPE: u64 = 2_021_161_081;

/// `2^61 / d`, that is 1/x in Q30 for x = d * 2^-31 in [1/2, 1]; `d` is clamped to 2^30 ..= 2^31.
///
/// Seed 48/17 - 32/17 x (relative error at most 1/17), then y = y (2 - x y) three times: 1/17 -> 2^-8 -> 2^-16 -> 2^-32;
/// what is left is the rounding of 30-bit arithmetic. Source: Newton-Raphson division as in any text; seed is the
/// minimax line.
#[must_use]
#[cfg_attr(mote_vector, inline)]
pub fn recip(d: u32) -> u32 {
    let d = d.clamp(1 << 30, 1 << 31);
    let mut y = (SEED - ((SLOPE * u64::from(d)) >> 31)) as u32; // below 2^31.3, as all here: 32-bit factors are cheap everywhere
    for _ in 0..3 {
        let xy = ((u64::from(d) * u64::from(y)) >> 31) as u32; // Q30
        y = ((u64::from(y) * u64::from((2u32 << 30).wrapping_sub(xy))) >> 30) as u32;
    }
    y
}

/// 1/sqrt(v) as `(r, h)` with 1/sqrt(v) = r * 2^-30 * 2^-h, r in Q30 within [1, 2]; 0 counts as 1.
///
/// `v` is normalised by an even shift to u = v' * 2^-64 in [1/4, 1), cut to 32 bits; seed 2.2247 - 1.2862 u, the
/// minimax line (relative error at most 0.061); then r = r (3 - u r^2) / 2 four times.
#[must_use]
pub fn rsqrt(v: u64) -> (u32, u32) {
    let v = v.max(1);
    let even = v.leading_zeros() & 62;
    let u = (v << even) >> 32; // Q32, in [2^30, 2^32)
    let mut r = 2_388_753_613u64 - ((1_381_046_866 * u) >> 32); // Q30
    for _ in 0..4 {
        let r2 = (r * r) >> 30; // Q30
        let t = (u * r2) >> 32; // Q30, near 1
        r = (r * ((3u64 << 30).wrapping_sub(t))) >> 31;
    }
    (r as u32, (64 - even) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recip_error() {
        let mut worst = 0f64;
        for i in 0..=2_000_000u64 {
            let d = ((1u64 << 30) + i * (1 << 30) / 2_000_000) as u32;
            let exact = 2f64.powi(61) / f64::from(d);
            worst = worst.max((f64::from(recip(d)) / exact - 1.0).abs());
        }
        assert!(worst < 2f64.powi(-28), "{worst:e}");
    }

    #[test]
    fn rsqrt_error() {
        let mut worst = 0f64;
        let mut v = 1u64;
        while v < u64::MAX - v / 1000 - 1 {
            let (r, h) = rsqrt(v);
            let got = f64::from(r) * 2f64.powi(-30 - h as i32);
            worst = worst.max((got * (v as f64).sqrt() - 1.0).abs());
            v += v / 1000 + 1;
        }
        assert!(worst < 2f64.powi(-27), "{worst:e}");
    }
}
