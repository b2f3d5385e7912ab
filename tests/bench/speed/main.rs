//! Tokens per second for random-weight models of real shapes, beside llama.cpp's Q4_0 and the machine's own limits: all of it
//! interleaved, round after round, so that a drift of the machine meets everything alike.
//!
//! ```text
//! bench-speed [--shapes 135M,0.5B,1.2B] [--threads 1,2] [--rounds 5] [--prompt 128] [--decode 16] [--json FILE]
//!             [--peer PYTHON]     a Python that has llama_cpp, to be measured beside
//!             [--keep FOLDER]     where models are kept from one run to the next; else a temporary folder here
//! ```

mod gguf;
mod machine;
#[path = "../random_image.rs"]
mod random_image;
mod serve;

use mote_quantize::import::LlmConfig;
use mote_runtime::image::Dtype;
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Ours, and what their 4-bit codes are: that which language models are coded in, and what ratios are of; that without a trellis.
const OURS: [(&str, Dtype); 2] = [("mote", Dtype::T4), ("mote, codebook learned", Dtype::N4)];
const PEER: &str = "llama.cpp Q4_0";

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

/// A process that is asked and answers, one line each.
struct Server {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Server {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the server starts");
        let (to, from) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, to, from }
    }

    fn ask(&mut self, question: &str) -> Vec<f64> {
        writeln!(self.to.as_mut().unwrap(), "{question}").unwrap();
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the server of {question:?} has ended");
        line.split_whitespace().map(|word| word.parse().unwrap()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.to.take()); // the end of its input ends it
        let _ = self.child.wait();
    }
}

/// What was measured of one runner on so many threads; a number a round.
#[derive(Default)]
struct Seen {
    open: Vec<f64>,
    first: Vec<f64>,
    prompt: Vec<f64>,
    decode: Vec<f64>,
    /// Resident KiB in all, and without pages of files; bytes of weights and arena.
    memory: Vec<f64>,
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn best(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::max)
}

struct Settings {
    shapes: Vec<String>,
    threads: Vec<usize>,
    rounds: usize,
    prompt: usize,
    decode: usize,
    json: Option<PathBuf>,
    peer: Option<PathBuf>,
    keep: Option<PathBuf>,
}

fn settings(args: &[String]) -> Settings {
    let option = |name: &str| args.iter().position(|a| a == name).map(|at| args.get(at + 1).expect(name).clone());
    let known = ["--shapes", "--threads", "--rounds", "--prompt", "--decode", "--json", "--peer", "--keep"];
    for pair in args.chunks(2) {
        assert!(known.contains(&pair[0].as_str()), "{} is not one of {known:?}", pair[0]);
    }
    let list = |name: &str, default: &str| -> Vec<String> {
        option(name).unwrap_or(default.into()).split(',').map(str::to_owned).collect()
    };
    let number = |name: &str, default: &str| list(name, default)[0].parse().expect(name);
    let settings = Settings {
        shapes: list("--shapes", "135M,0.5B,1.2B"),
        threads: list("--threads", "1,2").iter().map(|n| n.parse().expect("--threads")).collect(),
        rounds: number("--rounds", "5"),
        prompt: number("--prompt", "128"),
        decode: number("--decode", "16"),
        json: option("--json").map(PathBuf::from),
        peer: option("--peer").map(PathBuf::from),
        keep: option("--keep").map(PathBuf::from),
    };
    assert!(settings.prompt + settings.decode <= serve::CONTEXT as usize, "the context is {}", serve::CONTEXT);
    settings
}

/// The machine's limits by the number of threads; a number a round.
struct Limits {
    buffer: memmap2::MmapMut,
    bandwidth: Vec<Vec<f64>>,
    peak: Vec<Vec<f64>>,
}

impl Limits {
    fn measure(&mut self, threads: &[usize]) {
        for (at, threads) in threads.iter().enumerate() {
            let reads = (0..3).map(|_| machine::bandwidth(&self.buffer, *threads)).fold(0.0, f64::max);
            self.bandwidth[at].push(reads);
            self.peak[at].extend(machine::int8_peak(*threads).map(|(rate, _)| rate));
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [serve, image, threads] = &args[..]
        && serve == "serve"
    {
        return serve::main(Path::new(image), threads.parse().expect("threads"));
    }
    let settings = settings(&args);
    let temporary = tempfile::tempdir_in(".").expect("a folder here");
    let folder = settings.keep.clone().unwrap_or(temporary.path().to_owned());
    std::fs::create_dir_all(&folder).unwrap();
    let count = settings.threads.len();
    let mut buffer = memmap2::MmapMut::map_anon(1 << 29).expect("memory");
    // Large pages where they can be had: they are read faster. Advice only.
    #[cfg(target_os = "linux")]
    let _ = buffer.advise(memmap2::Advice::HugePage);
    buffer.fill(1);
    let mut limits = Limits { buffer, bandwidth: vec![vec![]; count], peak: vec![vec![]; count] };
    let (kernels, hand_off) = (mote_runtime::kernels::select().name, machine::hand_off());
    let peak = machine::int8_peak(1).map_or("unknown", |(_, name)| name);
    println!("Kernels {kernels}; int8 peak by {peak}; a job for two threads costs {hand_off:.2} us.");
    let mut found = serde_json::Map::new();
    for name in &settings.shapes {
        let result = measure(name, &settings, &folder, &mut limits);
        found.insert(name.clone(), result);
    }
    let ratio = |what: &str| found.get("1.2B").map(|shape| shape["threads"]["2"]["ratios"][what].clone());
    let all = json!({
        "kernels": kernels,
        "hand_off_microseconds": hand_off,
        "ratios": { "decode_vs_llamacpp_q4_0": ratio("decode"), "prompt_vs_llamacpp_q4_0": ratio("prompt") },
        "shapes": found,
    });
    if let Some(path) = &settings.json {
        std::fs::write(path, format!("{all:#}\n")).expect("--json");
    }
}

/// Measures one shape and prints its table.
fn measure(name: &str, settings: &Settings, folder: &Path, limits: &mut Limits) -> serde_json::Value {
    let config = shape(name);
    let images = OURS.map(|(_, codes)| (codes, folder.join(format!("{name}-{codes:?}.mote"))));
    for (codes, image) in images.iter().filter(|(_, image)| !image.is_file()) {
        random_image::write(&config, *codes, image);
    }
    let peer_file = folder.join(format!("{name}.gguf"));
    if settings.peer.is_some() && !peer_file.is_file() {
        gguf::write(&config, &peer_file).expect("the GGUF");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/llama_speed.py");
    let mut runners: Vec<(usize, &str, Server, Seen)> = Vec::new();
    for threads in &settings.threads {
        for ((who, _), (_, image)) in OURS.iter().zip(&images) {
            let mut ours = Command::new(std::env::current_exe().unwrap());
            ours.arg("serve").arg(image).arg(threads.to_string());
            runners.push((*threads, who, Server::start(&mut ours), Seen::default()));
        }
        if let Some(python) = &settings.peer {
            let mut theirs = Command::new(python);
            theirs.arg(&script).arg(&peer_file).arg(threads.to_string());
            runners.push((*threads, PEER, Server::start(&mut theirs), Seen::default()));
        }
    }
    let first_round = limits.bandwidth[0].len();
    for round in 0..=settings.rounds {
        if round > 0 {
            limits.measure(&settings.threads);
        }
        for (_, _, server, seen) in &mut runners {
            let prompt = settings.prompt as f64 / server.ask(&format!("prompt {}", settings.prompt))[0];
            let decode = settings.decode as f64 / server.ask(&format!("decode {}", settings.decode))[0];
            // Round 0 warms up and is not counted.
            if round > 0 {
                seen.prompt.push(prompt);
                seen.decode.push(decode);
            }
            if round == settings.rounds {
                seen.memory = server.ask("memory");
            }
        }
    }
    for (_, _, server, seen) in &mut runners {
        for _ in 0..3 {
            let times = server.ask("first 32");
            seen.open.push(times[0]);
            seen.first.push(times[1]);
        }
    }
    report(name, settings, limits, first_round, &runners)
}

fn report(
    name: &str,
    settings: &Settings,
    limits: &Limits,
    first_round: usize,
    runners: &[(usize, &str, Server, Seen)],
) -> serde_json::Value {
    let (layers, head) = macs(&shape(name));
    let prompt_macs = (layers + head / settings.prompt as f64) * 1e-9;
    println!(
        "\n{name}: {} rounds, medians; prompt of {}, then {} tokens",
        settings.rounds, settings.prompt, settings.decode
    );
    println!(
        "| threads | | decode tok/s (best) | GB/s | of bandwidth | prompt tok/s (best) | of int8 peak | open ms | first token ms | resident MB | of that own |"
    );
    println!("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut by_threads = serde_json::Map::new();
    for (at, threads) in settings.threads.iter().enumerate() {
        let bandwidth = best(&limits.bandwidth[at][first_round..]);
        let peak = limits.peak[at].get(first_round..).map_or(f64::NAN, best);
        println!("| {threads} | the machine | | {bandwidth:.1} | | | {peak:.0} GMAC/s | | | | |");
        let mut entry = serde_json::Map::new();
        for (_, who, _, seen) in runners.iter().filter(|(n, ..)| n == threads) {
            let (decode, prompt) = (median(&seen.decode), median(&seen.prompt));
            let rate = decode * seen.memory[2] * 1e-9;
            let (open, first) = (median(&seen.open) * 1e3, median(&seen.first) * 1e3);
            let (of_bandwidth, of_peak) = (rate / bandwidth, prompt * prompt_macs / peak);
            println!(
                "| {threads} | {who} | {decode:.1} ({:.1}) | {rate:.1} | {:.0} % | {prompt:.1} ({:.1}) | {:.0} % | {open:.2} | {first:.0} | {:.0} | {:.0} |",
                best(&seen.decode),
                100.0 * of_bandwidth,
                best(&seen.prompt),
                100.0 * of_peak,
                seen.memory[0] * 1.024e-3,
                seen.memory[1] * 1.024e-3,
            );
            entry.insert(
                (*who).into(),
                json!({
                    "decode_tokens_per_second": seen.decode, "prompt_tokens_per_second": seen.prompt,
                    "open_seconds": seen.open, "first_token_seconds": seen.first,
                    "decode_of_bandwidth": of_bandwidth, "prompt_of_int8_peak": of_peak,
                    "resident_kib": seen.memory[0], "own_kib": seen.memory[1],
                    "weight_bytes": seen.memory[2], "arena_bytes": seen.memory[3],
                }),
            );
        }
        let seen = |name: &str| runners.iter().find(|(n, who, ..)| n == threads && *who == name).map(|(.., seen)| seen);
        if let (Some(ours), Some(theirs)) = (seen(OURS[0].0), seen(PEER)) {
            let ratio = |a: &[f64], b: &[f64]| median(&a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>());
            let (decode, prompt) = (ratio(&ours.decode, &theirs.decode), ratio(&ours.prompt, &theirs.prompt));
            println!("| {threads} | ratio, median of the rounds' | {decode:.2} | | | {prompt:.2} | | | | | |");
            entry.insert("ratios".into(), json!({ "decode": decode, "prompt": prompt }));
        }
        entry.insert("bandwidth_gb_per_second".into(), json!(bandwidth));
        entry.insert("int8_peak_gmac_per_second".into(), json!(peak));
        by_threads.insert(threads.to_string(), entry.into());
    }
    json!({ "prompt_tokens": settings.prompt, "decode_tokens": settings.decode, "threads": by_threads })
}
