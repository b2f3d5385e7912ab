//! `mote run`.

use crate::args::{self, Compute, Sampling};
use anyhow::{Context, Result, bail};
use mote_host::{Arena, Draft, Ended, Generation, Lookup, Model, Options, Small};
use serde::Serialize;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
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
    /// Guess up to N tokens from what the text said after the same words before, and check them at once: the same text, faster where it
    /// repeats itself
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "8", conflicts_with = "draft",
          value_parser = clap::value_parser!(u32).range(1..=64))]
    lookup: Option<u32>,
    /// Guess with a smaller model of the same vocabulary: the same text, faster where its guesses are right
    #[arg(long, value_name = "IMAGE")]
    draft: Option<PathBuf>,
    /// Tokens that --draft guesses at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    draft_tokens: u32,
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
    drafted_tokens: usize,
    accepted_tokens: usize,
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
        threads: args.compute.workers.threads,
        begin: args.begin,
    };
    // What a model that guesses works with.
    let small = args.draft.as_deref().map(|path| open_small(path, &model)).transpose()?;
    let pool = args.compute.workers.pool();
    let mut arena = match &small {
        Some(small) => Some(small_arena(small, args, prompt.len())?),
        None => None,
    };
    let mut lookup = args.lookup.map(|most| Lookup { most });
    let mut guesser = match (&small, &mut arena) {
        (Some(small), Some(arena)) => Some(Small::new(small, &model, arena, &pool, args.draft_tokens)?),
        _ => None,
    };
    let draft = match (&mut lookup, &mut guesser) {
        (Some(lookup), _) => Some(lookup as &mut dyn Draft),
        (_, Some(small)) => Some(small as &mut dyn Draft),
        _ => None,
    };
    let mut shown = 0;
    let generation = model.generate_with(&prompt, &options, draft, &mut |id, text| {
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
    let Generation { tokens, prompt_tokens, text, ended, drafted, accepted, arena_bytes, prefill, decode } = generation;
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
        drafted_tokens: drafted,
        accepted_tokens: accepted,
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
        if args.lookup.is_some() || args.draft.is_some() {
            eprintln!("{accepted} of {drafted} drafted tokens accepted");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Maps the image of a model that guesses for `model`.
fn open_small(path: &Path, model: &Model) -> Result<Model> {
    let small = args::open(path)?;
    Small::check(&small, model).with_context(|| format!("--draft {}", path.display()))?;
    Ok(small)
}

/// Memory for a model that guesses: for as long a text as the model may write, or as its own context allows.
fn small_arena(small: &Model, args: &Args, prompt: usize) -> Result<Arena> {
    let wanted = u32::try_from(prompt).unwrap_or(u32::MAX).saturating_add(args.n);
    let context = args.context.map_or(wanted, |context| context.min(wanted)).max(1);
    Ok(Arena::for_limits(small, args.compute.limits(small, context))?)
}
