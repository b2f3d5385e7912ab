//! What the tests across crates share: where their data lies.

use std::path::{Path, PathBuf};

/// The repository's root.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// What independent implementations computed; each folder has the script that made it.
#[must_use]
pub fn golden() -> PathBuf {
    root().join("tests/golden")
}

/// A file of the shared data (`MANIFEST.md` there lists them): below `$MOTE_SHARED`, or `shared` beside the repository.
/// Without it says "skipped" on stderr, and the test is to return.
#[must_use]
pub fn shared(file: &str) -> Option<PathBuf> {
    let path = mote_quantize::board::shared(file).ok().flatten();
    if path.is_none() {
        eprintln!("skipped: {file} of the shared data is not there; MOTE_SHARED names its folder");
    }
    path
}
