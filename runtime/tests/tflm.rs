//! The ops on plain tensors against TensorFlow Lite Micro itself: what its reference kernels computed for models of one
//! operator (`tests/golden/ops/make.py`, which also states the format, and `convolutions.py`). Whole models: `tests/conformance/tflite.rs`.

mod support;

use mote_runtime::image::plan::{Kind, Rows};
use std::collections::BTreeMap;
use support::{Bench, Builder, code, limits, op};

const CASES: [&str; 2] =
    [include_str!("../../tests/golden/ops/cases.txt"), include_str!("../../tests/golden/ops/convolutions.txt")];

fn kind(name: &str) -> Kind {
    match name {
        "i8" => Kind::I8,
        "i16" => Kind::I16,
        "i32" => Kind::I32,
        other => panic!("{other}"),
    }
}

fn numbers<'a>(words: impl Iterator<Item = &'a str>) -> Vec<i64> {
    words.map(|word| word.parse().unwrap()).collect()
}

/// Runs one case; returns the op's name.
fn run(case: &str) -> &str {
    let (title, lines) = case.split_once('\n').unwrap();
    let (name, flags) = title.split_once(' ').unwrap();
    let mut b = Builder::new();
    b.logits = b.i32_slot(Rows::One, 1, 0);
    let (mut slots, mut tensors, mut args) = (Vec::new(), Vec::new(), Vec::new());
    for line in lines.lines() {
        let mut words = line.split(' ');
        match words.next().unwrap() {
            "tensor" => {
                let kind = kind(words.next().unwrap());
                let dims: Vec<usize> = words.next().unwrap().split('x').map(|d| d.parse().unwrap()).collect();
                tensors.push(b.constant(kind, &numbers(words), &dims));
            }
            "args" => args.extend(words.map(|word| match (word.strip_prefix('s'), word.strip_prefix('t')) {
                (Some(slot), _) => slots[slot.parse::<usize>().unwrap()],
                (_, Some(tensor)) => tensors[tensor.parse::<usize>().unwrap()],
                _ => word.parse::<i64>().unwrap() as u32,
            })),
            _ => {
                let kind = kind(words.next().unwrap());
                slots.push(b.plain_slot(kind, words.count()));
            }
        }
    }
    let mut the_op = op(code(name), &args);
    the_op.flags = flags.parse().unwrap();
    b.run.push(the_op);
    let mut bench = Bench::new(&b, limits(1, 1));
    let values = |which: &str| {
        let of_slots = lines.lines().filter(|line| line.starts_with("in ") || line.starts_with("out "));
        let all = of_slots.zip(slots.clone()).filter(|(line, _)| line.starts_with(which));
        all.map(|(line, slot)| (slot, numbers(line.split(' ').skip(2)))).collect::<Vec<_>>()
    };
    for (slot, values) in values("in ") {
        bench.put(slot, &values);
    }
    bench.run(&the_op, 1);
    for (slot, values) in values("out ") {
        assert_eq!(bench.got(slot), values, "{case}");
    }
    name
}

#[test]
fn ops_give_tflite_micro_s_numbers() {
    let mut count = BTreeMap::new();
    for case in CASES.iter().flat_map(|cases| cases.split("case ").skip(1)) {
        *count.entry(run(case)).or_insert(0) += 1;
    }
    println!("{count:?}");
    assert!(count.len() >= 18 && count.values().all(|n| *n >= 1), "{count:?}");
}
