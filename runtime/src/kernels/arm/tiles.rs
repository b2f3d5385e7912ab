//! Several rows of activations: a group's codes become levels once, in memory, and every two rows are multiplied with those.
//!
//! ```text
//! pair      two levels, or two activations, of the same columns in the halves of a word
//! levels    [two rows of weights 0..8][step 0..8]: of the first row two pairs, of the second two
//! spread    [two rows of activations][step 0..8]: the same
//! ```
//!
//! So a step is two loads of four registers for sixteen products, whatever the code. Loops over more rows want more registers
//! than there are: with levels looked up on the way, four rows of activations take 7 instructions for 8 products, this 5.

/// Makes levels of the codes of a group of 16 rows.
///
/// # Safety
/// `codes` are a group's and lie at a multiple of 4, `levels` has room for 256 words, `table` is what the function says.
pub type LevelsFn = unsafe extern "C" fn(levels: *mut u32, codes: *const u8, table: *const u32);

/// A line of two rows.
macro_rules! n4_line {
    ($at:literal) => {
        concat!(n4_line!($at, "0", "1", "4", "5"), n4_line!($at, "2", "3", "6", "7"))
    };
    ($at:literal, $a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            n4_line!(@pair $at, $a, "r4"),
            n4_line!(@pair $at, $b, "r5"),
            n4_line!(@pair $at, $c, "r6"),
            n4_line!(@pair $at, $d, "r7"),
            "stm r0!, {{r4-r7}}\n",
        )
    };
    (@pair $at:literal, $byte:literal, $to:literal) => {
        concat!("ldrb ", $to, ", [r1, #", $at, "+", $byte, "]\nldr ", $to, ", [r2, ", $to, ", lsl #2]\n")
    };
}

/// A line of two rows of T4, whose windows of ten bits begin at each byte; r12: ten ones.
macro_rules! t4_line {
    ($at:literal) => {
        concat!(
            concat!("ldrd r8, r9, [r1, #", $at, "]\n"),
            "and r4, r12, r8\nand r5, r12, r8, ror #8\nand r6, r12, r9\nand r7, r12, r9, ror #8\n",
            t4_line!(),
            "and r4, r12, r8, ror #16\nand r5, r12, r8, ror #24\nand r6, r12, r9, ror #16\nand r7, r12, r9, ror #24\n",
            t4_line!(),
        )
    };
    () => {
        "ldr r4, [r2, r4, lsl #2]
        ldr r5, [r2, r5, lsl #2]
        ldr r6, [r2, r6, lsl #2]
        ldr r7, [r2, r7, lsl #2]
        stm r0!, {{r4-r7}}\n"
    };
}

/// Lines of four columns of two rows.
macro_rules! n8_line {
    ($at:literal) => {
        concat!(
            concat!("ldrd r5, r7, [r1, #", $at, "]\n"),
            "sxtb16 r4, r5\nsxtb16 r5, r5, ror #8\nsxtb16 r6, r7\nsxtb16 r7, r7, ror #8\n",
            "stm r0!, {{r4-r7}}\n",
        )
    };
}

/// A [`LevelsFn`]: `$line` writes the levels of a line of two rows; r4 to r9 are free.
macro_rules! levels {
    ($(#[$meta:meta])* $name:ident, $line:ident, [$($at:literal),*]) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// See [`LevelsFn`].
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(levels: *mut u32, codes: *const u8, table: *const u32) {
            naked_asm!(
                "push {{r4-r9, lr}}",
                "mov r3, #8",
                "movw r12, #0x3FF",
                "1:",
                $($line!($at),)*
                "add r1, r1, #8",
                "subs r3, r3, #1",
                "bne 1b",
                "pop {{r4-r9, pc}}",
            )
        }
    };
}

levels! {
    /// 4-bit codes; `table`: the two levels of each byte.
    n4_levels, n4_line, ["0", "64", "128", "192"]
}

levels! {
    /// 4-bit codes whose levels are looked up by windows of six bits; `table`: the two levels of each ten bits.
    t4_levels, t4_line, ["0", "64", "128", "192"]
}

levels! {
    /// 8-bit codes; no table.
    n8_levels, n8_line, ["0", "64", "128", "192", "256", "320", "384", "448"]
}

/// Sets sums of `rows` (at least 1) rows of activations to 0. The compiler's own way takes four instructions a word.
///
/// # Safety
/// There is room for 16 sums for each row.
#[unsafe(naked)]
pub unsafe extern "C" fn clear(sums: *mut [i64; 16], rows: usize) {
    naked_asm!(
        "push {{r4-r9, lr}}",
        "mov r2, #0",
        "mov r3, #0",
        "mov r4, #0",
        "mov r5, #0",
        "mov r6, #0",
        "mov r7, #0",
        "mov r8, #0",
        "mov r9, #0",
        "1: stm r0!, {{r2-r9}}",
        "stm r0!, {{r2-r9}}",
        "stm r0!, {{r2-r9}}",
        "stm r0!, {{r2-r9}}",
        "subs r1, r1, #1",
        "bne 1b",
        "pop {{r4-r9, pc}}",
    )
}

/// A step: sums r2, r3 of the first row of activations with two of weights, r12, lr of the second. `$first` multiplies the first
/// pairs, with `$a` to `$d` behind.
macro_rules! step {
    () => {
        step!("smlad", ", r2", ", r3", ", r12", ", lr")
    };
    ($first:literal, $a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "ldm r0!, {{r4-r7}}\nldm r1!, {{r8-r11}}\n",
            concat!($first, " r2, r8, r4", $a, "\n", $first, " r3, r10, r4", $b, "\n"),
            concat!($first, " r12, r8, r6", $c, "\n", $first, " lr, r10, r6", $d, "\n"),
            "smlad r2, r9, r5, r2\nsmlad r3, r11, r5, r3\nsmlad r12, r9, r7, r12\nsmlad lr, r11, r7, lr\n",
        )
    };
}

/// A group of 16 rows of weights times `twos` (at least 1) times two rows of activations, times scales, is added to the sums [row
/// of activations][row of weights].
///
/// # Safety
/// `spread` has 32 words for each two rows of activations, `levels` 256, `scales` 16 bytes, `sums` 32 for each two rows.
#[unsafe(naked)]
pub unsafe extern "C" fn dots(
    spread: *const u32,
    levels: *const u32,
    scales: *const u8,
    twos: usize,
    sums: *mut [i64; 16],
) {
    naked_asm!(
        "push {{r4-r12, lr}}",
        "ldr r4, [sp, #40]", // sums
        "sub sp, sp, #16",   // scales, sums, the end of a row of sums, two rows
        "str r3, [sp, #12]",
        "1: add r5, r4, #128",
        "strd r2, r4, [sp]",
        "str r5, [sp, #8]",
        "2:",
        step!("smuad", "", "", "", ""),
        step!(),
        step!(),
        step!(),
        step!(),
        step!(),
        step!(),
        step!(),
        "ldrd r4, r5, [sp]",
        "ldrb r6, [r4], #1",
        "ldrb r7, [r4], #1",
        "ldm r5, {{r8-r11}}",
        "smlal r8, r9, r6, r2",
        "smlal r10, r11, r7, r3",
        "stm r5!, {{r8-r11}}",
        "ldrd r2, r3, [r5, #112]",
        "ldrd r8, r9, [r5, #120]",
        "smlal r2, r3, r6, r12",
        "smlal r8, r9, r7, lr",
        "strd r2, r3, [r5, #112]",
        "strd r8, r9, [r5, #120]",
        "strd r4, r5, [sp]",
        "ldr r6, [sp, #8]",
        "sub r0, r0, #128",
        "cmp r5, r6",
        "bne 2b",
        "ldr r3, [sp, #12]",
        "sub r2, r4, #16",
        "add r4, r5, #128",
        "sub r1, r1, #1024",
        "add r0, r0, #128",
        "subs r3, r3, #1",
        "str r3, [sp, #12]",
        "bne 1b",
        "add sp, sp, #16",
        "pop {{r4-r12, pc}}",
    )
}
