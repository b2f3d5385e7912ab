//! The ops of convolutional nets against NUMERICS.md, section 13, written down a second time: one naive loop over every tap, in
//! i64, with no range hoisted; shapes, strides, dilations, paddings and multipliers at random; slots apart, and overlapping as
//! far as they may.

mod support;

use core::ops::Range;
use mote_runtime::image::plan::{Kind, Rows};
use mote_runtime::image::{Dtype, Op, Port, section};
use mote_runtime::kernels;
use mote_runtime::ops::BACKWARD;
use mote_runtime::{Error, Image, Limits, Session};
use support::{Arena, Bench, Builder, Random, assemble, code, limits, op, requantize, requantize_wide, try_run, word};

fn builder() -> Builder {
    let mut b = Builder::new();
    b.logits = b.i32_slot(Rows::One, 1, 0);
    b
}

struct Shape {
    input: [i64; 2],
    output: [i64; 2],
    kernel: [i64; 2],
    stride: [i64; 2],
    dilation: [i64; 2],
    pad: [i64; 2],
    channels: i64,
}

impl Shape {
    /// Every window begins before the image's end, and reaches its beginning.
    fn random(r: &mut Random, dilated: bool) -> Self {
        let mut pair = |low, high| [r.range(low, high), r.range(low, high)];
        let (input, kernel, stride) = (pair(1, 9), pair(1, 4), pair(1, 3));
        let dilation = if dilated { pair(1, 3) } else { [1, 1] };
        let pad: [i64; 2] = std::array::from_fn(|i| r.range(0, (kernel[i] - 1) * dilation[i]));
        let output = std::array::from_fn(|i| r.range(1, (input[i] + pad[i] - 1) / stride[i] + 1));
        Self { input, output, kernel, stride, dilation, pad, channels: r.range(1, 5) }
    }

    fn words(&self) -> [u32; 4] {
        let pair = |p: [i64; 2]| p[0] as u32 | (p[1] as u32) << 16;
        let steps = word([self.stride[0], self.stride[1], self.dilation[0], self.dilation[1]]);
        [pair(self.input), pair(self.output), steps, pair(self.pad)]
    }

    /// As [`Shape::taps`], of a transposed convolution: each input pixel gives its window to the output.
    fn transposed_taps(&self) -> Vec<Vec<(usize, usize)>> {
        let mut all = vec![Vec::new(); self.pixels(self.output)];
        for (iy, ix) in (0..self.input[0]).flat_map(|y| (0..self.input[1]).map(move |x| (y, x))) {
            for (ky, kx) in (0..self.kernel[0]).flat_map(|y| (0..self.kernel[1]).map(move |x| (y, x))) {
                let y = iy * self.stride[0] - self.pad[0] + ky;
                let x = ix * self.stride[1] - self.pad[1] + kx;
                if (0..self.output[0]).contains(&y) && (0..self.output[1]).contains(&x) {
                    let taps: &mut Vec<(usize, usize)> = &mut all[(y * self.output[1] + x) as usize];
                    taps.push(((ky * self.kernel[1] + kx) as usize, (iy * self.input[1] + ix) as usize));
                }
            }
        }
        all
    }

    fn pixels(&self, of: [i64; 2]) -> usize {
        (of[0] * of[1]) as usize
    }

    /// For every output pixel, the taps inside: (tap's index, input pixel's index).
    fn taps(&self) -> Vec<Vec<(usize, usize)>> {
        let mut all = Vec::new();
        for (oy, ox) in (0..self.output[0]).flat_map(|y| (0..self.output[1]).map(move |x| (y, x))) {
            let mut taps = Vec::new();
            for (ky, kx) in (0..self.kernel[0]).flat_map(|y| (0..self.kernel[1]).map(move |x| (y, x))) {
                let y = oy * self.stride[0] - self.pad[0] + ky * self.dilation[0];
                let x = ox * self.stride[1] - self.pad[1] + kx * self.dilation[1];
                if (0..self.input[0]).contains(&y) && (0..self.input[1]).contains(&x) {
                    taps.push(((ky * self.kernel[1] + kx) as usize, (y * self.input[1] + x) as usize));
                }
            }
            all.push(taps);
        }
        all
    }
}

const TYPES: [Kind; 2] = [Kind::I8, Kind::I16];

fn range(kind: Kind) -> [i64; 2] {
    if kind == Kind::I16 { [-32_768, 32_767] } else { [-128, 127] }
}

/// Numbers of a type: of all its range, or of its ends.
fn values(r: &mut Random, kind: Kind, n: usize) -> Vec<i64> {
    let [least, largest] = range(kind);
    let edge = r.range(0, 3) == 0;
    (0..n).map(|_| if edge { [least, largest][r.range(0, 1) as usize] } else { r.range(least, largest) }).collect()
}

/// What the ops with weights have in common.
struct Layer {
    kind: Kind,
    /// Bias, multiplier and shift of each channel.
    channels: Vec<[i64; 3]>,
    zero_in: i64,
    zero_weights: i64,
    zero_out: i64,
    min: i64,
    max: i64,
    single: bool,
    narrow: bool,
}

impl Layer {
    /// Results near the type's range for sums of `products`.
    fn random(r: &mut Random, kind: Kind, count: usize, products: usize) -> Self {
        let wide = kind == Kind::I16;
        let reach = (products as f64 * if wide { 2e6 } else { 8000.0 }).log2() as i64;
        let lowest = -reach.max(1);
        let highest = if wide { (12 - reach / 2).min(7) } else { 4 - reach / 2 };
        let bias = if wide { 1 << 33 } else { 5000 };
        let channel =
            |r: &mut Random| [r.range(-bias, bias), r.range(1 << 30, (1 << 31) - 1), r.range(lowest, highest)];
        let channels = (0..count).map(|_| channel(r)).collect();
        let byte = |r: &mut Random| if wide { 0 } else { r.range(-128, 127) };
        let (zero_in, zero_out) = (byte(r), byte(r));
        let zero_weights = if r.range(0, 1) == 0 { 0 } else { r.range(-128, 127) };
        let [least, largest] = range(kind);
        let min = r.range(least, 0);
        let (max, single, narrow) = (r.range(min, largest), r.range(0, 1) == 0, wide && r.range(0, 1) == 0);
        Self { kind, channels, zero_in, zero_weights, zero_out, min, max, single, narrow }
    }

    fn numbers(&self) -> u32 {
        if self.kind == Kind::I16 {
            self.min as u16 as u32 | (self.max as u16 as u32) << 16
        } else {
            word([self.zero_in, self.zero_out, self.min, self.max])
        }
    }

    fn table(&self, b: &mut Builder) -> u32 {
        let words = |[bias, multiplier, shift]: &[i64; 3]| match self.kind {
            Kind::I16 => vec![*bias as i32, (bias >> 32) as i32, *multiplier as i32, *shift as i32],
            _ => vec![*bias as i32, *multiplier as i32, *shift as i32],
        };
        let flat: Vec<i32> = self.channels.iter().flat_map(words).collect();
        b.tensor32(&flat, &[self.channels.len(), flat.len() / self.channels.len()])
    }

    fn flags(&self) -> u16 {
        u16::from(self.single) | u16::from(self.narrow) << 2
    }

    fn product(&self, x: i64, w: i64) -> i64 {
        (x - self.zero_in) * (w - self.zero_weights)
    }

    fn result(&self, channel: usize, sum: i64) -> i64 {
        let [bias, m, shift] = self.channels[channel];
        let scaled = if self.kind == Kind::I16 && !self.narrow {
            requantize_wide(sum + bias, m, shift)
        } else {
            requantize((sum + bias) as i32 as i64, m, shift, self.single)
        };
        (scaled + self.zero_out).clamp(self.min, self.max)
    }
}

/// Of each unit, in bytes of their slots: what it reads, and what it writes.
type Units = Vec<(Vec<Range<i64>>, Range<i64>)>;

/// Four pixels of a row of `width` at a time; `reads` are the input pixels of each output pixel.
fn units(kind: Kind, width: usize, reads: &[Vec<usize>], channels: [usize; 2]) -> Units {
    let size = if kind == Kind::I16 { 2 } else { 1 };
    let bytes =
        |pixel: usize, channels: usize| (pixel * channels * size) as i64..((pixel + 1) * channels * size) as i64;
    let mut units = Vec::new();
    for (row, pixels) in reads.chunks(width).enumerate() {
        for (at, four) in pixels.chunks(4).enumerate() {
            let first = row * width + at * 4;
            let read = four.iter().flatten().map(|pixel| bytes(*pixel, channels[0])).collect();
            units.push((read, bytes(first, channels[1]).start..bytes(first + four.len() - 1, channels[1]).end));
        }
    }
    units
}

/// Whether no unit, in this order, writes what a later one reads, or (but for elements) the unit itself.
fn safe(units: &Units, shift: i64, backward: bool, elements: bool) -> bool {
    let order: Vec<_> = if backward { units.iter().rev().collect() } else { units.iter().collect() };
    order.iter().enumerate().all(|(at, (_, written))| {
        let (start, end) = (written.start + shift, written.end + shift);
        let later = order[at + usize::from(elements)..].iter();
        later.flat_map(|(reads, _)| reads).all(|read| read.end <= start || end <= read.start)
    })
}

/// Runs the one op of `b` on `inputs`, its slots apart; each backend's result must be the scalar kernels'.
fn of_all(b: &Builder, inputs: &[(u32, &[i64])], out: u32) -> Vec<i64> {
    let with = |kernels| {
        let mut bench = Bench { kernels, ..Bench::new(b, limits(1, 1)) };
        inputs.iter().for_each(|(slot, values)| bench.put(*slot, values));
        bench.run(&b.run[0], 1);
        bench.got(out)
    };
    let result = with(&kernels::scalar::KERNELS);
    kernels::available().for_each(|kernels| assert!(with(kernels) == result, "{}: {:?}", kernels.name, b.run[0]));
    result
}

/// Runs the one op of `b` on `inputs`, with each backend: with its slots apart, then with the output on each input as far as section 13 allows,
/// forward and backward. Returns the result, which must be the same each time, and how often slots overlapped.
fn run(b: &Builder, inputs: &[(u32, &[i64])], out: u32, units: &Units, elements: bool) -> (Vec<i64>, usize) {
    let once = |b: &Builder| of_all(b, inputs, out);
    let result = once(b);
    let mut overlaps = 0;
    for (input, _) in inputs {
        let bytes = |slot: u32| b.slots[slot as usize].size()[0] as i64;
        // The others stay where they are, far below.
        let base = b.slots.iter().map(|s| s.offset[0] + s.size()[0]).max().unwrap() as i64 + bytes(out);
        for backward in [false, true] {
            let shifts = (0..(bytes(*input).max(bytes(out)) / 16)).map(|i| if backward { 16 * i } else { -16 * i });
            let Some(shift) = shifts.into_iter().find(|shift| safe(units, *shift, backward, elements)) else {
                continue;
            };
            let mut b = b.clone();
            b.slots[*input as usize].offset[0] = base as u64;
            b.slots[out as usize].offset[0] = (base + shift) as u64;
            b.run[0].flags |= u16::from(backward) << 1;
            assert_eq!(once(&b), result, "the output {shift} bytes from input {input}, backward: {backward}");
            overlaps += usize::from(shift < bytes(*input) && -shift < bytes(out));
        }
    }
    (result, overlaps)
}

/// `conv2d`, `depthwise_conv2d` and `transpose_conv2d`, of which only the taps and the weight's place differ.
fn convolution(name: &str, seed: u64) {
    let r = &mut Random::new(seed);
    let mut overlaps = 0;
    for case in 0..400 {
        let kind = TYPES[case % 2];
        let (depthwise, transposed) = (name == "depthwise_conv2d", name == "transpose_conv2d");
        let mut s = Shape::random(r, !transposed);
        let groups = if name == "conv2d" && r.range(0, 2) == 0 { r.range(2, 3) as usize } else { 1 };
        if case % 16 < 2 {
            s.channels = r.range(10, 70);
        }
        let depth = s.channels as usize;
        let cin = groups * depth;
        let multiplier = if depthwise { r.range(1, 9) as usize } else { 0 };
        // Some of more channels than vectors have elements.
        let most = if case % 8 < 2 { 40 } else { 7 };
        let count = if depthwise { cin * multiplier } else { r.range(1, most) as usize * groups };
        let mut taps = s.taps();
        if transposed {
            s.output = [r.range(1, 9), r.range(1, 9)];
            taps = s.transposed_taps();
        }
        let area = s.pixels(s.kernel);
        let l = Layer::random(r, kind, count, area * if depthwise { 1 } else { depth });
        let x = values(r, kind, s.pixels(s.input) * cin);
        let w = values(r, Kind::I8, area * if depthwise { count } else { depth * count });
        let mut b = builder();
        let (from, to) = (b.plain_slot(kind, x.len()), b.plain_slot(kind, s.pixels(s.output) * count));
        let [kh, kw] = s.kernel.map(|k| k as usize);
        let weights = b.constant(Kind::I8, &w, &if depthwise { [1, kh, kw, count] } else { [count, kh, kw, depth] });
        let table = l.table(&mut b);
        let [input, output, steps, pads] = s.words();
        let zero = word([l.zero_weights, 0, 0, 0]);
        let args = [from, to, weights, table, input, output, steps, pads, l.numbers(), zero];
        b.run.push(Op { flags: l.flags(), ..op(code(name), &args) });
        let mut expected = Vec::new();
        for inside in &taps {
            for c in 0..count {
                let mut sum = 0;
                for (tap, pixel) in inside {
                    if depthwise {
                        sum += l.product(x[pixel * cin + c / multiplier], w[tap * count + c]);
                    } else {
                        let first = c / (count / groups) * depth;
                        let product = |i| l.product(x[pixel * cin + first + i], w[(c * area + tap) * depth + i]);
                        sum += (0..depth).map(product).sum::<i64>();
                    }
                }
                expected.push(l.result(c, sum));
            }
        }
        let reads: Vec<Vec<usize>> = taps.iter().map(|taps| taps.iter().map(|(_, pixel)| *pixel).collect()).collect();
        let units = units(kind, s.output[1] as usize, &reads, [cin, count]);
        let (got, on) = run(&b, &[(from, &x)], to, &units, false);
        assert_eq!(got, expected, "{name} case {case}");
        overlaps += on;
    }
    assert!(overlaps > 200, "{overlaps}");
}

#[test]
fn conv2d_is_the_page_s() {
    convolution("conv2d", 1);
}

#[test]
fn depthwise_conv2d_is_the_page_s() {
    convolution("depthwise_conv2d", 2);
}

#[test]
fn transpose_conv2d_is_the_page_s() {
    convolution("transpose_conv2d", 8);
}

/// Images, windows and channels beyond what backends take together: rows and parts of them, many pixels, many taps, many channels.
#[test]
fn large_convolutions() {
    let r = &mut Random::new(21);
    // Input, kernel, stride, dilation, padding; channels in and out; whether depthwise.
    let shapes = [
        ([70, 70], [3, 3], [1, 1], [1, 1], [1, 1], 16, 16, false),
        ([50, 50], [3, 3], [1, 1], [1, 1], [1, 1], 1, 17, false),
        ([4, 1200], [3, 3], [1, 2], [1, 1], [1, 1], 20, 9, false),
        ([6, 6], [3, 3], [1, 1], [1, 1], [1, 1], 256, 33, false),
        ([6, 6], [3, 3], [1, 1], [1, 1], [1, 1], 257, 16, false),
        ([9, 11], [5, 5], [1, 2], [2, 1], [4, 2], 24, 40, false),
        ([1, 1], [1, 1], [1, 1], [1, 1], [0, 0], 2308, 18, false),
        ([13, 5], [1, 1], [1, 1], [1, 1], [0, 0], 40, 24, false),
        ([20, 23], [3, 3], [2, 2], [1, 1], [0, 1], 3, 8, false),
        ([49, 10], [10, 4], [2, 2], [1, 1], [4, 1], 1, 64, false),
        // Rows of whole tiles, which take the taps inside the image alone: one row of them, several, every other, or none.
        ([8, 8], [3, 3], [1, 1], [1, 1], [1, 1], 32, 64, false),
        ([24, 16], [5, 3], [1, 1], [2, 1], [4, 1], 12, 20, false),
        ([3, 8], [7, 3], [1, 1], [1, 1], [3, 1], 8, 33, false),
        ([31, 32], [3, 3], [2, 2], [1, 1], [1, 1], 5, 16, false),
        ([2, 8], [2, 1], [1, 1], [5, 1], [5, 0], 4, 17, false),
        ([40, 41], [3, 3], [1, 1], [1, 1], [1, 1], 8, 8, true),
        ([80, 70], [3, 3], [2, 2], [1, 1], [0, 1], 16, 16, true),
        ([3, 600], [3, 3], [1, 1], [1, 1], [1, 1], 20, 20, true),
        ([15, 15], [7, 7], [1, 1], [1, 1], [3, 3], 40, 40, true),
        ([12, 14], [5, 5], [2, 1], [1, 2], [2, 4], 100, 100, true),
    ];
    for (case, (input, kernel, stride, dilation, pad, channels, count, depthwise)) in shapes.into_iter().enumerate() {
        let output = std::array::from_fn(|i| {
            let reach: i64 = (kernel[i] - 1) * dilation[i] + 1;
            (input[i] + 2 * pad[i] - reach) / stride[i] + 1
        });
        let s = Shape { input, output, kernel, stride, dilation, pad, channels };
        let (area, depth) = (s.pixels(s.kernel), if depthwise { 1 } else { channels as usize });
        for zero_weights in [0, 77] {
            let mut l = Layer { single: false, zero_weights, ..Layer::random(r, Kind::I8, count, area * depth) };
            (l.min, l.max) = (r.range(-128, -100), r.range(100, 127));
            let x = values(r, Kind::I8, s.pixels(s.input) * channels as usize);
            let w = values(r, Kind::I8, area * depth * count);
            let mut b = builder();
            let (from, to) = (b.i8_slot(x.len()), b.i8_slot(s.pixels(s.output) * count));
            let [kh, kw] = kernel.map(|k| k as usize);
            let shape = if depthwise { [1, kh, kw, count] } else { [count, kh, kw, depth] };
            let (weights, table) = (b.constant(Kind::I8, &w, &shape), l.table(&mut b));
            let [input, output, steps, pads] = s.words();
            let zero = word([zero_weights, 0, 0, 0]);
            let args = [from, to, weights, table, input, output, steps, pads, l.numbers(), zero];
            let name = if depthwise { "depthwise_conv2d" } else { "conv2d" };
            for backward in [0, BACKWARD] {
                b.run = vec![Op { flags: l.flags() | backward, ..op(code(name), &args) }];
                let got = of_all(&b, &[(from, &x)], to);
                assert!(got.len() < 100 || got.iter().any(|v| *v != got[0]), "case {case}");
            }
        }
    }
}

/// Every way from a sum to an element: halves of both roundings, multipliers and shifts to their ends, biases as large as loops take
/// them and larger.
#[test]
fn roundings() {
    let r = &mut Random::new(22);
    let x: Vec<i64> = (-128..128).collect();
    for case in 0..400 {
        let count = r.range(1, 50) as usize;
        let mut l = Layer { single: false, zero_weights: 0, ..Layer::random(r, Kind::I8, count, 1) };
        (l.min, l.max) = if case % 3 == 0 { (-128, 127) } else { (l.min, l.max) };
        for [bias, m, shift] in &mut l.channels {
            *shift = -r.range(0, [9, 21, 31][case / 2 % 3]);
            let even = r.range(1, (1 << 12) - 1) << r.range(0, 18);
            *m = [1, 1 << 30, (1 << 31) - 1, r.range(1 << 30, (1 << 31) - 1), r.range(1, 1 << 20), even]
                [r.range(0, 5) as usize];
            let halves = r.range(-200, 200) * (1 << -*shift) + r.range(-1, 1);
            let large = [1 << 28, -(1 << 28), r.range(-1 << 28, 1 << 28)][r.range(0, 2) as usize];
            *bias = [r.range(-300, 300), halves.clamp(-1 << 28, 1 << 28), large][r.range(0, 2) as usize];
        }
        // One that some loops do not take.
        if case % 5 == 0 {
            let most = [(1 << 28) + 1, -(1 << 28) - 1, (1 << 31) - 1, -(1 << 31)];
            l.channels[r.range(0, count as i64 - 1) as usize][0] = most[r.range(0, 3) as usize];
        }
        let w = values(r, Kind::I8, count);
        let mut b = builder();
        let (from, to) = (b.i8_slot(x.len()), b.i8_slot(x.len() * count));
        let (weights, table) = (b.constant(Kind::I8, &w, &[count, 1]), l.table(&mut b));
        b.run.push(op(code("fully_connected"), &[from, to, weights, table, l.numbers(), 0]));
        let results = x.iter().flat_map(|x| w.iter().enumerate().map(|(c, w)| l.result(c, l.product(*x, *w))));
        assert!(of_all(&b, &[(from, &x)], to) == results.collect::<Vec<_>>(), "case {case}: {:?}", l.channels);
    }
}

#[test]
fn fully_connected_is_the_page_s() {
    let r = &mut Random::new(3);
    let mut overlaps = 0;
    for case in 0..400 {
        let kind = TYPES[case % 2];
        // Some of more features than are summed together.
        let most = if case % 16 < 2 { 1100 } else { 70 };
        let (rows, features, count) = (r.range(1, 9) as usize, r.range(1, most) as usize, r.range(1, 40) as usize);
        let l = Layer::random(r, kind, count, features);
        let (x, w) = (values(r, kind, rows * features), values(r, Kind::I8, features * count));
        let mut b = builder();
        let (from, to) = (b.plain_slot(kind, x.len()), b.plain_slot(kind, rows * count));
        let (weights, table) = (b.constant(Kind::I8, &w, &[count, features]), l.table(&mut b));
        let args = [from, to, weights, table, l.numbers(), word([l.zero_weights, 0, 0, 0])];
        b.run.push(Op { flags: l.flags(), ..op(code("fully_connected"), &args) });
        let mut expected = Vec::new();
        for x in x.chunks(features) {
            for (c, w) in w.chunks(features).enumerate() {
                expected.push(l.result(c, x.iter().zip(w).map(|(x, w)| l.product(*x, *w)).sum()));
            }
        }
        let reads: Vec<Vec<usize>> = (0..rows).map(|row| vec![row]).collect();
        let (got, on) = run(&b, &[(from, &x)], to, &units(kind, rows, &reads, [features, count]), false);
        assert_eq!(got, expected, "case {case}");
        overlaps += on;
    }
    assert!(overlaps > 200, "{overlaps}");
}

#[test]
fn pools_are_the_page_s() {
    let r = &mut Random::new(4);
    let mut overlaps = 0;
    for case in 0..300 {
        let kind = TYPES[case % 2];
        let s = Shape::random(r, false);
        let cin = s.channels as usize;
        let x = values(r, kind, s.pixels(s.input) * cin);
        let l = Layer { zero_in: 0, zero_out: 0, ..Layer::random(r, kind, 1, 1) };
        for (name, flags) in [("average_pool2d", 0), ("average_pool2d", 4), ("max_pool2d", 0)] {
            let mut b = builder();
            let (from, to) = (b.plain_slot(kind, x.len()), b.plain_slot(kind, s.pixels(s.output) * cin));
            let [input, output, steps, pads] = s.words();
            let size = s.kernel[0] as u32 | (s.kernel[1] as u32) << 16;
            let pool = op(code(name), &[from, to, input, output, steps, pads, size, l.numbers()]);
            b.run.push(Op { flags, ..pool });
            let mut expected = Vec::new();
            let mut reads = Vec::new();
            for inside in s.taps() {
                for c in 0..cin {
                    let values = || inside.iter().map(|(_, pixel)| x[pixel * cin + c]);
                    let mean = || values().sum::<i64>() as f64 / inside.len() as f64;
                    let v = match (name, flags) {
                        ("max_pool2d", _) => values().max().unwrap(),
                        (_, 0) => mean().round() as i64,
                        _ => (mean() + 0.5).floor() as i64,
                    };
                    expected.push(v.clamp(l.min, l.max));
                }
                reads.push(inside.iter().map(|(_, pixel)| *pixel).collect());
            }
            let units = units(kind, s.output[1] as usize, &reads, [cin, cin]);
            let (got, on) = run(&b, &[(from, &x)], to, &units, false);
            assert_eq!(got, expected, "{name} case {case}");
            overlaps += on;
        }
    }
    assert!(overlaps > 200, "{overlaps}");
}

#[test]
fn add_is_the_page_s() {
    let r = &mut Random::new(5);
    for case in 0..400 {
        let (kind, subtract) = (TYPES[case % 2], case % 4 > 1);
        let len = r.range(1, if case % 8 < 4 { 50 } else { 300 }) as usize;
        let (x, y) = (values(r, kind, len), values(r, kind, len));
        let l = Layer { zero_in: 0, ..Layer::random(r, kind, 1, 1) };
        let up = if kind == Kind::I16 { 15 } else { 20 };
        let (zx, zy) = if kind == Kind::I16 { (0, 0) } else { (r.range(-128, 127), r.range(-128, 127)) };
        let mut m: Vec<i64> = (0..3).map(|_| r.range(1 << 30, (1 << 31) - 1)).collect();
        let mut s = [r.range(-6, 0), r.range(-6, 0), r.range(-4 - up, 5 - up)];
        // TFLite halves the term of the larger scale, or both.
        for which in 0..2 {
            if r.range(0, 1) == 0 {
                (m[which], s[which]) = (1 << 30, 0);
            }
        }
        let mut b = builder();
        let (a, c, to) = (b.plain_slot(kind, len), b.plain_slot(kind, len), b.plain_slot(kind, len));
        let [ma, mb, mo] = [m[0], m[1], m[2]].map(|m| m as u32);
        let (shifts, zeros) = (word([s[0], s[1], s[2], 0]), word([zx, zy, 0, 0]));
        let mut the_op = op(code("add"), &[a, c, to, ma, mb, mo, shifts, zeros, l.numbers()]);
        the_op.flags = u16::from(l.single) | u16::from(subtract) << 2;
        b.run.push(the_op);
        let scaled = |v: i64, z: i64, i: usize| requantize((v - z) << up, m[i], s[i], l.single);
        let sum = |x: i64, y: i64| scaled(x, zx, 0) + scaled(y, zy, 1) * if subtract { -1 } else { 1 };
        let result =
            |(x, y): (&i64, &i64)| (requantize(sum(*x, *y), m[2], s[2], l.single) + l.zero_out).clamp(l.min, l.max);
        let expected: Vec<i64> = x.iter().zip(&y).map(result).collect();
        let reads: Vec<Vec<usize>> = (0..len).map(|i| vec![i]).collect();
        let units = units(kind, 1, &reads, [1, 1]);
        let (got, overlaps) = run(&b, &[(a, &x), (c, &y)], to, &units, true);
        assert_eq!((got, overlaps), (expected, 4), "case {case}");
    }
}

/// Against f64 here; against TFLite itself in `tests/conformance/tflite.rs`.
#[test]
fn softmax_is_within_a_unit() {
    let r = &mut Random::new(6);
    for _ in 0..200 {
        let element = |at: i64| at..at + 1;
        let each = |len: usize| (0..len as i64).map(|at| (vec![element(at)], element(at))).collect::<Units>();
        let (rows, row) = (r.range(1, 3) as usize, r.range(1, 40) as usize);
        let x = values(r, Kind::I8, rows * row);
        let scale = 0.01 + 0.2 * r.unit().abs();
        // scale in Q5.26: multiplier * 2^(shift - 31)
        let real = scale * 2f64.powi(26);
        let shift = real.log2().floor() as i32 + 1;
        let multiplier = (real * 2f64.powi(31 - shift)).round() as u32;
        let least = -(31.0 * 2f64.powi(26 - shift)).floor() as i32;
        let mut b = builder();
        let (from, to) = (b.i8_slot(x.len()), b.i8_slot(x.len()));
        b.run.push(op(code("softmax"), &[from, to, row as u32, multiplier, shift as u32, least as u32]));
        let (got, overlaps) = run(&b, &[(from, &x)], to, &each(x.len()), true);
        assert_eq!(overlaps, 2);
        for (x, got) in x.chunks(row).zip(got.chunks(row)) {
            let sum: f64 = x.iter().map(|x| (*x as f64 * scale).exp()).sum();
            for (x, got) in x.iter().zip(got) {
                let exact = ((*x as f64 * scale).exp() / sum * 256.0 - 128.0).min(127.0);
                assert!((*got as f64 - exact).abs() <= 1.0, "{got} {exact}");
            }
        }
    }
}

/// A program of one op, through the session.
fn program() -> Builder {
    let mut b = Builder::new();
    let (from, to) = (b.i8_slot(4), b.i8_slot(4));
    b.run.push(op(code("max_pool2d"), &[from, to, 0x2_0002, 0x2_0002, word([1; 4]), 0, 0x1_0001, word([0, 0, -9, 9])]));
    let port =
        |slot| Port { slot, dtype: Dtype::I8, rank: 3, zero_point: -3, mantissa: 5, exponent: 9, dims: [2, 2, 1, 1] };
    b.ports = [vec![port(from)], vec![port(to)]];
    b
}

/// The image without its HEAD entry, as a quantizer writes programs without tokens.
fn without_head(b: &Builder) -> Vec<u8> {
    let mut sections = b.sections();
    let program = &mut sections[0].1;
    program.drain(16..48);
    program[0] = 1;
    assemble(&sections)
}

#[test]
fn a_program_without_tokens() {
    let file = without_head(&program());
    let image = Image::open(&file).unwrap();
    let limits = Limits { batch: 1, context: 1, threads: 1 };
    let mut arena = Arena::new(image.arena_bytes(limits).unwrap() as usize, || 0x5A);
    let mut session = Session::new(&image, arena.get(), limits).unwrap();
    session.input::<i8>(0).unwrap().copy_from_slice(&[-128, 3, 8, 127]);
    session.run().unwrap();
    assert_eq!(session.output::<i8>(0).unwrap(), [-9, 3, 8, 9]);
    assert_eq!(session.input::<i8>(1).err(), Some(Error::Port { index: 1 }));
    assert_eq!(session.output::<i8>(1).err(), Some(Error::Port { index: 1 }));
    assert!(session.prefill(&[0]).is_err() && session.logits(0).is_err());
    let port = image.ports().inputs().next().unwrap();
    assert_eq!((port, port.elements()), (program().ports[0][0], Some(4)));
}

#[test]
fn wrong_ports_are_refused() {
    let good = program();
    let int32_slot = |b: &mut Builder| b.i32_slot(Rows::One, 4, 0);
    let wrong: [fn(&mut Port); 7] = [
        |p| p.slot = 9,
        |p| p.dims[0] = 3,
        |p| p.dims[3] = 2,
        |p| p.rank = 5,
        |p| p.zero_point = 128,
        |p| p.exponent = 300,
        |p| p.dtype = Dtype::I32,
    ];
    for change in wrong {
        let mut b = good.clone();
        change(&mut b.ports[1][0]);
        assert!(Image::open(&without_head(&b)).is_err());
    }
    let mut b = good.clone();
    b.ports[0][0].slot = int32_slot(&mut b);
    assert!(Image::open(&without_head(&b)).is_err(), "an int32 slot");
    let mut sections = good.sections();
    sections.iter_mut().filter(|s| s.0 == section::IO).for_each(|s| s.1[0] = 2);
    assert_eq!(Image::open(&assemble(&sections)).err(), Some(Error::Section { section: section::IO }));
}

/// Every argument of every op, with numbers that do not fit: refused or run, never a panic.
#[test]
fn any_arguments_at_all() {
    let r = &mut Random::new(7);
    let mut b = builder();
    let (x, y, z) = (b.i8_slot(16), b.i8_slot(16), b.i8_slot(16));
    let weights = b.tensor8(&[1; 16], &[4, 2, 2, 1]);
    let table = b.tensor32(&[i32::MIN; 12], &[4, 3]);
    let n = word([0, 0, -9, 9]);
    let (x16, y16) = (b.plain_slot(Kind::I16, 16), b.plain_slot(Kind::I16, 16));
    let table16 = b.tensor32(&[i32::MIN; 16], &[4, 4]);
    let window = [0x4_0004, 0x2_0002, word([2, 2, 1, 1]), 0];
    let [input, output, steps, pads] = window;
    let n16 = 0x7FFF_8000;
    let good = [
        op(code("conv2d"), &[x, y, weights, table, input, output, steps, pads, n]),
        op(code("conv2d"), &[x16, y16, weights, table16, input, output, steps, pads, n16]),
        op(code("transpose_conv2d"), &[x, y, weights, table, input, output, steps, pads, n]),
        op(code("transpose_conv2d"), &[x16, y16, weights, table16, input, output, steps, pads, n16]),
        op(code("add"), &[x16, y16, y16, 1 << 30, 1 << 30, 1 << 30, 0, 0, n16]),
        op(code("max_pool2d"), &[x16, y16, 0x4_0004, 0x4_0004, word([1; 4]), 0, 0x1_0001, n16]),
        op(code("max_pool2d"), &[x, y, 0x4_0004, 0x4_0004, word([1; 4]), 0, 0x1_0001, n]),
        op(code("average_pool2d"), &[x, y, 0x4_0004, 0x4_0004, word([1; 4]), 0, 0x1_0001, n]),
        op(code("add"), &[x, y, z, 1 << 30, 1 << 30, 1 << 30, 0, 0, n]),
        op(code("softmax"), &[x, y, 4, 1 << 30, 20, 0]),
    ];
    let (mut opened, mut refused) = (0, 0);
    for _ in 0..6000 {
        let mut the_op = good[r.range(0, good.len() as i64 - 1) as usize];
        for _ in 0..r.range(1, 2) {
            let words = [0, 1, 2, 3, 0xFFFF, 0x1_0001, u32::MAX, 1 << 31, r.next() as u32];
            let at = r.range(0, 9) as usize;
            the_op.args[at] = words[r.range(0, words.len() as i64 - 1) as usize];
        }
        the_op.flags = [0, 0, 1, 2, 3, 4, 6, 8][r.range(0, 7) as usize];
        let mut b = Builder { run: vec![the_op], ..b.clone() };
        // Wherever slots lie: numbers may be wrong, nothing else.
        for slot in [x, y, z, x16, y16] {
            b.slots[slot as usize].offset[0] = 16 * r.range(0, 6) as u64;
        }
        match try_run(&b.image(), || 0x5A) {
            None => refused += 1,
            Some(ran) => opened += u32::from(ran),
        }
    }
    assert!(opened > 100 && refused > 100, "{opened} {refused}");
}

/// Work whose instructions `cargo xtask bench riscv64` counts: `MOTE_WORK` says the op, height and width of image and kernel, channels of
/// input and output, how often; the kernels' name. Says how many products it was.
#[test]
#[ignore = "for a bench"]
fn work() {
    let Ok(work) = std::env::var("MOTE_WORK") else { return };
    let words: Vec<&str> = work.split(' ').collect();
    let [name, size, kernel, channels, count, times, kernels] = words[..] else { panic!("{work}") };
    let [size, kernel, channels, count, times] =
        [size, kernel, channels, count, times].map(|n| n.parse::<i64>().unwrap());
    let (r, pad) = (&mut Random::new(1), [kernel / 2; 2]);
    let s = Shape {
        input: [size; 2],
        output: [size; 2],
        kernel: [kernel; 2],
        stride: [1; 2],
        dilation: [1; 2],
        pad,
        channels,
    };
    let depthwise = name == "depthwise_conv2d";
    let (depth, count, area) = (channels as usize, count as usize, s.pixels(s.kernel));
    let products = area * if depthwise { 1 } else { depth };
    let l = Layer { zero_weights: 0, single: false, ..Layer::random(r, Kind::I8, count, products) };
    let (x, w) = (values(r, Kind::I8, s.pixels(s.input) * depth), values(r, Kind::I8, products * count));
    let mut b = builder();
    let (from, to) = (b.plain_slot(Kind::I8, x.len()), b.plain_slot(Kind::I8, s.pixels(s.output) * count));
    let [kh, kw] = s.kernel.map(|k| k as usize);
    let weights = b.constant(Kind::I8, &w, &if depthwise { [1, kh, kw, count] } else { [count, kh, kw, depth] });
    let table = l.table(&mut b);
    let [input, output, steps, pads] = s.words();
    let args = [from, to, weights, table, input, output, steps, pads, l.numbers(), 0];
    b.run.push(Op { flags: l.flags(), ..op(code(name), &args) });
    let kernels = kernels::named(kernels).unwrap();
    let mut bench = Bench { kernels, ..Bench::new(&b, limits(1, 1)) };
    bench.put(from, &x);
    bench.repeat(&b.run[0], times);
    println!("products={}", s.pixels(s.output) * count * products);
}
