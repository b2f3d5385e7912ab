//! Nets of real shapes: microseconds of an inference, beside other runtimes.
//!
//! `tests/peers/nets.py` writes each with random weights, of floats and of int8 with a scale for each channel; the same file is
//! run by all. XNNPACK is fed TensorFlow Lite files: those of the same topology in the shared data, which Mote runs, too.

use crate::machine::Limits;
use crate::runner::{Runner, best, median, ratio};
use crate::settings::Settings;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A net of the table.
pub struct Net {
    /// What `nets.py` calls it.
    pub name: &'static str,
    /// A TensorFlow Lite file of integers of the same topology, in the shared data.
    tflite: Option<&'static str>,
}

/// All of them.
pub const NETS: [Net; 5] = [
    Net { name: "dscnn_49x10", tflite: Some("mlperf-tiny/kws_int8.tflite") },
    Net { name: "resnet8_32", tflite: Some("mlperf-tiny/ic_resnet8_int8.tflite") },
    Net { name: "mobilenet_v1_0.25_96", tflite: None },
    Net { name: "mobilenet_v1_0.25_128", tflite: Some("vision/mobilenet_v1_0.25_128_quant.tflite") },
    Net { name: "mobilenet_v2_1.0_224", tflite: Some("vision/mobilenet_v2_1.0_224_quant.tflite") },
];

/// Seconds of inferences that a runner does in a row.
const TURN: f64 = 0.1;

/// Ours that ratios are of, and ours on TensorFlow Lite's file.
const OURS: &str = "mote int8";
const OURS_TFLITE: &str = "mote int8 tflite";
const XNNPACK: &str = "xnnpack int8 tflite";

/// Names of ratios, and which row each is to (the faster one of a runtime whose name ends with a space) of which row of ours: for
/// XNNPACK of the one that computes the same file.
const RATIOS: [(&str, &str, &str); 4] = [
    ("nets_vs_tract", "tract ", OURS),
    ("nets_vs_rten", "rten ", OURS),
    ("nets_vs_onnxruntime", "onnxruntime ", OURS),
    ("nets_vs_xnnpack", XNNPACK, OURS_TFLITE),
];

/// What was measured of a runner: microseconds of an inference, the median and the least of each round.
#[derive(Default)]
struct Seen {
    count: usize,
    median: Vec<f64>,
    least: Vec<f64>,
}

/// The image of a file, or what `mote quantize` says against it.
fn image(mote: &Path, source: &Path, image: PathBuf, options: &[&str]) -> Result<PathBuf, String> {
    if image.is_file() {
        return Ok(image);
    }
    let out = Command::new(mote).arg("quantize").arg(source).arg("-o").arg(&image).args(options).output();
    let out = out.map_err(|why| format!("{}: {why}", mote.display()))?;
    let said = String::from_utf8_lossy(&out.stderr);
    if out.status.success() { Ok(image) } else { Err(said.lines().last().unwrap_or("no reason given").to_owned()) }
}

/// Those who run a net.
fn runners(net: &Net, settings: &Settings, mote: &Path, folder: &Path) -> Vec<Runner> {
    let name = net.name;
    let file = |end: &str| folder.join(format!("{name}{end}"));
    let samples = file(".npy").display().to_string();
    let (float, int8) = (file(".onnx"), file(".int8.onnx"));
    let tflite = net.tflite.and_then(mote_tests::shared);
    let quantized = |bits: &str, to: &str| image(mote, &float, file(to), &["--bits", bits, "--calibrate", &samples]);
    let mut ours = vec![
        (OURS, image(mote, &int8, file("-int8.mote"), &[])),
        ("mote 8 bits", quantized("8", "-8.mote")),
        ("mote 4 bits", quantized("4", "-4.mote")),
    ];
    if let Some(tflite) = &tflite {
        ours.push((OURS_TFLITE, image(mote, tflite, file("-tflite.mote"), &[])));
    }
    let mut runners = Vec::new();
    for threads in &settings.threads {
        for (who, image) in &ours {
            runners.push(match image {
                Err(why) => Runner::refused(who, *threads, why.clone()),
                Ok(image) => {
                    let mut command = Command::new(std::env::current_exe().unwrap());
                    Runner::start(who, *threads, command.arg("serve-net").arg(image).arg(threads.to_string()))
                }
            });
        }
        let mut peer = |program: &Path, script: Option<&Path>, who: &str, weights: &str, model: &Path| {
            let mut command = Command::new(program);
            command.args(script).arg(who).arg(model).arg(threads.to_string());
            runners.push(Runner::start(&format!("{who} {weights}"), *threads, &mut command));
        };
        let script = peers().join("nets_speed.py");
        for (weights, model) in [("float", &float), ("int8", &int8)] {
            if let Some(program) = &settings.rust_peers {
                peer(program, None, "tract", weights, model);
                peer(program, None, "rten", weights, model);
            }
            if let Some(python) = &settings.python {
                peer(python, Some(&script), "onnxruntime", weights, model);
            }
        }
        if let (Some(python), Some(tflite)) = (&settings.python, &tflite) {
            peer(python, Some(&script), "xnnpack", "int8 tflite", tflite);
        }
    }
    runners
}

fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

/// Measures all, and prints their table.
pub fn measure(settings: &Settings, folder: &Path, limits: &mut Limits) -> Vec<Value> {
    let (Some(python), Some(mote)) = (&settings.python, &settings.mote) else {
        eprintln!("nets are not measured: they need --peer and --mote");
        return vec![];
    };
    let chosen: Vec<&Net> = NETS.iter().filter(|net| settings.nets.iter().any(|name| name == net.name)).collect();
    assert!(chosen.len() == settings.nets.len(), "nets are {}", NETS.map(|net| net.name).join(", "));
    let missing = chosen.iter().map(|n| n.name).filter(|name| !folder.join(format!("{name}.macs")).is_file());
    let missing: Vec<&str> = missing.collect();
    if !missing.is_empty() {
        let mut script = Command::new(python);
        script.arg(peers().join("nets.py")).arg(folder).args(missing);
        let out = script.output().expect("Python starts");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    if !chosen.is_empty() {
        println!("\nNets: {} rounds, medians of their medians\n", settings.rounds);
        println!("| net | threads | | us (best) | inferences/s | GMAC/s | of int8 peak |");
        println!("| --- | ---: | --- | ---: | ---: | ---: | ---: |");
    }
    chosen.into_iter().map(|net| measure_one(net, settings, mote, folder, limits)).collect()
}

fn measure_one(net: &Net, settings: &Settings, mote: &Path, folder: &Path, limits: &mut Limits) -> Value {
    let name = net.name;
    let macs = std::fs::read_to_string(folder.join(format!("{name}.macs"))).expect("multiply-accumulates");
    let macs: f64 = macs.trim().parse().expect("a number");
    let mut runners: Vec<(Runner, Seen)> =
        runners(net, settings, mote, folder).into_iter().map(|r| (r, Seen::default())).collect();
    for round in 0..=settings.rounds {
        settings.threads.iter().for_each(|threads| limits.peak(*threads));
        for (runner, seen) in &mut runners {
            // Round 0 warms up, and tells how many fill a turn.
            let count = if round == 0 { 3 } else { seen.count };
            let Some(times) = runner.ask(&format!("run {count}"), count) else { continue };
            let least = times.iter().copied().fold(f64::INFINITY, f64::min);
            if round == 0 {
                seen.count = ((TURN / least) as usize).clamp(3, 3000);
            } else {
                seen.median.push(median(&times) * 1e6);
                seen.least.push(least * 1e6);
            }
        }
    }
    let mut rows = Vec::new();
    for (runner, seen) in &runners {
        let Runner { who, threads, refused, .. } = runner;
        if let Some(why) = refused {
            println!("| {name} | {threads} | {who} | {why} | | | |");
            rows.push(json!({ "runner": who, "threads": threads, "error": why }));
            continue;
        }
        let (middle, least) = (median(&seen.median), seen.least.iter().copied().fold(f64::INFINITY, f64::min));
        let peak = best(&limits.peak[threads]);
        let rate = macs * 1e-3 / middle;
        println!(
            "| {name} | {threads} | {who} | {middle:.1} ({least:.1}) | {:.0} | {rate:.1} | {:.1} % |",
            1e6 / middle,
            100.0 * rate / peak
        );
        rows.push(json!({
            "runner": who, "threads": threads, "microseconds_median": middle, "microseconds_best": least,
            "microseconds": seen.median, "inferences_per_second": 1e6 / middle, "gmac_per_second": rate,
            "of_int8_peak": rate / peak,
        }));
    }
    let mut by_threads = Map::new();
    for threads in &settings.threads {
        // The fastest of those with this name, or of one runtime.
        let fastest = |name: &str| {
            let named = |who: &str| who == name || name.ends_with(' ') && who.starts_with(name);
            let fits = |(r, _): &&(Runner, Seen)| r.threads == *threads && r.refused.is_none() && named(&r.who);
            runners.iter().filter(fits).min_by(|(_, a), (_, b)| median(&a.median).total_cmp(&median(&b.median)))
        };
        let mut ratios = Map::new();
        for (key, theirs, ours) in RATIOS {
            let (Some((_, ours)), Some((who, theirs))) = (fastest(ours), fastest(theirs)) else { continue };
            let times = ratio(&theirs.median, &ours.median);
            println!("| {name} | {threads} | ratio to {} | {times:.3} | | | |", who.who);
            ratios.insert(key.into(), json!(times));
        }
        by_threads.insert(threads.to_string(), ratios.into());
    }
    json!({ "model": name, "macs": macs, "rows": rows, "ratios": by_threads })
}

/// How many times as fast as each peer's faster row ours is, by net, on one thread: what is said of the whole run.
pub fn ratios(nets: &[Value]) -> Map<String, Value> {
    let of = |key: &str| {
        let each = nets.iter().filter_map(|net| {
            let ratio = net["ratios"]["1"].get(key)?;
            Some((net["model"].as_str()?.to_owned(), ratio.clone()))
        });
        each.collect::<Map<_, _>>()
    };
    RATIOS.iter().map(|(key, ..)| ((*key).to_owned(), of(key).into())).collect()
}
