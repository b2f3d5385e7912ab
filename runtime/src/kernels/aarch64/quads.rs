//! What all backends share: a quarter of a line, 4 rows of 4 columns, is a vector. All of it is NEON, which every aarch64 host has.

use core::arch::aarch64::*;

use crate::image::tensors::BLOCK;
use crate::kernels::vector::matmul::Line;

/// A quarter of a block's rows.
pub type V = int32x4_t;
pub const LANES: usize = 4;
/// Rows of codes that fit the registers beside the weights.
pub const TILE: usize = 4;
/// Blocks side by side, so that codes are loaded once for two.
pub const PAIR: usize = 2;
/// Levels stay as they are.
pub const RAISED: i32 = 0;

/// Vectors of a line.
pub const SPANS: usize = BLOCK / LANES;

/// What looks up bytes as elements of 32 bits; 255 looks up 0.
const fn indices(of: [u8; 4]) -> [u8; 16] {
    let mut bytes = [255; 16];
    [bytes[0], bytes[4], bytes[8], bytes[12]] = of;
    bytes
}

#[inline(always)]
fn of_bytes(v: uint8x16_t) -> V {
    // SAFETY: any bits are a vector.
    unsafe { core::mem::transmute(v) }
}

#[inline(always)]
fn as_bytes(v: V) -> uint8x16_t {
    // SAFETY: as above.
    unsafe { core::mem::transmute(v) }
}

#[inline(always)]
pub fn as_signed(v: V) -> int8x16_t {
    // SAFETY: as above.
    unsafe { core::mem::transmute(v) }
}

features! { "neon";
    pub fn load(bytes: &[u8; 16]) -> V {
        // SAFETY: 16 bytes are there; the load asks for no alignment.
        of_bytes(unsafe { vld1q_u8(bytes.as_ptr()) })
    }

    pub fn stored(v: V) -> [u8; 16] {
        let mut bytes = [0; 16];
        // SAFETY: 16 bytes are there; the store asks for no alignment.
        unsafe { vst1q_u8(bytes.as_mut_ptr(), as_bytes(v)) };
        bytes
    }

    pub fn load_codes(codes: &[i8; 16]) -> V {
        // SAFETY: as above.
        vreinterpretq_s32_s8(unsafe { vld1q_s8(codes.as_ptr()) })
    }

    pub fn book(levels: [i8; 16]) -> V {
        load(&levels.map(|level| level as u8))
    }

    /// The levels of low and of high nibbles.
    pub fn nibbles(codes: V, book: V) -> [V; 2] {
        let (codes, book) = (as_bytes(codes), as_bytes(book));
        [vandq_u8(codes, vdupq_n_u8(15)), vshrq_n_u8::<4>(codes)].map(|index| of_bytes(vqtbl1q_u8(book, index)))
    }

    /// Levels with a sign bit are negated.
    pub fn negated(levels: V, signs: [u8; LANES / 2]) -> V {
        // Each byte gets the 8 bits that its own is among.
        const BYTES: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1];
        const BITS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
        let both = vreinterpretq_u8_u16(vdupq_n_u16(u16::from_le_bytes(signs)));
        let all = vtstq_u8(vqtbl1q_u8(both, as_bytes(load(&BYTES))), as_bytes(load(&BITS)));
        of_bytes(vsubq_u8(veorq_u8(as_bytes(levels), all), all))
    }

    /// The codes of one and of two rows before.
    pub fn rows_before(line: &[u8; 64], span: usize) -> [V; 2] {
        let quarters = line.as_chunks::<16>().0;
        let (this, before) = (load(&quarters[span % SPANS]), load(&quarters[(span + SPANS - 1) % SPANS]));
        [vextq_s32::<3>(before, this), vextq_s32::<2>(before, this)]
    }

    /// The bits of `low` that `bits`, the same of each byte, has, and the others of `high`.
    pub fn picked(bits: u8, low: V, high: V) -> V {
        of_bytes(vbslq_u8(vdupq_n_u8(bits), as_bytes(low), as_bytes(high)))
    }

    /// Bits in which they differ.
    pub fn differing(a: V, b: V) -> V {
        veorq_s32(a, b)
    }

    /// The levels of T4's windows, that begin at low nibbles and at high ones, from those of windows whose bit 4 is not set and of those
    /// where it is.
    pub fn windows(codes: V, halves: [V; 2]) -> [V; 2] {
        let negated = halves.map(|v| vreinterpretq_u8_s8(vnegq_s8(as_signed(v))));
        let all = uint8x16x4_t(as_bytes(halves[0]), as_bytes(halves[1]), negated[0], negated[1]);
        let word = vreinterpretq_u32_s32(codes);
        // To the right by four bits, around the word's end.
        let turned = vsliq_n_u32::<28>(vshrq_n_u32::<4>(word), word);
        [word, turned].map(|v| {
            of_bytes(vqtbl4q_u8(all, vandq_u8(vreinterpretq_u8_u32(v), vdupq_n_u8(0x3F))))
        })
    }

    pub fn bytes(codes: V) -> V {
        codes
    }

    /// Byte `i` of each is among word `i`'s.
    pub fn turned(rows: [&[u8; BLOCK]; 4]) -> [V; SPANS] {
        // SAFETY: 16 bytes are there; the load asks for no alignment.
        let [a, b, c, d] = rows.map(|row| unsafe { vld1q_u8(row.as_ptr()) });
        let both = |a, b| [vzip1q_u8(a, b), vzip2q_u8(a, b)].map(|v| vreinterpretq_u16_u8(v));
        let ([ab, last_ab], [cd, last_cd]) = (both(a, b), both(c, d));
        let all = [vzip1q_u16(ab, cd), vzip2q_u16(ab, cd), vzip1q_u16(last_ab, last_cd), vzip2q_u16(last_ab, last_cd)];
        all.map(|v| vreinterpretq_s32_u16(v))
    }

    pub fn widened(x: &[i8; LANES]) -> V {
        let x = vreinterpret_s8_s32(vdup_n_s32(i32::from_le_bytes(x.map(|x| x as u8))));
        vmovl_s16(vget_low_s16(vmovl_s8(x)))
    }

    pub fn words(x: &[i32; LANES]) -> V {
        // SAFETY: 16 bytes are there; the load asks for no alignment.
        unsafe { vld1q_s32(x.as_ptr()) }
    }

    pub fn plus(a: V, b: V) -> V {
        vaddq_s32(a, b)
    }

    pub fn up_by(x: V, bits: u32) -> V {
        vshlq_s32(x, vdupq_n_s32(bits as i32))
    }

    pub fn minus(a: V, b: V) -> V {
        vsubq_s32(a, b)
    }

    /// `fixed::tflite::requantize` with double rounding of sums and what is added to them, the multiplier positive: what is
    /// added, multiplier, right shift, the bits that drops.
    pub fn rounded(sums: V, numbers: [V; 4]) -> V {
        let [bias, multiplier, right, _] = numbers;
        let high = vqrdmulhq_s32(vaddq_s32(sums, bias), multiplier);
        // Halves away from zero (`fixed::tflite::divide_by_pot`): the shift rounds them up, so negative ones are 1 less before.
        let left = vnegq_s32(right);
        let less = vshrq_n_s32::<31>(vandq_s32(high, left));
        vrshlq_s32(vqaddq_s32(high, less), left)
    }

    pub fn limited(x: V, min: V, max: V, zero: V) -> V {
        vaddq_s32(vminq_s32(vmaxq_s32(x, min), max), zero)
    }

    /// The lowest bytes of all elements.
    pub fn narrow(x: V, to: &mut [i8; LANES]) {
        let halves = vmovn_s32(x);
        let all = vreinterpret_s32_s8(vmovn_s16(vcombine_s16(halves, halves)));
        *to = vget_lane_s32::<0>(all).to_le_bytes().map(|x| x as i8);
    }

    /// The sums, 32 bits each, into those of 16 channels.
    pub fn add_to(part: V, sums: &mut [i32; LANES]) {
        let sum = vaddq_s32(words(sums), part);
        // SAFETY: 16 bytes are there; the store asks for no alignment.
        unsafe { vst1q_s32(sums.as_mut_ptr(), sum) };
    }

    /// Element `j` of vector `i` becomes element `i` of vector `j`.
    pub fn transposed(v: [V; LANES]) -> [V; LANES] {
        let [a, b, c, d] = v;
        let wide = vreinterpretq_s64_s32;
        let (ab, cd) = ([vtrn1q_s32(a, b), vtrn2q_s32(a, b)], [vtrn1q_s32(c, d), vtrn2q_s32(c, d)]);
        let low = |i: usize| vreinterpretq_s32_s64(vtrn1q_s64(wide(ab[i]), wide(cd[i])));
        let high = |i: usize| vreinterpretq_s32_s64(vtrn2q_s64(wide(ab[i]), wide(cd[i])));
        [low(0), low(1), high(0), high(1)]
    }

    /// Bits of bytes to the right, or left if `by` is below 0.
    pub fn shifted(v: V, by: i32) -> V {
        of_bytes(vshlq_u8(as_bytes(v), vdupq_n_s8(-by as i8)))
    }

    pub fn splat(value: i32) -> V {
        vdupq_n_s32(value)
    }

    /// A line's vectors.
    pub fn whole(line: &Line) -> [V; SPANS] {
        let mut vectors = [splat(0); SPANS];
        vectors.iter_mut().zip(line.0.as_chunks().0).for_each(|(vector, bytes)| *vector = load(bytes));
        vectors
    }

    /// Of a block's scales those of vector `span`, which the compiler knows.
    pub fn scales(all: &[u8; BLOCK], span: usize) -> V {
        let all = as_bytes(load(all));
        let half = if span % SPANS < 2 { vmovl_u8(vget_low_u8(all)) } else { vmovl_high_u8(all) };
        vreinterpretq_s32_u32(if span.is_multiple_of(2) { vmovl_u16(vget_low_u16(half)) } else { vmovl_high_u16(half) })
    }

    /// The same, where it does not.
    pub fn scales_of(all: &[u8; BLOCK], span: usize) -> V {
        const INDICES: [[u8; 16]; SPANS] =
            [indices([0, 1, 2, 3]), indices([4, 5, 6, 7]), indices([8, 9, 10, 11]), indices([12, 13, 14, 15])];
        scales_at(all, &INDICES[span % SPANS])
    }

    /// The two and the other two of them, twice each.
    pub fn scales_by_two(all: &[u8; BLOCK], span: usize) -> [V; 2] {
        const INDICES: [[[u8; 16]; 2]; SPANS] = [twice(0), twice(4), twice(8), twice(12)];
        const fn twice(at: u8) -> [[u8; 16]; 2] {
            [indices([at, at + 1, at, at + 1]), indices([at + 2, at + 3, at + 2, at + 3])]
        }
        let [low, high] = &INDICES[span % SPANS];
        [scales_at(all, low), scales_at(all, high)]
    }

    fn scales_at(all: &[u8; BLOCK], index: &[u8; 16]) -> V {
        of_bytes(vqtbl1q_u8(as_bytes(load(all)), as_bytes(load(index))))
    }

    /// The first and the third half of both vectors, and the second and the fourth.
    pub fn zipped_halves(a: V, b: V) -> [V; 2] {
        let (a, b) = (vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b));
        [vreinterpretq_s32_s64(vzip1q_s64(a, b)), vreinterpretq_s32_s64(vzip2q_s64(a, b))]
    }

    /// Elements of both by turns.
    pub fn zipped(a: V, b: V) -> [V; 2] {
        [vzip1q_s32(a, b), vzip2q_s32(a, b)]
    }

    pub fn add_scaled(sum: V, value: V, scale: V) -> V {
        vmlaq_s32(sum, value, scale)
    }

    pub fn flush(part: V, sums: &mut [i64; LANES]) {
        let to = sums.as_mut_ptr();
        // SAFETY: 4 numbers are there; neither load nor store asks for alignment.
        unsafe {
            vst1q_s64(to, vaddw_s32(vld1q_s64(to), vget_low_s32(part)));
            vst1q_s64(to.add(2), vaddw_high_s32(vld1q_s64(to.add(2)), part));
        }
    }
}
