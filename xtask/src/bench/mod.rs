//! `bench`: the figures of BENCHMARKS.md, each by one command, as Markdown tables.

mod boards;
mod memory;
mod models;
mod nets;
mod open;
mod quality;
mod speed;

use anyhow::{Result, bail};
use std::path::Path;

type Bench = fn() -> Result<()>;

/// Name, what it measures, the function.
const BENCHES: [(&str, &str, Bench); 7] = [
    (
        "quality",
        "KL divergence and perplexity at 8 and 4 bits, in integers and in floats; llama.cpp's beside them",
        quality::main,
    ),
    ("boards", "instructions, memory and code size on every board", boards::main),
    ("memory", "peak memory of the quantizer for models of 2, 8 and 32 layers", memory::main),
    ("models", "real models beside LiteRT, TensorFlow Lite Micro, ONNX Runtime and PyTorch", || models::main(None)),
    ("nets", "accuracy of nets at 8 and 4 bits, as the runtime runs them", nets::main),
    ("open", "time and resident memory of opening images of 1 MB and 1 GB", open::main),
    ("speed", "tokens per second on this machine", speed::main),
];

/// Runs the verb: one bench, or all. `models --json FILE` writes its rows as JSON, too.
pub fn main(args: &[String]) -> Result<()> {
    let names: Vec<&str> = args.iter().map(String::as_str).collect();
    if let ["models", "--json", file] = names[..] {
        return models::main(Some(Path::new(file)));
    }
    let chosen: Vec<_> = BENCHES.iter().filter(|(name, ..)| names.is_empty() || names.contains(name)).collect();
    if let Some(name) = names.iter().find(|n| !BENCHES.iter().any(|(name, ..)| name == *n)) {
        let known: Vec<String> = BENCHES.iter().map(|(name, what, _)| format!("  {name}: {what}")).collect();
        bail!("no bench \"{name}\"; there are\n{}", known.join("\n"));
    }
    for (name, what, run) in chosen {
        println!("\n### `cargo xtask bench {name}`: {what}\n");
        run()?;
    }
    Ok(())
}
