//! Every backend that this machine has gives the scalar kernels' bits: matrices, rows and whole models.

#![allow(unsafe_code)]

mod support;

use core::sync::atomic::{AtomicUsize, Ordering};
use mote_runtime::image::Dtype;
use mote_runtime::image::plan::Rows;
use mote_runtime::image::tensors::Dtype::{N4, N5, N8, T3, T4};
use mote_runtime::kernels::{self, Codes, Kernels, scalar};
use mote_runtime::view::{Pool, Single};
use mote_runtime::{Image, Limits, Session};
use proptest::prelude::*;
use support::{
    Arena, Bench, Builder, CODED, Matrix, Parts, Random, Threads, attention, code, op, port, small_gpt, small_model,
    word,
};

/// All sums of a matrix with rows of codes that lie `stride` apart: by block and row.
fn sums(kernels: &Kernels, file: &[u8], x: &[u8], rows: usize, stride: usize) -> Vec<[i64; 16]> {
    let image = Image::open(file).unwrap();
    let w = image.coded(0).unwrap();
    let blocks = w.rows.div_ceil(16);
    let codes = Codes::new(x, rows, stride, w.groups * 32).unwrap();
    let mut all = vec![None; blocks * rows];
    (kernels.blocks(&w))(&w, 0..blocks, &codes, &mut |block, first, sums| {
        for (row, sums) in (first..).zip(sums) {
            assert!(all[block * rows + row].replace(*sums).is_none(), "each pair once");
        }
    });
    all.into_iter().map(Option::unwrap).collect()
}

fn compare(m: &Matrix, x: &[u8], rows: usize, stride: usize) {
    let mut b = Builder::new();
    b.matrix(m);
    b.logits = b.i32_slot(Rows::One, 1, 0);
    let file = b.image();
    let expected = sums(&scalar::KERNELS, &file, x, rows, stride);
    for kernels in kernels::available() {
        assert!(sums(kernels, &file, x, rows, stride) == expected, "{}, {rows} rows", kernels.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    /// Shapes, strides, tails; the codebook's extremes; codes of all int8, -128 among them.
    #[test]
    fn matrices(seed: u64, outputs in 1usize..100, cols in 1usize..400, rows in 1usize..30, gap in 0usize..70, kind in 0usize..5) {
        let r = &mut Random::new(seed);
        let m = match kind {
            0 => Matrix::random(r, outputs, cols, Some(core::array::from_fn(|i| i as i8 - 8))),
            _ => Matrix::any(r, outputs, cols, CODED[kind - 1]),
        };
        let stride = cols.next_multiple_of(32) + gap;
        let x: Vec<u8> = (0..rows * stride).map(|_| r.next() as u8).collect();
        compare(&m, &x, rows, stride);
    }
}

/// The largest sums there are, with either sign, over rows longer than what is summed or prepared together.
#[test]
fn extremes() {
    for (cols, rows) in [(512, 1), (544, 7), (16_416, 3)] {
        for (dtype, level) in [(N4, 127), (N4, -127), (T3, -127), (T4, -127), (N5, 127), (N5, -127), (N8, -128)] {
            let m = Matrix::all(32, cols, dtype, level);
            let stride = cols.next_multiple_of(32);
            for code in [-128i8, 127] {
                compare(&m, &vec![code as u8; rows * stride], rows, stride);
            }
        }
    }
}

/// Strips: a whole last one, a short one, one of a column; rows of codes by each way that there is; more blocks than are taken together.
#[test]
fn wide_matrices() {
    let r = &mut Random::new(8);
    for (outputs, cols) in [(37, 2049), (100, 4128), (70, 8192), (600, 2100)] {
        for dtype in CODED {
            let m = Matrix::any(r, outputs, cols, dtype);
            let stride = cols.next_multiple_of(32) + 5;
            for rows in if outputs == 600 { vec![1, 3] } else { vec![1, 2, 5, 8, 9, 20] } {
                let x: Vec<u8> = (0..rows * stride).map(|_| r.next() as u8).collect();
                compare(&m, &x, rows, stride);
            }
        }
    }
}

/// Whole models, so attention, norms, rotary positions and functions too, in batches and on threads.
#[test]
fn models() {
    let cache4 = [small_model(13).with_cache4().image(), small_gpt(14).with_cache4().image()];
    let transformed = small_model(15).with_transformed_heads().image();
    for file in [small_model(11).image(), small_gpt(12).image(), transformed].into_iter().chain(cache4) {
        let image = Image::open(&file).unwrap();
        let mut r = Random::new(5);
        let tokens: Vec<u32> = (0..41).map(|_| r.range(0, 28) as u32).collect();
        let mut logits = |kernels: &'static Kernels, batch: u32, pool: &dyn Pool| {
            let limits = Limits { batch, context: 44, threads: pool.threads() as u32 };
            let mut arena = Arena::new(image.arena_bytes(limits).unwrap() as usize, || r.next() as u8);
            let mut session = Session::with_pool(&image, arena.get(), limits, pool).unwrap();
            session.set_kernels(kernels);
            assert_eq!(session.kernels(), kernels.name);
            let mut all = Vec::new();
            for tokens in tokens.chunks(batch as usize) {
                session.prefill(tokens).unwrap();
                all.extend_from_slice(session.last_logits().unwrap());
            }
            all
        };
        for batch in [1, 13, 41] {
            let expected = logits(&scalar::KERNELS, batch, &Single);
            for kernels in kernels::available() {
                assert!(logits(kernels, batch, &Single) == expected, "{}, batches of {batch}", kernels.name);
                if batch == 41 {
                    assert!(logits(kernels, batch, &Threads(3)) == expected, "{}, three threads", kernels.name);
                }
            }
        }
    }
}

/// A net whose ops are worth several threads, but for a pool, and most of whose outputs lie on their inputs, as far as they may.
fn net() -> Builder {
    let r = &mut Random::new(21);
    let mut b = Builder::new();
    // 20 x 24 pixels of 16 channels, thrice of 32; half the size; 80 numbers. (Where the first unit writes, nothing is read any more.)
    let places = [(7680, 10_752), (15_360, 2048), (15_360, 256), (15_360, 0), (3840, 20_480), (80, 24_576)];
    let slots = places.map(|(cols, offset)| {
        let slot = b.i8_slot(cols);
        b.slots[slot as usize].offset = [offset, 0, 0, 0];
        slot
    });
    b.logits = b.i32_slot(Rows::One, 1, 0);
    let mut constants = |b: &mut Builder, dims: [usize; 4], channels: usize, shift: i64| {
        let w: Vec<i8> = (0..dims.iter().product()).map(|_| r.range(-90, 90) as i8).collect();
        let rows = (0..channels).flat_map(|_| [r.range(-900, 900) as i32, 1 << 30, r.range(shift - 1, shift) as i32]);
        let rows: Vec<i32> = rows.collect();
        (b.tensor8(&w, &dims), b.tensor32(&rows, &[channels, 3]))
    };
    let (size, ones, pad, numbers) = (20 | 24 << 16, word([1; 4]), 1 | 1 << 16, word([3, -5, -128, 127]));
    let (w, c) = constants(&mut b, [32, 3, 3, 16], 32, -8);
    b.run.push(op(code("conv2d"), &[slots[0], slots[1], w, c, size, size, ones, pad, numbers, 0]));
    let (w, c) = constants(&mut b, [1, 3, 3, 32], 32, -6);
    b.run.push(op(code("depthwise_conv2d"), &[slots[1], slots[2], w, c, size, size, ones, pad, numbers, 0]));
    let (w, c) = constants(&mut b, [32, 1, 1, 32], 32, -7);
    b.run.push(op(code("conv2d"), &[slots[2], slots[3], w, c, size, size, ones, 0, numbers, 0]));
    let (half, two, same) = (10 | 12 << 16, 2 | 2 << 16, word([0, 0, -128, 127]));
    b.run.push(op(code("average_pool2d"), &[slots[3], slots[4], size, half, word([2, 2, 1, 1]), 0, two, same]));
    let (w, c) = constants(&mut b, [80, 3840, 1, 1], 80, -11);
    b.run.push(op(code("fully_connected"), &[slots[4], slots[5], w, c, numbers, 0]));
    b.ports =
        [vec![port(slots[0], Dtype::I8, 7680)], vec![port(slots[3], Dtype::I8, 15_360), port(slots[5], Dtype::I8, 80)]];
    b
}

/// Counts the jobs of a pool that have several parts.
struct Counting<P>(P, AtomicUsize);

// SAFETY: the other pool's parts.
unsafe impl<P: Pool> Pool for Counting<P> {
    fn threads(&self) -> usize {
        self.0.threads()
    }
    fn run(&self, parts: usize, job: &(dyn Fn(usize) + Sync)) {
        self.1.fetch_add(usize::from(parts > 1), Ordering::Relaxed);
        self.0.run(parts, job);
    }
}

/// Nets on threads, with room for copies of inputs and without.
#[test]
fn nets() {
    let file = net().image();
    let image = Image::open(&file).unwrap();
    let run = |kernels: &'static Kernels, pool: &dyn Pool, threads: u32| {
        let limits = Limits { batch: 1, context: 1, threads };
        let mut arena = Arena::new(image.arena_bytes(limits).unwrap() as usize, || 0x5A);
        let mut outputs = Vec::new();
        {
            let mut session = Session::with_pool(&image, arena.get(), limits, pool).unwrap();
            session.set_kernels(kernels);
            let mut r = Random::new(6);
            session.input::<i8>(0).unwrap().fill_with(|| r.range(-128, 127) as i8);
            session.run().unwrap();
            (0..2).for_each(|index| outputs.extend_from_slice(session.output::<i8>(index).unwrap()));
        }
        assert!(arena.guards_hold());
        outputs
    };
    let expected = run(&scalar::KERNELS, &Single, 1);
    for part in [&expected[..15_360], &expected[15_360..]] {
        let different = part.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert!(different > 20, "{different} values of a live net");
    }
    for kernels in kernels::available() {
        assert!(run(kernels, &Single, 1) == expected, "{}", kernels.name);
        for threads in [2, 3] {
            // All ops but the pool, which is too small; without room only the last, whose output does not lie on its input.
            for (room, jobs) in [(threads as u32, 4), (1, 1)] {
                let (real, turned) = (Counting(Threads(threads), 0.into()), Counting(Parts(threads), 0.into()));
                assert!(run(kernels, &real, room) == expected, "{}, {threads} threads, limits of {room}", kernels.name);
                assert!(run(kernels, &turned, room) == expected, "{}, {threads} in turn, of {room}", kernels.name);
                assert_eq!([real.1, turned.1].map(AtomicUsize::into_inner), [jobs; 2], "{threads} threads, {room}");
            }
        }
    }
    let room = image.arena_bytes(Limits { batch: 1, context: 1, threads: 2 }).unwrap();
    assert_eq!(room - image.arena_bytes(Limits { batch: 1, context: 1, threads: 1 }).unwrap(), 15_360);
}

/// Attention over what a cache may hold, of heads as wide as is summed together, wider and narrower; over more positions than int32
/// holds the sums of.
#[test]
fn heads() {
    let eights = [(1, 3), (8, 1), (16, 17), (20, 40), (32, 40), (64, 700), (80, 515), (104, 40), (128, 33), (256, 40)];
    let shapes = eights.map(|(head_dim, context)| (head_dim, context, false)).into_iter().chain([(64, 40, true)]);
    for (head_dim, context, four_bits) in shapes {
        let mut b = Builder::new();
        b.logits = b.i32_slot(Rows::One, 1, 0);
        let (q, out) = (b.i32_slot(Rows::Batch, head_dim, 16), b.i32_slot(Rows::Batch, head_dim, 16));
        let (cache, scratch) = (b.cache_slot(1, head_dim), b.scratch_slot());
        let op = attention(q, cache, scratch, out, 1, head_dim, 0);
        b.body.push(op);
        let b = if four_bits { b.with_cache4() } else { b };
        for code in [None, Some(0x80), Some(0x7F)] {
            let results = kernels::available().map(|kernels| {
                let mut bench = Bench { kernels, ..Bench::new(&b, Limits { batch: 1, context, threads: 1 }) };
                let r = &mut Random::new(3);
                bench.row(q, 0).fill_with(|| r.range(-1 << 19, 1 << 19) as i32);
                let (codes, scales) =
                    bench.bytes(cache).split_at_mut((2 * context as usize * head_dim) >> u32::from(four_bits));
                codes.fill_with(|| code.unwrap_or(r.next() as u8));
                let scale = |r: &mut Random| [r.next() as u8, r.range(128, 255) as u8, r.range(23, 25) as u8, 0];
                let scale4 = |r: &mut Random| [r.range(128, 255) as u8, r.range(23, 25) as u8, 160, 24];
                scales.as_chunks_mut::<4>().0.fill_with(|| if four_bits { scale4(r) } else { scale(r) });
                bench.run_with(&op, context - 1, &[], 1, &Single);
                bench.row(out, 0).to_vec()
            });
            let results: Vec<_> = results.collect();
            let expected = results.last().unwrap();
            let some = expected.iter().any(|sum| *sum != 0) && expected.iter().all(|sum| sum.unsigned_abs() < 1 << 30);
            assert!(some, "{expected:?}");
            assert!(results.iter().all(|result| result == expected), "{head_dim}, {context}, {four_bits}, {code:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    /// Gated linear units of any width and fraction bits; elements of all sizes, the largest among them.
    #[test]
    fn gates(seed: u64, cols in 1usize..300, frac in 0i16..=28, up_frac in -20i16..=40, out_frac in 0i16..=40) {
        let r = &mut Random::new(seed);
        let mut b = Builder::new();
        b.logits = b.i32_slot(Rows::One, 1, 0);
        let (gate, up) = (b.i32_slot(Rows::Batch, cols, frac), b.i32_slot(Rows::Batch, cols, up_frac));
        let out = b.again(gate, out_frac);
        let op = op(code("glu"), &[gate, up, out]);
        b.body.push(op);
        let mut element = || match r.next() % 8 {
            0 => i32::MIN,
            1 => i32::MAX,
            _ => r.next() as i32 >> (r.next() % 32),
        };
        let [gates, ups] = [(); 2].map(|()| (0..cols).map(|_| element()).collect::<Vec<_>>());
        let results = kernels::available().map(|kernels| {
            let mut bench = Bench { kernels, ..Bench::new(&b, Limits { batch: 1, context: 1, threads: 1 }) };
            bench.row(gate, 0).copy_from_slice(&gates);
            bench.row(up, 0).copy_from_slice(&ups);
            bench.run(&op, 1);
            (kernels.name, bench.row(out, 0).to_vec())
        });
        let results: Vec<_> = results.collect();
        let (_, expected) = results.last().unwrap();
        for (name, result) in &results {
            assert_eq!(result, expected, "{name}, {frac} + {up_frac} - {out_frac} bits");
        }
    }
}

#[test]
fn names() {
    let mut seen = std::collections::BTreeSet::new();
    for kernels in kernels::available() {
        assert!(seen.insert(kernels.name), "{} twice", kernels.name);
        assert_eq!(kernels::named(kernels.name).map(|k| k.name), Some(kernels.name));
    }
    assert_eq!(kernels::select().name, kernels::available().next().unwrap().name);
    assert_eq!(kernels::available().last().unwrap().name, scalar::KERNELS.name);
    assert!(kernels::named("none such").is_none());
    if cfg!(target_arch = "wasm32") {
        // What a module has been compiled for, and nothing else.
        let features = (cfg!(target_feature = "relaxed-simd"), cfg!(target_feature = "simd128"));
        let best = match features {
            (true, _) => "wasm32-i8-relaxed",
            (false, true) => "wasm32-i8-simd128",
            _ => "any-i8-scalar",
        };
        assert_eq!(kernels::select().name, best);
    }
}

/// `cargo xtask test backends` says what an emulated core has.
#[test]
fn those_of_this_core() {
    if let Ok(expected) = std::env::var("MOTE_EXPECTED_KERNELS") {
        let found: Vec<_> = kernels::available().map(|kernels| kernels.name).collect();
        assert_eq!(found.join(","), expected);
    }
}

/// Work whose instructions `cargo xtask bench riscv64` counts: `MOTE_WORK` says the type, how many rows of codes, how often; the kernels'
/// name. Says how many products it was.
#[test]
#[ignore = "for a bench"]
fn work() {
    let Ok(work) = std::env::var("MOTE_WORK") else { return };
    let words: Vec<&str> = work.split(' ').collect();
    let [dtype, rows, times, name] = words[..] else { panic!("{work}") };
    let dtype = *CODED.iter().find(|known| format!("{known:?}") == dtype).unwrap();
    let (rows, times, r) = (rows.parse().unwrap(), times.parse().unwrap(), &mut Random::new(1));
    let m = Matrix::any(r, 128, 512, dtype);
    let mut b = Builder::new();
    b.matrix(&m);
    b.logits = b.i32_slot(Rows::One, 1, 0);
    let (file, x) = (b.image(), vec![r.next() as u8; rows * m.cols]);
    let (image, kernels) = (Image::open(&file).unwrap(), kernels::named(name).unwrap());
    let (w, codes) = (image.coded(0).unwrap(), Codes::new(&x, rows, m.cols, m.cols).unwrap());
    for _ in 0..times {
        (kernels.blocks(&w))(&w, 0..8, &codes, &mut |_, _, sums| _ = std::hint::black_box(sums));
    }
    println!("products={}", rows * m.rows * m.cols);
}
