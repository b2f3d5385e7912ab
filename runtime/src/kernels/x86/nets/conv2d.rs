//! Convolutions and fully connected layers: weights are turned, inputs broadcast from where they lie.

use core::arch::x86_64::*;
use core::cell::Cell;
use core::mem::MaybeUninit;
use core::num::NonZeroUsize;
use core::ops::Range;

use super::super::avx512::BY_PATCHES;
use super::super::sums_of_four;
use super::{
    Bounds, MOST_PIXELS, MOST_WORDS, Numbers, RAISED, REGION, Room, V, bounds_of, elements, first_of, fits, inputs_of,
    joined, numbers_of_block, steps, store, store_few,
};
use crate::image::tensors::BLOCK;
use crate::kernels::scalar::int8::{Channel, Input, Output, Weights, Window};
use crate::kernels::vector::int8::{Region, reach};

/// Pixels of a tile, at most, and blocks of 16 channels side by side.
const TILE: usize = 8;
const PAIR: usize = 2;

/// See [`crate::kernels::scalar::int8::conv2d`].
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
pub fn conv2d(
    g: &Window,
    groups: NonZeroUsize,
    (x, zx): Input<'_, i8>,
    (w, zw): Weights<'_>,
    cs: &[Channel],
    o: &Output,
    out: &[Cell<i8>],
) -> Option<()> {
    let by_patches = || (BY_PATCHES.int8.conv2d)(g, groups, (x, zx), (w, zw), cs, o, out);
    let products = g.y.kernel * g.x.kernel * g.channels;
    // Taps side by side are side by side in memory, weights and inputs alike.
    let together = if g.x.dilation.get() == 1 { g.x.kernel } else { 1 };
    let words = (together * g.channels).div_ceil(4);
    let all_words = g.y.kernel * g.x.kernel / together * words;
    let size = Region::size(g, REGION, REGION, MOST_PIXELS);
    let (Some((rows, across)), 1) = (size, groups.get()) else { return by_patches() };
    if !fits(cs, products, o) || all_words > MOST_WORDS {
        return by_patches();
    }
    let (columns, len) = (NonZeroUsize::new(products)?, NonZeroUsize::new(together * g.channels)?);
    // Whole words: a filter is one run.
    let turned_len = if len.get().is_multiple_of(4) { columns } else { len };
    let mut room = Room::NEW;
    let mut lines = [MaybeUninit::<V>::uninit(); PAIR * MOST_WORDS];
    let lines = lines.as_mut_ptr().cast::<V>();
    let (mut offsets, mut places) = ([MaybeUninit::uninit(); MOST_WORDS], [MaybeUninit::uninit(); MOST_PIXELS]);
    let mut sums = [MaybeUninit::uninit(); MOST_PIXELS];
    let mut all_numbers = [const { MaybeUninit::uninit() }; PAIR];
    let (bounds, outside, all) = (bounds_of(o), _mm512_set1_epi8((zx + RAISED) as i8), cs.len());
    let blocks = all.div_ceil(BLOCK);
    for region in Region::all(g, rows, across) {
        let (inputs, _, row_bytes) = inputs_of(&region, g, (x, zx), &mut room)?;
        let tap = |ky: usize, kx: usize| ky * g.y.dilation.get() * row_bytes + kx * g.x.dilation.get() * g.channels;
        let runs = (0..g.y.kernel).flat_map(|ky| (0..g.x.kernel).step_by(together).map(move |kx| tap(ky, kx)));
        let offsets = steps(offsets.get_mut(..all_words)?, runs, words, 4);
        let rows = (0..region.rows).map(|row| row * g.y.stride * row_bytes);
        let places =
            steps(places.get_mut(..region.rows * region.columns)?, rows, region.columns, g.x.stride * g.channels);
        let less = if zw == 0 {
            None
        } else {
            let (runs, sums) = ((offsets, words, len.get()), sums.get_mut(..places.len())?);
            // SAFETY: the region has all inputs of all pixels.
            Some(unsafe { sums_of_inputs(inputs, places, runs, zw, sums) })
        };
        let first = (region.y * g.x.output + region.x) * all;
        let out = out.get(first..)?.get(..places.len() * all)?;
        for block in (0..blocks).step_by(PAIR) {
            let side_by_side = PAIR.min(blocks - block);
            let mut channels = [0; PAIR];
            for (at, numbers) in all_numbers.iter_mut().enumerate().take(side_by_side) {
                let channel = first_of(block + at, all);
                let end = all.min(channel + BLOCK);
                let filters = w.get(channel * products..end * products)?;
                // SAFETY: there is room for the lines of a pair.
                let weights = unsafe { turn(filters, columns, turned_len, lines.add(at), side_by_side) };
                channels[at] = channel;
                numbers.write(numbers_of_block(cs.get(channel..end)?, weights, products, (zx, zw), o.zero_point));
            }
            // SAFETY: those of each block have been written.
            let numbers = [0, side_by_side - 1].map(|at| unsafe { all_numbers[at].assume_init_ref() });
            let t = Tiles {
                g,
                region: &region,
                inputs,
                outside,
                places,
                words: offsets,
                lines,
                numbers,
                bounds,
                less,
                out: out.as_ptr().cast::<i8>().cast_mut(),
                all,
                channels,
            };
            // SAFETY: words of the last pixel's last run reach at most 3 bytes beyond the region, all lines have been written, and the
            // output has `all` elements of each pixel.
            unsafe {
                match (side_by_side, t.bounds.below) {
                    (1, false) => all_tiles::<1, false>(&t),
                    (1, true) => all_tiles::<1, true>(&t),
                    (_, false) => all_tiles::<PAIR, false>(&t),
                    (_, true) => all_tiles::<PAIR, true>(&t),
                }
            }
        }
    }
    Some(())
}

/// What the tiles of a region share.
struct Tiles<'a> {
    g: &'a Window,
    region: &'a Region,
    /// Inputs of the region, what is outside the image, where each pixel's begin, and from there each word.
    inputs: *const i8,
    outside: V,
    places: &'a [u32],
    words: &'a [u32],
    /// The weights' lines, those of a pair side by side.
    lines: *const V,
    numbers: [&'a Numbers; PAIR],
    bounds: Bounds,
    /// Sums of each pixel's inputs times the weights' zero point, if that is not 0.
    less: Option<&'a [i32]>,
    /// The region's first element; the elements of a pixel, and where the blocks' are among them.
    out: *mut i8,
    all: usize,
    channels: [usize; PAIR],
}

impl Tiles<'_> {
    /// Rows of pixels, from `row` on, and the rows of taps that they see inside the image: taps outside add the same to each sum, so they
    /// need not be multiplied for each. All rows and taps, if rows are no whole tiles.
    fn alike(&self, row: usize) -> (usize, Range<usize>) {
        let (y, rows) = (&self.g.y, self.region.rows);
        if !self.region.columns.is_multiple_of(TILE) {
            return (rows, 0..y.kernel);
        }
        // The image begins and ends so many inputs below the row's first tap.
        let first = (self.region.y + row) * y.stride;
        let (begin, end) = (y.pad.saturating_sub(first), (y.pad + y.input).saturating_sub(first));
        if begin == 0 && end >= reach(y, 1) {
            return (rows.min(row + 1 + (end - reach(y, 1)) / y.stride), 0..y.kernel);
        }
        let taps = |from: usize| from.div_ceil(y.dilation.get()).min(y.kernel);
        (row + 1, taps(begin)..taps(end))
    }

    /// What the sums begin with of pixels that see these words of a window: the others are outside the image.
    ///
    /// # Safety
    /// There are `BLOCKS` lines for each word.
    #[inline]
    #[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
    unsafe fn start<const BLOCKS: usize>(&self, words: &Range<usize>) -> [V; BLOCKS] {
        // SAFETY: as above; they have been written.
        let lines = unsafe { core::slice::from_raw_parts(self.lines.cast::<[V; BLOCKS]>(), self.words.len()) };
        let mut sums = [[_mm512_setzero_si512(); BLOCKS]; 4];
        for (start, numbers) in sums[0].iter_mut().zip(&self.numbers) {
            *start = numbers.start;
        }
        for lines in [&lines[..words.start], &lines[words.end..]] {
            // Four sums, so that they do not wait for one another.
            let (quads, rest) = lines.as_chunks::<4>();
            for quad in quads {
                for (sums, lines) in sums.iter_mut().zip(quad) {
                    for (sum, line) in sums.iter_mut().zip(lines) {
                        *sum = _mm512_dpbusd_epi32(*sum, self.outside, *line);
                    }
                }
            }
            for (sums, lines) in sums.iter_mut().zip(rest) {
                for (sum, line) in sums.iter_mut().zip(lines) {
                    *sum = _mm512_dpbusd_epi32(*sum, self.outside, *line);
                }
            }
        }
        let [a, b, c, d] = sums;
        core::array::from_fn(|at| _mm512_add_epi32(_mm512_add_epi32(a[at], b[at]), _mm512_add_epi32(c[at], d[at])))
    }
}

/// All pixels of a region, in tiles of a size that leaves little to be done twice.
///
/// # Safety
/// See [`tiles`].
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
unsafe fn all_tiles<const BLOCKS: usize, const BELOW: bool>(t: &Tiles<'_>) {
    let count = t.places.len();
    // SAFETY: as above.
    unsafe {
        match count.div_ceil(count.div_ceil(TILE)) {
            ..4 => tiles::<1, BLOCKS, BELOW>(t),
            5..=7 if count > TILE => tiles::<7, BLOCKS, BELOW>(t),
            4..=7 => tiles::<4, BLOCKS, BELOW>(t),
            _ => tiles::<TILE, BLOCKS, BELOW>(t),
        }
    }
}

/// All pixels of a region, at least `PIXELS`; the last tile overlaps the one before. The elements of a tile are made while the sums of the
/// next are: products leave half of the processor's units idle.
///
/// # Safety
/// Each word of each pixel lies in the region's inputs, there are `BLOCKS` lines for each word, and the elements lie in the output.
#[allow(clippy::needless_range_loop)] // of sums, which only numbers known to the compiler keep in registers
#[inline(never)]
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
unsafe fn tiles<const PIXELS: usize, const BLOCKS: usize, const BELOW: bool>(t: &Tiles<'_>) {
    let (count, groups) = (t.places.len(), PIXELS.div_ceil(4 / BLOCKS));
    let words_of_row = t.words.len() / t.g.y.kernel;
    let (mut before, mut first_before) = ([[_mm512_setzero_si512(); BLOCKS]; PIXELS], None);
    let mut row = 0;
    while row < t.region.rows {
        let (end, taps) = t.alike(row);
        let seen = taps.start * words_of_row..taps.end * words_of_row;
        let pixels = row * t.region.columns..end * t.region.columns;
        row = end;
        // SAFETY: as above.
        let start = unsafe { t.start::<BLOCKS>(&seen) };
        let part = seen.len().div_ceil(groups);
        for first in pixels.clone().step_by(PIXELS) {
            let first = first.min(pixels.end - PIXELS);
            let (mut x, mut sums) = ([t.inputs; PIXELS], [start; PIXELS]);
            for (x, place) in x.iter_mut().zip(&t.places[first..first + PIXELS]) {
                *x = t.inputs.wrapping_add(*place as usize);
            }
            let (mut words, mut lines) = (&t.words[seen.clone()], t.lines.wrapping_add(seen.start * BLOCKS));
            for group in 0..groups {
                let (some, rest) = words.split_at(part.min(words.len()));
                words = rest;
                for word in some {
                    // SAFETY: as above.
                    unsafe {
                        let mut weights = [_mm512_setzero_si512(); BLOCKS];
                        for weights in &mut weights {
                            *weights = _mm512_loadu_si512(lines.cast());
                            lines = lines.add(1);
                        }
                        for pixel in 0..PIXELS {
                            let four = x[pixel].add(*word as usize).cast::<i32>().read_unaligned();
                            for block in 0..BLOCKS {
                                let x = _mm512_set1_epi32(four);
                                sums[pixel][block] = _mm512_dpbusd_epi32(sums[pixel][block], x, weights[block]);
                            }
                        }
                    }
                }
                if let Some(first) = first_before {
                    // SAFETY: as above.
                    unsafe { put::<PIXELS, BLOCKS, BELOW>(t, first, group, &before) };
                }
            }
            if let Some(less) = t.less {
                for pixel in 0..PIXELS {
                    for block in 0..BLOCKS {
                        let less = _mm512_set1_epi32(less[first + pixel]);
                        sums[pixel][block] = _mm512_sub_epi32(sums[pixel][block], less);
                    }
                }
            }
            (before, first_before) = (sums, Some(first));
        }
    }
    for group in 0..groups {
        // SAFETY: as above.
        unsafe { put::<PIXELS, BLOCKS, BELOW>(t, count - PIXELS, group, &before) };
    }
}

/// Stores the elements of four sums of a tile, the last ones perhaps for the second time.
///
/// # Safety
/// They lie in the output.
#[inline]
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
unsafe fn put<const PIXELS: usize, const BLOCKS: usize, const BELOW: bool>(
    t: &Tiles<'_>,
    first: usize,
    group: usize,
    sums: &[[V; BLOCKS]; PIXELS],
) {
    // So that numbers stay in memory: the sums of the next tile need the registers.
    let t = if BLOCKS == 1 { t } else { core::hint::black_box(t) };
    let each = 4 / BLOCKS;
    let start = (group * each).min(PIXELS.saturating_sub(each));
    let mut some = [sums[0][0]; 4];
    for at in 0..4 {
        some[at] = sums[(start + at / BLOCKS).min(PIXELS - 1)][at % BLOCKS];
    }
    let [a, b] = [t.numbers[0], t.numbers[BLOCKS - 1]];
    let v = elements::<BELOW>(some, if BLOCKS == 1 { [a; 4] } else { [a, b, a, b] }, &t.bounds);
    let to = |at: usize| {
        let pixel = first + (start + at / BLOCKS).min(PIXELS - 1);
        t.out.wrapping_add(pixel * t.all + t.channels[at % BLOCKS])
    };
    // SAFETY: as above.
    unsafe {
        if t.all < BLOCK {
            store_few(v, to(0), t.all, PIXELS.min(4));
        } else if t.all == BLOCK && PIXELS >= 4 {
            _mm512_storeu_si512(to(0).cast(), v);
        } else if BLOCKS == PAIR && to(1) == to(0).wrapping_add(BLOCK) {
            _mm256_storeu_si256(to(0).cast(), _mm512_castsi512_si256(v));
            _mm256_storeu_si256(to(2).cast(), _mm512_extracti64x4_epi64::<1>(v));
        } else {
            store(v, [to(0), to(1), to(2), to(3)]);
        }
    }
}

/// Of four vectors' 128 bits at a place words are turned.
#[inline]
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
fn turned([a, b, c, d]: [V; 4]) -> [V; 4] {
    let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
    let (last_ab, last_cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(last_ab, last_cd),
        _mm512_unpackhi_epi64(last_ab, last_cd),
    ]
}

/// Up to 16 filters as lines, from `lines` on every `step`-th, of runs of `len` inputs: zeros are in the last line of a run beyond it, and
/// for filters beyond the last. Returns the sums of weights.
///
/// # Safety
/// There is room for as many lines as runs have words.
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
unsafe fn turn(w: &[i8], columns: NonZeroUsize, len: NonZeroUsize, mut lines: *mut V, step: usize) -> V {
    let filters = (w.len() / columns).min(BLOCK);
    let (mut sum, ones) = (_mm512_setzero_si512(), _mm512_set1_epi8(1));
    let (columns, len) = (columns.get(), len.get());
    let whole = if filters == BLOCK { len / 16 * 16 } else { 0 };
    for run in (0..columns).step_by(len) {
        let filter = |at: usize| w.as_ptr().wrapping_add(run + at * columns);
        let (mut a, mut b, mut c, mut d) = (filter(0), filter(4), filter(8), filter(12));
        for _ in 0..whole / 16 {
            // SAFETY: all filters have 16 inputs more, and there is room for 4 lines; nothing asks for alignment.
            unsafe {
                let load = |from: *const i8, at: usize| _mm_loadu_si128(from.add(at * columns).cast());
                let four = |at| joined(load(a, at), load(b, at), load(c, at), load(d, at));
                for line in turned([four(0), four(1), four(2), four(3)]) {
                    lines.write(line);
                    lines = lines.add(step);
                    sum = _mm512_dpbusd_epi32(sum, ones, line);
                }
                (a, b, c, d) = (a.add(16), b.add(16), c.add(16), d.add(16));
            }
        }
        for at in (whole..len).step_by(16) {
            let mask = u16::MAX >> (16 - (len - at).min(16));
            // SAFETY: each filter has so many inputs more; what is left out is not read.
            let load = |row: usize| unsafe {
                _mm_maskz_loadu_epi8(if row < filters { mask } else { 0 }, filter(row).wrapping_add(at))
            };
            let four = |at| joined(load(at), load(at + 4), load(at + 8), load(at + 12));
            for line in turned([four(0), four(1), four(2), four(3)]).into_iter().take((len - at).div_ceil(4)) {
                // SAFETY: there is room for each word's.
                unsafe {
                    lines.write(line);
                    lines = lines.add(step);
                }
                sum = _mm512_dpbusd_epi32(sum, ones, line);
            }
        }
    }
    sum
}

/// Sums of each pixel's inputs, raised, times the weights' zero point. A run of `len` inputs begins at every `words`-th word.
///
/// # Safety
/// Each run of each pixel lies in the region's inputs.
#[target_feature(enable = "avx512vnni,avx512vbmi,avx512vl,avx512bw,avx512dq")]
unsafe fn sums_of_inputs<'a>(
    inputs: *const i8,
    places: &[u32],
    (starts, words, len): (&[u32], usize, usize),
    zw: i32,
    sums: &'a mut [MaybeUninit<i32>],
) -> &'a [i32] {
    for (places, sums) in places.chunks(4).zip(sums.chunks_mut(4)) {
        let mut four = [_mm512_setzero_si512(); 4];
        for start in starts.iter().step_by(words.max(1)) {
            for at in (0..len).step_by(64) {
                let mask = u64::MAX >> (64 - (len - at).min(64));
                for (sum, place) in four.iter_mut().zip(places) {
                    // SAFETY: as above; the mask leaves out what is beyond.
                    let some = unsafe { _mm512_maskz_loadu_epi8(mask, inputs.add((place + start) as usize + at)) };
                    *sum = _mm512_dpbusd_epi32(*sum, some, _mm512_set1_epi8(1));
                }
            }
        }
        let all = sums_of_four(four);
        let half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64::<1>(all));
        let quarter = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
        let mut four = [0; 4];
        // SAFETY: 16 bytes are there; the store asks for no alignment.
        unsafe { _mm_storeu_si128(four.as_mut_ptr().cast(), _mm_mullo_epi32(quarter, _mm_set1_epi32(zw))) };
        for (to, sum) in sums.iter_mut().zip(four) {
            to.write(sum);
        }
    }
    // SAFETY: there are as many places.
    unsafe { sums.assume_init_ref() }
}
