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
//! A cache of 4 bits holds keys and values after a Walsh-Hadamard transform: the query gets the same, the result the inverse
//! (NUMERICS.md, section 9.1).
//!
//! Threads take heads; each has its own scratch for `s`, then `w`. A head is a unit.

use super::cache::split;
#[cfg(feature = "steps")]
use super::cost::Units;
use super::{I32Rows, OpDef, Overlap, Run, any_slot, arg, cache_arg, ensure, slot_arg};
use crate::fixed::Scale;
use crate::image::plan::{Kind, Rows};
use crate::image::{Image, Op};
use crate::kernels::Head;
use crate::kernels::rows::attend;
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

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let q = &slot_arg(image, op, 0, Kind::I32);
    let q = q.as_ref()?;
    let cache = &cache_arg(image, op, 1);
    let cache = cache.as_ref()?;
    let scratch = &any_slot(image, op, 2);
    let scratch = scratch.as_ref()?;
    let out = &slot_arg(image, op, 3, Kind::I32);
    let out = out.as_ref()?;
    let heads = arg(op, 4)?;
    ensure(q.rows == Rows::Batch && out.rows == Rows::Batch && scratch.rows == Rows::ThreadContext)?;
    ensure(heads.checked_mul(cache.head_dim)? == q.cols && q.cols == out.cols)?;
    ensure(heads.is_multiple_of(cache.heads) && heads != 0)?;
    ensure(arg(op, 5)? < 1 << 16 && (-64..=64).contains(&(arg(op, 6)? as i32)))
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let q_slot = &slot_arg(r.image, op, 0, Kind::I32);
    let q_slot = q_slot.as_ref()?;
    let cache_slot = &cache_arg(r.image, op, 1);
    let cache_slot = cache_slot.as_ref()?;
    let scratch_slot = &any_slot(r.image, op, 2);
    let scratch_slot = scratch_slot.as_ref()?;
    let out_slot = &slot_arg(r.image, op, 3, Kind::I32);
    let out_slot = out_slot.as_ref()?;
    let heads = arg(op, 4)?;
    let unit = Scale { mant: arg(op, 5)?, exp: arg(op, 6)? as i32 };
    let window = match arg(op, 7)? as usize {
        0 => usize::MAX,
        window => window,
    };
    let (rows, first, context) = (r.rows as usize, r.position as usize, r.limits.context as usize);
    let source = (op.flags & SOURCE != 0).then_some(r.source as usize);
    let (pool, isa, part) = (r.pool, r.kernels.isa, r.part.of(heads as usize));
    let [q, cache, scratch, out] = r.slots([q_slot, cache_slot, scratch_slot, out_slot])?;
    let q = I32Rows::new(q_slot, q)?;
    let (q_stride, q_all) = (q.stride, &*q.data);
    let cache = split(cache_slot, cache, context)?;
    let out = I32Rows::new(out_slot, out)?;
    let scratch = crate::view::as_i32(scratch)?;
    let head_dim = cache_slot.head_dim as usize;
    let sharing = heads.checked_div(cache_slot.heads)? as usize;
    let (k_codes, v_codes) = (as_i8(cache.k_codes), as_i8(cache.v_codes));
    let (k_scales, v_scales) = (&*cache.k_scales, &*cache.v_scales);
    let (code_bytes, scale_bytes) = cache_slot.kind.cached(head_dim);
    let cols = part.start.checked_mul(head_dim)?..part.end.checked_mul(head_dim)?;
    let shape = Shape { rows, stride: out.stride, cols, granule: head_dim };
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
                let codes = span.start * code_bytes..span.end * code_bytes;
                let scales = span.start * scale_bytes..span.end * scale_bytes;
                let done = (|| {
                    let head = Head {
                        k: k_codes.get(codes.clone())?,
                        k_scales: k_scales.get(scales.clone())?,
                        v: v_codes.get(codes)?,
                        v_scales: v_scales.get(scales)?,
                        kind: cache_slot.kind,
                    };
                    let q = q_all.get(row.checked_mul(q_stride)?..)?.get(start..)?.get(..head_dim)?;
                    let out = super::part(columns.row(row), start - cols.start, head_dim)?;
                    attend(isa, &head, (q, i32::from(q_slot.frac)), unit, scratch, (out, i32::from(out_slot.frac)))
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

/// The units: heads. The figure counts the positions that the last row sees.
#[cfg(feature = "steps")]
pub(crate) fn units(r: &Run<'_>, op: &Op) -> Option<Units> {
    let q = &slot_arg(r.image, op, 0, Kind::I32);
    let q = q.as_ref()?;
    let (heads, window) = (arg(op, 4)?, arg(op, 7)?);
    let seen = if op.flags & SOURCE != 0 { r.source } else { r.position.saturating_add(r.rows) };
    let seen = if window == 0 { seen } else { seen.min(window) } as usize;
    // A position is a product of two rows, an exponential, and a row that is added; whoever looks has to be quantized.
    let each = (2 * q.cols.checked_div(heads)? as usize).saturating_add(POSITION);
    Some(Units::new(heads as usize, &[r.rows_of(q), seen + 1, each]))
}

/// Multiply-accumulates that a position takes besides the products.
#[cfg(feature = "steps")]
const POSITION: usize = 16;

/// `n / each`, 0 if `each` is: a division that cannot fault.
fn heads_before(n: usize, each: usize) -> usize {
    n.checked_div(each).unwrap_or(0)
}
