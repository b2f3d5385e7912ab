//! `mote embed`.

use crate::args::{self, Compute};
use anyhow::{Context, Result, bail};
use mote_host::{Arena, Model};
use mote_quantize::float::embeddings::cosine;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The image
    image: PathBuf,
    /// A text; may be given several times
    #[arg(long, required_unless_present_any = ["file", "tokens"])]
    text: Vec<String>,
    /// A file of texts, one a line
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Token ids instead of a text; may be given several times
    #[arg(long, value_name = "1,2,3", conflicts_with_all = ["text", "file"])]
    tokens: Vec<String>,
    /// Write the embeddings there: an array [texts, width] of f32 [default: print them as JSON]
    #[arg(short, long, value_name = "FILE.npy")]
    out: Option<PathBuf>,
    /// Leave embeddings as long as they are, instead of bringing each to length 1
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    compute: Compute,
}

#[derive(Serialize)]
struct Outcome {
    /// A row a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    embeddings: Option<Vec<Vec<f32>>>,
    tokens: Vec<usize>,
    /// Of each text with each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cosines: Vec<Vec<f64>>,
}

/// Runs it.
pub fn main(args: &Args) -> Result<ExitCode> {
    let model = open(&args.image)?;
    let texts = match &args.tokens[..] {
        [] => tokens(&model, &texts(&args.text, args.file.as_deref())?)?,
        given => given.iter().map(|ids| args::ids(ids)).collect::<Result<_>>()?,
    };
    let mut embeddings = embed(&model, &texts, args.compute)?;
    if !args.raw {
        embeddings.iter_mut().for_each(|embedding| normalise(embedding));
    }
    let pairs = if texts.len() > 1 { &embeddings[..] } else { &[] };
    let cosines = pairs.iter().map(|a| pairs.iter().map(|b| cosine(a, b)).collect()).collect();
    let embeddings = match &args.out {
        None => Some(embeddings),
        Some(path) => {
            let shape = [embeddings.len(), embeddings.first().map_or(0, Vec::len)].map(|n| n as u64);
            args::write_npy(path, &shape, embeddings.iter().flatten().copied())?;
            None
        }
    };
    args::print_json(&Outcome { embeddings, tokens: texts.iter().map(Vec::len).collect(), cosines })?;
    Ok(ExitCode::SUCCESS)
}

/// Maps the image of an encoder that gives embeddings.
fn open(path: &Path) -> Result<Model> {
    let model = args::open(path)?;
    if !model.embeds() {
        bail!("{} gives no embeddings: `mote inspect` says what it is", path.display());
    }
    Ok(model)
}

/// The texts that are given, and the lines of a file.
pub fn texts(given: &[String], file: Option<&Path>) -> Result<Vec<String>> {
    let mut texts = given.to_vec();
    if let Some(path) = file {
        let what = || format!("cannot read {}", path.display());
        let lines = std::fs::read_to_string(path).with_context(what)?;
        texts.extend(lines.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned));
    }
    if texts.is_empty() {
        bail!("there is no text to embed");
    }
    Ok(texts)
}

/// Tokens of each text, cut to the image's longest context: the token after a text stays its last.
pub fn tokens(model: &Model, texts: &[String]) -> Result<Vec<Vec<u32>>> {
    let longest = model.image().plan().max_context as usize;
    let after = model.tokenizer()?.after();
    let cut = |(at, text): (usize, &String)| {
        let mut ids = model.encode(text)?;
        if ids.len() > longest {
            eprintln!("note: text {at} has {} tokens, of which the first {longest} count", ids.len());
            ids.truncate(longest);
            ids.iter_mut().next_back().zip(after).into_iter().for_each(|(last, id)| *last = id);
        }
        Ok(ids)
    };
    texts.iter().enumerate().map(cut).collect()
}

/// The embedding of each text, not normalised.
pub fn embed(model: &Model, texts: &[Vec<u32>], compute: Compute) -> Result<Vec<Vec<f32>>> {
    model.prefetch();
    let longest = texts.iter().map(Vec::len).max().unwrap_or(1).max(1);
    let limits = compute.limits(model, u32::try_from(longest).context("too many tokens")?);
    let pool = compute.workers.pool();
    let mut arena = Arena::for_limits(model, limits)?;
    let mut session = model.session(&mut arena, &pool)?;
    let unit = 2f32.powi(-(session.logits_frac_bits() as i32));
    let mut one = |ids: &Vec<u32>| Ok(session.embed(ids)?.iter().map(|v| *v as f32 * unit).collect());
    texts.iter().map(&mut one).collect()
}

fn normalise(embedding: &mut [f32]) {
    let length = embedding.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt().max(1e-12);
    embedding.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
}
