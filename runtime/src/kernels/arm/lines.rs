//! Blocks of coded weights: 16 rows times one row of activations, into int64 sums. [`super::tiles`] has several rows.
//!
//! ```text
//! pair of columns c and c + 4 of a line        a byte of codes; of levels and of activations two halves of a word each
//! table     [256], T4 [1024]                   the levels of a byte's two codes, of two windows
//! spread    [group] start, then [line 0..4]    what a group's sums begin with, and the activations' pairs, 4 words a line
//! ```

/// A block: `groups` (at least 1) groups of 32 columns are added to the sums.
///
/// # Safety
/// `codes` has 256 bytes a group and lies at a multiple of 4, `scales` 16, `spread` 17 words; `sums` 16.
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
/// from a group's first to the next's. `$pairs` makes the words from columns (0, 2), (1, 3), (4, 6), (5, 7) in r6 to r9; `$store`
/// stores them at r0.
macro_rules! spread {
    ($(#[$meta:meta])* $name:ident, $pairs:literal, $store:literal) => {
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
                $store,
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
    "stm r0, {{r4-r7}}"
}

spread! {
    /// Pairs of columns 0 and 2, 1 and 3, 4 and 6, 5 and 7.
    spread_by_two, "", "stm r0, {{r6-r9}}"
}

spread! {
    /// Of columns in the order of their codes in a word, from the lowest, sixteen times the one before less each; as in a word are the
    /// first and the fifth, and so on.
    spread_along,
    "mvn r10, #0x000F000F
    lsl r4, r9, #20
    ssub16 r4, r4, r6
    and r5, r10, r6, lsl #4
    ssub16 r5, r5, r8
    and r6, r10, r8, lsl #4
    ssub16 r6, r6, r7
    and r7, r10, r7, lsl #4
    ssub16 r7, r7, r9",
    "stm r0, {{r4-r7}}"
}

spread! {
    /// As [`spread_by_four`], two words and two words beside a second row's ([`super::tiles`]).
    beside_by_four,
    "pkhbt r4, r6, r8, lsl #16
    pkhbt r5, r7, r9, lsl #16
    pkhtb r6, r8, r6, asr #16
    pkhtb r7, r9, r7, asr #16",
    "strd r4, r5, [r0]
    strd r6, r7, [r0, #16]"
}

spread! {
    /// As [`spread_by_two`], two words and two words beside a second row's ([`super::tiles`]).
    beside_by_two,
    "",
    "strd r6, r7, [r0]
    strd r8, r9, [r0, #16]"
}

/// Adds a line of words times what [`uniform_one`] has of eight codes of 1.
macro_rules! starts {
    () => {
        "ldm lr!, {{r4-r7}}
        smlad r3, r4, r8, r3
        smlad r3, r5, r9, r3
        smlad r3, r6, r10, r3
        smlad r3, r7, r12, r3"
    };
}

/// Writes what sums of spread groups begin with: `times` their sum with codes of 1; if not 0, of [`spread_along`].
///
/// # Safety
/// `groups` (at least 1) groups of 17 words, of which 16 have been spread.
#[unsafe(naked)]
pub unsafe extern "C" fn starts(spread: *mut u32, groups: usize, times: i32) {
    naked_asm!(
        "push {{r4-r10, lr}}",
        "mov r8, #0x11111111",
        "lsr r9, r8, #4",
        "lsr r10, r8, #8",
        "lsr r12, r8, #12",
        "1: mov r3, #0",
        "add lr, r0, #4",
        starts!(),
        starts!(),
        starts!(),
        starts!(),
        "mul r3, r3, r2",
        "str r3, [r0]",
        "mov r0, lr",
        "subs r1, r1, #1",
        "bne 1b",
        "pop {{r4-r10, pc}}",
    )
}

/// Fills a table: word `16 * h + l` gets `levels[16 * (h % step) + l]` and, above, `levels[h]`: what the lower and the upper bits of an
/// index stand for, which share those that `h % step` is.
///
/// # Safety
/// There are `16 * step` levels, `step` 1, 2 or 4, and there is room for `256 * step` words.
#[unsafe(naked)]
pub unsafe extern "C" fn pairs(table: *mut u32, levels: *const i8, step: usize) {
    naked_asm!(
        "push {{r4-r11, lr}}",
        "add r0, r0, r2, lsl #10",
        "sub r0, r0, r2, lsl #6",
        "mov lr, #0",
        // Eight of the lower levels with each of their 16 upper ones, from the last.
        "1: add r12, r1, lr, lsl #3",
        "ldrsb r4, [r12]",
        "ldrsb r5, [r12, #1]",
        "ldrsb r6, [r12, #2]",
        "ldrsb r7, [r12, #3]",
        "ldrsb r8, [r12, #4]",
        "ldrsb r9, [r12, #5]",
        "ldrsb r10, [r12, #6]",
        "ldrsb r11, [r12, #7]",
        "rsb r3, r2, r2, lsl #4",
        "add r3, r3, lr, lsr #1",
        "2: ldrsb r12, [r1, r3]",
        "pkhbt r4, r4, r12, lsl #16",
        "pkhbt r5, r5, r12, lsl #16",
        "pkhbt r6, r6, r12, lsl #16",
        "pkhbt r7, r7, r12, lsl #16",
        "pkhbt r8, r8, r12, lsl #16",
        "pkhbt r9, r9, r12, lsl #16",
        "pkhbt r10, r10, r12, lsl #16",
        "pkhbt r11, r11, r12, lsl #16",
        "stm r0, {{r4-r11}}",
        "sub r0, r0, r2, lsl #6",
        "subs r3, r3, r2",
        "bpl 2b",
        "add r0, r0, r2, lsl #10",
        "add r0, r0, #32",
        "add lr, lr, #1",
        "cmp lr, r2, lsl #1",
        "bne 1b",
        "pop {{r4-r11, pc}}",
    )
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

/// What four rows' codes give, at an offset from r0: `$row` makes it.
macro_rules! four_rows {
    ($row:ident, @first $line:literal) => {
        four_rows!($row, $line, "smuad", "", "", "", "")
    };
    ($row:ident, $line:literal) => {
        four_rows!($row, $line, "smlad", ", r4", ", r5", ", r6", ", r7")
    };
    ($row:ident, $line:literal, $first:literal, $a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            $row!($line, "0", "r4", $first, $a),
            $row!($line, "4", "r5", $first, $b),
            $row!($line, "8", "r6", $first, $c),
            $row!($line, "12", "r7", $first, $d),
        )
    };
}

/// A [`BlockFn`] of one row of activations, four rows of weights at a time, whose sums begin with 0. `$table`: loads r1; `$constant`:
/// loads lr; `$row`: adds what codes at an offset from r0 give to a sum, with the line's activations in r8 to r11; r3 and r12 are free.
macro_rules! one_row {
    ($(#[$meta:meta])* $name:ident, $table:literal, $constant:literal, $row:ident, [$second:literal, $third:literal, $last:literal], $next:literal) => {
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
                "sub sp, sp, #16", // scales, sums, their end, groups
                "ldr r12, [sp, #60]",
                "add r12, r12, #128",
                "strd r12, r3, [sp, #8]",
                "str r1, [sp]",
                $table,
                "1: ldr r12, [sp, #60]",
                "str r12, [sp, #4]",
                "add r2, r2, #68",
                "2: sub r2, r2, #64",
                $constant,
                "ldm r2!, {{r8-r11}}",
                four_rows!($row, @first "0"),
                "ldm r2!, {{r8-r11}}",
                four_rows!($row, $second),
                "ldm r2!, {{r8-r11}}",
                four_rows!($row, $third),
                "ldm r2!, {{r8-r11}}",
                four_rows!($row, $last),
                "add r0, r0, #16",
                "ldrd lr, r12, [sp]",
                scaled!("lr", "r12"),
                "strd lr, r12, [sp]",
                "ldr r3, [sp, #8]",
                "cmp r12, r3",
                "bne 2b",
                concat!("add r0, r0, #", $next),
                "ldr r3, [sp, #12]",
                "subs r3, r3, #1",
                "str r3, [sp, #12]",
                "bne 1b",
                "add sp, sp, #16",
                "pop {{r4-r12, pc}}",
            )
        }
    };
}

/// Looks a row's bytes up.
macro_rules! looked_up {
    ($line:literal, $row:literal, $sum:literal, $first:literal, $start:literal) => {
        concat!(
            concat!("ldrb r3, [r0, #", $line, "+", $row, "]\nldr r3, [r1, r3, lsl #2]\n"),
            concat!($first, " ", $sum, ", r3, r8", $start, "\n"),
            looked_up!(@byte $line, $row, "1", $sum, "r9"),
            looked_up!(@byte $line, $row, "2", $sum, "r10"),
            looked_up!(@byte $line, $row, "3", $sum, "r11"),
        )
    };
    (@byte $line:literal, $row:literal, $byte:literal, $sum:literal, $x:literal) => {
        concat!(
            concat!("ldrb r3, [r0, #", $line, "+", $row, "+", $byte, "]\n"),
            "ldr r3, [r1, r3, lsl #2]\n",
            concat!("smlad ", $sum, ", r3, ", $x, ", ", $sum, "\n"),
        )
    };
}

/// Looks up the windows of ten bits that begin at a row's bytes; lr: ten ones.
macro_rules! windows {
    ($line:literal, $row:literal, $sum:literal, $first:literal, $start:literal) => {
        concat!(
            concat!("ldr r12, [r0, #", $line, "+", $row, "]\n"),
            "and r3, lr, r12\nldr r3, [r1, r3, lsl #2]\n",
            concat!($first, " ", $sum, ", r3, r8", $start, "\n"),
            "and r3, lr, r12, ror #8\nldr r3, [r1, r3, lsl #2]\n",
            concat!("smlad ", $sum, ", r3, r9, ", $sum, "\n"),
            // Loads side by side take a cycle less.
            "and r3, lr, r12, ror #16\nand r12, lr, r12, ror #24\n",
            "ldr r3, [r1, r3, lsl #2]\nldr r12, [r1, r12, lsl #2]\n",
            concat!("smlad ", $sum, ", r3, r10, ", $sum, "\nsmlad ", $sum, ", r12, r11, ", $sum, "\n"),
        )
    };
}

/// Takes a row's bytes for levels, of two lines of four columns.
macro_rules! bytes {
    ($line:literal, $row:literal, $sum:literal, $first:literal, $start:literal) => {
        concat!(
            concat!("ldr r3, [r0, #", $line, "+", $row, "]\nsxtb16 r12, r3\nsxtb16 r3, r3, ror #8\n"),
            concat!($first, " ", $sum, ", r12, r8", $start, "\nsmlad ", $sum, ", r3, r9, ", $sum, "\n"),
            concat!("ldr r3, [r0, #", $line, "+", $row, "+64]\nsxtb16 r12, r3\nsxtb16 r3, r3, ror #8\n"),
            concat!("smlad ", $sum, ", r12, r10, ", $sum, "\nsmlad ", $sum, ", r3, r11, ", $sum, "\n"),
        )
    };
}

one_row! {
    /// 4-bit codes of any levels; [`spread_by_four`].
    n4_one, "ldr r1, [sp, #56]", "", looked_up, ["64", "128", "192"], "192"
}

one_row! {
    /// 4-bit codes whose levels are looked up by windows of six bits, two by one of ten; [`spread_by_four`].
    t4_one, "ldr r1, [sp, #56]", "movw lr, #0x3FF", windows, ["64", "128", "192"], "192"
}

one_row! {
    /// 8-bit codes; [`spread_by_two`].
    n8_one, "", "", bytes, ["128", "256", "384"], "448"
}

/// A line of four rows of [`uniform_one`], the first two rows' codes by `$first`; `$a` to `$d`: what sums begin with.
macro_rules! along {
    ($first:literal, $second:literal, $a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            concat!("ldm r2!, {{r8-r11}}\nldrd r3, r12, [r0", $first, "\n"),
            along!(@row "r3", "r4", $a),
            along!(@row "r12", "r5", $b),
            concat!("ldrd r3, r12, [r0, #", $second, "]\n"),
            along!(@row "r3", "r6", $c),
            along!(@row "r12", "r7", $d),
        )
    };
    ($first:literal, $second:literal) => {
        along!($first, $second, "r4", "r5", "r6", "r7")
    };
    (@row $word:literal, $sum:literal, $start:literal) => {
        concat!(
            concat!("smlad ", $sum, ", ", $word, ", r8, ", $start, "\nlsrs ", $word, ", ", $word, ", #4\n"),
            concat!("smlad ", $sum, ", ", $word, ", r9, ", $sum, "\nlsrs ", $word, ", ", $word, ", #4\n"),
            concat!("smlad ", $sum, ", ", $word, ", r10, ", $sum, "\nlsrs ", $word, ", ", $word, ", #4\n"),
            concat!("smlad ", $sum, ", ", $word, ", r11, ", $sum, "\n"),
        )
    };
}

/// 4-bit codes of levels that are 8 less, -8 to 7; [`spread_along`]. No code is masked:
///
/// ```text
/// word >> 4 k       has code k lowest and those above times 16, 256, 4096 in each half
/// x[k]              so each activation, less 16 times the one of the code below, is multiplied with all of that
/// mod 2^16          that holds, whatever a half's upper codes do as a sign; the sum of a group, with -x, is from -32768 to 32512
/// ```
///
/// The sums of [`WORDS`](super::coded) groups, negative, are of 32 bits.
///
/// # Safety
/// See [`BlockFn`]; at most 200 groups.
#[unsafe(naked)]
pub unsafe extern "C" fn uniform_one(
    codes: *const u8,
    scales: *const u8,
    spread: *const u32,
    groups: usize,
    table: *const u32,
    sums: *mut i64,
) {
    naked_asm!(
        "push {{r4-r12, lr}}",
        "sub sp, sp, #72", // 16 sums, the next of them, groups
        "str r3, [sp, #68]",
        "mov lr, r1",
        "mov r4, #0",
        "mov r5, #0",
        "mov r6, #0",
        "mov r7, #0",
        "mov r3, sp",
        "stm r3!, {{r4-r7}}",
        "stm r3!, {{r4-r7}}",
        "stm r3!, {{r4-r7}}",
        "stm r3!, {{r4-r7}}",
        "1: str sp, [sp, #64]",
        "add r2, r2, #68",
        "2: sub r2, r2, #68",
        "ldr r1, [r2], #4",
        along!("], #16", "-8", "r1", "r1", "r1", "r1"),
        along!(", #48]", "56"),
        along!(", #112]", "120"),
        along!(", #176]", "184"),
        "ldr r3, [sp, #64]",
        "ldr r12, [lr], #4",
        "ldm r3, {{r8-r11}}",
        "uxtb16 r1, r12",
        "uxtb16 r12, r12, ror #8",
        "smlabb r8, r4, r1, r8",
        "smlabb r9, r5, r12, r9",
        "smlabt r10, r6, r1, r10",
        "smlabt r11, r7, r12, r11",
        "stm r3!, {{r8-r11}}",
        "str r3, [sp, #64]",
        "add r12, sp, #64",
        "cmp r3, r12",
        "bne 2b",
        "ldr r3, [sp, #68]",
        "add r0, r0, #192",
        "subs r3, r3, #1",
        "str r3, [sp, #68]",
        "bne 1b",
        "ldr r3, [sp, #116]", // sums
        "3: ldm r3, {{r4-r7}}",
        "pop {{r8, r9}}",
        "subs r4, r4, r8",
        "sbc r5, r5, r8, asr #31",
        "subs r6, r6, r9",
        "sbc r7, r7, r9, asr #31",
        "stm r3!, {{r4-r7}}",
        "cmp sp, r12",
        "bne 3b",
        "add sp, sp, #8",
        "pop {{r4-r12, pc}}",
    )
}
