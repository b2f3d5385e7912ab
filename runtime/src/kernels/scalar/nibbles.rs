//! Codes of 4 bits in caches (NUMERICS.md, section 9.1).

use crate::fixed::requantize::quantize_row;
use crate::image::plan::MAX_HEAD_DIM;
use crate::kernels::scalar::rows::hadamard;
use crate::ops::rope::log2_block;

/// From this magnitude of an int8 code on the next level is as near: halfway between levels 8 to 15.
const MIDDLES: [u8; 7] = [13, 26, 39, 54, 71, 89, 109];

/// What a code stands for, -120 to 120: close to the 16 levels that normal values, the largest of 32 being 127, lose least with.
#[must_use]
#[cfg_attr(mote_vector, inline(always))]
pub fn level(code: u8) -> i8 {
    let odd = 2 * i16::from(code & 15) - 15;
    ((odd * (800 + odd * odd) + 64) >> 7) as i8
}

/// The levels of codes, two a byte.
#[cfg_attr(mote_vector, inline(always))]
#[cfg_attr(not(mote_vector), inline(never))] // smaller firmware
pub fn unpack(codes: &[i8], levels: &mut [i8]) {
    for (to, codes) in levels.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
        *to = [level(*codes as u8), level(*codes as u8 >> 4)];
    }
}

/// Transforms `values` (keys or values of a head, fixed point, `frac` fraction bits) in place and quantizes them into `codes`, two
/// a byte. Returns their scale: mantissa / 256 and exponent. `None` if the head is too wide.
#[cfg_attr(mote_vector, inline(always))]
pub fn quantize4(values: &mut [i32], frac: i32, codes: &mut [u8]) -> Option<[u8; 2]> {
    let lost = hadamard(values, log2_block(values.len()));
    let mut fine = [0i8; MAX_HEAD_DIM as usize];
    let fine = fine.get_mut(..values.len())?;
    let scale = quantize_row(values, frac - lost, fine);
    // The scale with the least squares of error, now that the codes are known.
    let (mut products, mut squares) = (0u32, 0u32);
    for (to, pair) in codes.iter_mut().zip(fine.as_chunks::<2>().0) {
        let pair = pair.map(|fine| {
            let above = MIDDLES.iter().filter(|middle| fine.unsigned_abs() >= **middle).count() as u8;
            let code = if fine < 0 { 7 - above } else { 8 + above };
            let level = u32::from(level(code).unsigned_abs());
            products += level * u32::from(fine.unsigned_abs());
            squares += level * level;
            code
        });
        *to = pair[0] | pair[1] << 4;
    }
    let mant = ((scale.mant >> 6) * products).checked_div(squares)?;
    Some([((mant + 2) >> 2).min(255) as u8, scale.exp.clamp(-128, 127) as i8 as u8])
}

#[cfg(test)]
mod tests {
    use super::{MIDDLES, level};

    #[test]
    fn levels_and_middles() {
        let levels: Vec<i32> = (0..16).map(|code| i32::from(level(code))).collect();
        assert_eq!(levels[8..], [6, 19, 32, 46, 62, 79, 98, 120]);
        assert!((0..8).all(|code| levels[code] == -levels[15 - code]));
        for (middle, pair) in MIDDLES.iter().zip(levels[8..].windows(2)) {
            assert_eq!(i32::from(*middle), (pair[0] + pair[1] + 1) / 2);
        }
    }
}
