//! Float layers through [`mote_quantize::layers`] and the runtime's op, against the same layer in f64.

#[path = "../../runtime/tests/support/mod.rs"]
mod support;

use mote_quantize::codes::Coding;
use mote_quantize::layers::{self, Affine, Linear};
use mote_runtime::image::plan::{Kind as SlotKind, Rows, Slot};
use mote_runtime::ops::gru::RESET_AFTER;
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

/// A float LSTM or GRU in the order of ONNX (`Gru` holds `linear_before_reset`), one step in f64.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Lstm,
    Gru(bool),
}

fn float_step(kind: Kind, l: &layers::Recurrent<'_>, x: &[f64], h: &mut [f64], c: &mut [f64]) {
    let (units, cols) = (h.len(), x.len());
    let one = |v: f64| 1.0 / (1.0 + (-v).exp());
    let old = h.to_vec();
    let dot =
        |w: &[f32], v: &dyn Fn(usize) -> f64| w.iter().enumerate().map(|(i, w)| f64::from(*w) * v(i)).sum::<f64>();
    let from_x = |row: usize| dot(&l.input[row * cols..][..cols], &|i| x[i]) + f64::from(l.input_bias[row]);
    let from_h = |row: usize, r: &dyn Fn(usize) -> f64| {
        dot(&l.recurrent[row * units..][..units], &|i| r(i) * old[i]) + f64::from(l.recurrent_bias[row])
    };
    let gate = |gate: usize, unit: usize| from_x(gate * units + unit) + from_h(gate * units + unit, &|_| 1.0);
    for unit in 0..units {
        match kind {
            Kind::Lstm => {
                let (i, o, f, g) = (one(gate(0, unit)), one(gate(1, unit)), one(gate(2, unit)), gate(3, unit).tanh());
                c[unit] = f * c[unit] + i * g;
                h[unit] = o * c[unit].tanh();
            }
            Kind::Gru(after) => {
                let (z, row) = (one(gate(0, unit)), 2 * units + unit);
                let part =
                    if after { one(gate(1, unit)) * from_h(row, &|_| 1.0) } else { from_h(row, &|i| one(gate(1, i))) };
                h[unit] = z * old[unit] + (1.0 - z) * (from_x(row) + part).tanh();
            }
        }
    }
}

/// The device's outputs over all steps, from a state of zeros.
fn recurrent_device(kind: Kind, coded: &layers::CodedRecurrent, x: &[i8], zero: i8, units: usize) -> Vec<i8> {
    let mut b = builder();
    let cols = coded.input.weights.cols;
    let steps = x.len() / cols;
    let i16_slot = |b: &mut Builder| {
        let cols = units as u32;
        b.slot(Slot { kind: SlotKind::I16, rows: Rows::One, frac: 0, cols, heads: 0, head_dim: 0, offset: [0; 4] })
    };
    let (from, to) = (b.i8_slot(x.len()), b.i8_slot(steps * units));
    let h = if kind == Kind::Lstm { b.i8_slot(units) } else { i16_slot(&mut b) };
    let rows = cols.next_multiple_of(32) + units.next_multiple_of(32);
    let (scratch, cell) = (b.i8_slot(rows + 8 * units), b.i32_slot(Rows::One, units, layers::cell_frac(7.9)));
    let [w, wb] = linear(&mut b, &coded.input);
    let [r, rb] = linear(&mut b, &coded.recurrent);
    let args = [from, to, h, scratch, w, wb, r, rb, coded.hidden, cell];
    let mut the_op =
        op(code(if kind == Kind::Lstm { "lstm" } else { "gru" }), &args[..if kind == Kind::Lstm { 10 } else { 9 }]);
    the_op.flags = if kind == Kind::Gru(true) { RESET_AFTER } else { 0 };
    b.run.push(the_op);
    let mut bench = Bench::new(&b, limits(1, 1));
    put(&mut bench, from, x);
    bench.bytes(h).fill(if kind == Kind::Lstm { zero as u8 } else { 0 });
    bench.bytes(cell).fill(0);
    bench.run(&b.run[0], 1);
    bench.bytes(to).iter().take(steps * units).map(|b| *b as i8).collect()
}

/// 60 steps in the order of ONNX, against the model in f64 with the weights as coded, and against the model itself.
#[test]
fn recurrent_layers_against_f64() {
    let r = &mut Random::new(3);
    let (cols, units, steps) = (37, 24, 60);
    for kind in [Kind::Lstm, Kind::Gru(false), Kind::Gru(true)] {
        let gates = if kind == Kind::Lstm { 4 } else { 3 };
        let order: &[usize] = if gates == 4 { &layers::lstm_order::ONNX } else { &layers::gru_order::ONNX };
        let mut random = |n: usize, size: f64| (0..n).map(|_| (size * r.normal()) as f32).collect::<Vec<f32>>();
        let (w, rec) = (random(gates * units * cols, 0.25), random(gates * units * units, 0.25));
        let (wb, rb) = (random(gates * units, 0.4), random(gates * units, 0.4));
        let model = layers::Recurrent { input: &w, recurrent: &rec, input_bias: &wb, recurrent_bias: &rb, order };
        let (input, hidden) = (affine(-2.0, 3.0), affine(-0.95, 1.0));
        let x: Vec<i8> = random(steps * cols, 0.9).iter().map(|v| input.quantize(f64::from(*v) + 0.2)).collect();
        for (coding, most) in [(Coding::N4Learned, 0.06), (Coding::N8, 0.006)] {
            let code: layers::Code<'_> = &|_, steps, rows, cols| layers::code(steps, rows, cols, coding, None);
            let coded = match kind {
                Kind::Lstm => layers::lstm(&model, (input, hidden), code),
                Kind::Gru(_) => layers::gru(&model, (input, hidden), code),
            };
            let got = recurrent_device(kind, &coded, &x, hidden.zero_point, units);
            let same = layers::Recurrent { input: &coded.input_weights, recurrent: &coded.recurrent_weights, ..model };
            let mut rms = [0f64; 2];
            for (rms, model) in rms.iter_mut().zip([same, model]) {
                let (mut h, mut c) = (vec![0f64; units], vec![0f64; units]);
                for (x, got) in x.chunks(cols).zip(got.chunks(units)) {
                    let x: Vec<f64> = x.iter().map(|x| input.real(*x)).collect();
                    float_step(kind, &model, &x, &mut h, &mut c);
                    for (got, h) in got.iter().zip(&h) {
                        *rms += (hidden.real(*got) - h.clamp(hidden.real(-128), hidden.real(127))).powi(2);
                    }
                }
                *rms = (*rms / got.len() as f64).sqrt();
            }
            let name = ["lstm", "gru, reset before", "gru, reset after"][match kind {
                Kind::Lstm => 0,
                Kind::Gru(after) => 1 + usize::from(after),
            }];
            measured(&format!("{name}, {coding:?}, weights as coded, rms in steps"), rms[0] / hidden.scale, 0.5);
            measured(&format!("{name}, {coding:?}, the model, rms"), rms[1], most);
        }
    }
}

/// Group normalization of 30 pixels, 3 groups of 4 channels, against the model in f64.
#[test]
fn norm_against_f64() {
    let r = &mut Random::new(4);
    let (pixels, groups, width) = (30, 3, 4);
    let mut random = |n: usize, size: f64| (0..n).map(|_| (size * r.normal()) as f32).collect::<Vec<f32>>();
    let (gains, biases) = (random(12, 1.0), random(12, 0.5));
    let (input, output) = (affine(-3.0, 5.0), affine(-4.0, 4.0));
    let x: Vec<i8> = random(pixels * 12, 1.3).iter().map(|v| input.quantize(f64::from(*v) + 0.7)).collect();
    let (count, eps) = (pixels * width, 1e-5);
    let coded = layers::norm((&gains, &biases), (count, eps), (input, output));
    let mut b = builder();
    let (from, to) = (b.i8_slot(x.len()), b.i8_slot(x.len()));
    let gain = b.vector16(&coded.gains, coded.gain_exponent);
    let bias = b.vector32(&coded.bias.values, coded.bias.exponent);
    let numbers = word([input.zero_point, output.zero_point, -128, 127]);
    let shape = [pixels as u32, groups, width as u32, coded.eps as u32, (coded.eps >> 32) as u32, numbers];
    b.run.push(op(code("norm"), &[&[from, to, gain, bias][..], &shape].concat()));
    let mut bench = Bench::new(&b, limits(1, 1));
    put(&mut bench, from, &x);
    bench.run(&b.run[0], 1);
    let mut worst = 0f64;
    for (at, got) in bench.bytes(to).iter().take(x.len()).enumerate() {
        let (channel, group) = (at % 12, at % 12 / width);
        let members = || (0..x.len()).filter(|i| i % 12 / width == group).map(|i| input.real(x[i]));
        let mean = members().sum::<f64>() / count as f64;
        let variance = members().map(|v| (v - mean).powi(2)).sum::<f64>() / count as f64;
        let normal = (input.real(x[at]) - mean) / (variance + eps).sqrt();
        let exact = normal * f64::from(gains[channel]) + f64::from(biases[channel]);
        let exact = exact.clamp(output.real(-128), output.real(127));
        worst = worst.max((output.real(*got as i8) - exact).abs() / output.scale);
    }
    measured("norm of a model's constants, steps", worst, 0.51);
}
