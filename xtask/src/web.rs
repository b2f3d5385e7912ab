//! WebAssembly: the runtime in three builds, and its tests in each of them.

use crate::shell::{run, say, which};
use crate::{digest, table};
use anyhow::Result;
use std::process::Command;

/// What pages and, for tests, Node run.
pub const TARGETS: [&str; 2] = ["wasm32-unknown-unknown", WASI];
const WASI: &str = "wasm32-wasip1";

/// Name and features of each build, the best first. An engine refuses a module that has an instruction which it lacks.
const BUILDS: [(&str, &str); 3] = [("relaxed", "+simd128,+relaxed-simd"), ("simd128", "+simd128"), ("scalar", "")];

/// Tests of the runtime that compare backends.
const TESTS: [&str; 2] = ["backends", "convnet"];

/// Runs the tests of all this, which count themselves.
pub fn check() -> Result<usize> {
    if which("node").is_none() {
        say("skipped: WebAssembly; there is no node");
        return Ok(0);
    }
    kernels()?;
    Ok(0)
}

/// Each build's backends give the scalar kernels' bits.
fn kernels() -> Result<()> {
    let root = table::root()?;
    for (build, features) in BUILDS {
        let mut cargo = cargo("test", WASI, "std,panic_abort", (build, features))?;
        // Node 20 has relaxed SIMD behind a flag, and its first compiler (Liftoff) makes twice the dot product of it.
        let runner = format!(
            "node --no-warnings --experimental-wasm-relaxed-simd --no-liftoff {}",
            root.join("tests/web/wasi.mjs").display()
        );
        cargo.env("CARGO_TARGET_WASM32_WASIP1_RUNNER", runner);
        cargo.args(["--quiet", "--package", "mote-runtime"]).args(TESTS.map(|test| format!("--test={test}")));
        run(&mut cargo)?;
    }
    Ok(())
}

/// A cargo command of release builds with these instructions, in a folder of their own.
fn cargo(verb: &str, target: &str, std: &str, (build, features): (&str, &str)) -> Result<Command> {
    let mut cargo = table::toolchain(target)?.cargo(verb, target, std);
    cargo.current_dir(table::root()?).env("RUSTFLAGS", format!("-C target-feature={features}"));
    cargo.args(["--release", "--target-dir"]).arg(digest::target_dir()?.join("wasm").join(build));
    Ok(cargo)
}
