//! `mote logits`.

use crate::args::{self, Compute};
use anyhow::{Context, Result, bail};
use mote_host::Arena;
use mote_quantize::quantize::hex;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// The arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The image
    image: PathBuf,
    /// Token ids
    #[arg(long, value_name = "1,2,3", required_unless_present = "prompt")]
    tokens: Option<String>,
    /// Text instead of token ids
    #[arg(long, conflicts_with = "tokens")]
    prompt: Option<String>,
    /// For a model with an encoder, whose source the ids or the text are: what follows the token that begins its texts
    #[arg(long, value_name = "1,2,3")]
    target: Option<String>,
    /// Print the SHA-256 of all positions' logits (each `vocab` little-endian int32) instead of the likeliest tokens
    #[arg(long)]
    sha256: bool,
    /// How many of the likeliest tokens to print
    #[arg(long, default_value_t = 5)]
    top: usize,
    #[command(flatten)]
    compute: Compute,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Likely {
    id: u32,
    logit: f64,
    text: Option<String>,
}

#[derive(Serialize)]
struct Outcome {
    logits_sha256: String,
    positions: usize,
    vocab: u32,
    logits_frac_bits: u32,
    likeliest: Vec<Likely>,
}

/// Runs it.
pub fn main(args: &Args) -> Result<ExitCode> {
    let model = args::open_language_model(&args.image)?;
    let tokenizer = model.tokenizer();
    let tokens = match (&args.tokens, &args.prompt) {
        (Some(text), _) => args::ids(text)?,
        (None, Some(text)) => model.encode(text)?,
        (None, None) => bail!("give --tokens or --prompt"),
    };
    let (source, tokens) = match &args.target {
        Some(target) if model.has_encoder() => {
            (tokens, std::iter::once(model.image().plan().start).chain(args::ids(target)?).collect())
        }
        None if model.has_encoder() => (tokens, vec![model.image().plan().start]),
        Some(_) => bail!("--target is for models with an encoder; give all ids with --tokens"),
        None => (Vec::new(), tokens),
    };
    let positions = u32::try_from(tokens.len().max(source.len())).context("too many tokens")?;
    let limits = args.compute.limits(&model, positions.max(1));
    let pool = args.compute.workers.pool();
    let mut arena = Arena::for_limits(&model, limits)?;
    let mut session = model.session(&mut arena, &pool)?;
    if model.has_encoder() {
        session.encode(&source)?;
    }
    let frac_bits = session.logits_frac_bits();
    let mut hash = Sha256::new();
    let mut last = Vec::new();
    for batch in tokens.chunks(limits.batch as usize) {
        session.prefill(batch)?;
        for row in 0..session.rows() {
            let logits = session.logits(row)?;
            logits.iter().for_each(|l| hash.update(l.to_le_bytes()));
            last = logits.to_vec();
        }
    }
    let mut order: Vec<u32> = (0..last.len() as u32).collect();
    order.sort_by_key(|id| (std::cmp::Reverse(last[*id as usize]), *id));
    let piece = |id: u32| tokenizer.as_ref().ok().map(|t| String::from_utf8_lossy(t.piece(id)).into_owned());
    let likeliest = order.iter().take(args.top).map(|id| Likely {
        id: *id,
        logit: f64::from(last[*id as usize]) * 2f64.powi(-(frac_bits as i32)),
        text: piece(*id),
    });
    let outcome = Outcome {
        likeliest: likeliest.collect(),
        logits_sha256: hex(&hash.finalize()),
        positions: tokens.len(),
        vocab: model.image().plan().vocab,
        logits_frac_bits: frac_bits,
    };
    if args.json {
        args::print_json(&outcome)?;
    } else if args.sha256 {
        let mut out = std::io::stdout().lock();
        writeln!(out, "logits_sha256={}", outcome.logits_sha256)?;
    } else {
        let mut out = std::io::stdout().lock();
        for Likely { id, logit, text } in &outcome.likeliest {
            writeln!(out, "{logit:10.5} {id:6} {:?}", text.as_deref().unwrap_or(""))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
