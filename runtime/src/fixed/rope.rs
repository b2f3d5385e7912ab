//! Sine and cosine of a phase in turns, for rotary position embeddings.
//!
//! A phase is a u64 fraction of a turn: position times step wraps by itself, and 64 bits keep it exact to 2^-43 turns
//! at a million positions (32 bits lose 1.5e-5 turns at 128 k). The table holds one quarter of the sine wave; the rest
//! of the angle, under 1/256 turn, goes through the addition theorem with short Taylor series. 260 bytes of flash.

/// sin(pi/2 * i/64) in Q30.
const QUARTER: [i32; 65] = [
    0,
    26_350_943,
    52_686_014,
    78_989_349,
    105_245_103,
    131_437_462,
    157_550_647,
    183_568_930,
    209_476_638,
    235_258_165,
    260_897_982,
    286_380_643,
    311_690_799,
    336_813_204,
    361_732_726,
    386_434_353,
    410_903_207,
    435_124_548,
    459_083_786,
    482_766_489,
    506_158_392,
    529_245_404,
    552_013_618,
    574_449_320,
    596_538_995,
    618_269_338,
    639_627_258,
    660_599_890,
    681_174_602,
    701_339_000,
    721_080_937,
    740_388_522,
    759_250_125,
    777_654_384,
    795_590_213,
    813_046_808,
    830_013_654,
    846_480_531,
    862_437_520,
    877_875_009,
    892_783_698,
    907_154_608,
    920_979_082,
    934_248_793,
    946_955_747,
    959_092_290,
    970_651_112,
    981_625_251,
    992_008_094,
    1_001_793_390,
    1_010_975_242,
    1_019_548_121,
    1_027_506_862,
    1_034_846_671,
    1_041_563_127,
    1_047_652_185,
    1_053_110_176,
    1_057_933_813,
    1_062_120_190,
    1_065_666_786,
    1_068_571_464,
    1_070_832_474,
    1_072_448_455,
    1_073_418_433,
    1_073_741_824,
];

/// Cosine and sine of `phase` (in 2^-64 turns), Q30. Error under 2^-27 (measured below).
#[must_use]
pub fn cos_sin(phase: u64) -> (i32, i32) {
    // Within a quarter: 6 bits of table index, then 24 bits of remainder.
    let quarter = (phase >> 62) as u32;
    let index = ((phase >> 56) & 63) as usize;
    let rest = ((phase >> 32) & 0xFF_FFFF) as i64; // in 2^-32 turns
    // 2 pi in Q27 times the rest in 2^-32 turns, to Q30 radians.
    let d = (rest * 843_314_857) >> 29;
    let d2 = (d * d) >> 30;
    let sin_d = d - ((((d2 * d) >> 30) * 178_956_971) >> 30);
    let cos_d = (1i64 << 30) - (d2 >> 1) + ((((d2 * d2) >> 30) * 44_739_243) >> 30);
    let s = i64::from(at(index));
    let c = i64::from(at(64 - index));
    let half = 1i64 << 29;
    let sin = ((s * cos_d + c * sin_d + half) >> 30) as i32;
    let cos = ((c * cos_d - s * sin_d + half) >> 30) as i32;
    match quarter {
        0 => (cos, sin),
        1 => (-sin, cos),
        2 => (-cos, -sin),
        _ => (sin, -cos),
    }
}

fn at(index: usize) -> i32 {
    QUARTER.get(index).copied().unwrap_or(0)
}

/// Rotates the pair `(a, b)` by the angle: `(a cos - b sin, a sin + b cos)`, halves up, saturated.
#[must_use]
pub fn rotate(a: i32, b: i32, cos: i32, sin: i32) -> (i32, i32) {
    let (a, b, cos, sin) = (i64::from(a), i64::from(b), i64::from(cos), i64::from(sin));
    let first = super::requantize::shift_round(a * cos - b * sin, 30);
    let second = super::requantize::shift_round(a * sin + b * cos, 30);
    (super::requantize::saturate(first), super::requantize::saturate(second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cos_sin_error() {
        let mut worst = 0f64;
        for i in 0..4_000_000u64 {
            let phase = i.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let angle = phase as f64 * 2f64.powi(-64) * core::f64::consts::TAU;
            let (c, s) = cos_sin(phase);
            worst = worst.max((f64::from(c) * 2f64.powi(-30) - angle.cos()).abs());
            worst = worst.max((f64::from(s) * 2f64.powi(-30) - angle.sin()).abs());
        }
        assert!(worst < 2f64.powi(-27), "{worst:e}");
    }

    #[test]
    fn axes_are_exact() {
        assert_eq!(cos_sin(0), (1 << 30, 0));
        assert_eq!(cos_sin(1 << 62), (0, 1 << 30));
        assert_eq!(cos_sin(2 << 62), (-(1 << 30), 0));
        assert_eq!(cos_sin(3 << 62), (0, -(1 << 30)));
    }
}
