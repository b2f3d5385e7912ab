//! NUMERICS.md written down a second time, as it stands there, in 128-bit integers that cannot overflow: a whole model
//! has the same logits, bit for bit. So the page is complete, and no sum of the runtime wraps.

mod support;

use std::collections::HashMap;

use mote_runtime::fixed::{self, exp::exp2_neg_q16, requantize};
use mote_runtime::image::Dtype;
use mote_runtime::image::plan::{Kind, Rows, Slot};
use mote_runtime::image::program::{NONE, Op};
use mote_runtime::{Image, Limits, Session, ops};
use support::{Arena, Builder, Matrix, Random, code, small_embedder, small_gpt, small_model, small_translator};

type Row = Vec<i128>;

// 2. Rounding and saturation.

fn r(v: i128, s: i128) -> i128 {
    let low = i128::from(i64::MIN);
    let value = match s {
        ..=-64 => v.signum() << 100,
        -63..=0 => v << -s,
        1..=63 => (v + (1 << (s - 1))) >> s,
        _ => 0,
    };
    value.clamp(low, -low - 1)
}

fn sat(v: i128) -> i128 {
    v.clamp(-(1 << 31), (1 << 31) - 1)
}

fn bits(v: i128) -> i128 {
    i128::from(128 - v.leading_zeros())
}

fn peak(x: &[i128]) -> i128 {
    x.iter().map(|v| v.abs()).max().unwrap_or(0)
}

// 4. Quantize.

#[derive(Clone, Debug, Default)]
struct Q8 {
    mant: i128,
    exp: i128,
    codes: Row,
}

/// 4.1: the transform of blocks of 2^t, and what it lost before.
fn hadamard(x: &[i128], t: i128) -> (Row, i128) {
    let lost = (bits(peak(x)) + t - 30).max(0);
    let x: Row = x.iter().map(|v| r(*v, lost)).collect();
    let sign = |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 1 } else { -1 };
    let block =
        |x: &[i128]| -> Row { (0..x.len()).map(|i| x.iter().enumerate().map(|(j, v)| sign(i, j) * v).sum()).collect() };
    (x.chunks(1 << t).flat_map(block).collect(), lost)
}

fn quantize(x: &[i128], frac: i128, t: i128) -> Q8 {
    let (x, lost) = if t > 0 { hadamard(x, t) } else { (x.to_vec(), 0) };
    let a = peak(&x);
    if a == 0 {
        return Q8 { codes: vec![0; x.len()], ..Q8::default() };
    }
    let n = 32 - bits(a);
    let a = (((a << n) - 1) >> 17) + 1;
    let (inv, mant) = ((127 << 24) / a, (128 * a + 63) / 127);
    Q8 { mant, exp: n - 10 + frac - lost, codes: x.iter().map(|v| r(v * inv, 41 - n)).collect() }
}

// 5. Matmul; 6. embed.

fn matmul(m: &Matrix, x: &Q8, frac: i128, row: usize, bias: i128, old: i128) -> i128 {
    let acc: i128 = (0..m.cols).map(|c| i128::from(m.scale(row, c)) * i128::from(m.level(row, c)) * x.codes[c]).sum();
    let top = i128::from(m.top());
    let excess = (bits(32 * 128 * 255 * top * m.cols.div_ceil(32) as i128) - 31).max(0);
    let unit = (i128::from(m.mults[row]) * x.mant) >> excess;
    sat(sat(r(acc * unit, i128::from(m.exponent) + x.exp - frac - excess)) + bias + old)
}

fn embed(m: &Matrix, row: usize, (mant, exp): (i128, i128), log2: u32, frac: i128) -> Row {
    let (mant, exp) = if mant == 0 { (1, 0) } else { (mant, exp) };
    let level = |c: usize| i128::from(m.level(row, c) * m.scale(row, c));
    let block = 1usize << log2;
    // Column c of H is -1 to the number of bits that both indices have.
    let sign = |a: usize, b: usize| if (a & b).count_ones().is_multiple_of(2) { 1 } else { -1 };
    let transformed = |c: usize| (0..block).map(|k| sign(k, c % block) * level(c / block * block + k)).sum::<i128>();
    let value = |c: usize| transformed(c) * i128::from(m.mults[row]) * mant;
    (0..m.cols).map(|c| sat(r(value(c), i128::from(m.exponent) + exp - frac))).collect()
}

// 7. RMS norm.

struct Norm {
    eps: i128,
    rmant: i128,
    rexp: i128,
    gamma: Option<(Row, i128)>,
}

fn rms_norm(x: &[i128], norm: &Norm, out_frac: i128) -> Row {
    let drop = (bits(peak(x)) - 23).max(0);
    let squares: i128 = x.iter().map(|v| r(*v, drop).pow(2)).sum();
    let s = (squares + (norm.eps >> (2 * drop))).min((1 << 64) - 1);
    if s == 0 {
        return vec![0; x.len()];
    }
    let (root, h) = rsqrt(s);
    let unit = r(root * norm.rmant, 16);
    let n = |v: &i128| r(v * unit, h + drop + norm.rexp - 8);
    match &norm.gamma {
        None => x.iter().map(|v| sat(r(n(v), 22 - out_frac))).collect(),
        Some((gamma, exponent)) => {
            x.iter().zip(gamma).map(|(v, g)| sat(r(sat(n(v)) * g, 22 + exponent - out_frac))).collect()
        }
    }
}

// 7.1 Layer norm.

fn layer_norm(x: &[i128], gamma: (&[i128], i128), beta: &[i128], eps: i128, root: (i128, i128), frac: i128) -> Row {
    let (n, sum) = (x.len() as i128, x.iter().sum::<i128>());
    let lost = (bits(x.iter().map(|v| (n * v - sum).abs()).max().unwrap()) - 31).max(0);
    let e: Row = x.iter().map(|v| sat(r(n * v - sum, lost))).collect();
    let drop = (bits(peak(&e)) - 23).max(0);
    let squares: i128 = e.iter().map(|v| r(*v, drop).pow(2)).sum();
    let s = (squares + (eps >> (2 * lost) >> (2 * drop))).min((1 << 64) - 1);
    let (unit, shift) = match s {
        0 => (0, 0),
        _ => {
            let (reciprocal, h) = rsqrt(s);
            (r(reciprocal * root.0, 16), h + drop + root.1 - 8)
        }
    };
    let scaled = |i: usize| r(sat(r(e[i] * unit, shift)) * gamma.0[i], 22 + gamma.1 - frac);
    (0..x.len()).map(|i| sat(scaled(i) + beta[i])).collect()
}

// 8. RoPE.

fn rope(x: &mut [i128], steps: &[u64], position: u64) {
    let half = x.len() / 2;
    for (i, step) in steps.iter().enumerate() {
        let (cos, sin) = cos_sin(step.wrapping_mul(position));
        let (a, b) = (x[i], x[i + half]);
        x[i] = sat(r(a * cos - b * sin, 30));
        x[i + half] = sat(r(a * sin + b * cos, 30));
    }
}

// 9.1 Caches of 4 bits. The codes here are levels, as attention reads them.

fn head_block(head_dim: usize) -> i128 {
    (0..).take_while(|t| head_dim.is_multiple_of(1 << t)).last().unwrap()
}

fn quantize4(x: &[i128], frac: i128) -> Q8 {
    let Q8 { mant, exp, codes } = quantize(x, frac, head_block(x.len()));
    let level = |n: i128| ((2 * n - 15) * (800 + (2 * n - 15).pow(2)) + 64) >> 7;
    let nearest = |c: &i128| {
        let above = (8..15).filter(|n| c.abs() >= (level(*n) + level(n + 1) + 1) / 2).count() as i128;
        level(if *c < 0 { 7 - above } else { 8 + above })
    };
    let levels: Row = codes.iter().map(nearest).collect();
    let products: i128 = levels.iter().zip(&codes).map(|(l, c)| l * c).sum();
    let squares: i128 = levels.iter().map(|l| l * l).sum();
    let m = (((mant >> 6) * products / squares + 2) >> 2).min(255);
    Q8 { mant: 256 * m, exp, codes: levels }
}

// 9. Attention of one head; `t` is that of a cache of 4 bits, or 0.

fn attention(q: &Q8, (umant, uexp): (i128, i128), k: &[Q8], v: &[Q8], frac: i128, t: i128) -> Row {
    let m = (q.mant * umant + (1 << 15)) >> 16;
    let dot = |k: &Q8| q.codes.iter().zip(&k.codes).map(|(a, b)| a * b).sum::<i128>();
    let scores: Row = k.iter().map(|k| sat(r(dot(k) * m * k.mant, q.exp + t + k.exp + uexp - 32))).collect();
    let top = *scores.iter().max().unwrap();
    let e: Row = scores.iter().map(|s| exp2(top - s)).collect();
    let total: i128 = e.iter().sum();
    let base = v.iter().filter(|v| v.mant != 0).map(|v| v.exp).min().unwrap_or(0);
    // The prefix-sum form: what carry does, said without it.
    let mut run = 1 << 30;
    let mut weights = Vec::new();
    for (e, v) in e.iter().zip(v) {
        let next = run + ((e * v.mant) >> (v.exp - base).clamp(0, 63));
        weights.push((next >> 31) - (run >> 31));
        run = next;
    }
    let shift = bits(total) - 31;
    let inverse = recip(total >> shift);
    let out: Row = (0..q.codes.len())
        .map(|j| {
            let sum: i128 = weights.iter().zip(v).map(|(w, v)| w * v.codes[j]).sum();
            sat(r(r(sum, shift) * inverse, 30 + base - frac + t))
        })
        .collect();
    if t == 0 {
        return out;
    }
    let (out, lost) = hadamard(&out, t);
    out.iter().map(|v| sat(v << lost)).collect()
}

// 10. GLU.

fn glu(g: i128, u: i128, gate_frac: i128, up_frac: i128, out_frac: i128) -> i128 {
    let z = r(g.abs() * 1_549_082_005, gate_frac + 14).min((1 << 32) - 1);
    let e = exp2(z);
    let inverse = recip((1 << 30) + e);
    let sigmoid = if g >= 0 { inverse } else { (e * inverse) >> 30 };
    sat(r(sat(r(g * sigmoid, 31)) * u, gate_frac + up_frac - out_frac))
}

// 10.1 Activation.

fn activation(x: i128, frac: i128, function: u32, out_frac: i128) -> i128 {
    let a = r(x.abs(), frac - 26).min(8 << 26);
    let square = (a * a) >> 26;
    let tail = match function {
        1 => {
            let cubic = (1 << 30) + ((square * 48_012_366) >> 26);
            let e = exp2(r(((a * cubic) >> 30) * 2_471_977_230, 40));
            (e * recip((1 << 30) + e)) >> 30
        }
        _ => {
            let d = (1 << 30) + ((a * 248_723_596) >> 26);
            let t = if d > 1 << 31 { recip(d >> 1) >> 1 } else { recip(d) };
            let b = [569_837_700, -780_155_054, 763_115_692, -152_738_022, 136_810_595];
            let p = b.iter().fold(0, |p, b| ((p * t) >> 31) + b);
            (((p * t) >> 31).max(0) * exp2(r(square * 774_541_002, 40))) >> 29
        }
    };
    let y = match function {
        0 => x.max(0),
        _ => sat(r(x * if x < 0 { tail } else { (1 << 31) - tail }, 31)),
    };
    sat(r(y, frac - out_frac))
}

// 12. Functions.

fn exp2(d: i128) -> i128 {
    if d >= 31 << 16 {
        return 0;
    }
    let table = (2f64.powi(30) * 2f64.powf(-((d >> 10 & 63) as f64) / 64.0)).round() as i128;
    let x = ((d % 1024) * 744_261_118) >> 16;
    let x2 = (x * x) >> 30;
    let x3 = (x2 * x) >> 30;
    let v = (table * ((1 << 30) - x + (x2 >> 1) - x3 / 6) + (1 << 29)) >> 30;
    (((2 * v) >> (d >> 16)) + 1) >> 1
}

fn recip(d: i128) -> i128 {
    let mut y = 3_031_741_621 - ((2_021_161_081 * d) >> 31);
    for _ in 0..3 {
        let xy = (d * y) >> 31;
        y = (y * ((1 << 31) - xy)) >> 30;
    }
    y
}

fn rsqrt(v: i128) -> (i128, i128) {
    let even = (64 - bits(v)) & 62;
    let u = (v << even) >> 32;
    let mut y = 2_388_753_613 - ((1_381_046_866 * u) >> 32);
    for _ in 0..4 {
        let y2 = (y * y) >> 30;
        let t = (u * y2) >> 32;
        y = (y * ((3 << 30) - t)) >> 31;
    }
    (y, (64 - even) / 2)
}

fn cos_sin(phase: u64) -> (i128, i128) {
    let table = |i: u64| (2f64.powi(30) * (core::f64::consts::FRAC_PI_2 * i as f64 / 64.0).sin()).round() as i128;
    let (i, rest) = (phase >> 56 & 63, i128::from(phase >> 32 & 0xFF_FFFF));
    let d = (rest * 843_314_857) >> 29;
    let d2 = (d * d) >> 30;
    let sin_d = d - ((((d2 * d) >> 30) * 178_956_971) >> 30);
    let cos_d = (1 << 30) - (d2 >> 1) + ((((d2 * d2) >> 30) * 44_739_243) >> 30);
    let (s, c) = (table(i), table(64 - i));
    let sin = (s * cos_d + c * sin_d + (1 << 29)) >> 30;
    let cos = (c * cos_d - s * sin_d + (1 << 29)) >> 30;
    match phase >> 62 {
        0 => (cos, sin),
        1 => (-sin, cos),
        2 => (-cos, -sin),
        _ => (sin, -cos),
    }
}

// The whole of a program, one token at a time.

/// Keys and values of a cache: [head][position].
type Cache = Vec<Vec<(Q8, Q8)>>;

#[derive(Default)]
struct Interpreter {
    /// I32 rows by place, since glu's result has its gate's place.
    rows: HashMap<[u64; 4], Row>,
    q8: HashMap<u32, Q8>,
    caches: HashMap<u32, Cache>,
    /// Rows by slot and position.
    kept: HashMap<(u32, u64), Row>,
}

impl Interpreter {
    fn run(&mut self, b: &Builder, program: &[Op], token: usize, position: u64) {
        for op in program {
            self.step(b, op, token, position);
        }
    }

    fn step(&mut self, b: &Builder, op: &Op, token: usize, position: u64) {
        let a = op.args;
        let slot = |which: usize| -> Slot { b.slots[a[which] as usize] };
        let frac = |which: usize| i128::from(slot(which).frac);
        let row = |which: usize| self.rows[&slot(which).offset].clone();
        let matrix = |which: usize| b.matrices[a[which] as usize].clone().unwrap();
        let name = ops::find(op.code).unwrap().name;
        match name {
            "embed" => {
                let factor = (i128::from(a[2]), i128::from(a[3] as i32));
                let by_position = op.flags & ops::embed::POSITIONS != 0;
                let index = if by_position { position as usize } else { token };
                let mut out = embed(&matrix(1), index, factor, a[4], frac(0));
                if by_position {
                    out.iter_mut().zip(row(0)).for_each(|(new, old)| *new = sat(*new + old));
                }
                self.rows.insert(slot(0).offset, out);
            }
            "select_row" => {
                self.rows.insert(slot(1).offset, row(0));
            }
            "rms_norm" => {
                let gamma = (a[2] != NONE).then(|| {
                    let (desc, bytes) = &b.tensors[a[2] as usize];
                    let values = bytes.as_chunks::<2>().0.iter().map(|v| i128::from(i16::from_le_bytes(*v)));
                    (values.collect(), i128::from(desc.exponent))
                });
                let eps = i128::from(a[3]) + (i128::from(a[4]) << 32);
                let norm = Norm { eps, rmant: i128::from(a[5]), rexp: i128::from(a[6]), gamma };
                let parts = row(0);
                let out = parts.chunks(a[7] as usize).flat_map(|x| rms_norm(x, &norm, frac(1))).collect();
                self.rows.insert(slot(1).offset, out);
            }
            "layer_norm" => {
                let (desc, bytes) = &b.tensors[a[2] as usize];
                let gamma: Row = bytes.as_chunks::<2>().0.iter().map(|v| i16::from_le_bytes(*v).into()).collect();
                let bytes = &b.tensors[a[3] as usize].1;
                let beta: Row = bytes.as_chunks::<4>().0.iter().map(|v| i32::from_le_bytes(*v).into()).collect();
                let eps = i128::from(a[4]) + (i128::from(a[5]) << 32);
                let root = (i128::from(a[6]), i128::from(a[7]));
                let out = layer_norm(&row(0), (&gamma, desc.exponent.into()), &beta, eps, root, frac(1));
                self.rows.insert(slot(1).offset, out);
            }
            "activation" => {
                let out = row(0).iter().map(|x| activation(*x, frac(0), a[2], frac(1))).collect();
                self.rows.insert(slot(1).offset, out);
            }
            "sinusoid" => {
                let bytes = b.tensors[a[1] as usize].1.as_chunks::<8>().0;
                let steps: Vec<u64> = bytes.iter().map(|s| u64::from_le_bytes(*s)).collect();
                let mut x = row(0);
                let half = x.len() / 2;
                for (i, step) in steps.iter().enumerate() {
                    let (cos, sin) = cos_sin(step.wrapping_mul(position + u64::from(a[2])));
                    x[i] = sat(x[i] + sat(r(sin, 30 - frac(0))));
                    x[half + i] = sat(x[half + i] + sat(r(cos, 30 - frac(0))));
                }
                self.rows.insert(slot(0).offset, x);
            }
            "kept_rows" if op.flags & ops::kept_rows::KEEP != 0 => {
                self.kept.insert((a[1], position), row(0));
            }
            "kept_rows" => {
                self.rows.insert(slot(0).offset, self.kept[&(a[1], position)].clone());
            }
            "mean_rows" => {
                let kept: Vec<&Row> = (0..).map_while(|position| self.kept.get(&(a[0], position))).collect();
                let count = if a[2] == 0 { kept.len() } else { kept.len().min(a[2] as usize) };
                let sum = |col: usize| kept[..count].iter().map(|row| row[col]).sum::<i128>();
                let mean = |col| (sum(col) + count as i128 / 2).div_euclid(count as i128);
                self.rows.insert(slot(1).offset, (0..slot(1).cols as usize).map(mean).collect());
            }
            "quantize" => {
                let q = quantize(&row(0), frac(0), i128::from(a[2]));
                self.q8.insert(a[1], q);
            }
            "matmul" => {
                let (m, x) = (matrix(1), &self.q8[&a[0]]);
                let bias = |r: usize| match a[2] {
                    NONE => 0,
                    t => i128::from(i32::from_le_bytes(b.tensors[t as usize].1.as_chunks::<4>().0[r])),
                };
                let old = if op.flags & 1 == 1 { row(3) } else { vec![0; m.rows] };
                let out = (0..m.rows).map(|r| matmul(&m, x, frac(3), r, bias(r), old[r])).collect();
                self.rows.insert(slot(3).offset, out);
            }
            "rope" => {
                let mut x = row(0);
                let steps: Vec<u64> =
                    b.tensors[a[1] as usize].1.as_chunks::<8>().0.iter().map(|s| u64::from_le_bytes(*s)).collect();
                x.chunks_mut(a[3] as usize).for_each(|head| rope(head, &steps, position));
                if op.flags & 1 == 1 {
                    let (transformed, lost) = hadamard(&x, head_block(a[3] as usize));
                    x = transformed.iter().map(|v| sat(v << lost)).collect();
                }
                self.rows.insert(slot(0).offset, x);
            }
            "cache" => {
                let (k, v) = (row(0), row(1));
                let Slot { heads, head_dim, kind, .. } = slot(2);
                let coded =
                    |x: &[i128], frac| if kind == Kind::Cache4 { quantize4(x, frac) } else { quantize(x, frac, 0) };
                let cache = self.caches.entry(a[2]).or_default();
                if position == 0 {
                    *cache = vec![Vec::new(); heads as usize];
                }
                for (head, k, v) in cache
                    .iter_mut()
                    .zip(k.chunks(head_dim as usize).zip(v.chunks(head_dim as usize)))
                    .map(|(h, (k, v))| (h, k, v))
                {
                    head.push((coded(k, frac(0)), coded(v, frac(1))));
                }
            }
            "attention" => {
                let (q, cache) = (row(0), &self.caches[&a[1]]);
                let (heads, head_dim) = (a[4] as usize, slot(1).head_dim as usize);
                let t = if slot(1).kind == Kind::Cache4 { head_block(head_dim) } else { 0 };
                let unit = (i128::from(a[5]), i128::from(a[6] as i32));
                let mut out = Vec::new();
                for (h, q) in q.chunks(head_dim).enumerate() {
                    let all = &cache[h / (heads / cache.len())];
                    let window = if a[7] == 0 { usize::MAX } else { a[7] as usize };
                    // A source is encoded as a whole before anything looks at all of it: its positions are those of the cache.
                    let (k, v): (Vec<Q8>, Vec<Q8>) = all[all.len().saturating_sub(window)..].iter().cloned().unzip();
                    out.extend(attention(&quantize(q, frac(0), t), unit, &k, &v, frac(3), t));
                }
                self.rows.insert(slot(3).offset, out);
            }
            "glu" => {
                let out = row(0).iter().zip(row(1)).map(|(g, u)| glu(*g, u, frac(0), frac(1), frac(2))).collect();
                self.rows.insert(slot(2).offset, out);
            }
            other => panic!("{other} is missing here"),
        }
    }
}

/// Compares each position's logits; how many different ones the last has.
fn compare(b: &Builder, tokens: &[u32], why: &str) -> usize {
    let mut different = 0;
    let file = b.image();
    let image = Image::open(&file).unwrap();
    let limits = Limits { batch: 1, context: tokens.len() as u32, threads: 1 };
    let mut arena = Arena::new(image.arena_bytes(limits).unwrap() as usize, || 0xA5);
    let mut session = Session::new(&image, arena.get(), limits).unwrap();
    let mut interpreter = Interpreter::default();
    for (token, position) in tokens.iter().zip(0..) {
        session.prefill(&[*token]).unwrap();
        interpreter.run(b, &b.body, *token as usize, position);
        interpreter.run(b, &b.head, *token as usize, position);
        let expected = &interpreter.rows[&b.slots[b.logits as usize].offset];
        let got: Row = session.last_logits().unwrap().iter().map(|v| i128::from(*v)).collect();
        assert!(got == *expected, "position {position}: {why}\n{got:?}\n{expected:?}");
        different = std::collections::HashSet::<i128>::from_iter(got).len();
    }
    different
}

/// A source through the stages of the encoder, then a target: the same logits, whatever the batches and threads.
#[test]
fn an_encoder_decoder_has_the_logits_of_the_page() {
    for seed in 1..=6u64 {
        let b = if seed % 2 == 0 { small_translator(seed).with_cache4() } else { small_translator(seed) };
        let random = &mut Random::new(seed + 100);
        let source: Vec<u32> = (0..3 * seed + 1).map(|_| random.range(0, 28) as u32).collect();
        let target = tokens(seed, 17);
        let mut page = Interpreter::default();
        for stage in &b.encode {
            (0..).zip(&source).for_each(|(position, token)| page.run(&b, stage, *token as usize, position));
        }
        let expected: Vec<Row> = (0..)
            .zip(&target)
            .map(|(position, token)| {
                page.run(&b, &b.body, *token as usize, position);
                page.run(&b, &b.head, *token as usize, position);
                page.rows[&b.slots[b.logits as usize].offset].clone()
            })
            .collect();
        let file = b.image();
        let image = Image::open(&file).unwrap();
        for (batch, context) in [(1, 20), (3, 21), (32, 64)] {
            let limits = Limits { batch, context, threads: 2 };
            let mut arena = Arena::new(image.arena_bytes(limits).unwrap() as usize, || 0xA5);
            let mut session = Session::with_pool(&image, arena.get(), limits, &support::Parts(2)).unwrap();
            assert_eq!(session.prefill(&target), Err(mote_runtime::Error::NoSource));
            // Another source first, and the target twice: nothing of them is left.
            for source in [&[5, 6, 7][..], &source] {
                session.encode(source).unwrap();
                session.prefill(&target).unwrap();
            }
            session.rewind(0);
            for (part, expected) in target.chunks(5).zip(expected.chunks(5)) {
                for (token, expected) in part.iter().zip(expected) {
                    session.prefill(&[*token]).unwrap();
                    let got: Row = session.last_logits().unwrap().iter().map(|v| i128::from(*v)).collect();
                    assert_eq!(got, *expected, "seed {seed}, batch {batch}");
                }
            }
            assert_eq!(session.encode(&[29]), Err(mote_runtime::Error::Token { id: 29, vocab: 29 }));
            assert_eq!(session.encode(&[]), Err(mote_runtime::Error::NoSource));
            let longer = vec![1; context as usize + 1];
            assert_eq!(session.encode(&longer), Err(mote_runtime::Error::ContextFull { used: 0, context }));
        }
        assert!(expected.iter().flatten().collect::<std::collections::HashSet<_>>().len() > 300);
    }
}

/// An encoder alone: the embedding of the page, whatever the batches, threads and sources before.
#[test]
fn an_encoder_has_the_embedding_of_the_page() {
    for seed in 1..=6u64 {
        let b = small_embedder(seed, (seed % 3) as u32);
        let random = &mut Random::new(seed + 100);
        let source: Vec<u32> = (0..3 * seed + 1).map(|_| random.range(0, 28) as u32).collect();
        let mut page = Interpreter::default();
        for stage in &b.encode {
            (0..).zip(&source).for_each(|(position, token)| page.run(&b, stage, *token as usize, position));
        }
        page.run(&b, &b.head, 0, 0);
        let expected = &page.rows[&b.slots[b.logits as usize].offset];
        assert!(expected.iter().collect::<std::collections::HashSet<_>>().len() > 10);
        let file = b.image();
        let image = Image::open(&file).unwrap();
        for (batch, context) in [(1, 20), (3, 21), (32, 64)] {
            let limits = Limits { batch, context, threads: 2 };
            let mut arena = Arena::new(image.arena_bytes(limits).unwrap() as usize, || 0xA5);
            let mut session = Session::with_pool(&image, arena.get(), limits, &support::Parts(2)).unwrap();
            assert_eq!(session.embed(&[]), Err(mote_runtime::Error::NoSource));
            for source in [&[5, 6, 7][..], &source] {
                session.embed(source).unwrap();
            }
            let got: Row = session.embed(&source).unwrap().iter().map(|v| i128::from(*v)).collect();
            assert_eq!(got, *expected, "seed {seed}, batch {batch}");
            let body = mote_runtime::image::program::entry::BODY;
            assert_eq!(session.prefill(&[1]), Err(mote_runtime::Error::Entry { id: body }));
            assert_eq!(session.logits(0), Err(mote_runtime::Error::Row { row: 0, rows: 0 }));
        }
    }
}

fn tokens(seed: u64, n: usize) -> Vec<u32> {
    let r = &mut Random::new(seed);
    (0..n).map(|_| r.range(0, 36) as u32).collect()
}

#[test]
fn a_model_has_the_logits_of_the_page() {
    for seed in 1..=6 {
        assert!(compare(&small_model(seed), &tokens(seed, 24), "") > 30);
        assert!(compare(&small_model(seed).with_transformed_heads(), &tokens(seed, 24), "transformed heads") > 30);
        assert!(compare(&small_gpt(seed), &tokens(seed, 24), "GPT") > 30);
        assert!(compare(&small_model(seed).with_cache4(), &tokens(seed, 24), "4-bit cache") > 30);
        assert!(compare(&small_gpt(seed).with_cache4(), &tokens(seed, 24), "GPT, 4-bit cache") > 30);
    }
}

/// Fractions and exponents from one end of their range to the other: shifts either way, saturation, zeros.
#[test]
fn extreme_models_have_the_logits_of_the_page() {
    let model = small_model(7);
    let glu = *model.body.iter().find(|op| op.code == code("glu")).unwrap();
    let r = &mut Random::new(70);
    let mut alive = 0;
    for round in 0..300 {
        let mut b = match round % 4 {
            0 => model.clone(),
            1 => model.clone().with_transformed_heads(),
            _ => model.clone().with_cache4(),
        };
        // Mild changes keep numbers alive through all layers, wild ones saturate them or make them vanish.
        let wild = round % 3 == 0;
        let frac = |r: &mut Random, old: i16| {
            if wild { r.range(-64, 64) as i16 } else { old + r.range(-4, 8) as i16 }
        };
        let q_frac = frac(r, 20);
        for i in 0..b.slots.len() {
            let old = b.slots[i].frac;
            b.slots[i].frac = frac(r, old);
        }
        let gate = glu.args[0] as usize;
        b.slots[gate].frac = b.slots[gate].frac.clamp(0, 28);
        b.slots[b.logits as usize].frac = b.slots[b.logits as usize].frac.max(0);
        // The head copies the residual; the bias has the fraction of q.
        let (x, last) = (b.head[0].args[0] as usize, b.head[0].args[1] as usize);
        b.slots[last].frac = b.slots[x].frac;
        for i in 0..b.tensors.len() {
            let desc = &mut b.tensors[i].0;
            match (desc.dtype, &mut b.matrices[i]) {
                (Dtype::I32, _) => desc.exponent = i32::from(q_frac),
                (_, Some(m)) => {
                    m.exponent += if wild { r.range(-60, 60) } else { r.range(-3, 3) } as i32;
                    desc.exponent = m.exponent;
                }
                _ => (),
            }
        }
        for op in &model.body {
            if op.code == code("matmul") && op.args[2] != NONE {
                b.slots[op.args[3] as usize].frac = q_frac;
            }
        }
        assert!(b.slots.iter().all(|s| s.kind != Kind::I32 || s.rows != Rows::Context));
        alive += usize::from(compare(&b, &tokens(round, 6), &format!("round {round}")) > 30);
    }
    assert!((100..300).contains(&alive), "{alive} models with logits that say something, others saturate");
}

/// Rows of every size, up to the largest int32, with and without outliers: where values are cut to fit.
#[test]
fn norms_and_quantizers_are_those_of_the_page() {
    let random = &mut Random::new(90);
    for round in 0..400 {
        let (width, log2) = [(8, 3), (64, 6), (256, 8), (1024, 10)][round % 4];
        let (frac, out_frac) = (random.range(0, 30) as i16, random.range(0, 30) as i16);
        let mut b = Builder::new();
        b.logits = b.i32_slot(Rows::One, 1, 0);
        let (x, y) = (b.i32_slot(Rows::Batch, width, frac), b.i32_slot(Rows::Batch, width, out_frac));
        let q = b.q8_slot(Rows::Batch, width);
        let gamma: Vec<i16> = (0..width).map(|_| random.next() as i16).collect();
        let table = b.vector16(&gamma, 14);
        let norm = support::rms_norm(x, y, Some(table), 1e-5, width, frac);
        let quantizer = support::op(code("quantize"), &[x, q, log2]);
        b.body.extend([norm, quantizer]);
        let mut bench = support::Bench::new(&b, support::limits(1, 1));

        let shift = random.range(0, 31);
        let mut row: Vec<i32> = (0..width).map(|_| (random.next() as i32) >> shift).collect();
        row[width / 2] = (random.next() as i32) >> random.range(0, 31);
        if round % 50 == 0 {
            row.fill([i32::MIN, i32::MAX][round / 50 % 2]);
        }
        let wide: Row = row.iter().map(|v| i128::from(*v)).collect();
        bench.row(x, 0).copy_from_slice(&row);
        bench.run(&norm, 1);
        let page = Norm {
            eps: i128::from(norm.args[3]) + (i128::from(norm.args[4]) << 32),
            rmant: i128::from(norm.args[5]),
            rexp: i128::from(norm.args[6]),
            gamma: Some((gamma.iter().map(|g| i128::from(*g)).collect(), 14)),
        };
        let got: Row = bench.row(y, 0).iter().map(|v| i128::from(*v)).collect();
        assert_eq!(got, rms_norm(&wide, &page, i128::from(out_frac)));

        bench.run(&quantizer, 1);
        let (scale, codes) = bench.q8(q, 0);
        let page = quantize(&wide, i128::from(frac), i128::from(log2));
        assert_eq!((i128::from(scale.mant), i128::from(scale.exp)), (page.mant, page.exp));
        assert!(codes.iter().map(|c| i128::from(*c)).take(width).eq(page.codes.iter().copied()));
    }
}

#[test]
fn functions_are_those_of_the_page() {
    let random = &mut Random::new(12);
    for _ in 0..200_000 {
        let v = random.next() >> random.range(0, 63);
        let (word, shift) = (v as u32, random.range(-70, 70) as i32);
        assert_eq!(i128::from(exp2_neg_q16(word)), exp2(i128::from(word)));
        assert_eq!(i128::from(exp2_neg_q16(word % (32 << 16))), exp2(i128::from(word % (32 << 16))));
        let d = (1 << 30) + word % ((1 << 30) + 1);
        assert_eq!(i128::from(fixed::rsqrt::recip(d)), recip(i128::from(d)));
        let (root, h) = fixed::rsqrt::rsqrt(v.max(1));
        assert_eq!((i128::from(root), i128::from(h)), rsqrt(i128::from(v.max(1))));
        let (cos, sin) = fixed::rope::cos_sin(v);
        assert_eq!((i128::from(cos), i128::from(sin)), cos_sin(v));
        let signed = (random.next() as i64) >> random.range(0, 63);
        assert_eq!(i128::from(fixed::shift_round(signed, shift)), r(i128::from(signed), i128::from(shift)));
        let (inv, down, scale) = requantize::quantizer(word.clamp(1, 1 << 31));
        let q = quantize(&[i128::from(word.clamp(1, 1 << 31))], 0, 0);
        assert_eq!((i128::from(scale.mant), i128::from(scale.exp)), (q.mant, q.exp));
        assert_eq!(i128::from(fixed::shift_round(i64::from(word.clamp(1, 1 << 31)) * inv, down)), q.codes[0]);
    }
}
