//! `gather_coded` against NUMERICS.md, section 13.8, written down a second time in 128-bit integers; and any arguments at all.

mod support;

use mote_runtime::image::plan::{Kind, Rows};
use mote_runtime::image::tensors::Dtype;
use support::{Bench, Builder, CODED, Matrix, Random, code, limits, op, try_run};

/// A table, entries side by side in its rows, and indices.
struct Case {
    m: Matrix,
    words: usize,
    count: i64,
    zero: i64,
    indices: Vec<i64>,
}

impl Case {
    fn random(r: &mut Random, dtype: Dtype) -> Self {
        let (words, wide) = (1 << r.range(0, 3), r.range(0, 1) == 0);
        // Of one entry a row any width will do, of several multiples of 8.
        let cols = if words == 1 && wide { r.range(1, 70) } else { 8 * r.range(1, 9) };
        let rows = r.range(1, 40) as usize;
        let m = Matrix::any(r, rows, words as usize * cols as usize, dtype);
        let m = Matrix { exponent: 22 + r.range(0, 5) as i32, ..m };
        let count = r.range((m.rows as i64 - 1) * words + 1, m.rows as i64 * words);
        let indices = (0..r.range(1, 9)).map(|_| r.range(-count - 3, count + 3)).collect();
        Self { m, words: words as usize, count, zero: r.range(-128, 127), indices }
    }

    fn cols(&self) -> usize {
        self.m.cols / self.words
    }

    fn builder(&self) -> (Builder, u32, u32) {
        let mut b = Builder::new();
        b.logits = b.i32_slot(Rows::One, 1, 0);
        let at = b.plain_slot(Kind::I32, self.indices.len());
        let to = b.i8_slot(self.indices.len() * self.cols());
        let table = b.matrix(&self.m);
        let numbers = [self.words as u32, self.count as u32, self.zero as i32 as u32];
        b.run.push(op(code("gather_coded"), &[at, to, table, numbers[0], numbers[1], numbers[2]]));
        (b, at, to)
    }

    /// The page.
    fn expected(&self) -> Vec<i64> {
        let entry = |i: &i64| (if *i < 0 { i + self.count } else { *i }).clamp(0, self.count - 1) as usize;
        let element = |(e, c): (usize, usize)| {
            let (row, col) = (e / self.words, e % self.words * self.cols() + c);
            let v = i128::from(self.m.level(row, col) * self.m.scale(row, col)) * i128::from(self.m.mults[row]);
            let rounded = (2 * v + (1 << self.m.exponent)).div_euclid(2 << self.m.exponent) as i64;
            (rounded + self.zero).clamp(-128, 127)
        };
        self.indices.iter().flat_map(|i| (0..self.cols()).map(move |c| (entry(i), c))).map(element).collect()
    }
}

#[test]
fn gather_coded_is_the_page_s() {
    let r = &mut Random::new(11);
    let mut inner = 0;
    for case in 0..300 {
        let given = Case::random(r, CODED[case % CODED.len()]);
        let (b, at, to) = given.builder();
        let mut bench = Bench::new(&b, limits(1, 1));
        bench.put(at, &given.indices);
        bench.run(&b.run[0], 1);
        let got = bench.got(to);
        assert_eq!(got, given.expected(), "case {case}");
        inner += got.iter().filter(|v| (-127..127).contains(*v)).count();
    }
    assert!(inner > 10_000, "{inner} results between the ends");
}

/// Every argument with numbers that do not fit: refused or run, never a panic.
#[test]
fn any_arguments_at_all() {
    let r = &mut Random::new(12);
    let (mut opened, mut refused) = (0, 0);
    for case in 0..1000 {
        let (mut b, ..) = Case::random(r, CODED[case % CODED.len()]).builder();
        let words = [0, 1, 2, 3, 7, 8, 0xFFFF, u32::MAX, 1 << 31, r.next() as u32];
        b.run[0].args[r.range(0, 6) as usize] = words[r.range(0, words.len() as i64 - 1) as usize];
        b.tensors[0].0.exponent = r.range(-256, 256) as i32;
        match try_run(&b.image(), || 0x80) {
            None => refused += 1,
            Some(ran) => opened += u32::from(ran),
        }
    }
    assert!(opened > 50 && refused > 100, "{opened} {refused}");
}
