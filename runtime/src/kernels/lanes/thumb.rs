//! Loops in Thumb's first instructions, which Cortex-M0+ has and M3, too. MUL overwrites one of its factors, so what is loaded for
//! one product is overwritten, what is used again is kept. High registers hold sums: ADD reaches them.

use core::arch::naked_asm;

use super::{Block, Dots, Taps, Write};

/// Puts `count` (at least 1) activations of a pixel less `zero` into words `apart` bytes from one another.
///
/// # Safety
/// They are there, and there is room.
#[unsafe(naked)]
pub unsafe extern "C" fn put(to: *mut i32, x: *const i8, count: usize, zero: i32, apart: usize, _: isize) {
    naked_asm!(
        "push {{r4-r6, lr}}",
        "ldr r4, [sp, #16]",
        "movs r6, #0",
        "2: ldrsb r5, [r1, r6]",
        "adds r6, r6, #1",
        "subs r5, r5, r3",
        "str r5, [r0]",
        "adds r0, r0, r4",
        "cmp r6, r2",
        "bne 2b",
        "pop {{r4-r6, pc}}",
    )
}

/// As [`put`], of a third pixel: added to the words of two.
///
/// # Safety
/// As [`put`], and those have been put.
#[unsafe(naked)]
pub unsafe extern "C" fn put_third(to: *mut i32, x: *const i8, count: usize, zero: i32, apart: usize, _: isize) {
    naked_asm!(
        "push {{r4-r7, lr}}",
        "ldr r4, [sp, #20]",
        "subs r4, r4, #8",
        "2: ldrb r5, [r1]",
        "adds r1, r1, #1",
        "sxtb r5, r5",
        "subs r5, r5, r3",
        "lsls r5, r5, #10",
        "ldr r6, [r0]",
        "ldr r7, [r0, #4]",
        "adds r7, r7, r5",
        "lsls r5, r5, #11",
        "adds r6, r6, r5",
        "stm r0!, {{r6, r7}}",
        "adds r0, r0, r4",
        "subs r2, r2, #1",
        "bne 2b",
        "pop {{r4-r7, pc}}",
    )
}

/// As [`put`], of three pixels into two words each (`int8.rs`): each one's activations are `behind` bytes behind the last's.
///
/// # Safety
/// As [`put`].
#[unsafe(naked)]
pub unsafe extern "C" fn put3(to: *mut i32, x: *const i8, count: usize, zero: i32, apart: usize, behind: isize) {
    naked_asm!(
        "push {{r4-r7, lr}}",
        "mov r4, r8",
        "mov r5, r9",
        "push {{r4, r5}}",
        "ldr r7, [sp, #28]",
        "subs r7, r7, #8",
        "mov r12, r7",
        "mov lr, r2",
        "rsbs r3, r3, #0",
        "lsls r4, r3, #21",
        "adds r4, r4, r3",
        "mov r8, r4",
        "lsls r4, r3, #10",
        "adds r4, r4, r3",
        "mov r9, r4",
        "ldr r3, [sp, #32]",
        "adds r2, r1, r3",
        "adds r3, r2, r3",
        "movs r4, #0",
        "2: ldrsb r5, [r1, r4]",
        "ldrsb r6, [r2, r4]",
        "ldrsb r7, [r3, r4]",
        "adds r4, r4, #1",
        "lsls r7, r7, #10",
        "adds r6, r6, r7",
        "lsls r7, r7, #11",
        "adds r5, r5, r7",
        "add r5, r8",
        "add r6, r9",
        "stm r0!, {{r5, r6}}",
        "add r0, r12",
        "cmp r4, lr",
        "bne 2b",
        "pop {{r4, r5}}",
        "mov r8, r4",
        "mov r9, r5",
        "pop {{r4-r7, pc}}",
    )
}

/// Products of the weight in r3 with a column of four words.
macro_rules! four {
    () => {
        "ldm r0!, {{r4-r7}}
        muls r4, r3, r4
        muls r5, r3, r5
        muls r6, r3, r6
        muls r7, r3, r7
        add r8, r4
        add r9, r5
        add r10, r6
        add r11, r7"
    };
}

/// Of two words.
macro_rules! two {
    () => {
        "ldm r0!, {{r4, r5}}
        muls r4, r3, r4
        muls r5, r3, r5
        add r10, r4
        add r11, r5"
    };
}

/// A turn: four columns, whose weights are a word.
macro_rules! words {
    ($column:ident) => {
        concat!(
            "ldm r1!, {{r2}}\nsxtb r3, r2\n",
            $column!(),
            "\nlsls r3, r2, #16\nasrs r3, r3, #24\n",
            $column!(),
            "\nlsls r3, r2, #8\nasrs r3, r3, #24\n",
            $column!(),
            "\nasrs r3, r2, #24\n",
            $column!(),
        )
    };
}

/// A turn: one column.
macro_rules! bytes {
    ($column:ident) => {
        concat!("movs r2, #0\nldrsb r3, [r1, r2]\nadds r1, r1, #1\n", $column!())
    };
}

/// Four weights in r2 times the activations in r4 to r7.
macro_rules! quad {
    ($sum:literal) => {
        concat!(
            "sxtb r3, r2\nmuls r3, r4, r3\nadd ",
            $sum,
            ", r3\nlsls r3, r2, #16\nasrs r3, r3, #24\nmuls r3, r5, r3\nadd ",
            $sum,
            ", r3\nlsls r3, r2, #8\nasrs r3, r3, #24\nmuls r3, r6, r3\nadd ",
            $sum,
            ", r3\nasrs r2, r2, #24\nmuls r2, r7, r2\nadd ",
            $sum,
            ", r2\n",
        )
    };
}

/// A quad of two filters.
macro_rules! quads {
    () => {
        concat!("ldm r0!, {{r4-r7}}\nldm r1!, {{r2}}\n", quad!("r8"), "mov r3, r12\nldr r2, [r1, r3]\n", quad!("r9"))
    };
}

/// A column of two filters.
macro_rules! column {
    () => {
        "ldm r0!, {{r4}}
        movs r2, #0
        ldrsb r3, [r1, r2]
        muls r3, r4, r3
        add r8, r3
        mov r2, r12
        ldrsb r3, [r1, r2]
        muls r3, r4, r3
        add r9, r3
        adds r1, r1, #1"
    };
}

/// The sums of three pixels that `$a` and `$b` hold, to where r3 says: added to those of the pieces before, if r12 is not 0.
macro_rules! three {
    ($a:literal, $b:literal) => {
        concat!(
            concat!("mov r7, ", $a, "\nmov r2, ", $b),
            "
            lsls r5, r7, #11
            asrs r5, r5, #11
            subs r7, r7, r5
            lsrs r7, r7, #21
            lsls r4, r7, #10
            subs r2, r2, r4
            lsls r6, r2, #11
            asrs r6, r6, #11
            subs r2, r2, r6
            asrs r2, r2, #10
            adds r7, r7, r2
            mov r2, r12
            cmp r2, #0
            beq 21f
            ldr r2, [r3]
            adds r5, r5, r2
            ldr r2, [r3, #4]
            adds r6, r6, r2
            ldr r2, [r3, #8]
            adds r7, r7, r2
            21: stm r3!, {{r5-r7}}",
        )
    };
}

/// Where [`dots`] begins with one pixel of whose filters bytes are read. Before it come six pixels, words and bytes, and three.
const ONE: usize = 4;
/// One pixel, words: four quads a turn, of which the first has so many that what is left are whole turns. None left over is first.
const ONE_OF_WORDS: usize = 5;

/// Makes the sums the dots of filters with the patches of `pixels` pixels (6 or 3); or, of one pixel, adds to them those of pairs of
/// filters. `words`: each filter is whole words.
///
/// # Safety
/// What `job` describes lies in memory, and the sums may be written.
#[inline(never)]
pub unsafe fn dots(job: &mut Dots, pixels: usize, words: bool) {
    let turn = match pixels {
        6 => usize::from(!words),
        3 => 2 + usize::from(!words),
        _ if words => {
            // The first weight has been read when the other filter's is.
            job.apart = job.apart.wrapping_sub(4);
            ONE_OF_WORDS + ((job.x_end.addr().wrapping_sub(job.x.addr()) / 16) & 3)
        }
        _ => ONE,
    };
    // SAFETY: the caller's.
    unsafe { turns(job, turn) };
}

/// One frame for all: what differs is what lies between a filter's sums being read and being written.
#[unsafe(naked)]
unsafe extern "C" fn turns(job: &mut Dots, turn: usize) {
    naked_asm!(
        "push {{r4-r7, lr}}",
        "mov r4, r8",
        "mov r5, r9",
        "mov r6, r10",
        "mov r7, r11",
        "push {{r4-r7}}",
        "movs r3, r1",
        "adr r2, 9f",
        "lsls r1, r1, #1",
        "ldrsh r1, [r2, r1]",
        "adds r1, r1, r2",
        "push {{r0, r1}}",
        "ldr r1, [r0, #8]", // w
        "ldr r4, [r0, #4]", // x_end
        "mov lr, r4",
        "ldr r4, [r0, #24]", // apart
        "mov r12, r4",
        "mov r2, r0",
        "cmp r3, #4",
        "blo 2f",
        "b 7f",
        "10:",
        words!(four),
        "cmp r0, lr",
        "bne 10b",
        "3: ldr r3, [sp]",
        "ldr r3, [r3, #20]", // sums
        three!("r8", "r9"),
        "5:",
        three!("r10", "r11"),
        "ldr r2, [sp]",
        "ldr r4, [r2, #4]",
        "mov r12, r4",
        "cmp r0, r4",
        "bne 4f", // another piece
        "str r3, [r2, #20]",
        "ldr r3, [r2, #12]", // skip
        "adds r1, r1, r3",
        "ldr r3, [r2, #16]", // filters
        "subs r3, r3, #1",
        "str r3, [r2, #16]",
        "beq 8f",
        "2: ldr r0, [r2]", // x
        "movs r3, #0",
        "mov r12, r3",
        "ldr r4, [r2, #4]",
        "4: ldr r3, [r2, #28]", // piece
        "adds r3, r0, r3",
        "cmp r3, r4",
        "bls 1f",
        "mov r3, r4",
        "1: mov lr, r3",
        "movs r3, #0",
        "mov r8, r3",
        "mov r9, r3",
        "mov r10, r3",
        "mov r11, r3",
        "ldr r3, [sp, #4]",
        "mov pc, r3",
        "8: pop {{r2, r3, r4-r7}}",
        "mov r8, r4",
        "mov r9, r5",
        "mov r10, r6",
        "mov r11, r7",
        "pop {{r4-r7, pc}}",
        ".p2align 2",
        "9: .short 10b - 9b, 11f - 9b, 12f - 9b, 13f - 9b, 14f - 9b, 15f - 9b, 18f - 9b, 17f - 9b, 16f - 9b",
        "11:",
        bytes!(four),
        "cmp r0, lr",
        "bne 11b",
        "b 3b",
        "12:",
        words!(two),
        "cmp r0, lr",
        "bne 12b",
        "b 19f",
        "13:",
        bytes!(two),
        "cmp r0, lr",
        "bne 13b",
        "19: ldr r3, [sp]",
        "ldr r3, [r3, #20]",
        "b 5b",
        "14:",
        column!(),
        "cmp r0, lr",
        "bne 14b",
        "b 6f",
        "15:",
        quads!(),
        "16:",
        quads!(),
        "17:",
        quads!(),
        "18:",
        quads!(),
        "cmp r0, lr",
        "beq 6f",
        "b 15b",
        "6: ldr r2, [sp]",
        "mov r4, r8",
        "mov r5, r9",
        "ldr r3, [r2, #20]",
        "stm r3!, {{r4, r5}}",
        "str r3, [r2, #20]",
        "ldr r0, [r2, #12]",
        "adds r1, r1, r0",
        "ldr r0, [r2, #16]",
        "subs r0, r0, #1",
        "str r0, [r2, #16]",
        "bne 7f",
        "b 8b",
        "7: ldr r3, [r2, #20]",
        "ldm r3!, {{r4, r5}}",
        "mov r8, r4",
        "mov r9, r5",
        "ldr r0, [r2]",
        "ldr r3, [sp, #4]",
        "mov pc, r3",
    )
}

/// Sums over the taps of a pixel: a tap's activations and weights of four channels are words.
///
/// # Safety
/// What `taps` describes lies in memory, and the sums may be written.
#[unsafe(naked)]
pub unsafe extern "C" fn taps1(taps: &mut Taps) {
    naked_asm!(
        "push {{r4-r7, lr}}",
        "mov r4, r8",
        "mov r5, r9",
        "mov r6, r10",
        "mov r7, r11",
        "push {{r0, r4-r7}}",
        "ldr r4, [r0, #4]", // list_end
        "mov lr, r4",
        "ldr r4, [r0, #16]", // zero
        "rsbs r4, r4, #0",
        "mov r12, r4",
        "movs r1, #0", // the group
        "2: movs r4, #0",
        "movs r5, #0",
        "movs r6, #0",
        "movs r7, #0",
        "ldr r0, [sp]",
        "ldr r3, [r0, #24]", // again
        "cmp r3, #0",
        "beq 4f",
        "ldr r3, [r0, #20]", // sums
        "ldm r3!, {{r4-r7}}",
        "4: mov r8, r4",
        "mov r9, r5",
        "mov r10, r6",
        "mov r11, r7",
        "ldr r0, [r0]", // list
        "3: ldm r0!, {{r2, r3}}",
        "adds r0, r0, #12",
        "ldr r3, [r3, r1]",
        "ldr r2, [r2, r1]",
        "sxtb r4, r3",
        "add r4, r12",
        "sxtb r5, r2",
        "muls r4, r5, r4",
        "add r8, r4",
        "lsls r4, r3, #16",
        "asrs r4, r4, #24",
        "add r4, r12",
        "lsls r5, r2, #16",
        "asrs r5, r5, #24",
        "muls r4, r5, r4",
        "add r9, r4",
        "lsls r4, r3, #8",
        "asrs r4, r4, #24",
        "add r4, r12",
        "lsls r5, r2, #8",
        "asrs r5, r5, #24",
        "muls r4, r5, r4",
        "add r10, r4",
        "asrs r3, r3, #24",
        "add r3, r12",
        "asrs r2, r2, #24",
        "muls r3, r2, r3",
        "add r11, r3",
        "cmp r0, lr",
        "bne 3b",
        "ldr r0, [sp]",
        "ldr r3, [r0, #20]",
        "mov r4, r8",
        "mov r5, r9",
        "mov r6, r10",
        "mov r7, r11",
        "stm r3!, {{r4-r7}}",
        "str r3, [r0, #20]",
        "adds r1, r1, #4",
        "ldr r3, [r0, #12]", // channels
        "subs r3, r3, #4",
        "str r3, [r0, #12]",
        "bne 2b",
        "pop {{r3-r7}}",
        "mov r8, r4",
        "mov r9, r5",
        "mov r10, r6",
        "mov r11, r7",
        "pop {{r4-r7, pc}}",
    )
}

/// Sums over the taps of four pixels.
///
/// # Safety
/// As [`taps1`].
#[unsafe(naked)]
pub unsafe extern "C" fn taps4(taps: &mut Taps) {
    naked_asm!(
        "push {{r4-r7, lr}}",
        "mov r4, r8",
        "mov r5, r9",
        "mov r6, r10",
        "mov r7, r11",
        "push {{r0, r4-r7}}",
        "ldr r4, [r0, #4]", // list_end
        "mov lr, r4",
        "movs r1, #0",
        "movs r2, #0",
        "2: movs r3, #0",
        "mov r12, r3", // the sum of the weights
        "mov r8, r3",
        "mov r9, r3",
        "mov r10, r3",
        "mov r11, r3",
        "ldr r0, [sp]",
        "ldr r3, [r0, #24]", // again
        "cmp r3, #0",
        "beq 4f",
        "ldr r3, [r0, #20]", // sums
        "ldm r3!, {{r4-r7}}",
        "mov r8, r4",
        "mov r9, r5",
        "mov r10, r6",
        "mov r11, r7",
        "4: ldr r0, [r0]", // list
        "3: ldm r0!, {{r3-r7}}",
        "ldrsb r3, [r3, r1]",
        "add r12, r3",
        "ldrsb r4, [r4, r2]",
        "ldrsb r5, [r5, r2]",
        "ldrsb r6, [r6, r2]",
        "ldrsb r7, [r7, r2]",
        "muls r4, r3, r4",
        "muls r5, r3, r5",
        "muls r6, r3, r6",
        "muls r7, r3, r7",
        "add r8, r4",
        "add r9, r5",
        "add r10, r6",
        "add r11, r7",
        "cmp r0, lr",
        "bne 3b",
        "ldr r0, [sp]",
        "ldr r3, [r0, #16]", // zero
        "mov r7, r12",
        "muls r3, r7, r3",
        "mov r4, r8",
        "subs r4, r4, r3",
        "mov r5, r9",
        "subs r5, r5, r3",
        "mov r6, r10",
        "subs r6, r6, r3",
        "mov r7, r11",
        "subs r7, r7, r3",
        "ldr r3, [r0, #20]",
        "stm r3!, {{r4-r7}}",
        "str r3, [r0, #20]",
        "adds r1, r1, #1",
        "ldr r3, [r0, #8]", // x_step
        "adds r2, r2, r3",
        "ldr r3, [r0, #12]", // channels
        "subs r3, r3, #1",
        "str r3, [r0, #12]",
        "bne 2b",
        "pop {{r3-r7}}",
        "mov r8, r4",
        "mov r9, r5",
        "mov r10, r6",
        "mov r11, r7",
        "pop {{r4-r7, pc}}",
    )
}

/// Elements of one pixel.
///
/// # Safety
/// What `job` describes lies in memory, and the elements may be written; `int8::is_usual`.
#[unsafe(naked)]
pub unsafe extern "C" fn write1(job: &mut Write) {
    naked_asm!(
        "push {{r4-r7, lr}}",
        "mov r4, r8",
        "push {{r4}}",
        "ldr r4, [r0, #24]",
        "mov r12, r4",
        "ldr r1, [r0, #12]",
        "ldr r2, [r0, #4]",
        "ldr r3, [r0, #8]",
        "ldr r0, [r0]",
        "lsls r3, r3, #2",
        "adds r3, r0, r3",
        "mov lr, r3",
        "2: ldm r2!, {{r3-r5}}",
        "ldm r0!, {{r6}}",
        "mov r8, r5",
        "adds r3, r3, r6",
        // With the sum as h * 2^16 + l, l signed, and the multiplier as m * 2^16 + n: their product * 2^-16 is
        // h m * 2^16 + (h n + l m + (l n >> 16)), which is halved 15 times, halves up.
        "sxth r6, r3",
        "subs r3, r3, r6",
        "asrs r3, r3, #16",
        "uxth r5, r4",
        "lsrs r4, r4, #16",
        "movs r7, r6",
        "muls r7, r5, r7",
        "asrs r7, r7, #16",
        "muls r5, r3, r5",
        "adds r7, r7, r5",
        "muls r6, r4, r6",
        "adds r7, r7, r6",
        "muls r4, r3, r4",
        "lsls r4, r4, #1",
        "asrs r7, r7, #15",
        "adcs r7, r4",
        // Halves away from zero: less one if negative, and the last bit shifted out rounds up.
        "asrs r3, r7, #31",
        "adds r7, r7, r3",
        "mov r5, r8",
        "rsbs r5, r5, #0",
        "asrs r7, r5",
        "movs r3, #0",
        "adcs r7, r3",
        "add r7, r12",
        "sxtb r3, r7",
        "cmp r3, r7",
        "bne 4f",
        "3: strb r7, [r1]",
        "adds r1, r1, #1",
        "cmp r0, lr",
        "bne 2b",
        "pop {{r4}}",
        "mov r8, r4",
        "pop {{r4-r7, pc}}",
        "4: asrs r7, r7, #31", // 127 or -128
        "movs r3, #127",
        "eors r7, r3",
        "b 3b",
    )
}

/// Elements of some pixels.
///
/// The exact way ([`write1`]) is four products. What is left of it here is one, of u (the sum, moved down by `a` bits until the elements'
/// whole range has 15) and m (18 bits of the multiplier): u m 2^-24 is the element within 3.2 / 256. So wherever its fraction says by
/// more than that, 3.5 / 256, on which side of a half it is, the element is known; a fortieth go the exact way.
///
/// ```text
/// m = round(multiplier 2^-13), s = -shift, a = s - 6, from 0 to 16: others go the exact way
/// W = (zero + 128) 2^6          u = (sum + bias + W 2^a + 2^(a-1)) >> a          C = zero 2^24 + 2^23 + 3.5 2^16 - W m
/// element = (u m + C) >> 24, modulo 2^32, if 0 <= u < 255 2^6 and (u m + C) mod 2^24 >= 7 2^16
///           -128, if u < 0 = W, or u + W < 0 and m >= 2^17; 127, if u >= 2^15 and m >= 2^17
/// errors, of 1 / 256: u 2 (0 if a = 0), m 0.13, the first of TFLite's two roundings 128 2^-s
/// ```
///
/// # Safety
/// What `job` describes lies in memory, and the elements may be written; `int8::is_usual`.
#[unsafe(naked)]
pub unsafe extern "C" fn write(job: &mut Write) {
    naked_asm!(
        "push {{r4-r7, lr}}",
        "mov r4, r8",
        "mov r5, r9",
        "mov r6, r10",
        "mov r7, r11",
        "push {{r0, r4-r7}}",
        "ldr r4, [r0, #16]", // apart
        "mov r12, r4",
        "movs r4, #255",
        "lsls r4, r4, #6",
        "mov r10, r4",
        "ldr r7, [r0, #24]", // zero
        "lsls r4, r7, #24",
        "movs r5, #255", // 256 + 7
        "adds r5, r5, #8",
        "lsls r5, r5, #15",
        "adds r4, r4, r5",
        "mov r11, r4", // C + W m
        "adds r7, r7, #128",
        "lsls r7, r7, #7",
        "adds r7, r7, #1", // 2 W + 1
        "mov r2, r0",
        "ldr r0, [r0]",
        "2: ldr r3, [r2, #4]", // cs
        "ldm r3!, {{r4-r6}}",
        "str r3, [r2, #4]",
        "lsrs r5, r5, #12",
        "adds r5, r5, #1",
        "lsrs r5, r5, #1", // m
        "adds r6, r6, #6",
        "rsbs r6, r6, #0", // a
        "cmp r6, #16",
        "bhi 7f",
        "movs r3, r7",
        "lsls r3, r6",
        "lsrs r3, r3, #1",
        "adds r4, r4, r3",
        "8: mov r8, r4",
        "lsrs r3, r7, #1",
        "muls r3, r5, r3",
        "mov r4, r11",
        "subs r4, r4, r3",
        "mov r9, r4", // C
        "movs r4, #7",
        "lsls r4, r4, #24",
        "ldr r1, [r2, #12]", // out
        "adds r3, r1, #1",
        "str r3, [r2, #12]",
        "ldr r3, [r2, #20]", // bytes
        "adds r3, r0, r3",
        "mov lr, r3",
        "3: ldm r0!, {{r2}}",
        "add r2, r8",
        "asrs r2, r6", // u
        "cmp r2, r10",
        "bhs 5f",
        "muls r2, r5, r2",
        "add r2, r9",
        "lsls r3, r2, #8",
        "cmp r3, r4",
        "blo 6f",
        "lsrs r2, r2, #24",
        "4: strb r2, [r1]",
        "add r1, r12",
        "cmp r0, lr",
        "bne 3b",
        "ldr r2, [sp]",
        "ldr r3, [r2, #28]", // skip
        "adds r0, r0, r3",
        "ldr r3, [r2, #8]", // channels
        "subs r3, r3, #1",
        "str r3, [r2, #8]",
        "bne 2b",
        "pop {{r3-r7}}",
        "mov r8, r4",
        "mov r9, r5",
        "mov r10, r6",
        "mov r11, r7",
        "pop {{r4-r7, pc}}",
        "7: movs r5, #0", // u is large, whatever the sum, and m says that it means nothing
        "movs r6, #0",
        "movs r3, #1",
        "lsls r3, r3, #30",
        "adds r4, r4, r3",
        "b 8b",
        "5: cmp r2, #0",
        "bge 11f",
        "cmp r7, #1",
        "beq 10f",
        "lsrs r3, r7, #1",
        "adds r3, r3, r2",
        "bpl 6f",
        "lsrs r3, r5, #17",
        "beq 6f",
        "10: movs r2, #128",
        "b 4b",
        "11: lsrs r3, r5, #17",
        "beq 6f",
        "lsrs r3, r2, #15",
        "beq 6f",
        "movs r2, #127",
        "b 4b",
        // As in `write1`.
        "6: push {{r4-r7}}",
        "ldr r6, [sp, #16]",
        "ldr r5, [r6, #4]",
        "subs r5, r5, #12",
        "ldm r5!, {{r3, r4, r7}}",
        "subs r0, r0, #4",
        "ldm r0!, {{r2}}",
        "adds r2, r2, r3",
        "sxth r3, r2",
        "subs r2, r2, r3",
        "asrs r2, r2, #16",
        "uxth r5, r4",
        "lsrs r4, r4, #16",
        "movs r6, r3",
        "muls r6, r5, r6",
        "asrs r6, r6, #16",
        "muls r5, r2, r5",
        "adds r6, r6, r5",
        "muls r3, r4, r3",
        "adds r6, r6, r3",
        "muls r2, r4, r2",
        "lsls r2, r2, #1",
        "asrs r6, r6, #15",
        "adcs r6, r2",
        "asrs r3, r6, #31",
        "adds r6, r6, r3",
        "rsbs r7, r7, #0",
        "asrs r6, r7",
        "ldr r3, [sp, #16]",
        "ldr r3, [r3, #24]",
        "adcs r6, r3",
        "sxtb r2, r6",
        "cmp r2, r6",
        "beq 9f",
        "asrs r2, r6, #31", // 127 or -128
        "movs r3, #127",
        "eors r2, r3",
        "9: pop {{r4-r7}}",
        "b 4b",
    )
}

/// On to the next rows of the job in r0, whose codes are `$codes` bytes on and scales `$scales`: not zero if there are some.
macro_rules! next {
    ($codes:literal, $scales:literal) => {
        concat!(
            concat!("ldr r1, [r0, #8]\nadds r1, r1, #", $codes, "\nstr r1, [r0, #8]\n"),
            concat!("ldr r1, [r0, #12]\nadds r1, r1, #", $scales, "\nstr r1, [r0, #12]\n"),
            "ldr r1, [r0, #24]\nsubs r1, r1, #1\nstr r1, [r0, #24]\n",
        )
    };
}

/// A step of [`uniform`]: two codes of two rows, by both shifts from r6 and r3, times the activations in `$x`.
macro_rules! two_rows {
    ($x:literal, $zero:literal, $one:literal) => {
        concat!(
            $zero,
            "\nands r7, r4\nmuls r7, ",
            $x,
            ", r7\nadd r8, r7\n",
            $one,
            "\nands r7, r4\nmuls r7, ",
            $x,
            ", r7\nadd r9, r7\n",
        )
    };
}

/// A line of [`uniform`].
macro_rules! line {
    ($zero:literal, $one:literal) => {
        concat!(
            concat!("ldr r6, [r5, #", $zero, "]\nldr r3, [r5, #", $one, "]\nldm r0!, {{r1, r2}}\n"),
            two_rows!("r1", "movs r7, r6", "movs r7, r3"),
            two_rows!("r2", "lsrs r7, r6, #4", "lsrs r7, r3, #4"),
            "ldm r0!, {{r1, r2}}\n",
            two_rows!("r1", "lsrs r7, r6, #8", "lsrs r7, r3, #8"),
            two_rows!("r2", "lsrs r7, r6, #12", "lsrs r7, r3, #12"),
        )
    };
}

/// Sums of a block of codes whose levels are 8 less: two rows at a time.
///
/// # Safety
/// What `job` describes lies in memory, at least a group, and the sums may be written.
#[unsafe(naked)]
pub unsafe extern "C" fn uniform(job: &mut Block) {
    naked_asm!(
        "push {{r4-r7, lr}}",
        "mov r4, r8",
        "mov r5, r9",
        "mov r6, r10",
        "mov r7, r11",
        "push {{r0, r4-r7}}",
        "ldr r4, [r0, #4]", // x_end
        "mov lr, r4",
        "movs r4, #8",
        "str r4, [r0, #24]",
        "movs r4, #15",
        "lsls r5, r4, #16",
        "orrs r4, r5",
        "2: ldm r0!, {{r1, r2, r3, r5}}", // x, x_end, codes, scales
        "mov r12, r5",
        "mov r5, r3",
        "mov r0, r1",
        "movs r7, #0",
        "mov r10, r7",
        "mov r11, r7",
        "3: ldm r0!, {{r1}}",
        "mov r8, r1",
        "mov r9, r1",
        line!("0", "4"),
        line!("64", "68"),
        "adds r5, r5, #128",
        line!("0", "4"),
        line!("64", "68"),
        "adds r5, r5, #128",
        "mov r1, r12",
        "ldrb r2, [r1]",
        "ldrb r3, [r1, #1]",
        "adds r1, r1, #16",
        "mov r12, r1",
        "mov r7, r8",
        "asrs r7, r7, #16",
        "adds r7, r7, #1",
        "muls r7, r2, r7",
        "add r10, r7",
        "mov r7, r9",
        "asrs r7, r7, #16",
        "adds r7, r7, #1",
        "muls r7, r3, r7",
        "add r11, r7",
        "cmp r0, lr",
        "beq 4f",
        "b 3b",
        "4: ldr r0, [sp]",
        "ldr r1, [r0, #16]", // sums
        "mov r2, r10",
        "mov r3, r11",
        "stm r1!, {{r2, r3}}",
        "str r1, [r0, #16]",
        next!("8", "2"),
        "beq 5f",
        "b 2b",
        "5: pop {{r3-r7}}",
        "mov r8, r4",
        "mov r9, r5",
        "mov r10, r6",
        "mov r11, r7",
        "pop {{r4-r7, pc}}",
    )
}

/// A byte's two codes times their activations: the table's offset to `$to`, from r6, by `$shift`. The product's lower half rounds the
/// upper one, by the last bit that is shifted out.
macro_rules! byte {
    ($shift:literal, $to:literal, $x:literal) => {
        concat!(
            $shift,
            concat!("\nands ", $to, ", r4\nldr ", $to, ", [r3, ", $to, "]\nmuls ", $to, ", ", $x, ", ", $to),
            concat!("\nasrs ", $to, ", ", $to, ", #16\nadcs r5, ", $to, "\n"),
        )
    };
}

/// A line of [`codebook`]. The last byte's window may go around the word's end.
macro_rules! coded_line {
    ($at:literal) => {
        concat!(
            concat!("mov r6, r12\nldr r6, [r6, #", $at, "]\nldm r0!, {{r1, r2}}\n"),
            byte!("lsls r7, r6, #2", "r7", "r1"),
            byte!("lsrs r7, r6, #6", "r7", "r2"),
            "ldm r0!, {{r1, r2}}\n",
            byte!("lsrs r7, r6, #14", "r7", "r1"),
            byte!("movs r1, #22\nrors r6, r1", "r6", "r2"),
        )
    };
}

/// Four words of [`pairs`].
macro_rules! four_pairs {
    () => {
        "ldm r1!, {{r4-r7}}
        adds r4, r4, r2
        adds r5, r5, r2
        adds r6, r6, r2
        adds r7, r7, r2
        stm r0!, {{r4-r7}}\n"
    };
}

/// The table from the words of levels: for each level, times 2^16, sixteen words with another added. These are the first sixteen; or
/// others, by what `shared` masks of the place of the first level's word, in bytes.
///
/// # Safety
/// There are as many levels as sixteens up to the table's `end`, and sixteens of levels as `shared` says.
#[unsafe(naked)]
pub unsafe extern "C" fn pairs(levels: *const u32, table: *mut u32, end: *const u32, shared: usize) {
    naked_asm!(
        "push {{r3-r7, lr}}",
        "mov lr, r2",
        "mov r12, r0",
        "mov r3, r0",
        "mov r0, r1",
        "2: ldr r4, [sp]",
        "mov r1, r12",
        "subs r2, r3, r1",
        "ands r2, r4",
        "lsls r2, r2, #4",
        "adds r1, r1, r2",
        "ldm r3!, {{r2}}",
        "lsls r2, r2, #16",
        four_pairs!(),
        four_pairs!(),
        four_pairs!(),
        four_pairs!(),
        "cmp r0, lr",
        "bne 2b",
        "pop {{r3-r7, pc}}",
    )
}

/// Sums of a block of codes whose levels are in the table, a row at a time.
///
/// # Safety
/// What `job` describes lies in memory, at least a group, and the sums may be written.
#[unsafe(naked)]
pub unsafe extern "C" fn codebook(job: &mut Block) {
    naked_asm!(
        "push {{r4-r7, lr}}",
        "mov r4, r8",
        "mov r5, r10",
        "push {{r0, r4, r5}}",
        "ldr r4, [r0, #4]", // x_end
        "mov lr, r4",
        "movs r4, #16",
        "str r4, [r0, #24]",
        "ldr r4, [r0, #28]",              // mask
        "2: ldm r0!, {{r1, r2, r3, r5}}", // x, x_end, codes, scales
        "mov r12, r3",
        "mov r8, r5",
        "ldr r3, [r0, #4]", // table
        "mov r0, r1",
        "movs r7, #0",
        "mov r10, r7",
        "3: movs r5, #0",
        coded_line!("0"),
        coded_line!("64"),
        "movs r7, #128",
        "add r12, r7",
        coded_line!("0"),
        coded_line!("64"),
        "movs r7, #128",
        "add r12, r7",
        "mov r1, r8",
        "ldrb r2, [r1]",
        "adds r1, r1, #16",
        "mov r8, r1",
        "muls r5, r2, r5",
        "add r10, r5",
        "cmp r0, lr",
        "beq 4f",
        "b 3b",
        "4: ldr r0, [sp]",
        "ldr r1, [r0, #16]", // sums
        "mov r2, r10",
        "stm r1!, {{r2}}",
        "str r1, [r0, #16]",
        next!("4", "1"),
        "beq 5f",
        "b 2b",
        "5: pop {{r3-r5}}",
        "mov r8, r4",
        "mov r10, r5",
        "pop {{r4-r7, pc}}",
    )
}

/// As [`codebook`], by T4's windows: what differs is the mask.
pub use codebook as windows;

/// Sums of a block of weights of 8 bits: two rows at a time. The table's place is a pointer of the loop.
///
/// # Safety
/// What `job` describes lies in memory, at least a group, and the sums may be written.
#[unsafe(naked)]
pub unsafe extern "C" fn bytes(job: &mut Block) {
    naked_asm!(
        "push {{r4-r7, lr}}",
        "mov r4, r8",
        "mov r5, r9",
        "mov r6, r10",
        "mov r7, r11",
        "push {{r0, r4-r7}}",
        "ldr r4, [r0, #4]", // x_end
        "mov lr, r4",
        "movs r4, #8",
        "str r4, [r0, #24]",
        "2: ldr r1, [r0, #12]", // scales
        "str r1, [r0, #20]",
        "ldr r1, [r0, #8]", // codes
        "ldr r0, [r0]",
        "movs r7, #0",
        "mov r10, r7",
        "mov r11, r7",
        "3: movs r3, #0",
        "mov r8, r3",
        "mov r9, r3",
        "movs r3, #128",
        "adds r3, r0, r3",
        "mov r12, r3",
        "4: ldm r0!, {{r4-r7}}",
        "ldr r2, [r1]",
        quad!("r8"),
        "ldr r2, [r1, #4]",
        quad!("r9"),
        "ldm r0!, {{r4-r7}}",
        "ldr r2, [r1, #64]",
        quad!("r8"),
        "ldr r2, [r1, #68]",
        quad!("r9"),
        "adds r1, r1, #128",
        "cmp r0, r12",
        "bne 4b",
        "ldr r3, [sp]",
        "ldr r4, [r3, #20]",
        "ldrb r5, [r4]",
        "ldrb r6, [r4, #1]",
        "adds r4, r4, #16",
        "str r4, [r3, #20]",
        "mov r7, r8",
        "muls r7, r5, r7",
        "add r10, r7",
        "mov r7, r9",
        "muls r7, r6, r7",
        "add r11, r7",
        "cmp r0, lr",
        "bne 3b",
        "ldr r0, [sp]",
        "ldr r1, [r0, #16]", // sums
        "mov r2, r10",
        "mov r3, r11",
        "stm r1!, {{r2, r3}}",
        "str r1, [r0, #16]",
        next!("8", "2"),
        "bne 2b",
        "pop {{r3-r7}}",
        "mov r8, r4",
        "mov r9, r5",
        "mov r10, r6",
        "mov r11, r7",
        "pop {{r4-r7, pc}}",
    )
}
