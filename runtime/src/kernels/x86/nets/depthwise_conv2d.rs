//! Depthwise convolutions: inputs are turned, to lines of 4 taps above one another of 16 channels, which pixels side by side share.

use core::arch::x86_64::*;
use core::cell::Cell;
use core::mem::MaybeUninit;
use core::num::NonZeroUsize;

use super::super::avx512::BY_PATCHES;
use super::{
    Bounds, MOST_PIXELS, Numbers, REGION, Room, V, bounds_of, elements, first_of, fits, inputs_of, joined,
    numbers_of_block, of_first, steps, store, store_few,
};
use crate::image::tensors::BLOCK;
use crate::kernels::scalar::int8::{Channel, Input, Output, Weights, Window};
use crate::kernels::vector::int8::Region;

/// Lines of inputs and of weights of a depthwise convolution, at most.
const MOST_LINES: usize = 256;
const MOST_TAPS: usize = 64;

/// See [`crate::kernels::scalar::int8::depthwise_conv2d`]. Channels are made 16 at a time, the last ones perhaps for the second time.
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
pub fn depthwise_conv2d(
    g: &Window,
    multiplier: NonZeroUsize,
    (x, zx): Input<'_, i8>,
    (w, zw): Weights<'_>,
    cs: &[Channel],
    o: &Output,
    out: &[Cell<i8>],
) -> Option<()> {
    let (all, quads, products) = (cs.len(), g.y.kernel.div_ceil(4), g.y.kernel * g.x.kernel);
    let taps = quads * g.x.kernel;
    let size = Region::size(g, REGION, MOST_LINES / quads.max(1) * all, MOST_PIXELS);
    let (Some((rows, across)), 1, 1..=MOST_TAPS, true) = (size, multiplier.get(), taps, fits(cs, products, o)) else {
        return (BY_PATCHES.int8.depthwise_conv2d)(g, multiplier, (x, zx), (w, zw), cs, o, out);
    };
    let (mut room, mut lines) = (Room::NEW, [MaybeUninit::<V>::uninit(); MOST_LINES]);
    let (mut places, mut weights) = ([MaybeUninit::uninit(); MOST_PIXELS], [_mm512_setzero_si512(); MOST_TAPS]);
    let (bounds, weights) = (bounds_of(o), weights.get_mut(..taps)?);
    for region in Region::all(g, rows, across) {
        let (inputs, width, row_bytes) = inputs_of(&region, g, (x, zx), &mut room)?;
        // As many rows as lines have room for.
        let together = (MOST_LINES / (quads * width)).min(region.rows);
        let firsts = (0..together).map(|row| row * quads * width);
        let places = steps(places.get_mut(..together * region.columns)?, firsts, region.columns, g.x.stride);
        for block in 0..all.div_ceil(BLOCK) {
            let channel = first_of(block, all);
            let mut sums = _mm512_setzero_si512();
            for (at, weights) in weights.iter_mut().enumerate() {
                let (quad, kx) = (at / g.x.kernel, at % g.x.kernel);
                let mut rows = [_mm_setzero_si128(); 4];
                for (row, ky) in rows.iter_mut().zip(4 * quad..g.y.kernel) {
                    let from = w.get((ky * g.x.kernel + kx) * all + channel..)?.get(..all.min(BLOCK))?;
                    // SAFETY: the mask leaves out what is beyond.
                    *row = unsafe { _mm_maskz_loadu_epi8(of_first(all), from.as_ptr()) };
                }
                *weights = above_one_another(rows);
                sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), *weights);
            }
            let numbers =
                numbers_of_block(cs.get(channel..all.min(channel + BLOCK))?, sums, products, (zx, zw), o.zero_point);
            for row in (0..region.rows).step_by(together) {
                let rows = together.min(region.rows - row);
                let first = (((region.y + row) * g.x.output + region.x) * all, rows * region.columns * all);
                let d = Depthwise {
                    lines: lines.as_mut_ptr().cast(),
                    width,
                    places: places.get(..rows * region.columns)?,
                    weights,
                    numbers,
                    bounds,
                    zw,
                    out: out.get(first.0..)?.get(..first.1)?.as_ptr().cast::<i8>().cast_mut().wrapping_add(channel),
                    all,
                };
                let from = inputs.wrapping_add(row * g.y.stride * row_bytes + channel);
                // SAFETY: the region has the inputs of all rows and columns, and 16 bytes beyond; there is room for lines of so many
                // rows; the output has `all` elements of each pixel, of which the block's are 16, or all.
                unsafe {
                    columns_of(g, (from, row_bytes), (rows, width), all, d.lines);
                    match (g.x.kernel, bounds.below) {
                        (3, false) => depthwise::<3, false>(g, &d),
                        (3, true) => depthwise::<3, true>(g, &d),
                        (5, _) => depthwise::<5, true>(g, &d),
                        _ => depthwise::<0, true>(g, &d),
                    }
                }
            }
        }
    }
    Some(())
}

/// Byte `i` of each becomes part of word `i`.
#[inline]
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
pub fn above_one_another([a, b, c, d]: [__m128i; 4]) -> V {
    static ABOVE: [u8; 64] = {
        let (mut order, mut at) = ([0; 64], 0);
        while at < 64 {
            order[at] = (16 * (at % 4) + at / 4) as u8;
            at += 1;
        }
        order
    };
    // SAFETY: 64 bytes are there; the load asks for no alignment.
    _mm512_permutexvar_epi8(unsafe { _mm512_loadu_si512(ABOVE.as_ptr().cast()) }, joined(a, b, c, d))
}

/// What some rows of a block of 16 channels are made of.
struct Depthwise<'a> {
    /// Lines of `width` columns, `[rows, quads, width]`; where each pixel's begin.
    lines: *mut V,
    width: usize,
    places: &'a [u32],
    /// Lines of weights, `[quads, kernel]`.
    weights: &'a [V],
    numbers: Numbers,
    bounds: Bounds,
    /// The weights' zero point.
    zw: i32,
    /// The block's elements of the first pixel; the elements of a pixel.
    out: *mut i8,
    all: usize,
}

/// Each column's taps of 16 channels for each row of outputs, four rows of inputs at a time, as lines. What is beyond the kernel is
/// nobody's.
///
/// # Safety
/// There are inputs for so many rows of outputs, 16 of each column, and room for the lines.
#[inline]
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
unsafe fn columns_of(
    g: &Window,
    (from, row_bytes): (*const i8, usize),
    (rows, width): (usize, usize),
    all: usize,
    mut lines: *mut V,
) {
    for row in 0..rows {
        for quad in (0..g.y.kernel).step_by(4) {
            let mut taps = [from; 4];
            for (at, taps) in taps.iter_mut().enumerate() {
                let ky = (quad + at).min(g.y.kernel - 1);
                *taps = from.wrapping_add((row * g.y.stride + ky * g.y.dilation.get()) * row_bytes);
            }
            for column in 0..width {
                let mut v = [_mm_setzero_si128(); 4];
                // SAFETY: as above; neither loads nor the store ask for alignment.
                unsafe {
                    for (v, taps) in v.iter_mut().zip(taps) {
                        *v = _mm_loadu_si128(taps.add(column * all).cast());
                    }
                    _mm512_storeu_si512(lines.cast(), above_one_another(v));
                    lines = lines.add(1);
                }
            }
        }
    }
}

/// The elements of 16 channels of some pixels; of `KERNEL` columns, or of as many as there are.
///
/// # Safety
/// Each pixel has its lines and its elements.
#[inline(never)]
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
unsafe fn depthwise<const KERNEL: usize, const BELOW: bool>(g: &Window, d: &Depthwise<'_>) {
    let (kernel, step) = (if KERNEL == 0 { g.x.kernel } else { KERNEL }, g.x.dilation.get());
    let count = d.places.len();
    for first in (0..count).step_by(4) {
        let first = first.min(count.saturating_sub(4));
        let (mut sums, mut inputs) = ([d.numbers.start; 4], [_mm512_setzero_si512(); 4]);
        let (mut lines, mut to) = ([d.lines; 4], [d.out; 4]);
        for at in 0..4 {
            let pixel = (first + at).min(count - 1);
            lines[at] = d.lines.wrapping_add(d.places[pixel] as usize);
            to[at] = d.out.wrapping_add(pixel * d.all);
        }
        for (quad, weights) in d.weights.chunks_exact(kernel).enumerate() {
            let beyond = (4 * (quad + 1)).saturating_sub(g.y.kernel) as u32;
            let ones = _mm512_set1_epi32(0x0101_0101u32.unbounded_shr(8 * beyond) as i32);
            for (kx, weights) in weights.iter().enumerate() {
                for at in 0..4 {
                    // SAFETY: as above.
                    let line = unsafe { _mm512_loadu_si512(lines[at].add(quad * d.width + kx * step).cast()) };
                    sums[at] = _mm512_dpbusd_epi32(sums[at], line, *weights);
                    if d.zw != 0 {
                        inputs[at] = _mm512_dpbusd_epi32(inputs[at], line, ones);
                    }
                }
            }
        }
        if d.zw != 0 {
            for at in 0..4 {
                sums[at] = _mm512_sub_epi32(sums[at], _mm512_mullo_epi32(inputs[at], _mm512_set1_epi32(d.zw)));
            }
        }
        let v = elements::<BELOW>(sums, [&d.numbers; 4], &d.bounds);
        // SAFETY: as above.
        unsafe { if d.all < BLOCK { store_few(v, to[0], d.all, count.min(4)) } else { store(v, to) } }
    }
}
