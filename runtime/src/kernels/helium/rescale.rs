//! Sums to int8: TFLite's fixed point with double rounding (`fixed::tflite`), four elements at a time.
//!
//! ```text
//! y = VQRDMULH(sum + bias, multiplier)          high_mul
//! y + (y >> 31), VRSHL by the shift             divide_by_pot: halves up, which for one less is away from zero
//! VQADD of the zero point, VMAX, VMIN
//! ```

use core::cell::Cell;

use crate::fixed::tflite::Rounding;
use crate::kernels::scalar::int8::{Channel, Output};

/// Whether this way is open for these channels.
pub fn is_usual(cs: &[Channel], o: &Output) -> bool {
    let usual = |c: &Channel| {
        let [_, multiplier, shift] = c.map(i32::from_le_bytes);
        multiplier > 0 && (-31..0).contains(&shift)
    };
    o.rounding == Rounding::Double && cs.as_ptr().addr().is_multiple_of(4) && cs.iter().all(usual)
}

/// Elements of `channels` channels, a sum each. `output`: zero point, least, largest.
///
/// # Safety
/// Sums, channels and room for elements as many as that; [`is_usual`].
#[unsafe(naked)]
pub unsafe extern "C" fn rescale(
    sums: *const i32,
    cs: *const Channel,
    channels: usize,
    out: *const Cell<i8>,
    output: &[i32; 3],
) {
    naked_asm!(
        "push {{r4-r7, lr}}",
        "vpush {{d8-d13}}",
        "ldr r4, [sp, #68]",
        "ldm r4, {{r5-r7}}",
        "vdup.32 q4, r6",
        "vdup.32 q6, r7",
        "mov r4, #0",
        "vidup.u32 q5, r4, #4",
        "mov r4, #3",
        "vmul.i32 q5, q5, r4",
        "vadd.i32 q5, q5, r1",
        "mov r4, #48",
        "wlstp.32 lr, r2, 2f",
        "1: vldrw.u32 q0, [r0], #16",
        "vldrw.u32 q1, [q5]",
        "vldrw.u32 q2, [q5, #4]",
        "vldrw.u32 q3, [q5, #8]",
        "vadd.i32 q0, q0, q1",
        "vqrdmulh.s32 q0, q0, q2",
        "vadd.i32 q5, q5, r4",
        "vshr.s32 q1, q0, #31",
        "vadd.i32 q0, q0, q1",
        "vrshl.s32 q0, q0, q3",
        "vqadd.s32 q0, q0, r5",
        "vmax.s32 q0, q0, q4",
        "vmin.s32 q0, q0, q6",
        "vstrb.32 q0, [r3], #4",
        "letp lr, 1b",
        "2: vpop {{d8-d13}}",
        "pop {{r4-r7, pc}}",
    )
}

/// A term of four elements: less its zero point, moved up, scaled. q2 is free.
macro_rules! term {
    ($term:literal, $zero:literal, $up:literal, $multiplier:literal, $shift:literal) => {
        concat!(
            concat!("vsub.i32 ", $term, ", ", $term, ", ", $zero, "\n"),
            concat!("vshl.s32 ", $term, ", ", $up, "\n"),
            concat!("vqrdmulh.s32 ", $term, ", ", $term, ", ", $multiplier, "\n"),
            concat!("vshr.s32 q2, ", $term, ", #31\n"),
            concat!("vadd.i32 ", $term, ", ", $term, ", q2\n"),
            concat!("vrshl.s32 ", $term, ", ", $shift, "\n"),
        )
    };
}

/// What [`sum_of_terms`] computes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Of either term zero point, shift to the left, multiplier, shift (below 0).
    pub terms: [[i32; 4]; 2],
    /// Of the sum multiplier, shift, zero point, least and largest element.
    pub sum: [i32; 5],
    /// Elements from four to the next four: 4 or -4.
    pub step: isize,
}

/// Elements of sums of two terms each, `fours` (at least 1) times four.
///
/// # Safety
/// The elements are there.
#[unsafe(naked)]
pub unsafe extern "C" fn sum_of_terms(
    x: *const Cell<i8>,
    y: *const Cell<i8>,
    to: *const Cell<i8>,
    fours: usize,
    terms: &Terms,
) {
    naked_asm!(
        "push {{r4-r12, lr}}",
        "vpush {{d8-d15}}",
        "ldr r12, [sp, #104]",
        "dls lr, r3",
        "add r3, r12, #32",
        "ldm r3, {{r4-r8}}",
        "vdup.32 q4, r4",
        "vdup.32 q5, r5",
        "vdup.32 q6, r6",
        "vdup.32 q3, r7",
        "vdup.32 q7, r8",
        "ldr r3, [r12, #52]",
        "ldm r12, {{r4-r11}}",
        "1: vldrb.s32 q0, [r0]",
        "vldrb.s32 q1, [r1]",
        "add r0, r0, r3",
        "add r1, r1, r3",
        term!("q0", "r4", "r5", "r6", "r7"),
        term!("q1", "r8", "r9", "r10", "r11"),
        "vadd.i32 q0, q0, q1",
        "vqrdmulh.s32 q0, q0, q4",
        "vshr.s32 q2, q0, #31",
        "vadd.i32 q0, q0, q2",
        "vrshl.s32 q0, q0, q5",
        "vqadd.s32 q0, q0, q6",
        "vmax.s32 q0, q0, q3",
        "vmin.s32 q0, q0, q7",
        "vstrb.32 q0, [r2]",
        "add r2, r2, r3",
        "le lr, 1b",
        "vpop {{d8-d15}}",
        "pop {{r4-r12, pc}}",
    )
}
