//! Blocks of coded weights: 16 rows times one row of activations, into int64 sums. [`super::tiles`] has several rows.
//!
//! ```text
//! pair of columns c and c + 4 of a line        a byte of codes; of levels and of activations two halves of a word each
//! table     [256]                              the levels of a byte's two codes
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

/// Four words of a table.
macro_rules! pairs {
    () => {
        "ldm lr!, {{r4-r7}}
        pkhbt r4, r4, r12, lsl #16
        pkhbt r5, r5, r12, lsl #16
        pkhbt r6, r6, r12, lsl #16
        pkhbt r7, r7, r12, lsl #16
        stm r0!, {{r4-r7}}"
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

/// Fills a table: word `16 * h + l` gets the low halves of `lows[l]`, below, and of `highs[h]`.
///
/// # Safety
/// There are 16 words of each, and room for 256.
#[unsafe(naked)]
pub unsafe extern "C" fn pairs(table: *mut u32, lows: *const i32, highs: *const i32) {
    naked_asm!(
        "push {{r4-r7, lr}}",
        "add r3, r2, #64",
        "1: ldr r12, [r2], #4",
        "mov lr, r1",
        pairs!(),
        pairs!(),
        pairs!(),
        pairs!(),
        "cmp r2, r3",
        "bne 1b",
        "pop {{r4-r7, pc}}",
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

/// A [`BlockFn`] of one row of activations, four rows of weights at a time, whose sums begin with 0. `$table`: loads r1; `$rows`: adds
/// what codes at an offset from r0 give to r4 to r7, with the line's activations in r8 to r11; r3, r12 and lr are free.
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
                "ldm r2!, {{r8-r11}}",
                $rows!(@first "0"),
                "ldm r2!, {{r8-r11}}",
                $rows!($second),
                "ldm r2!, {{r8-r11}}",
                $rows!($third),
                "ldm r2!, {{r8-r11}}",
                $rows!($last),
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

/// Looks a byte's levels up.
macro_rules! looked_up {
    (@first $line:literal) => {
        looked_up!($line, "smuad", "", "", "", "")
    };
    ($line:literal) => {
        looked_up!($line, "smlad", ", r4", ", r5", ", r6", ", r7")
    };
    ($line:literal, $first:literal, $a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            looked_up!(@row $line, "0", "r4", $first, $a),
            looked_up!(@row $line, "4", "r5", $first, $b),
            looked_up!(@row $line, "8", "r6", $first, $c),
            looked_up!(@row $line, "12", "r7", $first, $d),
        )
    };
    (@row $line:literal, $row:literal, $sum:literal, $first:literal, $start:literal) => {
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

/// Takes bytes for levels, of two lines of four columns.
macro_rules! bytes {
    (@first $line:literal) => {
        bytes!($line, "smuad", "", "", "", "")
    };
    ($line:literal) => {
        bytes!($line, "smlad", ", r4", ", r5", ", r6", ", r7")
    };
    ($line:literal, $first:literal, $a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            bytes!(@row $line, "0", "r4", "r8", "r9", $first, $a),
            bytes!(@row $line, "4", "r5", "r8", "r9", $first, $b),
            bytes!(@row $line, "8", "r6", "r8", "r9", $first, $c),
            bytes!(@row $line, "12", "r7", "r8", "r9", $first, $d),
            bytes!(@row $line, "64", "r4", "r10", "r11", "smlad", ", r4"),
            bytes!(@row $line, "68", "r5", "r10", "r11", "smlad", ", r5"),
            bytes!(@row $line, "72", "r6", "r10", "r11", "smlad", ", r6"),
            bytes!(@row $line, "76", "r7", "r10", "r11", "smlad", ", r7"),
        )
    };
    (@row $line:literal, $row:literal, $sum:literal, $even:literal, $odd:literal, $first:literal, $start:literal) => {
        concat!(
            concat!("ldr r3, [r0, #", $line, "+", $row, "]\n"),
            concat!("sxtb16 r12, r3\n", $first, " ", $sum, ", r12, ", $even, $start, "\n"),
            concat!("sxtb16 r3, r3, ror #8\nsmlad ", $sum, ", r3, ", $odd, ", ", $sum, "\n"),
        )
    };
}

one_row! {
    /// 4-bit codes of any levels; [`spread_by_four`].
    n4_one, "ldr r1, [sp, #56]", looked_up, ["64", "128", "192"], "192"
}

one_row! {
    /// 8-bit codes; [`spread_by_two`].
    n8_one, "", bytes, ["128", "256", "384"], "448"
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

/// A row of a trellis: its sum grows by four pairs. `$own` gets this row's lowest bits, `$before` has those of the row before,
/// `$before_that` those of the row before that and is free afterwards.
macro_rules! trellis {
    ($own:literal, $before:literal, $before_that:literal) => {
        concat!(
            concat!("ldr ", $own, ", [r0], #4\norr r11, ", $before, ", ", $before, ", lsr #3\n"),
            concat!("eor ", $before_that, ", ", $before_that, ", ", $own, "\nand ", $own, ", ", $own, ", #0x11111111\n"),
            "ldr lr, [r2]\nand r12, r7, r11, lsl #8\nand r11, r11, r7\n",
            concat!("uxtab16 r12, r12, ", $before_that, "\nuxtab16 r11, r11, ", $before_that, ", ror #8\n"),
            trellis!(@pair "uxth", $before_that, "r12", "", "r3"),
            trellis!(@pair "uxth", $before_that, "r11", "", "r4"),
            trellis!(@pair "lsr", $before_that, "r12", ", #16", "r5"),
            trellis!(@pair "lsr", $before_that, "r11", ", #16", "r6"),
            "str lr, [r2], #4\n",
        )
    };
    (@pair $half:literal, $pair:literal, $of:literal, $shift:literal, $x:literal) => {
        concat!(
            concat!($half, " ", $pair, ", ", $of, $shift, "\nldr ", $pair, ", [r1, ", $pair, ", lsl #2]\n"),
            concat!("smlad lr, ", $pair, ", ", $x, ", lr\n"),
        )
    };
}

/// Codes along a trellis; [`spread_by_four`]. `table`: the levels of a byte whose signs are not counted, then those with the first
/// negated, the second, both.
///
/// Signs are the lowest bits of the row before, 0 and 4 of a byte: beside one another they are bits 8 and 9 of what is looked up.
///
/// # Safety
/// See [`BlockFn`].
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
        "sub sp, sp, #80", // 16 dots, then scales, activations, groups, lines
        "strd r1, r2, [sp, #64]",
        "ldr r1, [sp, #120]", // table
        "mov r7, #0x03000300",
        "1: str r3, [sp, #72]",
        "mov r8, #0",
        "mov r9, #0",
        "mov r10, #0",
        "mov r11, #0",
        "mov r2, sp",
        "stm r2!, {{r8-r11}}",
        "stm r2!, {{r8-r11}}",
        "stm r2!, {{r8-r11}}",
        "stm r2!, {{r8-r11}}",
        "ldr r12, [sp, #68]",
        "add r12, r12, #4", // what sums begin with is 0
        "mov r11, #4",
        "2: str r11, [sp, #76]",
        "ldm r12!, {{r3-r6}}",
        "str r12, [sp, #68]",
        // A ring: before the first row come the last two.
        "ldrd r9, r8, [r0, #56]",
        "and r8, r8, #0x11111111",
        "and r9, r9, #0x11111111",
        "mov r2, sp",
        trellis!("r10", "r8", "r9"),
        trellis!("r9", "r10", "r8"),
        trellis!("r8", "r9", "r10"),
        trellis!("r10", "r8", "r9"),
        trellis!("r9", "r10", "r8"),
        trellis!("r8", "r9", "r10"),
        trellis!("r10", "r8", "r9"),
        trellis!("r9", "r10", "r8"),
        trellis!("r8", "r9", "r10"),
        trellis!("r10", "r8", "r9"),
        trellis!("r9", "r10", "r8"),
        trellis!("r8", "r9", "r10"),
        trellis!("r10", "r8", "r9"),
        trellis!("r9", "r10", "r8"),
        trellis!("r8", "r9", "r10"),
        trellis!("r10", "r8", "r9"),
        "ldr r12, [sp, #68]",
        "ldr r11, [sp, #76]",
        "subs r11, r11, #1",
        "bne 2b",
        "mov r2, sp",
        "ldr lr, [sp, #64]",
        "ldr r12, [sp, #124]", // sums
        "push {{r7}}",
        "ldm r2!, {{r4-r7}}",
        scaled!("lr", "r12"),
        "ldm r2!, {{r4-r7}}",
        scaled!("lr", "r12"),
        "ldm r2!, {{r4-r7}}",
        scaled!("lr", "r12"),
        "ldm r2!, {{r4-r7}}",
        scaled!("lr", "r12"),
        "pop {{r7}}",
        "str lr, [sp, #64]",
        "ldr r3, [sp, #72]",
        "subs r3, r3, #1",
        "bne 1b",
        "add sp, sp, #80",
        "pop {{r4-r12, pc}}",
    )
}
