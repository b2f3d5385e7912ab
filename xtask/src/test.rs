//! `test`: everything that can be tested on this machine.

use crate::shell::{cargo, run, say};
use crate::{digest, setup, table};
use anyhow::Result;

/// Runs the verb.
pub fn main(_: &[String]) -> Result<()> {
    setup::ensure()?;
    let root = table::root()?;
    run(cargo().current_dir(&root).args(["test", "--quiet", "--workspace"]))?;
    let mut support = cargo();
    support.current_dir(root.join("boards")).args([
        "test",
        "--quiet",
        "--package",
        "mote-board-support",
        "--target-dir",
    ]);
    run(support.arg(table::target_dir(&root)))?;
    refusals()?;
    digest::check()?;
    say("all tests pass");
    Ok(())
}

/// A board must say what is wrong and exit with 1, not hang.
fn refusals() -> Result<()> {
    let root = table::root()?;
    for board in table::table(&root)? {
        let elf = table::build(&root, &board, table::Firmware::default())?;
        for (line, error) in [("--tokens 1", "not_an_image"), ("--frobnicate 1", "command_line")] {
            let mut lines = Vec::new();
            let code = table::run(&board, &elf, line, &mut |line| lines.push(line.to_owned()))?;
            let found = table::value(&lines, "error");
            if code != 1 || found != Some(error) {
                anyhow::bail!("{} {line}: expected error {error}, got {found:?} and code {code}", board.name);
            }
        }
    }
    Ok(())
}
