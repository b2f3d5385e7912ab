//! How far apart the slots of an op must begin if they overlap: for [`super::net`], from the op's record alone.
//!
//! ```text
//! units      the order in which an op works: four pixels of a row, one element, or as many pixels as are gathered at a time
//!            (`mote_runtime::ops::Overlap`)
//! forward    first unit first: the output may begin so low that what a unit writes is read by none after it
//! backward   last unit first: so high
//! ```
//!
//! With every unit's reads and writes as byte ranges of its slots, walked one by one:
//!
//! ```text
//! input - output >= forward  = largest of (end of unit u's writes - start of the reads of units u, u + 1 ...)
//! output - input >= backward = largest of (end of the reads of units ... u - 1, u - start of unit u's writes)
//! ```
//!
//! The reads of an element, or of pixels that are gathered, are over before it is written, so there `u` itself is left out of
//! the reads.

use mote_runtime::image::tensors::GROUP;
use mote_runtime::image::{Dtype, Op, Slot};
use mote_runtime::kernels::scalar::int8::{Axis, Window};
use mote_runtime::ops::{self, Overlap, window};
use std::ops::Range;

/// Pixels of a unit.
const PIXELS: usize = 4;

/// Two slots of an op that may overlap, and the bytes between their beginnings that this takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The slot read.
    pub input: u32,
    /// The slot written.
    pub output: u32,
    /// The output begins so much below the input at least, the op working forward. May be negative.
    pub forward: i64,
    /// The output begins so much above the input at least, the op working backward.
    pub backward: i64,
}

/// Bytes that a unit reads and those that it writes, each from the beginning of its slot.
type Unit = (Range<i64>, Range<i64>);

/// The gaps of an op; `dims` of a tensor. None for slots that must lie apart.
pub fn gaps(op: &Op, slots: &[Slot], dims: &dyn Fn(u32) -> [u32; 4]) -> Vec<Gap> {
    let overlap = ops::find(op.code).map_or(Overlap::Apart, |def| def.overlap);
    let gap = |(input, output): &(usize, usize)| {
        let (input, output) = (op.args[*input], op.args[*output]);
        let (from, to) = (slots.get(input as usize)?, slots.get(output as usize)?);
        let (forward, backward) = match overlap {
            Overlap::Apart => return None,
            Overlap::Elements(_) => walk(&elements(from, to), 1),
            Overlap::Units(_) => walk(&units(op, from, to, dims)?, 0),
            Overlap::Gathered(_) => walk(&gathered(op, slots, from, to)?, 1),
        };
        (input != output).then_some(Gap { input, output, forward, backward })
    };
    let mut gaps: Vec<Gap> = overlap.pairs().iter().filter_map(gap).collect();
    gaps.dedup(); // x + x
    gaps
}

/// The two gaps. A unit's writes keep off the reads of the units from `after` behind it on.
fn walk(units: &[Unit], after: usize) -> (i64, i64) {
    let (mut forward, mut backward) = (i64::MIN, i64::MIN);
    let mut lowest = i64::MAX;
    for at in (0..units.len()).rev() {
        if let Some((reads, _)) = units.get(at + after).filter(|(reads, _)| !reads.is_empty()) {
            lowest = lowest.min(reads.start);
        }
        forward = forward.max(units[at].1.end.saturating_sub(lowest));
    }
    let mut highest = i64::MIN;
    for at in 0..units.len() {
        let reads = at.checked_sub(after).map(|before| &units[before].0).filter(|reads| !reads.is_empty());
        if let Some(reads) = reads {
            highest = highest.max(reads.end);
        }
        backward = backward.max(highest.saturating_sub(units[at].1.start));
    }
    // One unit alone can lie anyhow; the numbers must stay small enough to add.
    let bounded = |gap: i64| gap.max(-(1 << 40));
    (bounded(forward), bounded(backward))
}

/// Bytes of an element; `None` for slots that are no plain tensors.
fn element(slot: &Slot) -> Option<i64> {
    match slot.plain()? {
        Dtype::I16 => Some(2),
        Dtype::I32 => Some(4),
        _ => Some(1),
    }
}

/// One element of each slot after the other.
fn elements(from: &Slot, to: &Slot) -> Vec<Unit> {
    let (Some(read), Some(written)) = (element(from), element(to)) else {
        return vec![(0..i64::MAX >> 1, 0..i64::MAX >> 1); 2]; // apart
    };
    let at = |i: i64, bytes: i64| i * bytes..(i + 1) * bytes;
    (0..i64::from(from.cols.min(to.cols))).map(|i| (at(i, read), at(i, written))).collect()
}

/// Four pixels of a row of the output after the other.
fn units(op: &Op, from: &Slot, to: &Slot, dims: &dyn Fn(u32) -> [u32; 4]) -> Option<Vec<Unit>> {
    let g = window_of(op, from, dims)?;
    let inside = if op.code == ops::transpose_conv2d::OP.code { inside_transposed } else { inside };
    let row = |oy: usize| (0..g.x.output).step_by(PIXELS).map(move |ox| (oy, ox..(ox + PIXELS).min(g.x.output)));
    let unit = |(oy, xs): (usize, Range<usize>)| {
        Some((reads(&g, inside, oy, xs.clone(), element(from)?), writes(&g, to, oy, xs)?))
    };
    (0..g.y.output).flat_map(row).map(unit).collect()
}

/// The pixels of the output that are gathered at a time, one tile after the other; they may be of several rows.
fn gathered(op: &Op, slots: &[Slot], from: &Slot, to: &Slot) -> Option<Vec<Unit>> {
    let kernel = op.args[9] as usize;
    let g = window::window(op, 5, [kernel & 0xFFFF, kernel >> 16], from.cols)?;
    let row = (g.y.kernel * g.x.kernel * g.channels).next_multiple_of(GROUP) * element(from)? as usize;
    let together = slots.get(op.args[2] as usize)?.cols as usize / row;
    let pixels = g.y.output * g.x.output;
    let mut tiles: Vec<Unit> = Vec::new();
    for first in (0..pixels).step_by(Some(together).filter(|n| *n > 0)?) {
        let mut tile: Unit = (0..0, 0..0);
        for (oy, ox) in (first..pixels.min(first + together)).map(|pixel| (pixel / g.x.output, pixel % g.x.output)) {
            tile.0 = both(tile.0, reads(&g, inside, oy, ox..ox + 1, element(from)?));
            tile.1 = both(tile.1, writes(&g, to, oy, ox..ox + 1)?);
        }
        tiles.push(tile);
    }
    Some(tiles)
}

/// The stretch from the first byte of two to the last.
fn both<T: Ord>(a: Range<T>, b: Range<T>) -> Range<T> {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => b,
        (_, true) => a,
        _ => a.start.min(b.start)..a.end.max(b.end),
    }
}

/// What output pixels `xs` of row `oy` read; `bytes` of an element.
fn reads(g: &Window, inside: fn(&Axis, usize) -> Range<usize>, oy: usize, xs: Range<usize>, bytes: i64) -> Range<i64> {
    let rows = inside(&g.y, oy);
    // Dilated taps beside the border do not move evenly: each pixel's own.
    let cols = xs.map(|ox| inside(&g.x, ox)).fold(0..0, both);
    if rows.is_empty() || cols.is_empty() {
        return 0..0;
    }
    let pixel = |row: usize, col: usize| ((row * g.x.input + col) * g.channels) as i64 * bytes;
    pixel(rows.start, cols.start)..pixel(rows.end - 1, cols.end)
}

/// What they write.
fn writes(g: &Window, to: &Slot, oy: usize, xs: Range<usize>) -> Option<Range<i64>> {
    let channels = to.cols as usize / (g.y.output * g.x.output);
    let bytes = element(to)?;
    let pixel = |ox: usize| ((oy * g.x.output + ox) * channels) as i64 * bytes;
    Some(pixel(xs.start)..pixel(xs.end))
}

/// Input elements from the first tap of output `at` to its last.
fn inside(axis: &Axis, at: usize) -> Range<usize> {
    let (taps, first) = axis.taps(at);
    if taps.is_empty() { 0..0 } else { first..first + (taps.len() - 1) * axis.dilation.get() + 1 }
}

/// As [`inside`], of a transposed convolution.
fn inside_transposed(axis: &Axis, at: usize) -> Range<usize> {
    let (numbers, _, last) = axis.transposed_taps(at);
    if numbers.is_empty() { 0..0 } else { last + 1 - numbers.end..last + 1 - numbers.start }
}

fn window_of(op: &Op, from: &Slot, dims: &dyn Fn(u32) -> [u32; 4]) -> Option<Window> {
    let [out, height, width, _] = dims(op.args[2]);
    match op.code {
        code if code == ops::conv2d::OP.code || code == ops::depthwise_conv2d::OP.code => {
            window::window(op, 4, [height as usize, width as usize], from.cols)
        }
        code if code == ops::transpose_conv2d::OP.code => {
            window::transposed_window(op, 4, [height as usize, width as usize], from.cols)
        }
        code if code == ops::fully_connected::OP.code => {
            window::rows(op, 4, [1, height as usize], from.cols).filter(|_| out != 0)
        }
        code if code == ops::average_pool2d::OP.code || code == ops::max_pool2d::OP.code => window::pool(op, from.cols),
        _ => None,
    }
}
