//! Images made by an enemy. Each is refused, or runs to its end: no panic (this profile traps overflow), no write
//! outside the arena, no work beyond the file's size. Tests are named after the attack.

mod support;

use mote_runtime::image::header::{self, HEADER_BYTES};
use mote_runtime::image::plan::{Kind, Rows, Slot};
use mote_runtime::image::program::{NONE, OP_BYTES, Op};
use mote_runtime::image::tensors::{Dtype, RECORD_BYTES};
use mote_runtime::image::{crc, plan, program, section};
use mote_runtime::{Error, Image, Limits, Result, Session, ops};
use support::{
    Arena, Builder, CODED, Parts, Random, assemble, code, op, small_embedder, small_gpt, small_model, small_translator,
};

const LIMITS: Limits = Limits { batch: 3, context: 8, threads: 2 };

/// Memory that attempts share, so that each meets the last one's leavings.
fn arena() -> Arena {
    let mut r = Random::new(77);
    Arena::new(64 << 10, || r.next() as u8)
}

/// Everything a user would do with an image.
fn attempt(file: &[u8], arena: &mut Arena) -> Result<()> {
    let result = run(file, arena);
    assert!(arena.guards_hold());
    result
}

fn run(file: &[u8], arena: &mut Arena) -> Result<()> {
    let image = Image::open(file)?;
    let mut session = Session::with_pool(&image, arena.get(), LIMITS, &Parts(3))?;
    if image.plan().embeds() {
        session.embed(&[4, 3, 2, 1, 0, 1, 2])?;
        return session.embed(&[1]).map(|_| ());
    }
    if image.plan().source_vocab != 0 {
        session.encode(&[4, 3, 2, 1, 0, 1, 2])?;
    }
    session.prefill(&[1, 2, 3, 4, 5])?;
    session.logits(0)?;
    session.last_logits()?;
    session.rewind(2);
    session.prefill(&[0, 1, 2, 3, 1, 0])?;
    let bits = session.logits_frac_bits();
    let logits = session.last_logits()?;
    let mut sampler = mote_runtime::sample::Sampler::new(
        mote_runtime::sample::Params {
            temperature: 50_000,
            top_k: 9,
            top_p: 60_000,
            min_p: 99,
            repeat_penalty: 70_000,
            repeat_last: 64,
        },
        1,
    );
    sampler.sample(logits, bits, &[1, 2, 3, u32::MAX]);
    Ok(())
}

fn refused(builder: &Builder) -> Error {
    match attempt(&builder.image(), &mut arena()) {
        Err(error) => error,
        Ok(()) => panic!("accepted"),
    }
}

/// Writes the header's checksum anew.
fn seal(file: &mut [u8]) {
    let sections = u32::from_le_bytes(file[12..16].try_into().unwrap()) as usize;
    let end = (HEADER_BYTES + sections.min(header::MAX_SECTIONS) * header::ENTRY_BYTES).min(file.len());
    file[24..28].fill(0);
    let sum = crc::crc32c(&file[..end]);
    file[24..28].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn the_model_itself_runs() {
    attempt(&small_model(1).image(), &mut arena()).unwrap();
}

#[test]
fn truncated_anywhere() {
    let file = small_model(1).image();
    for len in 0..file.len() {
        assert!(Image::open(&file[..len]).is_err(), "{len} bytes");
    }
    let mut longer = file.clone();
    longer.push(0);
    assert!(matches!(Image::open(&longer), Err(Error::FileSize { .. })));
}

/// The header's length is made to agree, so that each section's own check is what refuses.
#[test]
fn truncated_anywhere_with_a_header_that_agrees() {
    let file = small_model(1).image();
    for len in HEADER_BYTES..file.len() {
        let mut file = file[..len].to_vec();
        file[16..24].copy_from_slice(&(len as u64).to_le_bytes());
        seal(&mut file);
        assert!(Image::open(&file).is_err(), "{len} bytes");
    }
}

#[test]
fn any_byte_of_header_and_table() {
    let file = small_model(1).image();
    let end = HEADER_BYTES + 4 * header::ENTRY_BYTES;
    for at in 0..end {
        for value in 0..=255u8 {
            let mut changed = file.clone();
            changed[at] = value;
            assert!(changed == file || Image::open(&changed).is_err(), "byte {at} = {value}");
        }
    }
}

#[test]
fn any_byte_of_header_and_table_with_the_sum_recomputed() {
    let file = small_model(1).image();
    let mut arena = arena();
    let end = HEADER_BYTES + 4 * header::ENTRY_BYTES;
    for at in 0..end {
        for value in [0, 1, 2, 7, 0x40, 0x7F, 0x80, 0xFF] {
            let mut changed = file.clone();
            changed[at] = value;
            seal(&mut changed);
            // Only the weights' own sum may differ: it is what `verify` is for.
            let weights_sum = HEADER_BYTES + 3 * header::ENTRY_BYTES + 4;
            let summed_later = (weights_sum..weights_sum + 4).contains(&at) || (24..28).contains(&at);
            let result = attempt(&changed, &mut arena);
            assert!(changed == file || summed_later || result.is_err(), "byte {at} = {value}");
        }
    }
}

#[test]
fn flipped_bytes() {
    let file = small_model(1).image();
    let (mut arena, r) = (arena(), &mut Random::new(1));
    for _ in 0..10_000 {
        let mut changed = file.clone();
        for _ in 0..r.range(1, 3) {
            let at = r.range(0, file.len() as i64 - 1) as usize;
            changed[at] ^= r.range(1, 255) as u8;
        }
        let result = attempt(&changed, &mut arena);
        let intact = Image::open(&changed).is_ok_and(|image| image.verify().is_ok());
        assert!(!intact || changed == file);
        let _ = result;
    }
}

/// Attempts, of which each section is changed in its turn and every checksum is right. Returns how many ran.
fn mutate(rounds: usize, seed: u64, change: impl Fn(&mut Random, u32, &mut Vec<u8>)) -> usize {
    let models =
        [small_model(1), small_gpt(1), small_translator(1), small_embedder(1, 0)].map(|model| model.sections());
    let (mut arena, r) = (arena(), &mut Random::new(seed));
    let mut ran = 0;
    for round in 0..rounds {
        let mut changed = models[round / 4 % models.len()].clone();
        let count = changed.len();
        let (kind, bytes) = &mut changed[round % count];
        change(r, *kind, bytes);
        ran += usize::from(attempt(&assemble(&changed), &mut arena).is_ok());
    }
    ran
}

#[test]
fn flipped_bytes_under_a_right_sum() {
    let ran = mutate(10_000, 2, |r, _, bytes| {
        for _ in 0..r.range(1, 2) {
            let at = r.range(0, bytes.len() as i64 - 1) as usize;
            bytes[at] ^= 1 << r.range(0, 7);
        }
    });
    assert!((2_500..7_500).contains(&ran), "a quarter of the flips hit weights, others must be refused: {ran}");
}

/// Numbers that arithmetic stumbles over.
fn nasty(r: &mut Random) -> u32 {
    let edges = [0, 1, 2, 3, 5, 8, 16, 31, 32, 33, 40, 63, 64, 65, 255, 256, 257, 1 << 16, 1 << 28, 1 << 30];
    match r.range(0, 4) {
        0 => edges[r.range(0, edges.len() as i64 - 1) as usize],
        1 => edges[r.range(0, edges.len() as i64 - 1) as usize].wrapping_neg(),
        2 => [i32::MAX as u32, i32::MIN as u32, NONE, NONE - 1][r.range(0, 3) as usize],
        _ => r.range(0, 48) as u32,
    }
}

#[test]
fn words_replaced_by_nasty_numbers() {
    let ran = mutate(10_000, 3, |r, kind, bytes| {
        if kind == section::WEIGHTS {
            bytes.fill(nasty(r) as u8);
            return;
        }
        for _ in 0..r.range(1, 3) {
            let at = r.range(0, bytes.len() as i64 / 4 - 1) as usize * 4;
            let width = [1, 2, 4][r.range(0, 2) as usize];
            bytes[at..at + width].copy_from_slice(&nasty(r).to_le_bytes()[..width]);
        }
    });
    assert!((2_500..7_500).contains(&ran), "{ran}");
}

/// Whole records: an op with another's code, arguments drawn from what exists; slots and tensors swapped about.
#[test]
fn records_shuffled() {
    let ran = mutate(10_000, 4, |r, kind, bytes| {
        let (head, record) = match kind {
            section::PROGRAM => (program::HEAD_BYTES + bytes[0] as usize * program::ENTRY_BYTES, OP_BYTES),
            section::PLAN => (plan::HEAD_BYTES, plan::SLOT_BYTES),
            section::TENSORS => (0, RECORD_BYTES),
            _ => return bytes.iter_mut().for_each(|b| *b = r.next() as u8),
        };
        let count = ((bytes.len() - head) / record) as i64 - 1;
        let (from, to) = (r.range(0, count) as usize, r.range(0, count) as usize);
        let copy = bytes[head + from * record..][..record].to_vec();
        let target = &mut bytes[head + to * record..][..record];
        match r.range(0, 2) {
            0 => target.copy_from_slice(&copy),
            1 => {
                let part = r.range(0, record as i64 / 4 - 1) as usize * 4;
                target[part..part + 4].copy_from_slice(&copy[part..part + 4]);
            }
            _ => {
                if kind == section::PROGRAM {
                    let code = if r.range(0, 1) == 0 { r.range(0, 11) } else { r.range(40, 44) };
                    target[..2].copy_from_slice(&(code as u16).to_le_bytes());
                }
                let word = r.range(1, 8) as usize * 4;
                target[word..word + 4].copy_from_slice(&(r.range(0, 40) as u32).to_le_bytes());
            }
        }
    });
    assert!((2_500..7_500).contains(&ran), "{ran}");
}

#[test]
fn random_ops_over_real_slots() {
    let model = small_model(1);
    let (mut arena, r) = (arena(), &mut Random::new(5));
    let mut ran = 0;
    for _ in 0..10_000 {
        let mut b = model.clone();
        let known = b.body[r.range(0, b.body.len() as i64 - 1) as usize];
        let mut new = op(r.range(1, 9) as u16, &[]);
        new.flags = r.range(0, 1) as u16;
        // An op that exists, one or two arguments exchanged: the likeliest to slip through.
        if r.range(0, 3) > 0 {
            new = known;
        }
        for _ in 0..r.range(1, 3) {
            new.args[r.range(0, 8) as usize] = r.range(-1, 34) as u32;
        }
        let at = r.range(0, b.body.len() as i64 - 1) as usize;
        if r.range(0, 4) == 0 {
            b.head.insert(r.range(0, 3) as usize, new)
        } else {
            b.body[at] = new
        }
        ran += usize::from(attempt(&b.image(), &mut arena).is_ok());
    }
    assert!(ran > 250, "{ran}");
}

#[test]
fn section_table_lies() {
    let base = small_model(1).sections();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut file = assemble(&base);
        change(&mut file);
        seal(&mut file);
        Image::open(&file).map(|_| ())
    };
    let entry = |n: usize| HEADER_BYTES + n * header::ENTRY_BYTES;
    let put = |file: &mut Vec<u8>, at: usize, v: u64| file[at..at + 8].copy_from_slice(&v.to_le_bytes());
    assert_eq!(changed(&|_| ()), Ok(()));
    for v in [0, 1, 63, 64, u64::MAX, u64::MAX - 63, 1 << 63, 1 << 32] {
        assert!(changed(&|f| put(f, entry(1) + 8, v)).is_err(), "offset {v}");
        assert!(changed(&|f| put(f, entry(1) + 16, v)).is_err(), "bytes {v}");
        assert!(changed(&|f| put(f, 16, v)).is_err(), "file bytes {v}");
    }
    for n in [0u32, 1, 3, 5, 16, 17, u32::MAX] {
        assert!(changed(&|f| f[12..16].copy_from_slice(&n.to_le_bytes())).is_err(), "{n} sections");
    }
    for missing in 0..4 {
        let mut sections = base.clone();
        let (kind, _) = sections.remove(missing);
        assert_eq!(Image::open(&assemble(&sections)).map(|_| ()), Err(Error::Absent { section: kind }));
    }
    let mut twice = base.clone();
    twice.insert(1, base[0].clone());
    assert_eq!(Image::open(&assemble(&twice)).map(|_| ()), Err(Error::Section { section: section::PROGRAM }));
    let mut backwards = base.clone();
    backwards.reverse();
    assert!(Image::open(&assemble(&backwards)).is_err());
    let mut uneven = base.clone();
    uneven.push((998, vec![1]));
    uneven.push((999, vec![1]));
    let file = assemble(&uneven);
    assert!(Image::open(&file).is_ok());
    for at in file.len() - 64..file.len() - 1 {
        let mut file = file.clone();
        file[at] = 1;
        assert!(Image::open(&file).is_err(), "bytes between sections");
    }
    // Sections that a later quantizer may add are no fault.
    let mut more = base.clone();
    more.push((999, vec![1, 2, 3]));
    assert!(Image::open(&assemble(&more)).is_ok());
}

#[test]
fn absurd_counts_are_refused_before_any_loop() {
    for (which, at) in [(0, 0), (0, 4), (1, 0)] {
        for count in [u32::MAX, u32::MAX / 16, 1 << 28, 1 << 31] {
            let mut sections = small_model(1).sections();
            sections[which].1[at..at + 4].copy_from_slice(&count.to_le_bytes());
            assert!(Image::open(&assemble(&sections)).is_err(), "{count} in section {which}");
        }
    }
    let mut b = small_model(1);
    b.tensors[0].0.dims = [u32::MAX, u32::MAX, 1, 1];
    assert_eq!(refused(&b), Error::Tensor { index: 0 });
    b.tensors[0].0.dims = [1 << 31, 1 << 31, 1, 1];
    assert_eq!(refused(&b), Error::Tensor { index: 0 });
}

#[test]
fn entry_point_beyond_the_ops() {
    let model = small_model(1);
    let ops = (model.body.len() + model.head.len()) as u32;
    for (first, count) in [(0, ops + 1), (ops, 1), (ops + 1, 0), (u32::MAX, 1), (u32::MAX, u32::MAX), (0, u32::MAX)] {
        let mut sections = model.sections();
        let entry = &mut sections[0].1[program::HEAD_BYTES..];
        entry[4..8].copy_from_slice(&first.to_le_bytes());
        entry[8..12].copy_from_slice(&count.to_le_bytes());
        assert_eq!(Image::open(&assemble(&sections)).err(), Some(Error::Entry { id: program::entry::BODY }));
    }
}

/// Every slot at the end of what its fraction may be, every weight at the end of its exponent: shifts by hundreds of
/// bits either way, and all must run.
#[test]
fn extreme_fractions_and_exponents() {
    let model = small_model(1);
    let glu = *model.body.iter().find(|op| op.code == code("glu")).unwrap();
    let mut arena = arena();
    for frac in [-64i16, -1, 0, 28, 31, 33, 64] {
        for exponent in [-256, -64, 0, 31, 64, 256] {
            let mut b = model.clone();
            b.slots.iter_mut().for_each(|slot| slot.frac = frac);
            b.slots[glu.args[0] as usize].frac = frac.clamp(0, 28);
            b.slots[b.logits as usize].frac = frac.max(0);
            for (desc, _) in &mut b.tensors {
                match desc.dtype {
                    Dtype::I32 => desc.exponent = i32::from(frac),
                    Dtype::U64 => (),
                    _ => desc.exponent = exponent,
                }
            }
            assert_eq!(attempt(&b.image(), &mut arena), Ok(()), "frac {frac}, exponent {exponent}");
        }
    }
    for (at, frac) in (0..model.slots.len()).flat_map(|at| [-65, 65, i16::MIN, i16::MAX].map(|f| (at, f))) {
        let mut b = model.clone();
        b.slots[at].frac = frac;
        assert_eq!(refused(&b), Error::Slot { index: at as u32 });
    }
    for exponent in [-257, 257, i32::MIN, i32::MAX] {
        let mut b = model.clone();
        b.tensors[0].0.exponent = exponent;
        assert_eq!(refused(&b), Error::Tensor { index: 0 });
    }
}

#[test]
fn extreme_constants() {
    let model = small_model(1);
    let mut arena = arena();
    let at = |name: &str| model.body.iter().position(|op| op.code == code(name)).unwrap();
    let edges = [0, 1, 63, 64, 0x7FFF, 0xFFFF, 1 << 16, i32::MAX as u32, i32::MIN as u32, 0u32.wrapping_sub(64), NONE];
    for (name, args) in [("rms_norm", 3..8), ("attention", 4..8), ("rope", 2..4), ("quantize", 2..3)] {
        for (arg, value) in args.flat_map(|arg| edges.map(|edge| (arg, edge))) {
            let mut b = model.clone();
            b.body[at(name)].args[arg] = value;
            let _ = attempt(&b.image(), &mut arena);
        }
    }
    let rms = |arg: usize, value: u32| {
        let mut b = model.clone();
        b.body[at("rms_norm")].args[arg] = value;
        refused(&b)
    };
    for (arg, value) in [(7, 0), (7, 39), (7, 80), (7, NONE), (5, 1 << 16), (6, 64), (6, NONE)] {
        assert!(matches!(rms(arg, value), Error::Op { .. }));
    }
}

/// An op that the build knows, but not the table that the image is opened with.
#[test]
fn op_outside_the_table() {
    static ALL: [ops::OpDef; 9] = ops::select([1, 2, 3, 4, 5, 6, 7, 8, 9]);
    static FEW: [ops::OpDef; 8] = ops::select([1, 2, 3, 4, 6, 7, 8, 9]);
    let file = small_model(1).image();
    assert!(Image::open_with(&file, &ALL).is_ok());
    let why = Image::open_with(&file, &FEW).unwrap_err();
    assert!(matches!(why, Error::Op { code, .. } if code == support::code("matmul")), "{why:?}");
}

/// Slots of one op that share a byte.
#[test]
fn slots_that_alias() {
    let model = small_model(1);
    let mut caught = 0;
    for (op, which) in model.body.iter().flat_map(|op| ops::find(op.code).unwrap().slots.iter().map(move |s| (op, s))) {
        for other in ops::find(op.code).unwrap().slots.iter().filter(|o| *o != which) {
            let (a, b) = (op.args[*which] as usize, op.args[*other] as usize);
            let mut builder = model.clone();
            builder.slots[a].offset = builder.slots[b].offset;
            assert!(matches!(refused(&builder), Error::Op { .. }), "{op:?}");
            // By its last row alone.
            builder.slots[a].offset = model.slots[b].offset;
            for (offset, size) in builder.slots[a].offset.iter_mut().zip(model.slots[b].size()) {
                *offset += size;
            }
            builder.slots[a].offset[0] = builder.slots[a].offset[0].wrapping_sub(16);
            assert!(attempt(&builder.image(), &mut arena()).is_err());
            caught += 1;
        }
    }
    assert!(caught > 30);
}

/// A slot far away makes the arena large, and the arena given too small; one at the end of the address space overflows.
#[test]
fn slots_outside_the_arena() {
    let model = small_model(1);
    for at in 0..model.slots.len() {
        for k in 0..4 {
            for big in [1 << 20, 1 << 40, !15] {
                let mut b = model.clone();
                b.slots[at].offset[k] = big;
                let why = attempt(&b.image(), &mut arena()).unwrap_err();
                // `Op`: one of two slots that must be one place.
                let expected = matches!(
                    why,
                    Error::ArenaSize { .. } | Error::Limits { .. } | Error::Slot { .. } | Error::Op { .. }
                );
                assert!(expected, "slot {at}, coefficient {k}: {why:?}");
            }
        }
    }
    // A logits slot that no op touches is in the arena all the same.
    let mut b = model.clone();
    b.logits = b.i32_slot(Rows::One, b.vocab as usize, 0);
    b.slots[b.logits as usize].offset = [1 << 20, 0, 0, 0];
    assert!(matches!(attempt(&b.image(), &mut arena()), Err(Error::ArenaSize { .. })));
}

/// A cache whose size overflows, on 32 bits or on 64.
#[test]
fn cache_too_large() {
    let model = small_model(1);
    let cache = model.slots.iter().position(|s| s.kind == Kind::Cache).unwrap();
    for (heads, head_dim) in [(65_535, 256), (65_536, 8), (2, 257), (u32::MAX, u32::MAX), (0, 8), (2, 0)] {
        let mut b = model.clone();
        (b.slots[cache].heads, b.slots[cache].head_dim) = (heads, head_dim);
        refused(&b);
    }
    // Two codes of 4 bits share a byte.
    for head_dim in [7, 9, 255, 258] {
        let mut b = model.clone().with_cache4();
        b.slots[cache].head_dim = head_dim;
        refused(&b);
    }
    let file = model.image();
    let image = Image::open(&file).unwrap();
    let huge = Limits { batch: u32::MAX, context: 1 << 20, threads: u32::MAX };
    assert!(image.arena_bytes(huge).is_ok_and(|bytes| bytes > 1 << 40) || image.arena_bytes(huge).is_err());
    assert!(Session::new(&image, arena().get(), huge).is_err());
}

#[test]
fn logits_that_are_no_row_of_the_vocabulary() {
    let model = small_model(1);
    for index in 0..model.slots.len() as u32 {
        if index != model.logits {
            let b = Builder { logits: index, ..model.clone() };
            assert_eq!(refused(&b), Error::Slot { index });
        }
    }
    refused(&Builder { logits: model.slots.len() as u32, ..model.clone() });
    refused(&Builder { logits: NONE, ..model.clone() });
    for change in [
        |s: &mut Slot| s.kind = Kind::Q8,
        |s: &mut Slot| s.rows = Rows::Batch,
        |s: &mut Slot| s.frac = -1,
        |s: &mut Slot| s.cols -= 1,
    ] {
        let mut b = model.clone();
        change(&mut b.slots[model.logits as usize]);
        refused(&b);
    }
}

/// What this runtime does not know, a later one may: refused, not ignored.
#[test]
fn unknown_flags_and_unused_arguments() {
    let model = small_model(1);
    for at in 0..model.body.len() {
        let used = ops::find(model.body[at].code).unwrap();
        for bit in (0..16).map(|bit| 1 << bit).filter(|bit| used.flags & bit == 0) {
            let mut b = model.clone();
            b.body[at].flags |= bit;
            assert!(matches!(refused(&b), Error::Op { .. }));
        }
        for arg in used.args..model.body[at].args.len() {
            let mut b = model.clone();
            b.body[at].args[arg] = 1;
            assert!(matches!(refused(&b), Error::Op { .. }));
        }
    }
    let mut sections = model.sections();
    // The reserved word of the first entry point, after the head's 16 bytes.
    sections[0].1[16 + 12] = 1;
    assert!(matches!(attempt(&assemble(&sections), &mut arena()), Err(Error::Section { .. })));
}

/// In the head there is one row and no position; in the body there are the step's rows and nothing else.
#[test]
fn ops_at_the_wrong_entry_point() {
    let model = small_model(1);
    for op in &model.body {
        let mut b = model.clone();
        b.head.push(*op);
        assert!(matches!(refused(&b), Error::Op { .. }), "{op:?}");
    }
    for op in &model.head {
        let mut b = model.clone();
        b.body.push(*op);
        assert!(matches!(refused(&b), Error::Op { .. }), "{op:?}");
    }
}

/// Each slot of each op with another number of rows than the op wants.
#[test]
fn rows_that_do_not_match() {
    for model in [small_model(1), small_model(1).with_cache4()] {
        for index in 0..model.slots.len() {
            for rows in [Rows::One, Rows::Batch, Rows::Context, Rows::ThreadContext] {
                let mut b = model.clone();
                b.slots[index].rows = rows;
                if rows != model.slots[index].rows {
                    refused(&b);
                }
            }
        }
    }
}

#[test]
fn columns_that_do_not_match() {
    let model = small_model(1);
    for index in 0..model.slots.len() {
        // Caches and scratch have no columns of their own.
        if model.slots[index].cols == 1 {
            continue;
        }
        for cols in [0, 1, model.slots[index].cols - 1, model.slots[index].cols + 1, 1 << 28, u32::MAX] {
            let mut b = model.clone();
            b.slots[index].cols = cols;
            refused(&b);
        }
    }
}

#[test]
fn tensors_of_other_types() {
    let model = small_model(1);
    for index in 0..model.tensors.len() {
        for dtype in
            [Dtype::I8, Dtype::I16, Dtype::I32, Dtype::U64, Dtype::T3, Dtype::N4, Dtype::T4, Dtype::N5, Dtype::N8]
        {
            let mut b = model.clone();
            let desc = &mut b.tensors[index].0;
            if desc.dtype == dtype {
                continue;
            }
            desc.dtype = dtype;
            let bytes = mote_runtime::image::TensorDesc::data_bytes(dtype, desc.dims).unwrap();
            b.tensors[index].1.resize(bytes as usize, 0x11);
            let swap = CODED;
            // What is negative in an N4's book is no magnitude.
            b.tensors[index].0.codebook = b.tensors[index].0.codebook.map(i8::abs);
            let coded = swap.contains(&dtype) && swap.contains(&model.tensors[index].0.dtype);
            assert!(coded == attempt(&b.image(), &mut arena()).is_ok(), "tensor {index} as {dtype:?}");
        }
    }
}

#[test]
fn levels_below_the_least() {
    for (dtype, least) in [(Dtype::T3, -127), (Dtype::N4, -127), (Dtype::T4, -127), (Dtype::N5, 0)] {
        let mut b = small_model(1);
        let at = b.tensors.iter().position(|(desc, _)| desc.dtype == dtype).unwrap();
        b.tensors[at].0.codebook[3] = least;
        assert_eq!(attempt(&b.image(), &mut arena()), Ok(()));
        b.tensors[at].0.codebook[3] = least - 1;
        assert_eq!(refused(&b), Error::Tensor { index: at as u32 });
    }
}

/// Activations that no op has written: garbage in, garbage out, but nothing overflows.
#[test]
fn activations_never_written() {
    for (model, fill) in [small_model(1), small_gpt(1), small_translator(1), small_embedder(1, 0)]
        .iter()
        .flat_map(|model| [0x00, 0x7F, 0x80, 0xFF, 0xA5].map(|fill| (model, fill)))
    {
        let stages = model.encode.iter().enumerate().flat_map(|(s, ops)| (0..ops.len()).map(move |at| (Some(s), at)));
        for (stage, skip) in (0..model.body.len()).map(|at| (None, at)).chain(stages) {
            let mut b = model.clone();
            stage.map_or(&mut b.body, |s| &mut b.encode[s]).remove(skip);
            let mut arena = Arena::new(64 << 10, || fill);
            assert_eq!(attempt(&b.image(), &mut arena), Ok(()));
        }
    }
}

#[test]
fn encoders_that_are_none() {
    let model = small_translator(1);
    let changed = |change: &dyn Fn(&mut Builder)| {
        let mut b = model.clone();
        change(&mut b);
        refused(&b)
    };
    assert_eq!(changed(&|b| b.source_vocab = 0), Error::Op { index: encode_at(&model), code: code("embed") });
    assert_eq!(changed(&|b| b.encode.clear()), Error::Entry { id: program::entry::ENCODE });
    // The target's table at the source's entry point, and the other way round.
    let flagged = |op: &mut Op| op.flags ^= ops::embed::SOURCE;
    assert!(matches!(changed(&|b| flagged(&mut b.encode[0][0])), Error::Op { .. }));
    assert!(matches!(changed(&|b| flagged(&mut b.body[0])), Error::Op { .. }));
    // Rows kept by position are for one op only.
    let kept = model.encode[1][0].args[1];
    assert!(matches!(changed(&|b| b.encode[1][1].args[0] = kept), Error::Op { .. }));
    assert!(matches!(changed(&|b| b.encode[1][0].args[1] = b.encode[1][0].args[0]), Error::Op { .. }));
    // Entry points that share ops.
    let mut sections = model.sections();
    let program = &mut sections[0].1;
    let at = program::HEAD_BYTES + 2 * program::ENTRY_BYTES;
    let last: Vec<u8> = program[at..at + program::ENTRY_BYTES].to_vec();
    program[at + program::ENTRY_BYTES..at + 2 * program::ENTRY_BYTES].copy_from_slice(&last);
    let count = u32::from_le_bytes(last[8..12].try_into().unwrap());
    assert!(count < model.encode[1].len() as u32, "the copy is the shorter one");
    program[16 + 8..16 + 12].copy_from_slice(&(model.body.len() as u32 + 40).to_le_bytes());
    assert!(matches!(Image::open(&assemble(&sections)).err(), Some(Error::Entry { .. })));
}

/// Index of the encoder's first op.
fn encode_at(model: &Builder) -> u32 {
    (model.body.len() + model.head.len()) as u32
}
