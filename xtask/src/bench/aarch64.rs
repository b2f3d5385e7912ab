//! The hot loops of aarch64's kernels beside llama.cpp's and KleidiAI's: instructions per product from their disassembly, cycles per
//! product by LLVM's models of three cores. No such core is asked: there is none here.
//!
//! llama.cpp's source is what `llama-cpp-sys-2` bundles, as cargo fetches it; KleidiAI's a folder that one names. Neither is kept.

use crate::digest::{folder, target_dir};
use crate::hosts::AARCH64;
use crate::shell::{cargo, output, run, say, which};
use crate::table;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Cores: their names here; the models in LLVM; whether they have `SMMLA`. LLVM 19 takes A57's model for Cortex-A76 and that of a core with
/// half the vector units for X2, so here are those of the server cores that were made of A76, A710 and X1.
const CORES: [(&str, &str, bool); 4] = [
    ("Cortex-A55", "cortex-a55", false),
    ("A76 (Neoverse N1)", "neoverse-n1", false),
    ("A710 (Neoverse N2)", "neoverse-n2", true),
    ("X1 (Neoverse V1)", "neoverse-v1", true),
];

/// The newest of these has the best models of them (Debian 12's is `llvm-19`).
const MCA: [&str; 6] = ["llvm-mca-19", "llvm-mca-18", "llvm-mca-17", "llvm-mca-16", "llvm-mca-15", "llvm-mca"];

const LLAMA: &str = "=0.1.161";

/// A loop to be found: what it does; its function, `{}` for [`MODULE`], the name's beginning if a blank ends it; how many loops lie in one
/// another in it. Of a function's loops it is the one with the most products.
type Sought = (&'static str, &'static str, usize);

const MODULE: &str = "mote_runtime::kernels::aarch64::";

/// Those of NEON have become part of the table's closures.
const MOTE: [Sought; 10] = [
    ("N4, one row, NEON", "<{}neon::KERNELS::{closure#1} as ", 0),
    ("N4, one row, `SDOT`", "{}dotprod::all_sums::<5, 256>", 0),
    ("T4, one row, `SDOT`", "{}dotprod::all_sums::<11, 256>", 0),
    ("N8, one row, `SDOT`", "{}dotprod::all_sums::<6, 512>", 0),
    ("N4, four rows, NEON", "{}neon::many_rows::<5, 256>", 0),
    ("N4, four rows, `SDOT`", "{}dotprod::many_rows::<5, 256>", 0),
    ("N4, four rows, `SMMLA`", "{}i8mm::many_rows::<5, 256>", 0),
    ("int8 convolution, NEON", "<{}neon::KERNELS::{closure#5} as ", 0),
    ("int8 convolution, `SDOT`", "{}dotprod::conv2d", 0),
    ("int8 convolution, `SMMLA`", "{}i8mm::conv2d", 0),
];

const OF_LLAMA: [Sought; 5] = [
    ("Q4_0, one row, `SDOT`", "ggml_gemv_q4_0_4x4_q8_0", 0),
    ("IQ4_NL, one row, `SDOT`", "ggml_gemv_iq4_nl_4x4_q8_0", 0),
    ("Q4_0, 16 rows, `SDOT`", "ggml_gemm_q4_0_4x4_q8_0", 0),
    ("IQ4_NL, 4 rows, `SDOT`", "ggml_gemm_iq4_nl_4x4_q8_0", 0),
    ("Q4_0, 16 rows, `SMMLA`", "ggml_gemm_q4_0_4x8_q8_0", 0),
];

/// A file and its loop. Blocks of 32 columns, so the loop within is run once.
const OF_KLEIDIAI: [(&str, Sought); 3] = [
    (
        "qsi8d32p1x4_qsi4c32p4x4_1x4_neon_dotprod",
        ("int4, one row, `SDOT`", "kai_kernel_matmul_clamp_f32_qsi8d32p1x4_qsi4c32p4x4_1x4_neon_dotprod", 1),
    ),
    (
        "qsi8d32p4x4_qsi4c32p4x4_16x4_neon_dotprod",
        ("int4, 16 rows, `SDOT`", "kai_kernel_matmul_clamp_f32_qsi8d32p4x4_qsi4c32p4x4_16x4_neon_dotprod", 1),
    ),
    (
        "qsi8d32p4x8_qsi4c32p4x8_8x4x32_neon_i8mm",
        ("int4, 8 rows, `SMMLA`", "kai_kernel_matmul_clamp_f32_qsi8d32p4x8_qsi4c32p4x8_8x4x32_neon_i8mm", 1),
    ),
];

/// An instruction: where it is, its name and its operands.
struct Instruction<'a> {
    address: u64,
    name: &'a str,
    operands: &'a str,
}

/// Runs it: `--kleidiai DIR` is a checkout of KleidiAI.
pub fn main(options: &[String]) -> Result<()> {
    let kleidiai = match options {
        [] => None,
        [name, dir] if name == "--kleidiai" => Some(PathBuf::from(dir)),
        _ => bail!("bench aarch64 takes nothing, or --kleidiai DIR"),
    };
    let Some(mca) = MCA.iter().find(|program| which(program).is_some()) else {
        say("skipped: cycles by llvm-mca; `apt-get install --no-install-recommends llvm-19`");
        return Ok(());
    };
    let version = output(Command::new(mca).arg("--version"))?;
    println!("{}\n", version.lines().find(|line| line.contains("version")).unwrap_or(mca).trim());
    println!("| whose | what | instructions per product | {} |", CORES.map(|(core, ..)| core).join(" | "));
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let mote = disassembly(&build()?)?;
    MOTE.iter().try_for_each(|sought| row(mca, "Mote", &mote, sought))?;
    if which("aarch64-linux-gnu-g++").is_some() {
        let llama = llama()?;
        OF_LLAMA.iter().try_for_each(|sought| row(mca, "llama.cpp", &llama, sought))?;
    } else {
        say("skipped: llama.cpp; `apt-get install --no-install-recommends g++-aarch64-linux-gnu`");
    }
    let Some(kleidiai) = kleidiai else {
        say("skipped: KleidiAI, without --kleidiai DIR");
        return Ok(());
    };
    for (file, sought) in &OF_KLEIDIAI {
        let path = format!("kai/ukernels/matmul/matmul_clamp_f32_qsi8d32p_qsi4c32p/kai_matmul_clamp_f32_{file}_asm.S");
        let object = folder()?.join(format!("{file}.o"));
        let mut assemble = Command::new("aarch64-linux-gnu-gcc");
        assemble.args(["-march=armv8.6-a", "-c"]).arg(kleidiai.join(path)).arg("-o").arg(&object);
        run(&mut assemble)?;
        row(mca, "KleidiAI", &disassembly(&object)?, sought)?;
    }
    Ok(())
}

/// The runtime's library. These symbols' names say which of a function's versions each is.
fn build() -> Result<PathBuf> {
    let folder = target_dir()?.join("aarch64-loops");
    let mut command = table::toolchain(AARCH64.target)?.cargo("build", AARCH64.target, "std,panic_unwind");
    command.current_dir(table::root()?).env("RUSTFLAGS", "-C symbol-mangling-version=v0");
    command.args(["--quiet", "--release", "--package", "mote-runtime", "--features", "std", "--target-dir"]);
    run(command.arg(&folder))?;
    Ok(folder.join(AARCH64.target).join("release/libmote_runtime.rlib"))
}

/// llama.cpp's kernels, fetched and compiled as its own build does, for a core with both instructions.
fn llama() -> Result<String> {
    let package = folder()?.join("llama-source");
    fs::create_dir_all(&package)?;
    let manifest = format!(
        "[package]\nname = \"source\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n[dependencies]\nllama-cpp-sys-2 = \"{LLAMA}\"\n[workspace]\n"
    );
    fs::write(package.join("Cargo.toml"), manifest)?;
    fs::write(package.join("lib.rs"), "")?;
    let mut metadata = cargo();
    metadata.args(["metadata", "--quiet", "--format-version", "1", "--manifest-path"]).arg(package.join("Cargo.toml"));
    let metadata: serde_json::Value = serde_json::from_str(&output(&mut metadata)?)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let found = packages.iter().find(|package| package["name"] == "llama-cpp-sys-2");
    let path = found.and_then(|package| package["manifest_path"].as_str()).context("no llama-cpp-sys-2")?;
    let ggml = Path::new(path).with_file_name("llama.cpp/ggml");
    let object = folder()?.join("llama-repack.o");
    let mut compile = Command::new("aarch64-linux-gnu-g++");
    compile.args(["-O3", "-std=c++17", "-march=armv8.6-a+dotprod+i8mm", "-D_GNU_SOURCE", "-w"]);
    for include in ["include", "src", "src/ggml-cpu"] {
        compile.arg("-I").arg(ggml.join(include));
    }
    run(compile.arg("-c").arg(ggml.join("src/ggml-cpu/arch/arm/repack.cpp")).arg("-o").arg(&object))?;
    disassembly(&object)
}

fn disassembly(object: &Path) -> Result<String> {
    output(Command::new("aarch64-linux-gnu-objdump").args(["-d", "-C", "--no-show-raw-insn"]).arg(object))
}

/// Finds a loop and prints its figures.
fn row(mca: &str, whose: &str, text: &str, (what, function, depth): &Sought) -> Result<()> {
    let all = instructions(text, function);
    let body = hottest(&all, *depth).with_context(|| format!("no loop in {function}"))?;
    let products: u64 = body.iter().map(products).sum();
    let mut cells = vec![format!("{:.3}", body.len() as f64 / products as f64)];
    let matrices = body.iter().any(|i| i.name == "smmla");
    for (_, core, has_matrices) in CORES {
        let cell = if matrices && !has_matrices {
            "-".to_owned()
        } else {
            format!("{:.3}", cycles(mca, core, body)? / products as f64)
        };
        cells.push(cell);
    }
    println!("| {whose} | {what} | {} |", cells.join(" | "));
    Ok(())
}

/// The instructions of a function. KleidiAI's labels are symbols, but no functions.
fn instructions<'a>(text: &'a str, function: &str) -> Vec<Instruction<'a>> {
    let function = function.replace("{}", MODULE);
    let is = |name: &str| name == function || (function.ends_with(' ') && name.starts_with(&function));
    let mut inside = false;
    let mut all = Vec::new();
    for line in text.lines() {
        if let Some((_, name)) = line.strip_suffix(">:").and_then(|line| line.split_once(" <")) {
            if !name.starts_with("label_") {
                inside = is(name);
            }
        } else if let (true, Some((address, rest))) = (inside, line.trim_start().split_once(":\t")) {
            let (name, operands) = rest.split_once('\t').unwrap_or((rest, ""));
            if let Ok(address) = u64::from_str_radix(address, 16) {
                all.push(Instruction { address, name: name.trim(), operands });
            }
        }
    }
    all
}

/// Products of two int8 that an instruction sums.
fn products(i: &Instruction<'_>) -> u64 {
    match i.name {
        "smmla" => 32,
        "sdot" => 16,
        "smull" | "smull2" | "smlal" | "smlal2" if i.operands.contains(".8h") => 8,
        _ => 0,
    }
}

/// The loop of `depth` loops in one another with the most products; of several the shortest.
fn hottest<'i, 'a>(all: &'i [Instruction<'a>], depth: usize) -> Option<&'i [Instruction<'a>]> {
    let target = |i: &Instruction<'_>| {
        let (before, _) = i.operands.split_once(" <")?;
        let address = before.rsplit([' ', ',', '\t']).next()?;
        u64::from_str_radix(address, 16).ok().filter(|_| i.name.starts_with(['b', 'c', 't']) && i.name != "bl")
    };
    let mut loops = Vec::new();
    for (last, i) in all.iter().enumerate() {
        let first = target(i).and_then(|to| all[..=last].iter().position(|i| i.address == to));
        loops.extend(first.map(|first| first..last + 1));
    }
    loops.sort_by_key(|range| range.len());
    let mut depths: Vec<usize> = Vec::new();
    for (at, outer) in loops.iter().enumerate() {
        let within = loops[..at].iter().zip(&depths);
        let within = within.filter(|(inner, _)| outer.start <= inner.start && inner.end <= outer.end);
        depths.push(within.map(|(_, depth)| depth + 1).max().unwrap_or(0));
    }
    let chosen = loops.iter().zip(&depths).filter(|(_, found)| **found == depth);
    let body = chosen.map(|(range, _)| &all[range.clone()]);
    body.max_by_key(|body| (body.iter().map(products).sum::<u64>(), usize::MAX - body.len()))
        .filter(|body| body.iter().map(products).sum::<u64>() > 0)
}

/// Cycles of one pass, of 200 one after the other. Each branch is taken for one back to the start.
fn cycles(mca: &str, core: &str, body: &[Instruction<'_>]) -> Result<f64> {
    const PASSES: u32 = 200;
    let mut source = String::from("0:\n");
    for i in body {
        let operands = match i.operands.split_once(" <") {
            Some((before, _)) => {
                let kept = before.rfind(',').map_or("", |comma| &before[..=comma]);
                format!("{kept} 0b")
            }
            None => i.operands.split("//").next().unwrap_or_default().to_owned(),
        };
        source.push_str(&format!("{} {operands}\n", i.name));
    }
    let mut command = Command::new(mca);
    command.args(["-mtriple=aarch64", &format!("-mcpu={core}"), "-mattr=+dotprod,+i8mm"]);
    command.args([&format!("-iterations={PASSES}"), "-instruction-info=0", "-resource-pressure=0"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {mca}"))?;
    child.stdin.take().context("no input")?.write_all(source.as_bytes())?;
    let out = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    let total = text.lines().find_map(|line| line.strip_prefix("Total Cycles:")).map(str::trim);
    let total: f64 = total.and_then(|n| n.parse().ok()).with_context(|| format!("{mca} says\n{text}\nof\n{source}"))?;
    Ok(total / f64::from(PASSES))
}
