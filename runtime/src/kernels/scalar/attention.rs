//! One head of attention over its cache (NUMERICS.md, sections 9 and 9.1).

use crate::fixed::exp::exp2_neg_q16;
use crate::fixed::requantize::{quantize_row, round_right};
use crate::fixed::rsqrt::recip;
use crate::fixed::{Scale, saturate, shift_round};
use crate::image::plan::{Kind, MAX_HEAD_DIM};
use crate::kernels::Head;
use crate::kernels::scalar::nibbles;
use crate::kernels::scalar::rows::{hadamard, transform};
use crate::ops::rope::log2_block;
use crate::ops::unpack;

/// Positions whose weighted sum fits int32 whatever bytes the cache holds: 512 * 32768 * -128 = -2^31.
const STRETCH: usize = 512;
/// Elements of the output summed together: what the registers of hosts hold, or of cores for which this is compiled without vectors.
const WIDE: usize = if VECTORS { 32 } else { NARROW };
const HALF: usize = if VECTORS { 16 } else { NARROW };
const VECTORS: bool = cfg!(all(mote_vector, not(target_arch = "riscv64")));
const NARROW: usize = 8;

/// What most of the time goes into, of a backend that has it in instructions of its own.
pub trait Loops {
    /// Whether `weighted` is fast for a `width` below `N`, too.
    const ANY_WIDTH: bool;

    /// `sum of q * k` of each key, exact: keys are one after the other, as many as scores.
    fn dots(q: &[i8], k: &[i8], scores: &mut [i32]);

    /// `sum over t of weights[t] * v[row * t..][..width]`, exact, as far as `v` goes; weights are 0 to 32768, at most `STRETCH`.
    fn weighted<const N: usize>(v: &[i8], row: usize, width: usize, weights: &[i32]) -> [i32; N];
}

/// As the compiler makes them.
struct Plain;

impl Loops for Plain {
    const ANY_WIDTH: bool = false;

    #[cfg_attr(mote_vector, inline(always))]
    fn dots(q: &[i8], k: &[i8], scores: &mut [i32]) {
        for (score, key) in scores.iter_mut().zip(k.chunks_exact(q.len().max(1))) {
            *score = dot(q, key);
        }
    }

    // All is of constant size, so that the sums stay in registers.
    #[cfg_attr(mote_vector, inline(always))]
    fn weighted<const N: usize>(v: &[i8], row: usize, _width: usize, weights: &[i32]) -> [i32; N] {
        let mut part = [0i32; N];
        let mut rest = v;
        for weight in weights {
            let Some(values) = rest.first_chunk::<N>() else { break };
            rest = rest.get(row..).unwrap_or(&[]);
            part.iter_mut().zip(values).for_each(|(part, v)| *part += *weight * i32::from(*v));
        }
        part
    }
}

/// How many rows of `width` elements, `row` apart, end in `v`.
#[cfg(any(target_arch = "x86_64", all(mote_vector, target_arch = "riscv64")))]
pub fn whole_rows(v: &[i8], row: usize, width: usize) -> usize {
    v.len().checked_sub(width).map_or(0, |more| more.checked_div(row).map_or(usize::MAX, |rows| rows + 1))
}

#[cfg_attr(mote_vector, inline(always))]
fn dot(q: &[i8], k: &[i8]) -> i32 {
    q.iter().zip(k).map(|(q, k)| i32::from(*q) * i32::from(*k)).sum()
}

/// See [`crate::kernels::rows::attend`].
#[cfg_attr(mote_vector, inline(always))]
pub fn attend(
    head: &Head<'_>,
    q: (&[i32], i32),
    unit: Scale,
    scratch: &mut [i32],
    out: (&mut [i32], i32),
) -> Option<()> {
    attend_by::<Plain, WIDE, HALF, NARROW>(head, q, unit, scratch, out)
}

/// The same with a backend's loops, which sum `W`, `H` or up to `R` elements of the output together.
#[cfg_attr(mote_vector, inline(always))]
pub fn attend_by<L: Loops, const W: usize, const H: usize, const R: usize>(
    head: &Head<'_>,
    q: (&[i32], i32),
    unit: Scale,
    scratch: &mut [i32],
    out: (&mut [i32], i32),
) -> Option<()> {
    // Of hosts each kind has loops of its own, that of 4 bits the compiler's.
    match head.kind {
        kind if cfg!(not(mote_vector)) => attend_to::<L, W, H, R>(head, kind, q, unit, scratch, out),
        Kind::Cache4 => attend_to::<Plain, WIDE, HALF, NARROW>(head, Kind::Cache4, q, unit, scratch, out),
        _ => attend_to::<L, W, H, R>(head, Kind::Cache, q, unit, scratch, out),
    }
}

#[cfg_attr(mote_vector, inline(always))]
fn attend_to<L: Loops, const W: usize, const H: usize, const R: usize>(
    head: &Head<'_>,
    kind: Kind,
    (q, q_frac): (&[i32], i32),
    unit: Scale,
    scratch: &mut [i32],
    (out, out_frac): (&mut [i32], i32),
) -> Option<()> {
    let head_dim = q.len();
    let four_bits = cfg!(feature = "cache4") && kind == Kind::Cache4;
    let (code_bytes, scale_bytes) = kind.cached(head_dim);
    let log2 = if four_bits { log2_block(head_dim) } else { 0 };
    let scores = scratch.get_mut(..head.k_scales.len() / scale_bytes)?;
    let mut q8 = [0i8; MAX_HEAD_DIM as usize];
    let q8 = q8.get_mut(..head_dim)?;
    let mut unpacked = [0i8; MAX_HEAD_DIM as usize];
    let unpacked = unpacked.get_mut(..head_dim)?;
    let sq = if four_bits {
        out.iter_mut().zip(q).for_each(|(to, from)| *to = *from); // a place to work in, until the result is there
        let lost = hadamard(out, log2);
        let sq = quantize_row(out, q_frac - lost, q8);
        Scale { exp: sq.exp + log2 as i32, ..sq } // q . k after both transforms is 2^log2 times what it was
    } else {
        quantize_row(q, q_frac, q8)
    };
    let q_mant = (sq.mant * unit.mant + (1 << 15)) >> 16;

    let keys = head.k.get(..scores.len().checked_mul(code_bytes)?)?;
    if four_bits {
        for (score, key) in scores.iter_mut().zip(keys.chunks_exact(code_bytes.max(1))) {
            nibbles::unpack(key, unpacked);
            *score = dot(q8, unpacked);
        }
    } else {
        L::dots(q8, keys, scores);
    }
    let mut top = i32::MIN;
    let places = || head.k_scales.chunks_exact(scale_bytes).map(scale);
    let shift = |sk: Scale| sq.exp + sk.exp + unit.exp - 16 - 16;
    let product = |dot: i32, sk: Scale| i64::from(dot) * i64::from(q_mant) * i64::from(sk.mant);
    if cfg!(mote_vector) && places().all(|sk| (1..64).contains(&shift(sk))) {
        // What all but extreme models have, without a branch in the loop.
        for (score, sk) in scores.iter_mut().zip(places()) {
            *score = saturate(round_right(product(*score, sk), shift(sk).unsigned_abs()));
            top = top.max(*score);
        }
    } else {
        for (score, sk) in scores.iter_mut().zip(places()) {
            *score = saturate(shift_round(product(*score, sk), shift(sk)));
            top = top.max(*score);
        }
    }

    for score in scores.iter_mut() {
        *score = exp2_neg_q16(top.wrapping_sub(*score) as u32) as i32; // at most 2^30
    }
    let exponents =
        head.v_scales.chunks_exact(scale_bytes).map(scale).map(|s| if s.mant == 0 { i32::MAX } else { s.exp });
    let base = exponents.min().filter(|exp| *exp != i32::MAX).unwrap_or(0);
    let (mut total, mut carry) = (0u64, 1i64 << 30);
    for (score, packed) in scores.iter_mut().zip(head.v_scales.chunks_exact(scale_bytes)) {
        let e = *score as u32;
        total += u64::from(e);
        let sv = scale(packed);
        carry += (i64::from(e) * i64::from(sv.mant)) >> (sv.exp - base).clamp(0, 63);
        *score = (carry >> 31) as i32;
        carry &= (1 << 31) - 1;
    }

    // total is at least 2^30 (the largest score's own e), so it is normalised to [2^30, 2^31) by a right shift.
    let shift = 33u32.saturating_sub(total.leading_zeros());
    let inverse = i64::from(recip((total >> shift) as u32)); // 2^61 / (total >> shift)
    let finish = |out: &mut [i32], sums: &[i64]| {
        for (out, sum) in out.iter_mut().zip(sums) {
            let sum = if shift == 0 { *sum } else { round_right(*sum, shift) };
            *out = saturate(shift_round(sum * inverse, 30 + base - out_frac + log2 as i32));
        }
    };
    let mut lane = 0;
    let (wide, rest) = if W > R { out.as_chunks_mut::<W>() } else { (&mut [][..], &mut *out) };
    for out in wide {
        finish(out, &weighted_sums::<L, W>(head.v, four_bits, scores, head_dim, lane));
        lane += W;
    }
    let (half, rest) = if H > R { rest.as_chunks_mut::<H>() } else { (&mut [][..], rest) };
    for out in half {
        finish(out, &weighted_sums::<L, H>(head.v, four_bits, scores, head_dim, lane));
        lane += H;
    }
    for out in rest.chunks_mut(R) {
        finish(out, &weighted_sums::<L, R>(head.v, four_bits, scores, head_dim, lane));
        lane += R;
    }
    if four_bits {
        transform(out, log2); // of what is 2^-log2 of the result: the transform is its own inverse times that
    }
    Some(())
}

/// The scale of a position, as a cache of 4 bits or of 8 has it.
#[cfg_attr(mote_vector, inline(always))]
fn scale(packed: &[u8]) -> Scale {
    match packed {
        [mant, exp] => Scale { mant: u32::from(*mant) << 8, exp: i32::from(*exp as i8) },
        [a, b, c, d] => unpack([*a, *b, *c, *d]),
        _ => Scale::default(),
    }
}

/// `sum over t of weights[t] * v[t][lane .. lane + N]`, exact; where a row ends before that, the rest is 0.
#[cfg_attr(mote_vector, inline(always))]
fn weighted_sums<L: Loops, const N: usize>(
    v: &[i8],
    four_bits: bool,
    weights: &[i32],
    head_dim: usize,
    lane: usize,
) -> [i64; N] {
    let mut sums = [0i64; N];
    let (mut at, row) = if four_bits { (lane / 2, head_dim / 2) } else { (lane, head_dim) };
    let width = head_dim.saturating_sub(lane).min(N);
    for stretch in weights.chunks(STRETCH) {
        let here = v.get(at..).unwrap_or(&[]);
        let part: [_; N] = if !four_bits && (L::ANY_WIDTH || width == N) {
            L::weighted(here, row, width, stretch)
        } else {
            partial_sums(here, row, four_bits, width, stretch)
        };
        at += row * stretch.len();
        for (sum, part) in sums.iter_mut().zip(part) {
            *sum += i64::from(part);
        }
    }
    sums
}

/// The same of one stretch, `row` bytes apart, of `width` elements, or of four bits.
#[cfg_attr(mote_vector, inline(always))]
fn partial_sums<const N: usize>(v: &[i8], row: usize, four_bits: bool, width: usize, weights: &[i32]) -> [i32; N] {
    let mut part = [0i32; N];
    let mut rest = v;
    for weight in weights {
        let values = rest;
        rest = rest.get(row..).unwrap_or(&[]);
        let mut some = [0i8; N];
        if !four_bits {
            some.iter_mut().zip(values.get(..width).unwrap_or(&[])).for_each(|(to, v)| *to = *v);
        } else if let (true, Some(values)) = (cfg!(mote_vector) && width == N, values.get(..N / 2)) {
            nibbles::unpack(values, &mut some);
        } else {
            nibbles::unpack(values.get(..width / 2).unwrap_or(&[]), &mut some);
        }
        part.iter_mut().zip(some).for_each(|(part, v)| *part += *weight * i32::from(v));
    }
    part
}
