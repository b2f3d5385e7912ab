//! Codes for what a row gives: least `(w - q)^T H (w - q)`, H the mean of x x^T over the inputs that the row meets.
//!
//! 1. Error feedback: columns one after another, each rounded after what the columns before it have lost has been made up
//!    for: `q_c = round(w_c + sum over j < c of (w_j - q_j) U[j, c])`, with H = U D U^T and U unit upper triangular. That is
//!    GPTQ (Frantar et al. 2022) as LDLQ (Chee et al. 2023, QuIP, theorem 6) writes it. A group's scale is fitted, to its
//!    targets, when the first of its columns is reached.
//! 2. Learned rounding: AdaRound (Nagel et al. 2020) minimises the same form by gradients; codes being few, coordinate
//!    descent does without: each code, and then each scale, moves to where the form is least, the others as they are,
//!    until none moves. It never makes the form larger.

use super::{Codebook, Row, fit};
use mote_runtime::image::tensors::GROUP;

/// Rounds over all columns, at most. Most rows stand still after four.
const ROUNDS: usize = 12;

/// The form and its factors.
pub(super) struct Feedback<'h> {
    hessian: &'h [f64],
    cols: usize,
    /// U, row by row; the diagonal, which is 1, and what is below are not kept.
    upper: Vec<f64>,
}

impl<'h> Feedback<'h> {
    /// Factors H, column by column from the last.
    pub(super) fn new(hessian: &'h [f64], cols: usize) -> Self {
        let mut upper = vec![0f64; cols * cols];
        // Row j of `upper` holds column j of U above the diagonal here, so that both loops run along memory.
        let mut diagonal = vec![0f64; cols];
        let floor = 1e-12 * (0..cols).map(|c| hessian[c * cols + c]).fold(1e-30, f64::max);
        let mut column = vec![0f64; cols];
        let mut rest: Vec<f64> = hessian.to_vec();
        for j in (0..cols).rev() {
            // H less what the columns behind j explain: `rest`, of which only the first j + 1 rows and columns count.
            let pivot = rest[j * cols + j].max(floor);
            diagonal[j] = pivot;
            for i in 0..j {
                column[i] = rest[j * cols + i] / pivot;
                upper[i * cols + j] = column[i];
            }
            for i in 0..j {
                let (factor, row) = (column[i] * pivot, &mut rest[i * cols..][..j]);
                row.iter_mut().zip(&column[..j]).for_each(|(h, u)| *h -= factor * u);
            }
        }
        Self { hessian, cols, upper }
    }

    /// Codes a padded row with integer scales in units of `unit`.
    pub(super) fn code_row(
        &self,
        row: &[f32],
        weight: &[f32],
        book: &Codebook,
        scales: &[f32],
        mult: u16,
        unit: f32,
    ) -> Row {
        let cols = self.cols;
        let mut out = Row { mult, scales: Vec::new(), codes: vec![0; row.len()], error: 0.0, bound: 0 };
        let mut levels = vec![0f32; row.len()];
        let mut error = vec![0f64; cols];
        let mut target = vec![0f32; row.len()];
        for (group, scale) in scales.iter().enumerate() {
            let first = group * GROUP;
            let here = first..cols.min(first + GROUP);
            // What the groups before have lost, at this group's columns.
            for c in here.clone() {
                let lost: f64 = (0..first).map(|j| error[j] * self.upper[j * cols + c]).sum();
                target[c] = (f64::from(row[c]) + lost) as f32;
            }
            let (values, weight) = (&target[first..][..GROUP], &weight[first..][..GROUP]);
            let best = if *scale > 0.0 { fit::best_scale(values, weight, book) } else { 0.0 };
            let integer = fit::integer_scale(values, weight, book, best, unit);
            out.scales.push(integer);
            let step = f32::from(integer) * unit;
            for c in here {
                let lost: f64 = (first..c).map(|j| error[j] * self.upper[j * cols + c]).sum();
                let wanted = f64::from(target[c]) + lost;
                let (code, level) = book.nearest(if step > 0.0 { wanted as f32 / step } else { 0.0 });
                (out.codes[c], levels[c]) = (code, level);
                error[c] = f64::from(row[c]) - f64::from(level * step);
            }
        }
        self.descend(book, unit, &mut out, &mut levels, &mut error);
        out.error = error.iter().map(|e| e * e).sum();
        for (levels, scale) in levels.chunks(GROUP).zip(&out.scales) {
            out.bound += 127 * u64::from(*scale) * levels.iter().map(|l| l.abs() as u64).sum::<u64>();
        }
        // Padding's codes: whatever stands for 0, if anything does.
        let zero = book.nearest(0.0).0;
        out.codes[cols..].fill(zero);
        out
    }

    /// Moves codes and scales one by one to where the form is least. `error` is w - q.
    fn descend(&self, book: &Codebook, unit: f32, out: &mut Row, levels: &mut [f32], error: &mut [f64]) {
        let cols = self.cols;
        let line = |c: usize| &self.hessian[c * cols..][..cols];
        // H (w - q): half the form's slope.
        let mut slope: Vec<f64> = (0..cols).map(|c| line(c).iter().zip(&*error).map(|(h, e)| h * e).sum()).collect();
        for _ in 0..ROUNDS {
            let mut moved = false;
            for group in 0..out.scales.len() {
                let step = f64::from(out.scales[group]) * f64::from(unit);
                let here = group * GROUP..cols.min((group + 1) * GROUP);
                for c in here.clone().filter(|_| step > 0.0) {
                    let curvature = line(c)[c];
                    let now = f64::from(levels[c]) * step;
                    let (code, level) = book.nearest(((now + slope[c] / curvature) / step) as f32);
                    let by = f64::from(level) * step - now;
                    // Less than this is rounding.
                    if by * (by * curvature - 2.0 * slope[c]) < -1e-9 * by * by * curvature {
                        (out.codes[c], levels[c]) = (code, level);
                        error[c] -= by;
                        slope.iter_mut().zip(line(c)).for_each(|(s, h)| *s -= by * h);
                        moved = true;
                    }
                }
                moved |= self.rescale(unit, &mut out.scales[group], here, levels, error, &mut slope);
            }
            if !moved {
                break;
            }
        }
    }

    /// Moves one group's scale to where the form is least, its codes as they are.
    fn rescale(
        &self,
        unit: f32,
        scale: &mut u8,
        here: std::ops::Range<usize>,
        levels: &[f32],
        error: &mut [f64],
        slope: &mut [f64],
    ) -> bool {
        let cols = self.cols;
        let along = |c: usize| f64::from(levels[c]) * f64::from(unit);
        let downhill: f64 = here.clone().map(|c| along(c) * slope[c]).sum();
        let bend = |c: usize| here.clone().map(|d| self.hessian[c * cols + d] * along(d)).sum::<f64>();
        let curvature: f64 = here.clone().map(|c| along(c) * bend(c)).sum();
        if curvature <= 0.0 || *scale == 0 {
            return false;
        }
        let best = (f64::from(*scale) + downhill / curvature).round().clamp(1.0, 255.0) as u8;
        let by = f64::from(best) - f64::from(*scale);
        if by * (by * curvature - 2.0 * downhill) >= -1e-9 * by * by * curvature {
            return false;
        }
        *scale = best;
        for c in here {
            let moved = by * along(c);
            error[c] -= moved;
            slope.iter_mut().zip(&self.hessian[c * cols..][..cols]).for_each(|(s, h)| *s -= moved * h);
        }
        true
    }
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
        let mut hessian = vec![0f64; cols * cols];
        for x in x.chunks(cols) {
            for (i, line) in hessian.chunks_mut(cols).enumerate() {
                line.iter_mut().zip(x).for_each(|(h, y)| *h += x[i] * y / count as f64);
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
        for coding in [Coding::N4Learned, Coding::N4Uniform, Coding::N5, Coding::N8] {
            let nearest = lost(&code_matrix(&w, rows, cols, coding, None).decode());
            let chosen = code_matrix_for(&w, rows, cols, coding, &hessian);
            let ratio = lost(&chosen.decode()) / nearest;
            // 0.13, 0.12 and 0.12.
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
        let mut hessian = vec![0f64; cols * cols];
        (0..cols).for_each(|c| hessian[c * cols + c] = 1.0);
        let nearest = code_matrix(&w, rows, cols, Coding::N4Learned, None).stats.relative_error;
        let chosen = code_matrix_for(&w, rows, cols, Coding::N4Learned, &hessian).stats.relative_error;
        assert!(chosen < 1.002 * nearest, "{chosen} and {nearest}");
    }
}
