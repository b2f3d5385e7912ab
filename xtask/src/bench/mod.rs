//! `bench`: the figures of BENCHMARKS.md, each by one command, as Markdown tables. Without a name: speed.

mod aarch64;
mod boards;
mod memory;
mod models;
mod nets;
mod open;
mod quality;
mod riscv64;
mod speed;
mod web;

use anyhow::{Result, bail};

type Bench = fn(&[String]) -> Result<()>;

/// Name, what it measures, the function.
const BENCHES: &[(&str, &str, Bench)] = &[
    (
        "aarch64",
        "aarch64's hot loops, instructions and cycles by LLVM's models, beside llama.cpp's; [--kleidiai DIR]",
        aarch64::main,
    ),
    (
        "quality",
        "KL divergence and perplexity by bits per weight, in integers and in floats; llama.cpp and others beside them",
        quality::main,
    ),
    ("boards", "instructions, memory and code size on every board", boards::main),
    ("memory", "peak memory of the quantizer for models of 2, 8 and 32 layers", memory::main),
    ("models", "real models beside LiteRT, TensorFlow Lite Micro, ONNX Runtime and PyTorch", models::main),
    ("nets", "accuracy of nets at 8 and 4 bits, as the runtime runs them", nets::main),
    ("open", "time and resident memory of opening images of 1 MB and 1 GB", open::main),
    ("riscv64", "instructions of riscv64's kernels per product, with vectors and without", riscv64::main),
    (
        "speed",
        "language models of 135M to 1.2B parameters and nets beside other runtimes and the machine's limits",
        speed::main,
    ),
    ("web", "the bundled model in Chromium, in each build of WebAssembly, beside wllama", web::main),
];

/// A bench without options.
fn no_options(options: &[String]) -> Result<()> {
    if options.is_empty() {
        Ok(())
    } else {
        bail!("only `aarch64`, `speed`, `models` and `quality` have options, not {}", options.join(" "))
    }
}

/// What runs if none is named.
const DEFAULT: &str = "speed";

/// Runs the verb: the benches that are named, or with `all` every one (about an hour). What follows from the first `--` on are
/// options of each.
pub fn main(args: &[String]) -> Result<()> {
    let (names, options) = args.split_at(args.iter().position(|a| a.starts_with("--")).unwrap_or(args.len()));
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    match names[..] {
        [] => names.push(DEFAULT),
        ["all"] => names = BENCHES.iter().map(|(name, ..)| *name).collect(),
        _ => {}
    }
    let chosen: Vec<_> = BENCHES.iter().filter(|(name, ..)| names.contains(name)).collect();
    if let Some(name) = names.iter().find(|n| !BENCHES.iter().any(|(name, ..)| name == *n)) {
        let known: Vec<String> = BENCHES.iter().map(|(name, what, _)| format!("  {name}: {what}")).collect();
        bail!("no bench \"{name}\"; there are \"all\" and\n{}", known.join("\n"));
    }
    for (name, what, run) in chosen {
        println!("\n### `cargo xtask bench {name}`: {what}\n");
        run(options)?;
    }
    Ok(())
}
