//! Compares a board's kernels with the scalar ones on random shapes, strides, tails and extreme values, and counts what a
//! multiply-accumulate takes of each: `cargo xtask test kernels`. Each board has an example `kernels` that calls [`run`].

use crate::counter::Counter;
use crate::print;
use crate::semihosting::{self, Console};
use core::cell::Cell;
use core::num::NonZeroUsize;
use mote_runtime::fixed::tflite::{Rounding, requantize};
use mote_runtime::fixed::{saturate, shift_round};
use mote_runtime::image::tensors::{BLOCK, LINE};
use mote_runtime::image::{Coded, Dtype};
use mote_runtime::kernels::scalar::int8::{self as scalar, Axis, ConvFn, Output, Sum, Term, Window};
use mote_runtime::kernels::{self, Codes, int8};

/// Elements of an image, of weights and of an output, at most.
const MOST: usize = 40 * 1024;
/// Output channels, at most.
const CHANNELS: usize = 72;

/// Knuth's MMIX generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// `low` to `high`, both included.
    fn of(&mut self, low: usize, high: usize) -> usize {
        low + self.next() as usize % (high - low + 1)
    }

    /// Any int8; of a fifth of the calls only its ends, of another only one of them.
    fn fill(&mut self, values: &mut [i8]) {
        let ends = match self.of(0, 9) {
            0 => [i8::MIN; 2],
            1 => [i8::MAX; 2],
            2 | 3 => [i8::MIN, i8::MAX],
            _ => return values.fill_with(|| (self.next() >> 8) as i8),
        };
        values.fill_with(|| ends[self.next() as usize >> 8 & 1]);
    }
}

/// What cases are made in.
struct Memory {
    x: [i8; MOST],
    w: [i8; MOST],
    outs: [[i8; MOST]; 2],
    channels: [[i32; 3]; CHANNELS],
}

static mut MEMORY: Memory = Memory { x: [0; MOST], w: [0; MOST], outs: [[0; MOST]; 2], channels: [[0; 3]; CHANNELS] };

fn axis(r: &mut Random, kernels: usize) -> Axis {
    let (kernel, stride, dilation) = (r.of(1, kernels), r.of(1, 3), if r.of(0, 3) == 0 { 2 } else { 1 });
    let reach = (kernel - 1) * dilation;
    let (pad, output) = (r.of(0, reach), r.of(1, 9));
    // The last window ends inside, or up to its reach beyond.
    let input = ((output - 1) * stride + reach + 1).saturating_sub(pad + r.of(0, reach)).max(1);
    let output = output.min((input + pad).div_ceil(stride));
    Axis { input, output, kernel, stride, dilation: NonZeroUsize::new(dilation).unwrap_or(NonZeroUsize::MIN), pad }
}

/// Channels as TFLite's files have them, and now and then any numbers.
fn channels(r: &mut Random, channels: &mut [[i32; 3]]) {
    let any = r.of(0, 5) == 0;
    channels.fill_with(|| {
        let [bias, multiplier, shift] = [r.next(), r.next(), r.next()].map(|bits| bits as i32);
        if any {
            [bias, multiplier, shift % 34]
        } else {
            [bias >> 14, multiplier >> 2 & 0x3FFF_FFFF | 0x4000_0000, -(shift & 15) - 1]
        }
    });
}

fn output(r: &mut Random) -> Output {
    let (min, max) = if r.of(0, 2) == 0 { (-(r.of(0, 128) as i32), r.of(0, 127) as i32) } else { (-128, 127) };
    let rounding = if r.of(0, 5) == 0 { Rounding::Single } else { Rounding::Double };
    let zero_point = if r.of(0, 2) == 0 { -128 } else { r.next() as i8 as i32 };
    Output { zero_point, min, max, rounding, narrow: false }
}

/// The function of the scalar kernels and that of this board's, on one case. `None`: not the same.
fn conv(r: &mut Random, m: &mut Memory, depthwise: bool) -> Option<()> {
    let kernels = if r.of(0, 2) == 0 { 1 } else { 5 };
    // Now and then a fully connected layer of any length.
    let connected = !depthwise && r.of(0, 9) == 0;
    let (y, x) = if connected { (Axis::each(1), Axis::each(1)) } else { (axis(r, kernels), axis(r, kernels)) };
    let groups = if !connected && r.of(0, 4) == 0 { r.of(2, 3) } else { 1 };
    let taps = y.kernel * x.kernel;
    let (functions, in_channels, out_channels, second, weights): ([ConvFn<i8>; 2], _, _, _, _) = if depthwise {
        let multiplier = if r.of(0, 2) == 0 { r.of(2, 8) } else { 1 };
        let channels = r.of(1, CHANNELS / multiplier);
        let out = channels * multiplier;
        ([scalar::depthwise_conv2d, int8::depthwise_conv2d], channels, out, multiplier, taps * out)
    } else {
        let most = if connected {
            3000
        } else if taps == 1 {
            300
        } else {
            40
        };
        let (depth, share) = (r.of(1, most), r.of(1, CHANNELS / groups));
        ([scalar::conv2d, int8::conv2d], depth * groups, share * groups, groups, taps * depth * share * groups)
    };
    let (elements, results) = (y.input * x.input * in_channels, y.output * x.output * out_channels);
    if elements.max(weights).max(results) > MOST {
        return Some(());
    }
    let (image, w) = (m.x.get_mut(..elements)?, m.w.get_mut(..weights)?);
    let cs = m.channels.get_mut(..out_channels)?;
    r.fill(image);
    r.fill(w);
    channels(r, cs);
    let zx = [-128, 127, r.next() as i8 as i32][r.of(0, 2)];
    let zw = if r.of(0, 9) == 0 { r.next() as i8 as i32 } else { 0 };
    let g = Window { y, x, channels: in_channels, backward: r.of(0, 1) == 1 };
    let (o, second) = (output(r), NonZeroUsize::new(second)?);
    for (function, out) in functions.iter().zip(&mut m.outs) {
        let image = Cell::from_mut(&mut *image).as_slice_of_cells();
        let out = out.get_mut(..results + 1)?;
        out.fill(77);
        let out = Cell::from_mut(out).as_slice_of_cells();
        function(&g, second, (image, zx), (w, zw), bytemuck::cast_slice(cs), &o, out.get(..results)?)?;
    }
    let [a, b] = &m.outs;
    (a.get(..=results)? == b.get(..=results)?).then_some(())
}

fn add(r: &mut Random, m: &mut Memory) -> Option<()> {
    let count = r.of(1, 50);
    let (x, y) = (m.x.get_mut(..count)?, m.w.get_mut(..count)?);
    r.fill(x);
    r.fill(y);
    let mut term = |up| {
        let (zero, half) = (r.next() as i8 as i32, r.of(0, 2) == 0);
        let multiplier = if half { 1 << 30 } else { (r.next() >> 2 | 0x4000_0000) as i32 };
        Term { zero, up, multiplier, shift: if half { 0 } else { -(r.of(1, 20) as i32) } }
    };
    let s =
        Sum { terms: [term(20), term(20), Term { zero: 0, ..term(0) }], subtract: false, backward: r.of(0, 1) == 1 };
    let o = output(r);
    let [expected, found] = &mut m.outs;
    let cells = |values| Cell::from_mut(values).as_slice_of_cells();
    for ((x, y), to) in x.iter().zip(&*y).zip(&mut *expected) {
        let scaled = |x: i32, t: &Term| requantize((x - t.zero) << t.up, t.multiplier, t.shift, o.rounding);
        let sum = scaled((*x).into(), &s.terms[0]) + scaled((*y).into(), &s.terms[1]);
        *to = o.clamp(scaled(sum, &s.terms[2]));
    }
    let found = found.get_mut(..count)?;
    int8::add(cells(x), cells(y), cells(&mut *found), &s, &o);
    (expected.get(..count)? == found).then_some(())
}

/// Codes of 0 for some groups of 16 rows, whole words.
static NO_CODES: &[u32] = &[0; 1024];

/// A matrix of any bytes, in memory that codes, scales and activations are made in.
fn coded<'m>(r: &mut Random, dtype: Dtype, [rows, groups]: [usize; 2], w: &'m mut [i8]) -> Option<Coded<'m>> {
    let blocks = rows.div_ceil(BLOCK);
    // A line a bit; of 5 bits the last is signs.
    let line_bytes = blocks * groups * LINE;
    let sign_bytes = if dtype == Dtype::N5 { line_bytes } else { 0 };
    let code_bytes = line_bytes * usize::from(dtype.code_bits()?) - sign_bytes;
    let w = w.get_mut(..code_bytes + sign_bytes + blocks * groups * BLOCK)?;
    r.fill(w);
    let mut codebook = [0; 16];
    r.fill(&mut codebook);
    codebook.iter_mut().for_each(|level| *level = (*level).max(-127)); // as in every image
    if r.of(0, 1) == 0 {
        codebook = [-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7];
    }
    if dtype == Dtype::N5 {
        codebook = codebook.map(i8::abs);
    }
    let (codes, rest) = bytemuck::cast_slice(&*w).split_at_checked(code_bytes)?;
    let (signs, scales) = rest.split_at_checked(sign_bytes)?;
    let cols = groups * 32;
    // Stretch 1: no sum of a group overflows.
    let (mults, exponent, stretch, excess_bits) = (&[][..], 0, 1, 0);
    Some(Coded { dtype, rows, cols, groups, codes, signs, scales, mults, codebook, exponent, stretch, excess_bits })
}

/// Sums of one case by the scalar kernels and by this board's.
fn matrix(r: &mut Random, m: &mut Memory) -> Option<()> {
    let dtype = [Dtype::T3, Dtype::N4, Dtype::T4, Dtype::N5, Dtype::N8][r.of(0, 4)];
    // Few groups, many, in strips.
    let (least, most) = [(1, 6), (1, 6), (1, 6), (1, 64), (65, 135)][r.of(0, 4)];
    let (rows, groups, count) = (r.of(1, 40), r.of(least, most), if r.of(0, 1) == 0 { 1 } else { r.of(2, 10) });
    let stride = groups * 32 + r.of(0, 9);
    // A line a bit, and scales.
    if rows.div_ceil(BLOCK) * groups * (usize::from(dtype.code_bits()?) * LINE + BLOCK) > MOST || count * stride > MOST
    {
        return Some(());
    }
    let x = m.x.get_mut(..count * stride)?;
    r.fill(x);
    let mut w = coded(r, dtype, [rows, groups], &mut m.w)?;
    // The largest sum of uniform levels.
    if r.of(0, 3) == 0 {
        x.fill(i8::MIN);
        w.codes = bytemuck::cast_slice(NO_CODES).get(..w.codes.len()).unwrap_or(w.codes);
    }
    let codes = Codes::new(bytemuck::cast_slice(x), count, stride, groups * 32)?;
    let blocks = rows.div_ceil(BLOCK);
    let mut sums = [[[[0i64; BLOCK]; 10]; 3]; 2];
    for (kernels, sums) in [&kernels::scalar::KERNELS, kernels::select()].into_iter().zip(&mut sums) {
        (kernels.blocks(&w))(&w, 0..blocks, &codes, &mut |block, first, found| {
            for (row, found) in (first..).zip(found) {
                if let Some(sum) = sums.get_mut(block).and_then(|rows| rows.get_mut(row)) {
                    *sum = core::array::from_fn(|i| sum[i].wrapping_add(found[i]));
                }
            }
        });
    }
    (sums[0] == sums[1]).then_some(())
}

/// Sums of coded weights to int8, against the formula.
fn requantized(r: &mut Random, m: &mut Memory) -> Option<()> {
    let (count, width, shift) = (r.of(1, 3), r.of(1, BLOCK), r.of(0, 66) as i32 - 2);
    let stride = if r.of(0, 1) == 0 { width } else { r.of(width, 40) };
    let mut o = output(r);
    (o.min, o.max) = if r.of(0, 9) == 0 { (-400, 300) } else { (o.min, o.max) };
    let mut wide = |bits: usize| (u64::from(r.next()) << 32 | u64::from(r.next())) as i64 >> (63 - bits);
    // Sums of the size that the shift makes an int8 of, and of any size.
    let usual = (shift as usize).clamp(20, 50) - 10;
    let sums: [[i64; BLOCK]; 3] = [usual, 37, 20].map(|bits| core::array::from_fn(|_| wide(bits.min(37))));
    let numbers = (core::array::from_fn(|_| wide(16) as u16), core::array::from_fn(|_| wide(usual + 10)));
    let [expected, found] = &mut m.outs;
    let room = (count - 1) * stride + width;
    let (expected, found) = (expected.get_mut(..room + 1)?, found.get_mut(..room + 1)?);
    expected.fill(77);
    found.fill(77);
    for (sums, out) in sums.iter().zip(expected.get_mut(..room)?.chunks_mut(stride)) {
        for ((out, sum), (mult, bias)) in out.iter_mut().zip(sums).zip(numbers.0.iter().zip(&numbers.1)).take(width) {
            *out = o.clamp(saturate(shift_round(sum * i64::from(*mult) + bias, shift)));
        }
    }
    let (sums, out) = (sums.get(..count)?, found.get_mut(..room)?);
    kernels::requantize(kernels::select(), sums, &numbers, shift, &o, out, (stride, width))?;
    (expected == found).then_some(())
}

/// Prints hundredths of an instruction a multiply-accumulate.
fn each(console: &mut Console, what: &str, counter: &mut impl Counter, macs: u64, run: impl FnOnce()) {
    let before = counter.instructions();
    run();
    print::number(console, what, (counter.instructions() - before) * 100 / macs);
}

/// What layers take: 64 channels to 64 on 8 by 8 pixels or 1, and matrices of 128 by 128.
fn cost(console: &mut Console, counter: &mut impl Counter, m: &mut Memory) -> Option<()> {
    let mut r = Random(3);
    let o = Output { zero_point: 0, min: -128, max: 127, rounding: Rounding::Double, narrow: false };
    m.x.fill_with(|| (r.next() >> 8) as i8);
    // Nets' weights are small but for a few.
    m.w.fill_with(|| (r.next() >> 8) as i8 >> 1);
    let cs = m.channels.get_mut(..64)?;
    cs.fill([100, 0x5000_0000, -8]);
    let cs = bytemuck::cast_slice(cs);
    let cases: [(&str, ConvFn<i8>, usize, usize, usize); 3] = [
        ("conv1x1_int8_hundredths", int8::conv2d, 64, 1, 8),
        ("depthwise3x3_int8_hundredths", int8::depthwise_conv2d, 1, 3, 8),
        ("fully_connected_int8_hundredths", int8::conv2d, 64, 1, 1),
    ];
    for (name, function, depth, kernel, side) in cases {
        let axis = Axis { kernel, pad: kernel / 2, ..Axis::each(side) };
        let g = Window { y: axis, x: axis, channels: 64, backward: false };
        let macs = (side * side * 64 * depth * kernel * kernel) as u64;
        let image = Cell::from_mut(m.x.get_mut(..side * side * 64)?).as_slice_of_cells();
        let out = Cell::from_mut(m.outs.first_mut()?.get_mut(..side * side * 64)?).as_slice_of_cells();
        let w = m.w.get(..64 * depth * kernel * kernel)?;
        each(console, name, counter, macs, || {
            let _ = function(&g, NonZeroUsize::MIN, (image, 3), (w, 0), cs, &o, out);
        });
    }
    for (name, dtype, uniform, [rows, groups, count]) in [
        ("n4_uniform_hundredths", Dtype::N4, true, [128, 4, 1]),
        ("n4_uniform_512_columns_hundredths", Dtype::N4, true, [64, 16, 1]),
        ("n4_hundredths", Dtype::N4, false, [128, 4, 1]),
        ("n4_two_rows_hundredths", Dtype::N4, false, [128, 4, 2]),
        ("n4_four_rows_hundredths", Dtype::N4, false, [128, 4, 4]),
        ("n4_eight_rows_hundredths", Dtype::N4, false, [128, 4, 8]),
        ("t4_hundredths", Dtype::T4, false, [128, 4, 1]),
        ("t4_four_rows_hundredths", Dtype::T4, false, [128, 4, 4]),
        ("t4_eight_rows_hundredths", Dtype::T4, false, [128, 4, 8]),
        ("t3_hundredths", Dtype::T3, false, [128, 4, 1]),
        ("t3_eight_rows_hundredths", Dtype::T3, false, [128, 4, 8]),
        ("n5_hundredths", Dtype::N5, false, [128, 4, 1]),
        ("n5_eight_rows_hundredths", Dtype::N5, false, [128, 4, 8]),
        ("n8_hundredths", Dtype::N8, false, [128, 4, 1]),
    ] {
        let mut w = coded(&mut r, dtype, [rows, groups], &mut m.w)?;
        w.stretch = 16; // 16 * 32 * 128 * 128 * 255 < 2^31
        let book: [i8; 16] = core::array::from_fn(|i| if uniform { i as i8 - 8 } else { 7 * i as i8 - 50 });
        w.codebook = if dtype == Dtype::N5 { book.map(i8::abs) } else { book };
        let codes = Codes::new(bytemuck::cast_slice(&m.x), count, groups * 32, groups * 32)?;
        each(console, name, counter, (rows * groups * 32 * count) as u64, || {
            (kernels::select().blocks(&w))(&w, 0..rows / BLOCK, &codes, &mut |_, _, sums| {
                core::hint::black_box(sums);
            });
        });
    }
    // A 1x1 convolution, as its op does it: a row of 8 pixels at a time.
    for (name, dtype, uniform) in [
        ("conv1x1_n4_hundredths", Dtype::N4, false),
        ("conv1x1_n4_uniform_hundredths", Dtype::N4, true),
        ("conv1x1_t4_hundredths", Dtype::T4, false),
    ] {
        let mut w = coded(&mut r, dtype, [64, 2], &mut m.w)?;
        w.stretch = 2;
        w.codebook = core::array::from_fn(|i| if uniform { i as i8 - 8 } else { 7 * i as i8 - 50 });
        let out = m.outs.first_mut()?.get_mut(..64 * 64)?;
        each(console, name, counter, 64 * 64 * 64, || {
            for (x, out) in m.x.chunks_exact(8 * 64).zip(out.chunks_exact_mut(8 * 64)) {
                let Some(codes) = Codes::new(bytemuck::cast_slice(x), 8, 64, 64) else { return };
                (kernels::select().blocks(&w))(&w, 0..4, &codes, &mut |block, _, sums| {
                    let numbers = (core::array::from_fn(|i| 1000 + i as u16), [-5_000_000_000; BLOCK]);
                    if let Some(out) = out.get_mut(block * BLOCK..) {
                        let _ = kernels::requantize(kernels::select(), sums, &numbers, 36, &o, out, (64, BLOCK));
                    }
                });
            }
        });
    }
    Some(())
}

/// How many cases are compared.
const CASES: u64 = 750;

/// Compares, counts and ends the program, with code 0 if all cases are the same. Call it once.
pub fn run(mut counter: impl Counter) -> ! {
    let mut console = Console::open();
    #[allow(unsafe_code)]
    // SAFETY: this function runs once, and nothing else uses it.
    let m = unsafe { &mut *core::ptr::addr_of_mut!(MEMORY) };
    for case in 1..=CASES {
        let r = &mut Random(case);
        let (name, same) = match case % 5 {
            0 => ("conv2d", conv(r, m, false)),
            1 => ("depthwise_conv2d", conv(r, m, true)),
            2 => ("matrix", matrix(r, m)),
            3 => ("requantize", requantized(r, m)),
            _ => ("add", add(r, m)),
        };
        if same.is_none() {
            print::field(&mut console, "differs", name);
            print::number(&mut console, "case", case);
            semihosting::exit(1);
        }
    }
    let _ = cost(&mut console, &mut counter, m);
    print::number(&mut console, "cases", CASES);
    semihosting::exit(0)
}
