//! What is measured, from the command line.

use crate::serve;
use std::path::PathBuf;

/// The options; `main.rs` says what they are.
pub struct Settings {
    pub shapes: Vec<String>,
    pub nets: Vec<String>,
    pub threads: Vec<usize>,
    pub rounds: usize,
    pub prompt: usize,
    pub decode: usize,
    pub json: Option<PathBuf>,
    pub plot: Option<PathBuf>,
    pub python: Option<PathBuf>,
    pub rust_peers: Option<PathBuf>,
    pub mote: Option<PathBuf>,
    pub keep: Option<PathBuf>,
}

const OPTIONS: [&str; 12] = [
    "--shapes",
    "--nets",
    "--threads",
    "--rounds",
    "--prompt",
    "--decode",
    "--json",
    "--plot",
    "--peer",
    "--rust-peers",
    "--mote",
    "--keep",
];

impl Settings {
    /// Reads them; an unknown one ends the program.
    pub fn read(args: &[String]) -> Self {
        let option = |name: &str| args.iter().position(|a| a == name).map(|at| args.get(at + 1).expect(name).clone());
        for pair in args.chunks(2) {
            assert!(OPTIONS.contains(&pair[0].as_str()), "{} is not one of {OPTIONS:?}", pair[0]);
        }
        let list = |name: &str, default: &str| -> Vec<String> {
            let words = option(name).unwrap_or(default.into());
            words.split(',').filter(|word| *word != "none").map(str::to_owned).collect()
        };
        let number = |name: &str, default: &str| list(name, default)[0].parse().expect(name);
        let path = |name: &str| option(name).map(PathBuf::from);
        let settings = Self {
            shapes: list("--shapes", "135M,0.5B,1.2B"),
            nets: list("--nets", &crate::nets::NETS.map(|net| net.name).join(",")),
            threads: list("--threads", "1,2").iter().map(|n| n.parse().expect("--threads")).collect(),
            rounds: number("--rounds", "5"),
            prompt: number("--prompt", "128"),
            decode: number("--decode", "16"),
            json: path("--json"),
            plot: path("--plot"),
            python: path("--peer"),
            rust_peers: path("--rust-peers"),
            mote: path("--mote"),
            keep: path("--keep"),
        };
        assert!(settings.prompt + settings.decode <= serve::CONTEXT as usize, "the context is {}", serve::CONTEXT);
        settings
    }
}
