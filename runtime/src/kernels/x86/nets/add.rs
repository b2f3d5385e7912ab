//! Sums of two tensors.

use core::arch::x86_64::*;
use core::cell::Cell;

use super::super::avx512::BY_PATCHES;
use super::{Bounds, Numbers, V, bounds_of, elements, fits, numbers_of};
use crate::kernels::scalar::int8::{Output, Sum, Term};

type Cells<'a> = &'a [Cell<i8>];

/// See [`crate::kernels::scalar::int8::add`].
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
pub fn add(x: &[Cell<i8>], y: &[Cell<i8>], to: &[Cell<i8>], s: &Sum, o: &Output) {
    let [a, b, sum] = &s.terms;
    let channel = [0i32.to_le_bytes(), sum.multiplier.to_le_bytes(), sum.shift.to_le_bytes()];
    let usual = !s.subtract && sum.zero == 0 && sum.up == 0 && fits(&[channel], 1, o);
    let (Some(a), Some(b), true) = (Terms::new(a), Terms::new(b), usual) else {
        return (BY_PATCHES.int8.add)(x, y, to, s, o);
    };
    // What a plain term has left out.
    let of_plain = |t: &Terms| if t.plain { _mm512_mullo_epi32(t.zero, t.a) } else { _mm512_setzero_si512() };
    let plain = _mm512_add_epi32(of_plain(&a), of_plain(&b));
    let start = _mm512_sub_epi32(_mm512_setzero_si512(), plain);
    let numbers = numbers_of(start, [sum.multiplier, sum.shift].map(|v| _mm512_set1_epi32(v)), o.zero_point);
    let (count, numbers, bounds) = (x.len().min(y.len()).min(to.len()), &numbers, &bounds_of(o));
    // A plain term is the first.
    let (a, b, x, y) = if b.plain { (&b, &a, y, x) } else { (&a, &b, x, y) };
    let elements = (&x[..count], &y[..count], &to[..count]);
    match (a.plain, b.plain, bounds.below) {
        (false, _, false) => add_of::<false, false, false>(elements, s.backward, [a, b], numbers, bounds),
        (false, _, true) => add_of::<false, false, true>(elements, s.backward, [a, b], numbers, bounds),
        (_, false, false) => add_of::<true, false, false>(elements, s.backward, [a, b], numbers, bounds),
        (_, false, true) => add_of::<true, false, true>(elements, s.backward, [a, b], numbers, bounds),
        _ => add_of::<true, true, true>(elements, s.backward, [a, b], numbers, bounds),
    }
}

/// Of as many elements each.
#[inline(never)]
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
fn add_of<const PLAIN: bool, const SECOND: bool, const BELOW: bool>(
    (x, y, to): (Cells<'_>, Cells<'_>, Cells<'_>),
    backward: bool,
    [a, b]: [&Terms; 2],
    numbers: &Numbers,
    bounds: &Bounds,
) {
    let count = to.len();
    for done in (0..count).step_by(64) {
        let some = (count - done).min(64);
        let at = if backward { count - done - some } else { done };
        let mask = u64::MAX >> (64 - some);
        let mut sums = [numbers.start; 4];
        for (quarter, sum) in sums.iter_mut().enumerate() {
            let mask = (mask >> (16 * quarter)) as u16;
            // SAFETY: loads read what the mask says, no element of which is written meanwhile; they ask for no alignment.
            let of = |v: &[Cell<i8>]| unsafe {
                let from = v.as_ptr().cast::<i8>().wrapping_add(at + 16 * quarter);
                if some == 64 { _mm_loadu_si128(from.cast()) } else { _mm_maskz_loadu_epi8(mask, from) }
            };
            *sum = _mm512_add_epi32(*sum, _mm512_add_epi32(a.of::<PLAIN>(of(x)), b.of::<SECOND>(of(y))));
        }
        let v = elements::<BELOW>(sums, [numbers; 4], bounds);
        // SAFETY: a cell may be written through a shared reference; stores write what the mask says.
        unsafe {
            let to = to.as_ptr().cast::<i8>().cast_mut().add(at);
            if some == 64 { _mm512_storeu_si512(to.cast(), v) } else { _mm512_mask_storeu_epi8(to, mask, v) }
        }
    }
}

/// How a term of a sum comes to the scale of both: `((d m + 2^10 >> 11) + h - (d < 0)) >> s`. With the multiplier `a 2^(11 + s) + b` it is
/// `d a + (d b + 2^10 + 2^11 h - 2^11 (d < 0) >> 11 + s)`; the sign's part is the product of the upper halves.
struct Terms {
    zero: V,
    a: V,
    /// Pairs of int16: b and 2^11.
    b: V,
    /// `2^10 + 2^11 h`.
    added: V,
    /// `11 + s`.
    shift: __m128i,
    /// It is `d a`, which `zero` is left out of.
    plain: bool,
}

impl Terms {
    /// `None` if that is not all that is to do.
    #[inline]
    #[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
    fn new(t: &Term) -> Option<Self> {
        let shift = t.shift.unsigned_abs();
        let plain = t.multiplier == 1 << 30 && shift == 0;
        let usual = t.multiplier > 0 && (plain || (-4..0).contains(&t.shift)) && t.up == 20;
        if !usual || !(-128..=127).contains(&t.zero) {
            return None;
        }
        let right = 11 + shift;
        Some(Self {
            zero: _mm512_set1_epi32(t.zero),
            a: _mm512_set1_epi32(t.multiplier >> right),
            b: _mm512_set1_epi32(1 << 27 | (t.multiplier & ((1 << right) - 1))),
            added: _mm512_set1_epi32((1 << 10) + (1 << 11 << shift >> 1)),
            shift: _mm_cvtsi32_si128(right as i32),
            plain,
        })
    }

    /// Of 16 elements.
    #[inline]
    #[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
    fn of<const PLAIN: bool>(&self, x: __m128i) -> V {
        let x = _mm512_cvtepi8_epi32(x);
        if PLAIN {
            return _mm512_mullo_epi32(x, self.a);
        }
        let d = _mm512_sub_epi32(x, self.zero);
        let rest = _mm512_sra_epi32(_mm512_dpwssd_epi32(self.added, d, self.b), self.shift);
        _mm512_add_epi32(_mm512_mullo_epi32(d, self.a), rest)
    }
}
