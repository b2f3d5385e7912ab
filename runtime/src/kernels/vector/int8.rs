//! Convolutions and fully connected layers of int8 on cores with vectors: [`crate::kernels::scalar::int8`], made of the backends' primitives as
//! [`super::matmul`] is.
//!
//! ```text
//! for each tile of pixels, as many as there is room for:
//!   their patches, the inputs under each, the zero point outside the image
//!   for each pair of 16 output channels:
//!     for each panel of columns:
//!       the pair's weights, turned: lines of 4 columns of 16 channels
//!       for each few pixels: dot[pixel] += line * 4 broadcast inputs
//!     elements of 16 channels of each pixel
//! ```
//!
//! All of a tile is read before any of it is written, so what is right pixel by pixel is right here (`ops::Overlap`). Zero points are
//! taken off the sums: `sum of (x - zx)(w - zw) = sum of xw - zx * sum of w - zw * sum of x + columns * zx * zw`, modulo 2^32 as in the
//! scalar kernel. Where the dot product takes unsigned bytes, inputs and their zero point are raised by 128. What this is not for,
//! groups and patches that have no room, the scalar kernels do.

use core::cell::Cell;

use crate::fixed::tflite::Rounding;
use crate::image::tensors::BLOCK;
use crate::kernels::scalar::int8::{Channel, Input, Output, Window};

/// Bytes of the patches of a tile; pixels of a tile, at most. They lie on the stack.
pub const PATCHES: usize = 1 << 16;
pub const MOST_PIXELS: usize = 240;
/// Blocks of 16 channels of a depthwise convolution, at most: their numbers lie on the stack.
pub const MOST_BLOCKS: usize = 80;
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
    pub fn new(cs: &[Channel], o: &Output) -> Option<Self> {
        let zeros = [0; BLOCK];
        let mut all = Self { bias: zeros, multiplier: zeros, right: zeros, dropped: zeros };
        for (at, c) in cs.iter().enumerate().take(BLOCK) {
            let [bias, multiplier, shift] = c.map(i32::from_le_bytes);
            let numbers = usual(bias, multiplier, shift, o.rounding)?;
            [all.bias[at], all.multiplier[at], all.right[at], all.dropped[at]] = numbers;
        }
        Some(all)
    }
}

/// What is added, the multiplier, the right shift and the bits that it drops, if `requantize` is no more than that.
pub fn usual(added: i32, multiplier: i32, shift: i32, rounding: Rounding) -> Option<[i32; 4]> {
    let right = shift.unsigned_abs() & 31;
    let usual = rounding == Rounding::Double && multiplier > 0 && (-31..=0).contains(&shift);
    usual.then_some([added, multiplier, right as i32, ((1u32 << right) - 1) as i32])
}

/// Output pixels in an op's order.
pub struct Pixels {
    pub at: usize,
    pub y: usize,
    pub x: usize,
    width: usize,
    backward: bool,
}

impl Pixels {
    /// From the first on.
    #[inline(always)]
    pub fn new(g: &Window) -> Self {
        let (height, width, backward) = (g.y.output, g.x.output, g.backward);
        let last = |count: usize| if backward { count.saturating_sub(1) } else { 0 };
        Self { at: last(height * width), y: last(height), x: last(width), width, backward }
    }

    /// On to the next.
    #[inline(always)]
    pub fn step(&mut self) {
        if self.backward {
            self.at = self.at.wrapping_sub(1);
            (self.y, self.x) =
                if self.x == 0 { (self.y.wrapping_sub(1), self.width - 1) } else { (self.y, self.x - 1) };
        } else {
            self.at += 1;
            (self.y, self.x) = if self.x + 1 == self.width { (self.y + 1, 0) } else { (self.y, self.x + 1) };
        }
    }
}

/// The inputs under output pixel `(y, x)`, `[kernel height, kernel width, channels]`, raised, into `patch`: the zero point outside
/// the image, zeros beyond.
#[inline(always)]
pub fn gather<const RAISED: i32>(
    g: &Window,
    (y, x): (usize, usize),
    (image, zero): Input<'_, i8>,
    patch: &mut [i8],
) -> Option<()> {
    let ((rows, iy), (cols, ix)) = (g.y.taps(y), g.x.taps(x));
    let (patch, beyond) = patch.split_at_mut_checked(g.y.kernel * g.x.kernel * g.channels)?;
    if !beyond.is_empty() {
        beyond.fill(0);
    }
    let inside = rows.len() == g.y.kernel && cols.len() == g.x.kernel;
    if inside && g.x.dilation.get() == 1 {
        // The whole window: a stretch a row.
        let len = g.x.kernel * g.channels;
        let mut from = (iy * g.x.input + ix) * g.channels;
        for to in patch.chunks_exact_mut(len) {
            copy::<RAISED>(to, image.get(from..)?.get(..len)?);
            from += g.y.dilation.get() * g.x.input * g.channels;
        }
        return Some(());
    }
    if !inside {
        patch.fill((zero + RAISED) as i8);
    }
    // Taps side by side are side by side in memory, weights and image alike.
    let together = if g.x.dilation.get() == 1 { cols.len().max(1) } else { 1 };
    for (n, ky) in rows.enumerate() {
        let row = (iy + n * g.y.dilation.get()) * g.x.input;
        for (n, kx) in cols.clone().step_by(together).enumerate() {
            let from = (row + ix + n * together * g.x.dilation.get()) * g.channels;
            let to = (ky * g.x.kernel + kx) * g.channels;
            let len = together * g.channels;
            copy::<RAISED>(patch.get_mut(to..)?.get_mut(..len)?, image.get(from..)?.get(..len)?);
        }
    }
    Some(())
}

/// Copies inputs, raised; both are of one length. The last piece overlaps the one before.
#[inline(always)]
fn copy<const RAISED: i32>(to: &mut [i8], from: &[Cell<i8>]) {
    match from.len() {
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
    // SAFETY: a cell is as its contents, and nobody writes them meanwhile: cells are not shared between threads.
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
            MOST_BLOCKS, MOST_PIXELS, PANEL_LINES, PATCHES, Pixels, Sixteen, bytes_of, gather, usual, wide,
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
            let (padded, pixels) = (columns.next_multiple_of(4), g.y.output * g.x.output);
            let room = (PATCHES / padded.max(1)).min(MOST_PIXELS);
            if groups.get() > 1 || room == 0 || columns == 0 {
                return scalar_int8::conv2d(g, groups, (x, zx), (w, zw), cs, o, out);
            }
            let mut patches = [MaybeUninit::uninit(); PATCHES];
            let mut lines: Lines = [[MaybeUninit::uninit(); PANEL_LINES]; PAIR];
            let mut memory = [[MaybeUninit::uninit(); MOST_PIXELS]; PAIR];
            let patches = filled(patches.get_mut(..room.min(pixels) * padded)?, 0i8);
            let mut inputs = [0; MOST_PIXELS];
            let (mut next, bounds) = (Pixels::new(g), bounds_of(o));
            let apart = if g.backward { all.wrapping_neg() } else { all };
            for first in (0..pixels).step_by(room) {
                let (count, first) = (room.min(pixels - first), next.at);
                for (patch, sum) in patches.chunks_exact_mut(padded).take(count).zip(&mut inputs) {
                    gather::<RAISED>(g, (next.y, next.x), (x, zx), patch)?;
                    next.step();
                    if zw != 0 {
                        let raised = |x: &i8| if RAISED == 0 { i32::from(*x) } else { i32::from(*x as u8) };
                        *sum = patch.iter().map(raised).sum::<i32>().wrapping_mul(zw);
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
                        let usual = Sixteen::new(cs, o);
                        let zx = zx + RAISED;
                        let constant = (columns as i32).wrapping_mul(zx.wrapping_mul(zw));
                        let less = weights.map(|sum| sum.wrapping_mul(zx).wrapping_sub(constant));
                        let mut at = first * all + channel;
                        // Not by `write`, so that the numbers stay in registers from pixel to pixel.
                        if let Some(c) = &usual {
                            let numbers = numbers_of(c);
                            for (sums, inputs) in sums.iter().zip(&inputs) {
                                let to = out.get(at..)?.get(..cs.len())?;
                                at = at.wrapping_add(apart);
                                for span in 0..BLOCK / LANES {
                                    let v = minus(words(&sums.as_chunks().0[span]), words(&less.as_chunks().0[span]));
                                    let v = rounded(minus(v, splat(*inputs)), numbers[span]);
                                    put(v, bounds, to.get(span * LANES..).unwrap_or(&[]));
                                }
                            }
                        } else {
                            for (sums, inputs) in sums.iter().zip(&inputs) {
                                let to = out.get(at..)?.get(..cs.len())?;
                                at = at.wrapping_add(apart);
                                for (((sum, less), c), to) in sums.iter().zip(&less).zip(cs).zip(to) {
                                    to.set(i8::result(sum.wrapping_sub(*less).wrapping_sub(*inputs), c, o));
                                }
                            }
                        }
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
            let all = cs.len();
            let blocks = all.div_ceil(BLOCK);
            // The last block of several may share channels with the one before.
            let start = |block: usize| (block * BLOCK).min(all.saturating_sub(BLOCK));
            if multiplier.get() > 1 || blocks > MOST_BLOCKS {
                return scalar_int8::depthwise_conv2d(g, multiplier, (x, zx), (w, zw), cs, o, out);
            }
            let mut usual = [const { MaybeUninit::uninit() }; MOST_BLOCKS];
            for (block, usual) in usual.iter_mut().enumerate().take(blocks) {
                usual.write(Sixteen::new(cs.get(start(block)..)?, o));
            }
            // SAFETY: so many have just been written.
            let usual = unsafe { usual.get(..blocks)?.assume_init_ref() };
            // Four pixels side by side are a unit, which may be written while it is read (`ops::Overlap`).
            let (units, bounds) = (g.x.output.div_ceil(4), bounds_of(o));
            let turned = |at: usize, count: usize| if g.backward { count - 1 - at } else { at };
            for y in (0..g.y.output).map(|y| turned(y, g.y.output)) {
                let (rows, iy) = g.y.taps(y);
                for first in (0..units).map(|unit| 4 * turned(unit, units)) {
                    let count = (g.x.output - first).min(4);
                    // Where the first tap of each would be; those of none are the last one's.
                    let ix = from_fn(|at| ((first + at.min(count - 1)) * g.x.stride).wrapping_sub(g.x.pad));
                    for (block, usual) in usual.iter().enumerate() {
                        let channel = start(block);
                        let here = (x.get(channel..)?, w.get(channel..)?, (zx, zw), all);
                        let sums = if all < BLOCK {
                            depthwise_dots::<true>(g, here, (&rows, iy), ix)?
                        } else {
                            depthwise_dots::<false>(g, here, (&rows, iy), ix)?
                        };
                        let cs = cs.get(channel..all.min(channel + BLOCK))?;
                        for (sums, at) in sums.into_iter().zip(first..first + count) {
                            let to = out.get((y * g.x.output + at) * all + channel..)?.get(..cs.len())?;
                            write(sums, (cs, usual), (o, bounds), to);
                        }
                    }
                }
            }
            Some(())
        }

        /// The sums of 16 channels of four pixels of a row over the taps of `rows`, of which the first reads input row `iy`; the first
        /// taps of the columns would read inputs `ix`. Of fewer channels (`NARROW`) the other sums are nobody's.
        #[target_feature(enable = $features)]
        fn depthwise_dots<const NARROW: bool>(
            g: &Window,
            (x, w, (zx, zw), all): (&[Cell<i8>], &[i8], (i32, i32), usize),
            (rows, iy): (&Range<usize>, usize),
            ix: [usize; 4],
        ) -> Option<[[V; BLOCK / LANES]; 4]> {
            let mut sums = [[splat(0); BLOCK / LANES]; 4];
            for (n, ky) in rows.clone().enumerate() {
                let row = (iy + n * g.y.dilation.get()) * g.x.input;
                for kx in 0..g.x.kernel {
                    let w = w.get((ky * g.x.kernel + kx) * all..)?;
                    let step = kx * g.x.dilation.get();
                    // Outside the image: nothing.
                    let mut inputs = [[zx as i8; BLOCK]; 4];
                    for (inputs, ix) in inputs.iter_mut().zip(ix) {
                        let at = ix.wrapping_add(step);
                        if at < g.x.input {
                            let x = x.get((row + at) * all..)?;
                            *inputs = if NARROW { wide(x) } else { bytes_of(x.first_chunk()?) };
                        }
                    }
                    let mut weights = [0; BLOCK];
                    match w.first_chunk() {
                        Some(whole) => weights = *whole,
                        None => weights.iter_mut().zip(w).for_each(|(to, w)| *to = *w),
                    }
                    add_tap!(sums, (inputs, zx), (weights, zw));
                }
            }
            Some(sums)
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

        /// Writes the elements of up to 16 channels.
        #[inline]
        #[target_feature(enable = $features)]
        fn write(
            sums: [V; BLOCK / LANES],
            (cs, usual): (&[Channel], &Option<Sixteen>),
            (o, bounds): (&Output, [V; 3]),
            to: &[Cell<i8>],
        ) {
            for (span, sums) in sums.into_iter().enumerate() {
                let to = to.get(span * LANES..).unwrap_or(&[]);
                if let Some(c) = usual {
                    put(rounded(sums, numbers_of(c)[span]), bounds, to);
                } else {
                    let mut each = [0; LANES];
                    add_to(sums, &mut each);
                    for ((sum, c), to) in each.iter().zip(cs.iter().skip(span * LANES)).zip(to) {
                        to.set(i8::result(*sum, c, o));
                    }
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
