//! Convolutions, fully connected layers and sums of int8 with AVX-512 VNNI, without patches.
//!
//! ```text
//! for each region of pixels:
//!   its inputs, raised by 128, the zero point outside the image
//!   for each pair of 16 output channels:
//!     the pair's weights, turned: lines of 4 inputs of 16 channels
//!     for each tile of up to 8 pixels:
//!       sums = what they begin with
//!       for each line: sums[pixel] += line * 4 inputs of the pixel, broadcast from where they lie
//!       elements of the sums, 64 at a time
//! ```
//!
//! Taps outside the image add the same to all sums. Rows of pixels that have such begin with that, and multiply the rows of taps inside.
//!
//! A window's inputs lie in runs: a row of taps side by side, or a tap. Runs are padded to whole words of 4, with weights 0 for what lies
//! beyond. A depthwise convolution turns its inputs instead, to lines of 4 taps above one another of 16 channels, which neighbouring
//! pixels share.
//!
//! Sums to elements: TFLite rounds twice, `y = (x m + 2^30) >> 31`, then `y / 2^s`, halves away from zero. With `h = 2^(s - 1)` that is
//! `(y + h - (y < 0)) >> s`; where `s` is 0 it is `y`. Sums begin with `O` more than they should: for any `m` there is an `O` of 29 to 31
//! bits such that `O m` is an odd multiple of 2^30. Then `X = x + O` is an unsigned number, `(X m) >> 31` is `y + (O m - 2^30) / 2^31`, and
//! half is rounded up without a sum: what is too much is taken off later, from 32 bits, when `h` is added, and the zero point times `2^s`.
//! With doubled multipliers `(X m) >> 31` is the upper half of a product. That holds for sums below 2^29 ([`fits`]); what else there is the
//! loops of [`crate::kernels::vector::int8`] do. As there, all of a region is read before any of it is written.

mod add;
mod conv2d;
mod depthwise_conv2d;

use core::arch::x86_64::*;
use core::cell::Cell;
use core::mem::MaybeUninit;

pub use add::add;
pub use conv2d::conv2d;
pub use depthwise_conv2d::{above_one_another, depthwise_conv2d};

use crate::fixed::tflite::Rounding;
use crate::image::tensors::BLOCK;
use crate::kernels::scalar::int8::{Channel, Input, Output, Window};
use crate::kernels::vector::int8::{Region, reach};

/// 16 numbers of 32 bits, or 64 bytes.
type V = __m512i;

/// Bytes of a region's inputs, bytes beyond that may be read and written, and its pixels, at most. All of it lies on the stack.
const REGION: usize = 64 << 10;
const BEYOND: usize = 128;
const MOST_PIXELS: usize = 2048;

/// Room for a region's inputs, from a line of the cache on.
#[repr(align(64))]
struct Room([MaybeUninit<i8>; LINE + REGION + BEYOND]);
const LINE: usize = 64;

impl Room {
    const NEW: Self = Self([MaybeUninit::uninit(); _]);
}

/// Words of a window, 4 inputs each, at most.
const MOST_WORDS: usize = 576;
/// The largest bias: with that and 4 `MOST_WORDS` products of 16 bits a sum is less than 2^29. And the largest shift `s`: elements times
/// `2^s` are as small.
const MOST_BIAS: i32 = 1 << 28;
const MOST_SHIFT: i32 = 21;
/// `vpdpbusd` multiplies unsigned with signed bytes: inputs are raised by so much.
const RAISED: i32 = 128;

/// How the sums of 16 channels become elements.
#[derive(Clone, Copy)]
struct Numbers {
    /// What sums begin with: the bias, less what zero points add, and `O`.
    start: V,
    /// Doubled multipliers, of even channels and of odd ones in their places.
    multipliers: [V; 2],
    /// What is added to products: `h`, and the zero point times `2^s`, less what `O` has made too much.
    added: V,
    /// Less than which are those that then are moved by 1, or by nothing where `s` is 0.
    least: V,
    moved: V,
    shift: V,
}

/// The bounds of elements.
#[derive(Clone, Copy)]
struct Bounds {
    min: V,
    max: V,
    /// Whether elements below the zero point are left as they are: if not, which way their halves go makes no difference.
    below: bool,
    /// Whether the bounds are not those of int8.
    narrow: bool,
}

/// Whether all sums of so many products are less than 2^29, and become elements by a product, roundings and a right shift.
#[inline]
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
fn fits(cs: &[Channel], products: usize, o: &Output) -> bool {
    let mut usual = o.rounding == Rounding::Double && products <= 4 * MOST_WORDS;
    for cs in cs.chunks(BLOCK) {
        let [bias, multiplier, shift] = channels_of(cs);
        let small = _mm512_cmple_epu32_mask(_mm512_abs_epi32(bias), _mm512_set1_epi32(MOST_BIAS));
        let right =
            _mm512_cmple_epu32_mask(_mm512_sub_epi32(_mm512_setzero_si512(), shift), _mm512_set1_epi32(MOST_SHIFT));
        let positive = _mm512_cmpgt_epi32_mask(multiplier, _mm512_setzero_si512());
        usual &= small & right & (positive | !of_first(cs.len())) == u16::MAX;
    }
    usual
}

/// A bit for each of the first elements.
#[inline(always)]
fn of_first(count: usize) -> u16 {
    ((1u32 << count.min(BLOCK)) - 1) as u16
}

/// Biases, multipliers and shifts of up to 16 channels; zeros beyond.
#[inline]
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
fn channels_of(cs: &[Channel]) -> [V; 3] {
    let words = 3 * cs.len().min(BLOCK);
    let thirds = _mm512_mullo_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
        _mm512_set1_epi32(3),
    );
    let load = |at: usize| {
        let mask = of_first(words.saturating_sub(16 * at));
        // SAFETY: the mask leaves out what is beyond.
        unsafe { _mm512_maskz_loadu_epi32(mask, cs.as_ptr().cast::<i32>().wrapping_add(16 * at)) }
    };
    let (a, b, c) = (load(0), load(1), load(2));
    let of = |first: i32| {
        let from = _mm512_add_epi32(thirds, _mm512_set1_epi32(first));
        let beyond = _mm512_cmpge_epi32_mask(from, _mm512_set1_epi32(32));
        _mm512_mask_permutexvar_epi32(_mm512_permutex2var_epi32(a, from, b), beyond, from, c)
    };
    [of(0), of(1), of(2)]
}

/// The channels from which on the sums of 16 are computed together: of the last block the last 16, if there are so many.
fn first_of(block: usize, all: usize) -> usize {
    (block * BLOCK).min(all.saturating_sub(BLOCK))
}

/// The numbers of up to 16 channels with these sums of weights, of so many products, at the output's zero point.
#[inline]
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
fn numbers_of_block(cs: &[Channel], weights: V, products: usize, (zx, zw): (i32, i32), zero: i32) -> Numbers {
    let [bias, multiplier, shift] = channels_of(cs);
    // sum of (x - zx)(w - zw) = sum of xw - zx * sum of w - zw * sum of x + products * zx * zw, the inputs raised.
    let zx = zx + RAISED;
    let constant = (products as i32).wrapping_mul(zx.wrapping_mul(zw));
    let less = _mm512_mullo_epi32(weights, _mm512_set1_epi32(zx));
    let bias = _mm512_add_epi32(bias, _mm512_set1_epi32(constant));
    numbers_of(_mm512_sub_epi32(bias, less), [multiplier, shift], zero)
}

/// Of sums that begin with `start`, and with `O`.
#[inline]
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
fn numbers_of(start: V, [multiplier, shift]: [V; 2], zero: i32) -> Numbers {
    let shift = _mm512_sub_epi32(_mm512_setzero_si512(), shift);
    let one = _mm512_set1_epi32(1);
    let half = _mm512_srli_epi32::<1>(_mm512_sllv_epi32(one, shift));
    // Of a multiplier that has `k` zeros at its end `O` is 2^(30 - k), and 2^29 if that is not more already.
    let last = _mm512_and_si512(multiplier, _mm512_sub_epi32(_mm512_setzero_si512(), multiplier));
    let k = _mm512_cvtps_epi32(_mm512_getexp_ps(_mm512_cvtepi32_ps(last)));
    let offset = _mm512_srlv_epi32(_mm512_set1_epi32(1 << 30), k);
    let even = _mm512_testn_epi32_mask(multiplier, one);
    let offset = _mm512_mask_or_epi32(offset, even, offset, _mm512_set1_epi32(1 << 29));
    // (O m - 2^30) / 2^31, of even and of odd channels.
    let odd = |v: V| _mm512_srli_epi64::<32>(v);
    let excess = |offset: V, multiplier: V| {
        let product = _mm512_mul_epu32(offset, multiplier);
        _mm512_srli_epi64::<31>(_mm512_sub_epi64(product, _mm512_set1_epi64(1 << 30)))
    };
    let evens = excess(offset, multiplier);
    let odds = _mm512_slli_epi64::<32>(excess(odd(offset), odd(multiplier)));
    let least = _mm512_add_epi32(half, _mm512_sllv_epi32(_mm512_set1_epi32(zero), shift));
    let doubled = _mm512_slli_epi32::<1>(multiplier);
    // As `rounded` has them.
    let turned = |v: V| _mm512_shuffle_epi32::<0b11_01_10_00>(v);
    Numbers {
        start: _mm512_add_epi32(start, offset),
        multipliers: [doubled, odd(doubled)],
        added: turned(_mm512_sub_epi32(least, _mm512_or_si512(evens, odds))),
        least: turned(least),
        moved: turned(_mm512_min_epi32(shift, one)),
        shift: turned(shift),
    }
}

#[inline]
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
fn bounds_of(o: &Output) -> Bounds {
    Bounds {
        min: _mm512_set1_epi8(o.min as i8),
        max: _mm512_set1_epi8(o.max as i8),
        below: o.min < o.zero_point,
        narrow: (o.min, o.max) != (i8::MIN.into(), i8::MAX.into()),
    }
}

/// Sums as elements, not limited yet. Of each 4, the second and the third have changed places.
#[inline]
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
fn rounded<const BELOW: bool>(x: V, n: &Numbers) -> V {
    let even = _mm512_mul_epu32(x, n.multipliers[0]);
    let odd = _mm512_mul_epu32(_mm512_srli_epi64::<32>(x), n.multipliers[1]);
    let upper = _mm512_shuffle_ps::<0b11_01_11_01>(_mm512_castsi512_ps(even), _mm512_castsi512_ps(odd));
    let y = _mm512_add_epi32(_mm512_castps_si512(upper), n.added);
    if BELOW {
        let y = _mm512_mask_sub_epi32(y, _mm512_cmplt_epi32_mask(y, n.least), y, n.moved);
        return _mm512_srav_epi32(y, n.shift);
    }
    _mm512_srav_epi32(y, n.shift)
}

/// Where [`elements`] takes each byte from: the words of 128 bits have a quarter of each vector.
static ORDER: [u8; 64] = {
    let (mut order, mut at) = ([0; 64], 0);
    while at < 64 {
        let (vector, quad, element) = (at / 16, at / 4 % 4, [0, 2, 1, 3][at % 4]);
        order[at] = (16 * quad + 4 * vector + element) as u8;
        at += 1;
    }
    order
};

/// The elements of 4 times 16 sums. `BELOW`: [`Bounds::below`].
#[inline]
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
fn elements<const BELOW: bool>(sums: [V; 4], numbers: [&Numbers; 4], bounds: &Bounds) -> V {
    let of = |at: usize| rounded::<BELOW>(sums[at], numbers[at]);
    let mut bytes = _mm512_packs_epi16(_mm512_packs_epi32(of(0), of(1)), _mm512_packs_epi32(of(2), of(3)));
    if bounds.narrow {
        bytes = _mm512_min_epi8(_mm512_max_epi8(bytes, bounds.min), bounds.max);
    }
    // SAFETY: 64 bytes are there; the load asks for no alignment.
    _mm512_permutexvar_epi8(unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) }, bytes)
}

/// Stores 4 times 16 elements.
///
/// # Safety
/// There are 16 bytes at each place.
#[inline]
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
unsafe fn store(v: V, to: [*mut i8; 4]) {
    // SAFETY: as above; stores ask for no alignment.
    unsafe {
        _mm_storeu_si128(to[0].cast(), _mm512_castsi512_si128(v));
        _mm_storeu_si128(to[1].cast(), _mm512_extracti32x4_epi32::<1>(v));
        _mm_storeu_si128(to[2].cast(), _mm512_extracti32x4_epi32::<2>(v));
        _mm_storeu_si128(to[3].cast(), _mm512_extracti32x4_epi32::<3>(v));
    }
}

/// Stores the first `all` of each 16 elements of `count` pixels, 4 at most, side by side.
///
/// # Safety
/// There are so many bytes at `to`.
#[inline]
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
unsafe fn store_few(v: V, to: *mut i8, all: usize, count: usize) {
    let mut some = [0i8; 64];
    // SAFETY: as above; stores ask for no alignment.
    unsafe {
        if all == 8 && count == 4 {
            let v = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), v);
            return _mm256_storeu_si256(to.cast(), _mm512_castsi512_si256(v));
        }
        _mm512_storeu_si512(some.as_mut_ptr().cast(), v);
        for pixel in 0..count.min(4) {
            let from = some.as_ptr().add(pixel * BLOCK);
            to.add(pixel * all).copy_from_nonoverlapping(from, all.min(BLOCK));
        }
    }
}

/// Fills `bytes` bytes, and up to 63 beyond.
///
/// # Safety
/// They are there.
#[inline]
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
unsafe fn fill(to: *mut i8, bytes: usize, v: V) {
    for at in (0..bytes).step_by(64) {
        // SAFETY: as above; the store asks for no alignment.
        unsafe { _mm512_storeu_si512(to.add(at).cast(), v) };
    }
}

/// Copies inputs, raised, and writes up to 63 bytes beyond.
///
/// # Safety
/// There is so much room.
#[inline]
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
unsafe fn raise(to: *mut i8, from: &[Cell<i8>]) {
    let sign = _mm512_set1_epi8(i8::MIN);
    let (whole, rest) = from.as_chunks::<64>();
    // SAFETY: loads read what is there or what the mask says, no element of which is written meanwhile; nothing asks for alignment.
    unsafe {
        for (at, some) in whole.iter().enumerate() {
            let v = _mm512_loadu_si512(some.as_ptr().cast());
            _mm512_storeu_si512(to.add(64 * at).cast(), _mm512_xor_si512(v, sign));
        }
        if !rest.is_empty() {
            let v = _mm512_maskz_loadu_epi8(u64::MAX >> (64 - rest.len()), rest.as_ptr().cast());
            _mm512_storeu_si512(to.add(64 * whole.len()).cast(), _mm512_xor_si512(v, sign));
        }
    }
}

/// A region's inputs, raised, `[height, width, channels]`: the zero point outside the image; rows that no pixel sees are anything. Returns
/// where they are, their width, and the bytes from one row to the next: whole lines of the cache if there is room, since what is stored
/// across two takes longer. `None` if there is no room for them.
#[inline]
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
fn inputs_of(
    region: &Region,
    g: &Window,
    (image, zero): Input<'_, i8>,
    to: &mut Room,
) -> Option<(*const i8, usize, usize)> {
    let (width, start) = (reach(&g.x, region.columns), region.x * g.x.stride);
    let (left, first) = (g.x.pad.saturating_sub(start).min(width), start.saturating_sub(g.x.pad));
    let inside = (width - left).min(g.x.input.saturating_sub(first));
    let (height, row_bytes) = (reach(&g.y, region.rows), width * g.channels);
    let (left, inside) = (left * g.channels, inside * g.channels);
    if height.checked_mul(row_bytes)? > REGION {
        return None;
    }
    let lines = row_bytes.next_multiple_of(LINE);
    let step = if height * lines <= REGION { lines } else { row_bytes };
    let outside = _mm512_set1_epi8((zero + RAISED) as i8);
    // So that what is left of the image ends where a line does.
    let to = to.0.as_mut_ptr().cast::<i8>().wrapping_add(left.wrapping_neg() % LINE);
    for row in (0..height).filter(|row| row % g.y.stride < reach(&g.y, 1)) {
        let y = (region.y * g.y.stride + row).wrapping_sub(g.y.pad);
        // SAFETY: there is room for all rows and for what is written beyond; the next row overwrites that.
        unsafe {
            let to = to.add(row * step);
            if y < g.y.input {
                let from = image.get((y * g.x.input + first) * g.channels..)?.get(..inside)?;
                fill(to, left, outside);
                raise(to.add(left), from);
                fill(to.add(left + inside), row_bytes - left - inside, outside);
            } else {
                fill(to, row_bytes, outside);
            }
        }
    }
    Some((to, width, step))
}

/// Four times 128 bits.
#[inline]
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
fn joined(a: __m128i, b: __m128i, c: __m128i, d: __m128i) -> V {
    // Two instructions of 256 bits and one of 512 instead of three of those.
    let half = |low, high| _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high);
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(half(a, b)), half(c, d))
}

/// From each start `count` numbers, each `step` more than the one before.
#[inline(always)]
fn steps(all: &mut [MaybeUninit<u32>], starts: impl Iterator<Item = usize>, count: usize, step: usize) -> &[u32] {
    for (all, start) in all.chunks_exact_mut(count.max(1)).zip(starts) {
        let mut next = start as u32;
        for number in all {
            number.write(next);
            next = next.wrapping_add(step as u32);
        }
    }
    // SAFETY: there is a start for each `count` of them.
    unsafe { all.assume_init_ref() }
}
