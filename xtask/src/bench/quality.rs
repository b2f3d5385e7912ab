//! What quantizing loses, on several models and on copies of them with outlier channels: `mote` in integers and in floats, and
//! (quantize/bench/quality/peers.py) llama.cpp, rounding to nearest, AutoRound, all on the same text after the same calibration.

use crate::shell::{Used, cargo, measured, output, run, say};
use crate::{digest, python, table};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of the text's end that are evaluated; what comes before calibrates. No bundled model was trained on them.
const TEXT_BYTES: usize = 60_000;
/// Positions of a window.
const CONTEXT: &str = "256";
/// Positions that are compared, unless `--max-tokens` says otherwise.
const POSITIONS: &str = "8192";
/// Tokens to calibrate with: 64 windows.
const CALIBRATION: &str = "16384";

/// What `mote quantize` is told: a row in integers and one in floats for each.
const WEIGHTS: [&str; 9] = [
    "--bits 4",
    "--bpw 4.5",
    "--bpw 3.5",
    "--bits 4 --head-bits 5",
    "--bits 4 --head-bits 8",
    "--bits 5",
    "--bits 8",
    "--bits 4 --codebook learned",
    "--bits 4 --method nearest --no-balance",
];

/// Folders of `examples/models`, where they are there.
const MODELS: [&str; 3] = ["llm", "qwen3", "gpt"];

/// What the name of a copy with outliers ends with.
const OUTLIERS: &str = "outliers";

struct Options {
    json: Option<PathBuf>,
    models: Option<Vec<String>>,
    only: Option<String>,
    positions: String,
}

fn options(given: &[String]) -> Result<Options> {
    let mut options = Options { json: None, models: None, only: None, positions: POSITIONS.into() };
    for pair in given.chunks(2) {
        match pair {
            [name, value] if name == "--json" => options.json = Some(value.into()),
            [name, value] if name == "--models" => {
                options.models = Some(value.split(',').map(str::to_owned).collect());
            }
            [name, value] if name == "--only" => options.only = Some(value.clone()),
            [name, value] if name == "--max-tokens" => options.positions.clone_from(value),
            _ => bail!(
                "{}: the options are --json FILE, --models A,B (such as llm,llm-{OUTLIERS}), --only TEXT (in a quantizer's \
                 name, as \"mote\" or \"llama.cpp Q4\") and --max-tokens N",
                pair.join(" ")
            ),
        }
    }
    Ok(options)
}

/// The text that calibrates and the one that is evaluated: the stories, cut at the start of a line.
struct Texts {
    calibration: PathBuf,
    held_out: PathBuf,
}

fn texts() -> Result<Option<Texts>> {
    let Some(stories) = table::shared("text/tinystories_head.txt")? else { return Ok(None) };
    let whole = std::fs::read_to_string(stories)?;
    let from = whole.len().saturating_sub(TEXT_BYTES);
    let line = whole.bytes().skip(from).position(|b| b == b'\n').map_or(from, |at| from + at + 1);
    let folder = digest::folder()?;
    let texts = Texts { calibration: folder.join("calibration.txt"), held_out: folder.join("held-out.txt") };
    std::fs::write(&texts.calibration, &whole[..line])?;
    std::fs::write(&texts.held_out, &whole[line..])?;
    Ok(Some(texts))
}

/// The environment of `cargo xtask setup --peers`, if it has what peers.py needs.
fn peers_python() -> Result<Option<PathBuf>> {
    let python = python::venv()?.join("bin/python");
    let has = ["llama_cpp", "gguf", "transformers"].iter().all(|module| python::imports(&python, module));
    Ok(has.then_some(python))
}

fn script(python: &Path, name: &str) -> Result<Command> {
    let mut command = Command::new(python);
    command.arg(table::root()?.join("quantize/bench/quality").join(name));
    Ok(command)
}

/// Name and Hugging Face folder of each model. Copies and conversions need Python.
fn models(python: Option<&Path>) -> Result<Vec<(String, PathBuf)>> {
    let bundled = table::root()?.join("examples/models");
    let mut models: Vec<(String, PathBuf)> = MODELS.iter().map(|name| ((*name).into(), bundled.join(name))).collect();
    models.retain(|(_, folder)| folder.join("config.json").is_file());
    let Some(python) = python else { return Ok(models) };
    let made = digest::folder()?;
    match (table::shared("llm/stories260K.bin")?, table::shared("llm/tok512.bin")?) {
        (Some(model), Some(tokens)) => {
            let folder = made.join("stories260K-float");
            run(script(python, "llama2c.py")?.arg(model).arg(tokens).arg(&folder))?;
            models.push(("stories260K".into(), folder));
        }
        _ => say("skipped: there is no ../shared/data/llm/stories260K.bin"),
    }
    let mut all = Vec::new();
    for (name, folder) in models {
        let copy = made.join(format!("{name}-{OUTLIERS}"));
        output(script(python, "outliers.py")?.arg(&folder).arg(&copy))?;
        all.extend([(name.clone(), folder), (format!("{name}-{OUTLIERS}"), copy)]);
    }
    Ok(all)
}

/// The rows of `mote` with `flags`, and how many parameters the model has.
fn ours(mote: &Path, model: &Path, texts: &Texts, flags: &str, positions: &str) -> Result<(Vec<Value>, u64)> {
    let image = digest::folder()?.join("quality.mote");
    let mut quantize = Command::new(mote);
    quantize.arg("quantize").arg(model).arg("-o").arg(&image).arg("--calibrate").arg(&texts.calibration);
    quantize.args(["--calibrate-tokens", CALIBRATION, "--json"]).args(flags.split(' '));
    let Used { stdout, seconds, peak_rss_bytes } = measured(&mut quantize)?;
    let summary: Value = serde_json::from_str(&stdout).context("mote quantize --json")?;
    let row = |arithmetic: &str| -> Result<Value> {
        let mut eval = Command::new(mote);
        eval.arg("eval").arg(&image).arg("--reference").arg(model).arg("--text").arg(&texts.held_out);
        eval.args(["--context", CONTEXT, "--max-tokens", positions, "--json"]);
        eval.args((arithmetic == "float").then_some("--float"));
        let found: Value = serde_json::from_str(&output(&mut eval)?).context("mote eval --json")?;
        let kld = &found["kld"];
        Ok(json!({
            "quantizer": format!("mote {flags}"), "arithmetic": arithmetic, "bpw": found["bits_per_weight"],
            "kld_mean": kld["mean"], "kld_p99": kld["p99"], "kld_max": kld["max"],
            "perplexity": found["perplexity"], "reference_perplexity": found["reference_perplexity"],
            "top1_agreement": found["top1_agreement"], "positions": found["positions"],
            "seconds": seconds, "peak_rss_bytes": peak_rss_bytes,
        }))
    };
    let rows: Result<Vec<Value>> = std::thread::scope(|scope| {
        let started = ["integer", "float"].map(|arithmetic| scope.spawn(move || row(arithmetic)));
        started.into_iter().map(|row| row.join().unwrap_or_else(|_| bail!("mote eval's thread"))).collect()
    });
    Ok((rows?, summary["parameters"].as_u64().unwrap_or(0)))
}

fn line(row: &Value, parameters: u64) -> String {
    let number = |name: &str| row[name].as_f64();
    let shown = |name: &str, digits: usize| number(name).map_or_else(String::new, |v| format!("{v:.digits$}"));
    let rate = number("seconds").map_or_else(String::new, |s| format!("{:.2}", parameters as f64 / s / 1e6));
    let peak = number("peak_rss_bytes").map_or_else(String::new, |b| format!("{:.0}", b / f64::from(1 << 20)));
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {:.2} % | {rate} | {peak} |",
        row["quantizer"].as_str().unwrap_or_default(),
        row["arithmetic"].as_str().unwrap_or_default(),
        shown("bpw", 3),
        shown("kld_mean", 6),
        shown("kld_p99", 5),
        shown("kld_max", 3),
        shown("perplexity", 4),
        100.0 * number("top1_agreement").unwrap_or(f64::NAN),
    )
}

/// One model's rows, by size, and what refused it; printed, too.
fn measure(name: &str, model: &Path, texts: &Texts, mote: &Path, python: Option<&Path>, o: &Options) -> Result<Value> {
    let (mut rows, mut refused, mut parameters) = (Vec::new(), Vec::new(), 0);
    let wanted = |quantizer: &str| o.only.as_ref().is_none_or(|text| quantizer.contains(text.as_str()));
    for flags in WEIGHTS.iter().filter(|flags| wanted(&format!("mote {flags}"))) {
        match ours(mote, model, texts, flags, &o.positions) {
            Ok((found, count)) => {
                rows.extend(found);
                parameters = count;
            }
            Err(why) => refused.push(json!({ "quantizer": format!("mote {flags}"), "why": format!("{why:#}") })),
        }
    }
    if let Some(python) = python.filter(|_| !o.only.as_ref().is_some_and(|text| text.starts_with("mote"))) {
        let json = digest::folder()?.join("quality-peers.json");
        let mut peers = script(python, "peers.py")?;
        peers.arg(model).arg("--text").arg(&texts.held_out).arg("--calibrate").arg(&texts.calibration);
        peers.args(["--calibrate-tokens", CALIBRATION, "--context", CONTEXT, "--max-tokens", &o.positions]);
        peers.args(o.only.iter().flat_map(|text| ["--only", text])).arg("--json").arg(&json);
        run(&mut peers)?;
        let found: Value = serde_json::from_str(&std::fs::read_to_string(json)?).context("peers.py --json")?;
        let list = |name: &str| found[name].as_array().cloned().unwrap_or_default();
        rows.extend(list("rows"));
        refused.extend(list("refused"));
        parameters = found["parameters"].as_u64().context("peers.py counts no parameters")?;
    }
    if rows.iter().any(|row| row["positions"] != rows[0]["positions"]) {
        bail!("{name}: not all rows are of the same positions: {rows:?}");
    }
    rows.sort_by(|a, b| a["bpw"].as_f64().unwrap_or(0.0).total_cmp(&b["bpw"].as_f64().unwrap_or(0.0)));
    let perplexity = rows.first().and_then(|row| row["reference_perplexity"].as_f64()).unwrap_or(f64::NAN);
    println!("`{name}` ({parameters} parameters, float perplexity {perplexity:.4}):\n");
    println!(
        "| quantizer | arithmetic | bits/weight | KL divergence, mean | 99 % | largest | perplexity | same top token | quantizes, M parameters/s | peak MiB |"
    );
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    rows.iter().for_each(|row| println!("{}", line(row, parameters)));
    for one in &refused {
        println!("\n{} refused: {}", one["quantizer"].as_str().unwrap_or_default(), one["why"]);
    }
    println!();
    Ok(json!({ "model": name, "parameters": parameters, "rows": rows, "refused": refused }))
}

/// Runs it.
pub fn main(given: &[String]) -> Result<()> {
    let o = options(given)?;
    let Some(texts) = texts()? else {
        say("skipped: there is no ../shared/data/text/tinystories_head.txt");
        return Ok(());
    };
    let python = peers_python()?;
    if python.is_none() {
        say(
            "only mote is measured, without copies with outliers and without stories260K: `cargo xtask setup --peers` first",
        );
    }
    run(cargo().args(["build", "--quiet", "--release", "--package", "mote-quantize", "--bin", "mote"]))?;
    let mote = digest::target_dir()?.join("release/mote");
    let all = models(python.as_deref())?;
    if let Some(name) = o.models.iter().flatten().find(|name| !all.iter().any(|(known, _)| known == *name)) {
        bail!(
            "no model \"{name}\"; there are {}",
            all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
        );
    }
    let mut found = Vec::new();
    for (name, folder) in all.iter().filter(|(name, _)| o.models.as_ref().is_none_or(|names| names.contains(name))) {
        found.push(measure(name, folder, &texts, &mote, python.as_deref(), &o)?);
    }
    if let Some(file) = &o.json {
        std::fs::write(file, serde_json::to_string_pretty(&json!({ "models": found }))? + "\n")?;
    }
    Ok(())
}
