//! `ci`: what must hold of every commit. Lints and documentation are checked for all that the tests build for, then `test`.

use crate::hosts::{AARCH64, RISCV64};
use crate::shell::{cargo, run, say, timed};
use crate::{setup, table, test, web};
use anyhow::Result;

/// Runs the verb.
pub fn main(args: &[String]) -> Result<()> {
    timed("setup", setup::ensure)?;
    timed("lints, documentation", lints)?;
    test::main(args)
}

/// Formatting, lints and documentation, on the host, for other hosts and for each board.
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
    // The kernels of other hosts, which nothing sees that is built for this one; mote-host turns detection on.
    for host in [AARCH64, RISCV64] {
        if table::toolchain(host.target).is_err() {
            say(&format!("skipped: lints for {}", host.target));
            continue;
        }
        let mut clippy = host.cargo("clippy", "std,panic_unwind")?;
        run(clippy.args(["--package", "mote-runtime", "--package", "mote-host", "--", "-D", "warnings"]))?;
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
