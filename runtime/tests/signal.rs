//! The audio front end against NUMERICS.md, section 16, written down a second time: wide integers reduced modulo 2^16 or 2^32
//! only where the page says so, the transform as the recursion that kissfft is. Whole: `tests/conformance/tflite.rs`.

mod support;

use mote_runtime::image::plan::{Kind, Rows};
use mote_runtime::image::program::{ARGS, Op};
use mote_runtime::ops::{self, BACKWARD};
use mote_runtime::{Error, Image};
use support::{Bench, Builder, Random, code, limits, op};

const I16: [i64; 2] = [-32_768, 32_767];
const I32: [i64; 2] = [-(1 << 31), (1 << 31) - 1];

fn wrap16(v: i64) -> i64 {
    i64::from(v as i16)
}

fn wrap32(v: i128) -> i64 {
    i64::from(v as i32)
}

/// uint32 as the slot has it, and back.
fn unsigned(v: i64) -> i128 {
    i128::from(v as u32)
}

/// Numbers of all of a range, of its ends, or small.
fn values(r: &mut Random, [least, most]: [i64; 2], n: usize) -> Vec<i64> {
    let style = r.range(0, 3);
    let bits = r.range(1, 31);
    (0..n)
        .map(|_| match style {
            0 => [least, most, 0, -1][r.range(0, 3) as usize],
            1 => r.range(-(1 << bits), 1 << bits).clamp(least, most),
            _ => r.range(least, most),
        })
        .collect()
}

/// An op over new slots: inputs first, then outputs, in the order of its arguments by `order`.
struct Case {
    b: Builder,
    inputs: Vec<(u32, Vec<i64>)>,
}

impl Case {
    fn new() -> Self {
        let mut b = Builder::new();
        b.logits = b.i32_slot(Rows::One, 1, 0);
        Self { b, inputs: vec![] }
    }

    fn input(&mut self, kind: Kind, values: &[i64]) -> u32 {
        let slot = self.b.plain_slot(kind, values.len());
        self.inputs.push((slot, values.to_vec()));
        slot
    }

    fn table(&mut self, values: &[i64]) -> u32 {
        self.b.constant(Kind::I16, values, &[values.len()])
    }

    /// Runs the op; returns the slots asked for.
    fn run(&mut self, name: &str, flags: u16, args: &[u32], outputs: &[u32]) -> Vec<Vec<i64>> {
        let the_op = Op { flags, ..op(code(name), args) };
        self.b.run.push(the_op);
        let mut bench = Bench::new(&self.b, limits(1, 1));
        for (slot, values) in &self.inputs {
            bench.put(*slot, values);
        }
        bench.run(&the_op, 1);
        outputs.iter().map(|slot| bench.got(*slot)).collect()
    }
}

#[test]
fn window_is_the_page_s() {
    let r = &mut Random::new(1);
    for _ in 0..200 {
        let n = r.range(1, 40) as usize;
        let (x, w, shift) = (values(r, I16, n), values(r, I16, n), r.range(0, 31));
        let expected: Vec<i64> = x.iter().zip(&w).map(|(x, w)| ((x * w) >> shift).clamp(I16[0], I16[1])).collect();
        for backward in [0, BACKWARD] {
            let mut c = Case::new();
            let (from, table) = (c.input(Kind::I16, &x), c.table(&w));
            let to = c.b.plain_slot(Kind::I16, n);
            assert_eq!(c.run("window", backward, &[from, to, table, shift as u32], &[to])[0], expected);
            let mut c = Case::new();
            let (from, table) = (c.input(Kind::I16, &x), c.table(&w));
            let to = c.b.again(from, 0);
            assert_eq!(c.run("window", backward, &[from, to, table, shift as u32], &[to])[0], expected);
        }
    }
}

#[test]
fn auto_scale_is_the_page_s() {
    let r = &mut Random::new(2);
    for _ in 0..300 {
        let n = r.range(1, 40) as usize;
        let x = values(r, I16, n);
        // From the last -32768 on; before it nothing counts.
        let last = x.iter().rposition(|v| *v == -32_768);
        let tail = &x[last.map_or(0, |at| at + 1)..];
        let size = match tail {
            [] if last.is_some() => -1,
            // The first after it counts with its sign, whatever follows.
            [first, rest @ ..] if last.is_some() => rest.iter().fold(*first, |most, v| most.max(v.abs())),
            tail => tail.iter().fold(0, |most, v| most.max(v.abs())),
        };
        let bits = if size <= 0 { 0 } else { 15 - (1..=15).find(|bits| size < 1 << bits).unwrap() };
        let mut c = Case::new();
        let from = c.input(Kind::I16, &x);
        let (to, shift) = (c.b.plain_slot(Kind::I16, n), c.b.plain_slot(Kind::I32, 1));
        let scaled = x.iter().map(|v| wrap16(v << bits)).collect::<Vec<_>>();
        assert_eq!(c.run("auto_scale", 0, &[from, to, shift], &[to, shift]), [scaled, vec![bits]], "{x:?}");
    }
}

/// kissfft's recursion: `x[0], x[stride], ..`, `n` of them.
fn transform(x: &[[i64; 2]], stride: usize, n: usize, turn: &dyn Fn(f64) -> [i64; 2]) -> Vec<[i64; 2]> {
    if n == 1 {
        return vec![x[0]];
    }
    let p = if n.is_multiple_of(4) { 4 } else { 2 };
    let m = n / p;
    let parts: Vec<Vec<[i64; 2]>> = (0..p).map(|q| transform(&x[q * stride..], stride * p, m, turn)).collect();
    let mut out = vec![[0; 2]; n];
    for k in 0..m {
        let scaled = |q: usize| parts[q][k].map(|v| rounded(v * (32_767 / p as i64)));
        let t: Vec<[i64; 2]> = (0..p)
            .map(|q| if q == 0 { scaled(0) } else { times(scaled(q), turn((q * k) as f64 / n as f64)) })
            .collect();
        let sum = |a: [i64; 2], b: [i64; 2]| [wrap16(a[0] + b[0]), wrap16(a[1] + b[1])];
        let minus = |a: [i64; 2], b: [i64; 2]| [wrap16(a[0] - b[0]), wrap16(a[1] - b[1])];
        if p == 2 {
            (out[k], out[k + m]) = (sum(t[0], t[1]), minus(t[0], t[1]));
        } else {
            let (a, b, c, d) = (sum(t[0], t[2]), minus(t[0], t[2]), sum(t[1], t[3]), minus(t[1], t[3]));
            out[k] = sum(a, c);
            out[k + m] = sum(b, [d[1], -d[0]]);
            out[k + 2 * m] = minus(a, c);
            out[k + 3 * m] = sum(b, [-d[1], d[0]]);
        }
    }
    out
}

fn rounded(v: i64) -> i64 {
    wrap16((v + (1 << 14)) >> 15)
}

fn times(a: [i64; 2], b: [i64; 2]) -> [i64; 2] {
    [rounded(a[0] * b[0] - a[1] * b[1]), rounded(a[0] * b[1] + a[1] * b[0])]
}

/// `e^(-2 pi i t)` in Q15.
fn turn(t: f64) -> [i64; 2] {
    let angle = -2.0 * std::f64::consts::PI * t;
    [angle.cos(), angle.sin()].map(|v| (32_767.0 * v + 0.5).floor() as i64)
}

fn circle(length: usize) -> Vec<i64> {
    (0..length).map(|j| turn(j as f64 / length as f64)[0]).collect()
}

fn rfft(x: &[i64], length: usize) -> Vec<i64> {
    let at = |i: usize| x.get(i).copied().unwrap_or(0);
    let n = length / 2;
    let pairs: Vec<[i64; 2]> = (0..n).map(|i| [at(2 * i), at(2 * i + 1)]).collect();
    let z = transform(&pairs, 1, n, &turn);
    let half = |v: [i64; 2]| v.map(|v| rounded(v * 16_383));
    let mut out = vec![[0; 2]; n + 1];
    let [re, im] = half(z[0]);
    (out[0], out[n]) = ([wrap16(re + im), 0], [wrap16(re - im), 0]);
    for k in 1..=n / 2 {
        let (a, b) = (half(z[k]), half([z[n - k][0], wrap16(-z[n - k][1])]));
        let f1 = [wrap16(a[0] + b[0]), wrap16(a[1] + b[1])];
        let f2 = [wrap16(a[0] - b[0]), wrap16(a[1] - b[1])];
        let t = times(f2, turn(0.25 + k as f64 / length as f64));
        out[k] = [wrap16((f1[0] + t[0]) >> 1), wrap16((f1[1] + t[1]) >> 1)];
        out[n - k] = [wrap16((f1[0] - t[0]) >> 1), wrap16((t[1] - f1[1]) >> 1)];
    }
    out.concat()
}

#[test]
fn rfft_is_the_page_s() {
    let r = &mut Random::new(3);
    for log in 2..=12 {
        let length = 1 << log;
        for _ in 0..if log < 9 { 20 } else { 4 } {
            let n = r.range(1, length as i64) as usize;
            let x = values(r, I16, n);
            let mut c = Case::new();
            let (from, table) = (c.input(Kind::I16, &x), c.table(&circle(length)));
            let to = c.b.plain_slot(Kind::I16, length + 2);
            assert_eq!(c.run("rfft", 0, &[from, to, table], &[to]), [rfft(&x, length)], "{length}");
        }
    }
}

/// Against the transform in f64, over its length.
#[test]
fn rfft_against_f64() {
    let r = &mut Random::new(4);
    let mut worst = 0f64;
    for length in [64usize, 256, 512, 1024] {
        for _ in 0..10 {
            let x: Vec<i64> = (0..length).map(|_| r.range(-32_767, 32_767)).collect();
            let mut c = Case::new();
            let (from, table) = (c.input(Kind::I16, &x), c.table(&circle(length)));
            let to = c.b.plain_slot(Kind::I16, length + 2);
            let got = c.run("rfft", 0, &[from, to, table], &[to]).remove(0);
            for k in 0..=length / 2 {
                let mut exact = [0.0; 2];
                for (i, x) in x.iter().enumerate() {
                    let angle = -2.0 * std::f64::consts::PI * ((i * k) % length) as f64 / length as f64;
                    exact[0] += *x as f64 * angle.cos() / length as f64;
                    exact[1] += *x as f64 * angle.sin() / length as f64;
                }
                for (got, exact) in got[2 * k..].iter().zip(exact) {
                    worst = worst.max((*got as f64 - exact).abs());
                }
            }
        }
    }
    println!("rfft: at most {worst:.2} units from the exact transform over its length");
    assert!(worst < 4.0, "{worst}");
}

#[test]
fn energy_is_the_page_s() {
    let r = &mut Random::new(5);
    for _ in 0..100 {
        let n = r.range(1, 40);
        let x = values(r, I16, 2 * n as usize);
        let end = r.range(0, n);
        let start = r.range(0, end);
        let energy = |k: i64| {
            let [re, im] = [x[2 * k as usize], x[2 * k as usize + 1]];
            if (start..end).contains(&k) { wrap32(i128::from(re * re + im * im)) } else { 0 }
        };
        let expected: Vec<i64> = (0..n).map(energy).collect();
        let mut c = Case::new();
        let from = c.input(Kind::I16, &x);
        let to = c.b.plain_slot(Kind::I32, n as usize);
        assert_eq!(c.run("energy", 0, &[from, to, start as u32, end as u32], &[to]), [expected]);
    }
}

/// To the nearest.
fn root(v: u64) -> u64 {
    let mut root = (v as f64).sqrt() as u64;
    while u128::from(root) * u128::from(root) > v.into() {
        root -= 1;
    }
    while u128::from(root + 1) * u128::from(root + 1) <= v.into() {
        root += 1;
    }
    let nearer = v - root * root > root;
    root + u64::from(nearer && root != 0xFFFF_FFFF && !(root == 0xFFFF && v < 1 << 32))
}

#[test]
fn filter_bank_is_the_page_s() {
    let r = &mut Random::new(6);
    for round in 0..200 {
        let (n, weights, channels) = (r.range(1, 40), r.range(1, 40), r.range(1, 9) as usize);
        let x = values(r, I32, n as usize);
        let bits = r.range(0, 14);
        let range = if round % 4 == 0 { I16 } else { [0, 4096] };
        let (here, next) = (values(r, range, weights as usize), values(r, range, weights as usize));
        let (mut firsts, mut starts, mut widths) = (vec![], vec![], vec![]);
        for _ in 0..=channels {
            let width = r.range(0, n.min(weights));
            widths.push(width);
            firsts.push(r.range(0, n - width));
            starts.push(r.range(0, weights - width));
        }
        let sum = |table: &[i64], channel: usize| -> i128 {
            let products = (0..widths[channel]).map(|j| {
                unsigned(x[(firsts[channel] + j) as usize]) * i128::from(table[(starts[channel] + j) as usize])
            });
            products.sum()
        };
        let channel = |at: usize| {
            let v = (sum(&here, at) + sum(&next, at - 1)) as u64;
            wrap32(i128::from(root(v) >> bits))
        };
        let expected: Vec<i64> = (1..=channels).map(channel).collect();
        let mut c = Case::new();
        let (from, shift) = (c.input(Kind::I32, &x), c.input(Kind::I32, &[bits]));
        let tables = [&here, &next, &firsts, &starts, &widths].map(|t| c.table(t));
        let to = c.b.plain_slot(Kind::I32, channels);
        let args = [&[from, shift, to], &tables[..]].concat();
        assert_eq!(c.run("filter_bank", 0, &args, &[to]), [expected]);
    }
}

#[test]
fn roots_at_their_edges() {
    let edges = [0u64, 1, 2, 3, 0xFFFE_0000, 0xFFFF_0001, 0xFFFF_FFFF, 1 << 32, u64::MAX / 4, 0x7FFF_FFFF_0000_0000];
    for v in edges {
        // Through one channel of weights 1 and 2^15 - 1 over three energies: v = a + 32767 (b + c).
        let (a, rest) = (v % 32_767, v / 32_767);
        let (b, c_) = (rest.min(u32::MAX.into()), rest.saturating_sub(u32::MAX.into()));
        if c_ > u32::MAX.into() {
            continue;
        }
        let x: Vec<i64> = [a, b, c_].iter().map(|v| i64::from(*v as u32 as i32)).collect();
        let mut c = Case::new();
        let (from, shift) = (c.input(Kind::I32, &x), c.input(Kind::I32, &[0]));
        let tables = [[1, 32_767, 32_767], [0; 3]].map(|t| c.table(&t));
        let places = [[0, 0], [0, 0], [0, 3]].map(|t| c.table(&t));
        let to = c.b.plain_slot(Kind::I32, 1);
        let args = [&[from, shift, to], &tables[..], &places[..]].concat();
        assert_eq!(c.run("filter_bank", 0, &args, &[to]), [[wrap32(i128::from(root(v)))]], "{v}");
    }
}

#[test]
fn spectral_subtraction_is_the_page_s() {
    let r = &mut Random::new(7);
    for round in 0..300 {
        let n = r.range(1, 20) as usize;
        let (x, noise) = (values(r, I32, n), values(r, I32, n));
        let (up, bits) = (r.range(0, if round % 4 == 0 { 31 } else { 10 }), r.range(0, 31));
        let most = if round % 4 == 0 { u32::MAX.into() } else { 1 << bits };
        let factors: [i64; 5] = std::array::from_fn(|_| r.range(0, most));
        let clamping = r.range(0, 1) == 1;
        let (mut left, mut after) = (vec![], vec![]);
        for (i, (x, noise)) in x.iter().map(|x| unsigned(*x)).zip(noise.iter().map(|n| unsigned(*n))).enumerate() {
            let [new, old] = [factors[2 * (i % 2)], factors[2 * (i % 2) + 1]].map(i128::from);
            let signal = i128::from((x << up) as u32);
            let noise = i128::from((((signal * new + noise * old) as u64) >> bits) as u32);
            let floor = i128::from(((x * i128::from(factors[4])) as u64 >> bits) as u32);
            let taken = noise.min(signal);
            left.push(wrap32(((signal - taken) >> up).max(floor)));
            after.push(wrap32(if clamping { taken } else { noise }));
        }
        for (backward, in_place) in [(0, false), (BACKWARD, false), (0, true), (BACKWARD, true)] {
            let mut c = Case::new();
            let (from, before) = (c.input(Kind::I32, &x), c.input(Kind::I32, &noise));
            let mut out = |from: u32| if in_place { c.b.again(from, 0) } else { c.b.plain_slot(Kind::I32, n) };
            let (to, next) = (out(from), out(before));
            let mut args = vec![from, before, to, next];
            args.extend(factors.map(|f| f as u32));
            args.extend([up as u32, bits as u32]);
            let flags = backward | if clamping { 4 } else { 0 };
            assert_eq!(c.run("spectral_subtraction", flags, &args, &[to, next]), [left.clone(), after.clone()]);
        }
    }
}

#[test]
fn pcan_is_the_page_s() {
    let r = &mut Random::new(8);
    for _ in 0..300 {
        let n = r.range(1, 40) as usize;
        let (x, noise, gains) = (values(r, I32, n), values(r, I32, n), values(r, I16, 125));
        let shift = r.range(0, 63);
        let one = |x: &i64, noise: &i64| {
            let noise = unsigned(*noise) as u64;
            let gain = if noise <= 2 {
                gains[noise as usize]
            } else {
                let top = noise.ilog2();
                // The ten bits below the highest one.
                let fraction = ((i128::from(noise) << 10 >> top) & 0x3FF) as i64;
                let at = 4 * (top as usize + 1) - 6;
                let slope = ((gains[at + 2] * fraction) >> 5) + (gains[at + 1] << 5);
                wrap16((wrap32(i128::from(wrap32(i128::from(slope * fraction))) + (1 << 14)) >> 15) + gains[at])
            };
            let ratio = ((unsigned(*x) * unsigned(gain)) >> shift) as u32;
            let shrunk =
                if ratio < 8192 { (u64::from(ratio) * u64::from(ratio)) >> 20 } else { u64::from(ratio >> 6) - 64 };
            wrap32(shrunk.into())
        };
        let expected: Vec<i64> = x.iter().zip(&noise).map(|(x, n)| one(x, n)).collect();
        for backward in [0, BACKWARD] {
            let mut c = Case::new();
            let (from, by, table) = (c.input(Kind::I32, &x), c.input(Kind::I32, &noise), c.table(&gains));
            let to = c.b.again(from, 0);
            assert_eq!(c.run("pcan", backward, &[from, by, to, table, shift as u32], &[to])[0], expected);
        }
    }
}

/// How far the logarithm is above its line, in Q16.
fn above_line() -> Vec<i64> {
    (0..=128).map(|i| f64::from(i) / 128.0).map(|x| (65_536.0 * ((1.0 + x).log2() - x)).round() as i64).collect()
}

fn log(table: &[i64], x: i64, factor: u32, up: u32) -> i64 {
    let x = (unsigned(x) << up) as u32;
    if x <= 1 {
        return 0;
    }
    let whole = x.ilog2();
    let fraction = ((u64::from(x) << 16 >> whole) & 0xFFFF) as i64;
    let (low, high) = (table[(fraction / 512) as usize], table[(fraction / 512) as usize + 1]);
    let log2 = i64::from(whole) * 65_536 + fraction + low + ((high - low) * (fraction % 512)).div_euclid(65_536);
    let ln = (45_426 * u128::from(log2 as u32) + 32_768) / 65_536;
    let scaled = (u128::from(factor) * ln + 32_768) % (1 << 32) / 65_536;
    scaled.min(32_767) as i64
}

#[test]
fn log_is_the_page_s() {
    let r = &mut Random::new(9);
    for round in 0..300 {
        let n = r.range(1, 40) as usize;
        let table = if round % 2 == 0 { above_line() } else { values(r, I16, 129) };
        let (x, up) = (values(r, I32, n), r.range(0, 31) as u32);
        let factor = if round % 3 == 0 { r.range(0, u32::MAX.into()) as u32 } else { r.range(0, 4096) as u32 };
        let expected: Vec<i64> = x.iter().map(|x| log(&table, *x, factor, up)).collect();
        let mut c = Case::new();
        let (from, by) = (c.input(Kind::I32, &x), c.table(&table));
        let to = c.b.plain_slot(Kind::I16, n);
        assert_eq!(c.run("log", 0, &[from, to, by, factor, up], &[to]), [expected]);
    }
}

/// TFLM moves only 1/128 of the way from one value of its table to the next: that is the error.
#[test]
fn log_against_f64() {
    let r = &mut Random::new(10);
    let (table, mut worst) = (above_line(), 0f64);
    for _ in 0..100_000 {
        let x = (r.next() >> r.range(32, 62)).max(2) as u32;
        let got = log(&table, i64::from(x as i32), 1 << 10, 0);
        worst = worst.max((got as f64 / 1024.0 - f64::from(x).ln()).abs());
    }
    println!("log: at most {worst:.5} from the exact logarithm, in steps of 1/1024");
    assert!(worst < 0.003, "{worst}");
}

#[test]
fn cast_is_the_page_s() {
    let r = &mut Random::new(11);
    let kinds = [(Kind::I8, [-128, 127]), (Kind::I16, I16), (Kind::I32, I32)];
    for ((from, range), (to, _)) in kinds.iter().flat_map(|from| kinds.iter().map(move |to| (*from, *to))) {
        for backward in [0, BACKWARD] {
            let x = values(r, range, 30);
            let cut = |v: &i64| match to {
                Kind::I8 => i64::from(*v as i8),
                Kind::I16 => wrap16(*v),
                _ => *v,
            };
            let mut c = Case::new();
            let a = c.input(from, &x);
            let b = c.b.plain_slot(to, 30);
            assert_eq!(c.run("cast", backward, &[a, b], &[b]), [x.iter().map(cut).collect::<Vec<_>>()]);
        }
    }
}

/// Every argument of every op at numbers that do not fit: refused when the image is opened, or run without a fault.
#[test]
fn arguments_out_of_range() {
    let mut refused = 0;
    let mut b = Builder::new();
    b.logits = b.i32_slot(Rows::One, 1, 0);
    let halves = [b.plain_slot(Kind::I16, 8), b.plain_slot(Kind::I16, 10), b.plain_slot(Kind::I16, 8)];
    let words = [b.plain_slot(Kind::I32, 5), b.plain_slot(Kind::I32, 5), b.plain_slot(Kind::I32, 5)];
    let more = b.plain_slot(Kind::I32, 5);
    let one = b.plain_slot(Kind::I32, 1);
    let logs = b.plain_slot(Kind::I16, 5);
    let tables = [vec![7; 8], circle(8), vec![1; 125], above_line(), vec![0, 1, 2, 3, 4, 0], vec![1; 6], vec![1, 2]];
    let tables: Vec<u32> = tables.iter().map(|t| b.constant(Kind::I16, t, &[t.len()])).collect();
    let all = [
        op(code("window"), &[halves[0], halves[2], tables[0], 12]),
        op(code("auto_scale"), &[halves[0], halves[2], one]),
        op(code("rfft"), &[halves[0], halves[1], tables[1]]),
        op(code("energy"), &[halves[1], words[0], 1, 4]),
        op(code("filter_bank"), &[words[0], one, words[1], tables[5], tables[5], tables[4], tables[4], tables[5]]),
        op(code("spectral_subtraction"), &[words[0], words[1], words[2], more, 1, 2, 3, 4, 5, 6, 7]),
        op(code("pcan"), &[words[0], words[1], words[2], tables[2], 6]),
        op(code("log"), &[words[0], logs, tables[3], 64, 3]),
        op(code("cast"), &[words[0], logs]),
    ];
    for good in all {
        for which in 0..ARGS {
            for value in [good.args[which], 0, 1, 2, 3, 5, 9, 30, 32, 64, 1 << 15, 1 << 31, u32::MAX] {
                let mut the_op = good;
                the_op.args[which] = value;
                let mut b = b.clone();
                b.run.push(the_op);
                let image = b.image();
                match Image::open(&image).and_then(|image| ops::check_arena(&image, &the_op, 0, limits(1, 1))) {
                    Ok(()) => {
                        let mut bench = Bench::new(&b, limits(1, 1));
                        bench.run(&the_op, 1);
                    }
                    Err(Error::Op { .. } | Error::Slot { .. }) => refused += 1,
                    Err(other) => panic!("{the_op:?}: {other}"),
                }
                assert!(value != good.args[which] || Image::open(&image).is_ok(), "{good:?}");
            }
        }
    }
    assert!(refused > 200, "{refused}");
}
