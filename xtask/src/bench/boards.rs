//! What a token of a language model, or an inference of a net, costs on every board. Emulated instructions, not cycles: the
//! same figures on every machine.

use crate::board::{self, LEAST, lines};
use crate::nets::{self, Net};
use crate::shell::output;
use crate::symbols::{self, Sizes};
use crate::{digest, table};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use table::{Board, Firmware};

/// A prompt of sixteen tokens, none generated: the cost of a position, and of its logits once.
const LINE: &str = "--tokens 1,403,407,261,378,377,282,447,421,396,262,5,17,77,300,44 -n 1";

/// What the firmware prints of memory.
const MEMORY: [&str; 3] = ["arena_bytes", "arena_high_water_bytes", "stack_high_water_bytes"];

/// Runs it.
pub fn main(options: &[String]) -> Result<()> {
    super::no_options(options)?;
    let boards = board::all(&table::root()?)?;
    head("image", "instructions/token");
    for (model, image) in digest::images()? {
        // A context of sixteen, all of which is used, so that the arena's high-water mark is the arena.
        let firmware = Firmware { image: Some(&image), batch: Some(8), context: Some(16), ..Firmware::default() };
        for board in board::fitting(&boards, firmware)? {
            let (start, tokens, memory) = measure(board, firmware, LINE, "instructions_per_token")?;
            println!("| {model} | {start} | {tokens} | {memory} |");
        }
    }
    let nets = nets::images()?;
    println!();
    head("net", "instructions/inference | MACs | instructions/MAC");
    for (net, image) in &nets {
        let macs = macs(image)?;
        let firmware = Firmware { image: Some(image), ..Firmware::default() };
        for board in board::fitting(&boards, firmware)? {
            let (start, run, memory) = measure(board, firmware, "", "instructions_per_inference")?;
            let each = if macs == 0 { String::new() } else { format!("{:.2}", run as f64 / macs as f64) };
            println!("| {} | {start} | {run} | {macs} | {each} | {memory} |", net.name);
        }
    }
    flash(&boards, &nets)
}

/// What a net takes of flash where nothing but it is linked: the example [`LEAST`] of the boards that have it.
fn flash(boards: &[Board], nets: &[(Net, PathBuf)]) -> Result<()> {
    let root = table::root()?;
    println!("\n| net | board | code | constants | the runtime's | model | flash | file |");
    println!("| --- | --- |{}", " ---: |".repeat(6));
    let has_example = |board: &&Board| root.join(format!("boards/{}/examples/{LEAST}.rs", board.folder)).is_file();
    for (net, image) in nets {
        let firmware = Firmware { image: Some(image), example: Some(LEAST), ..Firmware::default() };
        for board in board::fitting(boards, firmware)?.into_iter().filter(has_example) {
            let built = table::build(&root, board, firmware)?;
            let sizes = symbols::check(board, &built)?;
            let runtime = symbols::owners(&built, &sizes)?.runtime;
            let Sizes { text, rodata, data, image, .. } = sizes;
            let constants = rodata + data;
            let file = nets::source(net)?.map_or(Ok(0), |path| path.metadata().map(|m| m.len()))?;
            let all = text + constants + image;
            println!("| {} | {} | {text} | {constants} | {runtime} | {image} | {all} | {file} |", net.name, board.name);
        }
    }
    Ok(())
}

fn head(first: &str, instructions: &str) {
    let row = format!(
        "| {first} | board | code and constants | image bytes | {instructions} | arena bytes | arena used | stack used |"
    );
    println!("{row}");
    let names = row.matches('|').count() - 3;
    println!("| --- | --- |{}", " ---: |".repeat(names));
}

/// The first columns, the instructions, and the last columns of a row.
fn measure(board: &Board, firmware: Firmware<'_>, line: &str, key: &str) -> Result<(String, u64, String)> {
    let built = table::build(&table::root()?, board, firmware)?;
    let sizes = symbols::check(board, &built)?;
    let lines = lines(board, &built, line)?;
    let value = |key| table::value(&lines, key).with_context(|| format!("{} printed no {key}", board.name));
    let start = format!("{} | {} | {}", board.name, sizes.text + sizes.rodata + sizes.data, sizes.image);
    let memory: Result<Vec<&str>> = MEMORY.iter().map(|key| value(key)).collect();
    Ok((start, value(key)?.parse()?, memory?.join(" | ")))
}

/// Multiply-accumulates of a run, as `mote inspect` counts them.
fn macs(image: &Path) -> Result<u64> {
    let seen: serde_json::Value =
        serde_json::from_str(&output(digest::mote().args(["inspect", "--json"]).arg(image))?)?;
    seen["macs"].as_u64().context("mote inspect --json says no macs")
}
