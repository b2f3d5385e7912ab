//! Matmul is exact but for one rounding: every bit is compared with NUMERICS.md's formula in 128-bit integers.

mod support;

use mote_runtime::fixed::Scale;
use mote_runtime::image::header::Span;
use mote_runtime::image::plan::Rows;
use mote_runtime::image::program::{NONE, Op};
use mote_runtime::image::tensors::Dtype::{N4, N5, N8, T3, T4};
use mote_runtime::image::tensors::T4_LEVELS;
use mote_runtime::image::{Coded, Dtype, Image, TensorDesc};
use mote_runtime::kernels::{self, Kernels};
use mote_runtime::ops::matmul::ACCUMULATE;
use mote_runtime::view::{Pool, Single};
use proptest::prelude::*;
use proptest::sample::select;
use support::{Bench, Builder, CODED, Matrix, Random, Threads, code, limits, measured, op, real};

/// NUMERICS.md, "matmul", without bias and accumulation.
fn formula(m: &Matrix, row: usize, x: &[i8], scale: Scale, frac: i32) -> i128 {
    let acc: i128 = (0..m.cols).map(|col| i128::from(m.scale(row, col) * m.level(row, col) * i64::from(x[col]))).sum();
    let top = u128::from(m.top());
    let row_bound = 32 * 128 * 255 * top * m.cols.div_ceil(32) as u128;
    let excess = (128 - row_bound.leading_zeros() as i32 - 31).max(0);
    let unit = (i128::from(m.mults[row]) * i128::from(scale.mant)) >> excess;
    assert!((acc * unit).unsigned_abs() < 1 << 63, "the proof");
    let shift = m.exponent + scale.exp - frac - excess;
    let rounded = match shift {
        1..=100 => (acc * unit + (1 << (shift - 1))) >> shift,
        101.. => 0,
        -60..=0 => (acc * unit) << -shift,
        _ => acc * unit * (1 << 60),
    };
    clamp(rounded)
}

fn clamp(v: i128) -> i128 {
    v.clamp(i128::from(i32::MIN), i128::from(i32::MAX))
}

struct Case {
    m: Matrix,
    /// Codes and scale of each row.
    x: Vec<(Vec<i8>, Scale)>,
    frac: i16,
    bias: Option<Vec<i32>>,
    add: bool,
}

/// Runs the op with every backend of this machine and compares; returns the results, row after row.
fn check(case: &Case, pool: &dyn Pool) -> Vec<i32> {
    kernels::available().map(|kernels| check_with(case, pool, kernels)).last().unwrap()
}

fn check_with(case: &Case, pool: &dyn Pool, kernels: &'static Kernels) -> Vec<i32> {
    let Case { m, x, frac, bias, add } = case;
    let mut b = Builder::new();
    let input = b.q8_slot(Rows::Batch, m.cols);
    let output = b.i32_slot(Rows::Batch, m.rows, *frac);
    let logits = b.i32_slot(Rows::One, 1, 0);
    b.logits = logits;
    let weight = b.matrix(m);
    let bias_index = bias.as_ref().map_or(NONE, |values| b.vector32(values, i32::from(*frac)));
    let flags = if *add { ACCUMULATE } else { 0 };
    let op = Op { flags, ..op(code("matmul"), &[input, weight, bias_index, output]) };
    b.body.push(op);
    let mut bench = Bench { kernels, ..Bench::new(&b, limits(x.len() as u32, 4)) };
    let old = |row: usize, i: usize| (row as i32 * 77 - 1000) << (i % 21);
    for (row, (codes, scale)) in x.iter().enumerate() {
        bench.put_q8(input, row, *scale, codes);
        bench.row(output, row).iter_mut().enumerate().for_each(|(i, v)| *v = old(row, i));
    }
    bench.run_with(&op, 0, &[], x.len() as u32, pool);
    let mut all = Vec::new();
    for (row, (codes, scale)) in x.iter().enumerate() {
        for (i, got) in bench.row(output, row).iter().enumerate() {
            let bias = bias.as_ref().map_or(0, |values| values[i]);
            let before = if *add { old(row, i) } else { 0 };
            let sum = formula(m, i, codes, *scale, i32::from(*frac)) + i128::from(bias) + i128::from(before);
            assert_eq!(i128::from(*got), clamp(sum), "{}: row {row}, output {i}", kernels.name);
            all.push(*got);
        }
    }
    all
}

fn random_case(seed: u64, rows: usize, cols: usize, batch: usize, dtype: Dtype) -> Case {
    let r = &mut Random::new(seed);
    let m = Matrix { exponent: r.range(-20, 60) as i32, ..Matrix::any(r, rows, cols, dtype) };
    let x = (0..batch)
        .map(|_| {
            let codes = (0..cols).map(|_| r.range(-127, 127) as i8).collect();
            (codes, Scale { mant: r.range(16_513, 33_026) as u32, exp: r.range(-10, 30) as i32 })
        })
        .collect();
    let bias = (r.range(0, 1) == 1).then(|| (0..rows).map(|_| r.next() as i32).collect());
    Case { m, x, frac: r.range(-10, 30) as i16, bias, add: r.range(0, 1) == 1 }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn any_shape_to_the_bit(seed: u64, rows in 1usize..70, cols in 1usize..200, batch in 1usize..20, dtype in select(CODED.to_vec())) {
        check(&random_case(seed, rows, cols, batch, dtype), &Single);
    }
}

#[test]
fn odd_shapes_and_threads() {
    // The last three: the widest in one piece, strips, and the last strip of one column.
    for (rows, cols) in
        [(1, 1), (5, 31), (17, 72), (16, 32), (33, 33), (64, 257), (100, 7), (40, 2048), (40, 2049), (33, 4128)]
    {
        for dtype in CODED {
            let case = random_case((rows * cols) as u64, rows, cols, 3, dtype);
            let expected = check(&case, &Single);
            for threads in [2, 3, 50] {
                assert_eq!(check(&case, &Threads(threads)), expected);
            }
        }
    }
}

/// A row of a matrix in strips, whole and from within.
#[test]
fn rows_of_strips() {
    for dtype in CODED {
        let m = Matrix::any(&mut Random::new(4), 19, 4128 + 5, dtype);
        let mut b = Builder::new();
        b.matrix(&m);
        b.logits = b.i32_slot(Rows::One, 1, 0);
        let file = b.image();
        let view = Image::open(&file).unwrap().coded(0).unwrap();
        for (row, first) in [(0, 0), (18, 0), (17, 2040), (3, 4120)] {
            let mut levels = vec![0; m.cols - first];
            view.row_levels_from(row, first, &mut levels, |to, level| *to = i64::from(level));
            let expected = (first..m.cols).map(|col| m.level(row, col) * m.scale(row, col));
            assert!(expected.eq(levels), "{dtype:?}, row {row} from {first}");
        }
        assert_eq!(view.part(2, 0..1), None);
    }
}

/// N5's bytes by hand: one line's word of row 2 has a code above 0 in each half, the high one negative.
#[test]
fn signs_beside_nibbles() {
    let dims = [3, 32, 1, 1];
    let codebook = core::array::from_fn(|i| 8 * i as i8);
    let mut bytes = vec![0; TensorDesc::data_bytes(Dtype::N5, dims).unwrap() as usize];
    assert_eq!(bytes.len(), 256 + 64 + 16 + 32);
    bytes[2 * 64 + 2 * 4 + 1] = 0xB4; // line 2, row 2, byte 1: columns 17 and 21
    bytes[256 + 2 * 16 + 8 + 1] = 1 << 1; // bit 9 of line 2's second word
    bytes[256 + 64 + 2] = 3;
    let span = Span { offset: 0, bytes: bytes.len() as u64 };
    let desc = TensorDesc { dtype: Dtype::N5, rank: 2, exponent: 0, dims, span, codebook };
    let mut row = [0; 32];
    Coded::new(&desc, &bytes).unwrap().row_levels(2, &mut row, |to, level| *to = level);
    let mut expected = [0; 32];
    (expected[17], expected[21]) = (3 * 8 * 4, -3 * 8 * 11);
    assert_eq!(row, expected);
}

/// T4's bytes by hand: a row's word, whose nibbles are columns 16, 20, 17, 21, 18, 22, 19 and 23, each with the two lowest bits of the
/// next one above it, around the word's end.
#[test]
fn columns_along_the_trellis() {
    let dims = [16, 32, 1, 1];
    let mut bytes = vec![0; TensorDesc::data_bytes(Dtype::T4, dims).unwrap() as usize];
    assert_eq!(bytes.len(), 256 + 16 + 32);
    bytes[2 * 64 + 4 * 4..][..4].copy_from_slice(&[0x65, 0xF3, 0x08, 0x2B]);
    bytes[256..256 + 16].fill(1);
    let span = Span { offset: 0, bytes: bytes.len() as u64 };
    let desc = TensorDesc { dtype: Dtype::T4, rank: 2, exponent: 0, dims, span, codebook: [0; 16] };
    let view = Coded::new(&desc, &bytes).unwrap();
    let levels = |row: usize| {
        let mut levels = [0; 32];
        view.row_levels(row, &mut levels, |to, level| *to = level);
        levels
    };
    let level = |sign: i32, window: usize| sign * i32::from(T4_LEVELS[window]);
    let mut expected = [level(1, 0); 32];
    // 5 before 6: 10 0101. 6 before 3: 11 0110. 3 before F: 11 0011. F before 8: 00 1111. 8 before 0: 00 1000. 0 before B: 11 0000.
    // B before 2: 10 1011. 2 before 5, the first: 01 0010.
    let columns = [16, 20, 17, 21, 18, 22, 19, 23];
    let found = [(-1, 5), (-1, 22), (-1, 19), (1, 15), (1, 8), (-1, 16), (-1, 11), (1, 18)];
    columns.into_iter().zip(found).for_each(|(column, (sign, window))| expected[column] = level(sign, window));
    assert_eq!(levels(4), expected);
    assert_eq!(levels(3), [level(1, 0); 32]);
}

/// T3's bytes by hand: column 21 is of the second eight of the group's second sixteen.
#[test]
fn three_bits_along_the_trellis() {
    let dims = [16, 32, 1, 1];
    // Rising within each set of four.
    let codebook = core::array::from_fn(|i| 10 * (i as i8 / 4) + i as i8 % 4 - 20);
    let mut bytes = vec![0; TensorDesc::data_bytes(Dtype::T3, dims).unwrap() as usize];
    assert_eq!(bytes.len(), 192 + 16 + 32);
    let mut put = |row: usize, code: u8| {
        bytes[64 + 4 * row + 1] = code >> 1 << 4; // line 1, bits 4 and 5 of byte 1
        bytes[128 + 4 * row + 1] = (code & 1) << 6; // line 2, bit 6
    };
    [(15, 7), (0, 5), (1, 2), (2, 4)].into_iter().for_each(|(row, code)| put(row, code));
    bytes[192..192 + 16].fill(1);
    let span = Span { offset: 0, bytes: bytes.len() as u64 };
    let desc = TensorDesc { dtype: Dtype::T3, rank: 2, exponent: 0, dims, span, codebook };
    let view = Coded::new(&desc, &bytes).unwrap();
    let levels = |row: usize| {
        let mut levels = [0; 32];
        view.row_levels(row, &mut levels, |to, level| *to = level);
        levels
    };
    let set = |set: usize, level: usize| i32::from(codebook[4 * set + level]);
    let mut expected = [set(0, 0); 32];
    for (row, found) in
        [(14, set(0, 0)), (15, set(1, 3)), (0, set(3, 2)), (1, set(3, 1)), (2, set(1, 2)), (3, set(0, 0))]
    {
        expected[21] = found;
        assert_eq!(levels(row), expected, "row {row}");
    }
}

/// The worst that the format can say: each product as large as it can be, all of one sign, and the largest scales.
#[test]
fn sums_beyond_int32() {
    // 8 224 columns are the most that fit int32 with levels up to 8.
    for cols in [512, 513, 8_224, 8_225, 20_000, 100_003] {
        for (dtype, level, sign) in [
            (N4, 127, 1),
            (N4, -127, 1),
            (N5, 127, 1),
            (N5, -127, -1),
            (N8, -128, -1),
            (N8, 127, 1),
            (N4, 8, -1),
            (T3, 127, -1),
            (T4, 127, -1),
        ] {
            let mults = vec![65_535, 1, 32_768];
            let m = Matrix { mults, exponent: 60, ..Matrix::all(3, cols, dtype, level) };
            let x = [(33_026, 12), (16_513, -9), (65_535, 0)]
                .map(|(mant, exp)| (vec![if sign > 0 { 127 } else { -128 }; cols], Scale { mant, exp }))
                .to_vec();
            for frac in [0, 16, 30] {
                check(&Case { m: m.clone(), x: x.clone(), frac, bias: None, add: false }, &Single);
            }
        }
    }
}

#[test]
fn results_and_residuals_saturate() {
    let mut case = random_case(7, 20, 64, 2, N4);
    case.frac = 30;
    case.m.exponent = -200;
    case.add = true;
    let got = check(&case, &Single);
    assert!(got.contains(&i32::MAX) || got.contains(&i32::MIN));
    case.m.exponent = 256;
    check(&case, &Single);
}

/// Against the real product: half a unit in the last place, and what is cut from the multiplier when rows are long.
#[test]
fn error_against_f64() {
    let (mut worst_ulp, mut worst_relative) = (0f64, 0f64);
    for (seed, cols) in [(1, 64), (2, 576), (3, 2048), (4, 14_336)] {
        for dtype in CODED {
            let r = &mut Random::new(seed);
            let m = Matrix::like_a_model(r, 24, cols, dtype, 1.0);
            let codes: Vec<i8> = (0..cols).map(|_| (r.normal() * 40.0).clamp(-127.0, 127.0) as i8).collect();
            let scale = Scale { mant: 20_001, exp: 20 };
            let frac = 20;
            let case = Case { m, x: vec![(codes.clone(), scale)], frac, bias: None, add: false };
            for (i, got) in check(&case, &Single).into_iter().enumerate() {
                let sum: f64 = (0..cols).map(|c| case.m.weight(i, c) * f64::from(codes[c])).sum();
                let exact = sum * f64::from(scale.mant) * 2f64.powi(-scale.exp);
                let ulps = (real(got, frac) - exact).abs() * 2f64.powi(i32::from(frac));
                let cut = exact.abs() * 2f64.powi(i32::from(frac));
                if cut < 1e4 {
                    worst_ulp = worst_ulp.max(ulps);
                } else {
                    worst_relative = worst_relative.max((ulps - 0.5).max(0.0) / cut);
                }
            }
        }
    }
    if worst_ulp > 0.0 {
        measured("matmul, small results, ulp", worst_ulp, 0.51);
    }
    measured("matmul, beyond half an ulp, relative", worst_relative, 2f64.powi(-22));
}
