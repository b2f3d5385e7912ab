//! What quantizing loses, on several models and on copies of them with outlier channels: `mote` in integers and in floats, and
//! (quantize/bench/quality/peers.py) llama.cpp, rounding to nearest, AutoRound, GPTQ, AWQ, all on the same text after the same
//! calibration. A sentence encoder's embeddings are compared on sentences (embeddings.py).

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

/// Sentences that embeddings are compared on, spread over the text's second half; its first half calibrates.
const SENTENCES: usize = 128;
/// Bytes of the shortest line that is a sentence.
const SHORTEST: usize = 40;

/// Folders of `examples/models`, where they are there.
const MODELS: [&str; 3] = ["llm", "qwen3", "gpt"];

/// The sentence encoder's name.
const MINILM: &str = "minilm";

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

/// The same for sentences: lines of an encyclopaedia.
fn sentences() -> Result<Option<Texts>> {
    let Some(articles) = table::shared("text/wikitext2_test.txt")? else { return Ok(None) };
    let whole = std::fs::read_to_string(articles)?;
    let lines = whole.lines().map(str::trim).filter(|l| l.len() >= SHORTEST && !l.starts_with("= "));
    let lines: Vec<&str> = lines.collect();
    let (first, second) = lines.split_at(lines.len() / 2);
    let held_out: Vec<&str> = (0..SENTENCES).map(|i| second[i * second.len() / SENTENCES]).collect();
    let folder = digest::folder()?;
    let texts = Texts { calibration: folder.join("sentences.txt"), held_out: folder.join("held-out-sentences.txt") };
    std::fs::write(&texts.calibration, first.join("\n") + "\n")?;
    std::fs::write(&texts.held_out, held_out.join("\n") + "\n")?;
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
    match python::minilm(python) {
        Some(folder) => all.push((MINILM.into(), folder)),
        None => say("skipped: the environment has no all-MiniLM-L6-v2 (`cargo xtask setup --peers`)"),
    }
    Ok(all)
}

/// The rows of `mote` with `flags`, and how many parameters the model has.
fn ours(mote: &Path, model: &Path, texts: &Texts, flags: &str, o: &Options, embeds: bool) -> Result<(Vec<Value>, u64)> {
    let positions = o.positions.as_str();
    let image = digest::folder()?.join("quality.mote");
    let mut quantize = Command::new(mote);
    quantize.arg("quantize").arg(model).arg("-o").arg(&image).arg("--calibrate").arg(&texts.calibration);
    quantize.args(["--calibrate-tokens", CALIBRATION, "--json"]).args(flags.split(' '));
    let Used { stdout, seconds, peak_rss_bytes } = measured(&mut quantize)?;
    let summary: Value = serde_json::from_str(&stdout).context("mote quantize --json")?;
    let row = |arithmetic: &str| -> Result<Value> {
        let mut eval = Command::new(mote);
        eval.arg("eval").arg(&image).arg("--reference").arg(model).arg("--text").arg(&texts.held_out);
        if !embeds {
            eval.args(["--context", CONTEXT, "--max-tokens", positions]);
        }
        eval.arg("--json").args((arithmetic == "float").then_some("--float"));
        let found: Value = serde_json::from_str(&measured(&mut eval)?.stdout).context("mote eval --json")?;
        if embeds {
            let distance = &found["cosine_distance"];
            return Ok(json!({
                "quantizer": format!("mote {flags}"), "arithmetic": arithmetic, "bpw": found["bits_per_weight"],
                "cosine_distance_mean": distance["mean"], "cosine_distance_p99": distance["p99"],
                "cosine_distance_max": distance["max"], "spearman": found["spearman"],
                "neighbour_agreement": found["neighbour_agreement"], "texts": found["texts"],
                "seconds": seconds, "peak_rss_bytes": peak_rss_bytes,
            }));
        }
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

/// The columns between bits per weight and speed: a row's field, its digits, and what is above it. (Shares are in per cent.)
type Columns = [(&'static str, usize, &'static str)];

const LOGITS: [(&str, usize, &str); 5] = [
    ("kld_mean", 6, "KL divergence, mean"),
    ("kld_p99", 5, "99 %"),
    ("kld_max", 3, "largest"),
    ("perplexity", 4, "perplexity"),
    (TOP, 2, "same top token"),
];
const EMBEDDINGS: [(&str, usize, &str); 5] = [
    ("cosine_distance_mean", 6, "1 - cosine, mean"),
    ("cosine_distance_p99", 6, "99 %"),
    ("cosine_distance_max", 6, "largest"),
    ("spearman", 5, "Spearman of pairs"),
    (NEAREST, 2, "same nearest sentence"),
];
const TOP: &str = "top1_agreement";
const NEAREST: &str = "neighbour_agreement";

fn line(row: &Value, parameters: u64, columns: &Columns) -> String {
    let number = |name: &str| row[name].as_f64();
    let shown = |name: &str, digits: usize| number(name).map_or_else(String::new, |v| format!("{v:.digits$}"));
    let rate = number("seconds").map_or_else(String::new, |s| format!("{:.2}", parameters as f64 / s / 1e6));
    let peak = number("peak_rss_bytes").map_or_else(String::new, |b| format!("{:.0}", b / f64::from(1 << 20)));
    let cell = |(name, digits, _): &(&str, usize, &str)| match *name {
        TOP | NEAREST => format!("{:.digits$} %", 100.0 * number(name).unwrap_or(f64::NAN)),
        name => shown(name, *digits),
    };
    let cells: Vec<String> = columns.iter().map(cell).collect();
    format!(
        "| {} | {} | {} | {} | {rate} | {peak} |",
        row["quantizer"].as_str().unwrap_or_default(),
        row["arithmetic"].as_str().unwrap_or_default(),
        shown("bpw", 3),
        cells.join(" | "),
    )
}

/// One model's rows, by size, and what refused it; printed, too.
fn measure(name: &str, model: &Path, texts: &Texts, mote: &Path, python: Option<&Path>, o: &Options) -> Result<Value> {
    let (mut rows, mut refused, mut parameters) = (Vec::new(), Vec::new(), 0);
    let embeds = name == MINILM;
    let (peers_script, columns) = if embeds { ("embeddings.py", &EMBEDDINGS) } else { ("peers.py", &LOGITS) };
    let wanted = |quantizer: &str| o.only.as_ref().is_none_or(|text| quantizer.contains(text.as_str()));
    // An encoder has no head, and no logits to measure what a matrix costs by.
    let fits = |flags: &str| !embeds || !(flags.contains("head") || flags.contains("bpw"));
    for flags in WEIGHTS.iter().filter(|flags| fits(flags) && wanted(&format!("mote {flags}"))) {
        match ours(mote, model, texts, flags, o, embeds) {
            Ok((found, count)) => {
                rows.extend(found);
                parameters = count;
            }
            Err(why) => refused.push(json!({ "quantizer": format!("mote {flags}"), "why": format!("{why:#}") })),
        }
    }
    if let Some(python) = python.filter(|_| !o.only.as_ref().is_some_and(|text| text.starts_with("mote"))) {
        let json = digest::folder()?.join("quality-peers.json");
        let mut peers = script(python, peers_script)?;
        peers.arg(model).arg("--text").arg(&texts.held_out).arg("--calibrate").arg(&texts.calibration);
        peers.args(["--calibrate-tokens", CALIBRATION]);
        if !embeds {
            peers.args(["--context", CONTEXT, "--max-tokens", &o.positions]);
        }
        peers.args(o.only.iter().flat_map(|text| ["--only", text])).arg("--json").arg(&json);
        run(&mut peers)?;
        let found: Value =
            serde_json::from_str(&std::fs::read_to_string(json)?).with_context(|| format!("{peers_script} --json"))?;
        let list = |name: &str| found[name].as_array().cloned().unwrap_or_default();
        rows.extend(list("rows"));
        refused.extend(list("refused"));
        parameters = found["parameters"].as_u64().context("peers.py counts no parameters")?;
    }
    if rows.iter().any(|row| row["positions"] != rows[0]["positions"] || row["texts"] != rows[0]["texts"]) {
        bail!("{name}: not all rows are of the same positions or texts: {rows:?}");
    }
    rows.sort_by(|a, b| a["bpw"].as_f64().unwrap_or(0.0).total_cmp(&b["bpw"].as_f64().unwrap_or(0.0)));
    let float = rows.first().and_then(|row| row["reference_perplexity"].as_f64());
    let float = float.map_or_else(String::new, |perplexity| format!(", float perplexity {perplexity:.4}"));
    println!("`{name}` ({parameters} parameters{float}):\n");
    let heads: Vec<&str> = columns.iter().map(|(_, _, head)| *head).collect();
    println!("| quantizer | arithmetic | bits/weight | {} | quantizes, M parameters/s | peak MiB |", heads.join(" | "));
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    rows.iter().for_each(|row| println!("{}", line(row, parameters, columns)));
    for one in &refused {
        let [quantizer, why] = ["quantizer", "why"].map(|field| one[field].as_str().unwrap_or_default());
        println!("\n{quantizer} refused: {}", why.replace('\n', "; "));
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
    let (sentences, mut found) = (sentences()?, Vec::new());
    for (name, folder) in all.iter().filter(|(name, _)| o.models.as_ref().is_none_or(|names| names.contains(name))) {
        let texts = if name == MINILM { sentences.as_ref() } else { Some(&texts) };
        let Some(texts) = texts else {
            say("skipped: there is no ../shared/data/text/wikitext2_test.txt");
            continue;
        };
        found.push(measure(name, folder, texts, &mote, python.as_deref(), &o)?);
    }
    if let Some(file) = &o.json {
        std::fs::write(file, serde_json::to_string_pretty(&json!({ "models": found }))? + "\n")?;
    }
    Ok(())
}
