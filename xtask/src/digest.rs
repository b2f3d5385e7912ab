//! One digest everywhere: the same image and tokens on this host, on aarch64 under emulation, and on every board.

use crate::setup::AARCH64;
use crate::shell::{cargo, output, run, say};
use crate::{symbols, table};
use anyhow::{Context, Result, bail};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use table::Firmware;

/// Tokens that every machine runs: more than two batches, and not a whole number of them.
const TOKENS: &str = "1,403,407,261,378,377,282,447,421,396,262,1,5,17,77,300,44,2,9,121";

/// Emulated cores: the first has dot products and int8 matrix products, the second has neither.
const AARCH64_CORES: [&str; 2] = ["max", "cortex-a53"];

/// The package of the program `logits IMAGE --tokens 1,2,3 --sha256`, and the program.
const PROGRAM: [&str; 2] = ["mote-example-host", "logits"];

/// Where this workspace is built.
pub fn target_dir() -> Result<PathBuf> {
    Ok(env::var_os("CARGO_TARGET_DIR").map_or(table::root()?.join("target"), PathBuf::from))
}

/// The bundled language model in 4 bits; quantized anew unless it is there and newer than its source.
pub fn image() -> Result<PathBuf> {
    let model = table::root()?.join("examples/models/llm");
    let folder = target_dir()?.join("mote");
    let image = folder.join("llm-4bit.mote");
    let age = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    if age(&image).is_none_or(|made| age(&model.join("model.safetensors")).is_none_or(|source| source > made)) {
        std::fs::create_dir_all(&folder)?;
        run(mote().arg("quantize").arg(&model).arg("--out").arg(&image).args(["--bits", "4"]))?;
    }
    Ok(image)
}

/// The `mote` command.
pub fn mote() -> Command {
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--package", "mote-quantize", "--bin", "mote", "--"]);
    command
}

/// A program of this workspace, built for aarch64 Linux.
pub fn build_aarch64(package: &str, program: &str) -> Result<PathBuf> {
    let folder = target_dir()?.join("aarch64");
    let mut command = table::toolchain(AARCH64)?.cargo("build", AARCH64, "std,panic_unwind");
    command.current_dir(table::root()?).env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc");
    run(command.args(["--quiet", "--release", "--package", package, "--bin", program, "--target-dir"]).arg(&folder))?;
    Ok(folder.join(AARCH64).join("release").join(program))
}

/// A command that runs an aarch64 program on an emulated core.
pub fn aarch64(core: &str, program: &Path) -> Command {
    let mut command = Command::new("qemu-aarch64");
    command.args(["-cpu", core, "-L", "/usr/aarch64-linux-gnu"]).arg(program);
    command
}

/// Runs everywhere and compares; prints each digest.
pub fn check() -> Result<()> {
    let (root, image) = (table::root()?, image()?);
    let [package, program] = PROGRAM;
    let mut found: Vec<(String, String)> = Vec::new();
    let mut add = |machine: String, lines: &str| {
        let lines: Vec<String> = lines.lines().map(str::to_owned).collect();
        let digest = table::value(&lines, "logits_sha256").with_context(|| format!("{machine} printed no digest"))?;
        println!("{digest} {machine}");
        found.push((machine, digest.to_owned()));
        anyhow::Ok(())
    };
    let arguments = |command: &mut Command| output(command.arg(&image).args(["--tokens", TOKENS, "--sha256"]));
    let mut host = cargo();
    host.args(["run", "--quiet", "--release", "--package", package, "--bin", program, "--"]);
    add("host".into(), &arguments(&mut host)?)?;
    let elf = build_aarch64(package, program)?;
    for core in AARCH64_CORES {
        add(format!("aarch64 {core}"), &arguments(&mut aarch64(core, &elf))?)?;
    }
    for board in table::table(&root)? {
        let elf = table::build(&root, &board, Firmware { image: Some(&image), ..Firmware::default() })?;
        symbols::check(&board, &elf)?;
        // Other batch sizes must not change a bit.
        for batch in [1, 8] {
            let line = format!("--tokens {TOKENS} --sha256 --batch {batch}");
            let mut lines = String::new();
            let code = table::run(&board, &elf, &line, &mut |line| {
                lines.push_str(line);
                lines.push('\n');
            })?;
            if code != 0 {
                bail!("{} exited with code {code}:\n{lines}", board.name);
            }
            add(format!("{} batch {batch}", board.name), &lines)?;
        }
    }
    let Some((first, rest)) = found.split_first() else { bail!("nothing ran") };
    match rest.iter().find(|(_, digest)| *digest != first.1) {
        Some((machine, digest)) => bail!("{machine} computes {digest}, {} computes {}", first.0, first.1),
        None => {
            say(&format!("one digest on {} machines", found.len()));
            Ok(())
        }
    }
}
