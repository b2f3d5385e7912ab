//! What coded matrices with several rows of codes, and convolutions, end in: a panel of weights times a few rows of int8.
//!
//! ```text
//! panel   [column][lane] int16: a lane is a row of weights, or an output channel
//! for each column:
//!   weights = the panel's column                 one load for all rows
//!   for each row: sums[row] += weights * x[row, column]
//! ```
//!
//! A coded weight is there with its group's scale: a level of 8 bits times a scale of 8 bits is an int16 (`lines.rs`). So there are
//! no groups here, only sums that int32 holds.

use super::detect::register_bytes;

/// Lanes of a panel, at most: sums of 3 rows take three quarters of the registers, so with 256 bits each there are 64.
pub const MOST_LANES: usize = 64;
/// Words of a panel: what the first cache holds beside the rows.
pub const PANEL: usize = 8192;

/// Lanes of this machine's panels, 32 or 64.
pub fn lanes() -> usize {
    (2 * register_bytes()).min(MOST_LANES)
}

/// Adds to the sums of rows those of a panel's columns; what a pointer points at, is there.
///
/// `x` has `rows` rows of `columns` (a multiple of 4, at least 4) codes, `stride` bytes apart; `sums` is [row][lane].
pub unsafe fn panel_sums(
    panel: *const i16,
    columns: usize,
    (mut x, stride): (*const i8, usize),
    mut rows: usize,
    lanes: usize,
    mut sums: *mut i32,
) {
    while rows > 0 {
        let (function, some): (TileFn, _) = match rows {
            1 => (tile1, 1),
            2 => (tile2, 2),
            _ => (tile3, 3),
        };
        // SAFETY: so many rows are left.
        unsafe { function(panel, columns, x, stride, lanes, sums) };
        rows -= some;
        (x, sums) = (x.wrapping_add(some * stride), sums.wrapping_add(some * lanes));
    }
}

type TileFn = unsafe extern "C" fn(*const i16, usize, *const i8, usize, usize, *mut i32);

/// A column of the panel, with the codes at an offset of each row.
macro_rules! column {
    ($rows:ident, $weights:literal, $offset:literal) => {
        concat!(
            concat!("vle16.v ", $weights, ", (a0)\n add a0, a0, t0\n"),
            concat!("lb t4, ", $offset, "(a2)\n"),
            column!(@load $rows, $offset),
            concat!("vwmacc.vx v0, t4, ", $weights, "\n"),
            column!(@add $rows, $weights),
        )
    };
    (@load one, $offset:literal) => { "" };
    (@load two, $offset:literal) => { concat!("lb t5, ", $offset, "(a6)\n") };
    (@load three, $offset:literal) => { concat!("lb t5, ", $offset, "(a6)\n lb t6, ", $offset, "(a7)\n") };
    (@add one, $weights:literal) => { "" };
    (@add two, $weights:literal) => { concat!("vwmacc.vx v8, t5, ", $weights, "\n") };
    (@add three, $weights:literal) => {
        concat!("vwmacc.vx v8, t5, ", $weights, "\n vwmacc.vx v16, t6, ", $weights, "\n")
    };
}

/// Sums are 8 registers a row, a column of weights is 4. `$each`: what is done for each row's sums and codes.
macro_rules! tile {
    ($name:ident, $rows:ident, $begin:literal, $next:literal, $end:literal) => {
        function! {
            /// `a0` panel, `a1` columns, `a2` codes, `a3` from row to row, `a4` lanes, `a5` sums.
            fn $name(panel: *const i16, columns: usize, x: *const i8, stride: usize, lanes: usize, sums: *mut i32);
            "slli t0, a4, 1
            slli t1, a4, 2
            add t2, a5, t1
            add t3, t2, t1
            add a6, a2, a3
            add a7, a6, a3
            vsetvli zero, a4, e16, m4, ta, ma
            vle32.v v0, (a5)",
            $begin,
            "1:",
            column!($rows, "v24", "0"),
            column!($rows, "v28", "1"),
            column!($rows, "v24", "2"),
            column!($rows, "v28", "3"),
            "addi a2, a2, 4",
            $next,
            "addi a1, a1, -4
            bnez a1, 1b
            vse32.v v0, (a5)",
            $end,
        }
    };
}

tile! { tile1, one, "", "", "" }
tile! { tile2, two, "vle32.v v8, (t2)", "addi a6, a6, 4", "vse32.v v8, (t2)" }
tile! {
    tile3, three,
    "vle32.v v8, (t2)
    vle32.v v16, (t3)",
    "addi a6, a6, 4
    addi a7, a7, 4",
    "vse32.v v8, (t2)
    vse32.v v16, (t3)"
}
