//! One model, one stream of tokens, one answer: whatever the batch, the threads, the arena's content, the history.

mod support;

use mote_runtime::view::{Pool, Single};
use mote_runtime::{Error, Image, Limits, Session};
use support::{Arena, Random, Threads, small_gpt, small_model};

/// The logits of every position.
fn all_logits(file: &[u8], tokens: &[u32], limits: Limits, pool: &dyn Pool, fill: impl FnMut() -> u8) -> Vec<i32> {
    let image = Image::open(file).unwrap();
    image.verify().unwrap();
    let mut arena = Arena::new(image.arena_bytes(limits).unwrap() as usize, fill);
    let mut all = Vec::new();
    {
        let mut session = Session::with_pool(&image, arena.get(), limits, pool).unwrap();
        for step in tokens.chunks(limits.batch as usize) {
            session.prefill(step).unwrap();
            for row in 0..session.rows() {
                all.extend_from_slice(session.logits(row).unwrap());
            }
        }
    }
    assert!(arena.guards_hold());
    all
}

fn tokens() -> Vec<u32> {
    let mut r = Random::new(3);
    (0..33).map(|_| r.range(0, 36) as u32).collect()
}

fn limits(batch: u32, threads: u32) -> Limits {
    Limits { batch, context: 40, threads }
}

#[test]
fn batch_and_threads_change_no_bit() {
    let file = small_model(1).image();
    let expected = all_logits(&file, &tokens(), limits(1, 1), &Single, || 0);
    let spread = expected.iter().max().unwrap() - expected.iter().min().unwrap();
    assert!(spread > 2 << 16, "logits of a live model, not of zeros: {spread}");
    for batch in [1, 2, 7, 16, 33] {
        for threads in [1, 2, 3] {
            let got = all_logits(&file, &tokens(), limits(batch, threads as u32), &Threads(threads), || 0);
            assert!(got == expected, "batch {batch}, {threads} threads");
        }
    }
    // More threads than the session was opened for, and a longer context.
    let got = all_logits(&file, &tokens(), limits(7, 1), &Threads(5), || 0);
    assert!(got == expected);
    let got = all_logits(&file, &tokens(), Limits { batch: 4, context: 1001, threads: 2 }, &Threads(2), || 0);
    assert!(got == expected);
}

#[test]
fn what_the_arena_held_changes_no_bit() {
    let file = small_model(2).image();
    let expected = all_logits(&file, &tokens(), limits(7, 2), &Single, || 0);
    let mut r = Random::new(9);
    assert!(all_logits(&file, &tokens(), limits(7, 2), &Single, || 0xA5) == expected);
    assert!(all_logits(&file, &tokens(), limits(7, 2), &Single, || 0xFF) == expected);
    assert!(all_logits(&file, &tokens(), limits(7, 2), &Single, || r.next() as u8) == expected);
}

#[test]
fn rewinding_forgets() {
    let file = small_model(4).image();
    let image = Image::open(&file).unwrap();
    let limits = limits(5, 1);
    let mut arena = Arena::new(image.arena_bytes(limits).unwrap() as usize, || 0);
    let mut session = Session::new(&image, arena.get(), limits).unwrap();
    let tokens = tokens();
    session.prefill(&tokens).unwrap();
    let expected = session.last_logits().unwrap().to_vec();
    assert_eq!(session.last_logits().unwrap(), expected, "asking twice");
    for back in [0, 1, 12, 32] {
        session.rewind(back);
        assert_eq!(session.position(), back);
        assert!(matches!(session.last_logits(), Err(Error::Row { .. })));
        // A wrong turn first.
        session.prefill(&[1, 2, 3]).unwrap();
        session.rewind(back);
        session.prefill(&tokens[back as usize..]).unwrap();
        assert_eq!(session.last_logits().unwrap(), expected, "from {back}");
    }
}

#[test]
fn logits_of_many_rows_are_those_of_each() {
    for (name, builder) in [("llama", small_model(5)), ("gpt", small_gpt(6))] {
        let file = builder.image();
        let image = Image::open(&file).unwrap();
        let vocab = image.plan().vocab as usize;
        for threads in [1, 3] {
            let (limits, pool) = (limits(9, threads as u32), Threads(threads));
            let mut arena = Arena::new(image.arena_bytes(limits).unwrap() as usize, || 0xA5);
            let mut session = Session::with_pool(&image, arena.get(), limits, &pool).unwrap();
            session.prefill(&tokens()[..9]).unwrap();
            let expected: Vec<i32> = (0..9).flat_map(|row| session.logits(row).unwrap().to_vec()).collect();
            let each = session.head_bytes();
            assert!(each > 16, "{name}: a head that ends in a matrix");
            for rows in [1, 2, 5, 9] {
                let (mut room, mut out) = (vec![1; rows * each], vec![1; rows * vocab]);
                session.logits_of(rows as u32, &mut room, &mut out).unwrap();
                assert!(out == expected[..rows * vocab], "{name}, {rows} rows, {threads} threads");
                let short = session.logits_of(rows as u32, &mut room[1..], &mut out);
                assert_eq!(short, Err(Error::ArenaSize { found: rows * each - 1, needed: rows * each }));
                let short = session.logits_of(rows as u32, &mut room, &mut out[1..]);
                assert_eq!(short, Err(Error::ArenaSize { found: rows * vocab - 1, needed: rows * vocab }));
            }
            assert_eq!(session.logits_of(10, &mut [], &mut []), Err(Error::Row { row: 9, rows: 9 }));
            assert_eq!(session.logits_of(0, &mut [], &mut []), Ok(()));
            assert!(session.logits(8).unwrap() == &expected[8 * vocab..], "and each by itself still");
        }
        assert_eq!(builder.vocab as usize, vocab);
    }
}

#[test]
fn requests_out_of_range_change_nothing() {
    let file = small_model(5).image();
    let image = Image::open(&file).unwrap();
    let limits = limits(4, 1);
    let needed = image.arena_bytes(limits).unwrap() as usize;
    let mut arena = Arena::new(needed + 64, || 0);
    assert!(matches!(Session::new(&image, &mut arena.get()[..needed - 1], limits), Err(Error::ArenaSize { .. })));
    assert!(matches!(Session::new(&image, &mut arena.get()[1..], limits), Err(Error::ArenaAlignment)));
    for wrong in [(0, 40, 1), (4, 0, 1), (4, 40, 0), (4, u32::MAX, 1)] {
        let limits = Limits { batch: wrong.0, context: wrong.1, threads: wrong.2 };
        assert!(matches!(Session::new(&image, arena.get(), limits), Err(Error::Limits { .. })));
    }
    let mut session = Session::new(&image, arena.get(), limits).unwrap();
    session.prefill(&[1, 2]).unwrap();
    let expected = session.last_logits().unwrap().to_vec();
    assert_eq!(session.prefill(&[3, 37]), Err(Error::Token { id: 37, vocab: 37 }));
    assert_eq!(session.prefill(&[3; 39]), Err(Error::ContextFull { used: 2, context: 40 }));
    assert_eq!(session.prefill(&[]), Ok(()));
    assert_eq!(session.logits(2).err(), Some(Error::Row { row: 2, rows: 2 }));
    assert_eq!(session.position(), 2);
    assert_eq!(session.last_logits().unwrap(), expected);
    session.prefill(&[3; 38]).unwrap();
    assert_eq!(session.prefill(&[3]), Err(Error::ContextFull { used: 40, context: 40 }));
    // Nothing beyond the bytes that were asked for.
    assert!(arena.get()[needed..].iter().all(|b| *b == 0));
}
