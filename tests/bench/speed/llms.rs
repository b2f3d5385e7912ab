//! Language models of real shapes with random weights: tokens a second, time to open, memory.

use crate::machine::Limits;
use crate::plot::Point;
use crate::runner::{Runner, best, median, ratio};
use crate::settings::Settings;
use crate::{gguf, random_image};
use mote_quantize::import::LlmConfig;
use mote_runtime::image::Dtype;
use serde_json::json;
use std::path::Path;
use std::process::Command;

/// An image of ours.
pub struct Ours {
    /// What it is called in tables.
    pub who: &'static str,
    /// What its file's name ends with.
    ending: &'static str,
    codes: fn(&str) -> Dtype,
}

/// What language models are coded in by default, and what peers' 4 bits are compared with; the same without a trellis; and the image that
/// loses no more than Q4_0 of all matrices does (`cargo xtask bench quality`).
pub const OURS: [Ours; 3] = [
    Ours { who: "mote", ending: "T4", codes: |_| Dtype::T4 },
    Ours { who: "mote, codebook learned", ending: "N4", codes: |_| Dtype::N4 },
    Ours { who: "mote --bpw 3.5", ending: "3.5", codes: three_and_a_half },
];

/// About what `mote quantize --bpw 3.5` chooses for `llm`: 3 bits, and 4 for the embedding, which is the head, and for values and some keys.
fn three_and_a_half(name: &str) -> Dtype {
    let four = ["embed_tokens", "k_proj", "v_proj"].iter().any(|part| name.contains(part));
    if four { Dtype::T4 } else { Dtype::T3 }
}

/// Another runtime.
pub struct Peer {
    /// What it is called in tables.
    pub who: &'static str,
    format: &'static gguf::Format,
    rust: bool,
}

/// All of them; those that are not installed have no rows.
pub const PEERS: [Peer; 3] = [
    Peer { who: "llama.cpp Q4_0", format: &gguf::Q4_0, rust: false },
    Peer { who: "llama.cpp Q4_K", format: &gguf::Q4_K, rust: false },
    Peer { who: "candle Q4_0", format: &gguf::Q4_0, rust: true },
];

/// What is divided by what: ours, theirs, and the ratio's name in the JSON file. The last two are of as many bits, and of as little lost.
pub const RATIOS: [(&str, &str, &str); 4] = [
    (OURS[0].who, PEERS[1].who, "llamacpp_q4_k"),
    (OURS[0].who, PEERS[2].who, "candle_q4_0"),
    (OURS[0].who, PEERS[0].who, "llamacpp_q4_0"),
    (OURS[2].who, PEERS[0].who, "llamacpp_q4_0_at_its_quality"),
];

/// Shapes of SmolLM2-135M, Qwen2.5-0.5B and Llama-3.2-1B, each with its embedding as the head.
fn shape(name: &str) -> LlmConfig {
    match name {
        "135M" => random_image::llama(49152, 576, 1536, 30, (9, 3)),
        "0.5B" => LlmConfig { qkv_bias: true, ..random_image::llama(151_936, 896, 4864, 24, (14, 2)) },
        "1.2B" => random_image::llama(128_256, 2048, 8192, 16, (32, 8)),
        _ => panic!("no shape {name}: there are 135M, 0.5B and 1.2B"),
    }
}

/// Multiply-accumulates of one token, attention's left out.
fn macs(c: &LlmConfig) -> (f64, f64) {
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let layer = c.dim * (2 * q + 2 * kv + 3 * c.hidden);
    ((layer * c.layers) as f64, (c.vocab * c.dim) as f64)
}

/// What was measured of one runner; a number a round.
#[derive(Default)]
struct Seen {
    open: Vec<f64>,
    first: Vec<f64>,
    prompt: Vec<f64>,
    decode: Vec<f64>,
    /// GB a second that the machine could read right before decoding.
    bandwidth: Vec<f64>,
    /// Resident KiB in all, and without pages of files; bytes of weights and arena.
    memory: Vec<f64>,
}

/// Those who run one shape.
fn runners(name: &str, settings: &Settings, folder: &Path) -> Vec<(Runner, Seen)> {
    let config = shape(name);
    let images = OURS.map(|Ours { who, ending, codes }| {
        let image = folder.join(format!("{name}-{ending}.mote"));
        if !image.is_file() {
            random_image::write(&config, codes, &image);
        }
        (who, image)
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/llama_speed.py");
    let mut runners = Vec::new();
    for threads in &settings.threads {
        for (who, image) in &images {
            let mut ours = Command::new(std::env::current_exe().unwrap());
            ours.arg("serve").arg(image).arg(threads.to_string());
            runners.push((Runner::start(who, *threads, &mut ours), Seen::default()));
        }
        for peer in &PEERS {
            let Some(program) = (if peer.rust { &settings.rust_peers } else { &settings.python }) else { continue };
            let runner = match gguf_of(name, &config, peer.format, folder) {
                Err(why) => Runner::refused(peer.who, *threads, why),
                Ok(file) => {
                    let mut theirs = Command::new(program);
                    theirs
                        .arg(if peer.rust { Path::new("candle") } else { &script })
                        .arg(file)
                        .arg(threads.to_string());
                    // candle has no other way to be told.
                    theirs.env("RAYON_NUM_THREADS", threads.to_string()).env("CANDLE_NUM_THREADS", threads.to_string());
                    Runner::start(peer.who, *threads, &mut theirs)
                }
            };
            runners.push((runner, Seen::default()));
        }
    }
    runners
}

/// The file of a shape in this format, written if it is not there.
fn gguf_of(name: &str, c: &LlmConfig, format: &gguf::Format, folder: &Path) -> Result<std::path::PathBuf, String> {
    if let Some(width) = gguf::widths(c).into_iter().find(|w| w % format.block != 0) {
        return Err(format!("rows of {width} are no whole blocks of {}", format.block));
    }
    let file = folder.join(format!("{name}-{}.gguf", format.name));
    if !file.is_file() {
        gguf::write(c, format, &file).map_err(|why| format!("{}: {why}", file.display()))?;
    }
    Ok(file)
}

/// Measures one shape, prints its table, and adds its points to the plot.
pub fn measure(
    name: &str,
    settings: &Settings,
    folder: &Path,
    limits: &mut Limits,
    points: &mut Vec<Point>,
) -> serde_json::Value {
    let mut runners = runners(name, settings, folder);
    for round in 0..=settings.rounds {
        for (runner, seen) in &mut runners {
            limits.peak(runner.threads);
            let prompt = runner.ask(&format!("prompt {}", settings.prompt), 1);
            // Around what is measured: the memory's speed changes from one second to the next.
            let before = limits.bandwidth(runner.threads);
            let decode = runner.ask(&format!("decode {}", settings.decode), 1);
            let bandwidth = (before + limits.bandwidth(runner.threads)) / 2.0;
            let (Some(prompt), Some(decode)) = (prompt, decode) else { continue };
            // Round 0 warms up and is not counted.
            if round > 0 {
                seen.prompt.push(settings.prompt as f64 / prompt[0]);
                seen.decode.push(settings.decode as f64 / decode[0]);
                seen.bandwidth.push(bandwidth);
            }
            if round == settings.rounds {
                seen.memory = runner.ask("memory", 4).unwrap_or_default();
            }
        }
    }
    for (runner, seen) in &mut runners {
        for _ in 0..3 {
            let Some(times) = runner.ask("first 32", 2) else { break };
            seen.open.push(times[0]);
            seen.first.push(times[1]);
        }
    }
    report(name, settings, limits, &runners, points)
}

fn report(
    name: &str,
    settings: &Settings,
    limits: &Limits,
    runners: &[(Runner, Seen)],
    points: &mut Vec<Point>,
) -> serde_json::Value {
    let (layers, head) = macs(&shape(name));
    let (token_macs, prompt_macs) = ((layers + head) * 1e-9, (layers + head / settings.prompt as f64) * 1e-9);
    println!(
        "\n{name}: {} rounds, medians; prompt of {}, then {} tokens",
        settings.rounds, settings.prompt, settings.decode
    );
    println!(
        "| threads | | decode tok/s (best) | GB/s | of bandwidth | prompt tok/s (best) | of int8 peak | open ms | first token ms | resident MB | of that own |"
    );
    println!("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut by_threads = serde_json::Map::new();
    for threads in &settings.threads {
        let these = runners.iter().filter(|(r, _)| r.threads == *threads);
        let bandwidths: Vec<f64> = these.flat_map(|(_, seen)| seen.bandwidth.clone()).collect();
        // Reads go faster and slower from minute to minute, with what else the host does; multiplications do not.
        let (bandwidth, peak) = (median(&bandwidths), best(&limits.peak[threads]));
        let most = best(&bandwidths);
        println!("| {threads} | the machine | | {bandwidth:.1} ({most:.1}) | | | {peak:.0} GMAC/s | | | | |");
        let mut entry = serde_json::Map::new();
        for (Runner { who, refused, .. }, seen) in runners.iter().filter(|(r, _)| r.threads == *threads) {
            if let Some(why) = refused {
                println!("| {threads} | {who} | {why} | | | | | | | | |");
                entry.insert(who.clone(), json!({ "error": why }));
                continue;
            }
            let (decode, prompt) = (median(&seen.decode), median(&seen.prompt));
            let rate = decode * seen.memory[2] * 1e-9;
            let (open, first) = (median(&seen.open) * 1e3, median(&seen.first) * 1e3);
            let of_bandwidth = ratio(&seen.decode, &seen.bandwidth) * seen.memory[2] * 1e-9;
            let of_peak = prompt * prompt_macs / peak;
            println!(
                "| {threads} | {who} | {decode:.1} ({:.1}) | {rate:.1} | {:.0} % | {prompt:.1} ({:.1}) | {:.0} % | {open:.2} | {first:.0} | {:.0} | {:.0} |",
                best(&seen.decode),
                100.0 * of_bandwidth,
                best(&seen.prompt),
                100.0 * of_peak,
                seen.memory[0] * 1.024e-3,
                seen.memory[1] * 1.024e-3,
            );
            // A prompt moves the weights once for all of its tokens.
            for (decoding, tokens, macs, rate) in
                [(true, 1.0, token_macs, decode), (false, settings.prompt as f64, prompt_macs, prompt)]
            {
                let intensity = tokens * macs * 1e9 / seen.memory[2];
                let (who, shape) = (who.clone(), name.to_owned());
                points.push(Point { who, shape, threads: *threads, decoding, intensity, rate: rate * macs });
            }
            entry.insert(
                who.clone(),
                json!({
                    "decode_tokens_per_second": seen.decode, "prompt_tokens_per_second": seen.prompt,
                    "open_seconds": seen.open, "first_token_seconds": seen.first,
                    "decode_of_bandwidth": of_bandwidth, "prompt_of_int8_peak": of_peak,
                    "resident_kib": seen.memory[0], "own_kib": seen.memory[1],
                    "weight_bytes": seen.memory[2], "arena_bytes": seen.memory[3],
                }),
            );
        }
        let seen =
            |who: &str| runners.iter().find(|(r, _)| r.threads == *threads && r.who == who && r.refused.is_none());
        let mut ratios = serde_json::Map::new();
        for (whose, to, key) in RATIOS {
            let (Some((_, ours)), Some((_, theirs))) = (seen(whose), seen(to)) else { continue };
            let (decode, prompt) = (ratio(&ours.decode, &theirs.decode), ratio(&ours.prompt, &theirs.prompt));
            println!("| {threads} | {whose} to {to} | {decode:.2} | | | {prompt:.2} | | | | | |");
            ratios.insert(key.into(), json!({ "decode": decode, "prompt": prompt }));
        }
        entry.insert("ratios".into(), ratios.into());
        entry.insert("bandwidth_gb_per_second".into(), json!(bandwidth));
        entry.insert("int8_peak_gmac_per_second".into(), json!(peak));
        by_threads.insert(threads.to_string(), entry.into());
    }
    json!({ "prompt_tokens": settings.prompt, "decode_tokens": settings.decode,
        "gmac_per_token": token_macs, "gmac_per_prompt_token": prompt_macs, "threads": by_threads })
}
