//! Speed on this machine: random-weight language models and nets of real shapes beside other runtimes, then the bundled models.

use crate::shell::{cargo, output, run, say};
use crate::{digest, peers, python};
use anyhow::Result;

/// Runs it. `options` are those of `bench-speed` (tests/bench/speed/main.rs has the list).
pub fn main(options: &[String]) -> Result<()> {
    run(cargo().args(["build", "--quiet", "--release", "--package", "mote-quantize", "--bin", "mote"]))?;
    run(cargo().args(["build", "--quiet", "--release", "--package", "mote-tests", "--bin", "bench-speed"]))?;
    let release = digest::target_dir()?.join("release");
    let mut bench = std::process::Command::new(release.join("bench-speed"));
    bench.args(options).arg("--mote").arg(release.join("mote"));
    if !options.iter().any(|o| o == "--peer") {
        let python = python::venv()?.join("bin/python");
        if ["llama_cpp", "onnxruntime", "ai_edge_litert"].iter().all(|module| python::imports(&python, module)) {
            bench.arg("--peer").arg(python);
            match peers::program() {
                Ok(program) => _ = bench.arg("--rust-peers").arg(program),
                Err(why) => say(&format!("candle, tract and rten are not measured: {why:#}")),
            }
        } else {
            say("no other runtime is measured, and no net: `cargo xtask setup --peers` first");
        }
    }
    run(&mut bench)?;
    println!();
    for (model, image) in digest::images()? {
        for threads in ["1", "2"] {
            println!("{model}:\n\n{}", output(digest::mote().arg("bench").arg(&image).args(["--threads", threads]))?);
        }
    }
    Ok(())
}
