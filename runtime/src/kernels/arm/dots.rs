//! Dot products of int8 weights, as they lie in the image, with activations spread to 16 bits.
//!
//! ```text
//! quad      four columns: weights w0 w1 w2 w3 are a word; SXTB16 makes of it the pairs (w0, w2) and (w1, w3)
//! spread    [quad][pair][pixel] words: of each pixel (x0, x2) and (x1, x3), less the zero point
//! ```
//!
//! A filter of K columns has `first` (1 to 4) in its first quad, the other K - first in full ones: weights are read four at a
//! time, and those of the first quad beyond `first` once more in the next, with zeros for activations here.

/// Spreads `quads` (at least 1) words of four int8 each to pairs of 16 bits plus those of `less`; `apart`: bytes from one word of
/// a pixel to the next.
///
/// # Safety
/// `src` has `4 * quads` bytes, `to` room for `2 * quads` words at that distance.
#[unsafe(naked)]
pub unsafe extern "C" fn spread(to: *mut u32, src: *const i8, quads: usize, less: u32, apart: usize) {
    naked_asm!(
        "push {{r4-r7, lr}}",
        "ldr r4, [sp, #20]",
        "add r5, r4, r4, lsl #1",
        "lsrs r2, r2, #1",
        "bcc 2f",
        "ldr r6, [r1], #4",
        "sxtab16 r7, r3, r6",
        "sxtab16 r6, r3, r6, ror #8",
        "str r7, [r0]",
        "str r6, [r0, r4]",
        "add r0, r0, r4, lsl #1",
        "2: cbz r2, 4f",
        "3:",
        "ldr r6, [r1], #4",
        "ldr r12, [r1], #4",
        "sxtab16 r7, r3, r6",
        "sxtab16 r6, r3, r6, ror #8",
        "str r7, [r0]",
        "str r6, [r0, r4]",
        "sxtab16 r7, r3, r12",
        "sxtab16 r6, r3, r12, ror #8",
        "str r7, [r0, r4, lsl #1]",
        "str r6, [r0, r5]",
        "add r0, r0, r4, lsl #2",
        "subs r2, r2, #1",
        "bne 3b",
        "4: pop {{r4-r7, pc}}",
    )
}

/// A filter's dots with some pixels: filters of one layer, one after the other.
///
/// # Safety
/// `w` has `channels` (at least 1) filters of `first + 4 * quads` bytes (at least 4), `x` `1 + quads` quads, `sums` room for
/// `channels` times the pixels.
pub type DotsFn =
    unsafe extern "C" fn(x: *const u32, w: *const i8, first: usize, quads: usize, channels: usize, sums: *mut i32);

/// The function of that name: a loop over filters around one over quads, four quads a turn, entered in its midst.
/// `$first`: a quad's multiplications that begin a sum; `$quad`: code of a quad, and its bytes; `$stm`: stores the sums.
macro_rules! dots {
    ($(#[$meta:meta])* $name:ident, $first:literal, $quad:literal, $bytes:literal, $stm:literal) => {
        $(#[$meta])*
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(
            x: *const u32,
            w: *const i8,
            first: usize,
            quads: usize,
            channels: usize,
            sums: *mut i32,
        ) {
            naked_asm!(
                "push {{r0, r2, r4-r11, lr}}",
                "sub sp, sp, #12",
                // Turns but one, and where the first begins.
                "adds r12, r3, #3",
                "lsr r12, r12, #2",
                "sub r12, r12, #1",
                "rsb r4, r3, #0",
                "and r4, r4, #3",
                concat!("mov r5, #", $bytes),
                "adr.w r6, 3f",
                "mla r4, r4, r5, r6",
                "cmp r3, #0",
                "bne 1f",
                "adr.w r4, 4f",
                "1: orr r4, r4, #1",
                "ldr r5, [sp, #56]", // channels
                "strd r12, r4, [sp]",
                "str r5, [sp, #8]",
                "ldr lr, [sp, #60]", // sums
                "2: ldrd r0, r12, [sp, #12]",
                "ldr r2, [r1]",
                "add r1, r1, r12",
                "sxtb16 r3, r2",
                "sxtb16 r2, r2, ror #8",
                $first,
                "ldrd r12, r2, [sp]",
                "bx r2",
                ".p2align 2",
                "3:",
                $quad, $quad, $quad, $quad,
                "subs r12, r12, #1",
                "bpl 3b",
                "4:",
                $stm,
                "ldr r2, [sp, #8]",
                "subs r2, r2, #1",
                "str r2, [sp, #8]",
                "bne 2b",
                "add sp, sp, #20",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

dots! {
    /// See [`DotsFn`]; four pixels.
    dots4,
    "ldm r0!, {{r8-r11}}
    smuad r4, r3, r8
    smuad r5, r3, r9
    smuad r6, r3, r10
    smuad r7, r3, r11
    ldm r0!, {{r8-r11}}
    smlad r4, r2, r8, r4
    smlad r5, r2, r9, r5
    smlad r6, r2, r10, r6
    smlad r7, r2, r11, r7",
    "ldr r2, [r1], #4
    ldm.w r0!, {{r8-r11}}
    sxtb16 r3, r2
    sxtb16 r2, r2, ror #8
    smlad r4, r3, r8, r4
    smlad r5, r3, r9, r5
    smlad r6, r3, r10, r6
    smlad r7, r3, r11, r7
    ldm.w r0!, {{r8-r11}}
    smlad r4, r2, r8, r4
    smlad r5, r2, r9, r5
    smlad r6, r2, r10, r6
    smlad r7, r2, r11, r7",
    "52",
    "stm lr!, {{r4-r7}}"
}

dots! {
    /// See [`DotsFn`]; two pixels.
    dots2,
    "ldm r0!, {{r8-r11}}
    smuad r4, r3, r8
    smuad r5, r3, r9
    smlad r4, r2, r10, r4
    smlad r5, r2, r11, r5",
    "ldr r2, [r1], #4
    ldm.w r0!, {{r8-r11}}
    sxtb16 r3, r2
    sxtb16 r2, r2, ror #8
    smlad r4, r3, r8, r4
    smlad r5, r3, r9, r5
    smlad r4, r2, r10, r4
    smlad r5, r2, r11, r5",
    "32",
    "stm lr!, {{r4-r5}}"
}

/// A quad of four filters with one pixel's; `$first` and `$rest` multiply, the first products of a sum and the others.
macro_rules! four_quads {
    ($next:literal, $first:literal, $acc:literal) => {
        concat!(
            "ldm r0!, {{r8, r9}}\n",
            four_quads!("ldr r2, [r1, r10]", $first, $acc, "r5"),
            four_quads!("ldr r2, [r1, r10, lsl #1]", $first, $acc, "r6"),
            four_quads!("ldr r2, [r1, r11]", $first, $acc, "r7"),
            four_quads!($next, $first, $acc, "r4"),
        )
    };
    ($load:literal, $first:literal, $acc:literal, $sum:literal) => {
        concat!(
            $load,
            "\nsxtb16 r3, r2\nsxtb16 r2, r2, ror #8\n",
            concat!($first, " ", $sum, ", r3, r8", $acc, $sum, "\n"),
            concat!("smlad ", $sum, ", r2, r9, ", $sum, "\n"),
        )
    };
}

/// As [`DotsFn`], of one pixel with four filters that begin `apart` bytes from one another; `sums` has four.
///
/// # Safety
/// The same.
#[unsafe(naked)]
pub unsafe extern "C" fn four_dots(
    x: *const u32,
    w: *const i8,
    first: usize,
    quads: usize,
    apart: usize,
    sums: *mut i32,
) {
    naked_asm!(
        "push {{r4-r12, lr}}",
        "ldr r10, [sp, #40]", // apart
        "add r11, r10, r10, lsl #1",
        "mov r12, r3",
        "mov lr, r2",
        // The rest of a line in this macro's third argument is a comment.
        four_quads!("ldr r2, [r1]\nadd r1, r1, lr", "smuad", " @ "),
        "lsrs r12, r12, #1",
        "bcc 2f",
        "1:",
        four_quads!("ldr r2, [r1], #4", "smlad", ", "),
        "2: subs r12, r12, #1",
        "bmi 3f",
        four_quads!("ldr r2, [r1], #4", "smlad", ", "),
        "b 1b",
        "3: ldr r2, [sp, #44]", // sums
        "stm r2, {{r4-r7}}",
        "pop {{r4-r12, pc}}",
    )
}
