//! `bench`: what a token costs on every board. Emulated instructions, not cycles: the same figures on every machine.

use crate::{digest, symbols, table};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use table::Firmware;

/// A prompt of sixteen tokens, none generated: the cost of a position with its logits.
const LINE: &str = "--tokens 1,403,407,261,378,377,282,447,421,396,262,5,17,77,300,44 -n 16";

/// What the firmware prints, and the column's head.
const COLUMNS: [(&str, &str); 4] = [
    ("instructions_per_token", "instructions/token"),
    ("arena_bytes", "arena"),
    ("arena_high_water_bytes", "arena used"),
    ("stack_high_water_bytes", "stack used"),
];

/// Runs the verb.
pub fn main(args: &[String]) -> Result<()> {
    let image = match args {
        [] => digest::image()?,
        [image] => PathBuf::from(image),
        _ => bail!("bench takes nothing, or an image"),
    };
    let root = table::root()?;
    println!(
        "{:10} {:>10} {:>10} {}",
        "board",
        "code",
        "image",
        COLUMNS.map(|(_, head)| format!("{head:>18}")).join(" ")
    );
    for board in table::table(&root)? {
        let elf = table::build(&root, &board, Firmware { image: Some(&image), ..Firmware::default() })?;
        let sizes = symbols::check(&board, &elf)?;
        let mut lines = Vec::new();
        let code = table::run(&board, &elf, LINE, &mut |line| lines.push(line.to_owned()))?;
        if code != 0 {
            bail!("{} exited with code {code}:\n{}", board.name, lines.join("\n"));
        }
        let mut row = format!("{:10} {:>10} {:>10}", board.name, sizes.text + sizes.rodata, sizes.image);
        for (key, _) in COLUMNS {
            let value = table::value(&lines, key).with_context(|| format!("{} printed no {key}", board.name))?;
            row.push_str(&format!(" {value:>18}"));
        }
        println!("{row}");
    }
    Ok(())
}
