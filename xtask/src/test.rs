//! `test`: everything that can be tested on this machine.

use crate::board::{self, lines};
use crate::shell::{cargo, output, run, say, timed};
use crate::{backends, digest, nets, python, setup, steps, symbols, table, web};
use anyhow::{Context, Result, bail};
use mote_runtime::image::header::HEADER_BYTES;
use object::{Object, ObjectSection};
use std::fs;
use std::path::Path;
use std::process::Command;
use table::{Built, Firmware};

/// A step returns how much it checked; `true` asks for all that takes too long for every commit.
type Step = fn(bool) -> Result<usize>;

/// Name and function.
const STEPS: &[(&str, Step)] = &[
    ("cargo", |_| cargo_tests()),
    ("backends", |_| backends::check()),
    ("digest", |_| digest::check()),
    ("nets", nets::check),
    ("steps", |_| steps::check()),
    ("kernels", |_| kernels()),
    ("refusals", |_| refusals()),
    ("generations", |_| generations()),
    ("cluster", |_| cluster()),
    ("web", |_| web::check()),
];

/// Runs the verb: the steps named, or all.
pub fn main(args: &[String]) -> Result<()> {
    let (flags, args): (Vec<_>, Vec<_>) = args.iter().partition(|arg| *arg == "--all");
    setup::ensure()?;
    setup::browser();
    digest::take_those_of_tests();
    if table::shared("MANIFEST.md")?.is_none() {
        say("skipped: what needs ../shared/data (tokenizers and models of others), which is not there");
    }
    if let Some(name) = args.iter().find(|arg| !STEPS.iter().any(|(name, _)| name == **arg)) {
        let names: Vec<&str> = STEPS.iter().map(|(name, _)| *name).collect();
        bail!("no step \"{name}\"; there are {}", names.join(", "));
    }
    let mut checks = 0;
    for (name, step) in STEPS.iter().filter(|(name, _)| args.is_empty() || args.iter().any(|arg| *arg == name)) {
        checks += timed(name, || step(!flags.is_empty()))?;
    }
    // What ran outside of cargo's tests, in the words of test runners. A failure has ended this before.
    println!("{checks} passed, 0 failed");
    say("all tests pass");
    Ok(())
}

/// The tests of both workspaces, which count themselves.
fn cargo_tests() -> Result<usize> {
    let root = table::root()?;
    run(cargo().current_dir(&root).args(["test", "--quiet", "--workspace"]))?;
    let mut support = cargo();
    support.current_dir(root.join("boards")).args([
        "test",
        "--quiet",
        "--package",
        "mote-board-support",
        "--target-dir",
    ]);
    run(support.arg(table::target_dir(&root)))?;
    Ok(0)
}

/// Quantizing on a local cluster of Ray, a node of which is killed.
fn cluster() -> Result<usize> {
    let candidates = [python::venv()?.join("bin/python"), "python3".into()];
    let Some(python) = candidates.iter().find(|python| python::imports(python, "ray")) else {
        say("skipped: quantizing on a cluster; `pip install ray` in .venv (or $MOTE_VENV), which does not have it");
        return Ok(0);
    };
    let root = table::root()?;
    run(digest::mote().arg("--version"))?;
    let mut test = Command::new(python);
    test.arg(root.join("quantize/cluster/test_quantize_ray.py")).arg(digest::mote_file()?);
    run(test.arg(root.join("examples/models/qwen3")))?;
    Ok(1)
}

/// A board must say what is wrong and exit with 1, not hang. And with every op of a feature its firmware must keep within
/// the bounds of the table, so that no image's can exceed them, and link no panic, whether it checks images or not.
fn refusals() -> Result<usize> {
    let root = table::root()?;
    // Which every board has room for.
    let image = digest::bundled("gpt")?;
    let mut checks = 0;
    for board in board::all(&root)? {
        let mut refuses = |built: &Built, line: &str, error: &str| -> Result<()> {
            let mut lines = Vec::new();
            let code = table::run(&board, built, line, &mut |line| lines.push(line.to_owned()))?;
            let found = table::value(&lines, "error");
            if code != 1 || found != Some(error) {
                bail!("{} {line}: expected error {error}, got {found:?} and code {code}", board.name);
            }
            checks += 1;
            Ok(())
        };
        for every_op in table::with_every_op() {
            let built = table::build(&root, &board, every_op)?;
            symbols::check(&board, &built)?;
            refuses(&built, "--tokens 1", "not_an_image")?;
        }
        let built = table::build(&root, &board, Firmware { image: Some(&image), ..Firmware::default() })?;
        symbols::check(&board, &built)?;
        refuses(&built, "--frobnicate 1", "command_line")?;
        // The firmware of one image takes no other: one bit of magic, header, section table, first section.
        for (at, error) in [(0, "not_an_image"), (16, SUM), (HEADER_BYTES + 8, SUM), (first_section(&image)?, SUM)] {
            refuses(&tampered(&built, at)?, "--tokens 1", error)?;
        }
    }
    Ok(checks)
}

/// What a board prints if a checksum is wrong.
const SUM: &str = "checksum_of_section";

/// Where an image's first section begins.
fn first_section(image: &Path) -> Result<usize> {
    let bytes = fs::read(image)?;
    let image = mote_runtime::Image::open(&bytes)?;
    let first = image.sections().next().context("an image without sections")?;
    Ok(usize::try_from(first.span.offset)?)
}

/// The firmware with one bit changed in the model, in the byte that is `at` from its beginning.
fn tampered(built: &Built, at: usize) -> Result<Built> {
    let mut bytes = fs::read(&built.elf)?;
    let model = object::File::parse(&*bytes)?.section_by_name(".mote_image").and_then(|section| section.file_range());
    let (start, _) = model.context("no model in the firmware")?;
    *bytes.get_mut(usize::try_from(start)? + at).context("a model that is cut short")? ^= 1;
    let elf = built.elf.with_extension("tampered");
    fs::write(&elf, bytes)?;
    Ok(Built { elf, ..built.clone() })
}

/// A board's kernels give the scalar ones' bits: the example of the boards that have it (`boards/support/src/kernels.rs`).
fn kernels() -> Result<usize> {
    let root = table::root()?;
    let mut checks = 0;
    for board in board::all(&root)? {
        if root.join(format!("boards/{}/examples/kernels.rs", board.folder)).is_file() {
            let built = table::build(&root, &board, Firmware { example: Some("kernels"), ..Firmware::default() })?;
            let lines = lines(&board, &built, "")?;
            println!("{}: {}", board.name, lines.join(" "));
            checks += table::value(&lines, "cases").map_or(Ok(0), str::parse)?;
        }
    }
    Ok(checks)
}

/// Models that write: source in this repository, prompt, how tokens are drawn, longest context of the board's.
const WRITERS: [(&str, &str, &str, u32); 3] = [
    (
        "llm",
        "Once upon a time, Lily",
        "-n 24 --seed 7 --temperature 0.8 --top-k 40 --top-p 0.95 --min-p 0.02 --repeat-penalty 1.1",
        64,
    ),
    ("gpt", "Once upon a time", "-n 16 --seed 1 --temperature 0", 64),
    ("dates", "3 March 2021", "-n 16 --seed 1 --temperature 0", 32),
];

/// A decoder, a GPT-2 and an encoder-decoder write the same text on every board as on this host.
fn generations() -> Result<usize> {
    let root = table::root()?;
    let boards = board::all(&root)?;
    let mut compared = 0;
    for (model, prompt, flags, context) in WRITERS {
        let image = digest::bundled(model)?;
        let mut host = digest::mote();
        host.arg("run").arg(&image).args(flags.split(' ')).args(["--prompt", prompt, "--json"]);
        let host: serde_json::Value = serde_json::from_str(&output(&mut host)?)?;
        let list = |tokens: &serde_json::Value| tokens.to_string().trim_matches(['[', ']']).to_owned();
        let (tokens, text) = (list(&host["tokens"]), host["text"].as_str().unwrap_or_default().to_owned());
        println!("{model}, host: {text}");
        let firmware = Firmware { image: Some(&image), batch: Some(8), context: Some(context), ..Firmware::default() };
        for board in board::fitting(&boards, firmware)? {
            let built = table::build(&root, board, firmware)?;
            let lines = lines(board, &built, &format!("{flags} --prompt {prompt}"))?;
            let found = table::value(&lines, "tokens");
            let same = lines.join("\n").contains(text.trim_end());
            if text.is_empty() || found != Some(&tokens) || !same {
                bail!("{}: expected {text:?}, tokens {tokens}; it printed\n{}", board.name, lines.join("\n"));
            }
            println!("{model}, {}: the same", board.name);
            compared += 1;
        }
    }
    Ok(compared)
}
