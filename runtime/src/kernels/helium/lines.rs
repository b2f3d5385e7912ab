//! Blocks of coded weights: 16 rows times one or two rows of activations.
//!
//! ```text
//! word        of a row in a line: codes of columns c and, in the upper halves of its bytes, c + 4 (8-bit codes: of four columns)
//! row         its words in a group's four lines, gathered into a vector: 16 codes in lower halves and 16 in upper ones
//! activations even words and odd words of a group, as VLD2 takes them apart
//! ```

/// A block: sums of `groups` (at least 1) groups of 32 columns. `table`: levels, those of T4 [four times](four_times).
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

/// Writes 64 levels four times.
///
/// # Safety
/// They are there, and there is room.
#[unsafe(naked)]
pub unsafe extern "C" fn four_times(table: *mut i8, levels: *const i8) {
    naked_asm!(
        "vldrb.u8 q0, [r1]",
        "vldrb.u8 q1, [r1, #16]",
        "vldrb.u8 q2, [r1, #32]",
        "vldrb.u8 q3, [r1, #48]",
        "mov r2, #4",
        "1: vstrb.8 q0, [r0], #16",
        "vstrb.8 q1, [r0], #16",
        "vstrb.8 q2, [r0], #16",
        "vstrb.8 q3, [r0], #16",
        "subs r2, r2, #1",
        "bne 1b",
        "bx lr",
    )
}

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

/// The function of that name, of two rows of activations: as [`one_row`], from levels in q6 and q0.
macro_rules! two_rows {
    ($(#[$meta:meta])* $name:ident, $setup:literal, $levels:literal) => {
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
                "push {{r0-r3}}",
                "ldrd r10, r11, [sp, #120]", // table, sums
                "add r4, r11, #128",
                "str r4, [sp, #124]",
                "mov r6, #0",
                "vidup.u32 q7, r6, #8",
                "vshl.i32 q7, q7, #3",
                $setup,
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
                $levels,
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
    };
}

/// The functions of those names, of 4-bit codes with one row of activations and with two.
macro_rules! one_and_two {
    ($(#[$meta:meta])* [$one:ident, $two:ident], $setup:literal, $levels:literal) => {
        one_row! {
            $(#[$meta])*
            $one, $setup, $levels, ["q6", "q0"],
            "vld20.32 {{q2, q3}}, [r8]
            vld21.32 {{q2, q3}}, [r8]!",
            ""
        }

        two_rows! { $(#[$meta])* $two, $setup, $levels }
    };
}

one_and_two! {
    /// 4-bit codes of any levels.
    [n4_one, n4_two],
    "vmov.i8 q4, #0x0F",
    "vand q1, q0, q4
    vshr.u8 q5, q0, #4
    vldrb.u8 q6, [r10, q1]
    vldrb.u8 q0, [r10, q5]"
}

one_and_two! {
    /// 4-bit codes whose levels are looked up by windows of six bits, those of upper halves in words turned by four bits. What the two
    /// bits above a window are makes no difference: `table` has the 64 levels four times.
    [t4_one, t4_two],
    "",
    "vshr.u32 q5, q0, #4
    vsli.32 q5, q0, #28
    vldrb.u8 q6, [r10, q0]
    vldrb.u8 q0, [r10, q5]"
}
