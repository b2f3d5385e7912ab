//! `mote run`.

use crate::args::{self, Compute, Sampling};
use anyhow::{Result, bail};
use mote_host::Arena;
use mote_runtime::sample::Sampler;
use mote_runtime::text::Decoder;
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
    /// Text to begin with
    #[arg(long, default_value = "", conflicts_with = "tokens")]
    prompt: String,
    /// Token ids to begin with, instead of text
    #[arg(long, value_name = "1,2,3")]
    tokens: Option<String>,
    /// Tokens to generate at most
    #[arg(short, default_value_t = 128)]
    n: u32,
    #[command(flatten)]
    sampling: Sampling,
    /// Positions of the context [default: as many as prompt and -n need, within the image's limit]
    #[arg(long)]
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
    let model = args::open(&args.image)?;
    model.prefetch();
    let tokenizer = match &args.tokens {
        None => Some(args::tokenizer(&model)?),
        Some(_) => args::tokenizer(&model).ok(),
    };
    let prompt = match &args.tokens {
        Some(text) => args::ids(text)?,
        None => args::encode(&model, &args.prompt)?,
    };
    if prompt.is_empty() {
        bail!("the prompt is empty and the tokenizer begins texts with nothing: give --prompt");
    }
    let longest = model.image().plan().max_context;
    let wanted = u32::try_from(prompt.len()).unwrap_or(u32::MAX).saturating_add(args.n).min(longest);
    let limits = args.compute.limits(&model, args.context.unwrap_or(wanted).max(1));
    if prompt.len() > limits.context as usize {
        bail!("the prompt has {} tokens, the context {} (the image allows {longest})", prompt.len(), limits.context);
    }
    let pool = args.compute.pool();
    let mut arena = Arena::for_limits(&model, limits)?;
    let mut session = model.session(&mut arena, &pool)?;
    let seed = args.sampling.seed();
    let mut sampler = Sampler::new(args.sampling.params(), seed);
    let mut decoder = tokenizer.map(Decoder::new);
    let mut tokens = prompt;
    let (given, mut text) = (tokens.len(), String::new());
    // A reader that has gone away (`mote run ... | head`) ends the run.
    let mut shown: std::io::Result<()> = Ok(());
    let mut show = |piece: &str, text: &mut String| {
        text.push_str(piece);
        if !args.json && shown.is_ok() {
            let mut out = std::io::stdout().lock();
            shown = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
        }
        shown.is_ok()
    };

    let start = Instant::now();
    session.prefill(&tokens)?;
    let prefill = start.elapsed().as_secs_f64();
    if let Some(decoder) = &mut decoder {
        tokens.iter().for_each(|id| decoder.push(*id, &mut |piece| _ = show(piece, &mut text)));
    }
    let start = Instant::now();
    let mut ended = "length";
    for _ in 0..args.n {
        let frac_bits = session.logits_frac_bits();
        let id = sampler.sample(session.last_logits()?, frac_bits, &tokens);
        tokens.push(id);
        if tokenizer.is_some_and(|t| t.is_end(id)) {
            ended = "end token";
            break;
        }
        let mut open = true;
        match &mut decoder {
            Some(decoder) => decoder.push(id, &mut |piece| open &= show(piece, &mut text)),
            None => open = show(&format!("{}{id}", if tokens.len() > given + 1 { "," } else { "" }), &mut text),
        }
        if !open {
            return Ok(ExitCode::SUCCESS);
        }
        if session.position() == limits.context {
            ended = "context full";
            break;
        }
        session.prefill(&[id])?;
    }
    let decode = start.elapsed().as_secs_f64();
    if let Some(decoder) = &mut decoder {
        decoder.finish(&mut |piece| _ = show(piece, &mut text));
    }
    let made = tokens.len() - given;
    let outcome = Outcome {
        text,
        prompt_tokens: given,
        seed,
        ended,
        prefill_tokens_per_second: given as f64 / prefill.max(1e-9),
        decode_tokens_per_second: made as f64 / decode.max(1e-9),
        arena_bytes: model.image().arena_bytes(limits)?,
        tokens,
    };
    if args.json {
        args::print_json(&outcome)?;
    } else {
        println!();
        eprintln!(
            "\n{given} prompt tokens at {:.0} tokens/s, {made} generated at {:.0} tokens/s ({ended}), arena {}, seed {seed}",
            outcome.prefill_tokens_per_second,
            outcome.decode_tokens_per_second,
            args::size(outcome.arena_bytes)
        );
    }
    Ok(ExitCode::SUCCESS)
}
