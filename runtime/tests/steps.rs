//! Work in pieces: the same bits for every budget, and sessions that can be used after work was given up.

mod support;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use mote_runtime::image::Dtype;
use mote_runtime::image::plan::Rows;
use mote_runtime::session::work::{Progress, Work};
use mote_runtime::{Error, Image, Limits, Session};
use support::{
    Arena, Builder, Matrix, Random, code, op, port, small_embedder, small_gpt, small_model, small_translator, word,
};

const LIMITS: Limits = Limits { batch: 4, context: 40, threads: 1 };

/// Budgets: the least, some, all; 0 stands for another random one at each step.
const BUDGETS: [u64; 7] = [1, 17, 300, 5_000, 100_000, u64::MAX, 0];

/// Opens a session on `image` and calls `test` with it.
fn with<T>(builder: &Builder, test: impl FnOnce(&mut Session<'_>) -> T) -> T {
    let file = builder.image();
    let image = Image::open(&file).unwrap();
    let mut arena = Arena::new(image.arena_bytes(LIMITS).unwrap() as usize, || 0xA5);
    let done = test(&mut Session::new(&image, arena.get(), LIMITS).unwrap());
    assert!(arena.guards_hold());
    done
}

/// Does the work in pieces, and counts them.
fn pieces(work: &mut Work<'_, '_>, budget: u64, random: &mut Random) -> usize {
    let mut next = || if budget == 0 { random.range(1, 3000) as u64 } else { budget };
    1 + std::iter::repeat_with(|| work.step_for(next()).unwrap()).take_while(|p| *p == Progress::More).count()
}

/// Source, prompt and some steps: the logits of all rows of each batch's last, in pieces of `budget`; without one, the
/// usual way. Returns the most pieces of anything.
fn language(builder: &Builder, budget: Option<u64>) -> (Vec<i32>, usize) {
    let mut r = Random::new(5);
    let (mut all, mut most) = (Vec::new(), 0);
    let tokens: [&[u32]; 4] = [&[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], &[8], &[7, 7], &[1, 2, 3, 4]];
    with(builder, |session| {
        if builder.encode.is_empty() {
        } else if let Some(budget) = budget {
            let mut work = session.begin_encode(&[4, 9, 2, 7, 1, 3, 8, 6, 5, 0]).unwrap();
            most = most.max(pieces(&mut work, budget, &mut r));
        } else {
            session.encode(&[4, 9, 2, 7, 1, 3, 8, 6, 5, 0]).unwrap();
        }
        for tokens in tokens {
            match budget {
                Some(budget) => most = most.max(pieces(&mut session.begin_prefill(tokens).unwrap(), budget, &mut r)),
                None => session.prefill(tokens).unwrap(),
            }
            for row in 0..session.rows() {
                match budget {
                    Some(budget) => {
                        let mut work = session.begin_logits(row).unwrap();
                        most = most.max(pieces(&mut work, budget, &mut r));
                        all.extend_from_slice(work.logits().unwrap());
                    }
                    None => all.extend_from_slice(session.logits(row).unwrap()),
                }
            }
        }
    });
    (all, most)
}

#[test]
fn language_models_are_the_same_in_pieces() {
    for (name, builder) in [("llama", small_model(1)), ("gpt", small_gpt(2)), ("translator", small_translator(3))] {
        let (expected, _) = language(&builder, None);
        for budget in BUDGETS {
            let (got, most) = language(&builder, Some(budget));
            assert!(got == expected, "{name}, budget {budget}");
            match budget {
                1 => assert!(most > 100, "{name}: {most} pieces"),
                u64::MAX => assert_eq!(most, 1, "{name}"),
                _ => {}
            }
        }
    }
    let embedder = small_embedder(4, 0);
    let source = [4, 9, 2, 7, 1, 3];
    let expected = with(&embedder, |session| session.embed(&source).unwrap().to_vec());
    for budget in BUDGETS {
        with(&embedder, |session| {
            let mut work = session.begin_embedding(&source).unwrap();
            pieces(&mut work, budget, &mut Random::new(1));
            assert!(work.logits().unwrap() == expected, "budget {budget}");
        });
    }
}

/// A net of ops that are cut in every way: rows, pixels, channels, tiles. To what it computes is added, as their larger, what it
/// computed in the run before.
fn net() -> Builder {
    let r = &mut Random::new(11);
    let mut b = Builder::new();
    b.logits = b.i32_slot(Rows::One, 1, 0);
    // 9 x 7 x 3; 18 channels; each by itself; half the size; 12 pixels of a row, 10 channels; 40; 24.
    let slots = [189, 1134, 1134, 216, 120, 40, 24, 4096].map(|cols| b.i8_slot(cols));
    let size = 9 | 7 << 16;
    let (ones, pad, numbers) = (word([1; 4]), 1 | 1 << 16, word([3, -5, -128, 127]));
    let mut weights = |b: &mut Builder, dims: [usize; 4], channels: usize| {
        let w: Vec<i8> = (0..dims.iter().product()).map(|_| r.range(-90, 90) as i8).collect();
        let rows = (0..channels).flat_map(|_| [r.range(-900, 900) as i32, 1 << 30, r.range(-9, -8) as i32]);
        let rows: Vec<i32> = rows.collect();
        (b.tensor8(&w, &dims), b.tensor32(&rows, &[channels, 3]))
    };
    let (w, c) = weights(&mut b, [18, 3, 3, 3], 18);
    b.run.push(op(code("conv2d"), &[slots[0], slots[1], w, c, size, size, ones, pad, numbers, 0]));
    let (w, c) = weights(&mut b, [1, 3, 3, 18], 18);
    b.run.push(op(code("depthwise_conv2d"), &[slots[1], slots[2], w, c, size, size, ones, pad, numbers, 0]));
    let (half, two, same) = (4 | 3 << 16, 2 | 2 << 16, word([0, 0, -128, 127]));
    b.run.push(op(code("max_pool2d"), &[slots[2], slots[3], size, half, word([2, 2, 1, 1]), 0, two, same]));
    let (w, c) = weights(&mut b, [10, 1, 3, 18], 10);
    let row = 1 | 12 << 16;
    b.run.push(op(code("conv2d"), &[slots[3], slots[4], w, c, row, row, ones, 1 << 16, numbers, 0]));
    let (w, c) = weights(&mut b, [40, 120, 1, 1], 40);
    b.run.push(op(code("fully_connected"), &[slots[4], slots[5], w, c, numbers, 0]));
    let m = Matrix { exponent: 38, ..Matrix::any(&mut Random::new(2), 24, 40, Dtype::T4) };
    let (w, bias, one) = (b.matrix(&m), b.vector32(&[9; 24], 38), 1 | 1 << 16);
    b.run.push(op(code("conv2d_coded"), &[slots[5], slots[6], slots[7], w, bias, one, one, ones, 0, one, numbers]));
    let (state, out) = (b.i8_slot(24), b.i8_slot(24));
    let first = b.tensor8(&[-100; 24], &[24]);
    b.reset.push(op(code("fill"), &[state, 0, first]));
    b.run.push(op(code("maximum"), &[slots[6], state, out]));
    let all = b.tensor32(&[24, 1, 1], &[3, 1]);
    b.run.push(op(code("copy"), &[slots[6], state, all, 0, 0]));
    b.ports = [vec![port(slots[0], Dtype::I8, 189)], vec![port(slots[2], Dtype::I8, 1134), port(out, Dtype::I8, 24)]];
    b
}

fn fill(session: &mut Session<'_>, seed: u64) {
    let mut r = Random::new(seed);
    session.input::<i8>(0).unwrap().fill_with(|| r.range(-128, 127) as i8);
}

fn outputs(session: &mut Session<'_>) -> Vec<i8> {
    (0..2).flat_map(|index| session.output::<i8>(index).unwrap().to_vec()).collect()
}

/// The outputs of some runs in order.
fn runs(session: &mut Session<'_>, mut run: impl FnMut(&mut Session<'_>)) -> Vec<Vec<i8>> {
    let one = |seed| {
        fill(session, seed);
        run(session);
        outputs(session)
    };
    (1..5).map(one).collect()
}

#[test]
fn nets_are_the_same_in_pieces() {
    let builder = net();
    let expected = with(&builder, |session| runs(session, |session| session.run().unwrap()));
    for seen in &expected {
        let different = seen.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert!(different > 40, "{different} values of a live net");
    }
    assert!(expected[0] != expected[1]);
    for budget in BUDGETS {
        let (mut most, mut r) = (0, Random::new(3));
        let got = with(&builder, |session| {
            runs(session, |session| most = most.max(pieces(&mut session.begin_run().unwrap(), budget, &mut r)))
        });
        assert!(got == expected, "budget {budget}");
        match budget {
            // Rows of three images and a pool; three of pixels, three of channels, two of blocks, two ops.
            1 => assert_eq!(most, 9 + 9 + 4 + 3 + 3 + 2 + 2),
            u64::MAX => assert_eq!(most, 1),
            _ => {}
        }
        // Some pieces, then all that is left.
        let got = with(&builder, |session| {
            runs(session, |session| {
                let mut work = session.begin_run().unwrap();
                let _ = work.step_for(budget).unwrap();
                work.finish().unwrap();
            })
        });
        assert!(got == expected, "budget {budget}, then all");
    }
}

#[test]
fn a_net_that_was_given_up() {
    let builder = net();
    let expected = with(&builder, |session| runs(session, |session| session.run().unwrap()));
    for steps in [0, 1, 5, 20, 31] {
        with(&builder, |session| {
            fill(session, 9);
            session.run().unwrap();
            let mut work = session.begin_run().unwrap();
            for _ in 0..steps {
                assert_eq!(work.step_for(1).unwrap(), Progress::More);
            }
            work.abandon().unwrap();
            assert!(runs(session, |session| session.run().unwrap()) == expected, "after {steps}");
            // Dropped, not given up: half of the state may be new.
            let mut work = session.begin_run().unwrap();
            let _ = work.step_for(1).unwrap();
            drop(work);
            assert_eq!(session.run(), Err(Error::Unfinished));
            session.reset().unwrap();
            assert!(runs(session, |session| session.run().unwrap()) == expected);
        });
    }
}

#[test]
fn a_language_model_that_was_given_up() {
    for builder in [small_model(1), small_translator(2)] {
        let ask = |session: &mut Session<'_>, tokens: &[u32]| {
            session.prefill(tokens).unwrap();
            session.last_logits().unwrap().to_vec()
        };
        let source = [2, 7, 1, 8, 2, 8];
        let begin = |session: &mut Session<'_>| match session.encode(&source) {
            Err(Error::Entry { .. }) => assert!(builder.encode.is_empty()),
            done => done.unwrap(),
        };
        let expected = with(&builder, |session| {
            begin(session);
            [ask(session, &[1, 2, 3, 4, 5, 6]), ask(session, &[7])]
        });
        for steps in [0, 1, 30, 80] {
            with(&builder, |session| {
                begin(session);
                let first = ask(session, &[1, 2, 3, 4, 5, 6]);
                assert!(first == expected[0]);
                let mut work = session.begin_logits(0).unwrap();
                let _ = work.step_for(1).unwrap();
                work.abandon().unwrap();
                assert!(session.last_logits().unwrap() == first, "the rows are still there");
                let mut work = session.begin_prefill(&[9, 8, 7, 6, 5, 4, 3, 2]).unwrap();
                for _ in 0..steps {
                    assert_eq!(work.step_for(1).unwrap(), Progress::More);
                }
                work.abandon().unwrap();
                assert_eq!((session.position(), session.rows()), (6, 0));
                assert_eq!(session.last_logits().err(), Some(Error::Row { row: u32::MAX, rows: 0 }));
                assert!(ask(session, &[7]) == expected[1], "after {steps}");
                if !builder.encode.is_empty() {
                    let mut work = session.begin_encode(&source[1..]).unwrap();
                    let _ = work.step_for(1).unwrap();
                    work.abandon().unwrap();
                    assert_eq!(session.prefill(&[1]), Err(Error::NoSource));
                    session.encode(&source).unwrap();
                    assert!(ask(session, &[1, 2, 3, 4, 5, 6]) == expected[0]);
                }
            });
        }
    }
}

#[test]
fn work_that_is_other_work() {
    with(&small_model(1), |session| {
        session.prefill(&[]).unwrap();
        assert_eq!(session.begin_prefill(&[]).unwrap().step_for(1), Ok(Progress::Done));
        session.prefill(&[1, 2]).unwrap();
        assert!(session.begin_prefill(&[]).unwrap().logits().is_err());
        assert_eq!((session.position(), session.rows()), (2, 2));
        assert!(matches!(session.begin_prefill(&[3]).unwrap().logits(), Err(Error::Entry { .. })));
        assert_eq!(session.position(), 3, "done all the same");
        assert!(session.begin_run().is_err() && session.begin_encode(&[1]).is_err());
        assert!(session.begin_embedding(&[1]).is_err() && session.begin_logits(1).is_err());
    });
}

#[test]
fn two_futures_in_turn() {
    let (llama, net) = (small_model(1), net());
    let expected = with(&net, |session| runs(session, |session| session.run().unwrap()).swap_remove(0));
    let (file, other) = (llama.image(), net.image());
    let (image, other) = (Image::open(&file).unwrap(), Image::open(&other).unwrap());
    let new = |image: &Image<'_>| Arena::new(image.arena_bytes(LIMITS).unwrap() as usize, || 1);
    let (mut a, mut b) = (new(&image), new(&other));
    let mut model = Session::new(&image, a.get(), LIMITS).unwrap();
    let mut net = Session::new(&other, b.get(), LIMITS).unwrap();
    let (mut said, mut seen) = (vec![], vec![]);
    {
        let mut first = pin!(async {
            model.begin_prefill(&[5, 6, 7]).unwrap().by_steps(400).await.unwrap();
            let mut work = model.begin_logits(2).unwrap();
            work.by_steps(400).await.unwrap();
            said.extend_from_slice(work.logits().unwrap());
        });
        let mut second = pin!(async {
            fill(&mut net, 1);
            net.begin_run().unwrap().by_steps(4000).await.unwrap();
            seen = outputs(&mut net);
        });
        let (mut turns, mut left) = ([0, 0], [true, true]);
        let mut context = Context::from_waker(Waker::noop());
        while left != [false; 2] {
            if left[0] {
                turns[0] += 1;
                left[0] = first.as_mut().poll(&mut context) == Poll::Pending;
            }
            if left[1] {
                turns[1] += 1;
                left[1] = second.as_mut().poll(&mut context) == Poll::Pending;
            }
        }
        assert!(turns[0] > 5 && turns[1] > 5, "{turns:?}");
    }
    assert_eq!(seen, expected);
    let expected = with(&llama, |session| {
        session.prefill(&[5, 6, 7]).unwrap();
        session.last_logits().unwrap().to_vec()
    });
    assert_eq!(said, expected);
}
