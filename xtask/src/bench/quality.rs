//! What quantization costs, beside other quantizers at their own bits per weight, on the models as they are and on copies of them
//! with the outlier channels that large models have.

use crate::shell::{output, run, say};
use crate::{digest, python, table};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of the text's end that are evaluated; the bundled models were not trained on them.
const TEXT_BYTES: usize = 60_000;
/// Bytes of its beginning that everything is calibrated with: 16384 tokens of it are used.
const CALIBRATION_BYTES: usize = 250_000;
/// Positions of a window.
const CONTEXT: &str = "256";

/// What `mote quantize` is told.
const WEIGHTS: [&str; 9] = [
    "--bits 4",
    "--bpw 4.5",
    "--bits 4 --head-bits 5",
    "--bits 4 --head-bits 8",
    "--bits 5",
    "--bits 8",
    "--bits 4 --codebook uniform",
    "--bits 4 --method weighted --no-balance",
    "--bits 4 --method nearest --no-balance",
];

/// Bundled language models; each has a copy with outliers, too.
const MODELS: [&str; 3] = ["llm", "qwen3", "gpt"];

struct Texts {
    held_out: PathBuf,
    calibration: PathBuf,
}

/// The end of the stories, from the start of a line, and their beginning; `None` without the shared data.
fn texts() -> Result<Option<Texts>> {
    let Some(stories) = table::shared("text/tinystories_head.txt")? else { return Ok(None) };
    let whole = std::fs::read_to_string(stories)?;
    let from = whole.len().saturating_sub(TEXT_BYTES);
    let line = whole.bytes().skip(from).position(|b| b == b'\n').map_or(from, |at| from + at + 1);
    let end = whole.bytes().take(CALIBRATION_BYTES).rposition(|b| b == b'\n').unwrap_or(0);
    let folder = digest::folder()?;
    let texts = Texts { held_out: folder.join("held-out.txt"), calibration: folder.join("calibration.txt") };
    std::fs::write(&texts.held_out, &whole[line..])?;
    std::fs::write(&texts.calibration, &whole[..end])?;
    Ok(Some(texts))
}

/// Runs it.
pub fn main(options: &[String]) -> Result<()> {
    let (mut file, mut only) = (None, None);
    for pair in options.chunks(2) {
        match pair {
            [name, value] if name == "--json" => file = Some(PathBuf::from(value)),
            [name, value] if name == "--models" => only = Some(value.split(',').map(str::to_owned).collect::<Vec<_>>()),
            other => bail!("--json FILE and --models A,B are the options, not {}", other.join(" ")),
        }
    }
    let Some(texts) = texts()? else {
        say("skipped: there is no ../shared/data/text/tinystories_head.txt");
        return Ok(());
    };
    let python = peers_python()?;
    let mut models: Vec<(String, PathBuf, Vec<PathBuf>)> = Vec::new();
    for name in MODELS {
        let source = table::root()?.join("examples/models").join(name);
        models.push((name.into(), source.clone(), vec![]));
        if python.is_some() {
            let copy = digest::folder()?.join(format!("{name}-outliers"));
            models.push((format!("{name} with outliers"), copy, vec![]));
        }
    }
    models.extend(
        digest::models()?.into_iter().filter(|(name, ..)| !MODELS.contains(name)).map(|(n, s, e)| (n.into(), s, e)),
    );
    let wanted = |name: &str| only.as_ref().is_none_or(|only| only.iter().any(|o| o == name));
    let mut found = Vec::new();
    for (name, source, extra) in models.into_iter().filter(|(name, ..)| wanted(name)) {
        if let (Some(python), Some(plain)) = (&python, name.strip_suffix(" with outliers")) {
            let plain = table::root()?.join("examples/models").join(plain);
            run(Command::new(python).arg(script("outliers.py")?).arg(plain).arg(&source))?;
        }
        let mut rows = ours(&name, &source, &extra, &texts)?;
        match &python {
            Some(python) if source.is_dir() => rows.extend(peers(python, &source, &texts)?),
            _ => {}
        }
        print_table(&name, &rows);
        found.push(json!({ "model": name, "rows": rows }));
    }
    if let Some(file) = file {
        std::fs::write(&file, serde_json::to_string_pretty(&json!({ "models": found }))? + "\n")?;
        say(&format!("written: {}", file.display()));
    }
    Ok(())
}

fn script(name: &str) -> Result<PathBuf> {
    Ok(table::root()?.join("quantize/bench/quality").join(name))
}

/// The peers' Python, if they were set up.
fn peers_python() -> Result<Option<PathBuf>> {
    let python = python::venv()?.join("bin/python");
    if python::imports(&python, "llama_cpp") && python::imports(&python, "transformers") {
        return Ok(Some(python));
    }
    say("others are not measured, nor copies with outliers: `cargo xtask setup --peers` first");
    Ok(None)
}

/// A row for each way of quantizing and each arithmetic.
fn ours(name: &str, source: &Path, extra: &[PathBuf], texts: &Texts) -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    for flags in WEIGHTS {
        say(&format!("{name}: mote {flags}"));
        let image = digest::folder()?.join("quality.mote");
        let mut quantize = digest::mote();
        quantize.arg("quantize").arg(source).arg("-o").arg(&image).args(flags.split(' ')).args(extra);
        let made = output(quantize.args(["--json", "--calibrate"]).arg(&texts.calibration));
        let Ok(made) = made else {
            say(&format!("{name}: `mote quantize {flags}` is refused"));
            continue;
        };
        let made: Value = serde_json::from_str(&made).context("mote quantize --json")?;
        for arithmetic in ["integer", "float"] {
            let mut eval = digest::mote();
            eval.arg("eval").arg(&image).arg("--reference").arg(source).arg("--text").arg(&texts.held_out);
            eval.args(["--context", CONTEXT, "--json"]).args((arithmetic == "float").then_some("--float"));
            let seen: Value = serde_json::from_str(&output(&mut eval)?).context("mote eval --json")?;
            let in_floats = if arithmetic == "float" { ", in floats" } else { "" };
            rows.push(json!({
                "quantizer": format!("mote {flags}{in_floats}"),
                "arithmetic": arithmetic,
                "bpw": seen["bits_per_weight"],
                "kld_mean": seen["kld"]["mean"],
                "kld_p99": seen["kld"]["p99"],
                "kld_max": seen["kld"]["max"],
                "perplexity": seen["perplexity"],
                "reference_perplexity": seen["reference_perplexity"],
                "top1_agreement": seen["top1_agreement"],
                "seconds": made["seconds"],
            }));
        }
    }
    Ok(rows)
}

/// The others' rows.
fn peers(python: &Path, source: &Path, texts: &Texts) -> Result<Vec<Value>> {
    let mut command = Command::new(python);
    command.arg(script("peers.py")?).arg(source).arg("--text").arg(&texts.held_out);
    command.arg("--calibrate").arg(&texts.calibration).args(["--context", CONTEXT]);
    let found: Value = serde_json::from_str(&output(&mut command)?).context("peers.py")?;
    Ok(found["rows"].as_array().cloned().unwrap_or_default())
}

fn print_table(model: &str, rows: &[Value]) {
    println!("\n`{model}`:\n");
    println!(
        "| quantizer | bits/weight | KL divergence, mean | 99 % | largest | perplexity (float) | same top token | seconds |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for row in rows {
        let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        println!(
            "| {} | {:.3} | {:.6} | {:.4} | {:.3} | {:.4} ({:.4}) | {:.2} % | {:.1} |",
            row["quantizer"].as_str().unwrap_or_default(),
            number("bpw"),
            number("kld_mean"),
            number("kld_p99"),
            number("kld_max"),
            number("perplexity"),
            number("reference_perplexity"),
            100.0 * number("top1_agreement"),
            number("seconds"),
        );
    }
}
