//! Cache write: quantizes the keys and values of a step, a scale a head and token, into the layer's cache.
//!
//! Arguments: k slot, v slot (I32, heads * head_dim columns; overwritten if the cache has 4 bits), cache slot. Layout:
//! [`crate::image::plan::Kind::Cache`], [`crate::image::plan::Kind::Cache4`].

use super::{I32Rows, OpDef, Overlap, Run, cache_arg, ensure, pack, part, slot_arg};
use crate::image::plan::{Kind, Rows, Slot};
use crate::image::{Image, Op};
use crate::kernels::rows;
use crate::view;

/// The op.
pub static OP: OpDef =
    OpDef { code: 7, name: "cache", args: 3, flags: 0, slots: &[0, 1, 2], overlap: Overlap::Apart, check, run };

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let k = &slot_arg(image, op, 0, Kind::I32);
    let k = k.as_ref()?;
    let v = &slot_arg(image, op, 1, Kind::I32);
    let v = v.as_ref()?;
    let cache = &cache_arg(image, op, 2);
    let cache = cache.as_ref()?;
    let width = cache.heads.checked_mul(cache.head_dim)?;
    ensure(k.cols == width && v.cols == width && k.rows == Rows::Batch && v.rows == Rows::Batch)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let k = &slot_arg(r.image, op, 0, Kind::I32);
    let k = k.as_ref()?;
    let v = &slot_arg(r.image, op, 1, Kind::I32);
    let v = v.as_ref()?;
    let slot = &cache_arg(r.image, op, 2);
    let slot = slot.as_ref()?;
    let (count, first, context) = (r.rows as usize, r.position as usize, r.limits.context as usize);
    let isa = r.kernels.isa;
    let [k_bytes, v_bytes, cache] = r.slots([k, v, slot])?;
    let (mut keys, mut values) = (I32Rows::new(k, k_bytes)?, I32Rows::new(v, v_bytes)?);
    let cache = split(slot, cache, context)?;
    let (heads, head_dim) = (slot.heads as usize, slot.head_dim as usize);
    let (code_bytes, scale_bytes) = slot.kind.cached(head_dim);
    for (row, position) in (0..count).zip(first..) {
        let (key, value) = (keys.row(row)?, values.row(row)?);
        for head in 0..heads {
            let at = head * context + position;
            let sides = [
                (&mut *key, i32::from(k.frac), &mut *cache.k_codes, &mut *cache.k_scales),
                (&mut *value, i32::from(v.frac), &mut *cache.v_codes, &mut *cache.v_scales),
            ];
            for (from, frac, codes, scales) in sides {
                let codes = part(codes, at * code_bytes, code_bytes)?;
                let values = part(from, head * head_dim, head_dim)?;
                let scale = part(scales, at * scale_bytes, scale_bytes)?;
                if cfg!(feature = "cache4") && slot.kind == Kind::Cache4 {
                    *scale.first_chunk_mut()? = rows::quantize4(isa, values, frac, codes)?;
                } else {
                    *scale.first_chunk_mut()? = pack(rows::quantize(isa, values, frac, view::as_i8_mut(codes)));
                }
            }
        }
    }
    Some(())
}

/// The four streams of a cache.
pub(crate) struct Streams<'a> {
    pub k_codes: &'a mut [u8],
    pub v_codes: &'a mut [u8],
    pub k_scales: &'a mut [u8],
    pub v_scales: &'a mut [u8],
}

pub(crate) fn split<'a>(slot: &Slot, bytes: &'a mut [u8], context: usize) -> Option<Streams<'a>> {
    let all = (slot.heads as usize).checked_mul(context)?;
    let (code_bytes, scale_bytes) = slot.kind.cached(slot.head_dim as usize);
    let (codes, scales) = (all.checked_mul(code_bytes)?, all.checked_mul(scale_bytes)?);
    let (k_codes, rest) = bytes.split_at_mut_checked(codes)?;
    let (v_codes, rest) = rest.split_at_mut_checked(codes)?;
    let (k_scales, rest) = rest.split_at_mut_checked(scales)?;
    let (v_scales, _) = rest.split_at_mut_checked(scales)?;
    Some(Streams { k_codes, v_codes, k_scales, v_scales })
}
