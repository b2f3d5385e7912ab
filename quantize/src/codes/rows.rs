//! Codes for what a matrix does to the loss: least `tr G E H E^T`, E = W - Q `[rows, cols]`, with H as in `feedback.rs` and G what errors
//! of two rows count together, the mean of g g^T over gradients g of the loss with respect to what the rows give.
//!
//! Error feedback from row to row as from column to column (YAQA, arXiv 2505.22988, theorem 1): with G = U D U^T, U unit upper triangular
//! by blocks, the rows of a block are coded as `w_r + sum over s before r of U[s, r] (w_s - q_s)`, their own errors counting D. Blocks
//! that matter most come first, as columns do. Then each block once more moves to where the form is least, all others as they are.

use super::feedback::{Coupling, Feedback, Found};
use super::{Draft, Grid, Row, fit, times_inverse};
use mote_runtime::image::tensors::BLOCK;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::{AddAssign, Mul, Range};

/// Rows that make up for each other; of a larger matrix so many, and then the next.
pub const BAND: usize = 1024;

/// A band's blocks in the order in which they are coded.
struct Band {
    /// The row at each place, the first of the matrix's being `first`.
    order: Vec<usize>,
    /// Places of each block.
    blocks: Vec<Range<usize>>,
    /// D of each block.
    own: Vec<Coupling>,
    /// U, place by place; only what is above a block's own columns is kept.
    upper: Vec<f32>,
    /// G, place by place.
    together: Vec<f64>,
}

impl Band {
    /// Factors G `[rows, rows]`.
    fn new(together: &[f32], first: usize, rows: usize) -> Self {
        let g = |i: usize, j: usize| f64::from(together[i * rows + j]);
        let mut members: Vec<Vec<usize>> = (0..rows).collect::<Vec<_>>().chunks(BLOCK).map(<[_]>::to_vec).collect();
        let matters = |block: &[usize]| block.iter().map(|row| g(*row, *row)).sum::<f64>();
        members.sort_by(|a, b| matters(b).total_cmp(&matters(a)));
        let order = members.concat();
        let mut end = 0;
        let blocks: Vec<Range<usize>> = members
            .iter()
            .map(|block| {
                end += block.len();
                end - block.len()..end
            })
            .collect();
        // G less what the blocks behind explain.
        let together: Vec<f64> = order.iter().flat_map(|i| order.iter().map(move |j| g(*i, *j))).collect();
        let mut rest = together.clone();
        let mut upper = vec![0f32; rows * rows];
        let mut own = Vec::new();
        for here in blocks.iter().rev() {
            let width = here.len();
            let d = square(&rest, rows, here);
            own.push(coupling(&d, width));
            let mut lines: Vec<f64> = (0..here.start).flat_map(|i| rest[i * rows..][here.clone()].to_vec()).collect();
            let above: Vec<f64> = here
                .clone()
                .flat_map(|c| (0..here.start).map(move |i| (i, c)))
                .map(|(i, c)| rest[i * rows + c])
                .collect();
            times_inverse(&mut lines, &d, width);
            for (upper, line) in upper.chunks_exact_mut(rows).zip(lines.chunks_exact(width)) {
                upper[here.clone()].iter_mut().zip(line).for_each(|(to, u)| *to = *u as f32);
            }
            let explain = |(row, line): (&mut [f64], &[f64])| {
                for (above, u) in above.chunks_exact(here.start.max(1)).zip(line) {
                    Arch::new().dispatch(AddTimes { to: &mut row[..here.start], of: above, times: -u });
                }
            };
            rest.par_chunks_exact_mut(rows).zip(lines.par_chunks_exact(width)).for_each(explain);
        }
        own.reverse();
        let order = order.into_iter().map(|row| first + row).collect();
        Self { order, blocks, own, upper, together }
    }
}

/// The part of a matrix `[n, n]` whose rows and columns are `here`.
fn square(of: &[f64], n: usize, here: &Range<usize>) -> Vec<f64> {
    here.clone().flat_map(|i| of[i * n..][here.clone()].to_vec()).collect()
}

/// A symmetric matrix `[width, width]` as a block has it; its padding counts by itself.
fn coupling(of: &[f64], width: usize) -> Coupling {
    let value = |i: usize, j: usize| match (i < width && j < width, i == j) {
        (true, _) => of[i * width + j] as f32,
        (false, same) => f32::from(u8::from(same)),
    };
    core::array::from_fn(|i| core::array::from_fn(|j| value(i, j)))
}

impl Draft<'_> {
    /// Codes all rows; `together` has G of each band, one after the other.
    pub(super) fn code_together(
        &self,
        feedback: &Feedback,
        together: &[f32],
        grid: &(impl Fn(&[f32]) -> Grid + Sync),
    ) -> Vec<Row> {
        let firsts: Vec<usize> = (0..self.rows).step_by(BAND).collect();
        let band = |first: usize| {
            let rows = BAND.min(self.rows - first);
            let band = Band::new(&together[first * BAND..][..rows * rows], first, rows);
            self.code_band(feedback, &band, grid)
        };
        firsts.into_par_iter().flat_map_iter(band).collect()
    }

    fn code_band(&self, feedback: &Feedback, band: &Band, grid: &(impl Fn(&[f32]) -> Grid + Sync)) -> Vec<Row> {
        let n = band.order.len();
        // W - Q by places, as far as they are coded.
        let mut lost: Vec<Vec<f32>> = Vec::new();
        let mut blocks: Vec<(Found, Vec<Grid>)> = Vec::new();
        for (here, own) in band.blocks.iter().zip(&band.own) {
            let wanted = |place: usize| {
                let mut row = self.padded(band.order[place]);
                let made_up = band.upper.chunks_exact(n).zip(&lost);
                made_up.for_each(|(line, lost)| add_times(&mut row, lost, line[place]));
                row
            };
            let wanted: Vec<Vec<f32>> = here.clone().into_par_iter().map(wanted).collect();
            let scales = fit::block_scales(&wanted, &self.column_weight, &self.book);
            let grids: Vec<Grid> = scales.iter().map(|scales| grid(scales)).collect();
            let found = feedback.code_block(&wanted, &self.column_weight, &self.book, &scales, &grids, own);
            for (lane, (place, wanted)) in here.clone().zip(&wanted).enumerate() {
                let row = self.padded(band.order[place]);
                let error = feedback.error(&found, lane);
                lost.push(error.iter().zip(&row).zip(wanted).map(|((e, own), wanted)| e + own - wanted).collect());
            }
            blocks.push((found, grids));
        }
        for (here, (found, _)) in band.blocks.iter().zip(&mut blocks) {
            self.improve(feedback, band, here, found, &mut lost);
        }
        let mut coded: Vec<(usize, Vec<Row>)> = Vec::new();
        for (here, (found, grids)) in band.blocks.iter().zip(&blocks) {
            let mut rows = feedback.rows(found, &self.book, grids);
            for (row, lost) in rows.iter_mut().zip(&lost[here.clone()]) {
                row.error = lost.iter().map(|e| f64::from(*e).powi(2)).sum();
            }
            coded.push((band.order[here.start], rows));
        }
        coded.sort_by_key(|(first, _)| *first);
        coded.into_iter().flat_map(|(_, rows)| rows).collect()
    }

    /// Moves a block to where the form is least, all others as they are. With B the block's own part of G and K what the errors of the
    /// others count with its rows, that is where the form of `E + B^-1 K` under B is.
    fn improve(&self, feedback: &Feedback, band: &Band, here: &Range<usize>, found: &mut Found, lost: &mut [Vec<f32>]) {
        let (n, width) = (band.order.len(), here.len());
        let counted = |place: usize| {
            let mut sum = vec![0f64; self.cols];
            for (other, (g, lost)) in band.together[place * n..][..n].iter().zip(&*lost).enumerate() {
                if !here.contains(&other) {
                    add_times(&mut sum, lost, *g);
                }
            }
            sum
        };
        let counted: Vec<Vec<f64>> = here.clone().into_par_iter().map(counted).collect();
        let own = square(&band.together, n, here);
        // By columns, as rows of B^-1.
        let mut shift: Vec<f64> = (0..self.cols).flat_map(|c| counted.iter().map(move |row| row[c])).collect();
        times_inverse(&mut shift, &own, width);
        let shift = |lane: usize, c: usize| shift[c * width + lane] as f32;
        let shifted =
            |(lane, lost): (usize, &Vec<f32>)| lost.iter().enumerate().map(|(c, e)| e + shift(lane, c)).collect();
        let error: Vec<Vec<f32>> = lost[here.clone()].iter().enumerate().map(shifted).collect();
        feedback.improve(found, &error, &self.book, &coupling(&own, width));
        for (lane, lost) in lost[here.clone()].iter_mut().enumerate() {
            let error = feedback.error(found, lane);
            lost.iter_mut().zip(error).enumerate().for_each(|(c, (to, e))| *to = e - shift(lane, c));
        }
    }
}

/// Adds `of`, so many times.
fn add_times<T: Copy + AddAssign + Mul<Output = T> + From<f32>>(to: &mut [T], of: &[f32], times: T) {
    Arch::new().dispatch(AddTimes { to, of, times });
}

/// [`add_times`], compiled for each width of vectors.
struct AddTimes<'a, T, F> {
    to: &'a mut [T],
    of: &'a [F],
    times: T,
}

impl<T: Copy + AddAssign + Mul<Output = T> + From<F>, F: Copy> WithSimd for AddTimes<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.to.iter_mut().zip(self.of).for_each(|(to, of)| *to += self.times * T::from(*of));
    }
}

#[cfg(test)]
mod tests {
    use super::BAND;
    use crate::codes::{Coding, code_matrix_for};

    /// The mean of x x^T over `count` of things that go together in fives, damped.
    fn correlated(count: usize, n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let mut mean = vec![0f32; n * n];
        for _ in 0..count {
            let shared: Vec<f32> = (0..5).map(|_| uniform()).collect();
            let x: Vec<f32> = (0..n).map(|i| shared[i * 5 / n] + 0.3 * uniform()).collect();
            for (i, line) in mean.chunks_exact_mut(n).enumerate() {
                line.iter_mut().zip(&x).for_each(|(m, y)| *m += x[i] * y / count as f32);
            }
        }
        (0..n).for_each(|i| mean[i * n + i] += 1e-2);
        mean
    }

    /// tr G E H E^T.
    fn lost(g: &[f32], error: &[f32], h: &[f32], rows: usize, cols: usize) -> f64 {
        let mut sum = 0.0;
        for (i, line) in g.chunks_exact(rows).enumerate() {
            for (j, g) in line.iter().enumerate() {
                let (a, b) = (&error[i * cols..][..cols], &error[j * cols..][..cols]);
                let half = |c: usize| h[c * cols..][..cols].iter().zip(b).map(|(h, b)| h * b).sum::<f32>();
                sum += f64::from(*g) * a.iter().enumerate().map(|(c, a)| f64::from(a * half(c))).sum::<f64>();
            }
        }
        sum
    }

    #[test]
    fn rows_that_count_together_make_up_for_each_other() {
        let (rows, cols) = (72, 40);
        let (g, h) = (correlated(900, rows, 3), correlated(900, cols, 4));
        let w: Vec<f32> = correlated(7, 54, 5)[..rows * cols].iter().map(|w| w * 0.1).collect();
        let own: Vec<f32> = (0..rows).map(|r| g[r * rows + r]).collect();
        for coding in [Coding::N4Learned, Coding::T3, Coding::T4, Coding::N5, Coding::N8] {
            let by = |together: &[f32]| {
                let coded = code_matrix_for(&w, rows, cols, coding, &h, &own, together);
                let decoded = coded.decode();
                let error: Vec<f32> = w.iter().zip(&decoded).map(|(w, q)| w - q).collect();
                let norm = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
                let stated = coded.stats.relative_error;
                assert!(((norm(&error) / norm(&w)).sqrt() - stated).abs() < 1e-4, "{coding:?}: {stated}");
                lost(&g, &error, &h, rows, cols)
            };
            let ratio = by(&g) / by(&[]);
            assert!(ratio < 0.5, "{coding:?}: {ratio} of the loss");
        }
    }

    #[test]
    fn rows_of_another_band_are_as_good() {
        let (rows, cols) = (BAND + 20, 32);
        let h = correlated(300, cols, 4);
        let w: Vec<f32> = (0..rows * cols).map(|i| (i * 7919 % 1009) as f32 / 5045.0 - 0.1).collect();
        let unit = |n: usize| (0..n * n).map(move |i| if i % (n + 1) == 0 { 1f32 } else { 0.0 });
        let together: Vec<f32> = unit(BAND).chain(unit(20)).collect();
        let alone = code_matrix_for(&w, rows, cols, Coding::T4, &h, &[], &[]).stats.relative_error;
        let found = code_matrix_for(&w, rows, cols, Coding::T4, &h, &[], &together).stats.relative_error;
        assert!((found / alone - 1.0).abs() < 0.01, "{found} and {alone}");
    }
}
