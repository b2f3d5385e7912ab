//! Convolutions of int8, additions, and the way from sums to int8, all with as many elements side by side as they are told.

use core::cell::Cell;

use super::tile::MOST_LANES;

/// Of channels side by side: what is added to a sum, its multiplier, its right shift; all ones where that shift is not 0.
#[repr(C)]
pub struct Rounding {
    pub added: [i32; MOST_LANES],
    pub multiplier: [i32; MOST_LANES],
    pub right: [i32; MOST_LANES],
    pub shifts: [i32; MOST_LANES],
}

/// What sums become.
#[repr(C)]
pub struct Write {
    /// [pixel][lane].
    pub sums: *const i32,
    pub pixels: usize,
    pub lanes: usize,
    pub channels: *const Rounding,
    /// The first pixel's first element.
    pub out: *const Cell<i8>,
    /// Bytes from a pixel to the next.
    pub apart: usize,
    /// Bounds before the zero point, and it.
    pub bounds: [i32; 3],
}

/// Pairs of pixels of a depthwise convolution, some channels.
#[repr(C)]
pub struct Taps {
    /// The first pixel's first input.
    pub x: *const i8,
    /// Bytes from a tap to the next, from a row of taps to the next, from a pair to the next.
    pub apart: [usize; 3],
    /// Taps down and across, at least 1 each.
    pub kernel: [usize; 2],
    /// [tap][lane].
    pub w: *const i16,
    /// At least 1.
    pub pairs: usize,
    /// Bytes from a pair's one pixel to its other: of inputs, of sums. 0 if it is the same.
    pub other: [usize; 2],
    pub lanes: usize,
    /// [pixel][lane].
    pub sums: *mut i32,
}

/// A term of a sum, or the sum: bits up, what is added then, multiplier, right shift, all ones if that is not 0.
pub type Term = [i32; 5];

/// Terms that are added.
#[repr(C)]
pub struct Add {
    pub x: *const Cell<i8>,
    pub y: *const Cell<i8>,
    pub out: *const Cell<i8>,
    pub count: usize,
    pub backward: usize,
    /// Both terms, then their sum's, which is not moved up.
    pub terms: [Term; 3],
    /// Bounds before the zero point, and it.
    pub bounds: [i32; 3],
}

function! {
    /// Copies rows of bytes: `a0` to, `a1` from, `a2` bytes of a row, `a3` rows (at least 1 each), `a4` and `a5` from a row to the next
    /// there and here.
    fn copy(to: *mut i8, from: *const Cell<i8>, bytes: usize, rows: usize, to_apart: usize, from_apart: usize);
    "1:
    mv t0, a0
    mv t1, a1
    mv t2, a2
    2:
    vsetvli t3, t2, e8, m8, ta, ma
    vle8.v v0, (t1)
    sub t2, t2, t3
    add t1, t1, t3
    vse8.v v0, (t0)
    add t0, t0, t3
    bnez t2, 2b
    add a0, a0, a4
    add a1, a1, a5
    addi a3, a3, -1
    bnez a3, 1b",
}

function! {
    /// Puts weights less their zero point into a panel, and adds those of each lane to its total: `a0` weights, `a1` from a lane to the
    /// next, `a2` from a column to the next, `a3` columns, `a4` lanes (at least 1 each), `a5` zero point, `a6` panel, `a7` totals.
    fn turn(
        w: *const i8,
        lane: usize,
        column: usize,
        columns: usize,
        lanes: usize,
        zero: i32,
        panel: *mut i16,
        totals: *mut i32,
    );
    "slli t1, a4, 1
    vsetvli zero, a4, e16, m4, ta, ma
    vle32.v v8, (a7)
    1:
    vlse8.v v0, (a0), a1
    add a0, a0, a2
    addi a3, a3, -1
    vsext.vf2 v4, v0
    vsub.vx v4, v4, a5
    vse16.v v4, (a6)
    add a6, a6, t1
    vwadd.wv v8, v8, v4
    bnez a3, 1b
    vse32.v v8, (a7)",
}

function! {
    /// Sums of filters with one pixel: `a0` its inputs, `a1` columns, `a2` weights, one filter after the other, `a3` pairs of filters
    /// (at least 1 each), `a4` bytes from a pair's one to its other, `a5` sums.
    fn dots(x: *const i16, columns: usize, w: *const i8, pairs: usize, other: usize, sums: *mut i32);
    "1:
    mv t1, a0
    mv t2, a1
    add a6, a2, a4
    vsetvli t0, zero, e32, m8, ta, ma
    vmv.v.i v0, 0
    vmv.v.i v8, 0
    2:
    vsetvli t0, t2, e16, m4, tu, ma
    vle16.v v16, (t1)
    vle8.v v20, (a2)
    vle8.v v22, (a6)
    sub t2, t2, t0
    add a2, a2, t0
    add a6, a6, t0
    vsext.vf2 v24, v20
    vsext.vf2 v28, v22
    slli t0, t0, 1
    add t1, t1, t0
    vwmacc.vv v0, v16, v24
    vwmacc.vv v8, v16, v28
    bnez t2, 2b
    vsetvli t0, zero, e32, m8, ta, ma
    vmv.s.x v16, zero
    vmv.s.x v24, zero
    vredsum.vs v16, v0, v16
    vredsum.vs v24, v8, v24
    vmv.x.s t0, v16
    vmv.x.s t1, v24
    sw t0, 0(a5)
    sw t1, 4(a5)
    addi a5, a5, 8
    mv a2, a6
    addi a3, a3, -1
    bnez a3, 1b",
}

/// From a sum, in v24 to v27, to an element, `fixed::tflite::requantize` with double rounding: the high half of a product rounds halves
/// up, the shift halves away from zero. `$add` adds what is added, `$multiply` multiplies, `$mask` leaves -1 of a negative number only
/// if it is shifted, `$shift` shifts and rounds halves up.
macro_rules! rounded {
    ($v:literal, $temporary:literal, $add:expr, $multiply:expr, $mask:expr, $shift:expr) => {
        concat!(
            $add,
            "\n",
            $multiply,
            "\n",
            concat!("vsra.vi ", $temporary, ", ", $v, ", 31\n"),
            $mask,
            "\n",
            concat!("vadd.vv ", $v, ", ", $v, ", ", $temporary, "\n"),
            $shift,
            "\n",
        )
    };
}

/// Elements from v24 to (t1), within bounds `t4` and `t5`, plus the zero point `t6`; of as many as the register says.
macro_rules! narrowed {
    ($count:literal) => {
        concat!(
            "vmax.vx v24, v24, t4
            vmin.vx v24, v24, t5
            vadd.vx v24, v24, t6\n",
            concat!("vsetvli zero, ", $count, ", e16, m2, ta, ma\n"),
            "vnsrl.wi v28, v24, 0\n",
            concat!("vsetvli zero, ", $count, ", e8, m1, ta, ma\n"),
            "vnsrl.wi v24, v28, 0
            vse8.v v24, (t1)\n",
            concat!("vsetvli zero, ", $count, ", e32, m4, ta, ma\n"),
        )
    };
}

function! {
    /// Writes elements.
    fn write(job: *const Write);
    "ld a1, 0(a0)
    ld a2, 8(a0)
    ld a3, 16(a0)
    ld a4, 24(a0)
    ld a5, 32(a0)
    ld a6, 40(a0)
    lw t4, 48(a0)
    lw t5, 52(a0)
    lw t6, 56(a0)
    slli a7, a3, 2
    csrwi vxrm, 0
    1:
    vsetvli a0, a3, e32, m4, ta, ma
    sub a3, a3, a0
    vle32.v v8, (a4)
    addi t0, a4, 256
    vle32.v v12, (t0)
    addi t0, a4, 512
    vle32.v v16, (t0)
    addi t0, a4, 768
    vle32.v v20, (t0)
    mv t0, a1
    mv t1, a5
    mv t2, a2
    2:
    vle32.v v24, (t0)
    add t0, t0, a7
    addi t2, t2, -1",
    rounded!(
        "v24", "v28", "vadd.vv v24, v24, v8", "vsmul.vv v24, v24, v12", "vand.vv v28, v28, v20",
        "vssra.vv v24, v24, v16"
    ),
    narrowed!("a0"),
    "add t1, t1, a6
    bnez t2, 2b
    add a5, a5, a0
    slli t0, a0, 2
    add a1, a1, t0
    add a4, a4, t0
    bnez a3, 1b",
}

function! {
    /// Sums of a row's pixels, two at a time: registers v0 to v7 the one's, v8 to v15 the other's, v24 to v27 a tap's weights.
    fn depthwise(job: *const Taps);
    "addi sp, sp, -16
    sd s0, 0(sp)
    ld a1, 0(a0)
    ld a2, 8(a0)
    ld a3, 16(a0)
    ld a4, 40(a0)
    ld a5, 48(a0)
    ld a6, 56(a0)
    ld t2, 64(a0)
    ld t3, 80(a0)
    ld a7, 88(a0)
    vsetvli zero, t3, e16, m4, ta, ma
    slli t3, t3, 1
    1:
    ld t4, 32(a0)
    mv t5, a1
    mv t6, a5
    vmv.v.i v24, 0
    vwmul.vv v0, v24, v24
    vwmul.vv v8, v24, v24
    2:
    mv t0, t5
    add s0, t5, t2
    mv t1, a4
    3:
    vle8.v v16, (t0)
    vle8.v v18, (s0)
    vle16.v v24, (t6)
    add t0, t0, a2
    add s0, s0, a2
    add t6, t6, t3
    addi t1, t1, -1
    vsext.vf2 v20, v16
    vsext.vf2 v28, v18
    vwmacc.vv v0, v20, v24
    vwmacc.vv v8, v28, v24
    bnez t1, 3b
    add t5, t5, a3
    addi t4, t4, -1
    bnez t4, 2b
    ld t0, 72(a0)
    add t0, t0, a7
    vse32.v v0, (a7)
    vse32.v v8, (t0)
    slli t0, t3, 2
    add a7, a7, t0
    ld t0, 24(a0)
    add a1, a1, t0
    addi a6, a6, -1
    bnez a6, 1b
    ld s0, 0(sp)
    addi sp, sp, 16",
}

/// A term's numbers, at an offset from `a0`, into `t0` to `t3` and `a7`.
macro_rules! term {
    ($at:literal) => {
        concat!(
            concat!("lw t0, ", $at, "(a0)\n lw t1, ", $at, "+4(a0)\n lw t2, ", $at, "+8(a0)\n"),
            concat!("lw t3, ", $at, "+12(a0)\n lw a7, ", $at, "+16(a0)\n"),
        )
    };
}
macro_rules! rounded_term {
    ($v:literal) => {
        rounded!(
            $v,
            "v28",
            concat!("vadd.vx ", $v, ", ", $v, ", t1"),
            concat!("vsmul.vx ", $v, ", ", $v, ", t2"),
            "vand.vx v28, v28, a7",
            concat!("vssra.vx ", $v, ", ", $v, ", t3")
        )
    };
}

function! {
    /// Adds, in order, as many elements at a time as four registers hold. Those are all read before they are written.
    fn add(job: *const Add);
    "ld a1, 0(a0)
    ld a2, 8(a0)
    ld a3, 16(a0)
    ld a4, 24(a0)
    ld a5, 32(a0)
    csrwi vxrm, 0
    beqz a5, 1f
    add a1, a1, a4
    add a2, a2, a4
    add a3, a3, a4
    1:
    vsetvli a6, a4, e32, m4, ta, ma
    beqz a5, 2f
    sub a1, a1, a6
    sub a2, a2, a6
    sub a3, a3, a6
    2:
    vle8.v v0, (a1)
    vle8.v v1, (a2)
    vsext.vf4 v20, v0
    vsext.vf4 v24, v1",
    term!("40"),
    "vsll.vx v20, v20, t0",
    rounded_term!("v20"),
    term!("60"),
    "vsll.vx v24, v24, t0",
    rounded_term!("v24"),
    "vadd.vv v24, v24, v20",
    term!("80"),
    rounded_term!("v24"),
    "lw t4, 100(a0)
    lw t5, 104(a0)
    lw t6, 108(a0)
    mv t1, a3",
    narrowed!("a6"),
    "sub a4, a4, a6
    bnez a5, 3f
    add a1, a1, a6
    add a2, a2, a6
    add a3, a3, a6
    3:
    bnez a4, 1b",
}
