//! Blocks of coded weights: 16 rows times one or two rows of activations.
//!
//! ```text
//! word        of a row in a line: codes of columns c and, in the upper halves of its bytes, c + 4 (8-bit codes: of four columns)
//! row         its words in a group's four lines, gathered into a vector: 16 codes in lower halves and 16 in upper ones
//! activations even words and odd words of a group, as VLD2 takes them apart
//! ```

/// A block: sums of `groups` (at least 1) groups of 32 columns. `table`: levels.
///
/// # Safety
/// `codes` has the bytes of these groups, `scales` 16 a group, `x` 32 of each row; codes and rows of activations lie at multiples of 4,
/// `row` bytes from one row to the next; `sums` has room for 16 of each row.
pub type BlockFn = unsafe extern "C" fn(
    codes: *const u8,
    scales: *const u8,
    x: *const i8,
    groups: usize,
    table: *const i8,
    sums: *mut i64,
    row: usize,
);

/// The function of that name, of one row of activations. `$setup`: constants; `$levels`: makes of the codes in q0 the levels `$first`
/// and `$second`, of the group at r6, which it moves on; `$x` loads activations q2 and q3 from r8; `$finish`: the sum in r4 and r5.
macro_rules! one_row {
    ($(#[$meta:meta])* $name:ident, $setup:literal, $levels:literal, [$first:literal, $second:literal], $x:literal, $finish:literal) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// See [`BlockFn`].
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(
            codes: *const u8,
            scales: *const u8,
            x: *const i8,
            groups: usize,
            table: *const i8,
            sums: *mut i64,
            row: usize,
        ) {
            naked_asm!(
                "push {{r4-r12, lr}}",
                "vpush {{d8-d15}}",
                "ldrd r10, r11, [sp, #104]", // table, sums
                "add r4, r11, #128",
                "str r4, [sp, #108]",
                "mov r6, #0",
                "vidup.u32 q7, r6, #8",
                "vshl.i32 q7, q7, #3", // 0, 64, 128, 192
                $setup,
                "1: mov r4, #0",
                "mov r5, #0",
                "mov r6, r0",
                "mov r7, r1",
                "mov r8, r2",
                "dls lr, r3",
                "2: vldrw.u32 q0, [r6, q7]",
                "add r6, r6, #256",
                $levels,
                $x,
                concat!("vmladav.s8 r12, ", $first, ", q2"),
                "ldrb r9, [r7], #16",
                concat!("vmladava.s8 r12, ", $second, ", q3"),
                "smlal r4, r5, r9, r12",
                "le lr, 2b",
                $finish,
                "strd r4, r5, [r11], #8",
                "ldr r9, [sp, #108]",
                "add r0, r0, #4",
                "add r1, r1, #1",
                "cmp r11, r9",
                "bne 1b",
                "vpop {{d8-d15}}",
                "pop {{r4-r12, pc}}",
            )
        }
    };
}

one_row! {
    /// 4-bit codes of any levels.
    n4_one,
    "vmov.i8 q4, #0x0F",
    "vand q1, q0, q4
    vshr.u8 q5, q0, #4
    vldrb.u8 q6, [r10, q1]
    vldrb.u8 q0, [r10, q5]",
    ["q6", "q0"],
    "vld20.32 {{q2, q3}}, [r8]
    vld21.32 {{q2, q3}}, [r8]!",
    ""
}

one_row! {
    /// 4-bit codes of levels -8 to 7: with its highest bit turned a code is the level's; in the upper half of a byte it is 16 times that.
    uniform_one,
    "vmov.i8 q4, #0x88
    vmov.i8 q5, #0xF0",
    "veor q0, q0, q4
    vshl.i8 q1, q0, #4
    vand q0, q0, q5",
    ["q1", "q0"],
    "vld20.32 {{q2, q3}}, [r8]
    vld21.32 {{q2, q3}}, [r8]!",
    "asrl r4, r5, #4"
}

one_row! {
    /// 8-bit codes.
    n8_one,
    "",
    "vldrw.u32 q1, [r6, q7]
    add r6, r6, #256",
    ["q0", "q1"],
    "vldrb.u8 q2, [r8], #16
    vldrb.u8 q3, [r8], #16",
    ""
}

/// 4-bit codes of any levels with two rows of activations.
///
/// # Safety
/// See [`BlockFn`].
#[unsafe(naked)]
pub unsafe extern "C" fn n4_two(
    codes: *const u8,
    scales: *const u8,
    x: *const i8,
    groups: usize,
    table: *const i8,
    sums: *mut i64,
    row: usize,
) {
    naked_asm!(
        "push {{r4-r12, lr}}",
        "vpush {{d8-d15}}",
        "push {{r0-r3}}",
        "ldrd r10, r11, [sp, #120]", // table, sums
        "add r4, r11, #128",
        "str r4, [sp, #124]",
        "mov r6, #0",
        "vidup.u32 q7, r6, #8",
        "vshl.i32 q7, q7, #3",
        "vmov.i8 q4, #0x0F",
        "1: ldr r4, [sp, #128]", // row
        "ldm sp, {{r6, r7, r8, lr}}",
        "add r1, r8, r4",
        "mov r2, #0",
        "mov r3, #0",
        "mov r4, #0",
        "mov r5, #0",
        "dls lr, lr",
        "2: vldrw.u32 q0, [r6, q7]",
        "add r6, r6, #256",
        "vand q1, q0, q4",
        "vshr.u8 q5, q0, #4",
        "vldrb.u8 q6, [r10, q1]",
        "vldrb.u8 q0, [r10, q5]",
        "vld20.32 {{q2, q3}}, [r8]",
        "vld21.32 {{q2, q3}}, [r8]!",
        "ldrb r9, [r7], #16",
        "vmladav.s8 r12, q6, q2",
        "vmladava.s8 r12, q0, q3",
        "smlal r4, r5, r9, r12",
        "vld20.32 {{q2, q3}}, [r1]",
        "vld21.32 {{q2, q3}}, [r1]!",
        "vmladav.s8 r12, q6, q2",
        "vmladava.s8 r12, q0, q3",
        "smlal r2, r3, r9, r12",
        "le lr, 2b",
        "strd r2, r3, [r11, #128]",
        "strd r4, r5, [r11], #8",
        "ldrd r6, r7, [sp]",
        "ldr r9, [sp, #124]",
        "add r6, r6, #4",
        "add r7, r7, #1",
        "strd r6, r7, [sp]",
        "cmp r11, r9",
        "bne 1b",
        "add sp, sp, #16",
        "vpop {{d8-d15}}",
        "pop {{r4-r12, pc}}",
    )
}

/// A row of a trellis: `$word` gets its codes, then their lowest bits; `$before` and `$that` have those of the two rows before, the
/// latter is free then. `$dots` and `$sums`: what each half of the levels, q2, is multiplied with, and where to.
macro_rules! trellis_row {
    ($word:literal, $before:literal, $that:literal, [$low:literal, $high:literal, $sums:literal]) => {
        concat!(
            concat!("vldrw.u32 ", $word, ", [r0, q7]\n"),
            "ldrb r9, [r1], #1\n",
            concat!("veor ", $that, ", ", $that, ", ", $word, "\n"),
            concat!("vand ", $word, ", ", $word, ", q6\n"),
            // The row before's lowest bits above the codes of the lower halves, then of the upper ones.
            concat!("vmov q1, ", $that, "\nvsli.8 q1, ", $before, ", #4\nvldrb.u8 q2, [r10, q1]\n"),
            $low,
            concat!("vmov q1, ", $before, "\nvsri.8 q1, ", $that, ", #4\nvldrb.u8 q2, [r10, q1]\n"),
            $high,
            "add r0, r0, #4\n",
            $sums,
        )
    };
}

/// The function of that name, of as many rows of activations as `$spread` puts on the stack, even words and odd words of each; `$zeros`:
/// half as many vectors as sums.
macro_rules! trellis {
    ($(#[$meta:meta])* $name:ident, $spread:literal, $zeros:literal, $dots:tt) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// See [`BlockFn`].
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(
            codes: *const u8,
            scales: *const u8,
            x: *const i8,
            groups: usize,
            table: *const i8,
            sums: *mut i64,
            row: usize,
        ) {
            naked_asm!(
                "push {{r4-r12, lr}}",
                "vpush {{d8-d15}}",
                "sub sp, sp, #64",
                "ldrd r10, r11, [sp, #168]", // table, sums
                "mov r6, #0",
                "vidup.u32 q7, r6, #8",
                "vshl.i32 q7, q7, #3", // 0, 64, 128, 192
                "vmov.i8 q6, #0x11",
                // Sums of no group.
                "vmov.i32 q0, #0",
                concat!("mov lr, #", $zeros),
                "dls lr, lr",
                "1: vstrw.32 q0, [r11], #16",
                "le lr, 1b",
                "2: ldr r4, [sp, #176]", // row
                $spread,
                "ldr r11, [sp, #172]",
                // A ring: before the first row come the last two.
                "add r6, r0, #56",
                "vldrw.u32 q5, [r6, q7]",
                "add r6, r6, #4",
                "vldrw.u32 q4, [r6, q7]",
                "vand q5, q5, q6",
                "vand q4, q4, q6",
                "mov lr, #5",
                "dls lr, lr",
                "3:",
                trellis_row!("q0", "q4", "q5", $dots),
                trellis_row!("q5", "q0", "q4", $dots),
                trellis_row!("q4", "q5", "q0", $dots),
                // Now q4 is the row before, q5 the one before that.
                "le lr, 3b",
                trellis_row!("q0", "q4", "q5", $dots),
                "add r0, r0, #192",
                "subs r3, r3, #1",
                "bne 2b",
                "add sp, sp, #64",
                "vpop {{d8-d15}}",
                "pop {{r4-r12, pc}}",
            )
        }
    };
}

trellis! {
    /// 4-bit codes along a trellis: `table` has 32 levels. The row before's lowest bits choose the half of the table, those of the row
    /// before that turn a code's own.
    t4_one,
    "vld20.32 {{q0, q1}}, [r2]
    vld21.32 {{q0, q1}}, [r2]!
    vstrw.32 q0, [sp]
    vstrw.32 q1, [sp, #16]",
    "8",
    ["vldrb.u8 q3, [sp]
    vmladav.s8 r12, q2, q3\n",
    "vldrb.u8 q3, [sp, #16]
    vmladava.s8 r12, q2, q3\n",
    "ldrd r4, r5, [r11]
    smlal r4, r5, r9, r12
    strd r4, r5, [r11], #8\n"]
}

trellis! {
    /// The same with two rows of activations.
    t4_two,
    "add r4, r4, r2
    vld20.32 {{q0, q1}}, [r2]
    vld21.32 {{q0, q1}}, [r2]!
    vstrw.32 q0, [sp]
    vstrw.32 q1, [sp, #16]
    vld20.32 {{q0, q1}}, [r4]
    vld21.32 {{q0, q1}}, [r4]
    vstrw.32 q0, [sp, #32]
    vstrw.32 q1, [sp, #48]",
    "16",
    ["vldrb.u8 q3, [sp]
    vmladav.s8 r12, q2, q3
    vldrb.u8 q3, [sp, #32]
    vmladav.s8 r8, q2, q3\n",
    "vldrb.u8 q3, [sp, #16]
    vmladava.s8 r12, q2, q3
    vldrb.u8 q3, [sp, #48]
    vmladava.s8 r8, q2, q3\n",
    "ldrd r4, r5, [r11]
    ldrd r6, r7, [r11, #128]
    smlal r4, r5, r9, r12
    smlal r6, r7, r9, r8
    strd r6, r7, [r11, #128]
    strd r4, r5, [r11], #8\n"]
}
