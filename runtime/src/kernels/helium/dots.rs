//! Dot products of int8 weights, as they lie in the image, with activations.
//!
//! ```text
//! sum of w * (x - zero) = sum of w * x - zero * sum of w        modulo 2^32, as any way to that sum
//! ```

use core::cell::Cell;

use crate::kernels::scalar::int8::Channel;

/// Copies `count` bytes.
///
/// # Safety
/// They are there, and there is room for them.
#[unsafe(naked)]
pub unsafe extern "C" fn copy(to: *mut i8, from: *const i8, count: usize) {
    naked_asm!(
        "push {{r7, lr}}",
        "wlstp.8 lr, r2, 2f",
        "1: vldrb.u8 q0, [r1], #16",
        "vstrb.8 q0, [r0], #16",
        "letp lr, 1b",
        "2: pop {{r7, pc}}",
    )
}

/// Fills `count` bytes.
///
/// # Safety
/// There is room for them.
#[unsafe(naked)]
pub unsafe extern "C" fn fill(to: *mut i8, value: i32, count: usize) {
    naked_asm!(
        "push {{r7, lr}}",
        "vdup.8 q0, r1",
        "wlstp.8 lr, r2, 2f",
        "1: vstrb.8 q0, [r0], #16",
        "letp lr, 1b",
        "2: pop {{r7, pc}}",
    )
}

/// Four pixels with all filters of a layer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Four {
    /// The activations of each.
    pub x: [*const i8; 4],
    /// Columns of a filter, at least 1.
    pub columns: usize,
    /// Filters, one after the other.
    pub w: *const i8,
    /// Their channels, as [`super::rescale::is_usual`] wants them.
    pub cs: *const Channel,
    /// `columns` less the same rounded up to whole vectors.
    pub beyond: isize,
    /// Zero point of the activations, and of the output.
    pub zeros: [i32; 2],
    /// The first channel's element of a pixel, and the place behind its last.
    pub out: [*const Cell<i8>; 2],
    /// Bytes from there to those of the four pixels.
    pub apart: [u32; 4],
    /// Least and largest element.
    pub limits: [i32; 2],
}

/// Computes elements: each vector of weights is read once for four pixels, whose sums become elements side by side
/// ([`super::rescale`] has the formula).
///
/// # Safety
/// What `four` describes lies in memory, and the elements may be written.
#[unsafe(naked)]
pub unsafe extern "C" fn four_pixels(four: &Four) {
    naked_asm!(
        "push {{r4-r12, lr}}",
        "vpush {{d8-d11}}",
        "mov r11, r0",
        "ldrd r1, r10, [r11, #20]", // w, cs
        "ldrd r2, r12, [r11, #36]", // zero point of the output, out
        "vdup.32 q5, r2",
        "add r2, r11, #48",
        "vldrw.u32 q4, [r2]", // apart
        "ldrd r3, r4, [r11, #64]",
        "vdup.32 q2, r3",
        "vdup.32 q3, r4",
        "1: ldr lr, [r11, #16]",
        "ldm r11, {{r3, r5, r7, r9}}",
        "mov r0, #0",
        "mov r2, #0",
        "mov r4, #0",
        "mov r6, #0",
        "mov r8, #0",
        "dlstp.8 lr, lr",
        "2: vldrb.u8 q0, [r1], #16",
        "vaddva.s8 r8, q0",
        "vldrb.u8 q1, [r3], #16",
        "vmladava.s8 r0, q0, q1",
        "vldrb.u8 q1, [r5], #16",
        "vmladava.s8 r2, q0, q1",
        "vldrb.u8 q1, [r7], #16",
        "vmladava.s8 r4, q0, q1",
        "vldrb.u8 q1, [r9], #16",
        "vmladava.s8 r6, q0, q1",
        "letp lr, 2b",
        "vmov q0[2], q0[0], r0, r4",
        "vmov q0[3], q0[1], r2, r6",
        "ldrd lr, r9, [r11, #28]", // beyond, zero point
        "ldm r10!, {{r3, r5, r7}}",
        "add r1, r1, lr",
        "mls r3, r8, r9, r3",
        "ldr r9, [r11, #44]",
        "vadd.i32 q0, q0, r3",
        "vqrdmulh.s32 q0, q0, r5",
        "vshr.s32 q1, q0, #31",
        "vadd.i32 q0, q0, q1",
        "vrshl.s32 q0, r7",
        "vqadd.s32 q0, q0, q5",
        "vmax.s32 q0, q0, q2",
        "vmin.s32 q0, q0, q3",
        "vstrb.32 q0, [r12, q4]",
        "add r12, r12, #1",
        "cmp r12, r9",
        "bne 1b",
        "vpop {{d8-d11}}",
        "pop {{r4-r12, pc}}",
    )
}

/// Sums of a pixel with `pairs` (at least 1) pairs of filters, `apart` bytes from one filter to the next.
///
/// # Safety
/// Activations and filters have `columns` (at least 1) bytes, and there is room for the sums.
#[unsafe(naked)]
pub unsafe extern "C" fn one_pixel(
    x: *const i8,
    w: *const i8,
    columns: usize,
    pairs: usize,
    apart: usize,
    zero: i32,
    sums: *mut i32,
) {
    naked_asm!(
        "push {{r4-r12, lr}}",
        "mov r5, r0",
        "mov r7, r2",
        "mov r8, r3",
        "mov r11, r1",
        "ldrd r9, r10, [sp, #40]", // apart, zero
        "ldr r1, [sp, #48]",
        "push {{r1}}", // sums
        "1: mov r1, r5",
        "mov r3, r11",
        "add r12, r11, r9",
        "mov r0, #0",
        "mov r2, #0",
        "mov r4, #0",
        "mov r6, #0",
        "dlstp.8 lr, r7",
        "2: vldrb.u8 q0, [r1], #16",
        "vldrb.u8 q1, [r3], #16",
        "vmladava.s8 r0, q0, q1",
        "vaddva.s8 r4, q1",
        "vldrb.u8 q2, [r12], #16",
        "vmladava.s8 r2, q0, q2",
        "vaddva.s8 r6, q2",
        "letp lr, 2b",
        "ldr r1, [sp]",
        "add r11, r11, r9, lsl #1",
        "mls r0, r4, r10, r0",
        "mls r2, r6, r10, r2",
        "strd r0, r2, [r1], #8",
        "str r1, [sp]",
        "subs r8, r8, #1",
        "bne 1b",
        "add sp, sp, #4",
        "pop {{r4-r12, pc}}",
    )
}
