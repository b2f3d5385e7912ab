//! What ops do with the elements of a row, in a form that a compiler turns into vectors: no branch that depends on an element,
//! no call. Each backend compiles these same lines for its instructions ([`crate::kernels::rows`]); of glu x86-64 has its own.

use core::hint::black_box;

use crate::fixed::requantize::{amax, round_right};
use crate::fixed::rope;
use crate::fixed::rsqrt::rsqrt;
use crate::fixed::sigmoid::sigmoid;
use crate::fixed::{saturate, shift_round};
use crate::image::tensors::{BLOCK, Vector16};
use crate::kernels::scalar::int8::Output;

/// Bits of |x| that enter the sum of squares: 2^17 squares of 23 bits fit u64.
const SQUARE_BITS: u32 = 23;
/// Fraction bits of the normalised value before gamma.
pub const NORM_FRAC: i32 = 22;

/// The loop with `round(v)` as a rounding shift by `shift`; of hosts, for vectors, a second one without that function's branches.
macro_rules! with_shift {
    ($shift:expr, |$round:ident| $loop:expr) => {
        match u32::try_from($shift) {
            #[cfg(mote_vector)]
            Ok(right @ 1..64) => {
                let $round = |v: i64| round_right(v, right);
                $loop
            }
            _ => {
                let $round = |v: i64| shift_round(v, $shift);
                $loop
            }
        }
    };
}

/// `gate = silu(gate) * up`; `shift` brings the product to the result's fraction bits. `frac`: of the gate, 0 to 28.
#[cfg_attr(mote_vector, inline(always))]
pub fn glu(gate: &mut [i32], up: &[i32], frac: i32, shift: i32) {
    with_shift!(shift, |round| {
        for (g, u) in gate.iter_mut().zip(up) {
            *g = saturate(round(i64::from(silu(*g, frac)) * i64::from(*u)));
        }
    });
}

/// `x * sigmoid(x)` for `x` with `frac` fraction bits (0 to 28); the result has as many.
#[cfg_attr(mote_vector, inline(always))]
pub fn silu(x: i32, frac: i32) -> i32 {
    saturate(round_right(i64::from(x) * sigmoid(x, frac), 31))
}

/// See [`crate::kernels::rows::requantize`].
#[cfg_attr(mote_vector, inline(always))]
pub fn requantize(
    sums: &[[i64; BLOCK]],
    (mults, biases): &([u16; BLOCK], [i64; BLOCK]),
    shift: i32,
    how: &Output,
    out: &mut [i8],
    (stride, width): (usize, usize),
) -> Option<()> {
    with_shift!(shift, |round| {
        for (sums, out) in sums.iter().zip(out.chunks_mut(stride.max(1))) {
            let mut bytes = [0; BLOCK];
            for (((byte, sum), mult), bias) in bytes.iter_mut().zip(sums).zip(mults).zip(biases) {
                *byte = how.clamp(saturate(round(sum * i64::from(*mult) + bias)));
            }
            match out.first_chunk_mut() {
                Some(out) if width == BLOCK => *out = bytes,
                _ => out.get_mut(..width)?.iter_mut().zip(bytes).for_each(|(out, byte)| *out = byte),
            }
        }
    });
    Some(())
}

/// In-place Walsh-Hadamard transform of each `2^log2` values, not normalised. Returns the bits by which the values
/// were shifted right beforehand, so that no sum can overflow.
#[cfg_attr(mote_vector, inline(always))]
pub fn hadamard(values: &mut [i32], log2: u32) -> i32 {
    let bits = 32 - amax(values).leading_zeros();
    let lost = (bits + log2).saturating_sub(30);
    if lost > 0 {
        for v in values.iter_mut() {
            let twice = *v >> (lost.wrapping_sub(1) & 31);
            *v = twice - (twice >> 1); // as `round_right`
        }
    }
    let mut done = 0;
    // Distances that the compiler does not know: else it would take one element each of 16 chunks for a vector.
    if cfg!(mote_vector) && log2 >= 6 {
        let (step, mut rest) = (black_box(64), &mut *values);
        while let Some(chunk) = rest.first_chunk_mut::<64>() {
            if let ([a, b, c, d], _) = chunk.as_chunks_mut() {
                let ([a0, b0], [c0, d0]) = (pair(sixteen(*a), sixteen(*b)), pair(sixteen(*c), sixteen(*d)));
                ([*a, *c], [*b, *d]) = (pair(a0, c0), pair(b0, d0));
            }
            rest = core::mem::take(&mut rest).get_mut(step..).unwrap_or_default();
        }
        done = 6;
    } else if cfg!(mote_vector) && log2 >= 4 {
        let (step, mut rest) = (black_box(16), &mut *values);
        while let Some(chunk) = rest.first_chunk_mut() {
            *chunk = sixteen(*chunk);
            rest = core::mem::take(&mut rest).get_mut(step..).unwrap_or_default();
        }
        done = 4;
    } else if cfg!(not(mote_vector)) && log2 >= 2 {
        // Small cores: loops over pairs, and over pairs of pairs, cost more than the sums.
        for four in values.as_chunks_mut::<4>().0 {
            let [a, b, c, d] = *four;
            let [[e, f], [g, h]] = [[a, c], [b, d]].map(|[low, high]| [low.wrapping_add(high), low.wrapping_sub(high)]);
            *four = [e.wrapping_add(g), e.wrapping_sub(g), f.wrapping_add(h), f.wrapping_sub(h)];
        }
        done = 2;
    }
    // Two stages in one pass over memory.
    while cfg!(mote_vector) && done + 2 <= log2 {
        let quarter = 1usize << done;
        let mut rest = &mut *values;
        while let Some((four, after)) = core::mem::take(&mut rest).split_at_mut_checked(4 * quarter) {
            let mut parts = four.chunks_exact_mut(quarter);
            if let (Some(a), Some(b), Some(c), Some(d)) = (parts.next(), parts.next(), parts.next(), parts.next()) {
                for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
                    let (e, f) = (a.wrapping_add(*b), a.wrapping_sub(*b));
                    let (g, h) = (c.wrapping_add(*d), c.wrapping_sub(*d));
                    (*a, *b, *c, *d) = (e.wrapping_add(g), f.wrapping_add(h), e.wrapping_sub(g), f.wrapping_sub(h));
                }
            }
            rest = after;
        }
        done += 2;
    }
    for stage in done..log2 {
        let half = 1usize << stage;
        let mut rest = &mut *values;
        while let Some((low, more)) = core::mem::take(&mut rest).split_at_mut_checked(half) {
            let Some((high, after)) = more.split_at_mut_checked(half) else { break };
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (a.wrapping_add(*b), a.wrapping_sub(*b));
            }
            rest = after;
        }
    }
    lost as i32
}

/// [`hadamard`], and what it shifted right goes left again.
#[cfg_attr(mote_vector, inline(always))]
pub fn transform(values: &mut [i32], log2: u32) {
    let lost = hadamard(values, log2);
    if lost > 0 {
        values.iter_mut().for_each(|v| *v = v.saturating_mul(1 << (lost & 31)));
    }
}

/// The first four stages.
#[cfg_attr(mote_vector, inline(always))]
fn sixteen(x: [i32; 16]) -> [i32; 16] {
    butterflies::<8>(butterflies::<4>(butterflies::<2>(butterflies::<1>(x))))
}

/// `(a + b, a - b)` of each element.
#[cfg_attr(mote_vector, inline(always))]
fn pair(a: [i32; 16], b: [i32; 16]) -> [[i32; 16]; 2] {
    let (mut sum, mut difference) = (a, a);
    for ((sum, difference), b) in sum.iter_mut().zip(&mut difference).zip(b) {
        (*sum, *difference) = (sum.wrapping_add(b), difference.wrapping_sub(b));
    }
    [sum, difference]
}

/// `(a + b, a - b)` for each pair `HALF` apart: every element and its partner, as one vector.
#[cfg_attr(mote_vector, inline(always))]
fn butterflies<const HALF: usize>(x: [i32; 16]) -> [i32; 16] {
    let mut out = [0; 16];
    for (i, (out, own)) in out.iter_mut().zip(x).enumerate() {
        let other = x[(i ^ HALF) & 15];
        *out = if i & HALF == 0 { own.wrapping_add(other) } else { other.wrapping_sub(own) };
    }
    out
}

/// See [`crate::kernels::rows::rotate`].
#[cfg_attr(mote_vector, inline(always))]
pub fn rotate(low: &mut [i32], high: &mut [i32], turns: &[(i32, i32)]) {
    for ((low, high), (cos, sin)) in low.iter_mut().zip(high).zip(turns) {
        (*low, *high) = rope::rotate(*low, *high, *cos, *sin);
    }
}

/// RMS norm of `x` (NUMERICS.md, section 7); `root` is sqrt(width), `eps` as the op carries it.
#[cfg_attr(mote_vector, inline(always))]
pub fn rms_norm(x: &[i32], y: &mut [i32], gamma: Option<Vector16<'_>>, eps: u64, root: (u64, i32), out_frac: i32) {
    let (unit, shift) = normaliser(x, eps, root);
    match gamma {
        Some(gamma) => {
            let last = NORM_FRAC + gamma.exponent - out_frac;
            with_shift!(shift, |normal| with_shift!(last, |round| {
                for ((y, x), g) in y.iter_mut().zip(x).zip(gamma.iter()) {
                    *y = saturate(round(i64::from(saturate(normal(i64::from(*x) * unit))) * i64::from(g)));
                }
            }));
        }
        None => {
            for (y, x) in y.iter_mut().zip(x) {
                *y = saturate(shift_round(shift_round(i64::from(*x) * unit, shift), NORM_FRAC - out_frac));
            }
        }
    }
}

/// `(unit, shift)`: `x / rms` in Q22 is `shift_round(x * unit, shift)`. `unit` is at most 2^31, so the product fits.
#[cfg_attr(mote_vector, inline(always))]
pub fn normaliser(x: &[i32], eps: u64, (root_mant, root_exp): (u64, i32)) -> (i64, i32) {
    let bits = 32 - amax(x).leading_zeros();
    let drop = bits.saturating_sub(SQUARE_BITS);
    let square = |x: i64| (x * x) as u64;
    let sum = if drop == 0 {
        x.iter().fold(0u64, |sum, x| sum.wrapping_add(square(i64::from(*x))))
    } else {
        x.iter().fold(0u64, |sum, x| sum.wrapping_add(square(round_right(i64::from(*x), drop))))
    };
    let sum = sum.saturating_add(eps.checked_shr(2 * drop).unwrap_or(0));
    if sum == 0 {
        return (0, 0);
    }
    let (root, half) = rsqrt(sum);
    let unit = shift_round((u64::from(root) * root_mant) as i64, 16);
    (unit, half as i32 + drop as i32 + root_exp - 8)
}

#[cfg(test)]
mod tests {
    use super::{hadamard, silu};

    #[test]
    fn silu_error() {
        for frac in [12, 16, 20, 24] {
            let mut worst = 0f64;
            let unit = 2f64.powi(-frac);
            for i in -400_000..=400_000i64 {
                let x = (i * (20 << frac) / 400_000) as i32;
                let value = f64::from(x) * unit;
                let exact = value / (1.0 + (-value).exp());
                worst =
                    worst.max((f64::from(silu(x, frac)) * unit - exact).abs() / (unit + exact.abs() * 2f64.powi(-14)));
            }
            assert!(worst < 1.0, "frac {frac}: {worst}");
        }
        assert_eq!(silu(0, 20), 0);
        assert_eq!(silu(i32::MAX, 20), i32::MAX);
        assert_eq!(silu(i32::MIN, 20), 0);
    }

    #[test]
    fn hadamard_is_its_own_inverse_times_the_block() {
        for log2 in 0..6 {
            let block = 1 << log2;
            let mut values: Vec<i32> = (0..96).map(|i: i32| i * i * 31 - 900 * i).collect();
            let before = values.clone();
            assert_eq!(hadamard(&mut values, log2), 0);
            let sums = before.chunks(block).map(|c| c.iter().sum::<i32>());
            assert!(sums.eq(values.iter().step_by(block).copied()));
            // Element i of a block: signs by the bits that i and j share.
            let sign = |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 1 } else { -1 };
            for (got, from) in values.chunks(block).zip(before.chunks(block)) {
                let exact = |i: usize| from.iter().enumerate().map(|(j, x)| sign(i, j) * x).sum::<i32>();
                assert!(got.iter().enumerate().all(|(i, got)| *got == exact(i)), "{log2}");
            }
            assert_eq!(hadamard(&mut values, log2), 0);
            assert!(values.iter().zip(&before).all(|(a, b)| *a == block as i32 * b));
        }
    }

    #[test]
    fn hadamard_never_overflows() {
        for extreme in [i32::MIN, i32::MAX] {
            let mut values = [extreme; 256];
            let lost = hadamard(&mut values, 8);
            let exact = f64::from(extreme) * 256.0 * 2f64.powi(-lost);
            assert!((f64::from(values[0]) - exact).abs() <= 256.0, "{} {exact}", values[0]);
            assert!(values[1..].iter().all(|v| *v == 0));
        }
    }
}
