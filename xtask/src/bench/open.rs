//! Opening an image is a pass over its tables, never over its weights.

use crate::shell::{cargo, run};
use anyhow::Result;

/// Runs it.
pub fn main(options: &[String]) -> Result<()> {
    super::no_options(options)?;
    run(cargo().args(["run", "--quiet", "--release", "--package", "mote-tests", "--bin", "bench-open"]))
}
