//! `mote eval`: both models walk the text in lock step; nothing is stored but a number a position.
//!
//! The text is encoded as a whole, without BOS, and cut into chunks of `context - 1` tokens; each window is BOS and a
//! chunk. Logits are compared at every position; where the next token lies in the window, it is predicted by both.
//! Of an encoder without a decoder, each line of the text is embedded and compared.

use crate::args::{self, Compute};
use crate::embed;
use anyhow::{Context, Result, bail};
use mote_host::{Arena, Model};
use mote_quantize::calibrate::Text;
use mote_quantize::float::embeddings;
use mote_quantize::float::metrics::{Comparison, LockStep, integer_logits};
use mote_quantize::float::{Device, DeviceName, FloatModel};
use mote_quantize::import::{self, ImageModel, tokenizer};
use mote_runtime::image::section;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// The arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The image
    image: PathBuf,
    /// The float model it is compared with (or another image, evaluated in floats)
    #[arg(long, value_name = "MODEL")]
    reference: PathBuf,
    /// The text; for an encoder that gives embeddings, a text a line
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Positions of a window [default: the image's limit, 512 at most]
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..))]
    context: Option<u32>,
    /// Stop after this many positions (of embeddings: texts)
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Compute with the image's weights in floats: what the weights lost, without the integer arithmetic
    #[arg(long)]
    float: bool,
    /// Where floats are computed: cpu, cuda (cuda:N for another GPU than the first) or metal; the GPUs if mote was built with that
    /// feature
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DeviceName,
    #[command(flatten)]
    compute: Compute,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Embedded {
    #[serde(flatten)]
    comparison: embeddings::Comparison,
    bits_per_weight: Option<f64>,
    arithmetic: &'static str,
}

#[derive(Serialize)]
struct Outcome {
    #[serde(flatten)]
    comparison: Comparison,
    bits_per_weight: Option<f64>,
    arithmetic: &'static str,
    context: u32,
}

/// Runs it.
pub fn main(args: &Args) -> Result<ExitCode> {
    let device = args.device.open()?;
    let model = args::open(&args.image)?;
    if model.embeds() {
        return compare_embeddings(args, &model, &device);
    }
    args::ensure_language_model(&model, &args.image)?;
    if model.has_encoder() {
        bail!(
            "{} has an encoder: a text alone says nothing of it; compare what `mote run` writes",
            args.image.display()
        );
    }
    model.prefetch();
    let tokenizer = model.tokenizer()?;
    let source = import::open_model(&args.reference)?;
    let vocab = model.image().plan().vocab;
    if source.config().vocab != vocab as usize {
        bail!("{} has {} tokens, the image {vocab}: another model", args.reference.display(), source.config().vocab);
    }
    let text = std::fs::read(&args.text).with_context(|| format!("cannot read {}", args.text.display()))?;
    let text = String::from_utf8(text).with_context(|| format!("{} is no UTF-8 text", args.text.display()))?;
    let tokens =
        tokenizer::encode_after(model.image().section(section::TEXT)?, None, &text, false).context("the text")?;
    let context = args.context.unwrap_or(512).min(model.image().plan().max_context);
    let bos = tokenizer.bos();
    let chunk = (context as usize).saturating_sub(bos.iter().len()).max(1);
    let windows: Vec<Vec<u32>> = tokens.chunks(chunk).map(|c| bos.iter().chain(c).copied().collect()).collect();
    let most = args.max_tokens.unwrap_or(usize::MAX);
    if windows.is_empty() || most == 0 {
        bail!("there is nothing to compare: the text has no tokens");
    }

    let reference = FloatModel::load_on(&*source, &device)?;
    let floats = if args.float { Some(FloatModel::load_on(&ImageModel::open(&args.image)?, &device)?) } else { None };
    let limits = args.compute.limits(&model, context);
    let pool = args.compute.workers.pool();
    let mut arena = Arena::for_limits(&model, limits)?;
    let mut session = model.session(&mut arena, &pool)?;
    let mut steps = LockStep::default();
    let total = windows.iter().map(Vec::len).sum::<usize>().min(most) as u64;
    let bar = args::progress(total, "{pos}/{len} positions,");
    'text: for window in &windows {
        let expected = reference.session().forward(window)?;
        let got = match &floats {
            Some(model) => model.session().forward(window)?,
            None => {
                let text = Text { source: vec![], tokens: window.clone() };
                integer_logits(&mut session, &text, limits.batch)?
            }
        };
        for (at, (expected, got)) in expected.iter().zip(&got).enumerate() {
            steps.push(expected, got, window.get(at + 1).copied());
            bar.inc(1);
            if steps.positions() == most {
                break 'text;
            }
        }
    }
    bar.finish_and_clear();
    let comparison = steps.finish().context("there is nothing to compare")?;
    let bits_per_weight = args::meta(&model).map(|m| m.bits_per_weight);
    let outcome =
        Outcome { comparison, bits_per_weight, arithmetic: if args.float { "float" } else { "integer" }, context };
    if args.json {
        args::print_json(&outcome)?;
    } else {
        let Comparison { kld, perplexity, reference_perplexity, top1_agreement, positions } = comparison;
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "positions               {positions} in windows of {context}, {} arithmetic",
            outcome.arithmetic
        )?;
        writeln!(out, "perplexity              {perplexity:.4} (reference {reference_perplexity:.4})")?;
        writeln!(
            out,
            "KL divergence (nats)    mean {:.6}  median {:.6}  99 % {:.6}  max {:.6}",
            kld.mean, kld.median, kld.p99, kld.max
        )?;
        writeln!(out, "same most likely token  {:.2} %", 100.0 * top1_agreement)?;
        if let Some(bits) = bits_per_weight {
            writeln!(out, "bits per weight         {bits:.3}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Embeds the lines of the text with both models.
fn compare_embeddings(args: &Args, model: &Model, device: &Device) -> Result<ExitCode> {
    let mut lines = embed::texts(&[], Some(&args.text))?;
    lines.truncate(args.max_tokens.unwrap_or(usize::MAX));
    let texts = embed::tokens(model, &lines)?;
    let source = import::open_model(&args.reference)?;
    let vocab = model.image().plan().source_vocab;
    if !source.config().embeds() || source.config().vocab != vocab as usize {
        bail!("{} is another model: the image embeds texts of {vocab} tokens", args.reference.display());
    }
    let floats = |model: &FloatModel| -> Result<Vec<Vec<f32>>> {
        texts.iter().map(|ids| Ok(model.session().embed(ids)?)).collect()
    };
    let references = floats(&FloatModel::load_on(&*source, device)?)?;
    let found = match args.float {
        true => floats(&FloatModel::load_on(&ImageModel::open(&args.image)?, device)?)?,
        false => embed::embed(model, &texts, args.compute)?,
    };
    let comparison = embeddings::compare(&references, &found).context("fewer than three texts cannot be compared")?;
    let (bits_per_weight, arithmetic) =
        (args::meta(model).map(|m| m.bits_per_weight), if args.float { "float" } else { "integer" });
    if args.json {
        args::print_json(&Embedded { comparison, bits_per_weight, arithmetic })?;
        return Ok(ExitCode::SUCCESS);
    }
    let embeddings::Comparison { cosine_distance: d, spearman, neighbour_agreement, texts } = comparison;
    let mut out = std::io::stdout().lock();
    writeln!(out, "texts                   {texts}, {arithmetic} arithmetic")?;
    writeln!(
        out,
        "1 - cosine              mean {:.6}  median {:.6}  99 % {:.6}  max {:.6}",
        d.mean, d.median, d.p99, d.max
    )?;
    writeln!(out, "Spearman of all pairs   {spearman:.6}")?;
    writeln!(out, "same nearest text       {:.2} %", 100.0 * neighbour_agreement)?;
    if let Some(bits) = bits_per_weight {
        writeln!(out, "bits per weight         {bits:.3}")?;
    }
    Ok(ExitCode::SUCCESS)
}
