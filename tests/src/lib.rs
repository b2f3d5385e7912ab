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
    let folder = std::env::var_os("MOTE_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    let path = folder.join("data").join(file);
    if !path.exists() {
        eprintln!("skipped: {} is not there; MOTE_SHARED names the folder of shared data", path.display());
        return None;
    }
    Some(path)
}
