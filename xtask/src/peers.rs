//! The peers in Rust: `tests/peers`, a workspace of its own, which only benches build.

use crate::shell::{cargo, run};
use crate::{digest, table};
use anyhow::Result;
use std::path::PathBuf;

/// The program, built if need be (minutes the first time). For this machine's instructions: candle chooses its kernels when it
/// is compiled.
pub fn program() -> Result<PathBuf> {
    let target = digest::target_dir()?.join("peers");
    let mut build = cargo();
    build.args(["build", "--quiet", "--release", "--locked", "--manifest-path"]);
    build.arg(table::root()?.join("tests/peers/Cargo.toml")).arg("--target-dir").arg(&target);
    run(build.env("RUSTFLAGS", "-C target-cpu=native"))?;
    Ok(target.join("release/mote-peers"))
}
