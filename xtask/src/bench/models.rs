//! The real models of the shared data, imported, quantized and run, each beside the runtime that it was made for: all that by
//! `tests/peers/models.py`, in the environment that `cargo xtask setup --peers` makes.

use crate::shell::{cargo, run, say};
use crate::{python, table};
use anyhow::Result;
use std::process::Command;

/// Runs it; the table goes to stdout, with `--json FILE` the same as JSON to a file.
pub fn main(options: &[String]) -> Result<()> {
    let root = table::root()?;
    let Some(manifest) = table::shared("MANIFEST.md")? else {
        say("skipped: there is no ../shared/data/MANIFEST.md");
        return Ok(());
    };
    let python = python::venv()?.join("bin/python");
    if !python.is_file() {
        say("skipped: `cargo xtask setup --peers` installs the other runtimes");
        return Ok(());
    }
    run(cargo().args(["build", "--quiet", "--release", "--package", "mote-quantize", "--bin", "mote"]))?;
    run(cargo().args(["build", "--quiet", "--release", "--package", "mote-tests", "--bin", "evaluate-net"]))?;
    let mut script = Command::new(python);
    script.arg(root.join("tests/peers/models.py")).arg(manifest.parent().unwrap_or(&root));
    script.arg("--binaries").arg(crate::digest::target_dir()?.join("release"));
    run(script.args(options))
}
