//! Least squares: a Hessian's damping, and rows times its inverse.

use rayon::prelude::*;

/// Adds a share of the mean of a Hessian's diagonal `[cols, cols]` to it.
pub fn damp(hessian: &mut [f64], cols: usize, share: f64) {
    let mean = (0..cols).map(|c| hessian[c * cols + c]).sum::<f64>() / cols.max(1) as f64;
    (0..cols).for_each(|c| hessian[c * cols + c] += mean.max(1e-12) * share);
}

/// Each of `rows` `[n, cols]` becomes `row H^-1`, with H `[cols, cols]` symmetric and positive definite.
pub fn times_inverse(rows: &mut [f64], hessian: &[f64], cols: usize) {
    times_inverse_of(rows, &factor(hessian.to_vec(), cols), cols);
}

/// L of H `[cols, cols]` = L L^T, symmetric and positive definite; above its diagonal is no matter what.
pub fn factor(hessian: Vec<f64>, cols: usize) -> Vec<f64> {
    let mut lower = hessian;
    for j in 0..cols {
        let (above, below) = lower.split_at_mut((j + 1) * cols);
        let line = &mut above[j * cols..];
        let (done, last) = line.split_at_mut(j);
        last[0] = (last[0] - done.iter().map(|l| l * l).sum::<f64>()).max(1e-30).sqrt();
        let (done, pivot) = (&*done, last[0]);
        below.par_chunks_exact_mut(cols).with_min_len(64).for_each(|row| {
            let sum: f64 = row[..j].iter().zip(done).map(|(a, b)| a * b).sum();
            row[j] = (row[j] - sum) / pivot;
        });
    }
    lower
}

/// As [`times_inverse`], of what [`factor`] gave: row L^-T L^-1.
pub fn times_inverse_of(rows: &mut [f64], lower: &[f64], cols: usize) {
    rows.par_chunks_exact_mut(cols).for_each(|row| {
        for i in 0..cols {
            let sum: f64 = lower[i * cols..][..i].iter().zip(&*row).map(|(l, s)| l * s).sum();
            row[i] = (row[i] - sum) / lower[i * cols + i];
        }
        for i in (0..cols).rev() {
            let value = row[i] / lower[i * cols + i];
            row[i] = value;
            row[..i].iter_mut().zip(&lower[i * cols..][..i]).for_each(|(s, l)| *s -= l * value);
        }
    });
}
