//! `conv2d_coded` against NUMERICS.md, section 15.2, written down a second time: one naive loop over every tap in 128-bit
//! integers; shapes, strides, dilations, paddings, scratch and weights at random, and the worst that the format can say.

mod support;

use mote_runtime::image::plan::Rows;
use mote_runtime::{Image, Session};
use support::{Arena, Bench, Builder, Matrix, Random, code, limits, op};

/// A convolution with everything it needs; pairs are vertical, horizontal.
#[derive(Clone, Debug)]
struct Conv {
    input: [i64; 2],
    output: [i64; 2],
    kernel: [i64; 2],
    stride: [i64; 2],
    dilation: [i64; 2],
    pad: [i64; 2],
    channels: usize,
    m: Matrix,
    bias: Vec<i32>,
    lift: i32,
    /// Input zero point, output zero point, least, largest.
    numbers: [i64; 4],
    /// Patches that the scratch holds; 0: it has one byte.
    patches: usize,
}

fn word(bytes: [i64; 4]) -> u32 {
    u32::from_le_bytes(bytes.map(|b| b as u8))
}

impl Conv {
    fn random(r: &mut Random, most_channels: i64, bits: u8) -> Self {
        let mut pair = |low, high| [r.range(low, high), r.range(low, high)];
        let (input, kernel, stride, dilation) = (pair(1, 9), pair(1, 4), pair(1, 3), pair(1, 2));
        let reach = [0, 1].map(|i| (kernel[i] - 1) * dilation[i]);
        let pad = reach.map(|most| r.range(0, most));
        let output = [0, 1].map(|i| r.range(1, (input[i] + pad[i] - 1) / stride[i] + 1));
        let channels = r.range(1, most_channels) as usize;
        let columns = (kernel[0] * kernel[1]) as usize * channels;
        let book = (bits == 4).then(|| core::array::from_fn(|_| r.range(-127, 127) as i8));
        let rows = r.range(1, 40) as usize;
        let m = Matrix::random(r, rows, columns, book);
        let reach = (columns as f64).sqrt() * 70.0 * 70.0 * 128.0 * 50_000.0;
        let m = Matrix { exponent: (reach.log2() - 6.0) as i32 + r.range(-3, 2) as i32, ..m };
        let lift = r.range(0, 20) as i32;
        let bias = (0..rows).map(|_| r.range(-(200 << 15), 200 << 15) as i32).collect();
        let least = r.range(-128, 0);
        let numbers = [r.range(-128, 127), r.range(-128, 127), least, r.range(least, 127)];
        let patches = r.range(1, 5) as usize;
        Self { input, output, kernel, stride, dilation, pad, channels, m, bias, lift, numbers, patches }
    }

    /// NUMERICS.md: sums over all taps, those outside the image at the zero point.
    fn page(&self, x: &[i8]) -> Vec<i8> {
        let mut out = Vec::new();
        for (oy, ox) in (0..self.output[0]).flat_map(|y| (0..self.output[1]).map(move |x| (y, x))) {
            for c in 0..self.m.rows {
                let mut acc = 0i128;
                for col in 0..self.m.cols {
                    let (tap, channel) = ((col / self.channels) as i64, col % self.channels);
                    let y = oy * self.stride[0] - self.pad[0] + tap / self.kernel[1] * self.dilation[0];
                    let x_at = ox * self.stride[1] - self.pad[1] + tap % self.kernel[1] * self.dilation[1];
                    let inside = (0..self.input[0]).contains(&y) && (0..self.input[1]).contains(&x_at);
                    let at = || (y * self.input[1] + x_at) as usize * self.channels + channel;
                    let x = if inside { i64::from(x[at()]) } else { self.numbers[0] };
                    acc += i128::from(self.m.level(c, col) * self.m.scale(c, col) * x);
                }
                let sum = acc * i128::from(self.m.mults[c]) + (i128::from(self.bias[c]) << self.lift);
                assert!(sum.unsigned_abs() < 1 << 63, "the proof");
                let rounded = match self.m.exponent {
                    0.. => (2 * sum + (1 << self.m.exponent)).div_euclid(2 << self.m.exponent),
                    e => sum * (1 << -e),
                };
                let v = rounded.clamp(i32::MIN.into(), i32::MAX.into()) + i128::from(self.numbers[1]);
                out.push(v.clamp(self.numbers[2].into(), self.numbers[3].into()) as i8);
            }
        }
        out
    }

    fn builder(&self) -> (Builder, u32, u32) {
        let mut b = Builder::new();
        b.logits = b.i32_slot(Rows::One, 1, 0);
        let pixels = |p: [i64; 2]| (p[0] * p[1]) as usize;
        let (from, to) = (b.i8_slot(pixels(self.input) * self.channels), b.i8_slot(pixels(self.output) * self.m.rows));
        let scratch = b.i8_slot((self.patches * self.m.cols.next_multiple_of(32)).max(1));
        let (weights, bias) = (b.matrix(&self.m), b.vector32(&self.bias, self.m.exponent - self.lift));
        let pair = |p: [i64; 2]| p[0] as u32 | (p[1] as u32) << 16;
        let steps = word([self.stride[0], self.stride[1], self.dilation[0], self.dilation[1]]);
        let (size, out_size, pads, kernel) = (pair(self.input), pair(self.output), pair(self.pad), pair(self.kernel));
        let args = [from, to, scratch, weights, bias, size, out_size, steps, pads, kernel, word(self.numbers)];
        b.run.push(op(code("conv2d_coded"), &args));
        (b, from, to)
    }

    fn run(&self, x: &[i8]) -> Vec<i8> {
        let (b, from, to) = self.builder();
        let mut bench = Bench::new(&b, limits(1, 1));
        bench.bytes(from).iter_mut().zip(x).for_each(|(to, x)| *to = *x as u8);
        bench.run(&b.run[0], 1);
        let count = (self.output[0] * self.output[1]) as usize * self.m.rows;
        bench.bytes(to).iter().take(count).map(|b| *b as i8).collect()
    }

    fn inputs(&self) -> usize {
        (self.input[0] * self.input[1]) as usize * self.channels
    }
}

/// -128 at every tenth place: it is a value like any other.
fn int8s(r: &mut Random, n: usize) -> Vec<i8> {
    (0..n).map(|_| if r.range(0, 9) == 0 { -128 } else { r.range(-128, 127) as i8 }).collect()
}

#[test]
fn conv2d_coded_is_the_page_s() {
    let r = &mut Random::new(1);
    let mut inner = 0;
    for case in 0..600 {
        let conv = Conv::random(r, 12, if case % 2 == 0 { 4 } else { 8 });
        let x = int8s(r, conv.inputs());
        let got = conv.run(&x);
        assert_eq!(got, conv.page(&x), "case {case}: {conv:?}");
        let [_, _, least, largest] = conv.numbers;
        inner += got.iter().filter(|v| (least + 1..largest).contains(&i64::from(**v))).count();
    }
    assert!(inner > 10_000, "{inner} results between the clamps");
}

/// Where patches are rows of the image already, they are read where they lie: no scratch.
#[test]
fn patches_in_place() {
    let r = &mut Random::new(2);
    for (input, kernel, stride, channels) in [
        ([1, 1], [1, 1], [1, 1], 64),
        ([5, 7], [1, 1], [1, 1], 32),
        ([6, 7], [1, 1], [2, 3], 96),
        ([4, 6], [4, 6], [1, 1], 4),
        ([9, 1], [3, 1], [2, 1], 32),
        ([9, 4], [3, 4], [2, 1], 8),
        ([1, 9], [1, 4], [1, 2], 8),
    ] {
        let output: [i64; 2] = [0, 1].map(|i| (input[i] - kernel[i]) / stride[i] + 1);
        let mut conv = Conv::random(r, 12, 4);
        let columns = (kernel[0] * kernel[1]) as usize * channels;
        conv.m = Matrix { exponent: conv.m.exponent, ..Matrix::random(r, 21, columns, conv.m.book) };
        conv.bias = vec![77; 21];
        let conv = Conv { input, output, kernel, stride, dilation: [1, 1], pad: [0, 0], channels, patches: 0, ..conv };
        let x = int8s(r, conv.inputs());
        assert_eq!(conv.run(&x), conv.page(&x), "{conv:?}");
        // One column less, a padding, a dilation: copied, so it needs the scratch.
        let copied = Conv { channels: channels - 1, ..conv.clone() };
        let copied = Conv { m: Matrix::random(r, 21, columns / channels * (channels - 1), conv.m.book), ..copied };
        assert!(Image::open(&copied.builder().0.image()).is_err());
        assert!(Image::open(&Conv { patches: 1, ..copied }.builder().0.image()).is_ok());
    }
}

/// Each product as large as it can be, all of one sign, as many as there may be, the largest multiplier and bias.
#[test]
fn sums_at_their_bounds() {
    for (book, level, x) in
        [(Some([127; 16]), 5, 127), (None, -128, -128), (None, 127, -128), (Some([-127; 16]), 5, 127)]
    {
        let columns = 1 << 16;
        let sign = if (level > 0) == (x > 0) { 1 } else { -1 };
        for (exponent, lift) in [(54, 31), (60, 0), (62, 31), (46, 10), (-3, 31), (-256, 31), (256, 3)] {
            let m = Matrix {
                rows: 2,
                cols: columns,
                book,
                codes: vec![level; 2 * columns],
                scales: vec![255; 2 * columns / 32],
                mults: vec![65_535, 1],
                exponent,
            };
            let conv = Conv {
                input: [1, 1],
                output: [1, 1],
                kernel: [1, 1],
                stride: [1, 1],
                dilation: [1, 1],
                pad: [0, 0],
                channels: columns,
                m,
                bias: vec![if sign > 0 { i32::MAX } else { i32::MIN }; 2],
                lift: lift.min(exponent + 256),
                numbers: [-128, 127, -128, 127],
                patches: 0,
            };
            let x = vec![x; columns];
            // 2 * sum does not fit the page's formula beyond 127 bits only.
            if exponent.abs() < 60 {
                assert_eq!(conv.run(&x), conv.page(&x));
            } else {
                conv.run(&x);
            }
        }
    }
}

/// Every argument with numbers that do not fit: refused or run, never a panic.
#[test]
fn any_arguments_at_all() {
    let r = &mut Random::new(3);
    let (mut opened, mut refused) = (0, 0);
    for case in 0..3000 {
        let conv = Conv::random(r, 6, if case % 2 == 0 { 4 } else { 8 });
        let (mut b, ..) = conv.builder();
        for _ in 0..r.range(1, 2) {
            let words = [0, 1, 2, 3, 0xFFFF, 0x1_0001, u32::MAX, 1 << 31, r.next() as u32];
            b.run[0].args[r.range(0, 10) as usize] = words[r.range(0, words.len() as i64 - 1) as usize];
        }
        b.run[0].flags = u16::from(r.range(0, 99) == 0);
        match r.range(0, 9) {
            0 => b.tensors[1].0.exponent = r.range(-256, 256) as i32,
            1 => b.tensors[0].0.exponent = r.range(-256, 256) as i32,
            _ => {}
        }
        let file = b.image();
        let Ok(image) = Image::open(&file) else {
            refused += 1;
            continue;
        };
        let limits = limits(1, 1);
        let mut arena = Arena::new(image.arena_bytes(limits).unwrap() as usize, || 0x80);
        if let Ok(mut session) = Session::new(&image, arena.get(), limits) {
            session.run().unwrap();
            opened += 1;
        }
        assert!(arena.guards_hold());
    }
    assert!(opened > 100 && refused > 100, "{opened} {refused}");
}
