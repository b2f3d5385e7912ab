//! Scales of groups: the search, and the final rounding to integers.

use super::{Codebook, Row};
use mote_runtime::image::tensors::GROUP;

/// Scales tried for a group, as factors of absmax / top level.
const TRIES: [f32; 17] =
    [0.66, 0.70, 0.74, 0.78, 0.82, 0.86, 0.89, 0.92, 0.94, 0.96, 0.98, 1.0, 1.02, 1.05, 1.09, 1.14, 1.2];

/// Weighted squared error of a group at a scale, and the scale that is best for the codes it leads to.
fn error_at(values: &[f32], weight: &[f32], book: &Codebook, scale: f32) -> (f32, f32) {
    let inverse = 1.0 / scale;
    let (mut error, mut product, mut square) = (0f32, 0f32, 0f32);
    for (v, w) in values.iter().zip(weight) {
        let (_, level) = book.nearest(v * inverse);
        let difference = v - level * scale;
        error += w * difference * difference;
        product += w * v * level;
        square += w * level * level;
    }
    (error, if square > 0.0 { (product / square).max(0.0) } else { scale })
}

/// The scale of least weighted error; 0 for a group of zeros.
pub(super) fn best_scale(values: &[f32], weight: &[f32], book: &Codebook) -> f32 {
    let peak = values.iter().fold(0f32, |m, v| m.max(v.abs()));
    let base = peak / book.top();
    // Too small to divide by: such a group is lost in the row's rounding anyway.
    if base < f32::MIN_POSITIVE * 1e3 {
        return 0.0;
    }
    let tries: &[f32] = if book.top() > 126.0 && book.codebook() == [0; 16] { &[1.0] } else { &TRIES };
    let mut best = (f32::INFINITY, base);
    for factor in tries {
        let (error, refined) = error_at(values, weight, book, base * factor);
        best = if error < best.0 { (error, base * factor) } else { best };
        if refined > 0.0 && tries.len() > 1 {
            let (error, _) = error_at(values, weight, book, refined);
            best = if error < best.0 { (error, refined) } else { best };
        }
    }
    best.1
}

/// The best scale of each group of a padded row.
pub(super) fn row_scales(row: &[f32], weight: &[f32], book: &Codebook) -> Vec<f32> {
    row.chunks_exact(GROUP).zip(weight.chunks_exact(GROUP)).map(|(v, w)| best_scale(v, w, book)).collect()
}

/// The integer scale in units of `unit` of least error near `scale`; 0 for a group of zeros.
pub(super) fn integer_scale(values: &[f32], weight: &[f32], book: &Codebook, scale: f32, unit: f32) -> u8 {
    let near = (scale / unit).round().clamp(0.0, 255.0) as i32;
    let best = (near - 2..=near + 2)
        .filter(|s| (1..=255).contains(s))
        .map(|s| (error_at(values, weight, book, s as f32 * unit).0, s))
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map_or(0, |(_, s)| s);
    if scale > 0.0 { best as u8 } else { 0 }
}

/// Codes a padded row with integer scales in units of `unit`.
pub(super) fn code_row(row: &[f32], weight: &[f32], book: &Codebook, scales: &[f32], mult: u16, unit: f32) -> Row {
    let mut out = Row { mult, scales: Vec::new(), codes: Vec::new(), error: 0.0, bound: 0 };
    for ((values, weight), scale) in row.chunks_exact(GROUP).zip(weight.chunks_exact(GROUP)).zip(scales) {
        let integer = integer_scale(values, weight, book, *scale, unit);
        out.scales.push(integer);
        let step = f32::from(integer) * unit;
        let mut sum = 0u64;
        for (v, w) in values.iter().zip(weight) {
            let (code, level) = book.nearest(if step > 0.0 { v / step } else { 0.0 });
            out.codes.push(code);
            // Padding has no weight: whatever its level is, it is multiplied with zeros.
            if *w > 0.0 {
                out.error += f64::from(v - level * step).powi(2);
                sum += level.abs() as u64;
            }
        }
        out.bound += 127 * u64::from(integer) * sum;
    }
    out
}
