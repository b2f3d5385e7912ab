//! `ci`: what must hold of every commit. Lints and documentation are checked on host and boards, then `test`.

use crate::shell::{cargo, run, timed};
use crate::{setup, table, test, web};
use anyhow::Result;

/// Runs the verb.
pub fn main(args: &[String]) -> Result<()> {
    timed("setup", setup::ensure)?;
    timed("lints, documentation", lints)?;
    test::main(args)
}

/// Formatting, lints and documentation, on the host and for each board.
fn lints() -> Result<()> {
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
    for features in ["", "decoder", "convnet", "coded", "decoder,vouched", "coded,vouched"] {
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
        for firmware in table::with_every_op() {
            run(table::cargo(&root, &board, "clippy", firmware)?.args(["--quiet", "--", "-D", "warnings"]))?;
        }
    }
    Ok(())
}
