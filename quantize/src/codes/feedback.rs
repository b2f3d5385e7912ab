//! Codes for what a row gives: least `(w - q)^T H (w - q)`, H the mean of x x^T over the inputs that the row meets.
//!
//! 1. Error feedback: columns one after another, each rounded after what the columns before it have lost has been made up
//!    for: `q_c = round(w_c + sum over j < c of (w_j - q_j) U[j, c])`, with H = U D U^T and U unit upper triangular. That is
//!    GPTQ (Frantar et al. 2022) as LDLQ (Chee et al. 2023, QuIP, theorem 6) writes it. A group's scale is fitted, to its
//!    targets, when the first of its columns is reached.
//!    Rows do not meet each other, so the 16 of a block go through it side by side; along a trellis they choose together.
//! 2. Learned rounding: AdaRound (Nagel et al. 2020) minimises the same form by gradients; codes being few, coordinate
//!    descent does without: each code, and then each scale, moves to where the form is least, the others as they are,
//!    until none moves. It never makes the form larger. Along a trellis, a column of a block moves as one.

use super::{Codebook, Grid, Row, fit};
use mote_runtime::image::tensors::{BLOCK, GROUP};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Rounds over all columns, at most. Most rows stand still after four.
const ROUNDS: usize = 12;

/// Columns from which on the factors are computed by all threads.
const LARGE: usize = 512;

/// The form and its factors, columns in the order in which they are coded: groups by what they matter, and so within each.
/// What matters most is rounded first, when there is most left to make up for it (GPTQ's "act-order", groups kept whole).
pub(super) struct Feedback {
    cols: usize,
    /// The column at each place.
    order: Vec<usize>,
    /// Each group, in order, and its places.
    groups: Vec<(usize, Range<usize>)>,
    hessian: Vec<f32>,
    /// U, row by row; the diagonal, which is 1, and what is below are not kept.
    upper: Vec<f32>,
}

impl Feedback {
    /// Factors H.
    pub(super) fn new(hessian: &[f32], cols: usize) -> Self {
        let diagonal = |c: usize| hessian[c * cols + c];
        let mut groups: Vec<Vec<usize>> = (0..cols).collect::<Vec<_>>().chunks(GROUP).map(<[_]>::to_vec).collect();
        let matters = |group: &[usize]| group.iter().map(|c| diagonal(*c)).fold(0f32, f32::max);
        groups.iter_mut().for_each(|group| group.sort_by(|a, b| diagonal(*b).total_cmp(&diagonal(*a))));
        groups.sort_by(|a, b| matters(b).total_cmp(&matters(a)));
        let order = groups.concat();
        let mut first = 0;
        let places = groups.iter().map(|group| {
            first += group.len();
            (group[0] / GROUP, first - group.len()..first)
        });
        let groups = places.collect();
        let line = |c: &usize| order.iter().map(|d| hessian[c * cols + d]).collect::<Vec<f32>>();
        let hessian: Vec<f32> = order.iter().flat_map(line).collect();
        let upper = upper(&hessian, cols);
        Self { cols, order, groups, hessian, upper }
    }

    /// Codes the padded rows of a block with integer scales in units of the rows' own.
    pub(super) fn code_block(
        &self,
        rows: &[Vec<f32>],
        weight: &[f32],
        book: &Codebook,
        scales: &[Vec<f32>],
        grids: &[Grid],
        coupling: &Coupling,
    ) -> Found {
        let cols = self.cols;
        let wanted = self.placed(rows);
        let weight: Vec<f32> = self.order.iter().map(|c| weight[*c]).collect();
        // What is wanted of each column, with what those before it have lost.
        let mut target = wanted.clone();
        let mut found = Found {
            codes: vec![[0; BLOCK]; cols],
            levels: vec![[0.0; BLOCK]; cols],
            scales: vec![[0; BLOCK]; self.groups.len()],
            error: vec![[0.0; BLOCK]; cols],
            units: lanes(|lane| grids.get(lane).map_or(0.0, |grid| grid.unit)),
            matters: lanes(|lane| coupling[lane][lane]),
        };
        let line = |c: usize| &self.upper[c * cols..][..cols];
        for (group, here) in &self.groups {
            for (lane, (scales, grid)) in scales.iter().zip(grids).enumerate() {
                let values: Vec<f32> = target[here.clone()].iter().map(|t| t[lane]).collect();
                let weight = &weight[here.clone()];
                let best = if scales[*group] > 0.0 { fit::best_scale(&values, weight, book) } else { 0.0 };
                found.scales[*group][lane] = fit::integer_scale(&values, weight, book, best, grid.unit);
            }
            let (steps, weights) = found.steps(*group);
            for c in here.clone() {
                (found.codes[c], found.levels[c]) = book.column(&target[c], &steps, &weights);
                found.error[c] = lanes(|lane| wanted[c][lane] - found.levels[c][lane] * steps[lane]);
                add_all(&mut target[c + 1..here.end], &[(found.error[c], &line(c)[c + 1..here.end])]);
            }
            // What is behind the group hears of its columns together: each is then fetched once.
            let lost: Vec<Change> = here.clone().map(|c| (found.error[c], &line(c)[here.end..])).collect();
            add_all(&mut target[here.end..], &lost);
        }
        self.descend(book, &mut found, coupling);
        found
    }

    /// Improves a block, of which `error` (rows, by columns) is lost, for rows that count otherwise.
    pub(super) fn improve(&self, found: &mut Found, error: &[Vec<f32>], book: &Codebook, coupling: &Coupling) {
        found.error = self.placed(error);
        found.matters = lanes(|lane| coupling[lane][lane]);
        self.descend(book, found, coupling);
    }

    /// Rows by places.
    fn placed(&self, rows: &[Vec<f32>]) -> Vec<Lanes> {
        self.order.iter().map(|c| lanes(|lane| rows.get(lane).map_or(0.0, |row| row[*c]))).collect()
    }

    /// What a row of a block lacks of what was wanted of it, by columns.
    pub(super) fn error(&self, found: &Found, lane: usize) -> Vec<f32> {
        let mut error = vec![0f32; self.cols];
        self.order.iter().zip(&found.error).for_each(|(c, lanes)| error[*c] = lanes[lane]);
        error
    }

    /// The rows of a block.
    pub(super) fn rows(&self, found: &Found, book: &Codebook, grids: &[Grid]) -> Vec<Row> {
        let mut out = Row::block(grids, book, self.groups.len());
        for (lane, row) in out.iter_mut().enumerate() {
            row.error = found.error.iter().map(|e| f64::from(e[lane]).powi(2)).sum();
            for (group, here) in &self.groups {
                row.scales[*group] = found.scales[*group][lane];
                let sum: u64 = found.levels[here.clone()].iter().map(|l| l[lane].abs() as u64).sum();
                row.bound += 127 * u64::from(row.scales[*group]) * sum;
            }
            // Padding's codes: whatever stands for 0, if anything does.
            row.codes = vec![book.nearest(0.0).0; self.groups.len() * GROUP];
            self.order.iter().zip(&found.codes).for_each(|(c, codes)| row.codes[*c] = codes[lane]);
        }
        out
    }

    /// Moves codes and scales one by one to where the form is least, the rows of the block together: of a coupling G
    /// [`tr G (W - Q) H (W - Q)^T`].
    fn descend(&self, book: &Codebook, found: &mut Found, coupling: &Coupling) {
        let cols = self.cols;
        let line = |c: usize| &self.hessian[c * cols..][..cols];
        // H (w - q): half the slope of each row's own form.
        let mut slope: Vec<Lanes> = vec![[0.0; BLOCK]; cols];
        let all: Vec<Change> = found.error.iter().enumerate().map(|(c, e)| (*e, line(c))).collect();
        add_all(&mut slope, &all);
        for _ in 0..ROUNDS {
            let mut moved = false;
            for (group, here) in &self.groups {
                let before = found.error[here.clone()].to_vec();
                let (steps, weights) = found.steps(*group);
                for c in here.clone() {
                    let curvature = line(c)[c];
                    let now = lanes(|lane| found.levels[c][lane] * steps[lane]);
                    let downhill = coupled(coupling, &slope[c]);
                    let best = lanes(|lane| now[lane] + downhill[lane] / (curvature * found.matters[lane]));
                    let (codes, levels) = book.column(&best, &steps, &weights);
                    let mut by = lanes(|lane| levels[lane] * steps[lane] - now[lane]);
                    // Less than this is rounding.
                    let least = |lane: usize| -1e-6 * by[lane] * by[lane] * curvature * found.matters[lane];
                    let pays: [bool; BLOCK] = if book.is_trellis() {
                        let bent = coupled(coupling, &by);
                        let change = |lane: usize| by[lane] * (bent[lane] * curvature - 2.0 * downhill[lane]);
                        let all = |of: &dyn Fn(usize) -> f32| (0..BLOCK).map(of).sum::<f32>();
                        [all(&change) < all(&least); BLOCK]
                    } else {
                        // One after another, each after those that have moved.
                        let mut moved = [0f32; BLOCK];
                        core::array::from_fn(|lane| {
                            let others = curvature * coupled_lane(coupling, lane, &moved);
                            let own = curvature * found.matters[lane];
                            let change = by[lane] * (by[lane] * own + 2.0 * (others - downhill[lane]));
                            let pays = change < least(lane);
                            moved[lane] = if pays { by[lane] } else { 0.0 };
                            pays
                        })
                    };
                    if !pays.contains(&true) {
                        continue;
                    }
                    for lane in 0..BLOCK {
                        if pays[lane] {
                            (found.codes[c][lane], found.levels[c][lane]) = (codes[lane], levels[lane]);
                            found.error[c][lane] -= by[lane];
                        }
                        by[lane] = if pays[lane] { -by[lane] } else { 0.0 };
                    }
                    add_all(&mut slope[here.clone()], &[(by, &line(c)[here.clone()])]);
                }
                self.rescale(*group, here, found, &mut slope, coupling);
                // Other groups hear of what has changed when all has.
                let changed = here.clone().zip(&before).filter(|(c, before)| found.error[*c] != **before);
                let changed: Vec<(Lanes, usize)> =
                    changed.map(|(c, before)| (lanes(|lane| found.error[c][lane] - before[lane]), c)).collect();
                moved |= !changed.is_empty();
                for places in [0..here.start, here.end..cols] {
                    let changed: Vec<Change> = changed.iter().map(|(by, c)| (*by, &line(*c)[places.clone()])).collect();
                    add_all(&mut slope[places], &changed);
                }
            }
            if !moved {
                break;
            }
        }
    }

    /// Moves the scales of one group to where the form is least, its codes as they are. Of the slope it changes what belongs to the group.
    fn rescale(&self, group: usize, here: &Range<usize>, found: &mut Found, slope: &mut [Lanes], coupling: &Coupling) {
        let line = |c: usize| &self.hessian[c * self.cols..][here.clone()];
        let along: Vec<Lanes> =
            found.levels[here.clone()].iter().map(|l| lanes(|lane| l[lane] * found.units[lane])).collect();
        let mut bend = vec![[0f32; BLOCK]; here.len()];
        let all: Vec<Change> = here.clone().zip(&along).map(|(c, along)| (*along, line(c))).collect();
        add_all(&mut bend, &all);
        // One row after another: what moves one row's scale changes the others' slopes.
        for lane in 0..BLOCK {
            let (mut downhill, mut curvature) = (0f32, 0f32);
            for ((along, slope), bend) in along.iter().zip(&slope[here.clone()]).zip(&bend) {
                downhill += along[lane] * coupled_lane(coupling, lane, slope) / found.matters[lane];
                curvature += along[lane] * bend[lane];
            }
            let scale = &mut found.scales[group][lane];
            if curvature <= 0.0 || *scale == 0 {
                continue;
            }
            let best = (f32::from(*scale) + downhill / curvature).round().clamp(1.0, 255.0) as u8;
            let change = f32::from(best) - f32::from(*scale);
            if change * (change * curvature - 2.0 * downhill) < -1e-6 * change * change * curvature {
                *scale = best;
                found.error[here.clone()].iter_mut().zip(&along).for_each(|(e, along)| e[lane] -= change * along[lane]);
                slope[here.clone()].iter_mut().zip(&bend).for_each(|(s, bend)| s[lane] -= change * bend[lane]);
            }
        }
    }
}

/// What errors of two rows of a block count together, symmetric; by themselves on the diagonal.
pub(super) type Coupling = [Lanes; BLOCK];

/// Rows that count `matters` times, one if there is nothing there, and nothing together.
pub(super) fn alone(matters: &[f32]) -> Coupling {
    let own = |row: usize| matters.get(row).copied().unwrap_or(1.0);
    core::array::from_fn(|row| lanes(|lane| if row == lane { own(row) } else { 0.0 }))
}

fn coupled(coupling: &Coupling, of: &Lanes) -> Lanes {
    let mut out = [0f32; BLOCK];
    coupling.iter().zip(of).for_each(|(row, v)| add(&mut out, row, *v));
    out
}

fn coupled_lane(coupling: &Coupling, lane: usize, of: &Lanes) -> f32 {
    coupling[lane].iter().zip(of).map(|(g, v)| g * v).sum()
}

/// A number for each row of a block.
pub(super) type Lanes = [f32; BLOCK];

fn lanes(of: impl Fn(usize) -> f32) -> Lanes {
    core::array::from_fn(of)
}

#[inline(always)]
fn add(to: &mut Lanes, from: &Lanes, times: f32) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from * times);
}

/// What is to be added to other columns: this, so many times to each.
type Change<'l> = (Lanes, &'l [f32]);

/// Adds all changes to all columns.
fn add_all(to: &mut [Lanes], changes: &[Change]) {
    Arch::new().dispatch(AddAll { to, changes });
}

/// Columns that changes are added to together, in registers.
const TOGETHER: usize = 8;

struct AddAll<'c> {
    to: &'c mut [Lanes],
    changes: &'c [Change<'c>],
}

impl WithSimd for AddAll<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (tiles, rest) = self.to.as_chunks_mut::<TOGETHER>();
        let rest_at = tiles.len() * TOGETHER;
        for (tile, at) in tiles.iter_mut().zip((0..).step_by(TOGETHER)) {
            add_to(simd, tile, self.changes, at);
        }
        for (one, at) in rest.as_chunks_mut::<1>().0.iter_mut().zip(rest_at..) {
            add_to(simd, one, self.changes, at);
        }
    }
}

/// Adds all changes to the `N` columns from `at` on.
#[inline(always)]
fn add_to<S: Simd, const N: usize>(simd: S, to: &mut [Lanes; N], changes: &[Change], at: usize) {
    for vector in 0..BLOCK / S::F32_LANES {
        let mut sums: [S::f32s; N] = core::array::from_fn(|i| S::as_simd_f32s(&to[i]).0[vector]);
        for (by, times) in changes {
            let by = S::as_simd_f32s(by).0[vector];
            let Some(times) = times[at..].first_chunk::<N>() else { return };
            for (sum, times) in sums.iter_mut().zip(times) {
                // Rounded twice, so that machines without the instruction that does both agree.
                *sum = simd.add_f32s(*sum, simd.mul_f32s(by, simd.splat_f32s(*times)));
            }
        }
        to.iter_mut().zip(sums).for_each(|(to, sum)| S::as_mut_simd_f32s(to).0[vector] = sum);
    }
}

/// A block while its codes are chosen: codes, levels and what is lost (w - q) by places, scales by groups.
pub(super) struct Found {
    codes: Vec<[u8; BLOCK]>,
    levels: Vec<Lanes>,
    error: Vec<Lanes>,
    scales: Vec<[u8; BLOCK]>,
    units: Lanes,
    matters: Lanes,
}

impl Found {
    /// What a level is worth in each row, and what the square of an error of one level counts.
    fn steps(&self, group: usize) -> (Lanes, Lanes) {
        let steps = lanes(|lane| f32::from(self.scales[group][lane]) * self.units[lane]);
        (steps, lanes(|lane| steps[lane] * steps[lane] * self.matters[lane]))
    }
}

/// U of H = U D U^T, column by column from the last.
fn upper(hessian: &[f32], cols: usize) -> Vec<f32> {
    let mut upper = vec![0f32; cols * cols];
    let floor = 1e-12 * (0..cols).map(|c| f64::from(hessian[c * cols + c])).fold(1e-30, f64::max);
    // H less what the columns behind j explain, of which only the first j + 1 rows and columns count.
    let mut rest: Vec<f64> = hessian.iter().map(|h| f64::from(*h)).collect();
    for j in (0..cols).rev() {
        let pivot = rest[j * cols + j].max(floor);
        let (before, last) = rest.split_at_mut(j * cols);
        let line = &last[..j];
        for (i, h) in line.iter().enumerate() {
            upper[i * cols + j] = (h / pivot) as f32;
        }
        let explain = |(i, row): (usize, &mut [f64])| {
            let factor = line[i] / pivot;
            row[..j].iter_mut().zip(line).for_each(|(h, l)| *h -= factor * l);
        };
        if j < LARGE {
            before.chunks_exact_mut(cols).enumerate().for_each(explain);
        } else {
            before.par_chunks_exact_mut(cols).with_min_len(64).enumerate().for_each(explain);
        }
    }
    upper
}

#[cfg(test)]
mod tests {
    use crate::codes::{Coding, code_matrix, code_matrix_for};

    /// Inputs whose columns go together: what error feedback lives on.
    fn inputs(count: usize, cols: usize) -> Vec<f64> {
        let mut state = 9u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / (1u64 << 23) as f64 - 1.0
        };
        let mut x = Vec::new();
        for _ in 0..count {
            let shared: Vec<f64> = (0..5).map(|_| uniform()).collect();
            x.extend((0..cols).map(|c| shared[c % 5] + 0.3 * uniform()));
        }
        x
    }

    #[test]
    fn rows_give_less_error_than_with_the_nearest_codes() {
        let (rows, cols, count) = (24, 75, 600);
        let x = inputs(count, cols);
        let w: Vec<f32> = inputs(rows, cols).iter().map(|w| *w as f32 * 0.1).collect();
        let mut hessian = vec![0f32; cols * cols];
        for x in x.chunks(cols) {
            for (i, line) in hessian.chunks_mut(cols).enumerate() {
                line.iter_mut().zip(x).for_each(|(h, y)| *h += (x[i] * y / count as f64) as f32);
            }
        }
        (0..cols).for_each(|c| hessian[c * cols + c] += 1e-3);
        let lost = |decoded: &[f32]| {
            let row = |(w, q): (&[f32], &[f32])| {
                let gives = |x: &[f64]| w.iter().zip(q).zip(x).map(|((w, q), x)| f64::from(w - q) * x).sum::<f64>();
                x.chunks(cols).map(|x| gives(x).powi(2)).sum::<f64>()
            };
            w.chunks(cols).zip(decoded.chunks(cols)).map(row).sum::<f64>()
        };
        for coding in [Coding::N4Learned, Coding::N4Uniform, Coding::T3, Coding::T4, Coding::N5, Coding::N8] {
            let nearest = lost(&code_matrix(&w, rows, cols, coding, None).decode());
            let chosen = code_matrix_for(&w, rows, cols, coding, &hessian, &[], &[]);
            let ratio = lost(&chosen.decode()) / nearest;
            // 0.12 to 0.13.
            assert!(ratio < 0.25, "{coding:?}: {ratio} of the error");
            let decoded = chosen.decode();
            let error: f64 = w.iter().zip(&decoded).map(|(w, q)| f64::from(w - q).powi(2)).sum();
            let total: f64 = w.iter().map(|w| f64::from(*w).powi(2)).sum();
            assert!(((error / total).sqrt() - chosen.stats.relative_error).abs() < 1e-5);
        }
    }

    #[test]
    fn without_correlations_the_codes_are_as_good_as_the_nearest() {
        let (rows, cols) = (16, 64);
        let w: Vec<f32> = inputs(rows, cols).iter().map(|w| *w as f32).collect();
        let mut hessian = vec![0f32; cols * cols];
        (0..cols).for_each(|c| hessian[c * cols + c] = 1.0);
        let nearest = code_matrix(&w, rows, cols, Coding::N4Learned, None).stats.relative_error;
        let chosen = code_matrix_for(&w, rows, cols, Coding::N4Learned, &hessian, &[], &[]).stats.relative_error;
        assert!(chosen < 1.002 * nearest, "{chosen} and {nearest}");
    }
}
