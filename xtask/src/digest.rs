//! One digest everywhere: the same image and tokens on this host, on aarch64 under emulation, and on every board.

use crate::board::{self, lines};
use crate::hosts::AARCH64;
use crate::shell::{cargo, output, say};
use crate::{symbols, table};
use anyhow::{Context, Result, bail};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use table::Firmware;

/// What every machine runs: more than two batches and not a whole number of them; one token; a repeated one.
const PROMPTS: [&str; 3] =
    ["1,403,407,261,378,377,282,447,421,396,262,1,5,17,77,300,44,2,9,121", "0", "7,7,7,7,7,7,7,7,7"];

/// Emulated cores: the first has dot products and int8 matrix products, the second has neither.
pub const AARCH64_CORES: [&str; 2] = ["max", "cortex-a53"];

/// The package of the program `logits IMAGE --tokens 1,2,3 --sha256`, and the program.
const PROGRAM: [&str; 2] = ["mote-example-host", "logits"];

/// Where this workspace is built.
pub fn target_dir() -> Result<PathBuf> {
    Ok(env::var_os("CARGO_TARGET_DIR").map_or(table::root()?.join("target"), PathBuf::from))
}

/// Where images are kept.
pub fn folder() -> Result<PathBuf> {
    let folder = target_dir()?.join("mote");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The models there are: name, source, and what else `mote quantize` must be told. The bundled one, and stories260K if the
/// shared data is there.
pub fn models() -> Result<Vec<(&'static str, PathBuf, Vec<PathBuf>)>> {
    let mut models = vec![("llm", table::root()?.join("examples/models/llm"), Vec::new())];
    match (table::shared("llm/stories260K.bin")?, table::shared("llm/tok512.bin")?) {
        (Some(model), Some(tokens)) => models.push(("stories260K", model, vec!["--tokenizer".into(), tokens])),
        _ => say("skipped: there is no ../shared/data/llm/stories260K.bin"),
    }
    Ok(models)
}

/// Name and 4-bit image of each model.
pub fn images() -> Result<Vec<(&'static str, PathBuf)>> {
    models()?.into_iter().map(|(name, source, extra)| Ok((name, image(name, &source, &extra)?))).collect()
}

/// The 4-bit image of a model in `examples/models`.
pub fn bundled(name: &str) -> Result<PathBuf> {
    image(name, &table::root()?.join("examples/models").join(name), &[])
}

/// A model's 4-bit image, made once a run: `mote quantize` gives the same bytes again.
fn image(name: &str, source: &Path, extra: &[PathBuf]) -> Result<PathBuf> {
    static MADE: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let image = folder()?.join(format!("{name}.mote"));
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if !made.iter().any(|made| made == name) {
        output(mote().arg("quantize").arg(source).arg("-o").arg(&image).args(extra))?;
        made.push(name.to_owned());
    }
    Ok(image)
}

/// The profile that programs of this workspace are built with, and the folder that cargo puts them into.
static PROFILE: OnceLock<(&str, &str)> = OnceLock::new();

/// From here on programs of this workspace are those that `cargo test` builds, so that nothing is built twice.
pub fn take_those_of_tests() {
    PROFILE.get_or_init(|| ("dev", "debug"));
}

fn profile() -> (&'static str, &'static str) {
    PROFILE.get().copied().unwrap_or(("release", "release"))
}

/// A program of this workspace.
pub fn program(package: &str, name: &str) -> Command {
    let mut command = cargo();
    command.args(["run", "--quiet", "--profile", profile().0, "--package", package, "--bin", name, "--"]);
    command
}

/// The `mote` command.
pub fn mote() -> Command {
    program("mote-quantize", "mote")
}

/// Where the `mote` command is, once it is built.
pub fn mote_file() -> Result<PathBuf> {
    Ok(target_dir()?.join(profile().1).join("mote"))
}

/// The digest in lines of output.
fn digest(machine: &str, lines: &str) -> Result<String> {
    let lines: Vec<String> = lines.lines().map(str::to_owned).collect();
    let found = table::value(&lines, "logits_sha256").map(str::to_owned);
    found.with_context(|| format!("{machine} printed no digest:\n{}", lines.join("\n")))
}

/// Runs everywhere and compares; prints each digest. Returns how many were compared.
pub fn check() -> Result<usize> {
    let root = table::root()?;
    let [package, program] = PROGRAM;
    let elf = AARCH64.build(package, program)?;
    let boards = board::all(&root)?;
    let mut compared = 0;
    for (model, image) in images()? {
        // Machine and, for each prompt, digest.
        let mut found: Vec<(String, Vec<String>)> = Vec::new();
        let each = |machine: &str, run: &dyn Fn(&str) -> Result<String>| {
            let digests: Result<Vec<String>> = PROMPTS.iter().map(|tokens| digest(machine, &run(tokens)?)).collect();
            anyhow::Ok((machine.to_owned(), digests?))
        };
        for (threads, batch) in [("1", "1"), ("2", "1"), ("1", "32"), ("2", "32")] {
            found.push(each(&format!("host, {threads} threads, batch {batch}"), &|tokens| {
                output(logits(mote().arg("logits"), &image, tokens).args(["--threads", threads, "--batch", batch]))
            })?);
        }
        for core in AARCH64_CORES {
            found.push(each(&format!("aarch64 {core}"), &|tokens| {
                output(logits(&mut AARCH64.run(core, &elf), &image, tokens))
            })?);
        }
        let firmware = Firmware { image: Some(&image), batch: Some(8), context: Some(32), ..Firmware::default() };
        for board in board::fitting(&boards, firmware)? {
            let built = table::build(&root, board, firmware)?;
            symbols::check(board, &built)?;
            for batch in [1, 8] {
                found.push(each(&format!("{}, batch {batch}", board.name), &|tokens| {
                    let line = format!("--tokens {tokens} --sha256 --batch {batch}");
                    Ok(lines(board, &built, &line)?.join("\n"))
                })?);
            }
        }
        for (machine, digests) in &found {
            let short: Vec<&str> = digests.iter().map(|d| d.get(..16).unwrap_or(d)).collect();
            println!("{model}: {} {machine}", short.join(" "));
        }
        let Some((first, rest)) = found.split_first() else { bail!("nothing ran") };
        if let Some((machine, digests)) = rest.iter().find(|(_, digests)| *digests != first.1) {
            bail!("{model}: {machine} computes {digests:?}, {} computes {:?}", first.0, first.1);
        }
        say(&format!("{model}: one digest for each of {} prompts on {} machines", PROMPTS.len(), found.len()));
        compared += PROMPTS.len() * found.len();
    }
    Ok(compared)
}

/// The arguments that `mote logits` and the example program share.
fn logits<'c>(command: &'c mut Command, image: &Path, tokens: &str) -> &'c mut Command {
    command.arg(image).args(["--tokens", tokens, "--sha256"])
}
