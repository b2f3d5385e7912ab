//! Tokens per second on this machine.

use crate::digest;
use crate::shell::output;
use anyhow::Result;

/// Runs it.
pub fn main() -> Result<()> {
    for (model, image) in digest::images()? {
        for threads in ["1", "2"] {
            println!("{model}:\n\n{}", output(digest::mote().arg("bench").arg(&image).args(["--threads", threads]))?);
        }
    }
    Ok(())
}
