//! Float layers through [`mote_quantize::layers`] and the runtime's op, against the same layer in f64.

#[path = "../../runtime/tests/support/mod.rs"]
mod support;

use mote_quantize::codes::Coding;
use mote_quantize::layers::{self, Affine, Linear};
use mote_runtime::image::plan::Rows;
use support::{Bench, Builder, Random, code, limits, measured, op};

fn builder() -> Builder {
    let mut b = Builder::new();
    b.logits = b.i32_slot(Rows::One, 1, 0);
    b
}

/// The tensors of a coded matrix and its bias.
fn linear(b: &mut Builder, l: &Linear) -> [u32; 2] {
    [b.tensor(l.weights.desc(), l.weights.bytes.clone()), b.vector32(&l.bias.values, l.bias.exponent)]
}

/// The scale and zero point for values between `low` and `high`.
fn affine(low: f64, high: f64) -> Affine {
    let scale = (high - low) / 255.0;
    Affine { scale, zero_point: (-128.0 - low / scale).round() as i8 }
}

fn put(bench: &mut Bench, slot: u32, values: &[i8]) {
    bench.bytes(slot).iter_mut().zip(values).for_each(|(to, v)| *to = *v as u8);
}

fn word(bytes: [i8; 4]) -> u32 {
    u32::from_le_bytes(bytes.map(|b| b as u8))
}

/// A layer of 3x3 over 8 x 6 pixels.
struct Case {
    channels: usize,
    rows: usize,
    weights: Vec<f32>,
    biases: Vec<f32>,
    input: Affine,
    x: Vec<i8>,
}

impl Case {
    fn new(r: &mut Random, channels: usize, rows: usize, size: f64) -> Self {
        let weights = (0..rows * 9 * channels).map(|_| (size * r.normal()) as f32).collect();
        let biases = (0..rows).map(|_| (3.0 * size * r.normal()) as f32).collect();
        let input = affine(-0.8, 2.1);
        let x = (0..48 * channels).map(|_| input.quantize(0.6 * r.normal() + 0.3)).collect();
        Self { channels, rows, weights, biases, input, x }
    }

    /// In f64, with these weights.
    fn float(&self, weights: &[f32]) -> Vec<f64> {
        let mut out = Vec::new();
        for (oy, ox, c) in (0..48).flat_map(|p| (0..self.rows).map(move |c| (p / 6, p % 6, c))) {
            let mut sum = f64::from(self.biases[c]);
            for (ky, kx) in (0..9usize).map(|t| (t / 3, t % 3)) {
                let (Some(y), Some(x)) = ((oy + ky).checked_sub(1), (ox + kx).checked_sub(1usize)) else { continue };
                if y < 8 && x < 6 {
                    for i in 0..self.channels {
                        let w = weights[((c * 3 + ky) * 3 + kx) * self.channels + i];
                        sum += f64::from(w) * self.input.real(self.x[(y * 6 + x) * self.channels + i]);
                    }
                }
            }
            out.push(sum);
        }
        out
    }

    fn device(&self, conv: &layers::CodedConv, output: Affine) -> Vec<i8> {
        let mut b = builder();
        let columns = 9 * self.channels;
        let slots = [self.x.len(), 48 * self.rows, columns.next_multiple_of(32)].map(|n| b.i8_slot(n));
        let [weights, bias] = linear(&mut b, &conv.linear);
        let size = 8 | 6 << 16;
        let numbers = word([self.input.zero_point, output.zero_point, -128, 127]);
        let [from, to, scratch] = slots;
        let args = [from, to, scratch, weights, bias, size, size, word([1; 4]), 0x1_0001, 0x3_0003, numbers];
        b.run.push(op(code("conv2d_coded"), &args));
        let mut bench = Bench::new(&b, limits(1, 1));
        put(&mut bench, from, &self.x);
        bench.run(&b.run[0], 1);
        bench.bytes(to).iter().take(48 * self.rows).map(|b| *b as i8).collect()
    }
}

/// The device is the float layer with the weights that coding gives, rounded once; and those are near the model's.
#[test]
fn conv_against_f64() {
    let r = &mut Random::new(1);
    let mut worst = 0f64;
    for (channels, rows, size) in [(1, 8, 0.5), (16, 20, 0.1), (64, 33, 0.02), (3, 5, 1e-9), (5, 7, 4000.0)] {
        let case = Case::new(r, channels, rows, size);
        let exact = case.float(&case.weights);
        let (low, high) = exact.iter().fold((0f64, 0f64), |(l, h), v| (l.min(*v), h.max(*v)));
        let output = affine(low, high);
        // 0.09 and 0.005 of the weights' norm, and half a step of the output.
        for (coding, most) in [(Coding::N4Learned, 0.11), (Coding::N8, 0.006)] {
            let conv = layers::conv((&case.weights, &case.biases), (case.input, output), coding, None);
            let got = case.device(&conv, output);
            let (mut lost, mut total) = (0.0, 0.0);
            for ((got, coded), exact) in got.iter().zip(case.float(&conv.weights)).zip(&exact) {
                let clamped = coded.clamp(output.real(-128), output.real(127));
                worst = worst.max((output.real(*got) - clamped).abs() / output.scale);
                lost += (output.real(*got) - exact).powi(2);
                total += exact.powi(2);
            }
            let (relative, step) = ((lost / total).sqrt(), output.scale / (total / got.len() as f64).sqrt());
            assert!(relative < most + 0.3 * step, "{coding:?} {channels} {rows}: {relative}");
        }
    }
    measured("conv2d_coded with the coded weights, steps", worst, 0.501);
}

/// Channels of zeros, a layer whose weights are all nothing beside its bias, biases beyond the output's range.
#[test]
fn odd_layers() {
    let r = &mut Random::new(2);
    let mut case = Case::new(r, 4, 6, 1e-12);
    case.weights[..36].fill(0.0);
    case.biases = vec![0.5, -0.25, 1e-3, 0.9, -77.0, 3e4];
    let output = affine(-1.0, 1.0);
    for coding in [Coding::N4Learned, Coding::N4Uniform, Coding::N8] {
        for weights in [case.weights.clone(), vec![0.0; case.weights.len()]] {
            let conv = layers::conv((&weights, &case.biases), (case.input, output), coding, None);
            let got = case.device(&conv, output);
            let expected: Vec<i8> = case.biases.iter().map(|b| output.quantize(f64::from(*b))).collect();
            assert!(got.chunks(6).all(|pixel| pixel == expected), "{coding:?} {:?}", &got[..6]);
        }
    }
}
