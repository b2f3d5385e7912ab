//! Attention: softmax(q k^T) v over the cache, with grouped heads: causal, with an optional sliding window, or over a source.
//!
//! Arguments: q slot (I32, heads * head_dim columns), cache slot, scratch slot (I32, a context a thread), out slot
//! (I32, as q), heads, mantissa and exponent of log2(e) / sqrt(head_dim), window (0: none). Flag 1: every row sees all
//! positions of the source, and none other (encoders, cross-attention). NUMERICS.md, "attention".
//!
//! ```text
//! for each row (position p) and head h:
//!   q8, sq = quantize(q[h])                                    one scale a head and token, as for k and v
//!   s[t]   = (q8 . k8[t]) * sq * sk[t] * log2(e)/sqrt(d)       Q16, for t in window
//!   e[t]   = 2^(s[t] - max s)                                  Q30;  total = sum e
//!   w[t]   = e[t] * sv[t]                                      15 bits, against the largest scale's exponent
//!   out    = (sum w[t] * v8[t]) / total                        exact sums: int32 for 512 positions, then int64
//! ```
//!
//! The fraction that rounding takes from `w[t]` is carried to `w[t + 1]`. Rounded each by itself, thousands of small
//! weights beside one large (an attention sink) vanish together: 18 of 127 steps of error at 4000 positions, under 0.1
//! with the carry.
//!
//! Threads take heads; each has its own scratch for `s`, then `w`.

use super::cache::split;
use super::{I32Rows, OpDef, Overlap, Run, arg, ensure, part, slot_arg, unpack};
use crate::fixed::exp::exp2_neg_q16;
use crate::fixed::requantize::quantize_row;
use crate::fixed::rsqrt::recip;
use crate::fixed::{Scale, saturate, shift_round};
use crate::image::plan::{Kind, MAX_HEAD_DIM, Rows};
use crate::image::{Image, Op};
use crate::view::{Shape, as_i8, for_column_parts};

/// The op.
pub static OP: OpDef = OpDef {
    code: 8,
    name: "attention",
    args: 8,
    flags: SOURCE,
    slots: &[0, 1, 2, 3],
    overlap: Overlap::Apart,
    check,
    run,
};

/// Flag: attend to the whole source.
pub const SOURCE: u16 = 1;

/// Positions whose weighted sum fits int32 whatever bytes the cache holds: 512 * 32768 * -128 = -2^31.
const STRETCH: usize = 512;
/// Elements of the output summed together.
const LANES: usize = 8;

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let q = slot_arg(image, op, 0, Kind::I32)?;
    let cache = slot_arg(image, op, 1, Kind::Cache)?;
    let scratch = image.slot(arg(op, 2)?).ok()?;
    let out = slot_arg(image, op, 3, Kind::I32)?;
    let heads = arg(op, 4)?;
    ensure(q.rows == Rows::Batch && out.rows == Rows::Batch && scratch.rows == Rows::ThreadContext)?;
    ensure(heads.checked_mul(cache.head_dim)? == q.cols && q.cols == out.cols)?;
    ensure(heads.is_multiple_of(cache.heads) && heads != 0)?;
    ensure(arg(op, 5)? < 1 << 16 && (-64..=64).contains(&(arg(op, 6)? as i32)))
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let q_slot = slot_arg(r.image, op, 0, Kind::I32)?;
    let cache_slot = slot_arg(r.image, op, 1, Kind::Cache)?;
    let scratch_slot = r.image.slot(arg(op, 2)?).ok()?;
    let out_slot = slot_arg(r.image, op, 3, Kind::I32)?;
    let heads = arg(op, 4)?;
    let unit = Scale { mant: arg(op, 5)?, exp: arg(op, 6)? as i32 };
    let window = match arg(op, 7)? as usize {
        0 => usize::MAX,
        window => window,
    };
    let (rows, first, context) = (r.rows as usize, r.position as usize, r.limits.context as usize);
    let source = (op.flags & SOURCE != 0).then_some(r.source as usize);
    let pool = r.pool;
    let [q, cache, scratch, out] = r.slots([&q_slot, &cache_slot, &scratch_slot, &out_slot])?;
    let q = I32Rows::new(&q_slot, q)?;
    let (q_stride, q_all) = (q.stride, &*q.data);
    let cache = split(&cache_slot, cache, context)?;
    let out = I32Rows::new(&out_slot, out)?;
    let scratch = crate::view::as_i32(scratch)?;
    let head_dim = cache_slot.head_dim as usize;
    let sharing = heads.checked_div(cache_slot.heads)? as usize;
    let (k_codes, v_codes) = (as_i8(cache.k_codes), as_i8(cache.v_codes));
    let (k_scales, v_scales) = (cache.k_scales.as_chunks::<4>().0, cache.v_scales.as_chunks::<4>().0);
    let shape = Shape { rows, stride: out.stride, cols: out_slot.cols as usize, granule: head_dim };
    let each = context.next_multiple_of(4);
    for_column_parts(pool, (out.data, shape), (scratch, each), &|mut columns, scratch| {
        let cols = columns.cols();
        let mut start = cols.start;
        let mut head = heads_before(start, head_dim);
        while start < cols.end {
            let kv_head = heads_before(head, sharing);
            for (row, position) in (0..rows).zip(first..) {
                let seen = source.map_or((position + 1).saturating_sub(window)..position + 1, |source| 0..source);
                let span = kv_head * context + seen.start..kv_head * context + seen.end;
                let codes = span.start * head_dim..span.end * head_dim;
                let done = (|| {
                    let head = Head {
                        k: k_codes.get(codes.clone())?,
                        k_scales: k_scales.get(span.clone())?,
                        v: v_codes.get(codes)?,
                        v_scales: v_scales.get(span)?,
                    };
                    let q = q_all.get(row.checked_mul(q_stride)?..)?.get(start..)?.get(..head_dim)?;
                    let out = part(columns.row(row), start - cols.start, head_dim)?;
                    head.attend((q, i32::from(q_slot.frac)), unit, scratch, (out, i32::from(out_slot.frac)))
                })();
                if done.is_none() {
                    return;
                }
            }
            start += head_dim;
            head += 1;
        }
    })
}

/// `n / each`, 0 if `each` is: a division that cannot fault.
fn heads_before(n: usize, each: usize) -> usize {
    n.checked_div(each).unwrap_or(0)
}

/// Keys and values of one head, the positions that are attended to.
struct Head<'a> {
    k: &'a [i8],
    k_scales: &'a [[u8; 4]],
    v: &'a [i8],
    v_scales: &'a [[u8; 4]],
}

impl Head<'_> {
    fn attend(
        &self,
        (q, q_frac): (&[i32], i32),
        unit: Scale,
        scratch: &mut [i32],
        (out, out_frac): (&mut [i32], i32),
    ) -> Option<()> {
        let head_dim = q.len();
        let scores = scratch.get_mut(..self.k_scales.len())?;
        let mut q8 = [0i8; MAX_HEAD_DIM as usize];
        let q8 = q8.get_mut(..head_dim)?;
        let sq = quantize_row(q, q_frac, q8);
        let q_mant = (sq.mant * unit.mant + (1 << 15)) >> 16;

        let mut top = i32::MIN;
        let mut at = 0;
        for (score, packed) in scores.iter_mut().zip(self.k_scales) {
            let key = self.k.get(at..)?.get(..head_dim)?;
            at += head_dim;
            let dot: i32 = q8.iter().zip(key).map(|(q, k)| i32::from(*q) * i32::from(*k)).sum();
            let sk = unpack(*packed);
            let product = i64::from(dot) * i64::from(q_mant) * i64::from(sk.mant);
            *score = saturate(shift_round(product, sq.exp + sk.exp + unit.exp - 16 - 16));
            top = top.max(*score);
        }

        let base = self.v_scales.iter().map(|s| unpack(*s)).filter(|s| s.mant != 0).map(|s| s.exp).min().unwrap_or(0);
        let (mut total, mut carry) = (0u64, 1i64 << 30);
        for (score, packed) in scores.iter_mut().zip(self.v_scales) {
            let e = exp2_neg_q16(top.wrapping_sub(*score) as u32);
            total += u64::from(e);
            let sv = unpack(*packed);
            carry += (i64::from(e) * i64::from(sv.mant)) >> (sv.exp - base).clamp(0, 63);
            *score = (carry >> 31) as i32;
            carry &= (1 << 31) - 1;
        }

        // total is at least 2^30 (the largest score's own e), so it is normalised to [2^30, 2^31) by a right shift.
        let shift = 33u32.saturating_sub(total.leading_zeros());
        let inverse = i64::from(recip((total >> shift) as u32)); // 2^61 / (total >> shift)
        let mut lane = 0;
        for out in out.chunks_mut(LANES) {
            let sums = self.weighted_sum(scores, head_dim, lane);
            for (out, sum) in out.iter_mut().zip(sums) {
                let sum = shift_round(sum, shift as i32);
                *out = saturate(shift_round(sum * inverse, 30 + base - out_frac));
            }
            lane += LANES;
        }
        Some(())
    }

    /// `sum over t of weights[t] * v[t][lane .. lane + 8]`, exact.
    fn weighted_sum(&self, weights: &[i32], head_dim: usize, lane: usize) -> [i64; LANES] {
        let mut sums = [0i64; LANES];
        let mut at = lane;
        let width = head_dim.saturating_sub(lane).min(LANES);
        for stretch in weights.chunks(STRETCH) {
            let mut part = [0i32; LANES];
            for weight in stretch {
                let values = self.v.get(at..).and_then(|v| v.get(..width)).unwrap_or(&[]);
                at += head_dim;
                for (part, v) in part.iter_mut().zip(values) {
                    *part += *weight * i32::from(*v);
                }
            }
            for (sum, part) in sums.iter_mut().zip(part) {
                *sum += i64::from(part);
            }
        }
        sums
    }
}
