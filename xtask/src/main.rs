//! `cargo xtask VERB`: the project's chores, one file each, over the same cargo and emulators that one would call by
//! hand. Each command that runs is shown on stderr.

#[path = "../../quantize/src/board.rs"]
#[allow(dead_code)]
mod table;

mod backends;
mod bench;
mod board;
mod ci;
mod demo;
mod digest;
mod hosts;
mod nets;
mod peers;
mod python;
mod setup;
mod shell;
mod steps;
mod symbols;
mod test;
mod web;

use anyhow::{Result, bail};
use std::process::ExitCode;

type Verb = fn(&[String]) -> Result<()>;

/// Name, arguments, what it does, the function.
const VERBS: &[(&str, &str, &str, Verb)] = &[
    ("setup", "[--peers]", "install what is missing: targets, emulators; with --peers other runtimes", setup::main),
    (
        "test",
        "[cargo|backends|digest|nets|steps|refusals|generations|web ...] [--all]",
        "setup, then tests: host, boards, aarch64, riscv64, WebAssembly; with --all 100 inputs of each net on each of them",
        test::main,
    ),
    ("ci", "", "formatting, lints, documentation, then test", ci::main),
    (
        "bench",
        "[speed|aarch64|quality|boards|memory|models|nets|open|riscv64|web ... | all] [OPTIONS]",
        "the figures of BENCHMARKS.md, as tables; without a name speed: [--json FILE] [--plot FILE.svg]",
        bench::main,
    ),
    (
        "board",
        "list | build NAME [IMAGE|FEATURE] | run NAME IMAGE [ARGS] | symbols NAME [IMAGE|FEATURE] | runtime NAME IMAGE",
        "one board",
        board::main,
    ),
    (
        "web",
        "[--serve]",
        "the page of examples/web with its modules and the bundled model; --serve: at 127.0.0.1:8000",
        web::main,
    ),
    ("demo", "", "quantize the bundled model; generate on the host and on the emulated boards", demo::main),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match verb(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn verb(args: &[String]) -> Result<()> {
    let Some((name, rest)) = args.split_first() else {
        usage();
        return Ok(());
    };
    match VERBS.iter().find(|(verb, ..)| verb == name) {
        Some((.., run)) => run(rest),
        None => {
            usage();
            bail!("no verb \"{name}\"")
        }
    }
}

fn usage() {
    for (name, args, what, _) in VERBS {
        eprintln!("cargo xtask {name} {args}\n    {what}");
    }
}
