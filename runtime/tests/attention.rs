//! Cache and attention against f64 on the dequantized queries, keys and values: what is measured is the arithmetic,
//! not the eight bits. Errors are in steps of the largest value scale, of which a value has 127.

mod support;

use mote_runtime::fixed::Scale;
use mote_runtime::fixed::requantize::quantize_row;
use mote_runtime::image::Limits;
use mote_runtime::image::plan::Rows;
use mote_runtime::image::program::Op;
use mote_runtime::view::{Pool, Single};
use support::{Bench, Builder, Random, Threads, attention, code, measured, op, real};

const FRAC: i16 = 20;

struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: u32,
    four_bits: bool,
}

struct Fixture {
    shape: Shape,
    bench: Bench,
    ops: [Op; 2],
    slots: [u32; 5],
}

fn fixture(shape: Shape, limits: Limits) -> Fixture {
    let Shape { heads, kv_heads, head_dim, window, four_bits } = shape;
    let mut b = Builder::new();
    b.logits = b.i32_slot(Rows::One, 1, 0);
    let q = b.i32_slot(Rows::Batch, heads * head_dim, FRAC);
    let k = b.i32_slot(Rows::Batch, kv_heads * head_dim, FRAC);
    let v = b.i32_slot(Rows::Batch, kv_heads * head_dim, FRAC);
    let out = b.i32_slot(Rows::Batch, heads * head_dim, FRAC);
    let (cache, scratch) = (b.cache_slot(kv_heads, head_dim), b.scratch_slot());
    let ops = [op(code("cache"), &[k, v, cache]), attention(q, cache, scratch, out, heads, head_dim, window)];
    b.body.extend(ops);
    let b = if four_bits { b.with_cache4() } else { b };
    Fixture { shape, bench: Bench::new(&b, limits), ops, slots: [q, k, v, out, cache] }
}

/// A head's row as the ops see it.
fn dequantized(row: &[i32]) -> (Vec<f64>, f64) {
    let mut codes = vec![0; row.len()];
    let Scale { mant, exp } = quantize_row(row, i32::from(FRAC), &mut codes);
    let step = f64::from(mant) * 2f64.powi(-exp);
    (codes.iter().map(|c| f64::from(*c) * step).collect(), step)
}

/// The Walsh-Hadamard transform of each 2^t, the largest that divides the row, not normalised.
fn transform(row: &[f64]) -> Vec<f64> {
    let block = 1 << row.len().trailing_zeros();
    let sign = |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
    let of = |x: &[f64]| -> Vec<f64> {
        (0..block).map(|i| x.iter().enumerate().map(|(j, v)| sign(i, j) * v).sum()).collect()
    };
    row.chunks(block).flat_map(of).collect()
}

fn transformed(row: &[i32]) -> Vec<i32> {
    transform(&row.iter().map(|v| f64::from(*v)).collect::<Vec<_>>()).iter().map(|v| *v as i32).collect()
}

/// What was transformed.
fn back(row: &[f64]) -> Vec<f64> {
    let block = f64::from(1 << row.len().trailing_zeros());
    transform(row).iter().map(|v| v / block).collect()
}

/// Tokens of a sequence: [token][q, k, v] rows.
type Sequence = Vec<[Vec<i32>; 3]>;

impl Fixture {
    /// Runs the sequence in batches, attention only where a token from `from` on is in it; the rows that come out.
    fn run(&mut self, sequence: &Sequence, from: usize, pool: &dyn Pool) -> Vec<Vec<i32>> {
        let [q, k, v, out, _] = self.slots;
        let mut results = Vec::new();
        let mut position = 0;
        for batch in sequence.chunks(self.bench.limits.batch as usize) {
            for (row, token) in batch.iter().enumerate() {
                for (slot, values) in [q, k, v].into_iter().zip(token) {
                    self.bench.row(slot, row).copy_from_slice(values);
                }
            }
            let [cache, attention] = self.ops;
            let rows = batch.len() as u32;
            self.bench.run_with(&cache, position, &[], rows, pool);
            if (position + rows) as usize > from {
                self.bench.run_with(&attention, position, &[], rows, pool);
            }
            results.extend((0..batch.len()).map(|row| self.bench.row(out, row).to_vec()));
            position += rows;
        }
        results
    }

    /// Keys (side 0) or values of a head as a cache of 4 bits holds them, transformed back, and 1/127 of the largest that the scale
    /// can give: the bytes as `Kind::Cache4` says.
    fn cached4(&mut self, side: usize, head: usize, token: usize) -> (Vec<f64>, f64) {
        let (heads, head_dim, context) = (self.shape.kv_heads, self.shape.head_dim, self.bench.limits.context as usize);
        let bytes = self.bench.bytes(self.slots[4]);
        let (all, at) = (heads * context, head * context + token);
        let codes = &bytes[(side * all + at) * head_dim / 2..][..head_dim / 2];
        let scale = &bytes[all * head_dim + (side * all + at) * 2..][..2];
        let step = f64::from(scale[0]) * 256.0 * 2f64.powi(-i32::from(scale[1] as i8));
        let level = |code: u8| {
            let levels = [6.0, 19.0, 32.0, 46.0, 62.0, 79.0, 98.0, 120.0];
            if code < 8 { -levels[7 - usize::from(code)] } else { levels[usize::from(code) - 8] }
        };
        let held: Vec<f64> = codes.iter().flat_map(|c| [level(c & 15) * step, level(c >> 4) * step]).collect();
        (back(&held), step)
    }

    /// Largest error over the tokens from `from` on, in steps of the largest value scale of the window.
    fn error(&mut self, sequence: &Sequence, from: usize) -> f64 {
        let results = self.run(sequence, from, &Single);
        let Shape { heads, kv_heads, head_dim, window, four_bits } = self.shape;
        let mut worst = 0f64;
        for head in 0..heads {
            let kv = head / (heads / kv_heads);
            let side = |which: usize, head: usize| -> Vec<(Vec<f64>, f64)> {
                sequence.iter().map(|t| dequantized(&t[which][head * head_dim..][..head_dim])).collect()
            };
            let (mut q, mut k, mut v) = (side(0, head), side(1, kv), side(2, kv));
            if four_bits {
                q = sequence.iter().map(|t| dequantized(&transformed(&t[0][head * head_dim..][..head_dim]))).collect();
                q.iter_mut().for_each(|q| q.0 = back(&q.0));
                [k, v] = [0, 1].map(|side| (0..sequence.len()).map(|t| self.cached4(side, kv, t)).collect());
            }
            for t in from..sequence.len() {
                let first = if window == 0 { 0 } else { (t + 1).saturating_sub(window as usize) };
                let dot = |s: usize| q[t].0.iter().zip(&k[s].0).map(|(a, b)| a * b).sum::<f64>();
                let scores: Vec<f64> = (first..=t).map(|s| dot(s) / (head_dim as f64).sqrt()).collect();
                let top = scores.iter().copied().fold(f64::MIN, f64::max);
                let e: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                let total: f64 = e.iter().sum();
                let step = v[first..=t].iter().map(|v| v.1).fold(1e-300, f64::max);
                for lane in 0..head_dim {
                    let exact: f64 = e.iter().zip(&v[first..=t]).map(|(e, v)| e * v.0[lane]).sum::<f64>() / total;
                    let got = results[t][head * head_dim + lane];
                    let error = (real(got, FRAC) - exact).abs() - 0.5 * 2f64.powi(-i32::from(FRAC));
                    worst = worst.max(error / step);
                }
            }
        }
        worst
    }
}

fn row(r: &mut Random, cols: usize, size: f64) -> Vec<i32> {
    (0..cols).map(|_| (r.normal() * size * f64::from(1 << FRAC)) as i32).collect()
}

/// Random tokens; `sharp` is the size of queries and keys, so scores spread as its square.
fn random_sequence(r: &mut Random, shape: &Shape, tokens: usize, sharp: f64) -> Sequence {
    let (wide, narrow) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    (0..tokens)
        .map(|_| {
            // Some tokens have values a hundred times smaller or larger than others.
            let size = 10f64.powf(r.unit());
            [row(r, wide, sharp), row(r, narrow, sharp), row(r, narrow, size)]
        })
        .collect()
}

#[test]
fn short_contexts_grouped_heads_windows() {
    let mut worst = 0f64;
    for (heads, kv_heads, head_dim) in [(1, 1, 1), (4, 2, 8), (6, 6, 16), (8, 1, 64), (2, 1, 20), (1, 1, 256)] {
        for window in [0, 1, 5, 64] {
            for sharp in [0.0, 0.3, 1.0, 3.0, 10.0] {
                let shape = Shape { heads, kv_heads, head_dim, window, four_bits: false };
                let r = &mut Random::new(head_dim as u64 + u64::from(window));
                let sequence = random_sequence(r, &shape, 40, sharp);
                worst = worst.max(fixture(shape, Limits { batch: 7, context: 40, threads: 1 }).error(&sequence, 0));
            }
        }
    }
    measured("attention, 40 positions, steps", worst, 0.06);
}

#[test]
fn long_contexts() {
    let mut worst = 0f64;
    for (tokens, sharp, window) in [(1025, 0.0, 0), (1500, 1.0, 0), (3000, 1.5, 0), (3000, 1.0, 1100), (9000, 0.5, 0)] {
        let shape = Shape { heads: 2, kv_heads: 1, head_dim: 12, window, four_bits: false };
        let r = &mut Random::new(tokens as u64);
        let sequence = random_sequence(r, &shape, tokens, sharp);
        let limits = Limits { batch: 64, context: tokens as u32, threads: 1 };
        worst = worst.max(fixture(shape, limits).error(&sequence, tokens - 3));
    }
    measured("attention, up to 9000 positions, steps", worst, 0.06);
}

/// One key that draws nearly all the mass, thousands that share the rest evenly, their values all of one sign: small
/// weights must not be rounded away together.
#[test]
fn attention_sink() {
    let mut worst = 0f64;
    for (tokens, gap) in [(1000, 8.0), (4000, 8.0), (4000, 9.0), (4000, 10.0), (4000, 11.0), (9000, 10.5)] {
        let shape = Shape { heads: 1, kv_heads: 1, head_dim: 8, window: 0, four_bits: false };
        let r = &mut Random::new(8);
        let unit = f64::from(1 << FRAC);
        let q = vec![(2.0 * unit) as i32; 8];
        let sequence: Sequence = (0..tokens)
            .map(|t| {
                let score = if t == 0 { gap } else { 0.0 };
                let k = vec![(score / (16.0 / 8f64.sqrt()) * unit) as i32; 8];
                let v = (0..8).map(|_| ((if t == 0 { -1.0 } else { 1.0 } + r.unit() * 0.1) * unit) as i32).collect();
                [q.clone(), k, v]
            })
            .collect();
        let limits = Limits { batch: 100, context: tokens as u32, threads: 1 };
        worst = worst.max(fixture(shape, limits).error(&sequence, tokens - 1));
    }
    measured("attention sink, steps", worst, 0.1);
}

#[test]
fn threads_and_batches_change_no_bit() {
    for four_bits in [false, true] {
        let shape = || Shape { heads: 6, kv_heads: 3, head_dim: 8, window: 9, four_bits };
        let sequence = random_sequence(&mut Random::new(5), &shape(), 30, 1.0);
        let run = |batch: u32, threads: usize| {
            let limits = Limits { batch, context: 31, threads: threads as u32 };
            fixture(shape(), limits).run(&sequence, 0, &Threads(threads))
        };
        let expected = run(1, 1);
        for (batch, threads) in [(30, 1), (7, 2), (7, 3), (4, 6), (30, 16)] {
            assert!(run(batch, threads) == expected, "batch {batch}, {threads} threads");
        }
    }
}

/// The arithmetic on what a cache of 4 bits holds, and what that is of the keys and values: errors of rows of normal numbers, relative
/// to them.
#[test]
fn four_bits() {
    let (mut worst, mut coarsest) = (0f64, 0f64);
    for (heads, kv_heads, head_dim) in
        [(1, 1, 2), (4, 2, 8), (8, 1, 64), (2, 2, 96), (2, 1, 20), (3, 1, 128), (1, 1, 256)]
    {
        for (window, sharp) in [(0, 0.3), (5, 1.0), (0, 3.0)] {
            let shape = Shape { heads, kv_heads, head_dim, window, four_bits: true };
            let sequence = random_sequence(&mut Random::new(head_dim as u64), &shape, 40, sharp);
            let mut f = fixture(shape, Limits { batch: 7, context: 41, threads: 1 });
            worst = worst.max(f.error(&sequence, 0));
            for side in 0..2 {
                let (mut error, mut all) = (0f64, 0f64);
                for (token, rows) in sequence.iter().enumerate() {
                    let exact = rows[1 + side][..head_dim].iter().map(|v| real(*v, FRAC));
                    let (held, _) = f.cached4(side, 0, token);
                    let size = exact.clone().map(|v| v * v).sum::<f64>();
                    error += exact.zip(held).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / size;
                    all += 1.0;
                }
                coarsest = coarsest.max((error / all).sqrt());
            }
        }
    }
    measured("attention, 4 bits, steps", worst, 0.1);
    measured("cache, 4 bits, relative error", coarsest, 0.13);
}

/// The bytes as drawn at `Kind::Cache`: K codes [heads, context, head_dim], V codes, K scales [heads, context], V scales.
#[test]
fn cache_layout() {
    let (heads, head_dim, context) = (2usize, 4usize, 5usize);
    let shape = Shape { heads, kv_heads: heads, head_dim, window: 0, four_bits: false };
    let sequence = random_sequence(&mut Random::new(6), &shape, 3, 1.0);
    let mut f = fixture(shape, Limits { batch: 2, context: context as u32, threads: 1 });
    f.run(&sequence, 0, &Single);
    let bytes = f.bench.bytes(f.slots[4]);
    let all = heads * context * head_dim;
    for (token, head, side) in (0..3).flat_map(|t| (0..heads).flat_map(move |h| (0..2).map(move |s| (t, h, s)))) {
        let mut codes = vec![0i8; head_dim];
        let scale =
            quantize_row(&sequence[token][1 + side][head * head_dim..][..head_dim], i32::from(FRAC), &mut codes);
        let at = head * context + token;
        let stored = &bytes[side * all + at * head_dim..][..head_dim];
        assert!(stored.iter().zip(codes).all(|(a, b)| *a as i8 == b));
        let stored = &bytes[2 * all + side * heads * context * 4 + at * 4..][..4];
        assert_eq!(u32::from(u16::from_le_bytes([stored[0], stored[1]])), scale.mant);
        assert_eq!(i32::from(i16::from_le_bytes([stored[2], stored[3]])), scale.exp);
    }
}

#[test]
fn zeros_and_extremes() {
    for (q, k, v) in [(0, 0, 0), (1, 0, i32::MAX), (i32::MAX, i32::MIN, i32::MIN), (i32::MIN, i32::MIN, i32::MAX)] {
        let shape = Shape { heads: 2, kv_heads: 1, head_dim: 256, window: 0, four_bits: false };
        let sequence: Sequence = (0..600).map(|_| [vec![q; 512], vec![k; 256], vec![v; 256]]).collect();
        let limits = Limits { batch: 16, context: 600, threads: 1 };
        let results = fixture(shape, limits).run(&sequence, 0, &Single);
        // The mean of equal values is that value, to the 2^-14 of its scale's mantissa.
        for got in results.iter().flatten() {
            let error = (i64::from(*got) - i64::from(v)).abs();
            assert!(error <= i64::from(v).abs() >> 14, "{got} {v}");
        }
    }
}

/// A wrong program may attend to a cache that nothing has written: nonsense, but no overflow.
#[test]
fn garbage_in_the_cache() {
    let fills = [(0x00, 0), (0xFF, 0), (0x80, 0), (0x7F, 0), (0, 1), (0, 2), (0, 3)];
    for ((fill, pattern), four_bits) in fills.into_iter().flat_map(|fill| [(fill, false), (fill, true)]) {
        let shape = Shape { heads: 2, kv_heads: 2, head_dim: 256, window: 0, four_bits };
        let sequence = random_sequence(&mut Random::new(7), &shape, 1, 100.0);
        let mut f = fixture(shape, Limits { batch: 1, context: 1600, threads: 1 });
        let r = &mut Random::new(pattern);
        f.bench.arena.get().fill_with(|| if pattern == 0 { fill } else { r.next() as u8 });
        // Codes of -128 under mantissas of 65535 with the same exponent: the largest sums there are.
        if pattern == 3 {
            let codes = 2 * 2 * 1600 * if four_bits { 128 } else { 256 };
            let bytes = f.bench.bytes(f.slots[4]);
            bytes[..codes].fill(0x80);
            bytes[codes..].as_chunks_mut::<4>().0.fill([0xFF, 0xFF, 0, 0]);
        }
        let q = f.slots[0];
        f.bench.row(q, 0).copy_from_slice(&sequence[0][0]);
        let attention = f.ops[1];
        f.bench.run_with(&attention, 1599, &[], 1, &Single);
    }
}
