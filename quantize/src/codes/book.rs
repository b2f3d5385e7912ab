//! Levels of codes: fixed or learned, and the nearest-level search.

use super::fit;
use mote_runtime::image::tensors::GROUP;

/// Steps of the look-up table between two integers.
const FINE: f32 = 8.0;
/// Integers the table covers on either side of 0.
const REACH: i32 = 160;

/// The levels that codes stand for.
#[derive(Clone, Debug)]
pub struct Codebook {
    levels: Vec<i16>,
    /// Nearest code for each 1/8 of a level; empty for N8, where the code is the rounded value.
    nearest: Vec<u8>,
    top: f32,
}

impl Codebook {
    /// 8-bit codes: -127 to 127, each its own level.
    #[must_use]
    pub fn n8() -> Self {
        Self { levels: Vec::new(), nearest: Vec::new(), top: 127.0 }
    }

    /// 4-bit codes with these levels, in rising order.
    #[must_use]
    pub fn n4(levels: impl Iterator<Item = i8>) -> Self {
        Self::of(levels.map(i16::from).collect())
    }

    /// 5-bit codes with these magnitudes, in rising order; bit 4 is the sign.
    #[must_use]
    pub fn n5(magnitudes: impl Iterator<Item = i8>) -> Self {
        let magnitudes: Vec<i16> = magnitudes.map(i16::from).collect();
        Self::of(magnitudes.iter().copied().chain(magnitudes.iter().map(|m| -m)).collect())
    }

    fn of(levels: Vec<i16>) -> Self {
        let span = (REACH as f32 * FINE) as i32;
        let closest = |i: i32| {
            let x = i as f32 / FINE;
            let distance = |code: &u8| (f32::from(levels[usize::from(*code)]) - x).abs();
            (0..levels.len() as u8).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0)
        };
        let nearest = (-span..=span).map(closest).collect();
        let top = levels.iter().map(|l| l.unsigned_abs()).max().unwrap_or(1);
        Self { levels, nearest, top: f32::from(top).max(1.0) }
    }

    /// Largest magnitude of a level.
    #[must_use]
    pub fn top(&self) -> f32 {
        self.top
    }

    /// Nearest code of `x` (in levels) and its level.
    #[must_use]
    pub fn nearest(&self, x: f32) -> (u8, f32) {
        if self.nearest.is_empty() {
            let level = x.round().clamp(-127.0, 127.0);
            return (level as i8 as u8, level);
        }
        let index = (x * FINE).round() + REACH as f32 * FINE;
        let code = self.nearest[(index.max(0.0) as usize).min(self.nearest.len() - 1)];
        (code, f32::from(self.levels[usize::from(code)]))
    }

    /// As the image stores it; zeros for N8.
    #[must_use]
    pub fn codebook(&self) -> [i8; 16] {
        let mut book = [0; 16];
        for (to, from) in book.iter_mut().zip(&self.levels) {
            *to = *from as i8;
        }
        book
    }
}

/// Levels for normal-like weights to start from: the centres of 16 equally likely parts of a normal distribution,
/// pulled outwards at the ends. Lloyd's algorithm takes it from there, so only their order matters in the end.
const START: [i8; 16] = [-120, -92, -72, -56, -42, -30, -18, -6, 6, 18, 30, 42, 56, 72, 92, 120];

/// The same for magnitudes: the centres of 16 equally likely parts of half a normal distribution.
const START_MAGNITUDES: [i8; 16] = [2, 7, 11, 15, 20, 25, 30, 35, 40, 46, 53, 60, 69, 79, 93, 120];

/// Rounds of Lloyd's algorithm.
const ROUNDS: usize = 8;
/// Groups it looks at, at most.
const SAMPLE: usize = 2048;

/// Learns 16 levels for a matrix, or with `signs` (N5) 16 magnitudes: alternately fits scales and codes to the levels, and
/// levels to scales and codes.
pub(super) fn learn(rows: usize, row: &dyn Fn(usize) -> Vec<f32>, importance: &[f32], signs: bool) -> Codebook {
    let groups = importance.len() / GROUP;
    let step = (rows * groups).div_ceil(SAMPLE).max(1);
    let mut sample = Vec::new();
    let mut last: Option<(usize, Vec<f32>)> = None;
    for index in (0..rows * groups).step_by(step) {
        let (r, g) = (index / groups, index % groups);
        if last.as_ref().is_none_or(|(at, _)| *at != r) {
            last = Some((r, row(r)));
        }
        if let Some((_, values)) = &last {
            let mut values = values[g * GROUP..][..GROUP].to_vec();
            if signs {
                // Of a magnitude the nearest code is the magnitude's: one of the first 16.
                values.iter_mut().for_each(|v| *v = v.abs());
            }
            sample.push((values, &importance[g * GROUP..][..GROUP]));
        }
    }
    let mut book = if signs { Codebook::n5(START_MAGNITUDES.into_iter()) } else { Codebook::n4(START.into_iter()) };
    for _ in 0..ROUNDS {
        let (mut top, mut bottom) = ([0f64; 16], [0f64; 16]);
        for (values, weight) in &sample {
            let scale = fit::best_scale(values, weight, &book);
            if scale <= 0.0 {
                continue;
            }
            // Each group counts by its own loss, so that levels serve relative error, not the loudest rows.
            let norm: f64 = values.iter().zip(*weight).map(|(v, w)| f64::from(v * v * w)).sum::<f64>().max(1e-30);
            for (v, w) in values.iter().zip(*weight) {
                let (code, _) = book.nearest(v / scale);
                let w = f64::from(*w) / norm;
                top[usize::from(code)] += w * f64::from(*v) * f64::from(scale);
                bottom[usize::from(code)] += w * f64::from(scale) * f64::from(scale);
            }
        }
        let levels: Vec<f64> =
            (0..16).map(|c| if bottom[c] > 0.0 { top[c] / bottom[c] } else { f64::from(book.levels[c]) }).collect();
        book = if signs {
            Codebook::n5(spread(&levels, 0).into_iter())
        } else {
            Codebook::n4(spread(&levels, -127).into_iter())
        };
    }
    book
}

/// Scales the levels to fill int8 (finer rounding costs nothing: scales absorb it), rounds them and keeps them apart.
fn spread(levels: &[f64], least: i32) -> Vec<i8> {
    let mut sorted = levels.to_vec();
    sorted.sort_by(f64::total_cmp);
    let top = sorted.iter().fold(0f64, |m, l| m.max(l.abs())).max(1e-9);
    let mut out: Vec<i8> = Vec::new();
    for (i, level) in sorted.iter().enumerate() {
        let lowest = out.last().map_or(least, |l| i32::from(*l) + 1);
        let highest = 127 - (15 - i as i32);
        out.push(((level * 127.0 / top).round() as i32).clamp(lowest, highest.max(lowest)) as i8);
    }
    out
}
