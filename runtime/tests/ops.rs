//! Every op against f64, on the same dequantized inputs. The bounds asserted here are those of NUMERICS.md.

mod support;

use core::f64::consts::TAU;

use mote_runtime::image::plan::Rows;
use mote_runtime::image::program::Op;
use mote_runtime::image::tensors::Dtype::{N4, N5, N8, T3, T4};
use mote_runtime::image::tensors::GROUP;
use mote_runtime::view::Single;
use proptest::prelude::*;
use support::{Bench, Builder, Matrix, Random, code, layer_norm, limits, measured, op, real, rms_norm};

/// A builder whose logits slot is there for form's sake.
fn builder() -> Builder {
    let mut b = Builder::new();
    b.logits = b.i32_slot(Rows::One, 1, 0);
    b
}

fn bench(b: &Builder, batch: u32) -> Bench {
    Bench::new(b, limits(batch, 4))
}

#[test]
fn embed_is_within_half_a_unit() {
    let mut worst = 0f64;
    for (dtype, vocab, cols) in
        [(N4, 50, 40), (N8, 50, 40), (N8, 17, 72), (N5, 17, 72), (T4, 33, 72), (T3, 33, 72), (N4, 1, 1), (N4, 5, 31)]
    {
        for frac in [-3i16, 8, 16, 20] {
            let r = &mut Random::new(dtype as u64 + vocab as u64);
            let mut b = Builder { vocab: vocab as u32, ..Builder::new() };
            b.logits = b.i32_slot(Rows::One, vocab, 0);
            let m = Matrix::like_a_model(r, vocab, cols, dtype, 1.0);
            let table = b.matrix(&m);
            let out = b.i32_slot(Rows::Batch, cols, frac);
            let op = op(code("embed"), &[out, table]);
            b.body.push(op);
            let tokens: Vec<u32> = (0..7).map(|_| r.range(0, vocab as i64 - 1) as u32).collect();
            let mut bench = bench(&b, 7);
            bench.run_with(&op, 0, &tokens, 7, &Single);
            for (row, token) in tokens.iter().enumerate() {
                for (col, got) in bench.row(out, row).iter().enumerate() {
                    let error = real(*got, frac) - m.weight(*token as usize, col);
                    worst = worst.max(error.abs() * 2f64.powi(i32::from(frac)));
                }
            }
        }
    }
    measured("embed, ulp", worst, 0.5);
}

#[test]
fn embed_saturates() {
    let r = &mut Random::new(1);
    for (exponent, frac) in [(-256, 64), (256, -64), (0, 30), (24, -64)] {
        let mut b = Builder { vocab: 3, ..Builder::new() };
        b.logits = b.i32_slot(Rows::One, 3, 0);
        let m = Matrix { exponent, ..Matrix::random(r, 3, 20, None) };
        let table = b.matrix(&m);
        let out = b.i32_slot(Rows::Batch, 20, frac);
        let op = op(code("embed"), &[out, table]);
        b.body.push(op);
        let mut bench = bench(&b, 1);
        bench.run_with(&op, 0, &[2], 1, &Single);
        for (col, got) in bench.row(out, 0).iter().enumerate() {
            let exact = (m.weight(2, col) * 2f64.powi(i32::from(frac))).clamp(-2f64.powi(31), 2f64.powi(31) - 1.0);
            assert!((f64::from(*got) - exact).abs() <= 0.5, "{got} {exact}");
        }
    }
}

#[test]
fn select_row_copies() {
    let mut b = builder();
    let (from, to) = (b.i32_slot(Rows::Batch, 9, 5), b.i32_slot(Rows::One, 9, 5));
    let op = op(code("select_row"), &[from, to]);
    b.head.push(op);
    let mut bench = bench(&b, 3);
    bench.row(from, 0).copy_from_slice(&[i32::MIN, 1, 2, 3, 4, 5, 6, 7, i32::MAX]);
    bench.run(&op, 3);
    assert_eq!(bench.row(to, 0), [i32::MIN, 1, 2, 3, 4, 5, 6, 7, i32::MAX]);
}

/// Rows of many sizes: noise, one outlier, constant, tiny against eps, zero, as large as int32 goes.
fn rows_to_normalise(r: &mut Random, cols: usize) -> Vec<Vec<i32>> {
    let mut rows = Vec::new();
    for bits in [3, 8, 14, 20, 24, 26, 30] {
        let size = f64::from(1 << bits);
        rows.push((0..cols).map(|_| (r.normal() * size).clamp(-2.1e9, 2.1e9) as i32).collect());
        let mut spiky: Vec<i32> = (0..cols).map(|_| (r.normal() * size / 64.0) as i32).collect();
        spiky[cols / 2] = 1 << bits;
        rows.push(spiky);
    }
    rows.push(vec![0; cols]);
    rows.push(vec![i32::MAX; cols]);
    rows.push(vec![i32::MIN; cols]);
    rows
}

#[test]
fn rms_norm_against_f64() {
    let r = &mut Random::new(11);
    let (mut worst_plain, mut worst_gamma) = (0f64, 0f64);
    for (cols, width) in [(64, 64), (40, 8), (72, 72), (31, 31), (576, 576), (1, 1), (4096, 4096), (96, 32)] {
        for (frac, out_frac) in [(16i16, 20i16), (12, 16), (20, 12), (0, 22)] {
            for eps in [1e-5, 1e-6, 0.0] {
                let mut b = builder();
                let (from, to) = (b.i32_slot(Rows::Batch, cols, frac), b.i32_slot(Rows::Batch, cols, out_frac));
                let g: Vec<i16> = (0..width).map(|_| r.range(-32768, 32767) as i16).collect();
                let gamma = b.vector16(&g, 13);
                let plain = rms_norm(from, to, None, eps, width, frac);
                let scaled = rms_norm(from, to, Some(gamma), eps, width, frac);
                b.body.extend([plain, scaled]);
                let mut bench = bench(&b, 1);
                for x in rows_to_normalise(r, cols) {
                    for (op, gamma) in [(plain, None), (scaled, Some(&g))] {
                        bench.row(from, 0).copy_from_slice(&x);
                        bench.run(&op, 1);
                        for (part, got) in x.chunks(width).zip(bench.row(to, 0).chunks(width)) {
                            let mean = part.iter().map(|v| real(*v, frac).powi(2)).sum::<f64>() / width as f64;
                            // eps is stored as an integer: what is read back is the formula's eps.
                            let stored = (eps * width as f64 * 2f64.powi(2 * i32::from(frac))).round();
                            let eps = stored / width as f64 * 2f64.powi(-2 * i32::from(frac));
                            let size = (mean + eps).sqrt().max(1e-300);
                            for (i, (x, got)) in part.iter().zip(got).enumerate() {
                                let factor = gamma.map_or(1.0, |g| f64::from(g[i]) * 2f64.powi(-13));
                                let exact = real(*x, frac) / size * factor;
                                let unit = 2f64.powi(-i32::from(out_frac));
                                if exact.abs() > 2f64.powi(31) * unit * 0.999 {
                                    continue;
                                }
                                let error = (real(*got, out_frac) - exact).abs();
                                // Half a unit of the result, half a unit of Q22 before gamma, and a relative part.
                                let half = 0.5 * unit + 2f64.powi(-23) * factor.abs();
                                let relative = (error - half).max(0.0) / exact.abs().max(1e-300);
                                let worst = if gamma.is_some() { &mut worst_gamma } else { &mut worst_plain };
                                *worst = worst.max(relative);
                            }
                        }
                    }
                }
            }
        }
    }
    measured("rms_norm, relative beyond the roundings", worst_plain, 2f64.powi(-16));
    measured("rms_norm with gamma, relative beyond the roundings", worst_gamma, 2f64.powi(-16));
}

#[test]
fn layer_norm_against_f64() {
    let r = &mut Random::new(12);
    let mut worst = 0f64;
    for cols in [1usize, 8, 48, 64, 72, 576, 768, 4096] {
        for (frac, out_frac) in [(16i16, 20i16), (12, 16), (20, 12), (0, 22)] {
            for eps in [1e-5, 1.0 / 4096.0, 0.0] {
                if eps * (cols as f64).powi(3) * 2f64.powi(2 * i32::from(frac)) >= 2f64.powi(63) {
                    continue; // refused when the image is opened
                }
                let mut b = builder();
                let (from, to) = (b.i32_slot(Rows::Batch, cols, frac), b.i32_slot(Rows::Batch, cols, out_frac));
                let g: Vec<i16> = (0..cols).map(|_| r.range(-32768, 32767) as i16).collect();
                let beta: Vec<i32> = (0..cols).map(|_| r.range(-1 << 12, 1 << 12) as i32).collect();
                let gains = (b.vector16(&g, 13), b.vector32(&beta, i32::from(out_frac)));
                let op = layer_norm(from, to, gains, eps, cols, frac);
                b.body.push(op);
                let mut bench = bench(&b, 1);
                let mut rows = rows_to_normalise(r, cols);
                // A small spread on a large mean: what a mean of few bits would lose.
                rows.push((0..cols).map(|_| (1 << 30) + r.range(-50, 50) as i32).collect());
                for x in rows {
                    bench.row(from, 0).copy_from_slice(&x);
                    bench.run(&op, 1);
                    let mean = x.iter().map(|v| i64::from(*v)).sum::<i64>() as f64 / cols as f64;
                    let centred: Vec<f64> = x.iter().map(|v| f64::from(*v) - mean).collect();
                    let scale = 2f64.powi(-i32::from(frac));
                    let variance = centred.iter().map(|c| (c * scale).powi(2)).sum::<f64>() / cols as f64;
                    let stored = (eps * (cols as f64).powi(3) * 2f64.powi(2 * i32::from(frac))).round() as u64;
                    let eps = stored as f64 / (cols as f64).powi(3) * 2f64.powi(-2 * i32::from(frac));
                    let size = (variance + eps).sqrt().max(1e-300);
                    let unit = 2f64.powi(-i32::from(out_frac));
                    let largest = centred.iter().fold(0f64, |m, c| m.max(c.abs())) * scale / size;
                    for (i, got) in bench.row(to, 0).iter().enumerate() {
                        let factor = f64::from(g[i]) * 2f64.powi(-13);
                        let exact = centred[i] * scale / size * factor + real(beta[i], out_frac);
                        // Half a unit of the result; half a unit of Q22, and what fitting the row to 31 bits cost, before gamma.
                        let half = 0.5 * unit + (2f64.powi(-23) + largest * 2f64.powi(-31)) * factor.abs();
                        let error = ((real(*got, out_frac) - exact).abs() - half).max(0.0);
                        worst = worst.max(error / (centred[i] * scale / size * factor).abs().max(1e-300));
                    }
                }
            }
        }
    }
    measured("layer_norm, relative beyond the roundings", worst, 2f64.powi(-16));
}

#[test]
fn positions_are_added() {
    let r = &mut Random::new(13);
    let mut b = Builder { vocab: 5, max_context: 9, ..Builder::new() };
    b.logits = b.i32_slot(Rows::One, 5, 0);
    let m = Matrix::like_a_model(r, 9, 20, N8, 1.0);
    let table = b.matrix(&m);
    let out = b.i32_slot(Rows::Batch, 20, 16);
    let op = Op { flags: mote_runtime::ops::embed::POSITIONS, ..op(code("embed"), &[out, table]) };
    b.body.push(op);
    let mut bench = bench(&b, 3);
    for row in 0..3 {
        bench.row(out, row).fill(1 << 16);
    }
    bench.row(out, 0)[0] = i32::MAX;
    bench.run_with(&op, 6, &[], 3, &Single);
    for (row, col) in (0..3).flat_map(|r| (1..20).map(move |c| (r, c))) {
        let error = real(bench.row(out, row)[col], 16) - 1.0 - m.weight(6 + row, col);
        assert!(error.abs() <= 2f64.powi(-17), "{row} {col} {error}");
    }
    assert!(bench.row(out, 0)[0] >= i32::MAX - (4 << 16));
    b.max_context = 10;
    let image = b.image();
    assert!(mote_runtime::Image::open(&image).is_err(), "a position without a row");
}

/// Walsh-Hadamard of each block, in f64.
fn hadamard(x: &[i32], block: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for part in x.chunks(block) {
        out.extend((0..block).map(|i| {
            let sign = |j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
            part.iter().enumerate().map(|(j, v)| f64::from(*v) * sign(j)).sum::<f64>()
        }));
    }
    out
}

/// Largest error of a row in steps of its scale, and the check of everything that must be exact.
fn quantize_error(x: &[i32], frac: i16, log2: u32) -> f64 {
    let cols = x.len();
    let mut b = builder();
    let (from, to) = (b.i32_slot(Rows::Batch, cols, frac), b.q8_slot(Rows::Batch, cols));
    let op = op(code("quantize"), &[from, to, log2]);
    b.body.push(op);
    let mut bench = bench(&b, 2);
    bench.row(from, 0).copy_from_slice(x);
    bench.row(from, 1).fill(0);
    bench.run(&op, 2);
    let (none, zeros) = bench.q8(to, 1);
    assert!(none.mant == 0 && none.exp == 0 && zeros.iter().all(|c| *c == 0));
    let (scale, codes) = bench.q8(to, 0);
    assert_eq!(codes.len(), cols.next_multiple_of(GROUP));
    assert!(codes[cols..].iter().all(|c| *c == 0) && !codes.contains(&-128));
    if x.iter().all(|v| *v == 0) {
        return 0.0;
    }
    assert!((16_513..=33_026).contains(&scale.mant));
    let step = f64::from(scale.mant) * 2f64.powi(-scale.exp);
    let exact = if log2 == 0 { x.iter().map(|v| f64::from(*v)).collect() } else { hadamard(x, 1 << log2) };
    let errors =
        exact.iter().zip(codes).map(|(x, code)| (f64::from(code) - x * 2f64.powi(-i32::from(frac)) / step).abs());
    errors.fold(0.0, f64::max)
}

#[test]
fn quantize_against_f64() {
    let r = &mut Random::new(21);
    let (mut plain, mut rotated) = (0f64, 0f64);
    for cols in [1usize, 31, 72, 576, 1024] {
        for x in rows_to_normalise(r, cols) {
            for frac in [-5, 0, 16, 30] {
                plain = plain.max(quantize_error(&x, frac, 0));
                for log2 in [1, 3, 5, 8, 10] {
                    if cols.is_multiple_of(1 << log2) {
                        rotated = rotated.max(quantize_error(&x, frac, log2));
                    }
                }
            }
        }
    }
    measured("quantize, steps", plain, 0.505);
    measured("quantize after Hadamard, steps", rotated, 0.505);
}

/// Every magnitude of a row's largest value, at 1000 points an octave; the values are those where rounding is worst.
#[test]
fn quantize_dense_sweep() {
    use mote_runtime::fixed::requantize::quantize_row;
    let (mut worst, mut peak) = (0f64, 1i64);
    while peak <= 1 << 31 {
        let mut row: Vec<i32> = (-254..=254i64).map(|k| ((peak * k - k.signum()) / 254) as i32).collect();
        row.push((-peak) as i32);
        let mut codes = vec![0i8; row.len()];
        let scale = quantize_row(&row, 0, &mut codes);
        let step = f64::from(scale.mant) * 2f64.powi(-scale.exp);
        for (v, code) in row.iter().zip(codes) {
            worst = worst.max((f64::from(code) - f64::from(*v) / step).abs());
        }
        peak += peak / 1000 + 1;
    }
    measured("quantize, dense sweep, steps", worst, 0.505);
}

#[test]
fn rope_against_f64() {
    let r = &mut Random::new(31);
    let (mut worst, mut worst_theta) = (0f64, 0f64);
    for (heads, head_dim) in [(1, 2), (3, 8), (2, 64), (1, 128)] {
        let half = head_dim / 2;
        let theta: Vec<f64> = (0..half).map(|i| 10000f64.powf(-(2.0 * i as f64) / head_dim as f64)).collect();
        let steps: Vec<u64> = theta.iter().map(|t| (t / TAU * 2f64.powi(64)) as u64).collect();
        let mut b = builder();
        let slot = b.i32_slot(Rows::Batch, heads * head_dim, 20);
        let table = b.vector64(&steps);
        let op = op(code("rope"), &[slot, table, heads as u32, head_dim as u32]);
        b.body.push(op);
        let mut bench = bench(&b, 2);
        for position in [0u32, 1, 2, 77, 1023, 4096, 131_071, 1 << 20, (1 << 31) + 12345] {
            for size in [1 << 8, 1 << 20, i32::MAX as i64] {
                let x: Vec<i32> = (0..heads * head_dim).map(|_| r.range(-size, size) as i32).collect();
                for row in 0..2 {
                    bench.row(slot, row).copy_from_slice(&x);
                }
                bench.run_with(&op, position, &[], 2, &Single);
                for row in 0..2u32 {
                    let got = bench.row(slot, row as usize).to_vec();
                    for (i, j) in (0..heads).flat_map(|h| (0..half).map(move |i| (i, h * head_dim + i))) {
                        let (a, b) = (f64::from(x[j]), f64::from(x[j + half]));
                        let error = |angle: f64| {
                            let (sin, cos) = angle.sin_cos();
                            let clamp = |v: f64| v.clamp(-2f64.powi(31), 2f64.powi(31) - 1.0);
                            let (c, s) = (clamp(a * cos - b * sin), clamp(a * sin + b * cos));
                            let error = (f64::from(got[j]) - c).abs().max((f64::from(got[j + half]) - s).abs());
                            (error - 0.5).max(0.0) / a.hypot(b).max(1.0)
                        };
                        let at = position + row;
                        let phase = steps[i].wrapping_mul(u64::from(at));
                        worst = worst.max(error(phase as f64 * 2f64.powi(-64) * TAU));
                        if at <= 1 << 20 {
                            worst_theta = worst_theta.max(error(f64::from(at) * theta[i]));
                        }
                    }
                }
            }
        }
    }
    measured("rope, beyond half a unit, relative to the pair", worst, 2f64.powi(-28));
    measured("rope against position * theta up to 2^20", worst_theta, 2f64.powi(-28));
}

/// What is transformed is what the op gives otherwise: exact as long as nothing is shifted out, saturated where it no longer fits.
#[test]
fn rope_and_transform() {
    let r = &mut Random::new(32);
    let (mut exact, mut saturated) = (0, 0);
    for (heads, head_dim, log2) in [(1, 2, 1), (3, 8, 3), (2, 20, 2), (2, 64, 6), (1, 128, 7), (1, 256, 8)] {
        let mut b = builder();
        let slot = b.i32_slot(Rows::Batch, heads * head_dim, 20);
        let steps: Vec<u64> = (0..head_dim / 2).map(|_| r.next()).collect();
        let table = b.vector64(&steps);
        let rope = op(code("rope"), &[slot, table, heads as u32, head_dim as u32]);
        let transforming = Op { flags: mote_runtime::ops::rope::TRANSFORM, ..rope };
        b.body.push(rope);
        let mut bench = bench(&b, 2);
        for size in [1 << 8, 1 << 20, i32::MAX as i64] {
            let x: Vec<i32> =
                (0..heads * head_dim).map(|i| if i % 3 == 0 { size } else { r.range(-size, size) } as i32).collect();
            let [turned, got] = [rope, transforming].map(|op| {
                bench.row(slot, 0).copy_from_slice(&x);
                bench.run_with(&op, 77, &[], 1, &Single);
                bench.row(slot, 0).to_vec()
            });
            let bits = 32 - turned.iter().map(|v| v.unsigned_abs()).max().unwrap().leading_zeros() as i32;
            let lost = (bits + log2 - 30).max(0);
            // Half a unit of what is shifted, of each of the block.
            let bound = if lost > 0 { 2f64.powi(log2 + lost - 1) } else { 0.0 };
            for (got, expected) in got.iter().zip(hadamard(&turned, 1 << log2)) {
                let clamped = expected.clamp(-2f64.powi(31), 2f64.powi(31) - 1.0);
                assert!((f64::from(*got) - clamped).abs() <= bound, "{head_dim}, {size}: {got} {expected}");
                exact += usize::from(lost == 0);
                saturated += usize::from(*got == i32::MAX || *got == i32::MIN);
            }
        }
    }
    assert!(exact > 500 && saturated > 50, "{exact} {saturated}");
}

#[test]
fn sinusoid_against_f64() {
    let r = &mut Random::new(32);
    let mut worst = 0f64;
    for (cols, frac) in [(2usize, 16i16), (32, 20), (64, 28), (512, 8), (6, 0)] {
        let half = cols / 2;
        let frequency = |i: usize| 10000f64.powf(-(i as f64) / (half as f64 - 1.0).max(1.0));
        let steps: Vec<u64> = (0..half).map(|i| (frequency(i) / TAU * 2f64.powi(64)) as u64).collect();
        let mut b = builder();
        let slot = b.i32_slot(Rows::Batch, cols, frac);
        let table = b.vector64(&steps);
        let op = op(code("sinusoid"), &[slot, table, 2]);
        b.body.push(op);
        let mut bench = bench(&b, 2);
        for position in [0u32, 1, 63, 1023, 65_535] {
            let x: Vec<i32> = (0..cols).map(|_| r.range(-1 << 20, 1 << 20) as i32).collect();
            (0..2).for_each(|row| bench.row(slot, row).copy_from_slice(&x));
            bench.run_with(&op, position, &[], 2, &Single);
            for row in 0..2 {
                for (i, got) in bench.row(slot, row).iter().enumerate() {
                    let angle = f64::from(position + row as u32 + 2) * frequency(i % half);
                    let exact = if i < half { angle.sin() } else { angle.cos() };
                    let error = (real(*got - x[i], frac) - exact).abs() - 0.5 * 2f64.powi(-i32::from(frac));
                    worst = worst.max(error);
                }
            }
        }
    }
    measured("sinusoid, beyond half a unit", worst, 2f64.powi(-28));
}

/// Error of one product beyond half a unit of the result and half a unit of the gate times up, in multiples of
/// |x up| (2^-17 sigmoid(x) + 2^-29): the exponent is rounded to Q16, the exponential to Q30.
fn glu_error(bench: &mut Bench, op: &Op, slots: [u32; 3], fracs: [i16; 3], g: i32, u: i32) -> f64 {
    bench.row(slots[0], 0)[0] = g;
    bench.row(slots[1], 0)[0] = u;
    bench.run(op, 1);
    let got = real(bench.row(slots[2], 0)[0], fracs[2]);
    let (x, up) = (real(g, fracs[0]), real(u, fracs[1]));
    let exact = x / (1.0 + (-x).exp()) * up;
    let unit = 2f64.powi(-i32::from(fracs[2]));
    if exact.abs() >= 2f64.powi(31) * unit * 0.999 {
        return 0.0;
    }
    let half = 0.5 * unit + 0.5 * up.abs() * 2f64.powi(-i32::from(fracs[0]));
    let rest = (2f64.powi(-17) / (1.0 + (-x).exp()) + 2f64.powi(-29)) * (x * up).abs();
    ((got - exact).abs() - half).max(0.0) / rest.max(1e-300)
}

#[test]
fn glu_against_f64() {
    let r = &mut Random::new(41);
    let mut worst = 0f64;
    for fracs in [[20i16, 20, 18], [16, 16, 16], [12, 20, 10], [24, 24, 24], [28, 10, 8], [0, 0, 0]] {
        let mut b = builder();
        let (gate, up) = (b.i32_slot(Rows::Batch, 1, fracs[0]), b.i32_slot(Rows::Batch, 1, fracs[1]));
        let out = b.again(gate, fracs[2]);
        let op = op(code("glu"), &[gate, up, out]);
        b.body.push(op);
        let mut bench = bench(&b, 1);
        for _ in 0..3_000 {
            let bits = r.range(1, 31) as u32;
            let g = (r.next() as i32) >> (32 - bits);
            let u = (r.next() as i32) >> r.range(1, 31);
            worst = worst.max(glu_error(&mut bench, &op, [gate, up, out], fracs, g, u));
        }
        for g in [i32::MIN, i32::MIN + 1, -1, 0, 1, i32::MAX] {
            for u in [i32::MIN, -1, 0, 1, i32::MAX] {
                worst = worst.max(glu_error(&mut bench, &op, [gate, up, out], fracs, g, u));
            }
        }
    }
    measured("glu, beyond the roundings, of the bound", worst, 0.75);
}

/// Phi(x) by its series or, far out, its continued fraction: 15 digits.
fn phi(x: f64) -> f64 {
    let density = (-x * x / 2.0).exp() / TAU.sqrt();
    let a = x.abs();
    let below = if a < 4.0 {
        let (mut term, mut sum, mut k) = (a, a, 1.0);
        while term > 1e-18 {
            k += 2.0;
            term *= a * a / k;
            sum += term;
        }
        0.5 - density * sum
    } else {
        density / (1..60).rev().fold(a, |f, k| a + f64::from(k) / f)
    };
    if x < 0.0 { below } else { 1.0 - below }
}

#[test]
fn activations_against_f64() {
    let r = &mut Random::new(42);
    let tanh = |x: f64| 0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044_715 * x.powi(3))).tanh());
    let relu = |x: f64| x.max(0.0);
    let erf = |x: f64| x * phi(x);
    let exact: [&dyn Fn(f64) -> f64; 3] = [&relu, &tanh, &erf];
    let bounds = [("relu", 1e-12), ("gelu, tanh", 2f64.powi(-17)), ("gelu, erf", 2f64.powi(-18))];
    for (function, (exact, (name, bound))) in (0..).zip(exact.into_iter().zip(bounds)) {
        let mut worst = 0f64;
        for fracs in [[20i16, 20], [16, 12], [12, 16], [24, 24], [28, 20], [0, 0], [0, 8]] {
            let mut b = builder();
            let x = b.i32_slot(Rows::Batch, 1, fracs[0]);
            let out = b.again(x, fracs[1]);
            let op = op(code("activation"), &[x, out, function]);
            b.body.push(op);
            let mut bench = bench(&b, 1);
            let near = |r: &mut Random| (r.unit() * 10.0 * 2f64.powi(i32::from(fracs[0]))) as i32;
            let mut values: Vec<i32> = (0..4_000).map(|_| near(r)).collect();
            values.extend((0..500).map(|_| (r.next() as i32) >> r.range(0, 31)));
            values.extend([i32::MIN, i32::MIN + 1, -1, 0, 1, i32::MAX]);
            for v in values {
                bench.row(x, 0)[0] = v;
                bench.run(&op, 1);
                let (got, value) = (real(bench.row(out, 0)[0], fracs[1]), real(v, fracs[0]));
                let units = 0.5 * (2f64.powi(-i32::from(fracs[0])) + 2f64.powi(-i32::from(fracs[1])));
                if exact(value).abs() < 2f64.powi(31 - i32::from(fracs[1])) * 0.999 {
                    // What the share itself is wrong by.
                    let error = ((got - exact(value)).abs() - units).max(0.0);
                    worst = worst.max(error / value.abs().max(1e-300));
                }
            }
        }
        measured(&format!("{name}, beyond the roundings, of |x|"), worst, bound);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Any row, any transform: in range, within half a step and a bit.
    #[test]
    fn quantize_any_row(x in prop::collection::vec(any::<i32>(), 1..6), shift in 0u32..32, log2 in 0u32..6, frac in -64i16..=64) {
        let x: Vec<i32> = x.iter().cycle().take(96).map(|v| v >> shift).collect();
        let error = quantize_error(&x, frac, log2.min(5));
        prop_assert!(error <= 0.505, "{}", error);
    }
}
