//! Instructions of riscv64's kernels, with vectors and without, as an emulator runs them: there is no such core here.
//!
//! QEMU logs each block of instructions that it translates, and each that it runs. Of two runs that differ in how often they do the work
//! the difference is the work's. A vector instruction counts as one, however long the vectors are.

use super::no_options;
use crate::backends;
use crate::digest::folder;
use crate::hosts::RISCV64;
use crate::shell::{output, say};
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Registers of 128 bits, as the smallest cores have them.
const CORE: &str = "rv64,v=true,vext_spec=v1.0,vlen=128";

/// With vectors, and without.
const KERNELS: [&str; 2] = ["riscv64-i8-rvv", "any-i8-scalar"];

/// What is done; the test that does it, and what it is told: see its `work`; how often, beside twice.
const WORK: [(&str, &str, &str, u32); 14] = [
    ("N4, one row", "backends", "N4 1", 18),
    ("T4, one row", "backends", "T4 1", 18),
    ("T3, one row", "backends", "T3 1", 18),
    ("N5, one row", "backends", "N5 1", 18),
    ("N8, one row", "backends", "N8 1", 18),
    ("N4, 8 rows", "backends", "N4 8", 4),
    ("T4, 8 rows", "backends", "T4 8", 4),
    ("N8, 8 rows", "backends", "N8 8", 4),
    ("N4, 32 rows", "backends", "N4 32", 4),
    ("T4, 32 rows", "backends", "T4 32", 4),
    ("int8 convolution, 3 x 3, 32 channels to 32", "convnet", "conv2d 8 3 32 32", 4),
    ("int8 convolution, 1 x 1, 64 channels to 64", "convnet", "conv2d 8 1 64 64", 4),
    ("int8 depthwise convolution, 3 x 3, 64 channels", "convnet", "depthwise_conv2d 16 3 64 64", 4),
    ("int8 fully connected, 512 to 64", "convnet", "conv2d 1 1 512 64", 18),
];

/// Runs it.
pub fn main(options: &[String]) -> Result<()> {
    no_options(options)?;
    if !RISCV64.is_there() {
        say("skipped: there is nothing to build and run programs of riscv64 with; `cargo xtask setup`");
        return Ok(());
    }
    let programs = backends::build(&RISCV64)?;
    println!("| what | instructions per product, vectors | scalar | ratio |");
    println!("| --- | --- | --- | --- |");
    for (what, test, work, times) in WORK {
        let program = programs.iter().find(|program| {
            program.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{test}-")))
        });
        let program = program.with_context(|| format!("no test {test}"))?;
        let [mut vectors, mut scalar] = [0.0; 2];
        for (kernels, each) in KERNELS.iter().zip([&mut vectors, &mut scalar]) {
            let (twice, _) = run(program, &format!("{work} 2 {kernels}"))?;
            let (more, products) = run(program, &format!("{work} {times} {kernels}"))?;
            *each = (more - twice) as f64 / f64::from(times - 2) / products;
        }
        println!("| {what} | {vectors:.3} | {scalar:.2} | {:.1} |", scalar / vectors);
    }
    Ok(())
}

/// Instructions of a run, and the products of doing the work once.
fn run(program: &Path, work: &str) -> Result<(u64, f64)> {
    let log = folder()?.join("riscv64.log");
    let mut command = RISCV64.run(CORE, program);
    command.env("QEMU_LOG", "in_asm,exec,nochain").env("QEMU_LOG_FILENAME", &log).env("MOTE_WORK", work);
    let printed = output(command.args(["--ignored", "--exact", "work", "--nocapture", "--test-threads", "1"]))?;
    let products = printed.lines().find_map(|line| line.split_once("products=")?.1.trim().parse().ok());
    let count = instructions(&log)?;
    std::fs::remove_file(&log)?;
    Ok((count, products.with_context(|| format!("no products:\n{printed}"))?))
}

/// Instructions that were run, by QEMU's log: blocks after `IN:`, an instruction a line, and `Trace ...: ... [.../address/...]` of each
/// that is run.
fn instructions(log: &Path) -> Result<u64> {
    let mut blocks: HashMap<u64, u64> = HashMap::new();
    let (mut block, mut inside, mut count) = (0, false, 0);
    for line in BufReader::new(File::open(log)?).lines() {
        let line = line?;
        if line.starts_with("IN:") {
            (inside, block) = (true, 0);
        } else if let Some(trace) = line.strip_prefix("Trace ") {
            let address = trace.split('/').nth(1).and_then(|hex| u64::from_str_radix(hex, 16).ok());
            let address = address.with_context(|| format!("no address: {line}"))?;
            count += blocks.get(&address).with_context(|| format!("no such block: {line}"))?;
        } else if let Some(address) = line.strip_prefix("0x").filter(|_| inside) {
            let (address, _) = address.split_once(':').with_context(|| format!("no address: {line}"))?;
            let address = u64::from_str_radix(address, 16)?;
            block = if block == 0 {
                blocks.insert(address, 0);
                address
            } else {
                block
            };
            *blocks.entry(block).or_default() += 1;
        } else {
            inside &= !line.is_empty();
        }
    }
    Ok(count)
}
