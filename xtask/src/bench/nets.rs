//! What 8 and 4 bits cost nets. Third-party nets that `tests/golden/nets/to_onnx.py` has made are measured, too, if `MOTE_NETS`
//! names their folder.

use crate::shell::{cargo, run};
use anyhow::Result;

/// Runs it.
pub fn main(options: &[String]) -> Result<()> {
    super::no_options(options)?;
    run(cargo().args(["run", "--quiet", "--release", "--package", "mote-tests", "--bin", "bench-nets"]))
}
