//! `conv2d_coded` against NUMERICS.md, section 15.2, written down a second time: one naive loop over every tap in 128-bit
//! integers; shapes, strides, dilations, paddings, scratch and weights at random, and the worst that the format can say.

mod support;

use mote_runtime::Image;
use mote_runtime::image::plan::{Kind, Rows, Slot};
use mote_runtime::image::tensors::Dtype::{self, N4, N5, N8};
use std::ops::Range;
use support::{Bench, Builder, CODED, Matrix, Random, code, limits, op, try_run};

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
    /// Input and output are int16.
    wide: [bool; 2],
}

fn word(bytes: [i64; 4]) -> u32 {
    u32::from_le_bytes(bytes.map(|b| b as u8))
}

impl Conv {
    fn random(r: &mut Random, most_channels: i64, dtype: Dtype) -> Self {
        let mut pair = |low, high| [r.range(low, high), r.range(low, high)];
        let (input, kernel, stride, dilation) = (pair(1, 9), pair(1, 4), pair(1, 3), pair(1, 2));
        let reach = [0, 1].map(|i| (kernel[i] - 1) * dilation[i]);
        let pad = reach.map(|most| r.range(0, most));
        let output = [0, 1].map(|i| r.range(1, (input[i] + pad[i] - 1) / stride[i] + 1));
        let channels = r.range(1, most_channels) as usize;
        let columns = (kernel[0] * kernel[1]) as usize * channels;
        let rows = r.range(1, 40) as usize;
        let m = Matrix::any(r, rows, columns, dtype);
        let reach = (columns as f64).sqrt() * 70.0 * 70.0 * 128.0 * 50_000.0;
        let mut m = Matrix { exponent: (reach.log2() - 6.0) as i32 + r.range(-3, 2) as i32, ..m };
        let lift = r.range(0, 20) as i32;
        let bias = (0..rows).map(|_| r.range(-(200 << 15), 200 << 15) as i32).collect();
        let least = r.range(-128, 0);
        let numbers = [r.range(-128, 127), r.range(-128, 127), least, r.range(least, 127)];
        let patches = r.range(1, 5) as usize;
        let wide = [r.range(0, 2) == 0, r.range(0, 2) == 0];
        if wide[0] {
            m.exponent += 8;
        }
        Self { input, output, kernel, stride, dilation, pad, channels, m, bias, lift, numbers, patches, wide }
    }

    /// NUMERICS.md: sums over all taps, those outside the image at the zero point.
    fn page(&self, x: &[i16]) -> Vec<i16> {
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
                    let x = if inside { i64::from(x[at()]).min(32_639) } else { self.numbers[0] };
                    acc += i128::from(self.m.level(c, col) * self.m.scale(c, col) * x);
                }
                let sum = acc * i128::from(self.m.mults[c]) + (i128::from(self.bias[c]) << self.lift);
                assert!(sum.unsigned_abs() < 1 << 63, "the proof");
                let rounded = match self.m.exponent {
                    0.. => (2 * sum + (1 << self.m.exponent)).div_euclid(2 << self.m.exponent),
                    e => sum * (1 << -e),
                };
                let v = rounded.clamp(i32::MIN.into(), i32::MAX.into()) + i128::from(self.numbers[1]);
                let [least, largest] = [self.numbers[2], self.numbers[3]].map(i128::from);
                let wide = (least * 256, largest * 256 + 255);
                let (least, largest) = if self.wide[1] { wide } else { (least, largest) };
                out.push(v.clamp(least, largest) as i16);
            }
        }
        out
    }

    fn builder(&self) -> (Builder, u32, u32) {
        let mut b = Builder::new();
        b.logits = b.i32_slot(Rows::One, 1, 0);
        let pixels = |p: [i64; 2]| (p[0] * p[1]) as usize;
        let mut slot = |wide: bool, cols: usize| {
            let (kind, cols) = (if wide { Kind::I16 } else { Kind::I8 }, cols as u32);
            b.slot(Slot { kind, rows: Rows::One, frac: 0, cols, heads: 0, head_dim: 0, offset: [0; 4] })
        };
        let from = slot(self.wide[0], pixels(self.input) * self.channels);
        let to = slot(self.wide[1], pixels(self.output) * self.m.rows);
        // A few bytes more than whole patches: they are no patch.
        let patch = self.m.cols.next_multiple_of(32) * if self.wide[0] { 2 } else { 1 };
        let scratch = b.i8_slot(self.patches * patch + 7);
        let (weights, bias) = (b.matrix(&self.m), b.vector32(&self.bias, self.m.exponent - self.lift));
        let pair = |p: [i64; 2]| p[0] as u32 | (p[1] as u32) << 16;
        let steps = word([self.stride[0], self.stride[1], self.dilation[0], self.dilation[1]]);
        let (size, out_size, pads, kernel) = (pair(self.input), pair(self.output), pair(self.pad), pair(self.kernel));
        let args = [from, to, scratch, weights, bias, size, out_size, steps, pads, kernel, word(self.numbers)];
        b.run.push(op(code("conv2d_coded"), &args));
        (b, from, to)
    }

    fn run(&self, x: &[i16]) -> Vec<i16> {
        let (b, from, to) = self.builder();
        self.run_in(&b, (from, to), x)
    }

    fn run_in(&self, b: &Builder, (from, to): (u32, u32), x: &[i16]) -> Vec<i16> {
        let mut bench = Bench::new(b, limits(1, 1));
        let size = |wide: bool| if wide { 2 } else { 1 };
        for (to, x) in bench.bytes(from).chunks_mut(size(self.wide[0])).zip(x) {
            to.copy_from_slice(&x.to_le_bytes()[..to.len()]);
        }
        bench.run(&b.run[0], 1);
        let count = (self.output[0] * self.output[1]) as usize * self.m.rows;
        let value =
            |b: &[u8]| if let [low, high] = *b { i16::from_le_bytes([low, high]) } else { i16::from(b[0] as i8) };
        bench.bytes(to).chunks(size(self.wide[1])).take(count).map(value).collect()
    }

    /// Of each tile of pixels, in bytes of their slots: what is gathered, and what is written after that.
    fn tiles(&self) -> Vec<(Vec<Range<i64>>, Range<i64>)> {
        let width = |side: usize, channels: usize| (channels * if self.wide[side] { 2 } else { 1 }) as i64;
        let (read, written) = (width(0, self.channels), width(1, self.m.rows));
        let pixels: Vec<i64> = (0..self.output[0] * self.output[1]).collect();
        let taps = |axis: usize, at: i64| {
            let place = move |k: i64| at * self.stride[axis] - self.pad[axis] + k * self.dilation[axis];
            (0..self.kernel[axis]).map(place).filter(move |p| (0..self.input[axis]).contains(p))
        };
        let reads = |pixel: &i64| {
            let (oy, ox) = (pixel / self.output[1], pixel % self.output[1]);
            let all = taps(0, oy).flat_map(move |y| taps(1, ox).map(move |x| y * self.input[1] + x));
            all.map(|at| at * read..(at + 1) * read).collect::<Vec<_>>()
        };
        let tile = |tile: &[i64]| {
            (tile.iter().flat_map(reads).collect(), tile[0] * written..(tile[tile.len() - 1] + 1) * written)
        };
        pixels.chunks(self.patches).map(tile).collect()
    }

    /// Runs with the output as close to the input as section 13 allows, forward and backward; returns how often they touched.
    fn overlapping(&self, x: &[i16], expected: &[i16]) -> usize {
        let (tiles, mut touched) = (self.tiles(), 0);
        for backward in [false, true] {
            let (mut b, from, to) = self.builder();
            let bytes = |slot: u32| b.slots[slot as usize].size()[0] as i64;
            let (read, written) = (bytes(from), bytes(to));
            let safe = |shift: i64| {
                let mut order: Vec<_> = tiles.iter().collect();
                if backward {
                    order.reverse();
                }
                order.iter().enumerate().all(|(at, (_, out))| {
                    let (start, end) = (out.start + shift, out.end + shift);
                    let later = order[at + 1..].iter().flat_map(|(reads, _)| reads);
                    later.into_iter().all(|read| read.end <= start || end <= read.start)
                })
            };
            let shifts = (0..=read.max(written) / 16).map(|i| if backward { 16 * i } else { -16 * i });
            let Some(shift) = shifts.into_iter().find(|shift| safe(*shift)) else { continue };
            let end = b.slots.iter().map(|s| s.offset[0] + s.size()[0]).max().unwrap() as i64;
            b.slots[from as usize].offset[0] = (end + written) as u64;
            b.slots[to as usize].offset[0] = (end + written + shift) as u64;
            b.run[0].flags |= u16::from(backward) << 1;
            assert_eq!(self.run_in(&b, (from, to), x), expected, "{shift} bytes, backward: {backward}: {self:?}");
            touched += usize::from(shift < read && -shift < written);
        }
        touched
    }

    /// -128, or -32 768, at every tenth place: it is a value like any other. 32 767 is 32 639.
    fn x(&self, r: &mut Random) -> Vec<i16> {
        let (least, largest) = if self.wide[0] { (-32_768, 32_767) } else { (-128, 127) };
        let value = |r: &mut Random| match r.range(0, 19) {
            0 | 1 => least,
            2 => largest,
            _ => r.range(least, largest),
        };
        (0..self.inputs()).map(|_| value(r) as i16).collect()
    }

    fn inputs(&self) -> usize {
        (self.input[0] * self.input[1]) as usize * self.channels
    }
}

#[test]
fn conv2d_coded_is_the_page_s() {
    let r = &mut Random::new(1);
    let (mut inner, mut touched) = (0, 0);
    for case in 0..600 {
        let conv = Conv::random(r, 12, CODED[case % CODED.len()]);
        let x = conv.x(r);
        let got = conv.run(&x);
        assert_eq!(got, conv.page(&x), "case {case}: {conv:?}");
        touched += conv.overlapping(&x, &got);
        let [_, _, least, largest] = conv.numbers;
        inner += got
            .iter()
            .filter(|v| (least + 1..largest).contains(&i64::from(**v >> if conv.wide[1] { 8 } else { 0 })))
            .count();
    }
    assert!(inner > 10_000 && touched > 800, "{inner} results between the clamps, {touched} runs with overlap");
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
        let mut conv = Conv::random(r, 12, N4);
        let columns = (kernel[0] * kernel[1]) as usize * channels;
        conv.m = Matrix { exponent: conv.m.exponent, ..Matrix::random(r, 21, columns, conv.m.book) };
        conv.bias = vec![77; 21];
        let conv = Conv {
            input,
            output,
            kernel,
            stride,
            dilation: [1, 1],
            pad: [0, 0],
            channels,
            patches: 0,
            wide: [false, conv.wide[1]],
            ..conv
        };
        let x = conv.x(r);
        assert_eq!(conv.run(&x), conv.page(&x), "{conv:?}");
        // With the output on the input they are copied all the same.
        let onto = Conv { patches: r.range(1, 5) as usize, ..conv.clone() };
        assert!(onto.overlapping(&x, &conv.page(&x)) > 0);
        // One column less, or int16: copied, so it needs the scratch.
        assert!(Image::open(&Conv { wide: [true; 2], ..conv.clone() }.builder().0.image()).is_err());
        let copied = Conv { channels: channels - 1, ..conv.clone() };
        let copied = Conv { m: Matrix::random(r, 21, columns / channels * (channels - 1), conv.m.book), ..copied };
        assert!(Image::open(&copied.builder().0.image()).is_err());
        assert!(Image::open(&Conv { patches: 1, ..copied }.builder().0.image()).is_ok());
    }
}

/// Each product as large as it can be, all of one sign, as many as there may be, the largest multiplier and bias.
#[test]
fn sums_at_their_bounds() {
    let least_and_most = [(false, -128, 127), (true, -32_768, 32_767)];
    for (dtype, level, (wide, low, high), is_low) in
        [(N4, 127), (N8, -128), (N8, 127), (N4, -127), (N5, 127), (N5, -127)]
            .into_iter()
            .flat_map(|(dtype, level)| {
                least_and_most.map(|wide| [(dtype, level, wide, true), (dtype, level, wide, false)])
            })
            .flatten()
    {
        let columns = if wide { 1 << 15 } else { 1 << 16 };
        let x = if is_low { low } else { high };
        let sign = if (level > 0) == (x > 0) { 1 } else { -1 };
        for (exponent, lift) in [(54, 31), (60, 0), (62, 31), (46, 10), (-3, 31), (-256, 31), (256, 3)] {
            let m = Matrix { mults: vec![65_535, 1], exponent, ..Matrix::all(2, columns, dtype, level) };
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
                patches: usize::from(wide),
                wide: [wide, false],
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
        let conv = Conv::random(r, 6, CODED[case % CODED.len()]);
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
        match try_run(&b.image(), || 0x80) {
            None => refused += 1,
            Some(ran) => opened += u32::from(ran),
        }
    }
    assert!(opened > 100 && refused > 100, "{opened} {refused}");
}
