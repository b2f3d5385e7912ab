//! Tokens a second of random-weight language models of real shapes, and microseconds of nets, beside other runtimes and the
//! machine's own limits: all of it interleaved, round after round, so that a drift of the machine meets everything alike.
//!
//! ```text
//! bench-speed [--shapes 135M,0.5B,1.2B] [--threads 1,2] [--rounds 5] [--prompt 128] [--decode 16] [--json FILE]
//!             [--nets dscnn_49x10,..]  the names are in nets.rs; "none" leaves shapes or nets out
//!             [--plot FILE.svg]        a roofline: the machine's limits, language models under them
//!             [--peer PYTHON]          a Python that has llama_cpp, onnxruntime and ai_edge_litert, to be measured beside
//!             [--rust-peers PROGRAM]   what tests/peers is built to: candle, tract, rten
//!             [--mote PROGRAM]         the quantizer, without which there are no nets
//!             [--keep FOLDER]          where models are kept from one run to the next; else a temporary folder here
//! ```

mod answer;
mod gguf;
mod llms;
mod machine;
mod nets;
mod plot;
#[path = "../random_image.rs"]
mod random_image;
mod runner;
mod serve;
mod settings;

use machine::Limits;
use serde_json::{Map, Value, json};
use settings::Settings;
use std::path::Path;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [what @ ("serve" | "serve-net"), image, threads] = args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        let serve = if what == "serve" { serve::language_model } else { serve::net };
        return serve(Path::new(image), threads.parse().expect("threads"));
    }
    let settings = Settings::read(&args);
    let temporary = tempfile::tempdir_in(".").expect("a folder here");
    let folder = settings.keep.clone().unwrap_or(temporary.path().to_owned());
    std::fs::create_dir_all(&folder).unwrap();
    let mut limits = Limits::new(&settings.threads);
    let (kernels, hand_off) = (mote_runtime::kernels::select().name, machine::hand_off());
    let peak = machine::int8_peak(1).map_or("unknown", |(_, name)| name);
    println!("Kernels {kernels}; int8 peak by {peak}; a job for two threads costs {hand_off:.2} us.");
    let (mut shapes, mut points) = (Map::new(), Vec::new());
    for name in &settings.shapes {
        let result = llms::measure(name, &settings, &folder, &mut limits, &mut points);
        shapes.insert(name.clone(), result);
    }
    if let Some(path) = &settings.plot {
        std::fs::write(path, plot::svg(&points, &limits, &settings.threads)).expect("--plot");
    }
    let nets = nets::measure(&settings, &folder, &mut limits);
    let mut ratios = Map::new();
    for (_, _, key) in llms::RATIOS {
        for what in ["decode", "prompt"] {
            let ratio = shapes.get("1.2B").map(|shape| shape["threads"]["2"]["ratios"][key][what].clone());
            ratios.insert(format!("{what}_vs_{key}"), ratio.unwrap_or(Value::Null));
        }
    }
    ratios.extend(nets::ratios(&nets));
    let all = json!({
        "kernels": kernels,
        "hand_off_microseconds": hand_off,
        "ratios": ratios,
        "shapes": shapes,
        "nets": nets,
    });
    if let Some(path) = &settings.json {
        std::fs::write(path, format!("{all:#}\n")).expect("--json");
    }
}
