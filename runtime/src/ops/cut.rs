//! Convolutions and pools in pieces: a window over some of the output is a window over some of the input, so no kernel knows.

use core::cell::Cell;

#[cfg(not(feature = "steps"))]
use super::tensor::Plain;
#[cfg(not(feature = "steps"))]
use super::{Run, cost::Part};
use crate::kernels::scalar::int8::Window;

/// What of a convolution or a pool is done: a window over some of the output, and what it reads and writes.
pub(crate) struct Piece<'c, T, C> {
    pub g: &'c mut Window,
    pub from: &'c [Cell<T>],
    pub to: &'c [Cell<T>],
    pub weights: &'c [i8],
    pub channels: &'c [C],
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
    pub(crate) fn piece<'c, T, C>(self, _: Part, whole: Piece<'c, T, C>) -> Option<Piece<'c, T, C>> {
        Some(whole)
    }
}

#[cfg(feature = "steps")]
mod steps {
    use super::Piece;
    use crate::image::Op;
    use crate::kernels::scalar::int8::Window;
    use crate::ops::Run;
    use crate::ops::cost::{Part, Units};
    use crate::ops::tensor::Plain;
    use crate::ops::window::{pool, slots};

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

    impl Cut {
        /// How the output of `g` between these slots is cut. `filter`: weights of an output channel, if each has its own and reads
        /// all of the input under the window.
        pub(crate) fn new(r: &Run<'_>, g: &Window, [input, output]: &[Plain; 2], filter: Option<usize>) -> Self {
            let apart = || {
                let (a, b) = (input.place(r.image, r.limits)?, output.place(r.image, r.limits)?);
                Some(a.end <= b.start || b.end <= a.start)
            };
            match filter {
                _ if g.y.output > 1 => Self::Rows,
                Some(filter) if g.x.output == 1 => Self::Channels(filter),
                _ if g.y.input == 1 && apart() == Some(true) => Self::Pixels,
                _ => Self::Rows,
            }
        }

        /// The units of `g`, `channels` each of which takes `filter` products a pixel.
        pub(crate) fn units(self, g: &Window, channels: usize, filter: usize) -> Units {
            match self {
                Self::Rows => Units::new(g.y.output, &[g.x.output, channels, filter]),
                Self::Pixels => Units::new(g.x.output.div_ceil(PIXELS), &[PIXELS, channels, filter]),
                Self::Channels(_) => Units::new(channels.div_ceil(CHANNELS), &[CHANNELS, filter]),
            }
        }

        /// A part of it all.
        pub(crate) fn piece<'c, T, C>(self, part: Part, whole: Piece<'c, T, C>) -> Option<Piece<'c, T, C>> {
            let mut piece = whole;
            let g = &mut *piece.g;
            let (rows, cols) = (g.y.output, g.x.output);
            let pixel = piece.to.len().checked_div(rows.checked_mul(cols)?)?;
            let row = [g.x.input.checked_mul(g.channels)?, cols.checked_mul(pixel)?];
            let (axis, [from, to], part) = match self {
                Self::Rows => (&mut g.y, row, part.of(rows)),
                Self::Pixels => {
                    let part = part.of(cols.div_ceil(PIXELS));
                    let end = (part.end * PIXELS).min(cols);
                    (&mut g.x, [g.channels, pixel], part.start * PIXELS..end)
                }
                Self::Channels(filter) => {
                    let part = part.of(piece.channels.len().div_ceil(CHANNELS));
                    let part = part.start * CHANNELS..(part.end * CHANNELS).min(piece.channels.len());
                    piece.weights =
                        piece.weights.get(part.start.checked_mul(filter)?..part.end.checked_mul(filter)?)?;
                    piece.channels = piece.channels.get(part.clone())?;
                    piece.to = piece.to.get(part)?;
                    return Some(piece);
                }
            };
            let count = part.len();
            let (first, before) = axis.cut(part, g.backward);
            piece.from = piece.from.get(before.checked_mul(from)?..)?;
            piece.to = piece.to.get(first.checked_mul(to)?..)?.get(..count.checked_mul(to)?)?;
            Some(piece)
        }
    }

    /// The units of a pool. A tap takes as long as two products, an output as twelve taps.
    pub(crate) fn pool_units(r: &Run<'_>, op: &Op) -> Option<Units> {
        let slots = slots(r.image, op)?;
        let g = pool(op, slots[0].cols)?;
        Some(Cut::new(r, &g, &slots, None).units(
            &g,
            g.channels,
            g.y.kernel.saturating_mul(g.x.kernel).saturating_add(12).saturating_mul(2),
        ))
    }
}
