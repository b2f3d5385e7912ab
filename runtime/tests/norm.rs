//! `norm` against NUMERICS.md, section 15.6, written down a second time: element by element in 128-bit integers; and against
//! f64.

mod support;

use mote_runtime::Image;
use mote_runtime::image::plan::Rows;
use mote_runtime::ops::norm::NO_MEAN;
use support::{Bench, Builder, Random, code, limits, measured, op, try_run};

#[derive(Clone, Debug)]
struct Norm {
    /// Outer, depth, inner, width.
    dims: [usize; 4],
    gains: Vec<i16>,
    gain_exponent: i32,
    biases: Vec<i32>,
    lift: i32,
    eps: u64,
    /// Input zero point, output zero point, least, largest.
    numbers: [i64; 4],
    no_mean: bool,
}

/// R of section 2.
fn round(v: i128, shift: i32) -> i128 {
    match shift {
        100.. => 0,
        1.. => (v + (1 << (shift - 1))) >> shift,
        -60..=0 => v << -shift,
        _ => v.signum() << 100,
    }
}

fn sat(v: i128) -> i128 {
    v.clamp(i32::MIN.into(), i32::MAX.into())
}

/// Section 12.3.
fn rsqrt(v: u64) -> (i128, i32) {
    let even = v.max(1).leading_zeros() & 62;
    let u = i128::from((v.max(1) << even) >> 32);
    let mut r = 2_388_753_613 - ((1_381_046_866 * u) >> 32);
    for _ in 0..4 {
        r = (r * ((3 << 30) - ((u * ((r * r) >> 30)) >> 32))) >> 31;
    }
    (r, (64 - even as i32) / 2)
}

impl Norm {
    fn random(r: &mut Random) -> Self {
        let dims = match r.range(0, 3) {
            0 => [r.range(1, 4), 1, 1, r.range(1, 70)],
            1 => [1, r.range(1, 50), r.range(1, 9), 1],
            2 => [1, r.range(1, 30), r.range(1, 4), r.range(1, 5)],
            _ => [r.range(1, 3), r.range(1, 3), r.range(1, 3), r.range(1, 3)],
        }
        .map(|d| d as usize);
        let channels = dims[2] * dims[3];
        let least = r.range(-128, 0);
        Self {
            dims,
            gains: (0..channels).map(|_| r.range(-32_768, 32_767) as i16).collect(),
            gain_exponent: r.range(6, 14) as i32,
            biases: (0..channels).map(|_| r.range(-(60 << 20), 60 << 20) as i32).collect(),
            lift: r.range(0, 14) as i32,
            eps: [0, r.range(0, 100_000) as u64, u64::MAX][r.range(0, 2).min(1 + r.range(0, 1)) as usize],
            numbers: [r.range(-128, 127), r.range(-128, 127), least, r.range(least, 127)],
            no_mean: r.range(0, 3) == 0,
        }
    }

    fn count(&self) -> usize {
        self.dims.iter().product()
    }

    /// The elements that are normalised together with `at`, and the channel of `at`.
    fn group(&self, at: usize) -> (Vec<usize>, usize) {
        let [_, depth, inner, width] = self.dims;
        let place = |at: usize| (at / (depth * inner * width), at / width % inner);
        ((0..self.count()).filter(|other| place(*other) == place(at)).collect(), at % (inner * width))
    }

    fn page(&self, x: &[i8]) -> Vec<i8> {
        let result = |at: usize| {
            let (group, channel) = self.group(at);
            let value = |at: usize| i128::from(x[at]) - i128::from(self.numbers[0]);
            let n = group.len() as i128;
            let sum: i128 = if self.no_mean { 0 } else { group.iter().map(|at| value(*at)).sum() };
            let scaled = n * group.iter().map(|at| value(*at).pow(2)).sum::<i128>() - sum * sum;
            let (root, h) = rsqrt((scaled as u64 * 256).saturating_add(self.eps));
            let normal = sat(round((n * value(at) - sum) * root, h + 6));
            let v = normal * i128::from(self.gains[channel]) + (i128::from(self.biases[channel]) << self.lift);
            let v = sat(round(v, 20 + self.gain_exponent)) + i128::from(self.numbers[1]);
            v.clamp(self.numbers[2].into(), self.numbers[3].into()) as i8
        };
        (0..x.len()).map(result).collect()
    }

    fn builder(&self) -> (Builder, u32, u32) {
        let mut b = Builder::new();
        b.logits = b.i32_slot(Rows::One, 1, 0);
        let (from, to) = (b.i8_slot(self.count()), b.i8_slot(self.count()));
        let gains = b.vector16(&self.gains, self.gain_exponent);
        let biases = b.vector32(&self.biases, 20 + self.gain_exponent - self.lift);
        let [_, depth, inner, width] = self.dims.map(|d| d as u32);
        let numbers = u32::from_le_bytes(self.numbers.map(|b| b as u8));
        let (low, high) = (self.eps as u32, (self.eps >> 32) as u32);
        let mut the_op = op(code("norm"), &[from, to, gains, biases, depth, inner, width, low, high, numbers]);
        the_op.flags = if self.no_mean { NO_MEAN } else { 0 };
        b.run.push(the_op);
        (b, from, to)
    }

    fn run(&self, x: &[i8]) -> Vec<i8> {
        let (b, from, to) = self.builder();
        let mut bench = Bench::new(&b, limits(1, 1));
        bench.bytes(from).iter_mut().zip(x).for_each(|(to, x)| *to = *x as u8);
        bench.run(&b.run[0], 1);
        bench.bytes(to).iter().take(x.len()).map(|b| *b as i8).collect()
    }
}

#[test]
fn norm_is_the_page_s() {
    let r = &mut Random::new(1);
    for case in 0..400 {
        let norm = Norm::random(r);
        let around = r.range(-128, 127);
        let spread = r.range(0, 200);
        let x: Vec<i8> =
            (0..norm.count()).map(|_| (around + r.range(-spread, spread)).clamp(-128, 127) as i8).collect();
        assert_eq!(norm.run(&x), norm.page(&x), "case {case}: {norm:?}");
    }
}

/// The most elements, the largest deviations, one among equals: sums at their bounds.
#[test]
fn sums_at_their_bounds() {
    for (zero_point, fill, other) in [(-128, 127, 127), (127, -128, -128), (0, -128, 127), (-128, -128, 127)] {
        for no_mean in [false, true] {
            let count = 1 << 18;
            let norm = Norm {
                dims: [1, count, 1, 1],
                gains: vec![i16::MIN],
                gain_exponent: 8,
                biases: vec![i32::MIN],
                lift: 31,
                eps: if no_mean { u64::MAX } else { 0 },
                numbers: [zero_point, 0, -128, 127],
                no_mean,
            };
            let mut x = vec![fill; count];
            x[77] = other;
            let got = norm.run(&x);
            // The page's groups are slow to find here: two elements stand for all.
            let n = count as i128;
            let value = |x: i8| i128::from(x) - i128::from(zero_point);
            let sum = if no_mean { 0 } else { (n - 1) * value(fill) + value(other) };
            let scaled = n * ((n - 1) * value(fill).pow(2) + value(other).pow(2)) - sum * sum;
            let (root, h) = rsqrt((u64::try_from(scaled * 256).unwrap()).saturating_add(norm.eps));
            for (at, x) in [(77, other), (0, fill), (count - 1, fill)] {
                let product = (n * value(x) - sum) * root;
                assert!(product.abs() < 1 << 63, "the proof");
                let v = sat(round(product, h + 6)) * i128::from(i16::MIN) + (i128::from(i32::MIN) << 31);
                assert!(v.abs() < 1 << 63, "the proof");
                assert_eq!(i128::from(got[at]), sat(round(v, 28)).clamp(-128, 127));
            }
        }
    }
    let too_many = Norm { dims: [1, (1 << 18) + 1, 1, 1], ..Norm::random(&mut Random::new(1)) };
    let too_many = Norm { gains: vec![1], biases: vec![1], ..too_many };
    assert!(Image::open(&too_many.builder().0.image()).is_err());
}

/// Gain and bias as a model has them: half a step of the output.
#[test]
fn norm_against_f64() {
    let r = &mut Random::new(2);
    let mut worst = 0f64;
    for case in 0..300 {
        let mut norm = Norm { numbers: [r.range(-128, 127), 3, -128, 127], ..Norm::random(r) };
        let (scale, eps) = (0.03, 1e-5);
        let count = norm.dims[1] * norm.dims[3];
        norm.eps = (eps / (scale * scale) * (count * count) as f64 * 256.0).round() as u64;
        let spread = [0, 2, 30, 90][case % 4];
        let x: Vec<i8> = (0..norm.count()).map(|_| r.range(-spread - 20, spread + 20) as i8).collect();
        for (at, got) in norm.run(&x).iter().enumerate() {
            let (group, channel) = norm.group(at);
            let value = |at: usize| scale * (f64::from(x[at]) - norm.numbers[0] as f64);
            let mean = group.iter().map(|at| value(*at)).sum::<f64>() / count as f64;
            let mean = if norm.no_mean { 0.0 } else { mean };
            let variance = group.iter().map(|at| (value(*at) - mean).powi(2)).sum::<f64>() / count as f64;
            let gain = f64::from(norm.gains[channel]) * 2f64.powi(-norm.gain_exponent);
            let bias = f64::from(norm.biases[channel]) * 2f64.powi(norm.lift - 20 - norm.gain_exponent);
            let exact = (value(at) - mean) / (variance + eps).sqrt() * gain + bias + 3.0;
            worst = worst.max((f64::from(*got) - exact.clamp(-128.0, 127.0)).abs());
        }
    }
    measured("norm, steps", worst, 0.51);
}

/// Every argument with numbers that do not fit: refused or run, never a panic.
#[test]
fn any_arguments_at_all() {
    let r = &mut Random::new(3);
    let (mut opened, mut refused) = (0, 0);
    for _ in 0..3000 {
        let norm = Norm::random(r);
        let (mut b, ..) = norm.builder();
        for _ in 0..r.range(0, 2) {
            let words = [0, 1, 2, 3, 5, 0xFFFF, u32::MAX, 1 << 31, r.next() as u32];
            b.run[0].args[r.range(0, 10) as usize] = words[r.range(0, words.len() as i64 - 1) as usize];
        }
        b.run[0].flags = r.range(0, 2) as u16;
        if r.range(0, 3) == 0 {
            b.tensors[r.range(0, 1) as usize].0.exponent = r.range(-256, 256) as i32;
        }
        match try_run(&b.image(), || 0x80) {
            None => refused += 1,
            Some(ran) => opened += u32::from(ran),
        }
    }
    assert!(opened > 100 && refused > 100, "{opened} {refused}");
}
