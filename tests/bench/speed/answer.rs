//! What runners share: processes that do what a line on their standard input asks for and answer with a line of numbers, or
//! with `error: ` and why not. One model on so many threads, with its memory for itself.
//!
//! Language models:
//!
//! ```text
//! first TOKENS    opens the model anew; seconds to open it, and from there to the logits after a prompt
//! prompt TOKENS   seconds for a prompt of so many tokens and its logits
//! decode TOKENS   seconds for so many tokens after that prompt, one at a time, each with its logits
//! memory          resident KiB, in all and without pages of files; bytes of weights; bytes of the arena
//! ```
//!
//! Nets:
//!
//! ```text
//! run COUNT       seconds of each of so many inferences, one input after the other
//! ```
//!
//! `tests/peers` has those of other projects; its Rust ones include this file.

use std::fmt::Display;
use std::io::{BufRead, Write};
use std::time::Instant;

/// Token `i` of every text.
pub fn token(i: usize, vocab: u32) -> u32 {
    (i as u64 * 7919 % u64::from(vocab)) as u32
}

/// Resident KiB of this process: in all, and without pages of files.
pub fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field =
        |name: &str| status.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()).unwrap_or("0");
    format!("{} {}", field("VmRSS:"), field("RssAnon:"))
}

/// Seconds of each of `count` calls of `run`, with spaces between.
pub fn seconds_of_each<E>(count: usize, mut run: impl FnMut() -> Result<(), E>) -> Result<String, E> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed().as_secs_f64().to_string());
    }
    Ok(times.join(" "))
}

/// Answers until the input ends: `answer` is given the word and the number of each line (0 where there is none).
pub fn answer_lines<E: Display>(mut answer: impl FnMut(&str, usize) -> Result<String, E>) {
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let (what, number) = line.split_once(' ').unwrap_or((&line, "0"));
        match answer(what, number.parse().unwrap()) {
            Ok(numbers) => println!("{numbers}"),
            Err(why) => refuse(&why),
        }
        std::io::stdout().flush().unwrap();
    }
}

/// Says why not, in a line.
pub fn refuse(why: &dyn Display) {
    println!("error: {}", why.to_string().split_whitespace().collect::<Vec<_>>().join(" "));
}
