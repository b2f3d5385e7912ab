//! `mote fit`: whether an image fits a board, in bytes, before anything is flashed.

use crate::args;
use anyhow::{Result, bail};
use mote_quantize::board::{self, Board};
use mote_runtime::image::{Image, Limits};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// The arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The image
    image: PathBuf,
    /// Board, as `mote board list` names it
    #[arg(long)]
    board: String,
    /// Positions of the context [default: 256, or the image's limit if that is less]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// Tokens processed at a time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A region of the board and what goes there.
#[derive(Serialize)]
struct Use {
    region: &'static str,
    what: &'static str,
    bytes: u64,
    of: u64,
}

#[derive(Serialize)]
struct Outcome {
    board: String,
    fits: bool,
    uses: Vec<Use>,
    arena_bytes: u64,
    #[serde(flatten)]
    tokens: Option<Tokens>,
}

/// What only language models have.
#[derive(Serialize)]
struct Tokens {
    context: u32,
    batch: u32,
    longest_context: u32,
    max_context: u32,
}

/// Runs it.
pub fn main(args: &Args) -> Result<ExitCode> {
    let model = args::open(&args.image)?;
    let image = model.image();
    let board = board::find(&board::root()?, &args.board)?;
    let file_bytes = std::fs::metadata(&args.image)?.len();
    if args.context.is_some() && !is_language_model(image) {
        bail!("{} is no language model: it has no --context", args.image.display());
    }
    let limits = limits(image, args.batch, args.context);
    let arena_bytes = image.arena_bytes(limits)?;
    let firmware = board.most(&board::features(image));
    let uses = vec![
        Use { region: "flash", what: "runtime and firmware, at most", bytes: firmware.flash, of: board.flash.bytes },
        Use { region: "image flash", what: "image", bytes: file_bytes, of: board.image.bytes },
        Use {
            region: "RAM",
            what: "arena, and firmware with its stack",
            bytes: arena_bytes + firmware.ram,
            of: board.ram.bytes,
        },
    ];
    let outcome = Outcome {
        fits: uses.iter().all(|u| u.bytes <= u.of),
        board: board.name.clone(),
        uses,
        arena_bytes,
        tokens: is_language_model(image).then(|| Tokens {
            context: limits.context,
            batch: limits.batch,
            longest_context: longest_context(image, &board, args.batch),
            max_context: image.plan().max_context,
        }),
    };
    if args.json {
        args::print_json(&outcome)?;
    } else {
        print(&outcome, firmware.ram)?;
    }
    Ok(if outcome.fits { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether an image takes tokens.
pub fn is_language_model(image: &Image<'_>) -> bool {
    image.plan().takes_tokens()
}

/// What a session on a board is opened for; `context` is 256 unless told, or the image's limit if that is less.
pub fn limits(image: &Image<'_>, batch: u32, context: Option<u32>) -> Limits {
    if !is_language_model(image) {
        return Limits { batch: 1, context: 1, threads: 1 };
    }
    Limits { batch, context: context.unwrap_or(256.min(image.plan().max_context)), threads: 1 }
}

/// The longest context whose arena fits beside the firmware; 0 if none does.
pub fn longest_context(image: &Image<'_>, board: &Board, batch: u32) -> u32 {
    let room = board.ram.bytes.saturating_sub(board.most(&board::features(image)).ram);
    let fits = |context| image.arena_bytes(Limits { batch, context, threads: 1 }).is_ok_and(|bytes| bytes <= room);
    let (mut low, mut high) = (0, image.plan().max_context);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    low
}

fn print(o: &Outcome, firmware_ram: u64) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match &o.tokens {
        Some(t) => writeln!(out, "{} at context {}, batch {}:", o.board, t.context, t.batch)?,
        None => writeln!(out, "{}:", o.board)?,
    }
    for u in &o.uses {
        let verdict = if u.bytes <= u.of {
            format!("{} left", args::size(u.of - u.bytes))
        } else {
            format!("TOO LARGE by {} bytes", u.bytes - u.of)
        };
        writeln!(out, "  {:12} {:>10} of {:>10} bytes  {:34} {verdict}", u.region, u.bytes, u.of, u.what)?;
    }
    writeln!(out, "  arena {} bytes exactly, firmware and stack {firmware_ram} at most", o.arena_bytes)?;
    let Some(t) = &o.tokens else {
        writeln!(out, "{}", if o.fits { "fits" } else { "does not fit" })?;
        return Ok(());
    };
    match (o.fits, t.longest_context) {
        (true, n) if n == t.max_context => writeln!(out, "fits; so does the longest context of the image, {n}")?,
        (true, n) => writeln!(out, "fits; the longest context that fits is {n}")?,
        (false, 0) => writeln!(out, "does not fit with any context")?,
        (false, n) => writeln!(out, "does not fit; the longest context whose arena fits is {n}")?,
    }
    Ok(())
}
