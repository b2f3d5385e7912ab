//! Convolutions and pools in pieces: a window over some of the output is a window over some of the input, so no kernel knows.
//!
//! Pieces are what sessions do step by step, and what threads do side by side.

use core::cell::Cell;

use super::Run;
#[cfg(not(feature = "steps"))]
use super::cost::Part;
use super::tensor::Plain;
use crate::kernels::scalar::int8::{Quantized, Window};

/// What of a convolution or a pool is done: a window over some of the output, and what it reads and writes.
pub(crate) struct Piece<'c, T, C> {
    pub g: &'c mut Window,
    pub from: &'c [Cell<T>],
    pub to: &'c [Cell<T>],
    pub weights: &'c [i8],
    pub channels: &'c [C],
}

/// All of an op, but for its elements.
pub(crate) struct Whole<'c, C> {
    pub g: &'c mut Window,
    pub weights: &'c [i8],
    pub channels: &'c [C],
    /// Weights of an output channel, if each has its own and reads all of the input under the window.
    #[cfg_attr(not(feature = "threads"), allow(dead_code))]
    pub filter: Option<usize>,
    /// What an output takes as long as, in products.
    #[cfg_attr(not(feature = "threads"), allow(dead_code))]
    pub each: usize,
}

#[cfg(feature = "steps")]
pub(crate) use steps::Cut;
#[cfg(all(feature = "steps", feature = "convnet"))]
pub(crate) use steps::pool_units;

/// Without the feature `steps` nothing is cut.
#[cfg(not(feature = "steps"))]
#[derive(Clone, Copy)]
pub(crate) struct Cut;

#[cfg(not(feature = "steps"))]
impl Cut {
    pub(crate) fn new(_: &Run<'_>, _: &Window, _: &[Plain; 2], _: Option<usize>) -> Self {
        Self
    }

    #[inline(always)]
    fn piece<'c, T, C>(self, _: Part, whole: Piece<'c, T, C>) -> Option<Piece<'c, T, C>> {
        Some(whole)
    }
}

/// Does `job` with the part of an op between these slots that is to be done, or with pieces of that part, each on a thread, where that is
/// faster.
#[inline(always)]
pub(crate) fn run<T: Quantized, C: Sync>(
    r: &mut Run<'_>,
    slots: &[Plain; 2],
    whole: Whole<'_, C>,
    job: impl Fn(Piece<'_, T, C>) -> Option<()> + Sync + Copy,
) -> Option<()> {
    let (cut, part) = (Cut::new(r, whole.g, slots, whole.filter), r.part);
    #[cfg(feature = "threads")]
    if r.pool.threads() > 1
        && let Some(done) = threads::run(r, slots, cut, &whole, job)
    {
        return done;
    }
    let Whole { g, weights, channels, .. } = whole;
    let [from, to] = r.cells::<T, 2>(slots.each_ref())?;
    job(cut.piece(part, Piece { g, from, to, weights, channels })?)
}

/// Does `job` with all elements of slots of as many elements, or with pieces of them on threads; the last slot is the output. `each`: what
/// an element takes as long as, in products.
#[inline(always)]
pub(crate) fn run_elements<T: bytemuck::Pod + Send + Sync, const N: usize>(
    r: &mut Run<'_>,
    slots: [&Plain; N],
    each: usize,
    job: impl Fn([&[Cell<T>]; N]) + Sync,
) -> Option<()> {
    #[cfg(feature = "threads")]
    if r.pool.threads() > 1 && threads::run_elements(r, slots, each, &job).is_some() {
        return Some(());
    }
    let _ = each;
    job(r.cells(slots)?);
    Some(())
}

#[cfg(feature = "steps")]
mod steps {
    use core::ops::Range;

    use super::Piece;
    use crate::image::Op;
    use crate::kernels::scalar::int8::Window;
    use crate::ops::Run;
    use crate::ops::cost::{Part, Units};
    use crate::ops::tensor::Plain;
    use crate::ops::window::{pool, slots};
    use crate::view::meet;

    /// What a unit is.
    #[derive(Clone, Copy)]
    pub(crate) enum Cut {
        /// A row of the output: whatever lies on what, the order is that of the whole.
        Rows,
        /// [`PIXELS`], where there is but one row and nothing overlaps.
        Pixels,
        /// [`CHANNELS`] with filters of so many weights, where there is but one pixel.
        Channels(usize),
    }

    /// Pixels that kernels take together.
    const PIXELS: usize = 4;
    /// Channels that kernels take together.
    const CHANNELS: usize = 16;

    /// What some units have of an op's elements, weights and channels.
    pub(super) struct Spans {
        pub from: Range<usize>,
        pub to: Range<usize>,
        pub weights: Range<usize>,
        pub channels: Range<usize>,
    }

    impl Cut {
        /// How the output of `g` between these slots is cut. `filter`: weights of an output channel, if each has its own and reads
        /// all of the input under the window.
        pub(crate) fn new(r: &Run<'_>, g: &Window, [input, output]: &[Plain; 2], filter: Option<usize>) -> Self {
            let apart = || Some(!meet(&input.place(r.image, r.limits)?, &output.place(r.image, r.limits)?));
            match filter {
                _ if g.y.output > 1 => Self::Rows,
                Some(filter) if g.x.output == 1 => Self::Channels(filter),
                _ if g.y.input == 1 && apart() == Some(true) => Self::Pixels,
                _ => Self::Rows,
            }
        }

        /// The units of `g`, `channels` each of which takes `filter` products a pixel.
        pub(crate) fn units(self, g: &Window, channels: usize, filter: usize) -> Units {
            let count = self.count(g, channels);
            match self {
                Self::Rows => Units::new(count, &[g.x.output, channels, filter]),
                Self::Pixels => Units::new(count, &[PIXELS, channels, filter]),
                Self::Channels(_) => Units::new(count, &[CHANNELS, filter]),
            }
        }

        /// How many units there are.
        pub(super) fn count(self, g: &Window, channels: usize) -> usize {
            match self {
                Self::Rows => g.y.output,
                Self::Pixels => g.x.output.div_ceil(PIXELS),
                Self::Channels(_) => channels.div_ceil(CHANNELS),
            }
        }

        /// What some of the units of `g` have, of an op with so many elements of output, weights and channels. `g` becomes theirs.
        pub(super) fn spans(
            self,
            units: Range<usize>,
            g: &mut Window,
            [to, weights, channels]: [usize; 3],
        ) -> Option<Spans> {
            let (rows, cols) = (g.y.output, g.x.output);
            let pixel = to.checked_div(rows.checked_mul(cols)?)?;
            let row = [g.x.input.checked_mul(g.channels)?, cols.checked_mul(pixel)?];
            let (axis, [from, to], part) = match self {
                Self::Rows => (&mut g.y, row, units),
                Self::Pixels => (&mut g.x, [g.channels, pixel], units.start * PIXELS..(units.end * PIXELS).min(cols)),
                Self::Channels(filter) => {
                    let part = units.start * CHANNELS..(units.end * CHANNELS).min(channels);
                    let weights = part.start.checked_mul(filter)?..part.end.checked_mul(filter)?;
                    let from = 0..g.y.input.checked_mul(row[0])?;
                    return Some(Spans { from, to: part.clone(), weights, channels: part });
                }
            };
            let count = part.len();
            let (first, before) = axis.cut(part, g.backward);
            let range = |first: usize, count: usize, each: usize| {
                Some(first.checked_mul(each)?..first.checked_add(count)?.checked_mul(each)?)
            };
            let (from, to) = (range(before, axis.input, from)?, range(first, count, to)?);
            Some(Spans { from, to, weights: 0..weights, channels: 0..channels })
        }

        /// A part of it all.
        pub(crate) fn piece<'c, T, C>(self, part: Part, whole: Piece<'c, T, C>) -> Option<Piece<'c, T, C>> {
            let Piece { g, from, to, weights, channels } = whole;
            let sizes = [to.len(), weights.len(), channels.len()];
            let spans = self.spans(part.of(self.count(g, channels.len())), g, sizes)?;
            Some(Piece {
                g,
                from: from.get(spans.from)?,
                to: to.get(spans.to)?,
                weights: weights.get(spans.weights)?,
                channels: channels.get(spans.channels)?,
            })
        }
    }

    /// The units of a pool.
    pub(crate) fn pool_units(r: &Run<'_>, op: &Op) -> Option<Units> {
        let slots = slots(r.image, op)?;
        let g = pool(op, slots[0].cols)?;
        Some(Cut::new(r, &g, &slots, None).units(&g, g.channels, super::pool_each(&g)))
    }
}

/// A tap of a pool takes as long as two products, an output as twelve taps.
pub(crate) fn pool_each(g: &Window) -> usize {
    g.y.kernel.saturating_mul(g.x.kernel).saturating_add(12).saturating_mul(2)
}

/// Products below which a piece is not worth a thread. With AVX-512 they take 0.8 us: ops of as many, or of half as many more, take as long
/// on two threads as on one, those of four times as many three quarters of the time.
#[cfg(feature = "threads")]
pub const LEAST: usize = 1 << 17;

/// Pieces side by side.
#[cfg(feature = "threads")]
mod threads {
    use core::cell::Cell;
    use core::ops::Range;
    use core::sync::atomic::{AtomicBool, Ordering};

    use super::{Cut, Piece, Whole};
    use crate::kernels::scalar::int8::{Axis, Quantized, Window};
    use crate::ops::Run;
    use crate::ops::tensor::Plain;
    use crate::view::{self, MOST_STRETCHES, Stretch, for_stretches};

    /// As [`super::run`]. `None`, having done nothing, if one thread is to do it all.
    pub(super) fn run<T: Quantized, C: Sync>(
        r: &mut Run<'_>,
        slots: &[Plain; 2],
        cut: Cut,
        whole: &Whole<'_, C>,
        job: impl Fn(Piece<'_, T, C>) -> Option<()> + Sync + Copy,
    ) -> Option<Option<()>> {
        let [input, output] = [0, 1].map(|n| elements::<T>(r, &slots[n]));
        let (input, output) = (input?, output?);
        let (mut g, channels) = (*whole.g, whole.channels.len());
        let sizes = [output.len(), whole.weights.len(), channels];
        // The part that is to be done, which has its own window, and pieces of that.
        let spans = cut.spans(r.part.of(cut.count(&g, channels)), &mut g, sizes)?;
        let (weights, channels) = (whole.weights.get(spans.weights)?, whole.channels.get(spans.channels)?);
        let (input, output) = (within(&input, &spans.from)?, within(&output, &spans.to)?);
        let g = one_row(g);
        let cut = match whole.filter {
            Some(filter) if g.y.output == 1 && g.x.output == 1 => Cut::Channels(filter),
            _ if g.y.input == 1 && g.y.output == 1 => Cut::Pixels,
            _ => Cut::Rows,
        };
        let (units, sizes) = (cut.count(&g, channels.len()), [output.len(), weights.len(), channels.len()]);
        let pieces = pieces(r, output.len().saturating_mul(whole.each), units)?;
        // By where they lie: the caller's thread takes the first, and finds in its cache what it wrote in the op before.
        let of = move |at: usize| {
            let (mut g, piece) = (g, if g.backward { pieces - 1 - at } else { at });
            let share = |piece: usize| units * piece / pieces;
            let spans = cut.spans(share(piece)..share(piece + 1), &mut g, sizes)?;
            Some((g, spans))
        };
        let mut stretches = [const { Stretch::EMPTY }; MOST_STRETCHES];
        let stretches = stretches.get_mut(..pieces)?;
        for (piece, stretch) in stretches.iter_mut().enumerate() {
            let (_, spans) = of(piece)?;
            stretch.ranges = [within(&input, &spans.from)?, within(&output, &spans.to)?];
        }
        let room = view::as_elements(r.room).unwrap_or_default();
        let failed = &AtomicBool::new(false);
        for_stretches::<T, 2>(r.pool, (view::as_elements(r.arena)?, room), stretches, &move |piece, [from, to]| {
            let done = of(piece).and_then(|(mut g, spans)| {
                let (weights, channels) = (weights.get(spans.weights)?, channels.get(spans.channels)?);
                job(Piece { g: &mut g, from, to, weights, channels })
            });
            if done.is_none() {
                failed.store(true, Ordering::Relaxed);
            }
        })?;
        Some((!failed.load(Ordering::Relaxed)).then_some(()))
    }

    /// As [`super::run_elements`]. `None`, having done nothing, if one thread is to do it all.
    pub(super) fn run_elements<T: bytemuck::Pod + Send + Sync, const N: usize>(
        r: &mut Run<'_>,
        slots: [&Plain; N],
        each: usize,
        job: &(impl Fn([&[Cell<T>]; N]) + Sync),
    ) -> Option<()> {
        let count = slots.iter().map(|slot| slot.cols as usize).min()?;
        let pieces = pieces(r, count.saturating_mul(each), count)?;
        let mut stretches = [const { Stretch::EMPTY }; MOST_STRETCHES];
        let stretches = stretches.get_mut(..pieces)?;
        for (piece, stretch) in stretches.iter_mut().enumerate() {
            let share = count * piece / pieces..count * (piece + 1) / pieces;
            for (range, slot) in stretch.ranges.iter_mut().zip(slots) {
                *range = within(&elements::<T>(r, slot)?, &share)?;
            }
        }
        let room = view::as_elements(r.room).unwrap_or_default();
        for_stretches::<T, N>(r.pool, (view::as_elements(r.arena)?, room), stretches, &|_, cells| job(cells))
    }

    /// How many pieces an op of so many products and units is worth; `None` if it is one.
    fn pieces(r: &Run<'_>, products: usize, units: usize) -> Option<usize> {
        let worth = products / r.least.max(1);
        Some(r.pool.threads().min(worth).min(units).min(MOST_STRETCHES)).filter(|pieces| *pieces > 1)
    }

    /// The elements of a slot in the arena.
    fn elements<T>(r: &Run<'_>, slot: &Plain) -> Option<Range<usize>> {
        let start = slot.place(r.image, r.limits)?.start / size_of::<T>();
        Some(start..start.checked_add(slot.cols as usize)?)
    }

    /// A range of what lies in a range.
    fn within(all: &Range<usize>, part: &Range<usize>) -> Option<Range<usize>> {
        (part.end <= all.len()).then(|| all.start + part.start..all.start + part.end)
    }

    /// The same window on one row if it is a pixel: rows seldom fall into equal parts.
    fn one_row(g: Window) -> Window {
        let alone = |a: &Axis| a.kernel == 1 && a.stride == 1 && a.pad == 0 && a.input == a.output;
        if !alone(&g.y) || !alone(&g.x) {
            return g;
        }
        Window { y: Axis::each(1), x: Axis::each(g.y.output * g.x.output), ..g }
    }
}
