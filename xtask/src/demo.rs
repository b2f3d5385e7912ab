//! `demo`: the whole way once: quantize the bundled model, generate on the host, then from the same file on each board.

use crate::shell::{run, say};
use crate::{board, digest, setup, table};
use anyhow::{Result, bail};
use table::Firmware;

const PROMPT: &str = "Once upon a time";
/// The same seed gives the same text on every machine.
const FLAGS: &str = "-n 48 --temperature 0.7 --top-k 40 --top-p 0.95 --seed 1";

/// Runs the verb.
pub fn main(_: &[String]) -> Result<()> {
    setup::ensure()?;
    let (root, image) = (table::root()?, digest::folder()?.join("demo.mote"));
    run(digest::mote().arg("quantize").arg(root.join("examples/models/llm")).arg("-o").arg(&image))?;
    run(digest::mote().arg("run").arg(&image).args(FLAGS.split(' ')).args(["--prompt", PROMPT]))?;
    let boards = board::all(&root)?;
    let firmware = Firmware { image: Some(&image), batch: Some(8), context: Some(64), ..Firmware::default() };
    for board in board::fitting(&boards, firmware)? {
        say(&format!("{}: {}", board.name, board.description));
        let built = table::build(&root, board, firmware)?;
        let line = format!("{FLAGS} --prompt {PROMPT}");
        let code = table::run(board, &built, &line, &mut |line| println!("{line}"))?;
        if code != 0 {
            bail!("{} exited with code {code}", board.name);
        }
    }
    Ok(())
}
