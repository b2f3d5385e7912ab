//! Convolutions and fully connected layers of int8 on x86-64: [`crate::kernels::scalar::int8`], made of the backends' primitives as
//! [`super::matmul`] is.
//!
//! ```text
//! for each tile of pixels, as many as there is room for:
//!   their patches, the inputs under each, the zero point outside the image; sum of each
//!   for each pair of 16 output channels:
//!     for each panel of columns:
//!       the pair's weights, turned: lines of 4 columns of 16 channels
//!       for each few pixels: dot[pixel] += line * 4 broadcast inputs
//!     elements of 16 channels of each pixel
//! ```
//!
//! All of a tile is read before any of it is written, so what is right pixel by pixel is right here (`ops::Overlap`). Zero points are
//! taken off the sums: `sum of (x - zx)(w - zw) = sum of xw - zx * sum of w - zw * sum of x + columns * zx * zw`, modulo 2^32 as in the
//! scalar kernel. What this is not for, groups and patches that have no room, the scalar kernels do.

use core::cell::Cell;

use crate::fixed::tflite::Rounding;
use crate::image::tensors::BLOCK;
use crate::kernels::scalar::int8::{Input, Output, Quantized, Term, Window};

/// Bytes of the patches of a tile; pixels of a tile, at most. They lie on the stack.
pub const PATCHES: usize = 1 << 16;
pub const MOST_PIXELS: usize = 120;
/// Blocks of 16 channels of a depthwise convolution, at most: their numbers lie on the stack.
pub const MOST_BLOCKS: usize = 80;
/// Lines of a panel of weights: 1024 columns, 16 KB a block.
pub const LINES: usize = 256;

/// Weights of 4 columns of 16 channels.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct Line(pub [u8; 4 * BLOCK]);

pub type Channel = <i8 as Quantized>::Channel;

/// Of 16 channels side by side: what is added to a sum, its multiplier, its right shift and the bits that shift drops.
pub struct Sixteen {
    pub bias: [i32; BLOCK],
    pub multiplier: [i32; BLOCK],
    pub right: [i32; BLOCK],
    pub dropped: [i32; BLOCK],
}

impl Sixteen {
    /// `None` if they are not 16, or one of them needs more than a rounding and a right shift.
    pub fn new(cs: &[Channel], o: &Output) -> Option<Self> {
        let cs: &[Channel; BLOCK] = cs.try_into().ok()?;
        let zeros = [0; BLOCK];
        let mut all = Self { bias: zeros, multiplier: zeros, right: zeros, dropped: zeros };
        let mut usual = o.rounding == Rounding::Double;
        for (at, c) in cs.iter().enumerate() {
            let [bias, multiplier, shift] = c.map(i32::from_le_bytes);
            usual &= multiplier > 0 && (-31..=0).contains(&shift);
            let right = shift.unsigned_abs() & 31;
            (all.bias[at], all.multiplier[at], all.right[at]) = (bias, multiplier, right as i32);
            all.dropped[at] = ((1u32 << right) - 1) as i32;
        }
        usual.then_some(all)
    }
}

/// A term's numbers as [`Sixteen`]'s, all channels alike: what is added, the multiplier, the right shift, the bits that drops; `None` if
/// it needs more.
pub fn usual_term(t: &Term, rounding: Rounding) -> Option<[i32; 4]> {
    let usual = rounding == Rounding::Double && t.multiplier > 0 && (-31..=0).contains(&t.shift);
    let right = t.shift.unsigned_abs() & 31;
    usual.then_some([-(t.zero << t.up), t.multiplier, right as i32, ((1u32 << right) - 1) as i32])
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

/// The inputs under output pixel `(y, x)`, `[kernel height, kernel width, channels]`, into `patch`: the zero point outside the
/// image, zeros beyond.
#[inline(always)]
pub fn gather(g: &Window, (y, x): (usize, usize), (image, zero): Input<'_, i8>, patch: &mut [i8]) -> Option<()> {
    let (patch, beyond) = patch.split_at_mut_checked(g.y.kernel * g.x.kernel * g.channels)?;
    if !beyond.is_empty() {
        beyond.fill(0);
    }
    let [inside_y, inside_x] = [(&g.y, y), (&g.x, x)].map(|(axis, at)| {
        let start = (at * axis.stride).checked_sub(axis.pad);
        start.filter(|start| start + (axis.kernel - 1) * axis.dilation.get() < axis.input)
    });
    if let (Some(iy), Some(ix), 1) = (inside_y, inside_x, g.x.dilation.get()) {
        // The whole window: a stretch a row.
        let len = g.x.kernel * g.channels;
        let mut from = (iy * g.x.input + ix) * g.channels;
        for to in patch.chunks_exact_mut(len) {
            copy(to, image.get(from..)?.get(..len)?);
            from += g.y.dilation.get() * g.x.input * g.channels;
        }
        return Some(());
    }
    let ((rows, iy), (cols, ix)) = (g.y.taps(y), g.x.taps(x));
    patch.fill(zero as i8);
    // Taps side by side are side by side in memory, weights and image alike.
    let together = if g.x.dilation.get() == 1 { cols.len().max(1) } else { 1 };
    for (n, ky) in rows.enumerate() {
        let row = (iy + n * g.y.dilation.get()) * g.x.input;
        for (n, kx) in cols.clone().step_by(together).enumerate() {
            let from = (row + ix + n * together * g.x.dilation.get()) * g.channels;
            let to = (ky * g.x.kernel + kx) * g.channels;
            let len = together * g.channels;
            copy(patch.get_mut(to..)?.get_mut(..len)?, image.get(from..)?.get(..len)?);
        }
    }
    Some(())
}

#[inline(always)]
fn copy(to: &mut [i8], from: &[Cell<i8>]) {
    let ((to, to_rest), (from, from_rest)) = (to.as_chunks_mut::<16>(), from.as_chunks::<16>());
    to.iter_mut().zip(from).for_each(|(to, x)| *to = bytes_of(x));
    to_rest.iter_mut().zip(from_rest).for_each(|(to, x)| *to = x.get());
}

/// The bytes of cells side by side.
#[inline(always)]
pub fn bytes_of<const N: usize>(cells: &[Cell<i8>; N]) -> [i8; N] {
    // SAFETY: a cell is as its contents, and nobody writes them meanwhile: cells are not shared between threads.
    unsafe { cells.as_ptr().cast::<[i8; N]>().read() }
}

/// Writes cells side by side.
#[inline(always)]
pub fn set_bytes<const N: usize>(cells: &[Cell<i8>; N], bytes: [i8; N]) {
    // SAFETY: as above, and a cell may be written through a shared reference.
    unsafe { cells.as_ptr().cast::<[i8; N]>().cast_mut().write(bytes) };
}

macro_rules! convolutions {
    ($features:literal) => {
        use crate::kernels::scalar::int8::{self as scalar_int8, Input, Output, Quantized, Term, Window};
        use crate::kernels::x86::int8::{
            Channel, LINES, Line, MOST_BLOCKS, MOST_PIXELS, PATCHES, Pixels, Sixteen, bytes_of, gather, set_bytes,
            usual_term,
        };
        use core::cell::Cell;
        use core::num::NonZeroUsize;

        /// Pixels side by side where a block is alone.
        const ALONE: usize = TILE * PAIR;

        /// Lines of some blocks side by side.
        type Lines = [[MaybeUninit<Line>; LINES]; PAIR];

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
            let mut lines: Lines = [[MaybeUninit::uninit(); LINES]; PAIR];
            let mut memory = [[MaybeUninit::uninit(); MOST_PIXELS]; PAIR];
            let patches = filled(patches.get_mut(..room.min(pixels) * padded)?, 0i8);
            let mut inputs = [0; MOST_PIXELS];
            let mut next = Pixels::new(g);
            let apart = if g.backward { all.wrapping_neg() } else { all };
            for first in (0..pixels).step_by(room) {
                let (count, first) = (room.min(pixels - first), next.at);
                for (patch, sum) in patches.chunks_exact_mut(padded).take(count).zip(&mut inputs) {
                    gather(g, (next.y, next.x), (x, zx), patch)?;
                    next.step();
                    // Raised weights count each input so many times more.
                    *sum = patch.iter().fold(0, |sum: i32, x| sum + i32::from(*x)).wrapping_mul(RAISED + zw);
                }
                for pair in (0..cs.len()).step_by(PAIR * BLOCK) {
                    let mut sums = memory.each_mut().map(|sums| filled(&mut sums[..count], [0; BLOCK]));
                    let mut all_weights = [[0; BLOCK]; PAIR];
                    for start in (0..padded).step_by(4 * LINES) {
                        let end = columns.min(start + 4 * LINES);
                        let count = (end - start).div_ceil(4);
                        let blocks = (all - pair).div_ceil(BLOCK).min(PAIR);
                        for (block, (lines, all_weights)) in
                            lines.iter_mut().zip(&mut all_weights).take(blocks).enumerate()
                        {
                            turn(w, columns, (pair + block * BLOCK, all), (start, end), lines);
                            // SAFETY: `turn` has written so many.
                            let lines = unsafe { lines.get(..count)?.assume_init_ref() };
                            add_weights(lines, all_weights);
                        }
                        let mut pixel = 0;
                        while pixel < sums[0].len() {
                            let sums = sums.each_mut().map(|sums| &mut sums[pixel..]);
                            let x = (patches.get(pixel * padded + start..)?, padded);
                            pixel += match sums[0].len() {
                                n if blocks == 1 && n >= ALONE => some_pixels::<ALONE, 1>(&lines, count, x, sums),
                                6.. if TILE >= 6 => some_pixels::<6, PAIR>(&lines, count, x, sums),
                                4.. => some_pixels::<4, PAIR>(&lines, count, x, sums),
                                2.. => some_pixels::<2, PAIR>(&lines, count, x, sums),
                                _ => some_pixels::<1, PAIR>(&lines, count, x, sums),
                            };
                        }
                    }
                    for (block, (sums, weights)) in sums.iter_mut().zip(&all_weights).enumerate() {
                        let channel = pair + block * BLOCK;
                        let Some(cs) = cs.get(channel..all.min(channel + BLOCK)) else { break };
                        let usual = Sixteen::new(cs, o);
                        let constant = (columns as i32).wrapping_mul(zx.wrapping_mul(zw));
                        let less = weights.map(|sum| sum.wrapping_mul(zx).wrapping_sub(constant));
                        let mut at = first * all + channel;
                        if let Some(c) = &usual {
                            let numbers = numbers_of(c);
                            let bounds = bounds_of(o);
                            for (sums, inputs) in sums.iter().zip(&inputs) {
                                let to = out.get(at..)?.first_chunk::<BLOCK>()?;
                                at = at.wrapping_add(apart);
                                for span in 0..BLOCK / LANES {
                                    let v = minus(words(&sums.as_chunks().0[span]), words(&less.as_chunks().0[span]));
                                    let v = rounded(minus(v, splat(*inputs)), numbers[span]);
                                    let Some(to) = to.as_chunks().0.get(span) else { continue };
                                    set_bytes(to, elements(v, bounds));
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

        /// Columns `start..end` of the filters of 16 channels from `first` on as lines, weights raised; zeros beyond the last
        /// channel and beyond the filter.
        #[target_feature(enable = $features)]
        fn turn(
            w: &[i8],
            columns: usize,
            (first, channels): (usize, usize),
            (start, end): (usize, usize),
            lines: &mut [MaybeUninit<Line>; LINES],
        ) {
            for span in 0..BLOCK / LANES {
                for (at, lines) in (start..end).step_by(4 * LANES).zip(lines.chunks_mut(LANES)) {
                    let mut rows = [bytes(splat(0)); LANES];
                    for (row, channel) in rows.iter_mut().zip(first + span * LANES..channels) {
                        let filter = w.get(channel * columns..).and_then(|w| w.get(at..end)).unwrap_or(&[]);
                        *row = match filter.first_chunk::<{ 4 * LANES }>() {
                            Some(some) => bytes(load(&some.map(|w| w as u8))),
                            None => {
                                let mut last = [0; 4 * LANES];
                                last.iter_mut().zip(filter).for_each(|(to, w)| *to = *w as u8);
                                bytes(load(&last))
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

        /// Adds each channel's weights.
        #[inline]
        #[target_feature(enable = $features)]
        fn add_weights(lines: &[Line], all: &mut [i32; BLOCK]) {
            for (span, all) in all.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                let mut sum = splat(0);
                for line in lines {
                    sum = dot8(sum, load(&line.0.as_chunks().0[span]), splat(0x0101_0101));
                }
                let mut sums = [0i64; LANES];
                flush(sum, &mut sums);
                for (all, sum) in all.iter_mut().zip(sums) {
                    *all = all.wrapping_add(sum as i32 - RAISED * 4 * lines.len() as i32);
                }
            }
        }

        /// Adds to `PIXELS` pixels' sums their products with `count` lines of each block; `x` has the first one's inputs, the
        /// next's are `apart` bytes on. Returns `PIXELS`.
        #[inline]
        #[target_feature(enable = $features)]
        fn some_pixels<const PIXELS: usize, const BLOCKS: usize>(
            lines: &Lines,
            count: usize,
            (x, apart): (&[i8], usize),
            sums: [&mut [[i32; BLOCK]]; PAIR],
        ) -> usize {
            let mut inputs = [&[][..]; PIXELS];
            for (at, inputs) in inputs.iter_mut().enumerate() {
                let some = x.get(at * apart..).and_then(|x| x.as_chunks::<4>().0.get(..count));
                let Some(some) = some else { return PIXELS };
                *inputs = some;
            }
            for span in 0..BLOCK / LANES {
                let mut dots = [[splat(0); BLOCKS]; PIXELS];
                for at in 0..count.min(LINES) {
                    let mut vectors = [splat(0); BLOCKS];
                    for (vector, lines) in vectors.iter_mut().zip(lines) {
                        // SAFETY: so many lines have been written, each byte of them; or nobody reads the sums.
                        let line = unsafe { lines.get_unchecked(at).assume_init_ref() };
                        *vector = load(&line.0.as_chunks().0[span]);
                    }
                    for (pixel, dots) in dots.iter_mut().enumerate() {
                        // SAFETY: all have `count`.
                        let x = splat(i32::from_le_bytes(unsafe { *inputs[pixel].get_unchecked(at) }.map(|x| x as u8)));
                        for (dot, vector) in dots.iter_mut().zip(vectors) {
                            *dot = dot8(*dot, vector, x);
                        }
                    }
                }
                for pixel in 0..PIXELS {
                    for block in 0..BLOCKS {
                        add_to(dots[pixel][block], &mut sums[block][pixel].as_chunks_mut().0[span]);
                    }
                }
            }
            PIXELS
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
            // The last block may share channels with the one before.
            let start = |block: usize| (block * BLOCK).min(all - BLOCK);
            if multiplier.get() > 1 || all < BLOCK || blocks > MOST_BLOCKS {
                return scalar_int8::depthwise_conv2d(g, multiplier, (x, zx), (w, zw), cs, o, out);
            }
            let mut usual = [const { MaybeUninit::uninit() }; MOST_BLOCKS];
            for (block, usual) in usual.iter_mut().enumerate().take(blocks) {
                usual.write(Sixteen::new(cs.get(start(block)..)?.get(..BLOCK)?, o));
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
                    let taps: [_; 4] = from_fn(|at| g.x.taps(first + at));
                    let inside = taps.iter().all(|(cols, _)| cols.len() == g.x.kernel) && count == 4;
                    for (block, usual) in usual.iter().enumerate() {
                        let channel = start(block);
                        let mut sums = [[splat(0); BLOCK / LANES]; 4];
                        for (n, ky) in rows.clone().enumerate() {
                            let row = (iy + n * g.y.dilation.get()) * g.x.input;
                            let w = w.get(ky * g.x.kernel * all + channel..)?;
                            if inside {
                                let starts = from_fn::<_, 4, _>(|at| (row + taps[at].1) * all + channel);
                                for kx in 0..g.x.kernel {
                                    let step = kx * g.x.dilation.get() * all;
                                    let w = w.get(kx * all..)?.first_chunk()?;
                                    add_tap(&mut sums, x, starts.map(|start| start + step), w, (zx, zw))?;
                                }
                            } else {
                                for ((cols, ix), sums) in taps.iter().zip(&mut sums).take(count) {
                                    for (n, kx) in cols.clone().enumerate() {
                                        let at = (row + ix + n * g.x.dilation.get()) * all + channel;
                                        let w = w.get(kx * all..)?.first_chunk()?;
                                        add_tap(core::array::from_mut(sums), x, [at], w, (zx, zw))?;
                                    }
                                }
                            }
                        }
                        let cs = cs.get(channel..)?.get(..BLOCK)?;
                        for (sums, at) in sums.into_iter().zip(first..first + count) {
                            let to = out.get((y * g.x.output + at) * all + channel..)?.first_chunk::<BLOCK>()?;
                            write(sums, cs, usual, (o, bounds), to);
                        }
                    }
                }
            }
            Some(())
        }

        /// Adds to the sums of some pixels a tap of 16 channels, whose inputs begin at `at`.
        #[inline]
        #[target_feature(enable = $features)]
        fn add_tap<const N: usize>(
            sums: &mut [[V; BLOCK / LANES]; N],
            x: &[Cell<i8>],
            at: [usize; N],
            w: &[i8; BLOCK],
            (zx, zw): (i32, i32),
        ) -> Option<()> {
            for span in 0..BLOCK / LANES {
                let w = minus(widened(&w.as_chunks().0[span]), splat(zw));
                for (sums, at) in sums.iter_mut().zip(at) {
                    let x = bytes_of(x.get(at..)?.get(span * LANES..)?.first_chunk()?);
                    sums[span] = add_scaled(sums[span], minus(widened(&x), splat(zx)), w);
                }
            }
            Some(())
        }

        /// Writes the elements of 16 channels.
        #[inline]
        #[target_feature(enable = $features)]
        fn write(
            sums: [V; BLOCK / LANES],
            cs: &[Channel],
            usual: &Option<Sixteen>,
            (o, bounds): (&Output, [V; 3]),
            to: &[Cell<i8>; BLOCK],
        ) {
            for (span, sums) in sums.into_iter().enumerate() {
                let Some(to) = to.as_chunks().0.get(span) else { return };
                if let Some(c) = usual {
                    set_bytes(to, elements(rounded(sums, numbers_of(c)[span]), bounds));
                } else {
                    let mut each = [0; LANES];
                    add_to(sums, &mut each);
                    for ((sum, c), to) in each.iter().zip(cs.iter().skip(span * LANES)).zip(to) {
                        to.set(i8::result(*sum, c, o));
                    }
                }
            }
        }

        /// Sums of two tensors' elements, in order or from the last on; `false` if their terms need more than is done here, and
        /// nothing is done.
        #[target_feature(enable = $features)]
        fn add(x: &[Cell<i8>], y: &[Cell<i8>], to: &[Cell<i8>], terms: [Term; 3], o: &Output, backward: bool) -> bool {
            let [a, b, sum] =
                terms.map(|t| usual_term(&t, o.rounding).map(|numbers| (numbers.map(|n| splat(n)), t.up)));
            let (Some((a, up_a)), Some((b, up_b)), Some((sum, _))) = (a, b, sum) else { return false };
            let count = x.len().min(y.len()).min(to.len());
            let bounds = bounds_of(o);
            let scaled = |x: V, up: u32, numbers: [V; 4]| rounded(up_by(x, up), numbers);
            let mut done = 0;
            while done < count {
                let some = (count - done).min(LANES);
                let at = if backward { count - done - some } else { done };
                let (mut xs, mut ys) = ([0; LANES], [0; LANES]);
                let cells = (&x[at..at + some], &y[at..at + some], &to[at..at + some]);
                if let (Some(x), Some(y)) = (cells.0.first_chunk(), cells.1.first_chunk()) {
                    (xs, ys) = (bytes_of(x), bytes_of(y));
                } else {
                    xs.iter_mut().zip(cells.0).for_each(|(to, x)| *to = x.get());
                    ys.iter_mut().zip(cells.1).for_each(|(to, y)| *to = y.get());
                }
                let both = plus(scaled(widened(&xs), up_a, a), scaled(widened(&ys), up_b, b));
                let elements = elements(rounded(both, sum), bounds);
                match cells.2.first_chunk() {
                    Some(to) => set_bytes(to, elements),
                    None => cells.2.iter().zip(elements).for_each(|(to, v)| to.set(v)),
                }
                done += some;
            }
            true
        }
    };
}
