//! Mote as a process that is asked and answers (`answer.rs`).

use crate::answer;
use mote_host::{Arena, Model, Threads};
use mote_runtime::image::{Limits, section};
use std::path::Path;
use std::time::Instant;

/// Positions of the context.
pub const CONTEXT: u32 = 512;
/// Tokens of a prompt that are processed together.
const BATCH: u32 = 128;

/// Seconds to open the model, and to the first logits after a prompt.
fn first(path: &Path, threads: u32, tokens: usize) -> (f64, f64) {
    let start = Instant::now();
    let model = Model::open(path).unwrap();
    let open = start.elapsed().as_secs_f64();
    model.prefetch();
    let pool = Threads::new(threads as usize);
    let mut arena = Arena::for_limits(&model, model.limits(BATCH, CONTEXT, threads)).unwrap();
    let mut session = model.session(&mut arena, &pool).unwrap();
    let prompt: Vec<u32> = (0..tokens).map(|i| answer::token(i, model.image().plan().vocab)).collect();
    session.prefill(&prompt).unwrap();
    session.last_logits().unwrap();
    (open, start.elapsed().as_secs_f64())
}

/// Answers about a language model until the input ends.
pub fn language_model(path: &Path, threads: u32) {
    let model = Model::open(path).unwrap();
    // As `mote run` does.
    model.prefetch();
    let vocab = model.image().plan().vocab;
    let pool = Threads::new(threads as usize);
    let mut arena = Arena::for_limits(&model, model.limits(BATCH, CONTEXT, threads)).unwrap();
    let arena_bytes = arena.bytes().len();
    let mut session = model.session(&mut arena, &pool).unwrap();
    let prompt: Vec<u32> = (0..CONTEXT as usize).map(|i| answer::token(i, vocab)).collect();
    let mut position = 0;
    answer::answer_lines(|what, tokens| {
        Ok::<_, String>(match what {
            "first" => {
                let (open, first) = first(path, threads, tokens);
                format!("{open} {first}")
            }
            "prompt" => {
                session.rewind(0);
                let start = Instant::now();
                session.prefill(&prompt[..tokens]).unwrap();
                session.last_logits().unwrap();
                position = tokens;
                start.elapsed().as_secs_f64().to_string()
            }
            "decode" => {
                session.rewind(position as u32);
                let start = Instant::now();
                for id in &prompt[position..position + tokens] {
                    session.prefill(&[*id]).unwrap();
                    session.last_logits().unwrap();
                }
                start.elapsed().as_secs_f64().to_string()
            }
            "memory" => {
                let weights = model.image().section(section::WEIGHTS).unwrap().len();
                format!("{} {weights} {arena_bytes}", answer::resident())
            }
            _ => return Err(format!("no question {what}")),
        })
    });
}

/// Answers about a net until the input ends.
pub fn net(path: &Path, threads: u32) {
    let model = Model::open(path).unwrap();
    let pool = Threads::new(threads as usize);
    let mut arena = Arena::for_limits(&model, Limits { batch: 1, context: 1, threads }).unwrap();
    let mut session = model.session(&mut arena, &pool).unwrap();
    let inputs = model.image().ports().inputs().count() as u32;
    answer::answer_lines(|what, count| {
        if what != "run" {
            return Err(format!("no question {what}"));
        }
        // Inputs are written each time: what computes may use their memory again.
        answer::seconds_of_each(count, || {
            for index in 0..inputs {
                let bytes = session.input_bytes(index)?;
                bytes.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i * 31) as u8);
            }
            session.run()
        })
        .map_err(|why| why.to_string())
    });
}
