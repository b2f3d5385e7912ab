//! Scales of groups: the search, and the final rounding to integers.

use super::ring::{ORDER, RING};
use super::{Codebook, Grid, Row};
use mote_runtime::image::tensors::{BLOCK, GROUP};
use pulp::{Arch, Simd, WithSimd};

/// Scales tried for a group, as factors of absmax / top level.
const TRIES: [f32; 17] =
    [0.66, 0.70, 0.74, 0.78, 0.82, 0.86, 0.89, 0.92, 0.94, 0.96, 0.98, 1.0, 1.02, 1.05, 1.09, 1.14, 1.2];

/// Weighted squared error of a group at a scale; the scale that is best for the codes it leads to; and the error with that, less the
/// square of the group itself.
#[inline(always)]
fn error_at(values: &[f32; GROUP], weight: &[f32; GROUP], book: &Codebook, scale: f32) -> (f32, f32, f32) {
    let inverse = 1.0 / scale;
    let mut levels = *values;
    levels.iter_mut().for_each(|v| *v *= inverse);
    book.round(&mut levels);
    let (mut errors, mut products, mut squares) = ([0f32; GROUP], [0f32; GROUP], [0f32; GROUP]);
    for i in 0..GROUP {
        let (weighted, difference) = (weight[i] * levels[i], values[i] - levels[i] * scale);
        errors[i] = weight[i] * difference * difference;
        products[i] = weighted * values[i];
        squares[i] = weighted * levels[i];
    }
    let (error, product, square) = (sum(&errors), sum(&products), sum(&squares));
    let best = if square > 0.0 { (product / square).max(0.0) } else { scale };
    (error, best, best * (best * square - 2.0 * product))
}

/// The sum of a group's numbers, by halves: as vectors add, and the same on every machine.
#[inline(always)]
fn sum(of: &[f32; GROUP]) -> f32 {
    let sixteen: [f32; 16] = core::array::from_fn(|i| of[i] + of[i + 16]);
    let eight: [f32; 8] = core::array::from_fn(|i| sixteen[i] + sixteen[i + 8]);
    let four: [f32; 4] = core::array::from_fn(|i| eight[i] + eight[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

/// A group's numbers, with zeros behind a last group that is shorter.
fn whole(values: &[f32]) -> [f32; GROUP] {
    let mut whole = [0.0; GROUP];
    whole[..values.len()].copy_from_slice(values);
    whole
}

/// The scale of least weighted error; 0 for a group of zeros.
pub(super) fn best_scale(values: &[f32], weight: &[f32], book: &Codebook) -> f32 {
    let peak = values.iter().fold(0f32, |m, v| m.max(v.abs()));
    let base = peak / book.top();
    // Too small to divide by: such a group is lost in the row's rounding anyway.
    if base < f32::MIN_POSITIVE * 1e3 {
        return 0.0;
    }
    let tries: &[f32] = if book.is_bytes() { &[1.0] } else { &TRIES };
    Arch::new().dispatch(BestOf { values: &whole(values), weight: &whole(weight), book, base, tries })
}

/// The best of scales that are `base` times one of `tries`, or what their codes lead to; compiled for each width of vectors.
struct BestOf<'b> {
    values: &'b [f32; GROUP],
    weight: &'b [f32; GROUP],
    book: &'b Codebook,
    base: f32,
    tries: &'b [f32],
}

impl WithSimd for BestOf<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f32 {
        let Self { values, weight, book, base, tries } = self;
        let mut least = (f32::INFINITY, base);
        let mut best = (f32::INFINITY, base);
        for factor in tries {
            let (error, refined, refined_error) = error_at(values, weight, book, base * factor);
            best = if error < best.0 { (error, base * factor) } else { best };
            least = if refined_error < least.0 { (refined_error, refined) } else { least };
        }
        // At that scale other codes may be nearer, and lead on.
        for _ in 0..2 {
            if least.1 > 0.0 && tries.len() > 1 {
                let (error, refined, _) = error_at(values, weight, book, least.1);
                best = if error < best.0 { (error, least.1) } else { best };
                least.1 = refined;
            }
        }
        best.1
    }
}

/// The best scale of each group of the padded rows of a block.
pub(super) fn block_scales(rows: &[Vec<f32>], weight: &[f32], book: &Codebook) -> Vec<Vec<f32>> {
    let of_row = |row: &Vec<f32>| {
        row.chunks_exact(GROUP).zip(weight.chunks_exact(GROUP)).map(|(v, w)| best_scale(v, w, book)).collect()
    };
    let mut scales: Vec<Vec<f32>> = rows.iter().map(of_row).collect();
    let Some(by_ring) = book.rings() else { return scales };
    for group in 0..weight.len() / GROUP {
        let (columns, weight) = rings(rows, weight, group);
        let guess = core::array::from_fn(|lane| scales.get(lane).map_or(0.0, |scales| scales[group]));
        let found = by_ring.scales((&columns, &weight), &guess);
        scales.iter_mut().zip(found).for_each(|(scales, found)| scales[group] = found);
    }
    scales
}

/// A group's columns of all rows of a block in the order of its rings, and what they matter.
fn rings(rows: &[Vec<f32>], weight: &[f32], group: usize) -> ([[f32; BLOCK]; GROUP], [f32; GROUP]) {
    let column = |at: usize| group * GROUP + at / RING * RING + ORDER[at % RING];
    let of = |c: usize| core::array::from_fn(|lane| rows.get(lane).map_or(0.0, |row| row[c]));
    (core::array::from_fn(|at| of(column(at))), core::array::from_fn(|at| weight[column(at)]))
}

/// The integer scale in units of `unit` of least error near `scale`; 0 for a group of zeros.
pub(super) fn integer_scale(values: &[f32], weight: &[f32], book: &Codebook, scale: f32, unit: f32) -> u8 {
    let (values, weight) = (&whole(values), &whole(weight));
    let near = (scale / unit).round().clamp(0.0, 255.0) as i32;
    let mut best = (f32::INFINITY, 0);
    for s in (near - 2..=near + 2).filter(|s| (1..=255).contains(s)) {
        let (error, ..) = error_at(values, weight, book, s as f32 * unit);
        best = if error < best.0 { (error, s as u8) } else { best };
    }
    if scale > 0.0 { best.1 } else { 0 }
}

/// Codes the padded rows of a block with integer scales in units of the rows' own.
pub(super) fn code_block(
    rows: &[Vec<f32>],
    weight: &[f32],
    book: &Codebook,
    scales: &[Vec<f32>],
    grids: &[Grid],
) -> Vec<Row> {
    let mut out = Row::block(grids, book, 0);
    let all = weight;
    for (group, weight) in weight.chunks_exact(GROUP).enumerate() {
        let units = core::array::from_fn(|lane| grids.get(lane).map_or(0.0, |grid| grid.unit));
        let near = core::array::from_fn(|lane| scales.get(lane).map_or(0.0, |scales| scales[group]));
        let integers = match book.rings() {
            Some(by_ring) => {
                let (columns, weight) = rings(rows, all, group);
                by_ring.integer_scales((&columns, &weight), &near, &units)
            }
            None => core::array::from_fn(|lane| {
                let values = |row: &Vec<f32>| {
                    integer_scale(&row[group * GROUP..][..GROUP], weight, book, near[lane], units[lane])
                };
                rows.get(lane).map_or(0, values)
            }),
        };
        out.iter_mut().take(rows.len()).zip(integers).for_each(|(row, integer)| row.scales.push(integer));
        let steps: [f32; BLOCK] = core::array::from_fn(|lane| f32::from(integers[lane]) * units[lane]);
        out[rows.len()..].iter_mut().for_each(|padding| padding.scales.push(0));
        // Each row counts by its own loss.
        let present = steps.map(|step| if step > 0.0 { 1.0 } else { 0.0 });
        let mut sums = [0u64; BLOCK];
        let values = |c: usize| core::array::from_fn(|lane| rows.get(lane).map_or(0.0, |row| row[group * GROUP + c]));
        let all: Vec<([u8; BLOCK], [f32; BLOCK])> = match book.rings() {
            Some(by_ring) => by_ring.group(&core::array::from_fn(values), &core::array::from_fn(|c| weight[c]), &steps),
            None => (0..GROUP).map(|c| book.column(&values(c), &steps, &present)).collect(),
        };
        for (c, ((codes, levels), w)) in all.iter().zip(weight).enumerate() {
            let values = values(c);
            for (lane, row) in out.iter_mut().enumerate() {
                row.codes.push(codes[lane]);
                // Padding has no weight: whatever its level is, it is multiplied with zeros.
                if *w > 0.0 {
                    row.error += f64::from(values[lane] - levels[lane] * steps[lane]).powi(2);
                    sums[lane] += levels[lane].abs() as u64;
                }
            }
        }
        for (row, sum) in out.iter_mut().zip(sums).take(rows.len()) {
            row.bound += 127 * row.scales.last().map_or(0, |s| u64::from(*s)) * sum;
        }
    }
    out
}
