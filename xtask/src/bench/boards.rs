//! What a token costs on every board. Emulated instructions, not cycles: the same figures on every machine.

use crate::board::lines;
use crate::{digest, symbols, table};
use anyhow::{Context, Result};
use table::Firmware;

/// A prompt of sixteen tokens, none generated: the cost of a position, and of its logits once.
const LINE: &str = "--tokens 1,403,407,261,378,377,282,447,421,396,262,5,17,77,300,44 -n 1";

/// What the firmware prints, and the column's head.
const COLUMNS: [(&str, &str); 4] = [
    ("instructions_per_token", "instructions/token"),
    ("arena_bytes", "arena bytes"),
    ("arena_high_water_bytes", "arena used"),
    ("stack_high_water_bytes", "stack used"),
];

/// Runs it.
pub fn main() -> Result<()> {
    let root = table::root()?;
    println!("| image | board | code and constants | image bytes | {} |", COLUMNS.map(|(_, head)| head).join(" | "));
    println!("| --- | --- | ---: | ---: | {} |", COLUMNS.map(|_| "---:").join(" | "));
    for (model, image) in digest::images()? {
        for board in table::table(&root)? {
            // A context of sixteen, all of which is used, so that the arena's high-water mark is the arena.
            let firmware = Firmware { image: Some(&image), batch: Some(8), context: Some(16), ..Firmware::default() };
            let built = table::build(&root, &board, firmware)?;
            let sizes = symbols::check(&board, &built)?;
            let lines = lines(&board, &built, LINE)?;
            let mut row =
                format!("| {model} | {} | {} | {} |", board.name, sizes.text + sizes.rodata + sizes.data, sizes.image);
            for (key, _) in COLUMNS {
                let value = table::value(&lines, key).with_context(|| format!("{} printed no {key}", board.name))?;
                row.push_str(&format!(" {value} |"));
            }
            println!("{row}");
        }
    }
    Ok(())
}
