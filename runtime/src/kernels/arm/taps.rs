//! Sums of a depthwise convolution's pixel: four channels side by side are a word of activations and one of weights.

/// The taps of a pixel that lie inside the image, of some groups of four channels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Taps {
    /// Activations and weights of the first group at the first tap.
    pub x: *const i8,
    pub w: *const i8,
    /// Taps down and across, at least 1 each.
    pub rows: usize,
    pub cols: usize,
    /// Bytes from a tap to the next.
    pub x_tap: usize,
    pub w_tap: usize,
    /// Bytes from a row of taps to the next.
    pub x_row: usize,
    pub w_row: usize,
    /// Less the zero point: for [`one_each`] in both halves.
    pub less: u32,
    /// Groups, at least 1.
    pub groups: usize,
    /// Bytes from a group's activations to the next's: 4 for [`one_each`], 0 for [`one_for_all`].
    pub x_group: usize,
    /// Four to a group.
    pub sums: *mut i32,
}

/// A function over taps: from each column of at most three taps to the next, down its rows. `$x` loads from the address that
/// follows, `$products` adds to the sums r4 to r7; r0 and r1 are at the first tap of a row, r2 and r3 bytes to the next, lr is `less`.
macro_rules! over_taps {
    (@tap $x:literal, $products:literal, $at_x:literal, $at_w:literal) => {
        concat!($x, " r8, ", $at_x, "\nldr r10, ", $at_w, "\n", $products)
    };
    (@next $row:literal) => {
        concat!("ldrd r8, r9, [sp, #24]\nadd r0, r0, r8\nadd r1, r1, r9\nsubs r12, r12, #1\nbne ", $row)
    };
    ($(#[$meta:meta])* $name:ident, $x:literal, $products:literal) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// What `taps` describes lies in memory, and the sums may be written.
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(taps: &Taps) {
            naked_asm!(
                "push {{r4-r11, lr}}",
                "sub sp, sp, #60",
                "ldm r0!, {{r1-r12}}",
                "stm sp, {{r1-r12}}",
                "mov r2, r5", // x_tap
                "mov r3, r6",
                "mov lr, r9", // less
                "2: ldrd r0, r1, [sp]",
                "ldrd r12, r10, [sp, #8]", // rows, columns left
                "mov r4, #0",
                "mov r5, #0",
                "mov r6, #0",
                "mov r7, #0",
                "3: cmp r10, #2",
                "beq 5f",
                "blt 6f",
                "strd r0, r1, [sp, #48]",
                "str r10, [sp, #56]",
                "4:",
                over_taps!(@tap $x, $products, "[r0]", "[r1]"),
                over_taps!(@tap $x, $products, "[r0, r2]", "[r1, r3]"),
                over_taps!(@tap $x, $products, "[r0, r2, lsl #1]", "[r1, r3, lsl #1]"),
                over_taps!(@next "4b"),
                "ldr r10, [sp, #56]",
                "subs r10, r10, #3",
                "beq 7f",
                "ldrd r0, r1, [sp, #48]",
                "ldr r12, [sp, #8]",
                "add r8, r2, r2, lsl #1",
                "add r0, r0, r8",
                "add r8, r3, r3, lsl #1",
                "add r1, r1, r8",
                "b 3b",
                "5:",
                over_taps!(@tap $x, $products, "[r0]", "[r1]"),
                over_taps!(@tap $x, $products, "[r0, r2]", "[r1, r3]"),
                over_taps!(@next "5b"),
                "b 7f",
                "6:",
                over_taps!(@tap $x, $products, "[r0]", "[r1]"),
                over_taps!(@next "6b"),
                "7: ldrd r10, r11, [sp, #40]", // x_group, sums
                "ldrd r0, r1, [sp]",
                "stm r11!, {{r4-r7}}",
                "str r11, [sp, #44]",
                "add r0, r0, r10",
                "add r1, r1, #4",
                "strd r0, r1, [sp]",
                "ldr r8, [sp, #36]",
                "subs r8, r8, #1",
                "str r8, [sp, #36]",
                "bne 2b",
                "add sp, sp, #60",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

over_taps! {
    /// Each channel has its own activation.
    one_each,
    "ldr",
    "sxtab16 r9, lr, r8
    sxtab16 r8, lr, r8, ror #8
    sxtb16 r11, r10
    sxtb16 r10, r10, ror #8
    smlabb r4, r9, r11, r4
    smlatt r6, r9, r11, r6
    smlabb r5, r8, r10, r5
    smlatt r7, r8, r10, r7\n"
}

over_taps! {
    /// All channels have the same activation.
    one_for_all,
    "ldrsb",
    "add r8, r8, lr
    sxtb16 r11, r10
    sxtb16 r10, r10, ror #8
    smlabb r4, r8, r11, r4
    smlabt r6, r8, r11, r6
    smlabb r5, r8, r10, r5
    smlabt r7, r8, r10, r7\n"
}
