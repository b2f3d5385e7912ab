//! Blocks of coded weights: a line of codes becomes the levels of eight columns, 16 rows each in a register (`image/tensors.rs` has
//! the layout); those are multiplied with one row of codes, or put into a panel for several ([`super::tile`]).
//!
//! ```text
//! registers
//!   v0-v3     a line: byte b of each row is in v0 + b
//!   v16-v19   levels of the high nibbles, columns 4 to 7      v20-v23   of the low nibbles, columns 0 to 3
//!   v8        what is looked up, of T4 v8 and v9              v9, v10   of T3 where the row before, and the one before that, is
//!   v11       scales, for a panel                             v24-v27   sums of a group      v28-v31   of all groups
//! ```
//!
//! A register has 16 codes, however long it is: work on single columns sets that length. Work on four columns at a time is done on
//! all of four registers, whatever lies behind the 16th code.
//!
//! Byte b is taken out of each row's word by narrowing shifts: loads of segments would do that at once, but cores take them element by
//! element (512 cycles instead of 8 in LLVM's model of SiFive's P670).
//!
//! Two products fit 16 bits, since levels that are looked up are -127 to 127; 8-bit weights, which may be -128, are widened before.

/// Sums of a block's groups with a row of codes, which int32 holds, are added to `sums`: codes, scales, the row from the first group on,
/// number of groups (at least 1), levels, 16 sums, signs.
///
/// # Safety
/// All groups' codes, scales, columns of the row and, of N5, signs are there. Codes are whole words.
pub type RowFn =
    unsafe extern "C" fn(*const u8, *const u8, *const i8, usize, *const i8, *mut i64, *const [[u8; 16]; 4]);

/// Puts a block's groups into a panel, level times scale: codes, scales, where the first column goes, number of groups (at least 1),
/// levels, bytes from one column to the next, signs.
///
/// # Safety
/// As [`RowFn`]; there is room for 16 words of each column.
pub type PanelFn = unsafe extern "C" fn(*const u8, *const u8, *mut i16, usize, *const i8, usize, *const [[u8; 16]; 4]);

/// Work on a column's 16 codes, of which a mask may leave some as they are; on their products; on four registers whole.
macro_rules! of_codes {
    () => {
        "vsetivli zero, 16, e8, m1, ta, mu\n"
    };
}
macro_rules! of_products {
    () => {
        "vsetivli zero, 16, e16, m2, ta, ma\n"
    };
}
macro_rules! of_four {
    () => {
        "vsetvli t0, zero, e8, m4, ta, ma\n"
    };
}

/// The line at an address, into v0-v3.
macro_rules! line {
    ($from:literal) => {
        concat!(
            concat!("vle32.v v16, ", $from, "\n"),
            "vsetvli t0, zero, e8, m2, ta, ma
            vnsrl.wi v20, v16, 0
            vnsrl.wi v22, v16, 8\n",
            of_codes!(),
            "vnsrl.wi v0, v20, 0
            vnsrl.wi v1, v22, 0
            vnsrl.wi v2, v20, 8
            vnsrl.wi v3, v22, 8\n",
        )
    };
}

/// Levels of codes in v0-v3, low nibbles and high ones.
macro_rules! look_up {
    () => {
        concat!(
            "vand.vi v16, v0, 15
            vsrl.vi v0, v0, 4\n",
            of_codes!(),
            "vrgather.vv v20, v8, v16
            vrgather.vv v21, v8, v17
            vrgather.vv v22, v8, v18
            vrgather.vv v23, v8, v19
            vrgather.vv v16, v8, v0
            vrgather.vv v17, v8, v1
            vrgather.vv v18, v8, v2
            vrgather.vv v19, v8, v3\n"
        )
    };
}

/// The codes in v0-v3 of one row before, into v4-v7, and of the one before that, into v16-v19. A ring of 16 rows.
macro_rules! rows_before {
    () => {
        "vrgather.vv v4, v0, v9
        vrgather.vv v5, v1, v9
        vrgather.vv v6, v2, v9
        vrgather.vv v7, v3, v9
        vrgather.vv v16, v0, v10
        vrgather.vv v17, v1, v10
        vrgather.vv v18, v2, v10
        vrgather.vv v19, v3, v10\n"
    };
}

/// For each kind of codes: what is set up once (registers may be used as one likes, of 16 codes), for each group, and for each line or
/// step of eight columns; what `a0` moves on by at a group's end.
macro_rules! once {
    (n4) => {
        "vle8.v v8, (a4)\n"
    };
    (n5) => {
        // Of a line's signs the byte of a row's low nibbles, and of its high ones; which half of it.
        "vle8.v v8, (a4)
        vid.v v10
        vsrl.vi v9, v10, 1
        vand.vi v10, v10, 1
        vsll.vi v12, v10, 2
        vadd.vi v10, v9, 8\n"
    };
    (n8) => {
        ""
    };
    (t4) => {
        concat!(
            "li t1, 32
            vsetvli zero, t1, e8, m2, ta, ma
            vle8.v v8, (a4)
            li t1, 31\n",
            of_codes!(),
        )
    };
    (t3) => {
        "vle8.v v8, (a4)
        vid.v v9
        vadd.vi v10, v9, -2
        vadd.vi v9, v9, -1
        vand.vi v10, v10, 15
        vand.vi v9, v9, 15
        li t1, 0x55
        li t3, 0x33
        li a7, 0xCC\n"
    };
}
macro_rules! group {
    (t3) => {
        // Bits that pick a set: differs from two rows before, one row before. Pairs of these at even bits and the next, of even
        // lines of 8 columns in v12-v15 and of odd ones in v4-v7.
        concat!(
            "addi t2, a0, 128\n",
            line!("(t2)"),
            rows_before!(),
            of_four!(),
            "vxor.vv v16, v16, v0
            vand.vx v0, v4, t1
            vxor.vv v4, v4, v0
            vadd.vv v0, v0, v0
            vand.vx v12, v16, t1
            vor.vv v12, v12, v0
            vsrl.vi v16, v16, 1
            vand.vx v16, v16, t1
            vor.vv v4, v4, v16\n",
            of_codes!(),
        )
    };
    ($kind:ident) => {
        ""
    };
}
macro_rules! levels {
    (n4) => {
        concat!(
            line!("(a0)"),
            "addi a0, a0, 64\n",
            of_four!(),
            look_up!(),
        )
    };
    (n5) => {
        concat!(
            levels!(n4),
            "vle8.v v1, (a6)
            addi a6, a6, 16
            vrgather.vv v2, v1, v9
            vrgather.vv v3, v1, v10
            vsrl.vv v2, v2, v12
            vsrl.vv v3, v3, v12\n",
            levels!(@sign "v2", "1", "v20"),
            levels!(@sign "v2", "2", "v21"),
            levels!(@sign "v2", "4", "v22"),
            levels!(@sign "v2", "8", "v23"),
            levels!(@sign "v3", "1", "v16"),
            levels!(@sign "v3", "2", "v17"),
            levels!(@sign "v3", "4", "v18"),
            levels!(@sign "v3", "8", "v19"),
        )
    };
    (@sign $signs:literal, $bit:literal, $levels:literal) => {
        concat!(
            concat!("vand.vi v1, ", $signs, ", ", $bit, "\n"),
            "vmsne.vi v0, v1, 0\n",
            concat!("vrsub.vi ", $levels, ", ", $levels, ", 0, v0.t\n"),
        )
    };
    (t4) => {
        concat!(
            line!("(a0)"),
            // The next byte's: a window that begins at a high nibble ends there.
            "addi a0, a0, 64
            vmv1r.v v4, v1
            vmv1r.v v5, v2
            vmv1r.v v6, v3
            vmv1r.v v7, v0\n",
            of_four!(),
            "vsrl.vi v12, v0, 4
            vsll.vi v4, v4, 4
            vor.vv v12, v12, v4
            vand.vx v16, v0, t1
            vand.vx v4, v12, t1\n",
            // -1 where a level is negated.
            "vsll.vi v0, v0, 2
            vsll.vi v12, v12, 2
            vsra.vi v0, v0, 7
            vsra.vi v12, v12, 7\n",
            // 32 levels are two registers of 128 bits, in which what is looked up lies in two, too.
            "vsetvli t0, zero, e8, m2, ta, ma
            vrgather.vv v20, v8, v16
            vrgather.vv v22, v8, v18
            vrgather.vv v16, v8, v4
            vrgather.vv v18, v8, v6\n",
            of_four!(),
            "vxor.vv v20, v20, v0
            vxor.vv v16, v16, v12
            vsub.vv v20, v20, v0
            vsub.vv v16, v16, v12\n",
            of_codes!(),
        )
    };
    // Two bits of each nibble, of 16 columns a line; where the pairs that pick a set come from.
    (t3 $bits:literal, $pairs:literal) => {
        concat!(
            line!("(a0)"),
            of_four!(),
            $bits,
            "vand.vx v0, v0, t3\n",
            $pairs,
            "vand.vx v16, v16, a7
            vor.vv v0, v0, v16\n",
            look_up!(),
        )
    };
}

/// Each step of a group, and after it what is to be done with its levels.
macro_rules! steps {
    (t3, $then:ident) => {
        concat!(
            levels!(t3 "", "vsll.vi v16, v12, 2\n"),
            $then!(),
            levels!(t3 "vsrl.vi v0, v0, 2\n", "vsll.vi v16, v4, 2\n"),
            $then!(),
            "addi a0, a0, 64\n",
            levels!(t3 "", "vmv.v.v v16, v12\n"),
            $then!(),
            levels!(t3 "vsrl.vi v0, v0, 2\n", "vmv.v.v v16, v4\n"),
            $then!(),
            "addi a0, a0, 128\n",
        )
    };
    ($kind:ident, $then:ident) => {
        concat!(
            levels!($kind),
            $then!(),
            levels!($kind),
            $then!(),
            levels!($kind),
            $then!(),
            levels!($kind),
            $then!(),
        )
    };
}

/// Adds the levels' products with eight codes of the row to the group's sums.
macro_rules! multiply {
    () => {
        concat!(
            "lb t4, (a2)
            lb t5, 1(a2)
            lb t6, 2(a2)
            lb a4, 3(a2)
            vwmul.vx v0, v20, t4
            lb t4, 4(a2)
            vwmul.vx v2, v22, t6
            lb t6, 6(a2)
            vwmacc.vx v0, t5, v21
            lb t5, 5(a2)
            vwmacc.vx v2, a4, v23
            lb a4, 7(a2)
            vwmul.vx v20, v16, t4
            vwmul.vx v22, v18, t6
            addi a2, a2, 8
            vwmacc.vx v20, t5, v17
            vwmacc.vx v22, a4, v19\n",
            of_products!(),
            "vwadd.wv v24, v24, v0
            vwadd.wv v24, v24, v2
            vwadd.wv v24, v24, v20
            vwadd.wv v24, v24, v22\n",
        )
    };
}

/// Puts the levels of eight columns into the panel, times their scales.
macro_rules! store {
    () => {
        concat!(
            "vwmulsu.vv v0, v20, v11
            vwmulsu.vv v2, v21, v11\n",
            store!("v0"),
            "vwmulsu.vv v0, v22, v11\n",
            store!("v2"),
            "vwmulsu.vv v2, v23, v11\n",
            store!("v0"),
            "vwmulsu.vv v20, v16, v11\n",
            store!("v2"),
            "vwmulsu.vv v22, v17, v11\n",
            store!("v20"),
            "vwmulsu.vv v0, v18, v11\n",
            store!("v22"),
            "vwmulsu.vv v2, v19, v11\n",
            store!("v0"),
            store!("v2"),
        )
    };
    ($words:literal) => {
        concat!("vse16.v ", $words, ", (a2)\nadd a2, a2, a5\n")
    };
}

/// A line of 8-bit weights as words of 16 bits, four columns: v8, v10, v12, v14.
macro_rules! bytes {
    () => {
        "vle32.v v4, (a0)
        addi a0, a0, 64
        vnsrl.wi v0, v4, 0
        vnsrl.wi v2, v4, 16
        vsll.vi v8, v0, 8
        vsll.vi v12, v2, 8
        vsra.vi v10, v0, 8
        vsra.vi v14, v2, 8
        vsra.vi v8, v8, 8
        vsra.vi v12, v12, 8\n"
    };
}

/// As [`multiply`], and as [`store`] with scales of 16 bits in v20.
macro_rules! multiply_bytes {
    () => {
        concat!(
            bytes!(),
            "lb t4, (a2)
            lb t5, 1(a2)
            lb t6, 2(a2)
            lb a4, 3(a2)
            addi a2, a2, 4
            vwmacc.vx v24, t4, v8
            vwmacc.vx v24, t5, v10
            vwmacc.vx v24, t6, v12
            vwmacc.vx v24, a4, v14\n",
        )
    };
}
macro_rules! store_bytes {
    () => {
        concat!(
            bytes!(),
            "vmul.vv v8, v8, v20
            vmul.vv v10, v10, v20
            vmul.vv v12, v12, v20
            vmul.vv v14, v14, v20\n",
            store!("v8"),
            store!("v10"),
            store!("v12"),
            store!("v14"),
        )
    };
}

/// All lines of a group.
macro_rules! eight {
    ($each:ident) => {
        concat!($each!(), $each!(), $each!(), $each!(), $each!(), $each!(), $each!(), $each!())
    };
}

/// The functions of a kind: `$group` of a group for one row, `$group_of_panel` for a panel.
macro_rules! kind {
    ($kind:ident, $row:ident, $panel:ident, $group:expr, $group_of_panel:expr) => {
        function! {
            /// See [`RowFn`].
            fn $row(
                codes: *const u8,
                scales: *const u8,
                x: *const i8,
                groups: usize,
                book: *const i8,
                sums: *mut i64,
                signs: *const [[u8; 16]; 4],
            );
            of_codes!(),
            once!($kind),
            "vsetivli zero, 16, e32, m4, ta, ma
            vmv.v.i v28, 0
            1:
            vmv.v.i v24, 0",
            group!($kind),
            $group,
            "vsetivli zero, 16, e32, m4, ta, ma
            vle8.v v0, (a1)
            addi a1, a1, 16
            addi a3, a3, -1
            vzext.vf4 v4, v0
            vmacc.vv v28, v24, v4
            bnez a3, 1b
            vle64.v v0, (a5)
            vwadd.wv v0, v0, v28
            vse64.v v0, (a5)",
        }

        function! {
            /// See [`PanelFn`].
            fn $panel(
                codes: *const u8,
                scales: *const u8,
                panel: *mut i16,
                groups: usize,
                book: *const i8,
                apart: usize,
                signs: *const [[u8; 16]; 4],
            );
            of_codes!(),
            once!($kind),
            "1:
            vle8.v v11, (a1)
            addi a1, a1, 16",
            group!($kind),
            $group_of_panel,
            "addi a3, a3, -1
bnez a3, 1b",
        }
    };
    ($kind:ident, $row:ident, $panel:ident) => {
        kind! { $kind, $row, $panel, steps!($kind, multiply), steps!($kind, store) }
    };
}

kind! { t3, t3_row, t3_panel }
kind! { n4, n4_row, n4_panel }
kind! { t4, t4_row, t4_panel }
kind! { n5, n5_row, n5_panel }
kind! {
    n8, n8_row, n8_panel,
    concat!(of_products!(), eight!(multiply_bytes)),
    concat!(of_products!(), "vzext.vf2 v20, v11\n", eight!(store_bytes), of_codes!())
}
