//! The ops on plain tensors against NUMERICS.md, section 13, written down a second time: an element at a time, in i64, addresses
//! by multiplication. And what the session does with them: ports of every type, state from one run to the next.

mod support;

use mote_runtime::image::plan::{Kind, Rows};
use mote_runtime::image::program::NONE;
use mote_runtime::image::{Dtype, Element, Op, Port};
use mote_runtime::ops::BACKWARD;
use mote_runtime::{Error, Image, Limits, Session};
use support::{Arena, Bench, Builder, Random, code, limits, op, port, requantize, requantize_wide, try_run, word};

const KINDS: [Kind; 3] = [Kind::I8, Kind::I16, Kind::I32];

fn builder() -> Builder {
    let mut b = Builder::new();
    b.logits = b.i32_slot(Rows::One, 1, 0);
    b
}

fn range(kind: Kind) -> (i64, i64) {
    match kind {
        Kind::I8 => (-128, 127),
        Kind::I16 => (-32_768, 32_767),
        _ => (i32::MIN.into(), i32::MAX.into()),
    }
}

/// Numbers of a type: of all its range, or of its ends.
fn numbers(r: &mut Random, kind: Kind, n: usize) -> Vec<i64> {
    let (least, largest) = range(kind);
    let edge = r.range(0, 3) == 0;
    (0..n).map(|_| if edge { [least, largest][r.range(0, 1) as usize] } else { r.range(least, largest) }).collect()
}

/// Runs the one op of `b`, its slots filled with `inputs`, and returns the slot `out`.
fn run(b: &Builder, inputs: &[(u32, &[i64])], out: u32) -> Vec<i64> {
    let mut bench = Bench::new(b, limits(1, 1));
    for (slot, values) in inputs {
        bench.put(*slot, values);
    }
    bench.run(&b.run[0], 1);
    bench.got(out)
}

fn opens(b: &Builder) -> bool {
    Image::open(&b.image()).is_ok()
}

/// Section 13.6: 512 steps, straight between, each number modulo 2^16.
fn between(steps: &[i64], x: i64) -> i64 {
    let wrap = |v: i64| i64::from(v as i16);
    let (at, rest) = ((x + 32_768) / 128, (x + 32_768) % 128);
    let slope = wrap(steps[at as usize + 1] - steps[at as usize]);
    wrap(steps[at as usize] + (slope * rest + 64).div_euclid(128))
}

#[test]
fn lookup_is_the_page_s() {
    let r = &mut Random::new(1);
    for case in 0..50 {
        let len = r.range(1, 400) as usize;
        let (x, table) = (numbers(r, Kind::I8, len), numbers(r, Kind::I8, 256));
        let mut b = builder();
        let (from, to) = (b.i8_slot(len), b.i8_slot(len));
        let constant = b.tensor8(&table.iter().map(|v| *v as i8).collect::<Vec<_>>(), &[256]);
        b.run.push(op(code("lookup"), &[from, to, constant]));
        let expected: Vec<i64> = x.iter().map(|x| table[x.rem_euclid(256) as usize]).collect();
        assert_eq!(run(&b, &[(from, &x)], to), expected, "case {case}");
        let (x, steps) = (numbers(r, Kind::I16, len), numbers(r, Kind::I16, 513));
        let expected: Vec<i64> = x.iter().map(|x| between(&steps, *x)).collect();
        let mut t = Try::new();
        let (a, out) = (t.input(Kind::I16, &x), t.out(Kind::I16, len));
        let table = t.b.constant(Kind::I16, &steps, &[513]);
        assert_eq!(t.run("lookup", 0, &[a, out, table], out), expected, "case {case}");
        t.in_place(out, a, &expected);
    }
    let mut b = builder();
    let (from, to, short) = (b.i8_slot(4), b.i8_slot(4), b.i8_slot(3));
    let (table, small) = (b.tensor8(&[0; 256], &[16, 16]), b.tensor8(&[0; 255], &[255]));
    for (args, fits) in [([from, to, table], true), ([from, short, table], false), ([from, to, small], false)] {
        b.run = vec![op(code("lookup"), &args)];
        assert_eq!(opens(&b), fits, "{args:?}");
    }
}

/// A box at random, and what the page says of it: every pair of elements, or none if the box does not fit.
fn copy_case(r: &mut Random, case: i32) -> bool {
    let kind = KINDS[r.range(0, 2) as usize];
    let rank = r.range(1, 6) as usize;
    let dims: Vec<i64> = (0..rank).map(|_| r.range(1, 4)).collect();
    let count: i64 = dims.iter().product();
    let sizes = [r.range(1, 40), r.range((count - 2).max(1), count + 40)];
    let strides: [Vec<i64>; 2] = std::array::from_fn(|side| {
        let packed = r.range(0, 1) == 0;
        let mut next = 1;
        let mut all: Vec<i64> = (0..rank)
            .rev()
            .map(|axis| {
                let dense = next;
                next *= dims[axis];
                if packed && side == 1 { dense } else { r.range(-2, 3) }
            })
            .collect();
        all.reverse();
        all
    });
    let first: [i64; 2] = std::array::from_fn(|side| r.range(0, sizes[side] - 1));
    let mut pairs = vec![first];
    for (axis, dim) in dims.iter().enumerate() {
        let moved = |at: [i64; 2], i: i64| [at[0] + i * strides[0][axis], at[1] + i * strides[1][axis]];
        pairs = pairs.into_iter().flat_map(|at| (0..*dim).map(move |i| moved(at, i)).collect::<Vec<_>>()).collect();
    }
    let fits = pairs.iter().all(|at| (0..2).all(|side| (0..sizes[side]).contains(&at[side]))) && count <= sizes[1];
    let mut b = builder();
    let (from, to) = (b.plain_slot(kind, sizes[0] as usize), b.plain_slot(kind, sizes[1] as usize));
    let layout: Vec<i32> = dims.iter().chain(&strides[0]).chain(&strides[1]).map(|v| *v as i32).collect();
    let layout = b.tensor32(&layout, &[3, rank]);
    b.run.push(op(code("copy"), &[from, to, layout, first[0] as u32, first[1] as u32]));
    assert_eq!(opens(&b), fits, "case {case}");
    if fits {
        let (x, before) = (numbers(r, kind, sizes[0] as usize), numbers(r, kind, sizes[1] as usize));
        let mut expected = before.clone();
        pairs.iter().for_each(|[from, to]| expected[*to as usize] = x[*from as usize]);
        assert_eq!(run(&b, &[(from, &x), (to, &before)], to), expected, "case {case}");
    }
    fits
}

#[test]
fn copy_is_the_page_s() {
    let r = &mut Random::new(2);
    let fit = (0..20_000).filter(|case| copy_case(r, *case)).count();
    assert!((500..19_500).contains(&fit), "{fit}");
}

#[test]
fn copies_that_do_not_fit() {
    let mut b = builder();
    let (x, y, z) = (b.i8_slot(16), b.i8_slot(16), b.plain_slot(Kind::I16, 16));
    let layouts: Vec<u32> = [
        [2, 2, 8, 1, 2, 1],
        [2, 2, 15, 1, 2, 1],
        [i32::MAX, 2, 0, 0, 0, 0],
        [-1, 2, 0, 0, 0, 0],
        [0, 2, 0, 0, 0, 0],
        [1, 1, i32::MIN, i32::MAX, i32::MIN, i32::MIN],
        [16, 2, i32::MAX, i32::MAX, i32::MAX, i32::MAX],
    ]
    .iter()
    .map(|layout| b.tensor32(layout, &[3, 2]))
    .collect();
    let (seven, flat) = (b.tensor32(&[1; 21], &[3, 7]), b.tensor32(&[1; 6], &[6]));
    let good = |layout: u32| [x, y, layouts[layout as usize], 0, 0];
    let wrong = [[x, z, layouts[0], 0, 0], [x, y, seven, 0, 0], [x, y, flat, 0, 0], [x, y, layouts[0], 16, 0]];
    let cases = [(good(0), true), (good(5), true)].into_iter().chain([1, 2, 3, 4, 6].map(|i| (good(i), false)));
    for (args, fits) in cases.chain(wrong.map(|args| (args, false))) {
        b.run = vec![op(code("copy"), &args)];
        assert_eq!(opens(&b), fits, "{args:?}");
    }
}

#[test]
fn fill_is_the_page_s() {
    let r = &mut Random::new(3);
    for case in 0..200 {
        let (kind, len) = (KINDS[r.range(0, 2) as usize], r.range(1, 40) as usize);
        let mut b = builder();
        let out = b.plain_slot(kind, len);
        let mut expected = numbers(r, kind, len);
        if case % 2 == 0 {
            expected = vec![expected[0]; len];
            b.run.push(op(code("fill"), &[out, expected[0] as u32, NONE]));
        } else {
            let tensor = b.constant(kind, &expected, &[len]);
            b.run.push(op(code("fill"), &[out, 0, tensor]));
        }
        assert_eq!(run(&b, &[], out), expected, "case {case}");
    }
    let mut b = builder();
    let (bytes, words) = (b.i8_slot(4), b.plain_slot(Kind::I16, 4));
    let (tensor, short) = (b.tensor8(&[1; 4], &[4]), b.tensor8(&[1; 3], &[3]));
    let minus = |v: u32| v.wrapping_neg();
    for (args, fits) in [
        ([bytes, 127, NONE], true),
        ([bytes, minus(128), NONE], true),
        ([bytes, 128, NONE], false),
        ([bytes, minus(129), NONE], false),
        ([words, minus(32_768), NONE], true),
        ([words, 32_768, NONE], false),
        ([bytes, 0, tensor], true),
        ([bytes, 1, tensor], false),
        ([bytes, 0, short], false),
        ([words, 0, tensor], false),
    ] {
        b.run = vec![op(code("fill"), &args)];
        assert_eq!(opens(&b), fits, "{args:?}");
    }
}

/// Multiplier, shift and zero point that bring sums as large as `reach` to a type; `finish` is the page's clamp(Q + zero).
struct Rescale {
    multiplier: i64,
    shift: i64,
    zero: i64,
    range: (i64, i64),
    single: bool,
}

impl Rescale {
    fn random(r: &mut Random, kind: Kind, reach: f64) -> Self {
        let (least, largest) = range(kind);
        let shift = ((largest as f64) / reach).log2().floor() as i64 + r.range(-1, 2);
        let (multiplier, zero) = (r.range(1 << 30, (1 << 31) - 1), r.range(least, largest));
        Self { multiplier, shift: shift.clamp(-31, 30), zero, range: (least, largest), single: r.range(0, 1) == 1 }
    }

    fn args(&self) -> [u32; 3] {
        [self.multiplier as u32, self.shift as u32, self.zero as u32]
    }

    fn finish_wide(&self, sum: i64) -> i64 {
        let value = requantize_wide(sum, self.multiplier, self.shift.min(7));
        (value + self.zero).clamp(self.range.0, self.range.1)
    }

    fn finish(&self, sum: i64) -> i64 {
        let value = requantize(i64::from(sum as i32), self.multiplier, self.shift, self.single);
        (value + self.zero).clamp(self.range.0, self.range.1)
    }
}

/// Adds the op, with its flags, and slots for its output; runs it, and compares.
struct Try {
    b: Builder,
    inputs: Vec<(u32, Vec<i64>)>,
}

impl Try {
    fn new() -> Self {
        Self { b: builder(), inputs: Vec::new() }
    }

    fn input(&mut self, kind: Kind, values: &[i64]) -> u32 {
        let slot = self.b.plain_slot(kind, values.len());
        self.inputs.push((slot, values.to_vec()));
        slot
    }

    fn out(&mut self, kind: Kind, len: usize) -> u32 {
        self.b.plain_slot(kind, len)
    }

    fn run(&mut self, name: &str, flags: u16, args: &[u32], out: u32) -> Vec<i64> {
        self.b.run = vec![Op { flags, ..op(code(name), args) }];
        let inputs: Vec<(u32, &[i64])> = self.inputs.iter().map(|(slot, values)| (*slot, &values[..])).collect();
        run(&self.b, &inputs, out)
    }

    /// The same again, the output lying on the input `from`, forward and backward.
    fn in_place(&mut self, out: u32, from: u32, expected: &[i64]) {
        let the_op = self.b.run[0];
        let at = self.b.slots[from as usize].offset;
        let width = |slot: u32| KINDS.iter().position(|kind| *kind == self.b.slots[slot as usize].kind);
        let (small, large) = (width(from), width(out));
        self.b.slots[out as usize].offset = at;
        for backward in [0, BACKWARD] {
            // Wider elements than the input's are written in front of it, unless the last is first.
            if (small < large && backward == 0) || (small > large && backward != 0) {
                continue;
            }
            self.b.run[0] = Op { flags: the_op.flags | backward, ..the_op };
            let inputs: Vec<(u32, &[i64])> = self.inputs.iter().map(|(slot, values)| (*slot, &values[..])).collect();
            assert_eq!(run(&self.b, &inputs, out), expected, "in place, {:?}", self.b.run[0]);
        }
    }
}

/// Two tensors of a type, an op on them, and the op's result in places apart and on either.
fn binary(r: &mut Random, kind: Kind, name: &str, flags: u16, args: &[u32], f: &dyn Fn(i64, i64) -> i64) {
    let len = r.range(1, 60) as usize;
    let (x, y) = (numbers(r, kind, len), numbers(r, kind, len));
    let expected: Vec<i64> = x.iter().zip(&y).map(|(x, y)| f(*x, *y)).collect();
    let mut t = Try::new();
    let (a, b, out) = (t.input(kind, &x), t.input(kind, &y), t.out(kind, len));
    let args: Vec<u32> = [a, b, out].iter().chain(args).copied().collect();
    assert_eq!(t.run(name, flags, &args, out), expected, "{name} {kind:?}");
    let place = [a, b][r.range(0, 1) as usize];
    t.in_place(out, place, &expected);
}

#[test]
fn mul_is_the_page_s() {
    let r = &mut Random::new(4);
    for case in 0..200 {
        let kind = KINDS[case % 2];
        let (least, largest) = range(kind);
        let mut q = Rescale::random(r, kind, (largest * largest) as f64);
        let zeros = [r.range(least, largest), r.range(least, largest)];
        let low = r.range(least, largest);
        q.range = (low, r.range(low, largest));
        let args =
            [q.args()[0], q.args()[1], q.args()[2], zeros[0] as u32, zeros[1] as u32, low as u32, q.range.1 as u32];
        binary(r, kind, "mul", q.single.into(), &args, &|x, y| q.finish((x - zeros[0]) * (y - zeros[1])));
    }
}

#[test]
fn arithmetic_is_the_page_s() {
    let r = &mut Random::new(20);
    let wrap = |v: i64| i64::from(v as i32);
    for _ in 0..50 {
        binary(r, Kind::I32, "arithmetic", 0, &[0], &|x, y| wrap(x + y));
        binary(r, Kind::I32, "arithmetic", 0, &[1], &|x, y| wrap(x - y));
        binary(r, Kind::I32, "arithmetic", 0, &[2], &|x, y| wrap((i128::from(x) * i128::from(y)) as i64));
        // Mostly small divisors, 0 and -1 among them.
        let quotient = |x: i64, y: i64| if y == 0 { 0 } else { wrap(x / y) };
        binary(r, Kind::I32, "arithmetic", 0, &[3], &quotient);
        let (x, y) = (numbers(r, Kind::I32, 20), (-10..10).collect::<Vec<i64>>());
        let expected: Vec<i64> = x.iter().zip(&y).map(|(x, y)| quotient(*x, *y)).collect();
        let mut t = Try::new();
        let (a, b, out) = (t.input(Kind::I32, &x), t.input(Kind::I32, &y), t.out(Kind::I32, 20));
        assert_eq!(t.run("arithmetic", 0, &[a, b, out, 3], out), expected);
    }
}

#[test]
fn maximum_is_the_page_s() {
    let r = &mut Random::new(5);
    for case in 0..60 {
        binary(r, KINDS[case % 3], "maximum", 0, &[], &|x, y| x.max(y));
        binary(r, KINDS[case % 3], "maximum", 1, &[], &|x, y| x.min(y));
    }
}

#[test]
fn squared_difference_is_the_page_s() {
    let r = &mut Random::new(6);
    for case in 0..200 {
        let kind = KINDS[case % 2];
        let (least, largest) = range(kind);
        let up = if kind == Kind::I8 { 7 } else { 0 };
        let zeros = if kind == Kind::I8 { [r.range(least, largest), r.range(least, largest)] } else { [0; 2] };
        let m = [r.range(1 << 30, (1 << 31) - 1), r.range(1 << 30, (1 << 31) - 1)];
        let s = [r.range(-4, 0), r.range(-4, 0)];
        let q = Rescale::random(r, kind, f64::from(1 << 30));
        let q_args = q.args();
        let shifts = word([s[0], s[1], 0, 0]);
        let args =
            [q_args[0], q_args[1], q_args[2], zeros[0] as u32, zeros[1] as u32, m[0] as u32, m[1] as u32, shifts];
        let term = |v: i64, i: usize| requantize((v - zeros[i]) << up, m[i], s[i], q.single);
        let square = |x: i64, y: i64| (term(x, 0) - term(y, 1)).pow(2);
        binary(r, kind, "squared_difference", q.single.into(), &args, &|x, y| q.finish(square(x, y)));
    }
}

#[test]
fn hypot_is_the_page_s() {
    let r = &mut Random::new(21);
    for case in 0..200 {
        let kind = KINDS[case % 2];
        let (least, largest) = range(kind);
        let zero = if kind == Kind::I8 { r.range(least, largest) } else { 0 };
        let q = Rescale::random(r, kind, largest as f64 * f64::from(1 << 14));
        let args = [&q.args()[..], &[zero as u32]].concat();
        // The nearest root: r (r - 1) < v <= r (r + 1).
        let root = |v: i128| {
            let r = v.isqrt();
            if v > r * (r + 1) { r + 1 } else { r }
        };
        let square = |x: i64| i128::from(x - zero).pow(2);
        let exact = |x: i64, y: i64| q.finish(root((square(x) + square(y)) << 28) as i64);
        binary(r, kind, "hypot", q.single.into(), &args, &exact);
    }
}

/// Random sizes before, along and behind a dimension.
fn around(r: &mut Random) -> [usize; 3] {
    [r.range(1, 4) as usize, r.range(1, 9) as usize, r.range(1, 5) as usize]
}

/// For each outer and inner, the elements along the dimension.
fn lines(x: &[i64], [outer, count, inner]: [usize; 3]) -> Vec<Vec<i64>> {
    let line = |o: usize, i: usize| (0..count).map(|n| x[(o * count + n) * inner + i]).collect();
    (0..outer * inner).map(|at| line(at / inner, at % inner)).collect()
}

#[test]
fn reduce_is_the_page_s() {
    let r = &mut Random::new(7);
    for case in 0..300 {
        let (kind, shape) = (KINDS[case % 3], around(r));
        let x = numbers(r, kind, shape.iter().product());
        let mut t = Try::new();
        let (a, out) = (t.input(kind, &x), t.out(kind, shape[0] * shape[2]));
        let sizes = [a, out, shape[1] as u32, shape[2] as u32];
        for (flags, pick) in [(4, i64::max as fn(i64, i64) -> i64), (8, i64::min)] {
            let expected: Vec<i64> =
                lines(&x, shape).into_iter().map(|l| l.into_iter().reduce(pick).unwrap()).collect();
            assert_eq!(t.run("reduce", flags, &sizes, out), expected, "case {case}");
        }
        if kind == Kind::I32 {
            continue;
        }
        let zero = r.range(range(kind).0, range(kind).1);
        let q = Rescale::random(r, kind, (shape[1] as i64 * range(kind).1) as f64);
        let args: Vec<u32> = sizes.into_iter().chain(q.args()).chain([zero as u32]).collect();
        let sum = |l: Vec<i64>| q.finish(l.into_iter().map(|v| v - zero).sum());
        let expected: Vec<i64> = lines(&x, shape).into_iter().map(sum).collect();
        assert_eq!(t.run("reduce", q.single.into(), &args, out), expected, "case {case}");
    }
}

#[test]
fn gather_is_the_page_s() {
    let r = &mut Random::new(8);
    for case in 0..200 {
        let (kind, shape) = (KINDS[case % 3], around(r));
        let [outer, count, inner] = shape;
        let data = numbers(r, kind, shape.iter().product());
        let edge = [i32::MIN, i32::MAX, -1, 0];
        let index = |r: &mut Random| {
            if r.range(0, 4) == 0 { edge[r.range(0, 3) as usize].into() } else { r.range(-12, 12) }
        };
        let indices: Vec<i64> = (0..r.range(1, 9)).map(|_| index(r)).collect();
        let row = |i: i64| (if i < 0 { i + count as i64 } else { i }).clamp(0, count as i64 - 1) as usize;
        let gathered = |outer: usize| {
            let rows = (0..outer).flat_map(|o| indices.iter().map(move |i| o * count + row(*i)));
            rows.flat_map(|at| data[at * inner..][..inner].to_vec()).collect::<Vec<i64>>()
        };
        let mut t = Try::new();
        let at = t.input(Kind::I32, &indices);
        let (out, from) = (t.out(kind, outer * indices.len() * inner), t.input(kind, &data));
        let args = [at, out, from, count as u32, inner as u32];
        assert_eq!(t.run("gather_slot", 0, &args, out), gathered(outer), "case {case}");
        if kind == Kind::I8 {
            let table = t.b.constant(kind, &data[..count * inner], &[count, inner]);
            let out = t.out(kind, indices.len() * inner);
            assert_eq!(t.run("gather", 0, &[at, out, table], out), gathered(1), "case {case}");
        }
    }
}

#[test]
fn requantize_is_the_page_s() {
    let r = &mut Random::new(9);
    for case in 0..270 {
        let (from, to) = (KINDS[case % 3], KINDS[case / 3 % 3]);
        let len = r.range(1, 60) as usize;
        let (x, zero) = (numbers(r, from, len), r.range(range(from).0, range(from).1));
        let q = Rescale::random(r, to, range(from).1 as f64);
        let expected: Vec<i64> = x.iter().map(|x| q.finish(x - zero)).collect();
        let mut t = Try::new();
        let (a, out) = (t.input(from, &x), t.out(to, len));
        // The larger slot first, so that the output can lie on the input.
        t.b.slots[out as usize].offset[0] += 1024;
        let args = [&[a, out][..], &q.args(), &[zero as u32]].concat();
        assert_eq!(t.run("requantize", q.single.into(), &args, out), expected, "case {case}");
        t.in_place(out, a, &expected);
    }
}

#[test]
fn arg_max_is_the_page_s() {
    let r = &mut Random::new(10);
    for case in 0..200 {
        let (kind, shape) = (KINDS[case % 3], around(r));
        let x: Vec<i64> = (0..shape.iter().product()).map(|_| r.range(-3, 3)).collect();
        let mut t = Try::new();
        let (a, out) = (t.input(kind, &x), t.out(Kind::I32, shape[0] * shape[2]));
        for (flags, sign) in [(0, -1), (1, 1)] {
            let first = |l: Vec<i64>| (0..l.len()).min_by_key(|i| sign * l[*i]).unwrap() as i64;
            let expected: Vec<i64> = lines(&x, shape).into_iter().map(first).collect();
            let args = [a, out, shape[1] as u32, shape[2] as u32];
            assert_eq!(t.run("arg_max", flags, &args, out), expected, "case {case}");
        }
    }
}

#[test]
fn top_k_is_the_page_s() {
    let r = &mut Random::new(11);
    for case in 0..200 {
        let (kind, rows, n) = (KINDS[case % 3], r.range(1, 4) as usize, r.range(1, 12) as usize);
        let k = r.range(1, n as i64) as usize;
        let x: Vec<i64> =
            if case % 2 == 0 { numbers(r, kind, rows * n) } else { (0..rows * n).map(|_| r.range(-3, 3)).collect() };
        let sorted = x.chunks(n).flat_map(|row| {
            let mut all: Vec<(i64, i64)> = row.iter().copied().zip(0..).collect();
            all.sort_by_key(|(v, i)| (-v, *i));
            all.into_iter().take(k)
        });
        let (values, places): (Vec<i64>, Vec<i64>) = sorted.unzip();
        let mut t = Try::new();
        let (a, out, at) = (t.input(kind, &x), t.out(kind, rows * k), t.out(Kind::I32, rows * k));
        let args = [a, out, at, n as u32, k as u32];
        assert_eq!(t.run("top_k", 0, &args, out), values, "case {case}");
        assert_eq!(t.run("top_k", 0, &args, at), places, "case {case}");
    }
}

#[test]
fn resize_is_the_page_s() {
    let r = &mut Random::new(12);
    for case in 0..200 {
        let size: [usize; 2] = std::array::from_fn(|_| r.range(1, 6) as usize);
        let channels = r.range(1, 4) as usize;
        let x = numbers(r, Kind::I8, size[0] * size[1] * channels);
        let places: [Vec<i64>; 2] = std::array::from_fn(|axis| {
            let last = 1024 * (size[axis] as i64 - 1);
            (0..r.range(1, 9))
                .map(|_| if r.range(0, 3) == 0 { r.range(0, last) & !1023 } else { r.range(0, last) })
                .collect()
        });
        let mut expected = Vec::new();
        for (y, x0) in places[0].iter().flat_map(|y| places[1].iter().map(move |x| (*y, *x))) {
            for c in 0..channels {
                // Every pixel weighs by how near it is.
                let weight = |at: i64, i: usize| (1024 - (at - 1024 * i as i64).abs()).max(0);
                let sum: i64 = (0..size[0] * size[1])
                    .map(|p| weight(y, p / size[1]) * weight(x0, p % size[1]) * x[p * channels + c])
                    .sum();
                let (half, unit) = (1 << 19, 1 << 20);
                let single = (sum + half).div_euclid(unit);
                let away = (sum.abs() + half) / unit * sum.signum();
                expected.push(if case % 2 == 1 { single } else { away });
            }
        }
        let mut t = Try::new();
        let (a, out) = (t.input(Kind::I8, &x), t.out(Kind::I8, expected.len()));
        let tables: Vec<u32> = places.iter().map(|p| t.b.constant(Kind::I32, p, &[p.len()])).collect();
        let args = [a, out, (size[0] | size[1] << 16) as u32, tables[0], tables[1]];
        assert_eq!(t.run("resize", (case % 2) as u16, &args, out), expected, "case {case}");
    }
}

#[test]
fn batch_matmul_is_the_page_s() {
    let r = &mut Random::new(13);
    for case in 0..200 {
        let mut size = |high| r.range(1, high) as usize;
        let (batch, m, k, n) = (size(3), size(4), size(20), size(40));
        let (transposed, shared) = (case % 2 == 1, case % 3 == 0);
        let kind = KINDS[case / 6 % 2];
        let x = numbers(r, kind, batch * m * k);
        let y = numbers(r, kind, if shared { k * n } else { batch * k * n });
        let zeros = [r.range(-128, 127), r.range(-128, 127)];
        let q = Rescale::random(r, kind, k as f64 * (range(kind).1 * range(kind).1 / 2) as f64);
        let mut expected = Vec::new();
        for (g, row, col) in (0..batch).flat_map(|g| (0..m).flat_map(move |i| (0..n).map(move |j| (g, i, j)))) {
            let product = |i: usize| {
                let at = if transposed { col * k + i } else { i * n + col };
                let y = y[if shared { at } else { g * k * n + at }];
                (x[(g * m + row) * k + i] - zeros[0]) * (y - zeros[1])
            };
            let sum = (0..k).map(product).sum();
            expected.push(if kind == Kind::I8 { q.finish(sum) } else { q.finish_wide(sum) });
        }
        let mut t = Try::new();
        let (a, b, out) = (t.input(kind, &x), t.input(kind, &y), t.out(kind, batch * m * n));
        let sizes = [zeros[0] as u32, zeros[1] as u32, m as u32, k as u32, n as u32];
        let args = [&[a, b, out][..], &q.args(), &sizes].concat();
        let flags = u16::from(q.single) | if transposed { 4 } else { 0 };
        assert_eq!(t.run("batch_matmul", flags, &args, out), expected, "case {case}");
    }
}

#[test]
fn prelu_is_the_page_s() {
    let r = &mut Random::new(14);
    for case in 0..100 {
        let kind = KINDS[case % 2];
        let (rows, channels) = (r.range(1, 6) as usize, r.range(1, 7) as usize);
        let (x, slopes) = (numbers(r, kind, rows * channels), numbers(r, Kind::I8, channels));
        let (zero, zero_slope) = (r.range(range(kind).0, range(kind).1), r.range(-128, 127));
        let reach = range(kind).1 as f64;
        let (above, mut below) = (Rescale::random(r, kind, reach), Rescale::random(r, kind, reach * 100.0));
        (below.zero, below.single) = (above.zero, above.single);
        let value = |(i, x): (usize, &i64)| {
            let x = x - zero;
            if x >= 0 { above.finish(x) } else { below.finish(x * (slopes[i % channels] - zero_slope)) }
        };
        let expected: Vec<i64> = x.iter().enumerate().map(value).collect();
        let mut t = Try::new();
        let (a, out) = (t.input(kind, &x), t.out(kind, x.len()));
        let table = t.b.constant(Kind::I8, &slopes, &[channels]);
        let [m, s, _] = below.args();
        let args = [&[a, out, table][..], &above.args(), &[zero as u32, zero_slope as u32, m, s]].concat();
        assert_eq!(t.run("prelu", above.single.into(), &args, out), expected, "case {case}");
        t.in_place(out, a, &expected);
    }
}

#[test]
fn sigmoid16_is_the_page_s() {
    let r = &mut Random::new(16);
    let s = |x: f64| 1.0 / (1.0 + (-x).exp());
    let bulge = |x: f64| (s(x) * (1.0 - s(x)) * (1.0 - 2.0 * s(x))).abs() / (16.0 * 24.0 * 24.0);
    let at = |i: i64| s(i as f64 / 24.0) + bulge(i as f64 / 24.0);
    let mut table: Vec<i64> = (0..256).map(|i| (65_536.0 * at(i)).round() as i64).collect();
    table[255] = 65_535;
    let (mut worst, len) = ([0f64; 2], 300);
    for case in 0..100 {
        let x = numbers(r, Kind::I16, len);
        let (shift, tanh) = (r.range(0, 12), case % 2);
        let multiplier = r.range(1 << shift, 7 << shift);
        let value = |x: &i64| {
            let x = (x * multiplier + if shift > 0 { 1 << (shift - 1) } else { 0 }).div_euclid(1 << shift);
            // Steps of the table: 512 of 1/12288; of tanh, whose argument counts twice, 256.
            let step = if tanh == 1 { 256 } else { 512 };
            let (i, rest) = ((x.abs() / step) as usize, x.abs() % step);
            let size = if i < 255 { table[i] * step + rest * (table[i + 1] - table[i]) } else { 65_535 * step };
            let size = if i >= 255 && tanh == 0 { 32_767 * 1024 } else { size };
            // 1 is 2^16 steps of the table; the result has 2^15: half up, or half down below 0.
            let (unit, one) = (step << 16, if tanh == 1 { step } else { 2 * step });
            let exact = match (tanh, x >= 0) {
                (0, true) => size,
                (0, false) => unit - size,
                (_, true) => size - unit / 2,
                (_, false) => unit / 2 - size,
            };
            (exact + one / 2 - i64::from(x < 0)).div_euclid(one)
        };
        let expected: Vec<i64> = x.iter().map(value).collect();
        for (x, y) in x.iter().zip(&expected) {
            let x = (x * multiplier) as f64 / 2f64.powi(shift as i32) / 12_288.0;
            let exact = if tanh == 1 { x.tanh() } else { s(x) };
            worst[tanh] = worst[tanh].max((*y as f64 - (exact * 32_768.0).min(32_767.0)).abs());
        }
        let mut t = Try::new();
        let (a, out) = (t.input(Kind::I16, &x), t.out(Kind::I16, len));
        let constant = t.b.constant(Kind::I16, &table, &[256]);
        let args = [a, out, multiplier as u32, shift as u32, constant];
        assert_eq!(t.run("sigmoid16", 4 * tanh as u16, &args, out), expected, "case {case}");
        t.in_place(out, a, &expected);
    }
    support::measured("sigmoid16", worst[0], 2.0);
    support::measured("sigmoid16, tanh", worst[1], 4.0);
}

#[test]
fn softmax16_is_the_page_s() {
    let r = &mut Random::new(17);
    let sample = |f: &dyn Fn(f64) -> f64| -> Vec<i64> {
        (0..513).map(|i| (32_768.0 * f(f64::from(i) / 512.0)).round().clamp(-32_768.0, 32_767.0) as i64).collect()
    };
    let (exp, recip) = (sample(&|x| (10.0 * x - 10.0).exp()), sample(&|x| 1.0 / (1.0 + x)));
    let mut worst = 0f64;
    for case in 0..200 {
        let (rows, row) = (r.range(1, 3) as usize, r.range(1, 40) as usize);
        let x = numbers(r, Kind::I16, rows * row);
        let (multiplier, shift, single) = (r.range(1 << 30, (1 << 31) - 1), r.range(-6, 2), case % 2 == 1);
        let mut expected = Vec::new();
        for x in x.chunks(row) {
            let top = *x.iter().max().unwrap();
            let e = |x: &i64| {
                let d = i64::from(requantize(x - top, multiplier, shift, single) as i32);
                between(&exp, (d + 32_767).clamp(-32_768, 32_767))
            };
            let sum: i64 = x.iter().map(e).sum();
            // The sum is 2^k times a number in [1, 2), of which 16 bits count.
            let k = 63 - i64::from(sum.leading_zeros());
            let fraction = (((sum << (30 - k)) + (1 << 13)) >> 14) - (1 << 16);
            let inverse = between(&recip, (fraction - 32_768).min(32_767));
            expected.extend(x.iter().map(|x| ((e(x) * inverse + (1 << (k - 1))) >> k).clamp(0, 32_767)));
        }
        let scale = multiplier as f64 * 2f64.powi(shift as i32 - 31) * 10.0 / 65_535.0;
        for (x, got) in x.chunks(row).zip(expected.chunks(row)) {
            let top = *x.iter().max().unwrap();
            let exp: Vec<f64> = x.iter().map(|x| ((x - top) as f64 * scale).exp()).collect();
            for (e, got) in exp.iter().zip(got) {
                worst = worst.max((e / exp.iter().sum::<f64>() * 32_768.0 - *got as f64).abs());
            }
        }
        let mut t = Try::new();
        let (a, out) = (t.input(Kind::I16, &x), t.out(Kind::I16, x.len()));
        let tables = [&exp, &recip].map(|table| t.b.constant(Kind::I16, table, &[513]));
        let args = [a, out, row as u32, multiplier as u32, shift as u32, tables[0], tables[1]];
        assert_eq!(t.run("softmax16", single.into(), &args, out), expected, "case {case}");
        t.in_place(out, args[0], &expected);
    }
    support::measured("softmax16", worst, 64.0);
}

/// Every argument of every op, with numbers that do not fit: refused or run, never a panic.
#[test]
fn any_arguments_at_all() {
    let r = &mut Random::new(15);
    let mut b = builder();
    let bytes = [b.i8_slot(16), b.i8_slot(16), b.i8_slot(16)];
    let (halves, words, few) = (b.plain_slot(Kind::I16, 16), b.plain_slot(Kind::I32, 4), b.i8_slot(4));
    let [x, y, z] = bytes;
    let table = b.constant(Kind::I8, &[1; 256], &[256]);
    let small = b.constant(Kind::I8, &[-3; 16], &[4, 4]);
    let layout = b.constant(Kind::I32, &[4, 4, 1, 4, 4, 1], &[3, 2]);
    let places = b.constant(Kind::I32, &[0, 700, 1024, 3072], &[4]);
    let slopes = b.constant(Kind::I8, &[5, -5, 127, -128], &[4]);
    let (steps, sigmoids) = (b.constant(Kind::I16, &[9; 513], &[513]), b.constant(Kind::I16, &[-9; 256], &[256]));
    let (more, counts) = (b.plain_slot(Kind::I16, 16), b.plain_slot(Kind::I32, 4));
    let m = 1 << 30;
    let good = [
        op(code("lookup"), &[x, y, table]),
        op(code("copy"), &[x, y, layout, 0, 0]),
        op(code("fill"), &[x, 5, NONE]),
        op(code("mul"), &[x, y, z, m, 0, 1, 2, 3, 0u32.wrapping_sub(9), 9]),
        op(code("maximum"), &[x, y, z]),
        op(code("arithmetic"), &[words, words, counts, 3]),
        op(code("squared_difference"), &[x, y, z, m, 0, 1, 2, 3, m, m, 0]),
        op(code("hypot"), &[x, y, z, m, 0, 1, 2]),
        op(code("reduce"), &[x, y, 1, 4, m, 0, 1, 2]),
        op(code("gather"), &[words, x, small]),
        op(code("gather_slot"), &[words, x, y, 4, 4]),
        op(code("requantize"), &[x, halves, m, 8, 1, 2]),
        op(code("arg_max"), &[x, words, 4, 1]),
        op(code("top_k"), &[x, few, words, 4, 1]),
        op(code("resize"), &[x, y, 4 | 4 << 16, places, places]),
        op(code("batch_matmul"), &[x, y, z, m, 0, 1, 2, 3, 4, 4, 4]),
        op(code("prelu"), &[x, y, slopes, m, 0, 1, 2, 3, m, 0]),
        op(code("lookup"), &[halves, more, steps]),
        op(code("sigmoid16"), &[halves, more, 3, 0, sigmoids]),
        op(code("softmax16"), &[halves, more, 4, m, 0, steps, steps]),
    ];
    let mut opened = vec![0; good.len()];
    for _ in 0..20_000 {
        let which = r.range(0, good.len() as i64 - 1) as usize;
        let mut the_op = good[which];
        for _ in 0..r.range(1, 2) {
            let edges = [0, 1, 2, 3, 4, 16, 0xFFFF, 0x1_0001, u32::MAX, 1 << 31, (1 << 31) - 1, r.next() as u32];
            the_op.args[r.range(0, 10) as usize] = edges[r.range(0, edges.len() as i64 - 1) as usize];
        }
        the_op.flags = [0, 1, 2, 4, 8, 3][r.range(0, 5) as usize];
        let file = Builder { run: vec![the_op], ..b.clone() }.image();
        opened[which] += u32::from(try_run(&file, || r.next() as u8) == Some(true));
    }
    assert!(opened.iter().all(|n| *n > 3), "{opened:?}");
}

const ONE: Limits = Limits { batch: 1, context: 1, threads: 1 };

/// Copies all of a slot to another of the same type.
fn copy_all(b: &mut Builder, from: u32, to: u32) -> Op {
    let cols = b.slots[from as usize].cols as i32;
    let layout = b.tensor32(&[cols, 1, 1], &[3, 1]);
    op(code("copy"), &[from, to, layout, 0, 0])
}

fn ports_of<T: Element + PartialEq + core::fmt::Debug>(kind: Kind, values: [T; 3], others: [Dtype; 3]) {
    let mut b = builder();
    let (from, to) = (b.plain_slot(kind, 3), b.plain_slot(kind, 3));
    let copy = copy_all(&mut b, from, to);
    b.run.push(copy);
    b.ports = [vec![port(from, T::DTYPE, 3)], vec![port(to, T::DTYPE, 3)]];
    let file = b.image();
    let image = Image::open(&file).unwrap();
    let mut arena = Arena::new(image.arena_bytes(ONE).unwrap() as usize, || 0x5A);
    let mut session = Session::new(&image, arena.get(), ONE).unwrap();
    session.input::<T>(0).unwrap().copy_from_slice(&values);
    session.run().unwrap();
    assert_eq!(session.output::<T>(0).unwrap(), values);
    assert_eq!(session.output::<T>(1).err(), Some(Error::Port { index: 1 }));
    for other in others {
        let expected = Some(Error::PortType { index: 0, found: T::DTYPE, expected: other });
        let found = match other {
            Dtype::I8 => session.input::<i8>(0).err(),
            Dtype::U8 => session.input::<u8>(0).err(),
            Dtype::I16 => session.input::<i16>(0).err(),
            _ => session.input::<i32>(0).err(),
        };
        assert_eq!(found, expected);
    }
    // A slot of another type, another size, a type that no port has.
    for other in others.into_iter().chain([Dtype::U64, Dtype::T3, Dtype::N4, Dtype::T4, Dtype::N5, Dtype::N8]) {
        let mut b = b.clone();
        b.ports[0][0].dtype = other;
        let same_bytes = [T::DTYPE, other].iter().all(|d| matches!(d, Dtype::I8 | Dtype::U8));
        assert_eq!(opens(&b), same_bytes, "{other:?}");
    }
    let mut b = b.clone();
    b.ports[1][0].dims[0] = 2;
    assert!(!opens(&b));
}

#[test]
fn ports_of_every_type() {
    ports_of::<i8>(Kind::I8, [-128, 0, 127], [Dtype::U8, Dtype::I16, Dtype::I32]);
    ports_of::<u8>(Kind::I8, [255, 0, 127], [Dtype::I8, Dtype::I16, Dtype::I32]);
    ports_of::<i16>(Kind::I16, [-32_768, 1, 32_767], [Dtype::I8, Dtype::U8, Dtype::I32]);
    ports_of::<i32>(Kind::I32, [i32::MIN, -1, i32::MAX], [Dtype::I8, Dtype::U8, Dtype::I16]);
    let zero_points =
        [(Dtype::I8, -128, -129), (Dtype::U8, 255, -1), (Dtype::U8, 0, 256), (Dtype::I16, -32_768, 32_768)];
    for (dtype, good, bad) in zero_points {
        let mut b = builder();
        let slot = b.plain_slot(if dtype == Dtype::I16 { Kind::I16 } else { Kind::I8 }, 1);
        for (zero_point, fits) in [(good, true), (bad, false)] {
            b.ports[0] = vec![Port { zero_point, ..port(slot, dtype, 1) }];
            assert_eq!(opens(&b), fits, "{dtype:?} {zero_point}");
        }
    }
}

/// A delay line of three steps: what goes in comes out three runs later.
fn delay() -> Builder {
    let mut b = builder();
    let (from, to, state, moved) = (
        b.plain_slot(Kind::I16, 1),
        b.plain_slot(Kind::I16, 1),
        b.plain_slot(Kind::I16, 3),
        b.plain_slot(Kind::I16, 3),
    );
    let (one, two) = (b.tensor32(&[1, 1, 1], &[3, 1]), b.tensor32(&[2, 1, 1], &[3, 1]));
    let back = copy_all(&mut b, moved, state);
    let copy = |args: &[u32]| op(code("copy"), args);
    b.run =
        vec![copy(&[state, to, one, 0, 0]), copy(&[state, moved, two, 1, 0]), copy(&[from, moved, one, 0, 2]), back];
    let first = b.vector16(&[7, 8, 9], 0);
    b.reset.push(op(code("fill"), &[state, 0, first]));
    b.ports = [vec![port(from, Dtype::I16, 1)], vec![port(to, Dtype::I16, 1)]];
    b
}

#[test]
fn state_lives_from_run_to_run() {
    let file = delay().image();
    let image = Image::open(&file).unwrap();
    let mut arena = Arena::new(image.arena_bytes(ONE).unwrap() as usize, || 0x5A);
    let mut session = Session::new(&image, arena.get(), ONE).unwrap();
    for _ in 0..2 {
        let outputs: Vec<i16> = (100..110)
            .map(|x| {
                session.input::<i16>(0).unwrap()[0] = x;
                session.run().unwrap();
                session.output::<i16>(0).unwrap()[0]
            })
            .collect();
        assert_eq!(outputs, [7, 8, 9, 100, 101, 102, 103, 104, 105, 106]);
        session.reset().unwrap();
    }
    // Two sessions over one arena, one after the other: the second begins anew.
    let mut session = Session::new(&image, arena.get(), ONE).unwrap();
    session.run().unwrap();
    assert_eq!(session.output::<i16>(0).unwrap(), [7]);
    // RESET works on one row, as RUN does.
    let mut b = delay();
    let (x, y) = (b.i32_slot(Rows::Batch, 4, 0), b.i32_slot(Rows::Batch, 4, 0));
    b.reset.push(op(code("glu"), &[x, y, x]));
    assert!(matches!(Image::open(&b.image()), Err(Error::Op { .. })));
}

/// A net of most ops, with two inputs, three outputs and state.
fn small_net() -> Builder {
    let mut b = builder();
    let [x, y, z, w] = std::array::from_fn(|_| b.i8_slot(32));
    let (state, halves, more) = (b.i8_slot(32), b.plain_slot(Kind::I16, 32), b.plain_slot(Kind::I16, 32));
    let (few, values, places) = (b.plain_slot(Kind::I32, 8), b.i8_slot(8), b.plain_slot(Kind::I32, 8));
    let r = &mut Random::new(18);
    let table = b.constant(Kind::I8, &numbers(r, Kind::I8, 256), &[256]);
    let rows = b.constant(Kind::I8, &numbers(r, Kind::I8, 20), &[5, 4]);
    let steps = b.constant(Kind::I16, &numbers(r, Kind::I16, 513), &[513]);
    let turn = b.constant(Kind::I32, &[2, 4, 4, 4, 8, 1, 16, 1, 4], &[3, 3]);
    let all = b.constant(Kind::I32, &[32, 1, 1], &[3, 1]);
    let pixels = b.constant(Kind::I32, &[0, 512, 1024, 3072], &[4]);
    let first = b.constant(Kind::I8, &numbers(r, Kind::I8, 32), &[32]);
    let m = 3 << 29;
    let low = 0u32.wrapping_sub(128);
    b.reset = vec![op(code("fill"), &[state, 0, first])];
    b.run = vec![
        op(code("lookup"), &[x, y, table]),
        op(code("mul"), &[y, state, z, m, 0u32.wrapping_sub(7), 3, 1, 2, low, 127]),
        op(code("maximum"), &[z, y, z]),
        op(code("copy"), &[z, state, all, 0, 0]),
        op(code("fill"), &[w, 9, NONE]),
        op(code("copy"), &[z, w, turn, 0, 0]),
        op(code("batch_matmul"), &[w, z, y, m, 0u32.wrapping_sub(9), 1, 2, 3, 4, 4, 4]),
        op(code("resize"), &[y, z, 4 | 4 << 16, pixels, pixels]),
        op(code("squared_difference"), &[z, y, w, m, 0u32.wrapping_sub(20), 1, 2, 3, m, m, 0]),
        op(code("requantize"), &[w, halves, m, 7, 0, 1]),
        op(code("lookup"), &[halves, more, steps]),
        op(code("gather"), &[few, y, rows]),
        op(code("top_k"), &[w, values, places, 4, 1]),
        op(code("arg_max"), &[more, few, 4, 1]),
    ];
    b.ports = [vec![port(x, Dtype::U8, 32), port(few, Dtype::I32, 8)], vec![]];
    b.ports[1] = vec![port(y, Dtype::I8, 32), port(more, Dtype::I16, 32), port(places, Dtype::I32, 8)];
    b
}

/// Everything a user would do with an image of a net.
fn attempt(file: &[u8], arena: &mut Arena) -> mote_runtime::Result<()> {
    let image = Image::open(file)?;
    let mut session = Session::new(&image, arena.get(), ONE)?;
    session.input::<u8>(0)?.fill(200);
    session.input::<i32>(1)?.fill(-3);
    for _ in 0..2 {
        let ran = session.run().and_then(|()| session.reset());
        // An op that fails once the image has been opened is a check that is missing.
        assert!(!matches!(ran, Err(Error::Op { .. })), "{ran:?}");
        ran?;
    }
    session.output::<i8>(0)?;
    session.output::<i16>(1)?;
    session.output::<i32>(2)?;
    Ok(())
}

/// Sections changed, every checksum right: refused, or run to the end.
#[test]
fn damaged_nets() {
    let r = &mut Random::new(19);
    let mut arena = Arena::new(1 << 14, || 0xA5);
    attempt(&small_net().image(), &mut arena).unwrap();
    let sections = small_net().sections();
    let mut ran = 0;
    for round in 0..20_000 {
        let mut changed = sections.clone();
        let count = changed.len();
        let (_, bytes) = &mut changed[round % count];
        for _ in 0..r.range(1, 2) {
            let at = r.range(0, bytes.len() as i64 - 1) as usize;
            match r.range(0, 2) {
                0 => bytes[at] ^= 1 << r.range(0, 7),
                1 => bytes[at] = [0, 1, 2, 3, 0x7F, 0x80, 0xFF][r.range(0, 6) as usize],
                _ => {
                    let (word, value) = (at / 4 * 4, r.range(0, 40) as u32);
                    bytes.iter_mut().skip(word).zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
                }
            }
        }
        let result = attempt(&support::assemble(&changed), &mut arena);
        assert!(arena.guards_hold());
        ran += usize::from(result.is_ok());
    }
    assert!((3_000..17_000).contains(&ran), "{ran}");
}
