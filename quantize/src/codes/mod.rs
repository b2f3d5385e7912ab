//! Coding matrices: floats in, T3, N4, T4, N5 or N8 streams out.
//!
//! `weight ~ level * scale[row, group] * mult[row] * 2^-exponent` (layout: `mote_runtime::image::tensors`). The fit, for
//! each group of 32 weights and with an importance for each column:
//!
//! 1. try a range of scales around absmax / top level; for each, round to the nearest level, then solve for the scale
//!    that is best for these codes in closed form (least squares); keep the best (llama.cpp's block search);
//! 2. refit the codebook to what was assigned (Lloyd's algorithm), a few rounds over a sample of the groups;
//! 3. fix the row's multiplier, then round each group's scale to an integer, trying its neighbours with codes assigned
//!    anew and keeping the one with least error (ikawrakow/ik_llama.cpp#624).

mod book;
mod feedback;
mod fit;
mod ring;
mod rows;
mod solve;
mod trellis;

pub use book::Codebook;
pub use rows::BAND;
pub use solve::{damp, factor, times_inverse, times_inverse_of};

use mote_runtime::image::Dtype;
use mote_runtime::image::tensors::{BLOCK, GROUP, T4_LEVELS, stream_order};
use rayon::prelude::*;

/// How to code a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// 3 bits along a trellis, a codebook learned for the tensor.
    T3,
    /// 4 bits, a codebook learned for the tensor.
    N4Learned,
    /// 4 bits, the levels -8 to 7.
    N4Uniform,
    /// 4 bits along a trellis.
    T4,
    /// 5 bits, magnitudes learned for the tensor.
    N5,
    /// 8 bits.
    N8,
}

impl Coding {
    /// The type of its tensors.
    #[must_use]
    pub fn dtype(self) -> Dtype {
        match self {
            Self::N4Learned | Self::N4Uniform => Dtype::N4,
            Self::T3 => Dtype::T3,
            Self::T4 => Dtype::T4,
            Self::N5 => Dtype::N5,
            Self::N8 => Dtype::N8,
        }
    }

    /// Bits of a code.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.dtype().code_bits().unwrap_or(8)
    }
}

/// A coded matrix, in the streams of the image.
#[derive(Clone, Debug, PartialEq)]
pub struct CodedMatrix {
    /// T3, N4, T4, N5 or N8.
    pub dtype: Dtype,
    /// Rows, without padding.
    pub rows: usize,
    /// Columns, without padding.
    pub cols: usize,
    /// Levels of 3- and 4-bit codes, magnitudes of 5-bit ones.
    pub codebook: [i8; 16],
    /// `weight = level * scale * mult * 2^-exponent`.
    pub exponent: i32,
    /// Codes, signs, scales and multipliers as they stand in the image.
    pub bytes: Vec<u8>,
    /// What was lost.
    pub stats: Stats,
}

/// What coding a matrix lost, and the proof that its sums fit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// ||W - W'|| / ||W||.
    pub relative_error: f64,
    /// Largest bound of a row's sum over all activations in -127..=127: `127 * sum(scale * |level|)`.
    pub row_bound: u64,
    /// Stored bits, everything counted, for each weight of the unpadded matrix.
    pub bits_per_weight: f64,
}

impl Stats {
    /// Whether every row's sum provably fits int32, whatever the activations.
    #[must_use]
    pub fn fits_i32(&self) -> bool {
        self.row_bound <= i32::MAX as u64
    }
}

/// What a row's scales are integers of: `mult * 2^-exponent`.
#[derive(Clone, Copy, Debug)]
struct Grid {
    mult: u16,
    unit: f32,
}

/// One coded row: a scale a group, a multiplier, a level (N8) or code a padded column. Padding rows have codes only.
struct Row {
    mult: u16,
    scales: Vec<u8>,
    codes: Vec<u8>,
    error: f64,
    bound: u64,
}

impl Row {
    /// The rows of a block, to be filled, with `groups` scales of 0; padding is among them if its codes matter.
    fn block(grids: &[Grid], book: &Codebook, groups: usize) -> Vec<Self> {
        let row = |mult| Self { mult, scales: vec![0; groups], codes: Vec::new(), error: 0.0, bound: 0 };
        let padding = if book.is_trellis() { BLOCK - grids.len() } else { 0 };
        grids.iter().map(|grid| row(grid.mult)).chain((0..padding).map(|_| row(0))).collect()
    }
}

/// Codes `weights` `[rows, cols]`, row-major. `importance` weighs the squared error of each column (length `cols`); the
/// diagonal of the calibrated Hessian, or ones.
///
/// # Panics
/// Never for finite weights; lengths that do not match are a bug of the caller and asserted.
#[must_use]
pub fn code_matrix(
    weights: &[f32],
    rows: usize,
    cols: usize,
    coding: Coding,
    importance: Option<&[f32]>,
) -> CodedMatrix {
    let draft = Draft::new(weights, rows, cols, coding, importance);
    draft.by_blocks(coding, |_, rows, scales, grids| {
        fit::code_block(rows, &draft.column_weight, &draft.book, scales, grids)
    })
}

/// As [`code_matrix`], with codes chosen for what a row gives and not weight by weight: `hessian` `[cols, cols]` is the mean of
/// x x^T over the inputs x that the matrix meets, symmetric and positive definite. See `feedback.rs`. `matters` says what an error of each
/// row counts, for codings whose rows are chosen together; empty if all count alike. `together` says, instead, what errors of each two
/// rows count: for each [`BAND`] rows, or what is left, a matrix of that size, symmetric and positive definite (`rows.rs`); empty if errors
/// of different rows have nothing to do with each other.
///
/// # Panics
/// As [`code_matrix`].
#[must_use]
pub fn code_matrix_for(
    weights: &[f32],
    rows: usize,
    cols: usize,
    coding: Coding,
    hessian: &[f32],
    matters: &[f32],
    together: &[f32],
) -> CodedMatrix {
    assert_eq!(hessian.len(), cols * cols, "a hessian must be cols x cols");
    let importance: Vec<f32> = (0..cols).map(|c| hessian[c * cols + c]).collect();
    let draft = Draft::new(weights, rows, cols, coding, Some(&importance));
    let feedback = feedback::Feedback::new(hessian, cols, draft.book.rings().is_some());
    if !together.is_empty() {
        let exponent = draft.exponent(ROOM);
        return draft.finish(
            coding,
            exponent,
            draft.code_together(&feedback, together, &|scales| grid(scales, exponent)),
        );
    }
    draft.by_blocks(coding, |first, rows, scales, grids| {
        let coupling = feedback::alone(matters.get(first..).unwrap_or(&[]));
        let found = feedback.code_block(rows, &draft.column_weight, &draft.book, scales, grids, &coupling);
        feedback.rows(&found, &draft.book, grids)
    })
}

/// How much larger than the largest row a row may be that makes up for others.
const ROOM: f32 = 1.5;

/// What a row's scales are integers of: its multiplier makes the largest 255.
fn grid(scales: &[f32], exponent: i32) -> Grid {
    let mult = (f64::from(unit(scales)) * 2f64.powi(exponent)).ceil().clamp(1.0, 65535.0) as u16;
    Grid { mult, unit: (f64::from(mult) * 2f64.powi(-exponent)) as f32 }
}

fn unit(scales: &[f32]) -> f32 {
    scales.iter().copied().fold(0f32, f32::max) / 255.0
}

/// A matrix with its levels and the best scale of each group, in floats.
struct Draft<'w> {
    weights: &'w [f32],
    rows: usize,
    cols: usize,
    /// Importance of each padded column; 0 for padding.
    column_weight: Vec<f32>,
    book: Codebook,
    scales: Vec<Vec<f32>>,
}

impl<'w> Draft<'w> {
    fn new(weights: &'w [f32], rows: usize, cols: usize, coding: Coding, importance: Option<&[f32]>) -> Self {
        assert_eq!(weights.len(), rows * cols, "weights must be rows x cols");
        let mut column_weight = vec![0f32; cols.next_multiple_of(GROUP)];
        match importance {
            Some(importance) => column_weight[..cols].copy_from_slice(importance),
            None => column_weight[..cols].fill(1.0),
        }
        let mut draft = Self { weights, rows, cols, column_weight, book: Codebook::n8(), scales: Vec::new() };
        draft.book = match coding {
            Coding::N8 => Codebook::n8(),
            Coding::N4Uniform => Codebook::n4((-8..8).map(|l| l as i8)),
            Coding::T4 => Codebook::t4(T4_LEVELS),
            Coding::T3 | Coding::N4Learned | Coding::N5 => {
                book::learn(rows, &|row| draft.padded(row), &draft.column_weight, coding)
            }
        };
        let firsts: Vec<usize> = (0..rows).step_by(BLOCK).collect();
        let scales = |first: usize| {
            let values: Vec<Vec<f32>> = (first..rows.min(first + BLOCK)).map(|row| draft.padded(row)).collect();
            fit::block_scales(&values, &draft.column_weight, &draft.book)
        };
        draft.scales = firsts.into_par_iter().flat_map_iter(scales).collect();
        draft
    }

    /// A row, with zeros up to whole groups.
    fn padded(&self, row: usize) -> Vec<f32> {
        let mut padded = vec![0f32; self.column_weight.len()];
        padded[..self.cols].copy_from_slice(&self.weights[row * self.cols..][..self.cols]);
        padded
    }

    /// The exponent of multipliers of rows up to so many times as large as the largest.
    fn exponent(&self, room: f32) -> i32 {
        multiplier_exponent(self.scales.iter().map(|s| unit(s)).fold(0f32, f32::max) * room)
    }

    /// Codes blocks of rows that have nothing to do with each other.
    fn by_blocks(
        &self,
        coding: Coding,
        code_block: impl Fn(usize, &[Vec<f32>], &[Vec<f32>], &[Grid]) -> Vec<Row> + Sync,
    ) -> CodedMatrix {
        let exponent = self.exponent(1.0);
        let block = |first: usize| {
            let here = first..self.rows.min(first + BLOCK);
            let values: Vec<Vec<f32>> = here.clone().map(|row| self.padded(row)).collect();
            let scales = &self.scales[here];
            let grids: Vec<Grid> = scales.iter().map(|scales| grid(scales, exponent)).collect();
            code_block(first, &values, scales, &grids)
        };
        let firsts: Vec<usize> = (0..self.rows).step_by(BLOCK).collect();
        self.finish(coding, exponent, firsts.into_par_iter().flat_map_iter(block).collect())
    }

    /// Packs coded rows.
    fn finish(&self, coding: Coding, exponent: i32, coded: Vec<Row>) -> CodedMatrix {
        let (rows, cols) = (self.rows, self.cols);
        let total: f64 = self.weights.iter().map(|w| f64::from(*w).powi(2)).sum();
        let error: f64 = coded.iter().map(|r| r.error).sum();
        let bytes = pack(&coded, cols.div_ceil(GROUP), coding.bits());
        let stats = Stats {
            relative_error: if total > 0.0 { (error / total).sqrt() } else { 0.0 },
            row_bound: coded.iter().map(|r| r.bound).max().unwrap_or(0),
            bits_per_weight: bytes.len() as f64 * 8.0 / (rows * cols) as f64,
        };
        CodedMatrix { dtype: coding.dtype(), rows, cols, codebook: self.book.codebook(), exponent, bytes, stats }
    }
}

/// The exponent that puts `largest` just under 2^16.
fn multiplier_exponent(largest: f32) -> i32 {
    if largest <= 0.0 || !largest.is_finite() {
        return 0;
    }
    let exponent = (65535.0 / f64::from(largest)).log2().floor() as i32;
    exponent.clamp(-200, 200)
}

fn pack(rows: &[Row], groups: usize, bits: u8) -> Vec<u8> {
    let padded = rows.len().next_multiple_of(BLOCK);
    let mut out = Vec::with_capacity(padded * (groups * (GROUP * usize::from(bits) / 8 + 1) + 2));
    let row_at = |block: usize, lane: usize| rows.get(block * BLOCK + lane);
    let codes_at = |block, group, lane| row_at(block, lane).map(|row| &row.codes[group * GROUP..][..GROUP]);
    let lines = if bits == 5 { 4 } else { usize::from(bits) };
    for (block, group) in stream_order(padded / BLOCK, groups) {
        for (line, lane) in (0..lines).flat_map(|line| (0..BLOCK).map(move |lane| (line, lane))) {
            out.extend(codes_at(block, group, lane).map_or([0; 4], |codes| match bits {
                3 => three_bit_word(codes, line),
                8 => core::array::from_fn(|b| codes[4 * line + b]),
                _ => core::array::from_fn(|b| codes[8 * line + b] & 15 | codes[8 * line + 4 + b] << 4),
            }));
        }
    }
    for (block, group) in stream_order(padded / BLOCK, groups).filter(|_| bits == 5) {
        // Of four columns each, for the words of low and of high nibbles.
        for half in 0..GROUP / 4 {
            let sign = |codes: &[u8], b: usize| u64::from(codes[4 * half + b] >> 4);
            let signs = |codes: &[u8]| (0..4).fold(0, |word, b| word | sign(codes, b) << b);
            let of = |lane| codes_at(block, group, lane).map_or(0, signs);
            out.extend((0..BLOCK).fold(0, |word, lane| word | of(lane) << (4 * lane)).to_le_bytes());
        }
    }
    for (block, group) in stream_order(padded / BLOCK, groups) {
        out.extend((0..BLOCK).map(|lane| row_at(block, lane).map_or(0, |r| r.scales[group])));
    }
    for row in 0..padded {
        out.extend(rows.get(row).map_or(0, |r| r.mult).to_le_bytes());
    }
    out
}

/// T3's word of a row in line `line` of a group.
fn three_bit_word(codes: &[u8], line: usize) -> [u8; 4] {
    core::array::from_fn(|b| {
        let code = |part: usize, half: usize| codes[8 * part + 4 * half + b];
        let both = |part: usize, of: &dyn Fn(u8) -> u8| of(code(part, 0)) | of(code(part, 1)) << 4;
        match line {
            2 => (0..4).fold(0, |byte, part| byte | both(part, &|code| code & 1) << part),
            _ => (0..2).fold(0, |byte, i| byte | both(2 * line + i, &|code| code >> 1) << (2 * i)),
        }
    })
}

impl CodedMatrix {
    /// Type, shape and levels as a record of the image; its place is the writer's to fill in.
    #[must_use]
    pub fn desc(&self) -> mote_runtime::image::TensorDesc {
        use mote_runtime::image::{TensorDesc, header::Span};
        let dims = [self.rows as u32, self.cols as u32, 1, 1];
        let span = Span { offset: 0, bytes: self.bytes.len() as u64 };
        TensorDesc { dtype: self.dtype, rank: 2, exponent: self.exponent, dims, span, codebook: self.codebook }
    }

    /// The weights as the device computes with them, `[rows, cols]`.
    #[must_use]
    pub fn decode(&self) -> Vec<f32> {
        self.decode_untransformed(0)
    }

    /// The same of a matrix whose columns were transformed in blocks of 2^`hadamard`, as they were before.
    #[must_use]
    pub fn decode_untransformed(&self, hadamard: u32) -> Vec<f32> {
        let view = mote_runtime::image::Coded::new(&self.desc(), &self.bytes);
        view.map_or_else(Vec::new, |view| decode(&view, hadamard))
    }
}

/// Walsh-Hadamard transform, not normalised, of each `2^log2` values of each row, in place. Its own inverse, times 2^log2.
///
/// # Panics
/// Never for `cols` a multiple of `2^log2`; asserted.
pub fn hadamard_rows(values: &mut [f32], cols: usize, log2: u32) {
    assert!(cols.is_multiple_of(1 << log2), "{cols} columns cannot be cut into blocks of 2^{log2}");
    for block in values.chunks_exact_mut(1 << log2) {
        for half in (0..log2).map(|bit| 1usize << bit) {
            for pair in block.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
        }
    }
}

/// The weights of a coded matrix as floats, `[rows, cols]`, as they were before its columns were transformed in blocks of
/// 2^`hadamard`.
#[must_use]
pub fn decode(view: &mote_runtime::image::Coded<'_>, hadamard: u32) -> Vec<f32> {
    let mut out = vec![0f32; view.rows * view.cols];
    let mut levels = vec![0i32; view.cols];
    for (row, out) in out.chunks_exact_mut(view.cols).enumerate() {
        let unit = f64::from(view.mult(row)) * 2f64.powi(-view.exponent);
        view.row_levels(row, &mut levels, |to, level| *to = level);
        for (out, level) in out.iter_mut().zip(&levels) {
            *out = (f64::from(*level) * unit) as f32;
        }
    }
    hadamard_rows(&mut out, view.cols, hadamard);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values like a layer's: normal, a few outliers, one row of zeros.
    fn matrix(rows: usize, cols: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 24) as f32) - 0.5
        };
        let mut w: Vec<f32> = (0..rows * cols).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * 0.05).collect();
        w[cols / 2] = 0.4;
        w[(rows - 1) * cols..].fill(0.0);
        w
    }

    #[test]
    fn decoding_gives_back_the_weights_within_the_stated_error() {
        for (rows, cols) in [(48, 256), (17, 72), (5, 31), (1, 1), (19, 2100)] {
            let w = matrix(rows, cols, 7);
            // 0.14, 0.077, 0.092, 0.07, 0.04 and 0.0045 for normal weights; an outlier's group loses much of its other 31.
            let codings = [
                (Coding::T3, 0.17),
                (Coding::N4Learned, 0.095),
                (Coding::N4Uniform, 0.11),
                (Coding::T4, 0.09),
                (Coding::N5, 0.05),
                (Coding::N8, 0.007),
            ];
            for (coding, most) in codings {
                let coded = code_matrix(&w, rows, cols, coding, None);
                let back = coded.decode();
                let norm = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
                let diff: Vec<f32> = w.iter().zip(&back).map(|(a, b)| a - b).collect();
                let relative = if norm(&w) > 0.0 { (norm(&diff) / norm(&w)).sqrt() } else { 0.0 };
                assert!((relative - coded.stats.relative_error).abs() < 1e-5, "{relative} {:?}", coded.stats);
                // In a small matrix one outlier's group is a large share.
                let most = if rows * cols > 10_000 { most } else { 1.5 * most };
                assert!(relative < most, "{coding:?} {rows}x{cols}: {relative}");
                assert_eq!(
                    mote_runtime::image::TensorDesc::data_bytes(coded.desc().dtype, coded.desc().dims),
                    Some(coded.bytes.len() as u64)
                );
            }
        }
    }

    #[test]
    fn learned_levels_beat_uniform_ones() {
        let w = matrix(64, 512, 3);
        let error = |coding| code_matrix(&w, 64, 512, coding, None).stats.relative_error;
        assert!(error(Coding::N4Learned) < 0.97 * error(Coding::N4Uniform));
        // A tenth of the error and more, with scales that are fitted to the codes (feedback.rs).
        assert!(error(Coding::T4) < 0.95 * error(Coding::N4Learned));
        // A bit less doubles it.
        let ratio = error(Coding::T3) / error(Coding::T4);
        assert!((1.9..2.2).contains(&ratio), "{ratio}");
        // A bit more halves a step.
        assert!(error(Coding::N5) < 0.54 * error(Coding::N4Learned));
    }

    #[test]
    fn all_zero_and_tiny_matrices() {
        let coded = code_matrix(&[0.0; 64], 2, 32, Coding::N4Learned, None);
        assert!(coded.decode().iter().all(|w| *w == 0.0));
        let tiny = [1e-30f32; 64];
        let coded = code_matrix(&tiny, 2, 32, Coding::N8, None);
        assert!(coded.decode().iter().all(|w| (w / 1e-30 - 1.0).abs() < 0.02));
    }
}
