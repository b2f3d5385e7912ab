//! The exponential behind softmax, SiLU and the sampler: 2^-d.

/// 2^(-i/64) in Q30.
pub const TABLE: [u32; 64] = [
    1_073_741_824,
    1_062_175_491,
    1_050_733_751,
    1_039_415_261,
    1_028_218_693,
    1_017_142_735,
    1_006_186_087,
    995_347_464,
    984_625_594,
    974_019_220,
    963_527_098,
    953_147_997,
    942_880_699,
    932_724_001,
    922_676_710,
    912_737_649,
    902_905_651,
    893_179_563,
    883_558_244,
    874_040_567,
    864_625_413,
    855_311_680,
    846_098_274,
    836_984_114,
    827_968_132,
    819_049_271,
    810_226_483,
    801_498_734,
    792_865_000,
    784_324_269,
    775_875_538,
    767_517_817,
    759_250_125,
    751_071_493,
    742_980_960,
    734_977_579,
    727_060_411,
    719_228_525,
    711_481_005,
    703_816_941,
    696_235_434,
    688_735_596,
    681_316_545,
    673_977_412,
    666_717_336,
    659_535_466,
    652_430_958,
    645_402_981,
    638_450_708,
    631_573_326,
    624_770_026,
    618_040_012,
    611_382_493,
    604_796_689,
    598_281_827,
    591_837_143,
    585_461_881,
    579_155_293,
    572_916_640,
    566_745_190,
    560_640_218,
    554_601_009,
    548_626_854,
    542_717_053,
];

/// ln 2 in Q30.
pub const LN_2: u64 = 744_261_118;

/// 2^(-d / 65536) in Q30, for `d` in Q16. Error under 2^-28 (all 65536 fractions are measured below).
///
/// Six bits of the fraction index a table, the other ten go through 1 - x + x^2/2 - x^3/6 with x < ln 2 / 64; the
/// integer part is a shift, rounded to nearest. From 2^-31 on the result is 0.
#[must_use]
#[cfg_attr(mote_vector, inline)]
pub fn exp2_neg_q16(d: u32) -> u32 {
    let whole = d >> 16;
    let top = u64::from(TABLE[(d >> 10 & 63) as usize]);
    let x = ((u64::from(d & 1023) * LN_2) >> 16) as u32; // Q30
    let x2 = ((u64::from(x) * u64::from(x)) >> 30) as u32;
    let x3 = ((u64::from(x2) * u64::from(x)) >> 30) as u32;
    let poly = (1u32 << 30).wrapping_sub(x).wrapping_add(x2 >> 1).wrapping_sub(x3 / 6);
    let value = (top * u64::from(poly) + (1 << 29)) >> 30;
    let rounded = ((value << 1) >> (whole & 63)).wrapping_add(1) >> 1;
    if whole > 30 { 0 } else { rounded as u32 } // last, so that vectors have no branch
}

#[cfg(test)]
mod tests {
    use super::exp2_neg_q16;

    #[test]
    fn every_fraction_against_f64() {
        let mut worst = 0f64;
        for d in 0..=65536u32 {
            let exact = 2f64.powf(-f64::from(d) / 65536.0);
            worst = worst.max((f64::from(exp2_neg_q16(d)) * 2f64.powi(-30) - exact).abs());
        }
        assert!(worst < 2f64.powi(-28), "{:.2}", worst.log2());
    }

    #[test]
    fn whole_powers_are_exact_and_the_function_falls() {
        for n in 0..=30 {
            assert_eq!(exp2_neg_q16(n << 16), 1 << (30 - n));
        }
        assert_eq!(exp2_neg_q16(31 << 16), 0);
        assert_eq!(exp2_neg_q16(u32::MAX), 0);
        let values: Vec<u32> = (0..=32 << 16).map(exp2_neg_q16).collect();
        assert!(values.windows(2).all(|w| w[0] >= w[1]));
    }
}
