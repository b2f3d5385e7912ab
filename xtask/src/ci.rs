//! `ci`: what must hold of every commit. Lints and documentation are checked on host and boards, then `test`.

use crate::shell::{cargo, run, say};
use crate::{setup, table, test, web};
use anyhow::Result;
use std::time::Instant;
use table::Firmware;

/// Runs the verb.
pub fn main(args: &[String]) -> Result<()> {
    let start = Instant::now();
    setup::ensure()?;
    say(&format!("setup: {} s", start.elapsed().as_secs()));
    let start = Instant::now();
    let root = table::root()?;
    run(cargo().current_dir(&root).args(["fmt", "--all", "--check"]))?;
    run(cargo().current_dir(root.join("boards")).args(["fmt", "--all", "--check"]))?;
    run(cargo().current_dir(&root).args([
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    run(cargo().current_dir(&root).env("RUSTDOCFLAGS", "-D warnings").args([
        "doc",
        "--quiet",
        "--workspace",
        "--no-deps",
    ]))?;
    // Each set of ops by itself, as firmware has it.
    for features in ["", "decoder", "convnet", "coded"] {
        let mut alone = cargo();
        alone.current_dir(&root).args(["clippy", "--quiet", "--package", "mote-runtime", "--no-default-features"]);
        run(alone.args(["--features", features, "--", "-D", "warnings"]))?;
    }
    web::lint()?;
    // The shared crate with its tests, on the host; then each board's firmware for its own target.
    let mut support = cargo();
    support.current_dir(root.join("boards")).args(["clippy", "--quiet", "--package", "mote-board-support"]);
    support.args(["--all-targets", "--target-dir"]).arg(table::target_dir(&root));
    run(support.args(["--", "-D", "warnings"]))?;
    let mut doc = cargo();
    doc.current_dir(root.join("boards")).env("RUSTDOCFLAGS", "-D warnings").args(["doc", "--quiet", "--no-deps"]);
    run(doc.args(["--package", "mote-board-support", "--target-dir"]).arg(table::target_dir(&root)))?;
    for board in table::table(&root)? {
        for (feature, _) in table::FEATURES {
            let firmware = Firmware { feature: Some(feature), ..Firmware::default() };
            run(table::cargo(&root, &board, "clippy", firmware)?.args(["--quiet", "--", "-D", "warnings"]))?;
        }
    }
    say(&format!("lints, documentation: {} s", start.elapsed().as_secs()));
    test::main(args)
}
