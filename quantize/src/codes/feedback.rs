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

use super::ring::{Best, Form, ORDER, RING, Rings, Wanted};
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
/// What matters most is rounded first, when there is most left to make up for it (GPTQ's "act-order", groups kept whole, and rings).
pub(super) struct Feedback {
    /// Columns; of rings whole ones, those beyond `real` being zeros that nobody misses.
    cols: usize,
    real: usize,
    /// The column at each place.
    order: Vec<usize>,
    /// Each group, in order, and its places.
    groups: Vec<(usize, Range<usize>)>,
    hessian: Vec<f32>,
    /// U, row by row; the diagonal, which is 1, and what is below are not kept.
    upper: Vec<f32>,
    /// D.
    pivots: Vec<f32>,
    /// Of each ring, place by place, what errors of its columns count by themselves; empty if codes are not in rings.
    rings: Vec<Form>,
}

impl Feedback {
    /// Factors H, for codes that are chosen in rings or by themselves.
    pub(super) fn new(hessian: &[f32], real: usize, in_rings: bool) -> Self {
        let cols = if in_rings { real.next_multiple_of(RING) } else { real };
        let beyond = 1e-6 * (0..real).map(|c| hessian[c * real + c]).fold(1e-30, f32::max);
        let h = |c: usize, d: usize| match c.max(d) < real {
            true => hessian[c * real + d],
            false => beyond * f32::from(u8::from(c == d)),
        };
        let diagonal = |c: usize| h(c, c);
        let mut groups: Vec<Vec<usize>> = (0..cols).collect::<Vec<_>>().chunks(GROUP).map(<[_]>::to_vec).collect();
        let matters = |columns: &[usize]| columns.iter().map(|c| diagonal(*c)).fold(0f32, f32::max);
        groups.iter_mut().for_each(|group| match in_rings {
            false => group.sort_by(|a, b| diagonal(*b).total_cmp(&diagonal(*a))),
            true => {
                let mut rings: Vec<Vec<usize>> =
                    group.chunks_exact(RING).map(|ring| ORDER.map(|at| ring[at]).to_vec()).collect();
                rings.sort_by(|a, b| matters(b).total_cmp(&matters(a)));
                *group = rings.concat();
            }
        });
        groups.sort_by(|a, b| matters(b).total_cmp(&matters(a)));
        let order = groups.concat();
        let mut first = 0;
        let places = groups.iter().map(|group| {
            first += group.len();
            (group[0] / GROUP, first - group.len()..first)
        });
        let groups = places.collect();
        let line = |c: &usize| order.iter().map(|d| h(*c, *d)).collect::<Vec<f32>>();
        let hessian: Vec<f32> = order.iter().flat_map(line).collect();
        let (upper, pivots) = factors(&hessian, cols);
        let starts = (0..cols).step_by(RING).filter(|_| in_rings);
        let rings = starts.map(|first| own_form(&hessian, cols, first)).collect();
        Self { cols, real, order, groups, hessian, upper, pivots, rings }
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
        let weight: Vec<f32> = self.order.iter().map(|c| weight.get(*c).copied().unwrap_or(0.0)).collect();
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
            let mut near = [0f32; BLOCK];
            for (lane, _) in scales.iter().enumerate().filter(|(_, scales)| scales[*group] > 0.0) {
                let values: Vec<f32> = target[here.clone()].iter().map(|t| t[lane]).collect();
                near[lane] = fit::best_scale(&values, &weight[here.clone()], book);
                // Rings choose together, below.
                if book.rings().is_none() {
                    let (weight, unit) = (&weight[here.clone()], found.units[lane]);
                    found.scales[*group][lane] = fit::integer_scale(&values, weight, book, near[lane], unit);
                }
            }
            if let Some(by_ring) = book.rings() {
                let columns = (&target[here.clone()], &weight[here.clone()]);
                let near = by_ring.scales(columns, &near);
                found.scales[*group] = by_ring.integer_scales(columns, &near, &found.units);
            }
            let (steps, weights) = found.steps(*group);
            for first in here.clone().step_by(if book.rings().is_some() { RING } else { 1 }) {
                let mut end = first + 1;
                if let Some(by_ring) = book.rings() {
                    end = first + RING;
                    let u = core::array::from_fn(|i| core::array::from_fn(|k| line(first + i)[first + k]));
                    let form = Form { u, d: core::array::from_fn(|k| self.pivots[first + k]) };
                    let (weights, targets) = (eight(&wanted[first..]), eight(&target[first..]));
                    found.put(first, &by_ring.best(&Wanted { weights, targets, form: &form, steps: &steps }));
                } else {
                    (found.codes[first], found.levels[first]) = book.column(&target[first], &steps, &weights);
                }
                (first..end).for_each(|c| {
                    found.error[c] = lanes(|lane| wanted[c][lane] - found.levels[c][lane] * steps[lane]);
                });
                let lost: Vec<Change> = (first..end).map(|c| (found.error[c], &line(c)[end..here.end])).collect();
                add_all(&mut target[end..here.end], &lost);
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
        self.order
            .iter()
            .map(|c| lanes(|lane| rows.get(lane).and_then(|row| row.get(*c)).map_or(0.0, |w| *w)))
            .collect()
    }

    /// What a row of a block lacks of what was wanted of it, by columns.
    pub(super) fn error(&self, found: &Found, lane: usize) -> Vec<f32> {
        let mut error = vec![0f32; self.cols];
        self.order.iter().zip(&found.error).for_each(|(c, lanes)| error[*c] = lanes[lane]);
        error.truncate(self.real);
        error
    }

    /// The rows of a block.
    pub(super) fn rows(&self, found: &Found, book: &Codebook, grids: &[Grid]) -> Vec<Row> {
        let mut out = Row::block(grids, book, self.groups.len());
        for (lane, row) in out.iter_mut().enumerate() {
            let real = |place: &usize| self.order[*place] < self.real;
            row.error = (0..self.cols).filter(real).map(|place| f64::from(found.error[place][lane]).powi(2)).sum();
            for (group, here) in &self.groups {
                row.scales[*group] = found.scales[*group][lane];
                let sum: u64 = here.clone().filter(real).map(|place| found.levels[place][lane].abs() as u64).sum();
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
                match book.rings() {
                    Some(by_ring) => self.descend_rings(by_ring, found, coupling, (*group, here), &mut slope),
                    None => self.descend_columns(book, found, coupling, (*group, here), &mut slope),
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

    /// Moves the codes of a group's columns, one column after another. Of the slope they change what belongs to the group.
    fn descend_columns(
        &self,
        book: &Codebook,
        found: &mut Found,
        coupling: &Coupling,
        (group, here): (usize, &Range<usize>),
        slope: &mut [Lanes],
    ) {
        let line = |c: usize| &self.hessian[c * self.cols..][..self.cols];
        let (steps, weights) = found.steps(group);
        for c in here.clone() {
            let curvature = line(c)[c];
            let now = lanes(|lane| found.levels[c][lane] * steps[lane]);
            let downhill = coupled(coupling, &slope[c]);
            let best = lanes(|lane| now[lane] + downhill[lane] / (curvature * found.matters[lane]));
            let (codes, levels) = book.column(&best, &steps, &weights);
            let by = lanes(|lane| levels[lane] * steps[lane] - now[lane]);
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
            let change = found.accept(c, &pays, (&codes, &levels), &by);
            add_all(&mut slope[here.clone()], &[(change, &line(c)[here.clone()])]);
        }
    }

    /// The same ring by ring: to the codes that are best for where a ring's columns would be without codes, all others as they are.
    fn descend_rings(
        &self,
        by_ring: &Rings,
        found: &mut Found,
        coupling: &Coupling,
        (group, here): (usize, &Range<usize>),
        slope: &mut [Lanes],
    ) {
        let line = |c: usize| &self.hessian[c * self.cols..][..self.cols];
        let (steps, _) = found.steps(group);
        for first in here.clone().step_by(RING) {
            let form = &self.rings[first / RING];
            let ring = first..first + RING;
            let now: [Lanes; RING] =
                core::array::from_fn(|k| lanes(|lane| found.levels[first + k][lane] * steps[lane]));
            let downhill: [Lanes; RING] = core::array::from_fn(|k| coupled(coupling, &slope[first + k]));
            let mut goal = downhill.map(|along| lanes(|lane| along[lane] / found.matters[lane]));
            form.solve(&mut goal);
            (0..RING).for_each(|k| add(&mut goal[k], &now[k], 1.0));
            let Best { codes, levels, .. } =
                by_ring.best(&Wanted { weights: &goal, targets: &goal, form, steps: &steps });
            let by: [Lanes; RING] =
                core::array::from_fn(|k| lanes(|lane| levels[k][lane] * steps[lane] - now[k][lane]));
            // H times what changes.
            let mut bent = [[0f32; BLOCK]; RING];
            let own: Vec<Change> = (0..RING).map(|k| (by[k], &line(first + k)[ring.clone()])).collect();
            add_all(&mut bent, &own);
            // One row after another, each after those that have moved.
            let mut moved = [[0f32; BLOCK]; RING];
            let mut pays = [false; BLOCK];
            for lane in 0..BLOCK {
                let (mut change, mut square) = (0f32, 0f32);
                for k in 0..RING {
                    let others = coupled_lane(coupling, lane, &moved[k]);
                    square += by[k][lane] * bent[k][lane] * found.matters[lane];
                    change += 2.0 * by[k][lane] * (others - downhill[k][lane]);
                }
                // Less than this is rounding.
                pays[lane] = change + square < -1e-6 * square;
                (0..RING).for_each(|k| moved[k][lane] = if pays[lane] { bent[k][lane] } else { 0.0 });
            }
            if !pays.contains(&true) {
                continue;
            }
            let mut accept = |k: usize| found.accept(first + k, &pays, (&codes[k], &levels[k]), &by[k]);
            let changes: Vec<Change> = (0..RING).map(|k| (accept(k), &line(first + k)[here.clone()])).collect();
            add_all(&mut slope[here.clone()], &changes);
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

/// The first eight columns.
fn eight(of: &[Lanes]) -> &[Lanes; RING] {
    of.first_chunk().unwrap_or(&[[0.0; BLOCK]; RING])
}

impl Found {
    /// Puts a ring's codes and levels at its places.
    fn put(&mut self, first: usize, best: &Best) {
        self.codes[first..first + RING].copy_from_slice(&best.codes);
        self.levels[first..first + RING].copy_from_slice(&best.levels);
    }

    /// Moves those rows of a column that it pays for to other codes and levels, which are worth `by` more. Returns how errors change.
    fn accept(&mut self, c: usize, pays: &[bool; BLOCK], (codes, levels): (&[u8; BLOCK], &Lanes), by: &Lanes) -> Lanes {
        core::array::from_fn(|lane| {
            if !pays[lane] {
                return 0.0;
            }
            (self.codes[c][lane], self.levels[c][lane]) = (codes[lane], levels[lane]);
            self.error[c][lane] -= by[lane];
            -by[lane]
        })
    }

    /// What a level is worth in each row, and what the square of an error of one level counts.
    fn steps(&self, group: usize) -> (Lanes, Lanes) {
        let steps = lanes(|lane| f32::from(self.scales[group][lane]) * self.units[lane]);
        (steps, lanes(|lane| steps[lane] * steps[lane] * self.matters[lane]))
    }
}

/// What errors of a ring's columns count by themselves.
fn own_form(hessian: &[f32], cols: usize, first: usize) -> Form {
    let own: Vec<f32> =
        (first..first + RING).flat_map(|c| hessian[c * cols + first..][..RING].iter().copied()).collect();
    let (upper, pivots) = factors(&own, RING);
    Form {
        u: core::array::from_fn(|i| core::array::from_fn(|k| upper[i * RING + k])),
        d: core::array::from_fn(|k| pivots[k]),
    }
}

/// U and D of H = U D U^T, column by column from the last.
fn factors(hessian: &[f32], cols: usize) -> (Vec<f32>, Vec<f32>) {
    let mut upper = vec![0f32; cols * cols];
    let mut pivots = vec![0f32; cols];
    let floor = 1e-12 * (0..cols).map(|c| f64::from(hessian[c * cols + c])).fold(1e-30, f64::max);
    // H less what the columns behind j explain, of which only the first j + 1 rows and columns count.
    let mut rest: Vec<f64> = hessian.iter().map(|h| f64::from(*h)).collect();
    for j in (0..cols).rev() {
        let pivot = rest[j * cols + j].max(floor);
        pivots[j] = pivot as f32;
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
    (upper, pivots)
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
