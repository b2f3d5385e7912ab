//! The loops of attention: [`crate::kernels::scalar::attention`].

use crate::fixed::Scale;
use crate::kernels::Head;
use crate::kernels::scalar::attention::{Loops, attend_by, whole_rows};

struct Vectors;

/// See [`crate::kernels::rows::attend`]. Only tables of machines with vectors lead here.
pub fn attend(
    head: &Head<'_>,
    q: (&[i32], i32),
    unit: Scale,
    scratch: &mut [i32],
    out: (&mut [i32], i32),
) -> Option<()> {
    attend_by::<Vectors, 64, 64, 64>(head, q, unit, scratch, out)
}

impl Loops for Vectors {
    const ANY_WIDTH: bool = true;

    fn dots(q: &[i8], k: &[i8], scores: &mut [i32]) {
        for (score, key) in scores.iter_mut().zip(k.chunks_exact(q.len().max(1))) {
            // SAFETY: both have so many.
            unsafe { dot(q.as_ptr(), key.as_ptr(), q.len(), score) };
        }
    }

    fn weighted<const N: usize>(v: &[i8], row: usize, width: usize, weights: &[i32]) -> [i32; N] {
        let mut sums = [0; N];
        let count = whole_rows(v, row, width).min(weights.len());
        if count > 0 && width <= N {
            // SAFETY: the last row ends in `v`, and so many sums are there.
            unsafe { weighted(v.as_ptr(), row, weights.as_ptr(), count, width, sums.as_mut_ptr()) };
        }
        sums
    }
}

function! {
    /// The sum of products of `a0` and `a1`, `a2` int8 each, to `a3`.
    fn dot(q: *const i8, k: *const i8, count: usize, sum: *mut i32);
    "vsetvli t0, zero, e32, m8, ta, ma
    vmv.v.i v0, 0
    beqz a2, 2f
    1:
    vsetvli t0, a2, e16, m4, tu, ma
    vle8.v v8, (a0)
    vle8.v v10, (a1)
    sub a2, a2, t0
    add a0, a0, t0
    vsext.vf2 v16, v8
    add a1, a1, t0
    vsext.vf2 v20, v10
    vwmacc.vv v0, v16, v20
    bnez a2, 1b
    2:
    vsetvli t0, zero, e32, m8, ta, ma
    vmv.s.x v8, zero
    vredsum.vs v8, v0, v8
    vmv.x.s t0, v8
    sw t0, 0(a3)",
}

function! {
    /// Rows of `a4` int8 (at least 1), `a0` the first and `a1` from one to the next, times weights `a2` of 16 bits without a sign, `a3` of
    /// them (at least 1), summed to `a5`.
    fn weighted(v: *const i8, row: usize, weights: *const i32, count: usize, elements: usize, sums: *mut i32);
    "1:
    vsetvli t0, a4, e32, m8, ta, ma
    vmv.v.i v0, 0
    vsetvli t0, a4, e16, m4, ta, ma
    mv t1, a0
    mv t2, a2
    mv t3, a3
    2:
    vle8.v v8, (t1)
    lw t4, 0(t2)
    add t1, t1, a1
    addi t2, t2, 4
    addi t3, t3, -1
    vsext.vf2 v12, v8
    vwmaccus.vx v0, t4, v12
    bnez t3, 2b
    vse32.v v0, (a5)
    sub a4, a4, t0
    add a0, a0, t0
    slli t0, t0, 2
    add a5, a5, t0
    bnez a4, 1b",
}
