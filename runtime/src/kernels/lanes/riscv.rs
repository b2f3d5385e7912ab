//! Loops for RV32IM, whose registers hold all that they need: the functions of `thumb.rs`, a column or four at a time. Bytes are
//! loaded with their sign, so words of weights are no gain.

use super::{Block, Dots, Taps, Write};

/// See `thumb.rs`.
///
/// # Safety
/// Activations are there, and there is room.
pub unsafe extern "C" fn put(to: *mut i32, x: *const i8, count: usize, zero: i32, apart: usize, _: isize) {
    // SAFETY: the caller's.
    unsafe {
        let (mut to, mut x) = (to, x);
        let end = x.add(count);
        while x != end {
            *to = i32::from(*x) - zero;
            to = to.byte_add(apart);
            x = x.add(1);
        }
    }
}

/// See `thumb.rs`.
///
/// # Safety
/// As [`put`], and the words of two pixels have been put.
pub unsafe extern "C" fn put_third(to: *mut i32, x: *const i8, count: usize, zero: i32, apart: usize, _: isize) {
    // SAFETY: the caller's.
    unsafe {
        let (mut to, mut x) = (to, x);
        let end = x.add(count);
        while x != end {
            let third = i32::from(*x) - zero;
            *to = (*to).wrapping_add(third << 21);
            *to.add(1) += third << 10;
            to = to.byte_add(apart);
            x = x.add(1);
        }
    }
}

/// See `thumb.rs`.
///
/// # Safety
/// As [`put`].
pub unsafe extern "C" fn put3(to: *mut i32, x: *const i8, count: usize, zero: i32, apart: usize, behind: isize) {
    // SAFETY: the caller's.
    unsafe {
        let (mut to, mut x, mut y, mut z) = (to, x, x.offset(behind), x.offset(2 * behind));
        let end = x.add(count);
        while x != end {
            let third = i32::from(*z) - zero;
            *to = (i32::from(*x) - zero).wrapping_add(third << 21);
            *to.add(1) = i32::from(*y) - zero + (third << 10);
            to = to.byte_add(apart);
            (x, y, z) = (x.add(1), y.add(1), z.add(1));
        }
    }
}

/// The sums of three pixels that two words hold, added to those of the pieces before if `more`.
///
/// # Safety
/// There are three sums.
#[inline(never)] // it is in five places
unsafe fn three(sums: *mut i32, [a, b]: [i32; 2], more: bool) {
    let first = a << 11 >> 11;
    let low = (a.wrapping_sub(first) as u32 >> 21) as i32;
    let b = b.wrapping_sub(low << 10);
    let second = b << 11 >> 11;
    let third = (b.wrapping_sub(second) >> 10) + low;
    for (n, sum) in [first, second, third].into_iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { *sums.add(n) = if more { (*sums.add(n)).wrapping_add(sum) } else { sum } };
    }
}

/// Where the piece ends that begins at `x`.
#[inline(always)]
fn end(job: &Dots, x: *const i32) -> *const i32 {
    job.x_end.min(x.wrapping_byte_add(job.piece))
}

/// Products of a column's weight with four words.
macro_rules! four {
    ($x:ident, $w:ident, $column:literal, $a:ident, $b:ident, $c:ident, $d:ident) => {
        let weight = i32::from(*$w.add($column));
        $a = $a.wrapping_add(weight.wrapping_mul(*$x.add(4 * $column)));
        $b = $b.wrapping_add(weight.wrapping_mul(*$x.add(4 * $column + 1)));
        $c = $c.wrapping_add(weight.wrapping_mul(*$x.add(4 * $column + 2)));
        $d = $d.wrapping_add(weight.wrapping_mul(*$x.add(4 * $column + 3)));
    };
}

/// Those of two filters. In assembly: a compiler loads all that a turn needs before it multiplies, and has no registers for it.
macro_rules! eight {
    ($x:ident, [$w:ident, $v:ident], $column:literal, [$a:ident, $b:ident, $c:ident, $d:ident], [$e:ident, $f:ident, $g:ident, $h:ident]) => {
        core::arch::asm!(
            "lb {weight}, {column}({w})",
            "lb {other}, {column}({v})",
            "lw {p}, 16*{column}({x})",
            "lw {q}, 16*{column}+4({x})",
            "mul {r}, {p}, {weight}",
            "mul {p}, {p}, {other}",
            "add {a}, {a}, {r}",
            "add {e}, {e}, {p}",
            "lw {p}, 16*{column}+8({x})",
            "mul {r}, {q}, {weight}",
            "mul {q}, {q}, {other}",
            "add {b}, {b}, {r}",
            "add {f}, {f}, {q}",
            "lw {q}, 16*{column}+12({x})",
            "mul {r}, {p}, {weight}",
            "mul {p}, {p}, {other}",
            "add {c}, {c}, {r}",
            "add {g}, {g}, {p}",
            "mul {r}, {q}, {weight}",
            "mul {q}, {q}, {other}",
            "add {d}, {d}, {r}",
            "add {h}, {h}, {q}",
            column = const $column,
            x = in(reg) $x,
            w = in(reg) $w,
            v = in(reg) $v,
            weight = out(reg) _,
            other = out(reg) _,
            p = out(reg) _,
            q = out(reg) _,
            r = out(reg) _,
            a = inout(reg) $a,
            b = inout(reg) $b,
            c = inout(reg) $c,
            d = inout(reg) $d,
            e = inout(reg) $e,
            f = inout(reg) $f,
            g = inout(reg) $g,
            h = inout(reg) $h,
            options(nostack, readonly, preserves_flags),
        );
    };
}

/// Of two words.
macro_rules! two {
    ($x:ident, $w:ident, $column:literal, $a:ident, $b:ident, $c:ident, $d:ident) => {
        let weight = i32::from(*$w.add($column));
        $a = $a.wrapping_add(weight.wrapping_mul(*$x.add(2 * $column)));
        $b = $b.wrapping_add(weight.wrapping_mul(*$x.add(2 * $column + 1)));
    };
}

/// A function over filters. `$column`: products of a column; then the columns of a turn, and how many these are.
macro_rules! dots {
    ($(#[$meta:meta])* $name:ident, $product:ident, $words:literal, [$($column:literal),*], $turn:literal) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// What `job` describes lies in memory, and the sums may be written.
        unsafe fn $name(job: &mut Dots) {
            // SAFETY: the caller's.
            unsafe {
                let (mut w, mut sums) = (job.w, job.sums);
                for _ in 0..job.filters {
                    let mut x = job.x;
                    while x != job.x_end {
                        let (more, end) = (x != job.x, end(job, x));
                        let (mut a, mut b) = (0i32, 0i32);
                        #[allow(unused_mut)]
                        let (mut c, mut d) = (0i32, 0i32);
                        while x != end {
                            $($product!(x, w, $column, a, b, c, d);)*
                            x = x.add($turn * $words);
                            w = w.add($turn);
                        }
                        three(sums, [a, b], more);
                        if $words == 4 {
                            three(sums.add(3), [c, d], more);
                        }
                    }
                    sums = sums.add($words / 2 * 3);
                    w = w.add(job.skip);
                }
            }
        }
    };
}

dots! {
    /// Six pixels; columns are a multiple of four.
    single_words, four, 4, [0, 1, 2, 3], 4
}
dots! {
    /// Six pixels.
    dots6_bytes, four, 4, [0], 1
}
dots! {
    /// Three pixels; columns are a multiple of four.
    dots3_words, two, 2, [0, 1, 2, 3], 4
}
dots! {
    /// Three pixels.
    dots3_bytes, two, 2, [0], 1
}

/// As [`single_words`], activations read once for two filters.
///
/// # Safety
/// What `job` describes lies in memory, and the sums may be written.
#[inline(never)] // its loop has all registers
unsafe fn dots6_words(job: &mut Dots) {
    // SAFETY: the caller's.
    unsafe {
        while job.filters >= 2 {
            let (mut x, mut w, mut v) = (job.x, job.w, job.w.add(job.apart));
            while x != job.x_end {
                let (more, end) = (x != job.x, end(job, x));
                let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = [0i32; 8];
                while x != end {
                    eight!(x, [w, v], 0, [a, b, c, d], [e, f, g, h]);
                    eight!(x, [w, v], 1, [a, b, c, d], [e, f, g, h]);
                    eight!(x, [w, v], 2, [a, b, c, d], [e, f, g, h]);
                    eight!(x, [w, v], 3, [a, b, c, d], [e, f, g, h]);
                    x = x.add(16);
                    (w, v) = (w.add(4), v.add(4));
                }
                for (n, two) in [[a, b], [c, d], [e, f], [g, h]].into_iter().enumerate() {
                    three(job.sums.add(3 * n), two, more);
                }
            }
            job.sums = job.sums.add(12);
            job.w = v.add(job.skip);
            job.filters -= 2;
        }
        if job.filters > 0 {
            single_words(job);
        }
    }
}

/// A function over pairs of filters.
macro_rules! pairs {
    ($(#[$meta:meta])* $name:ident, [$($column:literal),*], $turn:literal) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// What `job` describes lies in memory, and the sums may be written.
        unsafe fn $name(job: &mut Dots) {
            // SAFETY: the caller's.
            unsafe {
                let (mut w, mut sums) = (job.w, job.sums);
                for _ in 0..job.filters {
                    let (mut x, mut v) = (job.x, w.add(job.apart));
                    let (mut a, mut b) = (*sums, *sums.add(1));
                    while x != job.x_end {
                        $(
                            let value = *x.add($column);
                            a = a.wrapping_add(value.wrapping_mul(i32::from(*w.add($column))));
                            b = b.wrapping_add(value.wrapping_mul(i32::from(*v.add($column))));
                        )*
                        x = x.add($turn);
                        (w, v) = (w.add($turn), v.add($turn));
                    }
                    (*sums, *sums.add(1)) = (a, b);
                    sums = sums.add(2);
                    w = w.add(job.skip);
                }
            }
        }
    };
}

pairs! {
    /// One pixel; columns are a multiple of four.
    pairs_words, [0, 1, 2, 3], 4
}
pairs! {
    /// One pixel.
    dots1_bytes, [0], 1
}

/// Products of a pixel's column with weights of four filters.
macro_rules! four_filters {
    ($x:ident, [$w:ident, $v:ident, $u:ident, $t:ident], $column:literal, $a:ident, $b:ident, $c:ident, $d:ident) => {
        let value = *$x.add($column);
        $a = $a.wrapping_add(value.wrapping_mul(i32::from(*$w.add($column))));
        $b = $b.wrapping_add(value.wrapping_mul(i32::from(*$v.add($column))));
        $c = $c.wrapping_add(value.wrapping_mul(i32::from(*$u.add($column))));
        $d = $d.wrapping_add(value.wrapping_mul(i32::from(*$t.add($column))));
    };
}
/// As [`pairs_words`], an activation read once for two pairs.
///
/// # Safety
/// What `job` describes lies in memory, and the sums may be written.
#[inline(never)] // its loop has all registers
unsafe fn dots1_words(job: &mut Dots) {
    // SAFETY: the caller's.
    unsafe {
        while job.filters >= 2 {
            let mut x = job.x;
            let (mut w, mut v) = (job.w, job.w.add(job.apart));
            let (mut u, mut t) = (v.add(job.apart), v.add(2 * job.apart));
            let [mut a, mut b, mut c, mut d] = *job.sums.cast::<[i32; 4]>();
            while x != job.x_end {
                four_filters!(x, [w, v, u, t], 0, a, b, c, d);
                four_filters!(x, [w, v, u, t], 1, a, b, c, d);
                four_filters!(x, [w, v, u, t], 2, a, b, c, d);
                four_filters!(x, [w, v, u, t], 3, a, b, c, d);
                x = x.add(4);
                (w, v, u, t) = (w.add(4), v.add(4), u.add(4), t.add(4));
            }
            *job.sums.cast() = [a, b, c, d];
            job.sums = job.sums.add(4);
            job.w = w.add(job.skip + 2 * job.apart);
            job.filters -= 2;
        }
        if job.filters > 0 {
            pairs_words(job);
        }
    }
}

/// Makes the sums the dots of filters with the patches of `pixels` pixels (6 or 3); or, of one pixel, adds to them those of pairs of
/// filters. `words`: columns are a multiple of four.
///
/// # Safety
/// What `job` describes lies in memory, and the sums may be written.
pub unsafe fn dots(job: &mut Dots, pixels: usize, words: bool) {
    // SAFETY: the caller's.
    unsafe {
        match (pixels, words) {
            (6, true) => dots6_words(job),
            (6, _) => dots6_bytes(job),
            (3, true) => dots3_words(job),
            (3, _) => dots3_bytes(job),
            (_, true) => dots1_words(job),
            _ => dots1_bytes(job),
        }
    }
}

/// Sums over the taps of a pixel.
///
/// # Safety
/// What `job` describes lies in memory, and the sums may be written.
pub unsafe fn taps1(job: &mut Taps) {
    // SAFETY: the caller's.
    unsafe {
        for first in (0..job.channels).step_by(4) {
            let mut tap = job.list;
            let sums = job.sums.add(first).cast::<[i32; 4]>();
            let [mut a, mut b, mut c, mut d] = if job.again == 0 { [0; 4] } else { *sums };
            while tap != job.list_end {
                let [w, x, ..] = *tap;
                let (w, x) = (w.add(first), x.add(first));
                let product = |n: usize| (i32::from(*x.add(n)) - job.zero).wrapping_mul(i32::from(*w.add(n)));
                a = a.wrapping_add(product(0));
                b = b.wrapping_add(product(1));
                c = c.wrapping_add(product(2));
                d = d.wrapping_add(product(3));
                tap = tap.add(1);
            }
            *sums = [a, b, c, d];
        }
    }
}

/// The products of a channel's weight at a tap with four pixels.
macro_rules! four_taps {
    ($w:expr, [$p:expr, $q:expr, $r:expr, $s:expr], $weights:ident, [$a:ident, $b:ident, $c:ident, $d:ident]) => {
        let weight = i32::from(*$w);
        $weights = $weights.wrapping_add(weight);
        $a = $a.wrapping_add(weight.wrapping_mul(i32::from(*$p)));
        $b = $b.wrapping_add(weight.wrapping_mul(i32::from(*$q)));
        $c = $c.wrapping_add(weight.wrapping_mul(i32::from(*$r)));
        $d = $d.wrapping_add(weight.wrapping_mul(i32::from(*$s)));
    };
}

/// Sums over the taps of four pixels. A tap's pointers are loaded once for two channels.
///
/// # Safety
/// As [`taps1`].
pub unsafe fn taps4(job: &mut Taps) {
    // SAFETY: the caller's.
    unsafe {
        let (mut channel, mut to) = (0, job.sums);
        while channel < job.channels {
            let pair = channel + 1 < job.channels && job.x_step == 1;
            let mut tap = job.list;
            let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = [0i32; 8];
            let (mut one, mut two) = (0i32, 0i32);
            let at = channel * job.x_step;
            while tap != job.list_end {
                let [w, p, q, r, s] = *tap;
                let (w, p, q, r, s) = (w.add(channel), p.add(at), q.add(at), r.add(at), s.add(at));
                four_taps!(w, [p, q, r, s], one, [a, b, c, d]);
                if pair {
                    four_taps!(w.add(1), [p.add(1), q.add(1), r.add(1), s.add(1)], two, [e, f, g, h]);
                }
                tap = tap.add(1);
            }
            let less = |sum: i32, weights: i32| sum.wrapping_sub(weights.wrapping_mul(job.zero));
            let sums = [less(a, one), less(b, one), less(c, one), less(d, one)];
            put4(to, sums, job.again);
            to = to.add(4);
            if pair {
                put4(to, [less(e, two), less(f, two), less(g, two), less(h, two)], job.again);
                to = to.add(4);
            }
            channel += 1 + usize::from(pair);
        }
    }
}

/// Four sums, or what is added to them if `again` is not 0.
#[inline(always)]
unsafe fn put4(to: *mut i32, [a, b, c, d]: [i32; 4], again: usize) {
    // SAFETY: the caller's.
    unsafe {
        let [p, q, r, s] = if again == 0 { [0; 4] } else { *to.cast::<[i32; 4]>() };
        *to.cast::<[i32; 4]>() = [a.wrapping_add(p), b.wrapping_add(q), c.wrapping_add(r), d.wrapping_add(s)];
    }
}

/// Elements of one pixel.
///
/// # Safety
/// As [`write`].
pub unsafe fn write1(job: &mut Write) {
    // SAFETY: the caller's.
    unsafe { write(job) }
}

/// Elements of some pixels.
///
/// # Safety
/// What `job` describes lies in memory, and the elements may be written; `int8::is_usual`.
pub unsafe fn write(job: &mut Write) {
    // SAFETY: the caller's. Channels are whole words, as `is_usual` has seen.
    unsafe {
        let mut sum = job.sums;
        for channel in 0..job.channels {
            let c = job.cs.cast::<i32>().add(3 * channel);
            let (bias, multiplier, shift) = (*c, *c.add(1), !*c.add(2) & 31);
            let mut out = job.out.cast::<i8>().cast_mut().add(channel);
            let end = sum.byte_add(job.bytes);
            while sum != end {
                // Halves up, as `high_mul`: twice the sum fits.
                let product = i64::from((*sum).wrapping_add(bias) << 1) * i64::from(multiplier);
                let high = (product >> 32) as i32 + (product as u32 >> 31) as i32;
                // Halves away from zero: less one if negative, shifted by one less, and the last bit rounds up.
                let halves = (high + (high >> 31)) >> shift;
                let value = ((halves + 1) >> 1) + job.zero;
                *out = value.clamp(-128, 127) as i8;
                sum = sum.add(1);
                out = out.wrapping_offset(job.apart);
            }
            sum = sum.byte_add(job.skip);
        }
    }
}

/// Sums of a block, four rows at a time. `$begin`: what their sums of a group begin with, from its first words of activations, which
/// are moved on; `$line`: adds a line's products; `$lines`: lines of a group; `$end`: of a row's sum of a group.
macro_rules! blocks {
    ($(#[$meta:meta])* $name:ident, $begin:expr, $line:ident, $lines:literal, $end:expr) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// What `job` describes lies in memory, at least a group, and the sums may be written.
        pub unsafe fn $name(job: &mut Block) {
            // SAFETY: the caller's.
            unsafe {
                let _table = job.table;
                for row in (0..16).step_by(4) {
                    let (mut x, mut codes, mut scales) = (job.x, job.codes.add(4 * row), job.scales.add(row));
                    let mut sums = [0i32; 4];
                    while x != job.x_end {
                        let begin: fn(&mut *const u32) -> u32 = $begin;
                        let [mut a, mut b, mut c, mut d] = [begin(&mut x); 4];
                        let group_end = x.add(4 * $lines);
                        while x != group_end {
                            let four = [*x, *x.add(1), *x.add(2), *x.add(3)];
                            $line!(four, codes, 0, _table, a);
                            $line!(four, codes, 4, _table, b);
                            $line!(four, codes, 8, _table, c);
                            $line!(four, codes, 12, _table, d);
                            x = x.add(4);
                            codes = codes.add(64);
                        }
                        let end: fn(u32) -> i32 = $end;
                        let scaled = |sum: u32, n: usize| end(sum).wrapping_mul(i32::from(*scales.add(n)));
                        sums[0] = sums[0].wrapping_add(scaled(a, 0));
                        sums[1] = sums[1].wrapping_add(scaled(b, 1));
                        sums[2] = sums[2].wrapping_add(scaled(c, 2));
                        sums[3] = sums[3].wrapping_add(scaled(d, 3));
                        scales = scales.add(16);
                    }
                    *job.sums.add(row).cast::<[i32; 4]>() = sums;
                }
            }
        }
    };
}

/// Eight codes, two to a product.
macro_rules! masked {
    ($x:ident, $codes:ident, $at:literal, $table:ident, $sum:ident) => {
        let word = *$codes.add($at).cast::<u32>();
        $sum = $sum.wrapping_add((word & 0xF_000F).wrapping_mul($x[0]));
        $sum = $sum.wrapping_add((word >> 4 & 0xF_000F).wrapping_mul($x[1]));
        $sum = $sum.wrapping_add((word >> 8 & 0xF_000F).wrapping_mul($x[2]));
        $sum = $sum.wrapping_add((word >> 12 & 0xF_000F).wrapping_mul($x[3]));
    };
}

/// Eight codes, whose levels two and two are in the table, at places that `$mask` leaves; `$last`: the last byte's, before that. Each
/// product is one less, and what its lower half holds never below 0. In assembly, as [`eight`] is.
macro_rules! looked_up {
    ($x:ident, $codes:ident, $at:literal, $table:ident, $sum:ident, $mask:literal, $last:literal) => {
        core::arch::asm!(
            "lw {word}, {at}({codes})",
            "slli {pair}, {word}, 2",
            looked_up!(@pair "{x0}"),
            "srli {pair}, {word}, 6",
            looked_up!(@pair "{x1}"),
            "srli {pair}, {word}, 14",
            looked_up!(@pair "{x2}"),
            $last,
            looked_up!(@pair "{x3}"),
            at = const $at,
            codes = in(reg) $codes,
            table = in(reg) $table,
            mask = in(reg) $mask,
            less = in(reg) -(3 << 14),
            x0 = in(reg) $x[0],
            x1 = in(reg) $x[1],
            x2 = in(reg) $x[2],
            x3 = in(reg) $x[3],
            word = out(reg) _,
            pair = out(reg) _,
            sum = inout(reg) $sum,
            options(nostack, readonly, preserves_flags),
        )
    };
    (@pair $x:literal) => {
        concat!(
            "and {pair}, {pair}, {mask}
            add {pair}, {pair}, {table}
            lw {pair}, ({pair})
            mul {pair}, {pair}, ",
            $x,
            "
            add {pair}, {pair}, {less}
            srai {pair}, {pair}, 16
            add {sum}, {sum}, {pair}"
        )
    };
}
macro_rules! by_byte {
    ($($job:tt)*) => { looked_up!($($job)*, 0x3FC, "srli {pair}, {word}, 22") };
}
/// By T4's windows, of which the last goes around the word's end.
macro_rules! by_window {
    ($($job:tt)*) => { looked_up!($($job)*, 0xFFC, "srli {pair}, {word}, 22\nslli {word}, {word}, 10\nor {pair}, {pair}, {word}") };
}

/// Four weights of 8 bits.
macro_rules! whole {
    ($x:ident, $codes:ident, $at:literal, $table:ident, $sum:ident) => {
        let weight = |n: usize| i32::from(*$codes.add($at + n).cast::<i8>()) as u32;
        $sum = $sum.wrapping_add(weight(0).wrapping_mul($x[0]));
        $sum = $sum.wrapping_add(weight(1).wrapping_mul($x[1]));
        $sum = $sum.wrapping_add(weight(2).wrapping_mul($x[2]));
        $sum = $sum.wrapping_add(weight(3).wrapping_mul($x[3]));
    };
}

blocks! {
    /// Codes whose levels are 8 less.
    uniform,
    |x| {
        let start = **x;
        *x = x.add(1);
        start
    },
    masked,
    4,
    |sum| (sum as i32 >> 16) + 1
}
blocks! {
    /// Codes whose levels are in the table: 16 products, each one less.
    codebook, |_| 0, by_byte, 4, |sum| sum as i32 + 16
}
blocks! {
    /// T4's codes.
    windows, |_| 0, by_window, 4, |sum| sum as i32 + 16
}
blocks! {
    /// Weights of 8 bits.
    bytes, |_| 0, whole, 8, |sum| sum as i32
}

/// See `thumb.rs`.
///
/// # Safety
/// As there.
pub unsafe fn pairs(levels: *const u32, table: *mut u32, end: *const u32, shared: usize) {
    // SAFETY: the caller's.
    unsafe {
        let (mut high, mut to) = (levels, table);
        while to.cast_const() != end {
            let low = levels.byte_add(((high.addr() - levels.addr()) & shared) * 16);
            for at in (0..16).step_by(4) {
                let ([a, b, c, d], high) = (*low.add(at).cast::<[u32; 4]>(), *high << 16);
                let four = [high.wrapping_add(a), high.wrapping_add(b), high.wrapping_add(c), high.wrapping_add(d)];
                *to.add(at).cast() = four;
            }
            (high, to) = (high.add(1), to.add(16));
        }
    }
}
