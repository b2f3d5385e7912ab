//! Convolutions and fully connected layers of int8 on cores with vectors: [`crate::kernels::scalar::int8`], made of the backends'
//! primitives as [`super::matmul`] is.
//!
//! ```text
//! for each region of pixels, as many as there is room for:
//!   their inputs, the zero point outside the image; of those the patches, the inputs under each
//!   for each pair of 16 output channels:
//!     for each panel of columns:
//!       the pair's weights, turned: lines of 4 columns of 16 channels
//!       for each few pixels: dot[pixel] += line * 4 broadcast inputs
//!     elements of 16 channels of each pixel
//! ```
//!
//! A depthwise convolution of 16 channels turns the inputs, too: lines of 4 taps above one another, from which each pixel takes its
//! columns.
//!
//! All of a region is read before any of it is written, so what is right pixel by pixel is right here (`ops::Overlap`). Zero points are
//! taken off the sums: `sum of (x - zx)(w - zw) = sum of xw - zx * sum of w - zw * sum of x + columns * zx * zw`, modulo 2^32 as in the
//! scalar kernel. Where the dot product takes unsigned bytes, inputs and their zero point are raised by 128. What this is not for,
//! groups and windows that have no room, the scalar kernels do.

use core::cell::Cell;

use crate::fixed::tflite::Rounding;
use crate::image::tensors::BLOCK;
use crate::kernels::scalar::int8::{Axis, Channel, Input, Output, Window};

/// Bytes of the patches of a region, of its inputs, and of what may be read and written after either; its pixels, at most. They lie on
/// the stack.
pub const PATCHES: usize = 1 << 16;
pub const REGION: usize = 1 << 15;
pub const BEYOND: usize = 64;
pub const MOST_PIXELS: usize = 240;
/// Columns of 4 taps and lines of weights of a depthwise convolution, at most: they lie on the stack.
pub const MOST_LINES: usize = 256;
pub const MOST_TAPS: usize = 64;
/// Lines of a panel of weights, each of 4 columns of 16 channels: 1024 columns, 16 KB a block.
pub const PANEL_LINES: usize = 256;

/// Of 16 channels side by side: what is added to a sum, its multiplier, its right shift and the bits that shift drops.
pub struct Sixteen {
    pub bias: [i32; BLOCK],
    pub multiplier: [i32; BLOCK],
    pub right: [i32; BLOCK],
    pub dropped: [i32; BLOCK],
}

impl Sixteen {
    /// Fewer than 16 are the first of them. `None` if one of them needs more than a rounding and a right shift.
    #[inline(always)]
    pub fn new(cs: &[Channel], o: &Output) -> Option<Self> {
        let zeros = [0; BLOCK];
        let mut all = Self { bias: zeros, multiplier: zeros, right: zeros, dropped: zeros };
        let mut whole = true;
        let mut put = |at: usize, c: &Channel| {
            let [bias, multiplier, shift] = c.map(i32::from_le_bytes);
            whole &= is_usual(multiplier, shift, o.rounding);
            [all.bias[at], all.multiplier[at], all.right[at], all.dropped[at]] = numbers(bias, multiplier, shift);
        };
        // Without a way out, so that all 16 are made at once.
        match cs.first_chunk::<BLOCK>() {
            Some(cs) => cs.iter().enumerate().for_each(|(at, c)| put(at, c)),
            None => cs.iter().enumerate().take(BLOCK).for_each(|(at, c)| put(at, c)),
        }
        whole.then_some(all)
    }
}

/// Whether `requantize` is no more than a rounding and a right shift.
#[inline(always)]
fn is_usual(multiplier: i32, shift: i32, rounding: Rounding) -> bool {
    rounding == Rounding::Double && multiplier > 0 && (-31..=0).contains(&shift)
}

/// What is added, the multiplier, the right shift and the bits that it drops.
#[inline(always)]
fn numbers(added: i32, multiplier: i32, shift: i32) -> [i32; 4] {
    let right = shift.unsigned_abs() & 31;
    [added, multiplier, right as i32, ((1u32 << right) - 1) as i32]
}

/// The same, if they are all there is to `requantize`.
pub fn usual(added: i32, multiplier: i32, shift: i32, rounding: Rounding) -> Option<[i32; 4]> {
    is_usual(multiplier, shift, rounding).then(|| numbers(added, multiplier, shift))
}

/// What sums of `products` products have too much for their zero points, but for the inputs' part, of 16 channels with these sums of
/// weights.
#[inline(always)]
pub fn too_much(weights: [i32; BLOCK], products: usize, (zx, zw): (i32, i32)) -> [i32; BLOCK] {
    let constant = (products as i32).wrapping_mul(zx.wrapping_mul(zw));
    weights.map(|sum| sum.wrapping_mul(zx).wrapping_sub(constant))
}

/// Inputs that so many outputs of an axis see, those outside the image among them.
pub fn reach(axis: &Axis, outputs: usize) -> usize {
    outputs.saturating_sub(1) * axis.stride + axis.kernel.saturating_sub(1) * axis.dilation.get() + 1
}

/// As many outputs as see at most `inputs`.
fn within(axis: &Axis, inputs: usize) -> usize {
    let more = inputs.checked_sub(reach(axis, 1)).and_then(|more| more.checked_div(axis.stride));
    more.map_or(0, |more| (more + 1).min(axis.output))
}

/// Some outputs whose inputs there is room for: rows, or a part of one.
pub struct Region {
    pub y: usize,
    pub rows: usize,
    pub x: usize,
    pub columns: usize,
}

impl Region {
    /// Rows and columns of a region of at most `pixels`, whose inputs have room in `bytes`, those of a row in `row_bytes`. `None` if not
    /// one output's have.
    pub fn size(g: &Window, bytes: usize, row_bytes: usize, pixels: usize) -> Option<(usize, usize)> {
        let most = row_bytes.min(bytes / reach(&g.y, 1)).checked_div(g.channels)?;
        let columns = within(&g.x, most).min(pixels);
        let rows =
            within(&g.y, bytes / reach(&g.x, columns).saturating_mul(g.channels)).min(pixels.checked_div(columns)?);
        let rows = if columns == g.x.output { rows } else { rows.min(1) };
        (rows > 0 && columns > 0).then_some((rows, columns))
    }

    /// All of an image's, in an op's order.
    pub fn all(g: &Window, rows: usize, columns: usize) -> impl Iterator<Item = Self> {
        let starts = |output: usize, each: usize, backward| {
            let count = output.div_ceil(each);
            (0..count).map(move |at| each * if backward { count - 1 - at } else { at })
        };
        let (height, width, backward) = (g.y.output, g.x.output, g.backward);
        starts(height, rows, backward).flat_map(move |y| {
            let columns = starts(width, columns, backward).map(move |x| (x, columns.min(width - x)));
            columns.map(move |(x, columns)| Self { y, rows: rows.min(height - y), x, columns })
        })
    }

    /// Its inputs, raised, `[height, width, channels]`: the zero point outside the image. Returns their width.
    #[inline(always)]
    pub fn copy<const RAISED: i32>(&self, g: &Window, (image, zero): Input<'_, i8>, to: &mut [i8]) -> Option<usize> {
        let (width, start, outside) = (reach(&g.x, self.columns), self.x * g.x.stride, (zero + RAISED) as i8);
        let (left, first) = (g.x.pad.saturating_sub(start).min(width), start.saturating_sub(g.x.pad));
        let inside = (width - left).min(g.x.input.saturating_sub(first));
        for (row, to) in to.chunks_exact_mut(width * g.channels).take(reach(&g.y, self.rows)).enumerate() {
            let y = (self.y * g.y.stride + row).wrapping_sub(g.y.pad);
            if y >= g.y.input {
                to.fill(outside);
                continue;
            }
            let (before, to) = to.split_at_mut_checked(left * g.channels)?;
            let (to, after) = to.split_at_mut_checked(inside * g.channels)?;
            before.fill(outside);
            after.fill(outside);
            copy::<RAISED>(to, image.get((y * g.x.input + first) * g.channels..)?.get(..to.len())?);
        }
        Some(width)
    }

    /// Each pixel's inputs, `[kernel height, kernel width, channels]`, from those of the region, whose rows are `width` long: a pixel
    /// begins at a multiple of 4 bytes. `BEYOND` bytes after both are nobody's.
    #[inline(always)]
    pub fn patches(&self, g: &Window, from: (&[i8], usize), to: &mut [i8]) -> Option<()> {
        // Taps side by side are side by side in memory, weights and inputs alike.
        let together = if g.x.dilation.get() == 1 { g.x.kernel } else { 1 };
        match together * g.channels {
            ..=16 => self.patches_of::<16>(g, together, from, to),
            17..=32 => self.patches_of::<32>(g, together, from, to),
            33..=48 => self.patches_of::<48>(g, together, from, to),
            49..=64 => self.patches_of::<64>(g, together, from, to),
            _ => self.patches_of::<0>(g, together, from, to),
        }
    }

    /// In pieces of `WIDE` bytes, or of as many as there are: what is too much, the next piece overwrites.
    #[inline(always)]
    fn patches_of<const WIDE: usize>(
        &self,
        g: &Window,
        together: usize,
        (from, width): (&[i8], usize),
        to: &mut [i8],
    ) -> Option<()> {
        let len = together * g.channels;
        let padded = (g.y.kernel * g.x.kernel * g.channels).next_multiple_of(4);
        for row in 0..self.rows {
            for column in 0..self.columns {
                let first = (row * g.y.stride * width + column * g.x.stride) * g.channels;
                let mut at = (row * self.columns + column) * padded;
                for ky in 0..g.y.kernel {
                    for kx in (0..g.x.kernel).step_by(together) {
                        let tap = (ky * g.y.dilation.get() * width + kx * g.x.dilation.get()) * g.channels;
                        let (from, to) = (from.get(first + tap..)?, to.get_mut(at..)?);
                        if WIDE == 0 {
                            to.get_mut(..len)?.copy_from_slice(from.get(..len)?);
                        } else {
                            *to.first_chunk_mut::<WIDE>()? = *from.first_chunk()?;
                        }
                        at += len;
                    }
                }
            }
        }
        Some(())
    }
}

/// Copies inputs, raised; both are of one length. The last piece overlaps the one before.
#[inline(always)]
fn copy<const RAISED: i32>(to: &mut [i8], from: &[Cell<i8>]) {
    match from.len() {
        64.. => copy_by::<RAISED, 64>(to, from),
        16.. => copy_by::<RAISED, 16>(to, from),
        8.. => copy_by::<RAISED, 8>(to, from),
        4.. => copy_by::<RAISED, 4>(to, from),
        _ => copy_by::<RAISED, 1>(to, from),
    }
}

#[inline(always)]
fn copy_by<const RAISED: i32, const N: usize>(to: &mut [i8], from: &[Cell<i8>]) {
    let put = |to: &mut [i8; N], from| *to = bytes_of(from).map(|x: i8| x.wrapping_add(RAISED as i8));
    to.as_chunks_mut().0.iter_mut().zip(from.as_chunks().0).for_each(|(to, from)| put(to, from));
    if let (true, Some(to), Some(from)) = (!from.len().is_multiple_of(N), to.last_chunk_mut(), from.last_chunk()) {
        put(to, from);
    }
}

/// The bytes of cells side by side.
#[inline(always)]
pub fn bytes_of<const N: usize>(cells: &[Cell<i8>; N]) -> [i8; N] {
    // SAFETY: a cell is as its contents, and nobody writes them meanwhile: threads share none that one of them writes.
    unsafe { cells.as_ptr().cast::<[i8; N]>().read() }
}

/// The same, where there may be fewer: zeros beyond.
#[inline(always)]
pub fn wide<const N: usize>(cells: &[Cell<i8>]) -> [i8; N] {
    cells.first_chunk().map_or_else(
        || {
            let mut some = [0; N];
            some.iter_mut().zip(cells).for_each(|(to, x)| *to = x.get());
            some
        },
        bytes_of,
    )
}

macro_rules! convolutions {
    ($features:literal) => {
        use crate::kernels::scalar::int8::{self as scalar_int8, Channel, Input, Output, Quantized, Sum, Term, Window};
        use crate::kernels::vector::int8::{
            BEYOND, MOST_LINES, MOST_PIXELS, MOST_TAPS, PANEL_LINES, PATCHES, REGION, Region, Sixteen, reach, too_much,
            usual, wide,
        };
        use core::cell::Cell;
        use core::num::NonZeroUsize;

        /// Lines of some blocks side by side.
        type Lines = [[MaybeUninit<Line>; PANEL_LINES]; PAIR];

        /// See [`scalar_int8::conv2d`].
        #[target_feature(enable = $features)]
        fn conv2d(
            g: &Window,
            groups: NonZeroUsize,
            (x, zx): Input<'_, i8>,
            (w, zw): scalar_int8::Weights<'_>,
            cs: &[Channel],
            o: &Output,
            out: &[Cell<i8>],
        ) -> Option<()> {
            let (columns, all) = (g.y.kernel * g.x.kernel * g.channels, cs.len());
            let padded = columns.next_multiple_of(4);
            // A pixel is its own patch.
            let alone = [&g.y, &g.x].iter().all(|axis| axis.kernel == 1 && axis.stride == 1) && padded == columns;
            let bytes = if alone { PATCHES } else { REGION };
            let pixels = (PATCHES / padded.max(1)).min(MOST_PIXELS);
            let (Some((rows, across)), 1, 1..) = (Region::size(g, bytes, bytes, pixels), groups.get(), columns) else {
                return scalar_int8::conv2d(g, groups, (x, zx), (w, zw), cs, o, out);
            };
            let mut region = [MaybeUninit::uninit(); REGION + BEYOND];
            let mut patches = [MaybeUninit::uninit(); PATCHES + BEYOND];
            let mut lines: Lines = [[MaybeUninit::uninit(); PANEL_LINES]; PAIR];
            let mut memory = [[MaybeUninit::uninit(); MOST_PIXELS]; PAIR];
            let patches = filled(patches.get_mut(..rows * across * padded + BEYOND)?, 0i8);
            let inside = if alone { 0 } else { reach(&g.y, rows) * reach(&g.x, across) * g.channels + BEYOND };
            let inside = filled(region.get_mut(..inside)?, 0i8);
            let (mut inputs, bounds) = ([0; MOST_PIXELS], bounds_of(o));
            for region in Region::all(g, rows, across) {
                if alone {
                    region.copy::<RAISED>(g, (x, zx), patches)?;
                } else {
                    let width = region.copy::<RAISED>(g, (x, zx), inside)?;
                    region.patches(g, (inside, width), patches)?;
                }
                let (count, first) = (region.rows * region.columns, region.y * g.x.output + region.x);
                if zw != 0 {
                    let raised = |x: &i8| if RAISED == 0 { i32::from(*x) } else { i32::from(*x as u8) };
                    for (patch, sum) in patches.chunks_exact(padded).take(count).zip(&mut inputs) {
                        *sum = patch.get(..columns)?.iter().map(raised).sum::<i32>().wrapping_mul(zw);
                    }
                }
                for pair in (0..cs.len()).step_by(PAIR * BLOCK) {
                    let mut sums = memory.each_mut().map(|sums| filled(&mut sums[..count], [0; BLOCK]));
                    let mut all_weights = [[0; BLOCK]; PAIR];
                    for start in (0..padded).step_by(4 * PANEL_LINES) {
                        let end = columns.min(start + 4 * PANEL_LINES);
                        let count = (end - start).div_ceil(4);
                        let blocks = (all - pair).div_ceil(BLOCK).min(PAIR);
                        for (block, (lines, all_weights)) in
                            lines.iter_mut().zip(&mut all_weights).take(blocks).enumerate()
                        {
                            turn(w, columns, (pair + block * BLOCK, all), (start, end), lines);
                            // SAFETY: `turn` has written so many.
                            let lines = unsafe { lines.get_mut(..count)?.assume_init_mut() };
                            add_weights(lines, all_weights);
                        }
                        let mut pixel = 0;
                        while pixel < sums[0].len() {
                            let sums = sums.each_mut().map(|sums| &mut sums[pixel..]);
                            let x = (patches.get(pixel * padded + start..)?, padded);
                            pixel += match (blocks, sums[0].len()) {
                                // No lines of a second block have been written.
                                (1, n) if n >= ALONE => some_pixels::<ALONE, 1>(&lines, count, x, sums),
                                (1, 4..) => some_pixels::<4, 1>(&lines, count, x, sums),
                                (1, _) => some_pixels::<1, 1>(&lines, count, x, sums),
                                (_, 6..) if TILE >= 6 => some_pixels::<6, PAIR>(&lines, count, x, sums),
                                (_, 4..) => some_pixels::<4, PAIR>(&lines, count, x, sums),
                                (_, 2..) => some_pixels::<2, PAIR>(&lines, count, x, sums),
                                _ => some_pixels::<1, PAIR>(&lines, count, x, sums),
                            };
                        }
                    }
                    for (block, (sums, weights)) in sums.iter_mut().zip(&all_weights).enumerate() {
                        let channel = pair + block * BLOCK;
                        let Some(cs) = cs.get(channel..all.min(channel + BLOCK)) else { break };
                        let less = too_much(*weights, columns, (zx + RAISED, zw));
                        finish((sums, &inputs), &less, cs, (o, bounds), (first * all + channel, all), out)?;
                    }
                }
            }
            Some(())
        }

        /// Writes the elements of up to 16 of `all` channels of pixels side by side, the first from `at` on: of their sums, less what each
        /// channel and what each pixel has too much.
        #[target_feature(enable = $features)]
        fn finish(
            (sums, inputs): (&[[i32; BLOCK]], &[i32]),
            less: &[i32; BLOCK],
            cs: &[Channel],
            (o, bounds): (&Output, [V; 3]),
            (mut at, all): (usize, usize),
            out: &[Cell<i8>],
        ) -> Option<()> {
            let usual = Sixteen::new(cs, o);
            let numbers = usual.as_ref().map(|c| numbers_of(c));
            let less_each: [V; BLOCK / LANES] = from_fn(|span| words(&less.as_chunks().0[span]));
            for (sums, inputs) in sums.iter().zip(inputs) {
                let to = out.get(at..)?.get(..cs.len())?;
                at += all;
                if let Some(numbers) = &numbers {
                    for span in 0..BLOCK / LANES {
                        let v = minus(words(&sums.as_chunks().0[span]), less_each[span]);
                        let v = rounded(minus(v, splat(*inputs)), numbers[span]);
                        put(v, bounds, to.get(span * LANES..).unwrap_or(&[]));
                    }
                } else {
                    for (((sum, less), c), to) in sums.iter().zip(less).zip(cs).zip(to) {
                        to.set(i8::result(sum.wrapping_sub(*less).wrapping_sub(*inputs), c, o));
                    }
                }
            }
            Some(())
        }

        /// Columns `start..end` of the filters of 16 channels from `first` on as lines; zeros beyond the last
        /// channel and beyond the filter.
        #[target_feature(enable = $features)]
        fn turn(
            w: &[i8],
            columns: usize,
            (first, channels): (usize, usize),
            (start, end): (usize, usize),
            lines: &mut [MaybeUninit<Line>; PANEL_LINES],
        ) {
            for span in 0..BLOCK / LANES {
                for (at, lines) in (start..end).step_by(4 * LANES).zip(lines.chunks_mut(LANES)) {
                    let mut rows = [splat(0); LANES];
                    for (row, channel) in rows.iter_mut().zip(first + span * LANES..channels) {
                        let filter = w.get(channel * columns..).and_then(|w| w.get(at..end)).unwrap_or(&[]);
                        *row = match filter.first_chunk::<{ 4 * LANES }>() {
                            Some(some) => load(&some.map(|w| w as u8)),
                            None => {
                                let mut last = [0; 4 * LANES];
                                let ((to, to_rest), (from, from_rest)) =
                                    (last.as_chunks_mut(), filter.as_chunks::<8>());
                                to.iter_mut().zip(from).for_each(|(to, w)| *to = w.map(|w| w as u8));
                                let done = from.len();
                                let rest = to.iter_mut().skip(done).flatten().chain(to_rest);
                                rest.zip(from_rest).for_each(|(to, w)| *to = *w as u8);
                                load(&last)
                            }
                        };
                    }
                    for (line, turned) in lines.iter_mut().zip(transposed(rows)) {
                        let line = line.as_mut_ptr().cast::<V>();
                        // SAFETY: a line is `BLOCK / LANES` vectors.
                        unsafe { line.add(span).write(turned) };
                    }
                }
            }
        }

        /// A block's numbers as vectors.
        #[inline]
        #[target_feature(enable = $features)]
        fn numbers_of(c: &Sixteen) -> [[V; 4]; BLOCK / LANES] {
            let mut numbers = [[splat(0); 4]; BLOCK / LANES];
            for (span, to) in numbers.iter_mut().enumerate() {
                for (to, all) in to.iter_mut().zip([&c.bias, &c.multiplier, &c.right, &c.dropped]) {
                    *to = words(&all.as_chunks().0[span]);
                }
            }
            numbers
        }

        /// The bounds before the zero point, and it.
        #[inline]
        #[target_feature(enable = $features)]
        fn bounds_of(o: &Output) -> [V; 3] {
            [splat(o.min - o.zero_point), splat(o.max - o.zero_point), splat(o.zero_point)]
        }

        /// See [`scalar_int8::depthwise_conv2d`]. Channels are made 16 at a time, the last ones perhaps for the second time.
        #[target_feature(enable = $features)]
        fn depthwise_conv2d(
            g: &Window,
            multiplier: NonZeroUsize,
            (x, zx): Input<'_, i8>,
            (w, zw): scalar_int8::Weights<'_>,
            cs: &[Channel],
            o: &Output,
            out: &[Cell<i8>],
        ) -> Option<()> {
            let (all, quads) = (cs.len(), g.y.kernel.div_ceil(4));
            let taps = quads * g.x.kernel;
            let size = Region::size(g, PATCHES, MOST_LINES / quads.max(1) * all, MOST_PIXELS);
            let (Some((rows, columns)), 1, 1..=MOST_TAPS) = (size, multiplier.get(), taps) else {
                return scalar_int8::depthwise_conv2d(g, multiplier, (x, zx), (w, zw), cs, o, out);
            };
            let mut memory = [MaybeUninit::uninit(); PATCHES + BEYOND];
            let mut lines = [MaybeUninit::uninit(); MOST_LINES];
            let (mut weights, mut sums) = ([MaybeUninit::uninit(); MOST_TAPS], [MaybeUninit::uninit(); MOST_PIXELS]);
            let room = reach(&g.y, rows) * reach(&g.x, columns) * all + BEYOND;
            let (memory, bounds) = (filled(memory.get_mut(..room)?, 0), bounds_of(o));
            let lines = filled(lines.get_mut(..quads * reach(&g.x, columns))?, [splat(0); BLOCK / LANES]);
            let weights = filled(&mut weights[..taps], [splat(0); BLOCK / LANES]);
            let sums = filled(sums.get_mut(..rows * columns)?, [0; BLOCK]);
            for region in Region::all(g, rows, columns) {
                let width = region.copy::<RAISED>(g, (x, zx), memory)?;
                for block in 0..all.div_ceil(BLOCK) {
                    let channel = (block * BLOCK).min(all.saturating_sub(BLOCK));
                    let mut of_weights = [splat(0); BLOCK / LANES];
                    for (at, weights) in weights.iter_mut().enumerate() {
                        let (quad, kx) = (at / g.x.kernel, at % g.x.kernel);
                        let mut rows = [[0; BLOCK]; 4];
                        for (row, ky) in rows.iter_mut().zip(4 * quad..g.y.kernel) {
                            let w = w.get((ky * g.x.kernel + kx) * all + channel..)?;
                            match w.first_chunk::<BLOCK>() {
                                Some(whole) => *row = whole.map(|w| w as u8),
                                None => row.iter_mut().zip(w).for_each(|(to, w)| *to = *w as u8),
                            }
                        }
                        *weights = turned(rows.each_ref());
                        for (sum, weights) in of_weights.iter_mut().zip(weights) {
                            *sum = dots4(*sum, splat(0x0101_0101), *weights);
                        }
                    }
                    let mut all_weights = [0; BLOCK];
                    for (span, sum) in of_weights.into_iter().enumerate() {
                        add_to(sum, &mut all_weights.as_chunks_mut().0[span]);
                    }
                    let less = too_much(all_weights, g.y.kernel * g.x.kernel, (zx + RAISED, zw));
                    let cs = cs.get(channel..all.min(channel + BLOCK))?;
                    for (row, sums) in sums.chunks_exact_mut(region.columns).take(region.rows).enumerate() {
                        let from = memory.get(row * g.y.stride * width * all + channel..)?;
                        columns_of(g, from, width, all, lines)?;
                        match g.x.kernel {
                            3 => depthwise_dots::<3>(g, (lines, width), weights, zw, sums)?,
                            5 => depthwise_dots::<5>(g, (lines, width), weights, zw, sums)?,
                            _ => depthwise_dots::<0>(g, (lines, width), weights, zw, sums)?,
                        }
                    }
                    let at = (region.y * g.x.output + region.x) * all + channel;
                    let sums = sums.get(..region.rows * region.columns)?;
                    finish((sums, &[0; MOST_PIXELS]), &less, cs, (o, bounds), (at, all), out)?;
                }
            }
            Some(())
        }

        /// Each column's taps of 16 channels, four rows at a time, as lines. What is beyond the kernel is nobody's.
        #[inline]
        #[target_feature(enable = $features)]
        fn columns_of(
            g: &Window,
            from: &[i8],
            width: usize,
            all: usize,
            lines: &mut [[V; BLOCK / LANES]],
        ) -> Option<()> {
            let quads = g.y.kernel.div_ceil(4);
            for quad in 0..quads {
                let mut rows = [&[][..]; 4];
                for (at, row) in rows.iter_mut().enumerate() {
                    let ky = (4 * quad + at).min(g.y.kernel - 1);
                    *row = from.get(ky * g.y.dilation.get() * width * all..)?.get(..(width - 1) * all + BLOCK)?;
                }
                for (column, line) in lines.get_mut(quad * width..)?.get_mut(..width)?.iter_mut().enumerate() {
                    // SAFETY: each row has so many bytes.
                    let of = |row: &[i8]| unsafe { row.as_ptr().add(column * all).cast::<[u8; BLOCK]>().read() };
                    *line = turned(rows.map(of).each_ref());
                }
            }
            Some(())
        }

        /// The sums of 16 channels of a row's pixels; of `KERNEL` columns, or of as many as there are.
        #[inline]
        #[target_feature(enable = $features)]
        fn depthwise_dots<const KERNEL: usize>(
            g: &Window,
            (lines, width): (&[[V; BLOCK / LANES]], usize),
            weights: &[[V; BLOCK / LANES]],
            zw: i32,
            sums: &mut [[i32; BLOCK]],
        ) -> Option<()> {
            let (kernel, step) = (if KERNEL == 0 { g.x.kernel } else { KERNEL }, g.x.dilation.get());
            for (pixel, sums) in sums.iter_mut().enumerate() {
                let (mut dots, mut inputs) = ([splat(0); BLOCK / LANES], [splat(0); BLOCK / LANES]);
                for quad in 0..g.y.kernel.div_ceil(4) {
                    let lines = lines.get(quad * width + pixel * g.x.stride..)?.get(..(kernel - 1) * step + 1)?;
                    for (kx, weights) in weights.get(quad * kernel..)?.get(..kernel)?.iter().enumerate() {
                        // SAFETY: `kx` is below `kernel`.
                        let line = unsafe { lines.get_unchecked(kx * step) };
                        for span in 0..BLOCK / LANES {
                            dots[span] = dots4(dots[span], line[span], weights[span]);
                        }
                    }
                    if zw != 0 {
                        let beyond = (4 * (quad + 1)).saturating_sub(g.y.kernel) as u32;
                        let ones = splat(0x0101_0101u32.unbounded_shr(8 * beyond) as i32);
                        for line in lines.iter().step_by(step) {
                            for span in 0..BLOCK / LANES {
                                inputs[span] = dots4(inputs[span], line[span], ones);
                            }
                        }
                    }
                }
                if zw != 0 {
                    for (dots, inputs) in dots.iter_mut().zip(inputs) {
                        *dots = add_scaled(*dots, inputs, splat(-zw));
                    }
                }
                *sums = [0; BLOCK];
                for (span, dots) in dots.into_iter().enumerate() {
                    add_to(dots, &mut sums.as_chunks_mut().0[span]);
                }
            }
            Some(())
        }

        /// `Output::clamp` of each, to as many cells as there are.
        #[inline]
        #[target_feature(enable = $features)]
        fn put(scaled: V, [min, max, zero]: [V; 3], to: &[Cell<i8>]) {
            let limited = limited(scaled, min, max, zero);
            match to.first_chunk::<LANES>() {
                // SAFETY: a cell is as its contents, and may be written through a shared reference.
                Some(to) => narrow(limited, unsafe { &mut *to.as_ptr().cast::<[i8; LANES]>().cast_mut() }),
                None => {
                    let mut elements = [0; LANES];
                    narrow(limited, &mut elements);
                    to.iter().zip(elements).for_each(|(to, v)| to.set(v));
                }
            }
        }

        /// See [`scalar_int8::add`].
        #[target_feature(enable = $features)]
        fn add(x: &[Cell<i8>], y: &[Cell<i8>], to: &[Cell<i8>], s: &Sum, o: &Output) {
            let of =
                |t: &Term| usual(-(t.zero << t.up), t.multiplier, t.shift, o.rounding).map(|n| n.map(|n| splat(n)));
            let [a, b, sum] = &s.terms;
            let (Some(of_a), Some(of_b), Some(of_sum), false) = (of(a), of(b), of(sum), s.subtract) else {
                return scalar_int8::add(x, y, to, s, o);
            };
            let (count, bounds) = (x.len().min(y.len()).min(to.len()), bounds_of(o));
            let mut done = 0;
            while done < count {
                let some = (count - done).min(LANES);
                let at = if s.backward { count - done - some } else { done };
                let (x, y) = (widened(&wide(&x[at..at + some])), widened(&wide(&y[at..at + some])));
                let both = plus(rounded(up_by(x, a.up), of_a), rounded(up_by(y, b.up), of_b));
                put(rounded(both, of_sum), bounds, &to[at..at + some]);
                done += some;
            }
        }
    };
}
