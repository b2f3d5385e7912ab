//! Tokens per second on this machine: random-weight models of real shapes beside llama.cpp, then the bundled models.

use crate::shell::{cargo, output, run, say};
use crate::{digest, python};
use anyhow::Result;

/// Runs it. `options` are those of `bench-speed` (tests/bench/speed/main.rs has the list).
pub fn main(options: &[String]) -> Result<()> {
    let mut bench = cargo();
    bench.args(["run", "--quiet", "--release", "--package", "mote-tests", "--bin", "bench-speed", "--"]).args(options);
    if !options.iter().any(|o| o == "--peer") {
        let python = python::venv()?.join("bin/python");
        if python::imports(&python, "llama_cpp") {
            bench.arg("--peer").arg(python);
        } else {
            say("llama.cpp is not measured: `cargo xtask setup --peers` first");
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
