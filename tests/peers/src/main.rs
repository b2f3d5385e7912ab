//! One runtime with one model on so many threads, asked line by line: see `answer.rs`.
//!
//! ```text
//! mote-peers candle MODEL.gguf THREADS
//! mote-peers tract|rten MODEL.onnx THREADS
//! ```

#[path = "../../bench/speed/answer.rs"]
mod answer;
mod candle;
mod rten;
mod tract;

use anyhow::{Result, bail};

/// Positions of a language model's context.
const CONTEXT: usize = 512;

fn main() {
    // A peer that panics says so as one that refuses does.
    std::panic::set_hook(Box::new(|why| answer::refuse(why)));
    if let Err(why) = serve() {
        answer::refuse(&format!("{why:#}"));
    }
}

fn serve() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [who, path, threads] = &args[..] else { bail!("mote-peers candle|tract|rten MODEL THREADS") };
    let threads: usize = threads.parse()?;
    match &who[..] {
        "candle" => candle::serve(path),
        "tract" => tract::serve(path, threads),
        "rten" => rten::serve(path, threads),
        _ => bail!("no peer {who}"),
    }
}

/// Numbers from -1 to 1 for an input of so many.
fn input(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i * 7919 % 2001) as f32 / 1000.0 - 1.0).collect()
}
