//! The ops on plain tensors against NUMERICS.md, section 13, written down a second time: an element at a time, in i64, addresses
//! by multiplication. And what the session does with them: ports of every type, state from one run to the next.

mod support;

use mote_runtime::image::plan::{Kind, Rows};
use mote_runtime::image::program::NONE;
use mote_runtime::image::{Dtype, Element, Op, Port};
use mote_runtime::{Error, Image, Limits, Session};
use support::{Arena, Bench, Builder, Random, code, limits, op};

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

const ONE: Limits = Limits { batch: 1, context: 1, threads: 1 };

/// Copies all of a slot to another of the same type.
fn copy_all(b: &mut Builder, from: u32, to: u32) -> Op {
    let cols = b.slots[from as usize].cols as i32;
    let layout = b.tensor32(&[cols, 1, 1], &[3, 1]);
    op(code("copy"), &[from, to, layout, 0, 0])
}

fn port(slot: u32, dtype: Dtype, elements: u32) -> Port {
    Port { slot, dtype, rank: 1, zero_point: 0, mantissa: 1, exponent: 0, dims: [elements, 1, 1, 1] }
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
    for other in others.into_iter().chain([Dtype::U64, Dtype::N4, Dtype::N8]) {
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
