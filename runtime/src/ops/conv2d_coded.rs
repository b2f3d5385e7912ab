//! 2D convolution of int8 or int16 with coded weights, 4 or 8 bits; with a window of the whole image a fully connected layer.
//!
//! Arguments: in slot (I8 or I16), out slot (I8 or I16), patch slot (I8, scratch), weights (coded `[out channels, kernel height * kernel
//! width * in channels]`), bias (I32 `[out channels]`), input size, output size, steps, padding above | left << 16, kernel
//! height | width << 16, numbers (`ops/window.rs`). NUMERICS.md, "conv2d_coded".
//!
//! A patch, the inputs under one output pixel, is copied into a row of the patch slot, as many patches at a time as it has
//! rows: each block of weights is then read once for all of them. Where every patch lies in the image as one row of int8
//! already, and fills its groups of 32, nothing is copied and the patch slot may be of any size; unless the output lies on the
//! input. Flag 2: backward.

use core::num::NonZeroUsize;
use core::ops::Range;
#[cfg(feature = "threads")]
use core::sync::atomic::{AtomicBool, Ordering};

use super::coded::{Input, Linear, Numbers, planes};
use super::cost::Part;
#[cfg(feature = "steps")]
use super::cost::Units;
#[cfg(feature = "threads")]
use super::split_slots;
#[cfg(feature = "threads")]
use super::tensor::element_bytes;
use super::tensor::quantized_arg;
use super::{BACKWARD, OpDef, Overlap, Run, arg, ensure, i8_arg, i8_cols, in_turn, window};
use crate::fixed::{saturate, shift_round};
use crate::image::plan::{Kind, Slot};
use crate::image::tensors::BLOCK;
use crate::image::{Image, Op};
use crate::kernels::rows::requantize;
use crate::kernels::scalar::int8::{Axis, Output, Window};
use crate::kernels::{BlocksFn, Codes, Isa};
use crate::view;
#[cfg(feature = "threads")]
use crate::view::{Shape, for_column_parts};

/// The op.
pub static OP: OpDef = OpDef {
    code: 29,
    name: "conv2d_coded",
    args: 11,
    flags: BACKWARD,
    slots: &[0, 1, 2],
    overlap: Overlap::Gathered(&[(0, 1)]),
    check,
    run,
};

fn parts<'a>(image: &Image<'a>, op: &Op) -> Option<(Window, Linear<'a>, usize)> {
    let (input, kernel) = (quantized_arg(image, op, 0)?, arg(op, 9)?);
    let g = window::window(op, 5, [(kernel & 0xFFFF) as usize, (kernel >> 16) as usize], input.cols)?;
    let planes = planes(&input)?;
    let linear = Linear::new(image, op, (3, 4), planes)?;
    let columns = [g.y.kernel, g.x.kernel, g.channels].iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
    (columns == linear.weights.cols).then_some((g, linear, planes))
}

/// Whether every patch is one row of the image's memory, groups filled.
fn in_place(g: &Window, linear: &Linear<'_>, planes: usize) -> bool {
    let inside = |a: &Axis| a.pad == 0 && (a.output - 1) * a.stride + (a.kernel - 1) * a.dilation.get() < a.input;
    let across = g.x.kernel == 1 || g.x.dilation.get() == 1;
    let down = g.y.kernel == 1 || (g.y.dilation.get() == 1 && g.x.kernel == g.x.input);
    let filled = planes == 1 && linear.padded() == linear.weights.cols;
    filled && across && down && inside(&g.y) && inside(&g.x)
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (g, linear, planes) = parts(image, op)?;
    window::ensure_output(&g, linear.weights.rows as u32, quantized_arg(image, op, 1)?.cols)?;
    let patches = i8_arg(image, op, 2)?.cols as usize;
    ensure(patches >= linear.padded() * planes || in_place(&g, &linear, planes))?;
    window::numbers(op, 10, Kind::I8).map(|_| ())
}

/// The elements of the output.
enum Results<'a> {
    I8(&'a mut [i8]),
    I16(&'a mut [i16]),
}

impl<'a> Results<'a> {
    /// Those of a slot, or the first of them.
    fn new(slot: &Slot, bytes: &'a mut [u8]) -> Option<Self> {
        Some(match slot.kind {
            Kind::I16 => Self::I16(view::as_elements(bytes)?),
            _ => Self::I8(view::as_i8_mut(bytes)),
        })
    }

    /// Writes the results of block `block`, of `rows` rows, for pixels from `pixel` on.
    fn put(
        &mut self,
        isa: Isa,
        l: &Linear<'_>,
        o: &Output,
        (block, pixel): (usize, usize),
        sums: &[[i64; BLOCK]],
    ) -> Option<()> {
        let rows = l.weights.rows;
        let (first, shift) = (block * BLOCK, l.weights.exponent);
        match self {
            Self::I8(all) => {
                let out = all.get_mut(pixel * rows + first..)?;
                let mut numbers = Numbers::default();
                l.put_numbers(block, &mut numbers);
                requantize(isa, sums, &numbers, shift, o, out, (rows, BLOCK.min(rows - first)))
            }
            Self::I16(all) => {
                // The bounds of an int16 are those of its high byte.
                let (min, max) = (o.min * 256, o.max * 256 + 255);
                for (sums, pixel) in sums.iter().zip(pixel..) {
                    for (sum, row) in l.finish(block, *sums).into_iter().zip(first..rows) {
                        let v = saturate(shift_round(sum, shift));
                        *all.get_mut(pixel * rows + row)? = v.saturating_add(o.zero_point).max(min).min(max) as i16;
                    }
                }
                Some(())
            }
        }
    }
}

/// Bytes of patches that hosts keep on the stack: the slot has room for four pixels, enough where reading weights is what costs, but
/// from codes to levels is a long way there.
const OWN: usize = if cfg!(mote_vector) { 32 << 10 } else { 0 };

/// The op: everything that its tiles share.
struct Layer<'l> {
    g: &'l Window,
    linear: &'l Linear<'l>,
    planes: usize,
    zero_point: i8,
    o: &'l Output,
    kernel: BlocksFn,
    isa: Isa,
    /// Bytes of a patch.
    patch: usize,
    /// The patches are the image, one after the other.
    in_order: bool,
}

impl Layer<'_> {
    fn position(&self, pixel: usize) -> Option<(usize, usize)> {
        Some((pixel.checked_div(self.g.x.output)?, pixel.checked_rem(self.g.x.output)?))
    }

    /// Makes the patches of the pixels of a tile.
    fn gather(&self, from: &Input<'_>, tile: Range<usize>, patches: &mut [i8]) -> Option<()> {
        let Self { g, patch, .. } = *self;
        // Pixels that are copied together, each a patch.
        let row = if self.in_order { tile.len().max(1) } else { 1 };
        for (at, pixel) in tile.step_by(row).enumerate() {
            let patch = patches.get_mut(at * patch..)?.get_mut(..row * patch)?;
            if self.in_order {
                from.put(pixel * g.channels, patch.len(), patch, (0, patch.len()))?;
            } else {
                gather(g, from, self.zero_point, self.position(pixel)?, (patch, self.linear.padded()))?;
            }
        }
        Some(())
    }

    /// Computes blocks of the pixels of a tile: of a row of pixels whose patches are `from`, the image, if they lie `in_place`; else their
    /// patches are `from`. The first element of `to` is pixel `first`'s.
    fn compute(
        &self,
        (from, in_place): (&[i8], bool),
        tile: Range<usize>,
        blocks: Range<usize>,
        (to, first): (&mut Results<'_>, usize),
    ) -> Option<()> {
        let Self { g, linear, patch, o, kernel, isa, .. } = *self;
        // Patches of int8 that lie at equal distances are one call; those of int16 are two rows each.
        let apart = if in_place { g.x.stride * g.channels } else { patch };
        let together = if self.planes == 1 && apart >= patch { tile.len() } else { 1 };
        for pixel in tile.clone().step_by(together.max(1)) {
            let start = if in_place {
                let (y, x) = self.position(pixel)?;
                (y * g.y.stride * g.x.input + x * g.x.stride) * g.channels
            } else {
                (pixel - tile.start) * patch
            };
            let pixel = pixel - first;
            if self.planes == 1 {
                let bytes = bytemuck::must_cast_slice(from.get(start..)?);
                let codes = Codes::new(bytes, together, apart.max(patch), patch)?;
                let mut done = Some(());
                kernel(&linear.weights, blocks.clone(), &codes, &mut |block, first, sums| {
                    done = done.and_then(|()| to.put(isa, linear, o, (block, pixel + first), sums));
                });
                done?;
            } else {
                for block in blocks.clone() {
                    let sums = linear.products(kernel, block, from.get(start..)?.get(..patch)?);
                    to.put(isa, linear, o, (block, pixel), &[sums])?;
                }
            }
        }
        Some(())
    }
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (g, linear, planes) = parts(r.image, op)?;
    let slot = |which| quantized_arg(r.image, op, which);
    let (input, output, patches) = (slot(0)?, slot(1)?, slot(2)?);
    let (zero_point, o) = window::numbers(op, 10, Kind::I8)?;
    let (kernel, isa) = (linear.kernel(r), r.kernels.isa);
    let pixels = g.y.output.checked_mul(g.x.output)?;
    let rows = in_place(&g, &linear, planes);
    let in_place = rows && apart(r, &input, &output)?;
    let in_order =
        rows && g.channels == linear.padded() && g.x.stride == 1 && g.y.stride == 1 && g.x.input == g.x.output;
    // Bytes of a patch, and patches that are made before the weights are read.
    let patch = linear.padded() * planes;
    let (zero_point, g, linear, o) = (zero_point as i8, &g, &linear, &o);
    let layer = Layer { g, linear, planes, zero_point, o, kernel, isa, patch, in_order };
    #[cfg(feature = "threads")]
    if let Some(done) = threads(r, &layer, [&input, &output], in_place) {
        return done;
    }
    let mut own = [0; OWN];
    // A piece of a tile needs the patches of the piece before, and those are in the slot.
    let has_own = !in_place && r.part.is_whole() && own.len() > patches.cols as usize && own.len() >= patch;
    let room = if has_own { OWN } else { patches.cols as usize };
    let (together, tiles) = tiles(g, room.checked_div(patch)?, in_place)?;
    for (turn, blocks) in units_of(r.part, tiles, linear.blocks()) {
        let first = in_turn(op, turn, tiles) * together;
        let tile = first..pixels.min(first + together);
        if !in_place && blocks.start == 0 {
            let [from, scratch] = r.slots([&input, &patches])?;
            let scratch = if has_own { &mut own } else { i8_cols(&patches, scratch)? };
            layer.gather(&Input::new(&input, from)?, tile.clone(), scratch)?;
        }
        let read = if in_place { &input } else { &patches };
        let [from, to] = r.slots([read, &output])?;
        let from = if has_own { &own } else { &*i8_cols(read, from)? };
        layer.compute((from, in_place), tile, blocks, (&mut Results::new(&output, to)?, 0))?;
    }
    Some(())
}

/// Runs the whole op on several threads, each of which computes pixels side by side and has patches of its own. `None`, having done
/// nothing, if one is to do it. An input that the output lies on is copied before.
#[cfg(feature = "threads")]
fn threads(r: &mut Run<'_>, layer: &Layer<'_>, [input, output]: [&Slot; 2], in_place: bool) -> Option<Option<()>> {
    let Layer { g, linear, patch, .. } = *layer;
    let (pixels, rows) = (g.y.output.checked_mul(g.x.output)?, linear.weights.rows);
    let worth = pixels.saturating_mul(rows).saturating_mul(patch) / r.least.max(1);
    let threads = r.pool.threads().min(worth).min(pixels);
    if threads < 2 || !r.part.is_whole() || patch > OWN {
        return None;
    }
    let pool = r.pool;
    let [from, to] = if apart(r, input, output)? {
        r.slots([input, output])?
    } else {
        let place = input.place(r.limits)?;
        let copy = r.room.get_mut(..place.len())?;
        copy.copy_from_slice(r.arena.get(place)?);
        let [to] = split_slots(r.arena, r.limits, [output])?;
        [copy, to]
    };
    let from = &Input::new(input, from)?;
    // Bytes of a pixel's results.
    let each = rows * element_bytes(output);
    let cols = pixels.checked_mul(each)?;
    let shape = Shape { rows: 1, stride: cols, cols: 0..cols, granule: pixels.div_ceil(threads) * each };
    let failed = &AtomicBool::new(false);
    for_column_parts(pool, (to, shape), (&mut [], 0), &move |mut part, _| {
        let pixels = part.cols().start / each..part.cols().end / each;
        let mut own = [0; OWN];
        let mut some = |tile: Range<usize>, to: &mut Results<'_>| {
            let to = (to, pixels.start);
            match from {
                Input::I8(image) if in_place => layer.compute((image, true), tile, 0..linear.blocks(), to),
                _ => {
                    layer.gather(from, tile.clone(), &mut own)?;
                    layer.compute((&own, false), tile, 0..linear.blocks(), to)
                }
            }
        };
        let done = Results::new(output, part.row(0)).and_then(|mut to| {
            let mut at = pixels.start;
            while at < pixels.end {
                // In place patches lie at equal distances within a row.
                let together = if in_place { g.x.output - layer.position(at)?.1 } else { OWN / patch };
                let tile = at..pixels.end.min(at + together);
                at = tile.end;
                some(tile, &mut to)?;
            }
            Some(())
        });
        if done.is_none() {
            failed.store(true, Ordering::Relaxed);
        }
    })?;
    Some((!failed.load(Ordering::Relaxed)).then_some(()))
}

/// Pixels that are computed together, and how many times as many there are: a row where they lie in place, else the patches that
/// there is room for.
fn tiles(g: &Window, room: usize, in_place: bool) -> Option<(usize, usize)> {
    let together = NonZeroUsize::new(if in_place { g.x.output } else { room })?;
    Some((together.get(), g.y.output.checked_mul(g.x.output)?.div_ceil(together.get())))
}

/// The tiles of a part, each with the blocks of weights: units are blocks of each tile in turn.
fn units_of(part: Part, tiles: usize, blocks: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let units = part.of(tiles.saturating_mul(blocks));
    let first = units.start.checked_div(blocks).unwrap_or(0);
    let within = move |tile: usize, unit: usize| unit.saturating_sub(tile * blocks).min(blocks);
    let tiles = (first..tiles).map(move |tile| (tile, within(tile, units.start)..within(tile, units.end)));
    tiles.take_while(|(_, blocks)| !blocks.is_empty())
}

/// The units: blocks of weights with a tile of patches.
#[cfg(feature = "steps")]
pub(crate) fn units(r: &Run<'_>, op: &Op) -> Option<Units> {
    let (g, linear, planes) = parts(r.image, op)?;
    let (input, output) = (quantized_arg(r.image, op, 0)?, quantized_arg(r.image, op, 1)?);
    let in_place = apart(r, &input, &output)? && in_place(&g, &linear, planes);
    let room = (i8_arg(r.image, op, 2)?.cols as usize).checked_div(linear.padded() * planes)?;
    let (together, tiles) = tiles(&g, room, in_place)?;
    let together = together.min(g.y.output.checked_mul(g.x.output)?);
    // What becomes of a sum, in 64 bits, takes as long as so many products.
    let each = linear.padded().checked_mul(planes)?.checked_add(24)?;
    Some(Units::new(tiles.checked_mul(linear.blocks())?, &[BLOCK, each, together]))
}

/// Whether the slots lie apart.
fn apart(r: &Run<'_>, input: &Slot, output: &Slot) -> Option<bool> {
    Some(!view::meet(&input.range(r.limits)?, &output.range(r.limits)?))
}

/// Copies the inputs under output pixel `(y, x)` into `patch`, whose planes have `padded` columns: [kernel height, kernel
/// width, channels], the zero point for those outside the image, zeros beyond.
fn gather(
    g: &Window,
    from: &Input<'_>,
    zero_point: i8,
    (y, x): (usize, usize),
    (patch, padded): (&mut [i8], usize),
) -> Option<()> {
    let ((rows, iy), (cols, ix)) = (g.y.taps(y), g.x.taps(x));
    let columns = g.y.kernel * g.x.kernel * g.channels;
    let (low, high) = patch.split_at_mut_checked(padded)?;
    low.get_mut(columns..)?.fill(0);
    if rows.len() != g.y.kernel || cols.len() != g.x.kernel {
        low.get_mut(..columns)?.fill(zero_point);
        // The high byte of an int8 is 0, since the low one has a sign.
        high.fill(0);
    } else if let Some(rest) = high.get_mut(columns..) {
        rest.fill(0);
    }
    // Taps side by side are side by side in the image, too, unless the window is dilated.
    let together = if g.x.dilation.get() == 1 { cols.len().max(1) } else { 1 };
    for (n, ky) in rows.enumerate() {
        let row = (iy + n * g.y.dilation.get()) * g.x.input;
        for (n, kx) in cols.clone().step_by(together).enumerate() {
            let at = (row + ix + n * g.x.dilation.get()) * g.channels;
            let to = (ky * g.x.kernel + kx) * g.channels;
            from.put(at, together * g.channels, patch, (to, padded))?;
        }
    }
    Some(())
}
