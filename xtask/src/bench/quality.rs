//! What quantization costs, and how much of that is the integer arithmetic's.

use crate::shell::{output, run, say};
use crate::{digest, python, table};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of the text's end that are evaluated; the bundled model was not trained on them.
const TEXT_BYTES: usize = 60_000;
/// Positions of a window.
const CONTEXT: &str = "256";

/// What `mote quantize` is told.
const WEIGHTS: [&str; 4] = ["--bits 8", "--bits 4", "--bits 4 --head-bits 8", "--bits 4 --codebook uniform"];

/// The end of the stories, from the start of a line; `None` without the shared data.
fn text() -> Result<Option<PathBuf>> {
    let Some(stories) = table::shared("text/tinystories_head.txt")? else { return Ok(None) };
    let whole = std::fs::read_to_string(stories)?;
    let from = whole.len().saturating_sub(TEXT_BYTES);
    let line = whole.bytes().skip(from).position(|b| b == b'\n').map_or(from, |at| from + at + 1);
    let file = digest::folder()?.join("held-out.txt");
    std::fs::write(&file, &whole[line..])?;
    Ok(Some(file))
}

/// Runs it.
pub fn main(options: &[String]) -> Result<()> {
    super::no_options(options)?;
    let Some(text) = text()? else {
        say("skipped: there is no ../shared/data/text/tinystories_head.txt");
        return Ok(());
    };
    println!(
        "| model | weights | arithmetic | bits/weight | KL divergence, mean | median | 99 % | same top token | perplexity | float model's |"
    );
    println!("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (model, source, extra) in digest::models()? {
        for flags in WEIGHTS {
            let image = digest::folder()?.join(format!("{model}-quality.mote"));
            let mut quantize = digest::mote();
            quantize.arg("quantize").arg(&source).arg("-o").arg(&image).args(flags.split(' '));
            output(quantize.args(&extra))?;
            for arithmetic in ["float", "integer"] {
                let mut eval = digest::mote();
                eval.arg("eval").arg(&image).arg("--reference").arg(&source).arg("--text").arg(&text);
                eval.args(["--context", CONTEXT, "--json"]).args((arithmetic == "float").then_some("--float"));
                println!("| {model} | `{flags}` | {arithmetic} {}", row(&output(&mut eval)?)?);
            }
        }
    }
    peers(&text)
}

fn row(json: &str) -> Result<String> {
    let found: serde_json::Value = serde_json::from_str(json).context("mote eval --json")?;
    let number = |value: &serde_json::Value| value.as_f64().unwrap_or(f64::NAN);
    let kld = &found["kld"];
    Ok(format!(
        "| {:.3} | {:.6} | {:.6} | {:.5} | {:.2} % | {:.4} | {:.4} |",
        number(&found["bits_per_weight"]),
        number(&kld["mean"]),
        number(&kld["median"]),
        number(&kld["p99"]),
        100.0 * number(&found["top1_agreement"]),
        number(&found["perplexity"]),
        number(&found["reference_perplexity"]),
    ))
}

/// llama.cpp on the same model, text and windows, if it was set up.
fn peers(text: &Path) -> Result<()> {
    let python = python::venv()?.join("bin/python");
    let has = |module: &str| {
        Command::new(&python).args(["-c", &format!("import {module}")]).output().is_ok_and(|o| o.status.success())
    };
    if !has("llama_cpp") || !has("transformers") {
        say("llama.cpp is not measured: `cargo xtask setup --peers` first");
        return Ok(());
    }
    println!();
    let root = table::root()?;
    let mut script = Command::new(python);
    script.arg(root.join("tests/peers/llama_cpp.py")).arg(root.join("examples/models/llm")).arg("--text").arg(text);
    run(script.args(["--context", CONTEXT]))
}
