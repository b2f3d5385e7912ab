//! The int8 ops against NUMERICS.md, section 13, written down a second time: one naive loop over every tap, in i64, with no
//! range hoisted; shapes, strides, dilations, paddings and multipliers at random.

mod support;

use mote_runtime::image::plan::Rows;
use mote_runtime::image::{Dtype, Port, section};
use mote_runtime::{Error, Image, Limits, Session};
use support::{Arena, Bench, Builder, Random, assemble, code, limits, op, requantize, word};

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

fn int8s(r: &mut Random, n: usize) -> Vec<i8> {
    let edge = r.range(0, 3) == 0;
    (0..n).map(|_| if edge { [-128, 127][r.range(0, 1) as usize] } else { r.range(-128, 127) as i8 }).collect()
}

/// Bias, multiplier and shift of each channel; results near the int8 range for sums of `products`.
fn channels(r: &mut Random, count: usize, products: usize) -> Vec<[i64; 3]> {
    let reach = (products as f64 * 8000.0).log2() as i64;
    (0..count)
        .map(|_| [r.range(-5000, 5000), r.range(1 << 30, (1 << 31) - 1), r.range(-reach.max(1), 4 - reach / 2)])
        .collect()
}

struct Numbers {
    zero_in: i64,
    zero_out: i64,
    min: i64,
    max: i64,
}

impl Numbers {
    fn random(r: &mut Random) -> Self {
        let min = r.range(-128, 0);
        Self { zero_in: r.range(-128, 127), zero_out: r.range(-128, 127), min, max: r.range(min, 127) }
    }

    fn word(&self) -> u32 {
        word([self.zero_in, self.zero_out, self.min, self.max])
    }

    fn finish(&self, v: i64) -> i8 {
        (v + self.zero_out).clamp(self.min, self.max) as i8
    }
}

fn put(bench: &mut Bench, slot: u32, values: &[i8]) {
    for (to, from) in bench.bytes(slot).iter_mut().zip(values) {
        *to = *from as u8;
    }
}

fn got(bench: &mut Bench, slot: u32, count: usize) -> Vec<i8> {
    bench.bytes(slot).iter().take(count).map(|b| *b as i8).collect()
}

/// Runs the one op of `b` on `inputs`.
fn run(b: &Builder, inputs: &[(u32, &[i8])], out: (u32, usize)) -> Vec<i8> {
    let mut bench = Bench::new(b, limits(1, 1));
    for (slot, values) in inputs {
        put(&mut bench, *slot, values);
    }
    bench.run(&b.run[0], 1);
    got(&mut bench, out.0, out.1)
}

/// `conv2d` and `depthwise_conv2d`, of which only the weight's place differs.
fn convolution(name: &str, seed: u64) {
    let r = &mut Random::new(seed);
    for case in 0..300 {
        let s = Shape::random(r, true);
        let cin = s.channels as usize;
        let depthwise = name == "depthwise_conv2d";
        let multiplier = if depthwise { r.range(1, 9) as usize } else { 0 };
        let count = if depthwise { cin * multiplier } else { r.range(1, 7) as usize };
        let taps = s.pixels(s.kernel);
        let (x, n, single) = (int8s(r, s.pixels(s.input) * cin), Numbers::random(r), case % 2 == 1);
        let w = int8s(r, taps * if depthwise { count } else { cin * count });
        let cs = channels(r, count, taps * if depthwise { 1 } else { cin });
        let mut b = builder();
        let (from, to) = (b.i8_slot(x.len()), b.i8_slot(s.pixels(s.output) * count));
        let [kh, kw] = s.kernel.map(|k| k as usize);
        let weights = b.tensor8(&w, &if depthwise { [1, kh, kw, count] } else { [count, kh, kw, cin] });
        let flat: Vec<i32> = cs.iter().flatten().map(|v| *v as i32).collect();
        let table = b.tensor32(&flat, &[count, 3]);
        let [input, output, steps, pads] = s.words();
        let mut the_op = op(code(name), &[from, to, weights, table, input, output, steps, pads, n.word()]);
        the_op.flags = u16::from(single);
        b.run.push(the_op);
        let mut expected = Vec::new();
        for inside in s.taps() {
            for (c, [bias, m, shift]) in cs.iter().enumerate() {
                let mut acc = *bias;
                for (tap, pixel) in &inside {
                    let mut add = |x: i8, w: i8| acc += (i64::from(x) - n.zero_in) * i64::from(w);
                    if depthwise {
                        add(x[pixel * cin + c / multiplier], w[tap * count + c]);
                    } else {
                        (0..cin).for_each(|i| add(x[pixel * cin + i], w[(c * taps + tap) * cin + i]));
                    }
                }
                expected.push(n.finish(requantize(acc, *m, *shift, single)));
            }
        }
        assert_eq!(run(&b, &[(from, &x)], (to, expected.len())), expected, "{name} case {case}");
    }
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
fn fully_connected_is_the_page_s() {
    let r = &mut Random::new(3);
    for case in 0..200 {
        let (rows, features, count) = (r.range(1, 3) as usize, r.range(1, 70) as usize, r.range(1, 20) as usize);
        let (x, w) = (int8s(r, rows * features), int8s(r, features * count));
        let (cs, n, single) = (channels(r, count, features), Numbers::random(r), case % 2 == 1);
        let mut b = builder();
        let (from, to) = (b.i8_slot(x.len()), b.i8_slot(rows * count));
        let weights = b.tensor8(&w, &[count, features]);
        let flat: Vec<i32> = cs.iter().flatten().map(|v| *v as i32).collect();
        let table = b.tensor32(&flat, &[count, 3]);
        let mut the_op = op(code("fully_connected"), &[from, to, weights, table, n.word()]);
        the_op.flags = u16::from(single);
        b.run.push(the_op);
        let mut expected = Vec::new();
        for x in x.chunks(features) {
            for (w, [bias, m, shift]) in w.chunks(features).zip(&cs) {
                let sum: i64 = x.iter().zip(w).map(|(x, w)| (i64::from(*x) - n.zero_in) * i64::from(*w)).sum();
                expected.push(n.finish(requantize(sum + bias, *m, *shift, single)));
            }
        }
        assert_eq!(run(&b, &[(from, &x)], (to, expected.len())), expected, "case {case}");
    }
}

#[test]
fn pools_are_the_page_s() {
    let r = &mut Random::new(4);
    for case in 0..300 {
        let s = Shape::random(r, false);
        let cin = s.channels as usize;
        let x = int8s(r, s.pixels(s.input) * cin);
        let n = Numbers { zero_in: 0, zero_out: 0, ..Numbers::random(r) };
        for name in ["average_pool2d", "max_pool2d"] {
            let mut b = builder();
            let (from, to) = (b.i8_slot(x.len()), b.i8_slot(s.pixels(s.output) * cin));
            let [input, output, steps, pads] = s.words();
            let size = s.kernel[0] as u32 | (s.kernel[1] as u32) << 16;
            b.run.push(op(code(name), &[from, to, input, output, steps, pads, size, n.word()]));
            let mut expected = Vec::new();
            for inside in s.taps() {
                for c in 0..cin {
                    let values = || inside.iter().map(|(_, pixel)| i64::from(x[pixel * cin + c]));
                    let mean = || (values().sum::<i64>() as f64 / inside.len() as f64).round() as i64;
                    let v = if name == "max_pool2d" { values().max().unwrap() } else { mean() };
                    expected.push(n.finish(v));
                }
            }
            assert_eq!(run(&b, &[(from, &x)], (to, expected.len())), expected, "{name} case {case}");
        }
    }
}

#[test]
fn add_is_the_page_s() {
    let r = &mut Random::new(5);
    for case in 0..200 {
        let len = r.range(1, 50) as usize;
        let (x, y, n) = (int8s(r, len), int8s(r, len), Numbers { zero_in: 0, ..Numbers::random(r) });
        let (zx, zy, single) = (r.range(-128, 127), r.range(-128, 127), case % 2 == 1);
        let m: Vec<i64> = (0..3).map(|_| r.range(1 << 30, (1 << 31) - 1)).collect();
        let s = [r.range(-6, 0), r.range(-6, 0), r.range(-24, -15)];
        let mut b = builder();
        let (a, c, to) = (b.i8_slot(len), b.i8_slot(len), b.i8_slot(len));
        let [ma, mb, mo] = [m[0], m[1], m[2]].map(|m| m as u32);
        let (shifts, zeros) = (word([s[0], s[1], s[2], 0]), word([zx, zy, 0, 0]));
        let mut the_op = op(code("add"), &[a, c, to, ma, mb, mo, shifts, zeros, n.word()]);
        the_op.flags = u16::from(single);
        b.run.push(the_op);
        let scaled = |v: i8, z: i64, i: usize| requantize((i64::from(v) - z) << 20, m[i], s[i], single);
        let sum = |x: &i8, y: &i8| scaled(*x, zx, 0) + scaled(*y, zy, 1);
        let expected: Vec<i8> =
            x.iter().zip(&y).map(|(x, y)| n.finish(requantize(sum(x, y), m[2], s[2], single))).collect();
        assert_eq!(run(&b, &[(a, &x), (c, &y)], (to, len)), expected, "case {case}");
    }
}

/// Against f64 here; against TFLite itself in `tests/conformance/tflite.rs`.
#[test]
fn softmax_is_within_a_unit() {
    let r = &mut Random::new(6);
    for _ in 0..200 {
        let (rows, row) = (r.range(1, 3) as usize, r.range(1, 40) as usize);
        let x = int8s(r, rows * row);
        let scale = 0.01 + 0.2 * r.unit().abs();
        // scale in Q5.26: multiplier * 2^(shift - 31)
        let real = scale * 2f64.powi(26);
        let shift = real.log2().floor() as i32 + 1;
        let multiplier = (real * 2f64.powi(31 - shift)).round() as u32;
        let least = -(31.0 * 2f64.powi(26 - shift)).floor() as i32;
        let mut b = builder();
        let (from, to) = (b.i8_slot(x.len()), b.i8_slot(x.len()));
        b.run.push(op(code("softmax"), &[from, to, row as u32, multiplier, shift as u32, least as u32]));
        let got = run(&b, &[(from, &x)], (to, x.len()));
        for (x, got) in x.chunks(row).zip(got.chunks(row)) {
            let sum: f64 = x.iter().map(|x| (f64::from(*x) * scale).exp()).sum();
            for (x, got) in x.iter().zip(got) {
                let exact = ((f64::from(*x) * scale).exp() / sum * 256.0 - 128.0).min(127.0);
                assert!((f64::from(*got) - exact).abs() <= 1.0, "{got} {exact}");
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
    let good = [
        op(code("conv2d"), &[x, y, weights, table, 0x4_0004, 0x2_0002, word([2, 2, 1, 1]), 0, n]),
        op(code("max_pool2d"), &[x, y, 0x4_0004, 0x4_0004, word([1; 4]), 0, 0x1_0001, n]),
        op(code("average_pool2d"), &[x, y, 0x4_0004, 0x4_0004, word([1; 4]), 0, 0x1_0001, n]),
        op(code("add"), &[x, y, z, 1 << 30, 1 << 30, 1 << 30, 0, 0, n]),
        op(code("softmax"), &[x, y, 4, 1 << 30, 20, 0]),
    ];
    let limits = limits(1, 1);
    let (mut opened, mut refused) = (0, 0);
    for _ in 0..3000 {
        let mut the_op = good[r.range(0, good.len() as i64 - 1) as usize];
        for _ in 0..r.range(1, 2) {
            let words = [0, 1, 2, 3, 0xFFFF, 0x1_0001, u32::MAX, 1 << 31, r.next() as u32];
            let at = r.range(0, 8) as usize;
            the_op.args[at] = words[r.range(0, words.len() as i64 - 1) as usize];
        }
        let b = Builder { run: vec![the_op], ..b.clone() };
        let file = b.image();
        let Ok(image) = Image::open(&file) else {
            refused += 1;
            continue;
        };
        let mut arena = Arena::new(image.arena_bytes(limits).unwrap() as usize, || 0x5A);
        if let Ok(mut session) = Session::new(&image, arena.get(), limits) {
            session.run().unwrap();
            opened += 1;
        }
        assert!(arena.guards_hold());
    }
    assert!(opened > 100 && refused > 100, "{opened} {refused}");
}
