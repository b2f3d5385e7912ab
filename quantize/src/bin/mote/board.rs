//! `mote board`.

use crate::args::{self, Sampling};
use crate::fit;
use anyhow::{Context, Result, bail};
use mote_quantize::board::{self, Firmware};
use mote_runtime::image::Limits;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// The subcommands.
#[derive(clap::Subcommand, Debug)]
pub enum Verb {
    /// List the boards
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Build the firmware with an image in it, run it, and show what it prints
    Run(Run),
}

/// The arguments of `run`.
#[derive(clap::Args, Debug)]
pub struct Run {
    /// Board, as `mote board list` names it
    board: String,
    /// The image
    image: PathBuf,
    /// Text to begin with
    #[arg(long, conflicts_with = "tokens")]
    prompt: Option<String>,
    /// Token ids to begin with
    #[arg(long, value_name = "1,2,3")]
    tokens: Option<String>,
    /// Tokens to generate at most
    #[arg(short, default_value_t = 0)]
    n: u32,
    /// Print the SHA-256 of all positions' logits
    #[arg(long)]
    sha256: bool,
    /// Positions of the context [default: 256, or the image's limit if that is less]
    #[arg(long)]
    context: Option<u32>,
    /// Tokens processed at a time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    batch: u32,
    #[command(flatten)]
    sampling: Sampling,
    /// Print what the firmware reports as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    name: String,
    core: String,
    description: String,
    target: String,
    flash_bytes: u64,
    image_bytes: u64,
    ram_bytes: u64,
}

/// Runs it.
pub fn main(verb: &Verb) -> Result<ExitCode> {
    match verb {
        Verb::List { json } => list(*json),
        Verb::Run(args) => run(args),
    }
}

fn list(json: bool) -> Result<ExitCode> {
    let rows = board::table(&board::root()?)?.into_iter().map(|b| Row {
        name: b.name,
        core: b.core,
        description: b.description,
        target: b.target,
        flash_bytes: b.flash.bytes,
        image_bytes: b.image.bytes,
        ram_bytes: b.ram.bytes,
    });
    let rows: Vec<Row> = rows.collect();
    if json {
        args::print_json(&rows)?;
    } else {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{:12} {:12} {:>10} {:>10} {:>10}  description", "name", "core", "flash", "image", "RAM")?;
        for r in &rows {
            let [flash, image, ram] = [r.flash_bytes, r.image_bytes, r.ram_bytes].map(args::size);
            writeln!(out, "{:12} {:12} {flash:>10} {image:>10} {ram:>10}  {}", r.name, r.core, r.description)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The firmware's command line (`boards/support/src/command.rs`).
fn line(args: &Run, context: u32) -> Result<String> {
    let s = &args.sampling;
    let mut line = format!(
        "-n {} --batch {} --context {context} --seed {} --temperature {} --top-k {} --top-p {} --min-p {} --repeat-penalty {} --repeat-last {}",
        args.n,
        args.batch,
        s.seed() as u32,
        s.temperature,
        s.top_k,
        s.top_p,
        s.min_p,
        s.repeat_penalty,
        s.repeat_last
    );
    if args.sha256 {
        line.push_str(" --sha256");
    }
    if let Some(tokens) = &args.tokens {
        let ids = args::ids(tokens)?.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        line.push_str(&format!(" --tokens {ids}"));
    }
    if let Some(prompt) = &args.prompt {
        line.push_str(&format!(" --prompt {prompt}"));
    }
    Ok(line)
}

fn run(args: &Run) -> Result<ExitCode> {
    let model = args::open_language_model(&args.image)?;
    let max_context = model.image().plan().max_context;
    let context = args.context.unwrap_or(256.min(max_context));
    if context > max_context {
        bail!("--context is {context}; the image allows {max_context}");
    }
    let root = board::root()?;
    let board = board::find(&root, &args.board)?;
    let arena = model.image().arena_bytes(Limits { batch: args.batch, context, threads: 1 })?;
    if arena + board.firmware_ram > board.ram.bytes {
        bail!(
            "an arena of {arena} bytes and {} for the firmware do not fit the {} bytes of RAM of {}; the longest --context \
             at this batch is {}",
            board.firmware_ram,
            board.ram.bytes,
            board.name,
            fit::longest_context(model.image(), &board, args.batch)
        );
    }
    let firmware = Firmware { image: Some(&args.image), batch: Some(args.batch), context: Some(context) };
    eprintln!("building the firmware for {} ({})", board.name, board.target);
    let elf = board::build(&root, &board, firmware)?;
    let mut lines = Vec::new();
    let code = board::run(&board, &elf, &line(args, context)?, &mut |line| {
        lines.push(line.to_owned());
        if !args.json {
            let mut out = std::io::stdout().lock();
            // A reader that has gone away does not stop a board.
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        }
    })?;
    if args.json {
        args::print_json(&report(&lines))?;
    }
    if code != 0 {
        let why = board::value(&lines, "error").context("it said nothing of an error").map(str::to_owned)?;
        bail!("{} ended with code {code}: {why}", board.name);
    }
    Ok(ExitCode::SUCCESS)
}

/// Lines `key=value` as fields, what came before them as `text`.
fn report(lines: &[String]) -> BTreeMap<String, serde_json::Value> {
    let mut fields = BTreeMap::new();
    let mut text: Vec<&str> = Vec::new();
    let end = lines.iter().rposition(|l| l.starts_with("tokens=")).unwrap_or(lines.len());
    for (at, line) in lines.iter().enumerate() {
        match line.split_once('=') {
            Some((key, value)) if at == 0 || at >= end || key == "error" => {
                let value = value.parse::<u64>().map_or_else(|_| value.into(), serde_json::Value::from);
                fields.insert(key.to_owned(), value);
            }
            _ => text.push(line),
        }
    }
    fields.insert("text".into(), text.join("\n").into());
    fields
}
