//! `mote bench`: tokens per second, and how much memory that reads.

use crate::args::{self, Compute};
use anyhow::Result;
use mote_host::Arena;
use mote_runtime::image::section;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// The arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The image
    image: PathBuf,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: u32,
    /// Tokens decoded after it
    #[arg(short, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,
    /// Runs; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    #[command(flatten)]
    compute: Compute,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Tokens per second over the runs.
#[derive(Serialize)]
struct Speed {
    median: f64,
    slowest: f64,
    fastest: f64,
}

#[derive(Serialize)]
struct Outcome {
    kernels: &'static str,
    threads: u32,
    open_microseconds: f64,
    prefill_tokens_per_second: Speed,
    decode_tokens_per_second: Speed,
    weight_bytes: u64,
    decode_gigabytes_per_second: f64,
}

fn speed(mut rates: Vec<f64>) -> Speed {
    rates.sort_by(f64::total_cmp);
    let at = |i: usize| rates.get(i).copied().unwrap_or(0.0);
    Speed { median: at(rates.len() / 2), slowest: at(0), fastest: at(rates.len() - 1) }
}

/// Runs it.
pub fn main(args: &Args) -> Result<ExitCode> {
    let start = Instant::now();
    let model = args::open_language_model(&args.image)?;
    let open = start.elapsed();
    model.prefetch();
    let (vocab, longest) = (model.image().plan().vocab, model.image().plan().max_context);
    let n = args.n.min(longest.saturating_sub(1)).max(1);
    let prompt_tokens = args.prompt_tokens.min(longest - n);
    let limits = args.compute.limits(&model, prompt_tokens + n);
    let pool = args.compute.pool();
    let mut arena = Arena::for_limits(&model, limits)?;
    let mut session = model.session(&mut arena, &pool)?;
    let prompt: Vec<u32> = (0..prompt_tokens).map(|i| (i * 7919 + 1) % vocab.max(1)).collect();
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    // The first run warms caches and is not counted.
    for run in 0..=args.runs {
        session.rewind(0);
        let start = Instant::now();
        match model.image().plan().source_vocab {
            0 => session.prefill(&prompt)?,
            vocab => session.encode(&prompt.iter().map(|id| id % vocab).collect::<Vec<_>>())?,
        }
        let between = Instant::now();
        let mut id = 1 % vocab.max(1);
        for _ in 0..n {
            session.prefill(&[id])?;
            let logits = session.last_logits()?;
            id = (0..).zip(logits.iter()).max_by_key(|(_, l)| **l).map_or(0, |(id, _)| id);
        }
        if run > 0 {
            prefill.push(f64::from(prompt_tokens) / (between - start).as_secs_f64());
            decode.push(f64::from(n) / between.elapsed().as_secs_f64());
        }
    }
    let weight_bytes = model.image().section(section::WEIGHTS)?.len() as u64;
    let (prefill, decode) = (speed(prefill), speed(decode));
    let outcome = Outcome {
        kernels: session.kernels(),
        threads: args.compute.threads,
        open_microseconds: open.as_secs_f64() * 1e6,
        decode_gigabytes_per_second: decode.median * weight_bytes as f64 * 1e-9,
        prefill_tokens_per_second: prefill,
        decode_tokens_per_second: decode,
        weight_bytes,
    };
    if args.json {
        args::print_json(&outcome)?;
    } else {
        let mut out = std::io::stdout().lock();
        writeln!(out, "kernels  {}, {} threads", outcome.kernels, outcome.threads)?;
        writeln!(out, "open     {:.0} us", outcome.open_microseconds)?;
        for (name, Speed { median, slowest, fastest }) in
            [("prefill", &outcome.prefill_tokens_per_second), ("decode ", &outcome.decode_tokens_per_second)]
        {
            writeln!(out, "{name}  {median:.1} tokens/s ({slowest:.1} to {fastest:.1})")?;
        }
        writeln!(
            out,
            "         {:.3} GB/s of weights ({} a token)",
            outcome.decode_gigabytes_per_second,
            args::size(weight_bytes)
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
