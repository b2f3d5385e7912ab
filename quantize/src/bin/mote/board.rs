//! `mote board`.

use crate::args::{self, Sampling};
use crate::{fit, infer};
use anyhow::{Context, Result, bail, ensure};
use mote_host::Model;
use mote_host::runtime::image::{Image, Port};
use mote_quantize::board::{self, Firmware};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
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
    Run(Box<Run>),
}

/// The arguments of `run`.
#[derive(clap::Args, Debug)]
pub struct Run {
    /// Board, as `mote board list` names it
    board: String,
    /// The image
    image: PathBuf,
    /// Text to begin with (language models)
    #[arg(long, conflicts_with = "tokens")]
    prompt: Option<String>,
    /// Token ids to begin with
    #[arg(long, value_name = "1,2,3")]
    tokens: Option<String>,
    /// Tokens to generate at most
    #[arg(short, default_value_t = 0)]
    n: u32,
    /// An array as the net takes it (`mote inspect` says how), one for each input; several of them behind each other are
    /// several runs [default: random ones]
    #[arg(long, value_name = "X.npy", conflicts_with_all = TOKENS)]
    input: Vec<PathBuf>,
    /// Write output 0 of all runs there
    #[arg(short, long, value_name = "X.npy", conflicts_with_all = TOKENS)]
    out: Option<PathBuf>,
    /// How often the net runs on random inputs, from --seed on [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with_all = TOKENS)]
    #[arg(conflicts_with = "input")]
    runs: Option<u32>,
    /// How many of the largest values of output 0 are printed [default: 5]
    #[arg(long, value_name = "N", conflicts_with_all = TOKENS)]
    top: Option<u32>,
    /// Print output 0 as characters, N values a line: an image of width N
    #[arg(long, value_name = "N", conflicts_with_all = TOKENS)]
    text: Option<u32>,
    /// Print the SHA-256 of each run's outputs
    #[arg(long, conflicts_with_all = TOKENS)]
    each: bool,
    /// Print the SHA-256 of all positions' logits, or of all outputs
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

/// The flags of language models.
const TOKENS: [&str; 4] = ["prompt", "tokens", "n", "context"];

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

/// What is to be built and run.
struct Job {
    batch: Option<u32>,
    context: Option<u32>,
    /// The firmware's command line (`boards/support/src/command.rs`).
    line: String,
    runs: u32,
}

/// A language model's job.
fn generate(args: &Run, image: &Image<'_>) -> Result<Job> {
    if !args.input.is_empty() || args.out.is_some() || args.runs.is_some() || args.top.is_some() || args.text.is_some()
    {
        bail!(
            "{} is a language model: it takes --prompt or --tokens, and has no inputs and outputs",
            args.image.display()
        );
    }
    let max_context = image.plan().max_context;
    let context = args.context.unwrap_or(256.min(max_context));
    if context > max_context {
        bail!("--context is {context}; the image allows {max_context}");
    }
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
    Ok(Job { batch: Some(args.batch), context: Some(context), line, runs: 0 })
}

/// A net's job; its inputs are put into `folder`, where the board finds them.
fn net(args: &Run, image: &Image<'_>, folder: &Path) -> Result<Job> {
    if args.prompt.is_some() || args.tokens.is_some() || args.n > 0 || args.context.is_some() {
        bail!("{} is no language model: it takes --input, not tokens", args.image.display());
    }
    let ports: Vec<Port> = image.ports().inputs().collect();
    let mut runs = args.runs.unwrap_or(1);
    if !args.input.is_empty() {
        ensure!(ports.len() == args.input.len(), "{} inputs are needed: give --input for each", ports.len());
    }
    let mut line = String::new();
    for ((path, port), index) in args.input.iter().zip(&ports).zip(0..) {
        let (bytes, count) = infer::read_bytes(path, port, index, None, None)?;
        if index > 0 && count != runs {
            bail!("{} is for {count} runs, the first input for {runs}", path.display());
        }
        runs = count;
        let name = format!("input{index}");
        std::fs::write(folder.join(&name), bytes)?;
        line.push_str(&format!("--input {name} "));
    }
    line.push_str(&format!("--runs {runs}"));
    let seed = args.sampling.seed.map(|seed| seed as u32);
    for (flag, value) in [("--seed", seed), ("--top", args.top), ("--text", args.text)] {
        if let Some(value) = value {
            line.push_str(&format!(" {flag} {value}"));
        }
    }
    for (flag, wanted) in [("--sha256", args.sha256), ("--each", args.each), (OUTPUT, args.out.is_some())] {
        if wanted {
            line.push_str(&format!(" {flag}"));
        }
    }
    Ok(Job { batch: None, context: None, line, runs })
}

/// The file in which the board leaves output 0.
const OUTPUT: &str = "--output output0";

fn run(args: &Run) -> Result<ExitCode> {
    let model = args::open(&args.image)?;
    let image = model.image();
    let root = board::root()?;
    let board = board::find(&root, &args.board)?;
    let folder = tempfile::tempdir()?;
    let job = if fit::is_language_model(image) { generate(args, image)? } else { net(args, image, folder.path())? };
    let arena = image.arena_bytes(fit::limits(image, args.batch, job.context))?;
    let firmware_ram = board.most(&board::features(image)).ram;
    if arena + firmware_ram > board.ram.bytes {
        let most = fit::longest_context(image, &board, args.batch);
        let help = match job.context {
            Some(_) => format!("; the longest --context at this batch is {most}"),
            None => String::new(),
        };
        let (name, bytes) = (&board.name, board.ram.bytes);
        bail!(
            "an arena of {arena} bytes and {firmware_ram} for the firmware do not fit the {bytes} bytes of RAM of {name}{help}"
        );
    }
    let firmware = Firmware { image: Some(&args.image), batch: job.batch, context: job.context, ..Firmware::default() };
    eprintln!("building the firmware for {} ({})", board.name, board.target);
    let built = board::build(&root, &board, firmware)?;
    let mut lines = Vec::new();
    let code = board::run_in(folder.path(), &board, &built, &job.line, &mut |line| {
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
    if let Some(path) = &args.out {
        write_output(path, &folder.path().join("output0"), &model, job.runs)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Output 0 of all runs, from the board's file to one of NumPy's format.
fn write_output(path: &Path, from: &Path, model: &Model, runs: u32) -> Result<()> {
    let mut port = model.image().ports().outputs().next().context("the net has no output")?;
    let bytes = std::fs::read(from).context("the board has written no output")?;
    port.dims[0] *= runs;
    infer::write_bytes(path, &bytes, &port)
}

/// Lines `key=value` as fields, what came before them as `text`; digests of single runs as a list.
fn report(lines: &[String]) -> BTreeMap<String, serde_json::Value> {
    let mut fields = BTreeMap::new();
    let mut text: Vec<&str> = Vec::new();
    let is_end = |l: &String| l.starts_with("tokens=") || l.starts_with("runs=");
    let end = lines.iter().rposition(is_end).unwrap_or(lines.len());
    let mut runs: Vec<serde_json::Value> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if let Some(digest) = line.strip_prefix("run_sha256=") {
            runs.push(digest.into());
            continue;
        }
        match line.split_once('=') {
            Some((key, value)) if at == 0 || at >= end || key == "error" => {
                let value = value.parse::<u64>().map_or_else(|_| value.into(), serde_json::Value::from);
                fields.insert(key.to_owned(), value);
            }
            _ => text.push(line),
        }
    }
    fields.insert("text".into(), text.join("\n").into());
    if !runs.is_empty() {
        fields.insert("run_sha256".into(), runs.into());
    }
    fields
}
