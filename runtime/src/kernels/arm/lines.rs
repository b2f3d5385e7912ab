//! Blocks of coded weights: 16 rows times one or two rows of activations, into int64 sums.
//!
//! ```text
//! pair of columns c and c + 4 of a line        a byte of codes; of levels and of activations two halves of a word each
//! table     [256]                              the levels of a byte's two codes
//! spread    [group] start, then [line 0..4]    what a group's sums begin with, and the activations' pairs: of one row 4 words a
//!                                              line, of two rows 4 and 4
//! ```

/// A block: `groups` (at least 1) groups of 32 columns are added to the sums, for each row of activations [16].
///
/// # Safety
/// `codes` has 256 bytes a group and lies at a multiple of 4, `scales` 16, `spread` 17 words, or 33 of two rows; `sums` 16 or 32.
pub type BlockFn = unsafe extern "C" fn(
    codes: *const u8,
    scales: *const u8,
    spread: *const u32,
    groups: usize,
    table: *const u32,
    sums: *mut i64,
);

/// Spreads groups of activations: where to, which, how many groups, bytes from a line's first word to the next's, and from a group's.
pub type SpreadFn = unsafe extern "C" fn(to: *mut u32, x: *const i8, groups: usize, line: usize, group: usize);

/// Spreads groups of 32 activations: pairs of a row at `to`, 4 words a line, `line` bytes from one to the next and `group` bytes
/// from a group's first to the next's. `$pairs` makes the words r8 to r11 of columns (0, 2), (1, 3) in r6 and r4, (4, 6), (5, 7) in
/// r7 and r5.
macro_rules! spread {
    ($(#[$meta:meta])* $name:ident, $pairs:literal, $words:literal) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// `groups` (at least 1) groups lie at `x`, and there is room.
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(to: *mut u32, x: *const i8, groups: usize, line: usize, group: usize) {
            naked_asm!(
                "push {{r4-r11, lr}}",
                "ldr r12, [sp, #36]",
                "sub r12, r12, r3, lsl #2",
                "1: mov lr, #4",
                "2: ldr r4, [r1], #4",
                "ldr r5, [r1], #4",
                "sxtb16 r6, r4",
                "sxtb16 r7, r4, ror #8",
                "sxtb16 r8, r5",
                "sxtb16 r9, r5, ror #8",
                $pairs,
                concat!("stm r0, ", $words),
                "add r0, r0, r3",
                "subs lr, lr, #1",
                "bne 2b",
                "add r0, r0, r12",
                "subs r2, r2, #1",
                "bne 1b",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

spread! {
    /// Pairs of columns 0 and 4, 1 and 5, 2 and 6, 3 and 7.
    spread_by_four,
    "pkhbt r4, r6, r8, lsl #16
    pkhbt r5, r7, r9, lsl #16
    pkhtb r6, r8, r6, asr #16
    pkhtb r7, r9, r7, asr #16",
    "{{r4-r7}}"
}

spread! {
    /// Pairs of columns 0 and 2, 1 and 3, 4 and 6, 5 and 7.
    spread_by_two, "", "{{r6-r9}}"
}

/// Four scales of rows times their dots r4 to r7, added to the sums.
macro_rules! scaled {
    ($scales:literal, $sums:literal) => {
        concat!(
            scaled!(@two $scales, $sums, "r4", "r5"),
            scaled!(@two $scales, $sums, "r6", "r7"),
        )
    };
    (@two $scales:literal, $sums:literal, $a:literal, $b:literal) => {
        concat!(
            concat!("ldm ", $sums, ", {{r8-r11}}\n"),
            concat!("ldrb r3, [", $scales, "], #1\nsmlal r8, r9, r3, ", $a, "\n"),
            concat!("ldrb r3, [", $scales, "], #1\nsmlal r10, r11, r3, ", $b, "\n"),
            concat!("stm ", $sums, "!, {{r8-r11}}\n"),
        )
    };
}

/// A [`BlockFn`] of one row of activations, four rows of weights at a time. `$table`: loads r1; `$rows`: adds what codes at an
/// offset from r0 give to r4 to r7, with the line's activations in r8 to r11; r3, r12 and lr are free.
macro_rules! one_row {
    ($(#[$meta:meta])* $name:ident, $table:literal, $rows:ident, [$second:literal, $third:literal, $last:literal], $next:literal) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// See [`BlockFn`].
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(
            codes: *const u8,
            scales: *const u8,
            spread: *const u32,
            groups: usize,
            table: *const u32,
            sums: *mut i64,
        ) {
            naked_asm!(
                "push {{r4-r12, lr}}",
                "sub sp, sp, #24",
                "strd r2, r3, [sp]",
                "str r1, [sp, #8]",
                $table,
                "1: mov r2, #4",
                "ldr r3, [sp, #68]", // sums
                "str r3, [sp, #12]",
                "2: str r2, [sp, #16]",
                "ldr r2, [sp]",
                "ldr r4, [r2], #4",
                "mov r5, r4",
                "mov r6, r4",
                "mov r7, r4",
                "ldm r2!, {{r8-r11}}",
                $rows!("0"),
                "ldm r2!, {{r8-r11}}",
                $rows!($second),
                "ldm r2!, {{r8-r11}}",
                $rows!($third),
                "ldm r2!, {{r8-r11}}",
                $rows!($last),
                "add r0, r0, #16",
                "ldrd lr, r12, [sp, #8]",
                scaled!("lr", "r12"),
                "strd lr, r12, [sp, #8]",
                "ldr r3, [sp, #16]",
                "subs r3, r3, #1",
                "it ne",
                "movne r2, r3",
                "bne 2b",
                concat!("add r0, r0, #", $next),
                "ldr r3, [sp, #4]",
                "str r2, [sp]",
                "subs r3, r3, #1",
                "str r3, [sp, #4]",
                "bne 1b",
                "add sp, sp, #24",
                "pop {{r4-r12, pc}}",
            )
        }
    };
}

/// Looks a byte's levels up.
macro_rules! looked_up {
    ($line:literal) => {
        concat!(
            looked_up!($line, "0", "r4"),
            looked_up!($line, "4", "r5"),
            looked_up!($line, "8", "r6"),
            looked_up!($line, "12", "r7"),
        )
    };
    ($line:literal, $row:literal, $sum:literal) => {
        concat!(
            looked_up!($line, $row, "0", $sum, "r8"),
            looked_up!($line, $row, "1", $sum, "r9"),
            looked_up!($line, $row, "2", $sum, "r10"),
            looked_up!($line, $row, "3", $sum, "r11"),
        )
    };
    ($line:literal, $row:literal, $byte:literal, $sum:literal, $x:literal) => {
        concat!(
            concat!("ldrb r3, [r0, #", $line, "+", $row, "+", $byte, "]\n"),
            "ldr r3, [r1, r3, lsl #2]\n",
            concat!("smlad ", $sum, ", r3, ", $x, ", ", $sum, "\n"),
        )
    };
}

/// Takes codes for levels: what a sum begins with makes up for that.
macro_rules! as_they_are {
    ($line:literal) => {
        concat!(
            as_they_are!($line, "0", "r4", "r5"),
            as_they_are!($line, "8", "r6", "r7"),
        )
    };
    ($line:literal, $row:literal, $a:literal, $b:literal) => {
        concat!(
            concat!("ldrd r3, r12, [r0, #", $line, "+", $row, "]\n"),
            as_they_are!(@row "r3", $a),
            as_they_are!(@row "r12", $b),
        )
    };
    (@row $word:literal, $sum:literal) => {
        concat!(
            concat!("and lr, r1, ", $word, "\nsmlad ", $sum, ", lr, r8, ", $sum, "\n"),
            concat!("and lr, r1, ", $word, ", lsr #8\nsmlad ", $sum, ", lr, r9, ", $sum, "\n"),
            concat!("and lr, r1, ", $word, ", lsr #4\nsmlad ", $sum, ", lr, r10, ", $sum, "\n"),
            concat!("and lr, r1, ", $word, ", lsr #12\nsmlad ", $sum, ", lr, r11, ", $sum, "\n"),
        )
    };
}

/// Takes bytes for levels, of two lines of four columns.
macro_rules! bytes {
    ($line:literal) => {
        concat!(
            bytes!($line, "0", "r4", "r8", "r9"),
            bytes!($line, "4", "r5", "r8", "r9"),
            bytes!($line, "8", "r6", "r8", "r9"),
            bytes!($line, "12", "r7", "r8", "r9"),
            bytes!($line, "64", "r4", "r10", "r11"),
            bytes!($line, "68", "r5", "r10", "r11"),
            bytes!($line, "72", "r6", "r10", "r11"),
            bytes!($line, "76", "r7", "r10", "r11"),
        )
    };
    ($line:literal, $row:literal, $sum:literal, $even:literal, $odd:literal) => {
        concat!(
            concat!("ldr r3, [r0, #", $line, "+", $row, "]\n"),
            concat!("sxtb16 r12, r3\nsmlad ", $sum, ", r12, ", $even, ", ", $sum, "\n"),
            concat!("sxtb16 r3, r3, ror #8\nsmlad ", $sum, ", r3, ", $odd, ", ", $sum, "\n"),
        )
    };
}

one_row! {
    /// 4-bit codes of any levels; [`spread_by_four`].
    n4_one, "ldr r1, [sp, #64]", looked_up, ["64", "128", "192"], "192"
}

one_row! {
    /// 4-bit codes of levels that differ from them by a constant; [`spread_by_two`].
    uniform_one, "mov r1, #0x000F000F", as_they_are, ["64", "128", "192"], "192"
}

one_row! {
    /// 8-bit codes; [`spread_by_two`].
    n8_one, "", bytes, ["128", "256", "384"], "448"
}

/// A row of weights with two of activations: sums r12 and lr.
macro_rules! row_of_two {
    () => {
        concat!(
            "ldr r2, [sp]\nmov r12, #0\nmov lr, #0\n",
            row_of_two!("0"),
            row_of_two!("64"),
            row_of_two!("128"),
            row_of_two!("192"),
            "add r0, r0, #4\n",
        )
    };
    ($line:literal) => {
        concat!(
            "ldm r2!, {{r4-r11}}\n",
            row_of_two!($line, "0", "r4", "r8"),
            row_of_two!($line, "1", "r5", "r9"),
            row_of_two!($line, "2", "r6", "r10"),
            row_of_two!($line, "3", "r7", "r11"),
        )
    };
    ($line:literal, $byte:literal, $first:literal, $second:literal) => {
        concat!(
            concat!("ldrb r3, [r0, #", $line, "+", $byte, "]\n"),
            "ldr r3, [r1, r3, lsl #2]\n",
            concat!("smlad r12, r3, ", $first, ", r12\n"),
            concat!("smlad lr, r3, ", $second, ", lr\n"),
        )
    };
}

/// 4-bit codes of any levels with two rows of activations; [`spread_by_four`], without what sums begin with.
///
/// # Safety
/// See [`BlockFn`].
#[unsafe(naked)]
pub unsafe extern "C" fn n4_two(
    codes: *const u8,
    scales: *const u8,
    spread: *const u32,
    groups: usize,
    table: *const u32,
    sums: *mut i64,
) {
    naked_asm!(
        "push {{r4-r12, lr}}",
        "sub sp, sp, #24",
        "strd r2, r3, [sp]",
        "str r1, [sp, #8]",
        "ldr r1, [sp, #64]",
        "1: mov r2, #16",
        "ldr r3, [sp, #68]", // sums
        "str r3, [sp, #12]",
        "2: str r2, [sp, #16]",
        row_of_two!(),
        "ldrd r4, r5, [sp, #8]",
        "ldrb r6, [r4], #1",
        "ldrd r8, r9, [r5]",
        "ldrd r10, r11, [r5, #128]",
        "smlal r8, r9, r6, r12",
        "smlal r10, r11, r6, lr",
        "strd r10, r11, [r5, #128]",
        "strd r8, r9, [r5], #8",
        "strd r4, r5, [sp, #8]",
        "ldr r3, [sp, #16]",
        "subs r3, r3, #1",
        "it ne",
        "movne r2, r3",
        "bne 2b",
        "add r0, r0, #192",
        "ldr r3, [sp, #4]",
        "str r2, [sp]",
        "subs r3, r3, #1",
        "str r3, [sp, #4]",
        "bne 1b",
        "add sp, sp, #24",
        "pop {{r4-r12, pc}}",
    )
}

/// A row of a trellis: the sum of row `$row` grows by four pairs. `$own`: gets this row's lowest bits; `$before`, `$before_that`:
/// those of the two before.
macro_rules! trellis_row {
    ($own:literal, $before:literal, $before_that:literal) => {
        concat!(
            concat!("ldr r4, [r0], #4\norr r12, ", $before, ", r9\n"),
            concat!("eor r5, r4, ", $before_that, "\nand ", $own, ", r4, r8\nldr r7, [r2]\n"),
            trellis_row!("uxtb r4, r5", "uxtb r6, r12"),
            trellis_row!("ubfx r4, r5, #8, #8", "ubfx r6, r12, #8, #8"),
            trellis_row!("ubfx r4, r5, #16, #8", "ubfx r6, r12, #16, #8"),
            trellis_row!("lsr r4, r5, #24", "lsr r6, r12, #24"),
            "str r7, [r2], #4\n",
        )
    };
    ($code:literal, $signs:literal) => {
        concat!($code, "\n", $signs, "\nldr r4, [r1, r4, lsl #2]\nldr r6, [r3, r6, lsl #2]\nsmlad r7, r4, r6, r7\n")
    };
}

/// The four ways to give a pair of activations signs: `$pair` makes it in r10, its words are at `$at` and 64 bytes after.
macro_rules! signed_pair {
    ($pair:literal, $at:literal) => {
        concat!(
            $pair,
            "\nssub16 r11, r12, r10\npkhbt lr, r11, r10\n",
            concat!("strd r10, lr, [r3, #", $at, "]\npkhbt lr, r10, r11\n"),
            concat!("strd lr, r11, [r3, #64+", $at, "]\n"),
        )
    };
}

/// Codes along a trellis. `spread` is the row of activations itself. `table`'s levels are of codes whose signs are not counted.
///
/// Signs are those of the activations: of a line's pairs there are the four ways to give signs, at word 2 * pair, that plus 1
/// with the first negated, that plus 16 with the second. That is the row before's lowest bits of a byte, 0 and 4, and the pair's.
///
/// # Safety
/// See [`BlockFn`]; `spread` has 32 int8 a group.
#[unsafe(naked)]
pub unsafe extern "C" fn t4_one(
    codes: *const u8,
    scales: *const u8,
    spread: *const u32,
    groups: usize,
    table: *const u32,
    sums: *mut i64,
) {
    naked_asm!(
        "push {{r4-r12, lr}}",
        "sub sp, sp, #184", // 16 dots, 24 words of pairs, then scales, activations, groups, lines
        "strd r1, r2, [sp, #160]",
        "str r3, [sp, #168]",
        "ldr r1, [sp, #224]", // table
        "mov r8, #0x11111111",
        "movw r9, #0x0200",
        "movt r9, #0x0604",
        "1: mov r4, #0",
        "mov r5, #0",
        "mov r6, #0",
        "mov r7, #0",
        "mov r2, sp",
        "stm r2!, {{r4-r7}}",
        "stm r2!, {{r4-r7}}",
        "stm r2!, {{r4-r7}}",
        "stm r2!, {{r4-r7}}",
        "mov r4, #4",
        "2: str r4, [sp, #172]",
        "add r3, sp, #64",
        "ldr lr, [sp, #164]",
        "ldr r5, [lr], #4",
        "ldr r7, [lr], #4",
        "str lr, [sp, #164]",
        "sxtb16 r4, r5",
        "sxtb16 r5, r5, ror #8",
        "sxtb16 r6, r7",
        "sxtb16 r7, r7, ror #8",
        "mov r12, #0",
        signed_pair!("pkhbt r10, r4, r6, lsl #16", "0"),
        signed_pair!("pkhbt r10, r5, r7, lsl #16", "8"),
        signed_pair!("pkhtb r10, r6, r4, asr #16", "16"),
        signed_pair!("pkhtb r10, r7, r5, asr #16", "24"),
        // A ring: before the first row come the last two.
        "ldr r10, [r0, #60]",
        "ldr r11, [r0, #56]",
        "and r10, r10, r8",
        "and r11, r11, r8",
        "mov r2, sp",
        trellis_row!("lr", "r10", "r11"),
        trellis_row!("r11", "lr", "r10"),
        trellis_row!("r10", "r11", "lr"),
        trellis_row!("lr", "r10", "r11"),
        trellis_row!("r11", "lr", "r10"),
        trellis_row!("r10", "r11", "lr"),
        trellis_row!("lr", "r10", "r11"),
        trellis_row!("r11", "lr", "r10"),
        trellis_row!("r10", "r11", "lr"),
        trellis_row!("lr", "r10", "r11"),
        trellis_row!("r11", "lr", "r10"),
        trellis_row!("r10", "r11", "lr"),
        trellis_row!("lr", "r10", "r11"),
        trellis_row!("r11", "lr", "r10"),
        trellis_row!("r10", "r11", "lr"),
        trellis_row!("lr", "r10", "r11"),
        "ldr r4, [sp, #172]",
        "subs r4, r4, #1",
        "bne 2b",
        "mov r2, sp",
        "ldr lr, [sp, #160]",
        "ldr r12, [sp, #228]", // sums
        "ldm r2!, {{r4-r7}}",
        "push {{r8, r9}}",
        scaled!("lr", "r12"),
        "ldm r2!, {{r4-r7}}",
        scaled!("lr", "r12"),
        "ldm r2!, {{r4-r7}}",
        scaled!("lr", "r12"),
        "ldm r2!, {{r4-r7}}",
        scaled!("lr", "r12"),
        "pop {{r8, r9}}",
        "str lr, [sp, #160]",
        "ldr r3, [sp, #168]",
        "subs r3, r3, #1",
        "str r3, [sp, #168]",
        "bne 1b",
        "add sp, sp, #184",
        "pop {{r4-r12, pc}}",
    )
}
