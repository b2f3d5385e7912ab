//! Sums to int8: TFLite's fixed point with double rounding (`fixed::tflite`), in as few instructions as give the same bits.
//!
//! ```text
//! y = SMMULR(2 * (sum + bias), multiplier)     high_mul: the same while twice the sum fits int32
//! y + (y >> 31), shifted right by e >= 1       divide_by_pot: halves away from zero, the last bit shifted out rounds up;
//!                                              it lies in the carry and is added with the zero point
//! SSAT to 8 bits
//! ```

use core::cell::Cell;

use crate::fixed::tflite::Rounding;
use crate::image::tensors::BLOCK;
use crate::kernels::scalar::int8::{Channel, Output};
use crate::kernels::scalar::rows as scalar;

/// Whether this way is open for these channels, of sums of `products` products each.
pub fn is_usual(cs: &[Channel], o: &Output, products: usize) -> bool {
    // |2 * (sum + bias)| < 2^31.
    let room = (1u32 << 30).checked_sub((products as u32).saturating_mul(255 * 128));
    let words = cs.as_ptr().addr().is_multiple_of(4);
    let Some(room) = room.filter(|_| words && o.rounding == Rounding::Double) else { return false };
    cs.iter().all(|c| {
        let [bias, multiplier, shift] = c.map(i32::from_le_bytes);
        bias.unsigned_abs() < room && multiplier > 0 && (-30..0).contains(&shift)
    })
}

/// One sum to one element.
macro_rules! element {
    ($sum:literal, $bias:literal, $store:literal) => {
        concat!(
            concat!("add ", $sum, ", ", $bias, ", ", $sum, ", lsl #1\n"),
            concat!("smmulr ", $sum, ", ", $sum, ", r9\n"),
            concat!("add ", $sum, ", ", $sum, ", ", $sum, ", asr #31\n"),
            concat!("asrs ", $sum, ", ", $sum, ", r10\n"),
            concat!("adc ", $sum, ", ", $sum, ", lr\n"),
            concat!("ssat ", $sum, ", #8, ", $sum, "\n"),
            concat!("strb ", $sum, ", ", $store, "\n"),
        )
    };
}

/// Elements of `channels` (at least 1) channels, a sum each.
///
/// # Safety
/// Sums, channels and room for elements as many as that; [`is_usual`].
#[unsafe(naked)]
pub unsafe extern "C" fn one(sums: *const i32, cs: *const Channel, channels: usize, out: *const Cell<i8>, zero: i32) {
    naked_asm!(
        "push {{r4, r8-r10, lr}}",
        "ldr lr, [sp, #20]",
        "1: ldm r1!, {{r8-r10}}",
        "ldr r4, [r0], #4",
        "lsl r8, r8, #1",
        "rsb r10, r10, #0",
        element!("r4", "r8", "[r3], #1"),
        "subs r2, r2, #1",
        "bne 1b",
        "pop {{r4, r8-r10, pc}}",
    )
}

/// Elements of `channels` (at least 1) channels of four pixels, `apart` bytes from each to the next: a channel's sums lie side by
/// side.
///
/// # Safety
/// As [`one`].
#[unsafe(naked)]
pub unsafe extern "C" fn four(
    sums: *const i32,
    cs: *const Channel,
    channels: usize,
    out: *const Cell<i8>,
    zero: i32,
    apart: isize,
) {
    naked_asm!(
        "push {{r4-r12, lr}}",
        "ldrd lr, r11, [sp, #40]",
        "add r12, r11, r11, lsl #1",
        "1: ldm r1!, {{r8-r10}}",
        "ldm r0!, {{r4-r7}}",
        "lsl r8, r8, #1",
        "rsb r10, r10, #0",
        element!("r5", "r8", "[r3, r11]"),
        element!("r6", "r8", "[r3, r11, lsl #1]"),
        element!("r7", "r8", "[r3, r12]"),
        element!("r4", "r8", "[r3], #1"),
        "subs r2, r2, #1",
        "bne 1b",
        "pop {{r4-r12, pc}}",
    )
}

/// As [`four`], two pixels.
///
/// # Safety
/// As [`one`].
#[unsafe(naked)]
pub unsafe extern "C" fn two(
    sums: *const i32,
    cs: *const Channel,
    channels: usize,
    out: *const Cell<i8>,
    zero: i32,
    apart: isize,
) {
    naked_asm!(
        "push {{r4-r5, r8-r11, r12, lr}}",
        "ldrd lr, r11, [sp, #32]",
        "1: ldm r1!, {{r8-r10}}",
        "ldm r0!, {{r4, r5}}",
        "lsl r8, r8, #1",
        "rsb r10, r10, #0",
        element!("r5", "r8", "[r3, r11]"),
        element!("r4", "r8", "[r3], #1"),
        "subs r2, r2, #1",
        "bne 1b",
        "pop {{r4-r5, r8-r11, r12, pc}}",
    )
}

/// A term from its address: zero point, shift to the left, multiplier, shift to the right.
macro_rules! term {
    ($term:literal, $from:literal, $words:literal) => {
        concat!(
            concat!("ldrsb ", $term, ", [", $from, ", r3]\n"),
            concat!("ldm ", $words, ", {{r8-r11}}\n"),
            concat!("sub ", $term, ", ", $term, ", r8\n"),
            concat!("lsl ", $term, ", ", $term, ", r9\n"),
            concat!("smmulr ", $term, ", ", $term, ", r10\n"),
            concat!("add ", $term, ", ", $term, ", ", $term, ", asr #31\n"),
            concat!("asrs ", $term, ", ", $term, ", r11\n"),
            concat!("adc ", $term, ", ", $term, ", #0\n"),
        )
    };
}

/// Elements of sums of two terms each. `terms`: of either zero point, shift to the left, multiplier, shift to the right; of the
/// sum multiplier, shift to the right, zero point, nothing. Shifts to the right are at least 1. `backward`: from the last to the
/// first if it is 1.
///
/// # Safety
/// `count` (at least 1) elements of each.
#[unsafe(naked)]
pub unsafe extern "C" fn sum_of_terms(
    x: *const Cell<i8>,
    y: *const Cell<i8>,
    to: *const Cell<i8>,
    count: usize,
    terms: &[[i32; 4]; 3],
    backward: usize,
) {
    naked_asm!(
        "push {{r4-r12, lr}}",
        "ldrd r4, lr, [sp, #40]",
        "add r5, r4, #16",
        "add r6, r4, #32",
        // The index runs to 0: up behind the ends, or down before the beginnings.
        "cmp lr, #0",
        "itttt eq",
        "addeq r0, r0, r3",
        "addeq r1, r1, r3",
        "addeq r2, r2, r3",
        "rsbeq r3, r3, #0",
        "itee eq",
        "moveq lr, #1",
        "movne lr, #-1",
        "subne r0, r0, #1",
        "itt ne",
        "subne r1, r1, #1",
        "subne r2, r2, #1",
        "1:",
        term!("r7", "r0", "r4"),
        term!("r12", "r1", "r5"),
        "ldm r6, {{r8-r10}}",
        "add r7, r7, r12",
        "lsl r7, r7, #1",
        "smmulr r7, r7, r8",
        "add r7, r7, r7, asr #31",
        "asrs r7, r7, r9",
        "adc r7, r7, r10",
        "ssat r7, #8, r7",
        "strb r7, [r2, r3]",
        "adds r3, r3, lr",
        "bne 1b",
        "pop {{r4-r12, pc}}",
    )
}

/// Sums of coded weights to elements, sixteen a call: times multipliers, plus biases, shifted right with halves rounded up (the last bit
/// shifted out lies in the carry, as above), plus the zero point r5. `$shift`: does so by r4 to the sum r8 (upper word) and r9; r6 is
/// what r4 lacks to 32.
macro_rules! sixteen {
    ($(#[$meta:meta])* $name:ident, $shift:literal) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// 16 sums, multipliers, biases and elements; `least` and `largest` are one element each, four times.
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(
            sums: *const i64,
            mults: *const u16,
            biases: *const i64,
            out: *mut i8,
            shift: u32,
            zero: i32,
            least: u32,
            largest: u32,
        ) {
            naked_asm!(
                "push {{r4-r12, lr}}",
                "ldrd r4, r5, [sp, #40]",
                "rsb r6, r4, #32",
                "add r7, r1, #32",
                "1:",
                sixteen!(@element $shift, "mov r12, r8"),
                sixteen!(@element $shift, "bfi r12, r8, #8, #8"),
                sixteen!(@element $shift, "bfi r12, r8, #16, #8"),
                sixteen!(@element $shift, "bfi r12, r8, #24, #8"),
                // The larger of each byte and the least, the smaller of that and the largest.
                "ldrd r10, r11, [sp, #48]",
                "ssub8 r9, r12, r10",
                "sel r12, r12, r10",
                "ssub8 r9, r12, r11",
                "sel r12, r11, r12",
                "str r12, [r3], #4",
                "cmp r1, r7",
                "bne 1b",
                "pop {{r4-r12, pc}}",
            )
        }
    };
    (@element $shift:literal, $pack:literal) => {
        concat!(
            "ldrd r10, r11, [r0], #8\nldrd r9, r8, [r2], #8\nldrh lr, [r1], #2\n",
            "umlal r9, r8, r10, lr\nmla r8, r11, lr, r8\n",
            $shift,
            "\nssat r8, #8, r8\n",
            $pack,
            "\n",
        )
    };
}

sixteen! {
    /// Shifted by 32 + `shift`, 1 to 31.
    sixteen_far,
    "asrs r8, r8, r4
    adc r8, r8, r5"
}

sixteen! {
    /// Shifted by `shift`, 17 to 32. What exceeds 48 bits gives the least or largest element, whatever its other bits.
    sixteen_near,
    "ssat r8, #16, r8
    lsl r8, r8, r6
    lsrs r9, r9, r4
    adc r8, r8, r9
    add r8, r8, r5"
}

type SixteenFn = unsafe extern "C" fn(*const i64, *const u16, *const i64, *mut i8, u32, i32, u32, u32);

/// As [`crate::kernels::scalar::rows::requantize`].
pub fn requantize(
    sums: &[[i64; BLOCK]],
    numbers: &([u16; BLOCK], [i64; BLOCK]),
    shift: i32,
    how: &Output,
    out: &mut [i8],
    (stride, width): (usize, usize),
) -> Option<()> {
    let bytes = |bound: i32| i8::try_from(bound).map(|bound| u32::from_ne_bytes([bound as u8; 4]));
    let (Ok(least), Ok(largest), 17..64) = (bytes(how.min), bytes(how.max), shift) else {
        return scalar::requantize(sums, numbers, shift, how, out, (stride, width));
    };
    let (sixteen, far): (SixteenFn, _) = if shift > 32 { (sixteen_far, 32) } else { (sixteen_near, 0) };
    let (mults, biases) = (numbers.0.as_ptr(), numbers.1.as_ptr());
    let mut elsewhere = [0; BLOCK];
    for (sums, out) in sums.iter().zip(out.chunks_mut(stride.max(1))) {
        let whole = width == BLOCK && out.len() >= BLOCK;
        let to = if whole { out.as_mut_ptr() } else { elsewhere.as_mut_ptr() };
        // SAFETY: 16 sums, multipliers and biases, and room for 16 elements.
        unsafe { sixteen(sums.as_ptr(), mults, biases, to, shift as u32 - far, how.zero_point, least, largest) };
        if !whole {
            out.get_mut(..width)?.iter_mut().zip(elsewhere).for_each(|(out, element)| *out = element);
        }
    }
    Some(())
}
