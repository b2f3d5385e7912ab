//! The quantizer streams: its peak memory depends on the largest layer, not on the number of layers.

use crate::digest;
use crate::shell::{cargo, run};
use anyhow::Result;

/// Runs it.
pub fn main(options: &[String]) -> Result<()> {
    super::no_options(options)?;
    // The program starts `mote` itself, and watches it.
    run(digest::mote().arg("--version"))?;
    run(cargo().args(["run", "--quiet", "--release", "--package", "mote-tests", "--bin", "bench-memory"]))
}
