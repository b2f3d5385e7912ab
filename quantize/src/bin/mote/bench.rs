//! `mote bench`: tokens per second, and how much memory that reads; of a net without tokens the time of an inference.

use crate::args::{self, Compute};
use anyhow::Result;
use mote_host::runtime::image::section;
use mote_host::{Arena, Model};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

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

/// Tokens per second, or microseconds, over the runs.
#[derive(Serialize)]
struct Speed {
    median: f64,
    least: f64,
    most: f64,
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
    Speed { median: at(rates.len() / 2), least: at(0), most: at(rates.len() - 1) }
}

#[derive(Serialize)]
struct NetOutcome {
    kernels: &'static str,
    threads: u32,
    open_microseconds: f64,
    inference_microseconds: Speed,
}

/// A net without tokens, on zeros: what it takes does not depend on its inputs. As many inferences as take a hundredth of a second,
/// for each run.
fn net(args: &Args, model: &Model, open: Duration) -> Result<ExitCode> {
    let limits = args.compute.workers.limits();
    let pool = args.compute.workers.pool();
    let mut arena = Arena::for_limits(model, limits)?;
    let mut session = model.session(&mut arena, &pool)?;
    let mut some = |count: u32| -> Result<f64> {
        let start = Instant::now();
        (0..count).try_for_each(|_| session.run())?;
        Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(count))
    };
    some(1)?;
    let count = (1e4 / some(1)?).clamp(1.0, 1e5) as u32;
    let times = (0..args.runs).map(|_| some(count)).collect::<Result<_>>()?;
    let outcome = NetOutcome {
        kernels: session.kernels(),
        threads: args.compute.workers.threads,
        open_microseconds: open.as_secs_f64() * 1e6,
        inference_microseconds: speed(times),
    };
    if args.json {
        args::print_json(&outcome)?;
    } else {
        let Speed { median, least, most } = outcome.inference_microseconds;
        let mut out = std::io::stdout().lock();
        writeln!(out, "kernels    {}, {} threads", outcome.kernels, outcome.threads)?;
        writeln!(out, "open       {:.0} us", outcome.open_microseconds)?;
        writeln!(out, "inference  {median:.1} us ({least:.1} to {most:.1})")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs it.
pub fn main(args: &Args) -> Result<ExitCode> {
    let start = Instant::now();
    let model = args::open(&args.image)?;
    let open = start.elapsed();
    if model.image().ports().inputs().next().is_some() {
        return net(args, &model, open);
    }
    args::ensure_language_model(&model, &args.image)?;
    model.prefetch();
    let (vocab, longest) = (model.image().plan().vocab, model.image().plan().max_context);
    let n = args.n.min(longest.saturating_sub(1)).max(1);
    let prompt_tokens = args.prompt_tokens.min(longest - n);
    let limits = args.compute.limits(&model, prompt_tokens + n);
    let pool = args.compute.workers.pool();
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
        threads: args.compute.workers.threads,
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
        for (name, Speed { median, least, most }) in
            [("prefill", &outcome.prefill_tokens_per_second), ("decode ", &outcome.decode_tokens_per_second)]
        {
            writeln!(out, "{name}  {median:.1} tokens/s ({least:.1} to {most:.1})")?;
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
