//! `ci`: what must hold of every commit. Lints and documentation are checked on host and boards, then `test`.

use crate::shell::{cargo, run};
use crate::{setup, table, test};
use anyhow::Result;
use table::Firmware;

/// Runs the verb.
pub fn main(args: &[String]) -> Result<()> {
    setup::ensure()?;
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
    // What is not bare metal in the boards' workspace, with its tests; then, where clippy knows the target, each board.
    let mut support = cargo();
    support.current_dir(root.join("boards")).args([
        "clippy",
        "--quiet",
        "--package",
        "mote-board-support",
        "--all-targets",
    ]);
    run(support.arg("--target-dir").arg(table::target_dir(&root)).args(["--", "-D", "warnings"]))?;
    for board in table::table(&root)? {
        // Debian's compiler comes without clippy: rustc's own lints, missing_docs among them, still apply.
        run(table::cargo(&root, &board, "check", Firmware::default())?.arg("--quiet"))?;
    }
    test::main(args)
}
