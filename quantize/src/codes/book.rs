//! Levels of codes: fixed or learned, and the nearest-level search.

use super::ring::Rings;
use super::trellis::Trellis;
use super::{Coding, fit};
use mote_runtime::image::tensors::{BLOCK, GROUP};
use rayon::prelude::*;

/// Steps of the look-up table between two integers.
const FINE: f32 = 8.0;
/// Integers the table covers on either side of 0.
const REACH: i32 = 160;
/// Places of the table, of which the first 2 * `REACH` * `FINE` + 1 are used.
pub(super) const PLACES: usize = 4096;

/// The levels that codes stand for.
#[derive(Clone, Debug)]
pub struct Codebook {
    levels: Vec<f32>,
    /// Nearest code for each 1/8 of a level; none for N8, where the code is the rounded value.
    nearest: Option<Box<[u8; PLACES]>>,
    /// The level of that code; none for N8.
    near: Option<Box<[f32; PLACES]>>,
    top: f32,
    /// Of T3, whose `levels` then are what its levels are like for one that looks at one weight at a time: means of two.
    trellis: Option<Trellis>,
    /// Of T4, whose `levels` are means of four, then.
    rings: Option<Box<Rings>>,
}

impl Codebook {
    /// 8-bit codes: -127 to 127, each its own level.
    #[must_use]
    pub fn n8() -> Self {
        Self { levels: Vec::new(), nearest: None, near: None, top: 127.0, trellis: None, rings: None }
    }

    /// 4-bit codes with these levels, in rising order.
    #[must_use]
    pub fn n4(levels: impl Iterator<Item = i8>) -> Self {
        Self::of(levels.map(f32::from).collect(), None)
    }

    /// 5-bit codes with these magnitudes, in rising order; bit 4 is the sign.
    #[must_use]
    pub fn n5(magnitudes: impl Iterator<Item = i8>) -> Self {
        let magnitudes: Vec<f32> = magnitudes.map(f32::from).collect();
        Self::of(magnitudes.iter().copied().chain(magnitudes.iter().map(|m| -m)).collect(), None)
    }

    /// 4-bit codes along a trellis, with these levels of windows of five bits.
    #[must_use]
    pub fn t4(levels: [i8; 32]) -> Self {
        let mut all: Vec<f32> = levels.iter().flat_map(|l| [f32::from(*l), -f32::from(*l)]).collect();
        all.sort_by(f32::total_cmp);
        let means = all.chunks(4).map(|four| four.iter().sum::<f32>() / 4.0).collect();
        Self { rings: Some(Box::new(Rings::new(levels))), ..Self::of(means, None) }
    }

    /// 3-bit codes along a trellis, with these levels, in rising order.
    #[must_use]
    pub fn t3(levels: [i8; 16]) -> Self {
        let pairs = levels.chunks(2).map(|pair| (f32::from(pair[0]) + f32::from(pair[1])) / 2.0);
        Self::of(pairs.collect(), Some(Trellis::new(in_sets(levels))))
    }

    fn of(levels: Vec<f32>, trellis: Option<Trellis>) -> Self {
        let nearest = table(&levels);
        let mut near = Box::new([0.0; PLACES]);
        near.iter_mut().zip(&*nearest).for_each(|(level, code)| *level = levels[usize::from(*code)]);
        let top = levels.iter().fold(1f32, |top, l| top.max(l.abs()));
        Self { levels, nearest: Some(nearest), near: Some(near), top, trellis, rings: None }
    }

    /// Largest magnitude of a level.
    #[must_use]
    pub fn top(&self) -> f32 {
        self.top
    }

    /// Nearest code of `x` (in levels) and its level.
    #[must_use]
    pub fn nearest(&self, x: f32) -> (u8, f32) {
        let Some(nearest) = &self.nearest else {
            let level = eight_bits(x);
            return (level as i8 as u8, level);
        };
        let code = nearest[place(x)];
        (code, self.levels[usize::from(code)])
    }

    /// The levels nearest to `values` (in levels).
    #[inline(always)]
    pub(super) fn round(&self, values: &mut [f32; GROUP]) {
        match &self.near {
            None => values.iter_mut().for_each(|x| *x = eight_bits(*x)),
            Some(near) => {
                let mut places = [0; GROUP];
                places.iter_mut().zip(&*values).for_each(|(place, x)| *place = self::place(*x));
                values.iter_mut().zip(places).for_each(|(x, place)| *x = near[place]);
            }
        }
    }

    /// Codes of one column of a block, and their levels, for `values` with `steps` between levels: the nearest codes, or the best way
    /// along the trellis, with `weights` for the squares of errors in levels. Of a row with a step of 0 everything is 0.
    #[must_use]
    pub fn column(
        &self,
        values: &[f32; BLOCK],
        steps: &[f32; BLOCK],
        weights: &[f32; BLOCK],
    ) -> ([u8; BLOCK], [f32; BLOCK]) {
        let target = |lane: usize| if steps[lane] > 0.0 { values[lane] / steps[lane] } else { 0.0 };
        let targets: [f32; BLOCK] = core::array::from_fn(target);
        if let Some(trellis) = &self.trellis {
            return trellis.column(&targets, weights);
        }
        let found = targets.map(|x| self.nearest(x));
        (found.map(|(code, _)| code), found.map(|(_, level)| level))
    }

    /// Which of the levels each code of a column of a block stands for, and whether negated.
    fn levels_of(&self, codes: &[u8; BLOCK]) -> [(usize, bool); BLOCK] {
        match &self.trellis {
            Some(trellis) => trellis.levels_of(codes).map(|level| (level, false)),
            None => codes.map(|c| (usize::from(c & 15), c & 16 != 0)),
        }
    }

    /// Of codes that are chosen in rings (`ring.rs`).
    pub(super) fn rings(&self) -> Option<&Rings> {
        self.rings.as_deref()
    }

    /// Whether codes are bytes, each its own level.
    pub(super) fn is_bytes(&self) -> bool {
        self.nearest.is_none()
    }

    /// Whether what a code stands for depends on the rows before.
    #[must_use]
    pub fn is_trellis(&self) -> bool {
        self.trellis.is_some()
    }

    /// As the image stores it; zeros for N8 and T4.
    #[must_use]
    pub fn codebook(&self) -> [i8; 16] {
        if let Some(trellis) = &self.trellis {
            return trellis.book();
        }
        let mut book = [0; 16];
        let stored = if self.rings.is_some() { &[][..] } else { &self.levels };
        for (to, from) in book.iter_mut().zip(stored) {
            *to = *from as i8;
        }
        book
    }
}

/// T3's levels, in rising order, as they lie in the image: each set has every fourth.
fn in_sets(levels: [i8; 16]) -> [i8; 16] {
    // Neighbours differ in the bit of the row before: those of the same sign of it are as far apart as can be.
    let place = |rank: usize| 8 * (rank % 2) + 4 * (rank / 2 % 2) + rank / 4;
    let mut book = [0; 16];
    levels.into_iter().enumerate().for_each(|(rank, level)| book[place(rank)] = level);
    book
}

/// The nearest of the levels for each 1/8 of a level.
pub(super) fn table(levels: &[f32]) -> Box<[u8; PLACES]> {
    let span = (REACH as f32 * FINE) as i32;
    let closest = |i: i32| {
        let x = i as f32 / FINE;
        let distance = |code: &u8| (levels[usize::from(*code)] - x).abs();
        (0..levels.len() as u8).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0)
    };
    let mut table = Box::new([0; PLACES]);
    table.iter_mut().zip(-span..=span).for_each(|(code, i)| *code = closest(i));
    table
}

/// Where `x` is in a table of the nearest.
#[inline(always)]
pub(super) fn place(x: f32) -> usize {
    const LAST: f32 = REACH as f32 * FINE;
    let x = x * FINE;
    let x = if x > LAST { LAST } else { x };
    let x = if x < -LAST { -LAST } else { x };
    // Floats of 2^23 and more have no fraction bits: the sum is rounded, and its last bits are the integer.
    (x + (8_388_608.0 + LAST)).to_bits() as usize % PLACES
}

/// The nearest level of 8-bit codes.
#[inline(always)]
fn eight_bits(x: f32) -> f32 {
    x.round_ties_even().clamp(-127.0, 127.0)
}

/// Levels for normal-like weights to start from: the centres of 16 equally likely parts of a normal distribution,
/// pulled outwards at the ends. Lloyd's algorithm takes it from there, so only their order matters in the end.
const START: [i8; 16] = [-120, -92, -72, -56, -42, -30, -18, -6, 6, 18, 30, 42, 56, 72, 92, 120];

/// The same for magnitudes: the centres of 16 equally likely parts of half a normal distribution.
const START_MAGNITUDES: [i8; 16] = [2, 7, 11, 15, 20, 25, 30, 35, 40, 46, 53, 60, 69, 79, 93, 120];

/// What the algorithm finds for normal weights along the trellis of T3.
const START_THREE: [i8; 16] = [-126, -90, -67, -51, -38, -26, -16, -5, 5, 16, 26, 38, 51, 67, 90, 126];

/// Rounds of Lloyd's algorithm.
const ROUNDS: usize = 8;
/// Groups it looks at, at most.
const SAMPLE: usize = 2048;

/// Learns the levels of a matrix (magnitudes for N5): alternately fits scales and codes to the levels, and levels to scales and codes.
pub(super) fn learn(rows: usize, row: &dyn Fn(usize) -> Vec<f32>, importance: &[f32], coding: Coding) -> Codebook {
    let groups = importance.len() / GROUP;
    let mut book = match coding {
        Coding::T3 => Codebook::t3(START_THREE),
        Coding::N5 => Codebook::n5(START_MAGNITUDES.into_iter()),
        _ => Codebook::n4(START.into_iter()),
    };
    // Rows whose codes are chosen together.
    let height = if book.is_trellis() { BLOCK } else { 1 };
    let places = rows.div_ceil(height) * groups;
    let mut sample = Vec::new();
    let mut last: Option<(usize, Vec<Vec<f32>>)> = None;
    for index in (0..places).step_by((places * height).div_ceil(SAMPLE).div_ceil(height).max(1)) {
        let (first, group) = (index / groups * height, index % groups);
        if last.as_ref().is_none_or(|(at, _)| *at != first) {
            last = Some((first, (first..rows.min(first + height)).map(row).collect()));
        }
        if let Some((_, rows)) = &last {
            let here: Vec<Vec<f32>> = rows.iter().map(|row| row[group * GROUP..][..GROUP].to_vec()).collect();
            sample.push((here, &importance[group * GROUP..][..GROUP]));
        }
    }
    for _ in 0..ROUNDS {
        let sums = |(rows, weight): &(Vec<Vec<f32>>, &[f32])| {
            let (mut top, mut bottom) = ([0f64; 16], [0f64; 16]);
            let (mut scales, mut norms) = ([0f32; BLOCK], [1f64; BLOCK]);
            for (values, (scale, norm)) in rows.iter().zip(scales.iter_mut().zip(&mut norms)) {
                *scale = fit::best_scale(values, weight, &book);
                // Each group counts by its own loss, so that levels serve relative error, not the loudest rows.
                *norm = values.iter().zip(*weight).map(|(v, w)| f64::from(v * v * w)).sum::<f64>().max(1e-30);
            }
            for (c, w) in weight.iter().enumerate() {
                let value = |lane: usize| rows.get(lane).map_or(0.0, |row| row[c]);
                let (codes, _) = book.column(&core::array::from_fn(value), &scales, &[1.0; BLOCK]);
                for (lane, (level, negative)) in book.levels_of(&codes).into_iter().enumerate().take(rows.len()) {
                    let scale = f64::from(if negative { -scales[lane] } else { scales[lane] });
                    let w = f64::from(*w) / norms[lane];
                    top[level] += w * f64::from(value(lane)) * scale;
                    bottom[level] += w * scale * scale;
                }
            }
            (top, bottom)
        };
        // Each place's sums for itself, added in order: the same whatever the threads.
        let (mut top, mut bottom) = ([0f64; 16], [0f64; 16]);
        for (top_here, bottom_here) in sample.par_iter().map(sums).collect::<Vec<_>>() {
            top.iter_mut().zip(top_here).for_each(|(sum, here)| *sum += here);
            bottom.iter_mut().zip(bottom_here).for_each(|(sum, here)| *sum += here);
        }
        let old = book.codebook();
        let levels: Vec<f64> =
            (0..16).map(|k| if bottom[k] > 0.0 { top[k] / bottom[k] } else { f64::from(old[k]) }).collect();
        let levels = spread(&levels, if coding == Coding::N5 { 0 } else { -127 });
        book = match coding {
            Coding::T3 => Codebook::t3(levels),
            Coding::N5 => Codebook::n5(levels.into_iter()),
            _ => Codebook::n4(levels.into_iter()),
        };
    }
    book
}

/// Scales the levels to fill int8 (finer rounding costs nothing: scales absorb it), rounds them and keeps them apart.
fn spread(levels: &[f64], least: i32) -> [i8; 16] {
    let mut sorted = levels.to_vec();
    sorted.sort_by(f64::total_cmp);
    let top = sorted.iter().fold(0f64, |m, l| m.max(l.abs())).max(1e-9);
    let (mut out, mut lowest) = ([0i8; 16], least);
    for (i, (to, level)) in out.iter_mut().zip(sorted).enumerate() {
        let highest = 127 - (15 - i as i32);
        *to = ((level * 127.0 / top).round() as i32).clamp(lowest, highest.max(lowest)) as i8;
        lowest = i32::from(*to) + 1;
    }
    out
}
