//! A process that does what a line on its standard input asks for and answers with a line: one model on so many threads, with
//! its memory for itself. `tests/peers/llama_speed.py` is the same for llama.cpp.
//!
//! ```text
//! first TOKENS    opens the model anew; seconds to open it, and from there to the logits after a prompt
//! prompt TOKENS   seconds for a prompt of so many tokens and its logits
//! decode TOKENS   seconds for so many tokens after that prompt, one at a time, each with its logits
//! memory          resident KiB, in all and without pages of files; bytes of weights; bytes of the arena
//! ```

use mote_host::{Arena, Model, Threads};
use mote_runtime::image::section;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

/// Positions of the context.
pub const CONTEXT: u32 = 512;
/// Tokens of a prompt that are processed together.
const BATCH: u32 = 128;

/// Token `i` of every text.
fn token(i: usize, vocab: u32) -> u32 {
    (i as u64 * 7919 % u64::from(vocab)) as u32
}

fn field(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with(name)).unwrap_or_default().to_owned();
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Seconds to open the model, and to the first logits after a prompt.
fn first(path: &Path, threads: u32, tokens: usize) -> (f64, f64) {
    let start = Instant::now();
    let model = Model::open(path).unwrap();
    let open = start.elapsed().as_secs_f64();
    let pool = Threads::new(threads as usize);
    let mut arena = Arena::for_limits(&model, model.limits(BATCH, CONTEXT, threads)).unwrap();
    let mut session = model.session(&mut arena, &pool).unwrap();
    let prompt: Vec<u32> = (0..tokens).map(|i| token(i, model.image().plan().vocab)).collect();
    session.prefill(&prompt).unwrap();
    session.last_logits().unwrap();
    (open, start.elapsed().as_secs_f64())
}

/// Answers until the input ends.
pub fn main(path: &Path, threads: u32) {
    let model = Model::open(path).unwrap();
    let vocab = model.image().plan().vocab;
    let pool = Threads::new(threads as usize);
    let mut arena = Arena::for_limits(&model, model.limits(BATCH, CONTEXT, threads)).unwrap();
    let arena_bytes = arena.bytes().len();
    let mut session = model.session(&mut arena, &pool).unwrap();
    let prompt: Vec<u32> = (0..CONTEXT as usize).map(|i| token(i, vocab)).collect();
    let mut position = 0;
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let (what, number) = line.split_once(' ').unwrap_or((&line, "0"));
        let tokens: usize = number.parse().unwrap();
        let answer = match what {
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
                format!("{} {} {weights} {arena_bytes}", field("VmRSS:"), field("RssAnon:"))
            }
            _ => panic!("{line}"),
        };
        println!("{answer}");
        std::io::stdout().flush().unwrap();
    }
}
