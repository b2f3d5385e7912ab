//! `mote run`.

use crate::args::{self, Compute, Sampling};
use anyhow::{Result, bail};
use mote_host::{Ended, Generation, Options};
use serde::Serialize;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The image
    image: PathBuf,
    /// Text to begin with; for a model with an encoder, its source
    #[arg(long, default_value = "", conflicts_with = "tokens")]
    prompt: String,
    /// Token ids to begin with, instead of text
    #[arg(long, value_name = "1,2,3")]
    tokens: Option<String>,
    /// For a model with an encoder: the id that follows the one which begins its texts (the language to translate to)
    #[arg(long, value_name = "ID")]
    begin: Option<u32>,
    /// Tokens to generate at most
    #[arg(short, default_value_t = 128)]
    n: u32,
    #[command(flatten)]
    sampling: Sampling,
    /// Positions of the context [default: as many as prompt and -n need, within the image's limit]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    #[command(flatten)]
    compute: Compute,
    /// Print text, tokens and speed as JSON when done
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Outcome {
    text: String,
    tokens: Vec<u32>,
    prompt_tokens: usize,
    seed: u64,
    ended: &'static str,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    arena_bytes: u64,
}

/// Runs it.
pub fn main(args: &Args) -> Result<ExitCode> {
    let model = args::open_language_model(&args.image)?;
    model.prefetch();
    let prompt = match &args.tokens {
        Some(text) => args::ids(text)?,
        None => model.encode(&args.prompt)?,
    };
    let longest = model.image().plan().max_context as usize;
    if prompt.is_empty() {
        bail!("the prompt is empty and the tokenizer begins texts with nothing: give --prompt");
    }
    if prompt.len() > args.context.map_or(longest, |c| longest.min(c as usize)) {
        let given = args.context.map_or_else(String::new, |c| format!("--context is {c}, "));
        bail!("the prompt has {} tokens; {given}the image allows {longest}", prompt.len());
    }
    if args.begin.is_some() && !model.has_encoder() {
        bail!("--begin is for models with an encoder; {} continues what it is given: --prompt", args.image.display());
    }
    let has_text = model.tokenizer().is_ok();
    // What stands before the first generated token.
    let before = if model.has_encoder() { 1 + usize::from(args.begin.is_some()) } else { prompt.len() };
    let options = Options {
        max_tokens: args.n,
        sampling: args.sampling.params(),
        seed: args.sampling.seed(),
        context: args.context,
        batch: args.compute.batch,
        threads: args.compute.threads,
        begin: args.begin,
    };
    let mut shown = 0;
    let generation = model.generate(&prompt, &options, &mut |id, text| {
        shown += 1;
        let mut out = std::io::stdout().lock();
        let written = match (args.json, has_text, shown > before) {
            (true, ..) => Ok(()),
            (_, true, _) => out.write_all(text.as_bytes()),
            // Without a tokenizer: the ids that are new.
            (_, false, true) => write!(out, "{}{id}", if shown > before + 1 { "," } else { "" }),
            (_, false, false) => Ok(()),
        };
        // A reader that has gone away (`mote run ... | head`) ends the run.
        if written.and_then(|()| out.flush()).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if generation.ended == Ended::Stopped {
        return Ok(ExitCode::SUCCESS);
    }
    let Generation { tokens, prompt_tokens, text, ended, arena_bytes, prefill, decode } = generation;
    let made = tokens.len() - prompt_tokens;
    let given = if model.has_encoder() { prompt.len() } else { prompt_tokens };
    let rate = |tokens: usize, time: Duration| tokens as f64 / time.as_secs_f64().max(1e-9);
    let outcome = Outcome {
        text,
        prompt_tokens,
        seed: options.seed,
        ended: match ended {
            Ended::EndToken => "end token",
            Ended::ContextFull => "context full",
            Ended::Length | Ended::Stopped => "length",
        },
        prefill_tokens_per_second: rate(given, prefill),
        decode_tokens_per_second: rate(made, decode),
        arena_bytes,
        tokens,
    };
    if args.json {
        args::print_json(&outcome)?;
    } else {
        writeln!(std::io::stdout())?;
        eprintln!(
            "\n{given} prompt tokens at {:.0} tokens/s, {made} generated at {:.0} tokens/s ({}), arena {}, seed {}",
            outcome.prefill_tokens_per_second,
            outcome.decode_tokens_per_second,
            outcome.ended,
            args::size(outcome.arena_bytes),
            outcome.seed
        );
    }
    Ok(ExitCode::SUCCESS)
}
