//! Boards: the table `boards/boards.toml`, firmware with a model in it, and running that on a board.
//!
//! ```text
//! table()  boards.toml             -> rows
//! build()  row + image + limits    -> ELF       (cargo, with whichever toolchain can build for the row's target)
//! run()    row + ELF + arguments   -> lines     (the row's runner: an emulator or a flashing tool)
//! ```
//!
//! Needs only `std`, `anyhow`, `toml` and the runtime, so that `xtask` includes this file instead of building all of the
//! quantizer.

use anyhow::{Context, Result, bail};
use mote_runtime::image::plan::Kind;
use mote_runtime::image::program::entry;
use mote_runtime::image::{Dtype, TensorDesc, section, tensors};
use mote_runtime::ops::{self, Set};
use mote_runtime::text::Tokenizer;
use mote_runtime::{Image, Limits};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

/// A stretch of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Region {
    /// Whether `[start, start + bytes)` lies in it.
    #[must_use]
    pub fn holds(&self, start: u64, bytes: u64) -> bool {
        start >= self.base && start.checked_add(bytes).is_some_and(|end| end <= self.base + self.bytes)
    }
}

/// A row of the table; `boards.toml` says what the fields mean.
#[derive(Clone, Debug)]
pub struct Board {
    /// Name of board and package.
    pub name: String,
    /// For people.
    pub description: String,
    /// Folder beside the table.
    pub folder: String,
    /// Target triple.
    pub target: String,
    /// What code is compiled for, if that is more than the target says.
    pub cpu: Option<String>,
    /// Core, as people call it.
    pub core: String,
    /// Clock of the counter.
    pub clock_hz: u64,
    /// Code.
    pub flash: Region,
    /// Model.
    pub image: Region,
    /// Memory.
    pub ram: Region,
    /// Most that runtime and firmware take, for each of [`FEATURES`].
    pub firmware: [Footprint; FEATURES.len()],
    /// The command that runs an ELF, with `{elf}` and `{line}` in it.
    pub runner: Vec<String>,
}

/// Bytes of runtime and firmware, without the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Flash: code and constants.
    pub flash: u64,
    /// RAM besides the arena, the stack included.
    pub ram: u64,
}

/// What firmware can be built to run: features of the boards' packages, and the sets of ops that each brings. Of these only
/// the image's are linked.
pub const FEATURES: [(&str, &[Set]); 2] = [("decoder", &[&ops::DECODER]), ("convnet", &[&ops::CONVNET, &ops::CODED])];

/// The features, by name, that firmware for this image has.
#[must_use]
pub fn features(image: &Image<'_>) -> Vec<&'static str> {
    let used = |sets: &[Set]| {
        let known = |code| sets.iter().copied().flatten().any(|def| def.code == code);
        image.program().ops().any(|op| known(op.code))
    };
    // Inputs and outputs come with the ops of nets, also where the ops are those of language models (word vectors).
    let ports = |name: &str| name == "convnet" && image.program().entry(entry::RUN).is_ok();
    FEATURES.iter().filter(|(name, sets)| used(sets) || ports(name)).map(|(name, _)| *name).collect()
}

/// Whether an image needs it.
type Needs = fn(&Image<'_>) -> bool;

/// Formats that firmware is built without unless its image needs them, by the features of mote-board-support.
const FORMATS: [(&str, Needs); 9] = [
    ("t3", |image| has(image, Dtype::T3)),
    ("n4", |image| has(image, Dtype::N4)),
    ("t4", |image| has(image, Dtype::T4)),
    ("n5", |image| has(image, Dtype::N5)),
    ("n8", |image| has(image, Dtype::N8)),
    ("wide", |image| {
        has_tensor(image, |tensor| tensor.dtype.code_bits().is_some() && tensors::is_wide(tensor.dims[1]))
    }),
    ("int16", |image| has_slot(image, Kind::I16)),
    ("cache4", |image| has_slot(image, Kind::Cache4)),
    ("wordpiece", |image| {
        let text = image.section(section::TEXT).ok();
        text.and_then(|text| Tokenizer::open(text).ok()).is_some_and(|tokenizer| tokenizer.is_wordpiece())
    }),
];

fn has_slot(image: &Image<'_>, kind: Kind) -> bool {
    (0..image.plan().slots).any(|at| image.slot(at).is_ok_and(|slot| slot.kind == kind))
}

fn has(image: &Image<'_>, dtype: Dtype) -> bool {
    has_tensor(image, |tensor| tensor.dtype == dtype)
}

fn has_tensor(image: &Image<'_>, is: impl Fn(&TensorDesc) -> bool) -> bool {
    (0..image.tensor_count()).any(|at| image.tensor(at).is_ok_and(|tensor| is(&tensor)))
}

impl Board {
    /// Most that a firmware with these features takes.
    #[must_use]
    pub fn most(&self, features: &[&str]) -> Footprint {
        let rows = FEATURES.iter().zip(&self.firmware).filter(|((name, _), _)| features.contains(name));
        rows.fold(Footprint::default(), |sum, (_, f)| Footprint { flash: sum.flash + f.flash, ram: sum.ram + f.ram })
    }
}

/// What to build into the firmware. `None` leaves the support crate's default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Firmware<'a> {
    /// The model; without one the firmware only says that there is none.
    pub image: Option<&'a Path>,
    /// Without a model: the feature, all of whose ops are linked; `None`: every feature.
    pub feature: Option<&'a str>,
    /// Tokens a step.
    pub batch: Option<u32>,
    /// Positions of the cache.
    pub context: Option<u32>,
    /// With work in pieces (`--steps`).
    pub steps: bool,
    /// As if the model had been checked (which it is, if there is one): without any check of it.
    pub vouched: bool,
    /// Instead of the application this example of the board's package.
    pub example: Option<&'a str>,
}

/// Firmware with every op of a feature, for no image: for each of [`FEATURES`], with checks of images and without.
pub fn with_every_op() -> impl Iterator<Item = Firmware<'static>> {
    let both = |(name, _): &(&'static str, _)| {
        [false, true].map(|vouched| Firmware { feature: Some(name), vouched, ..Firmware::default() })
    };
    FEATURES.iter().flat_map(both)
}

/// The repository: `$MOTE_ROOT`, or the nearest folder upwards from here (or from where this was compiled) that has
/// `boards/boards.toml`.
///
/// # Errors
/// There is none.
pub fn root() -> Result<PathBuf> {
    let named = env::var_os("MOTE_ROOT").map(PathBuf::from);
    let starts = [named, env::current_dir().ok(), Some(PathBuf::from(env!("CARGO_MANIFEST_DIR")))];
    let has_table = |folder: &&Path| folder.join("boards/boards.toml").is_file();
    let found = starts.iter().flatten().find_map(|start| start.ancestors().find(has_table));
    let found = found
        .context("no boards/boards.toml in this folder or above: run inside Mote's repository, or set MOTE_ROOT")?;
    Ok(found.to_path_buf())
}

/// A file of the shared data beside the repository (`$MOTE_SHARED`, or `../shared/data`), if it is there.
///
/// # Errors
/// There is no repository.
pub fn shared(file: &str) -> Result<Option<PathBuf>> {
    let data = match env::var_os("MOTE_SHARED") {
        Some(folder) => PathBuf::from(folder).join("data"),
        None => root()?.join("../shared/data"),
    };
    Ok(Some(data.join(file)).filter(|path| path.is_file()))
}

/// Reads the table.
///
/// # Errors
/// It cannot be read, or a row lacks a field.
pub fn table(root: &Path) -> Result<Vec<Board>> {
    let path = root.join("boards/boards.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let table: toml::Table = text.parse().with_context(|| format!("{} is no TOML", path.display()))?;
    let rows = table.get("board").and_then(toml::Value::as_array).context("boards.toml has no [[board]]")?;
    rows.iter().enumerate().map(|(i, row)| read_row(row).with_context(|| format!("boards.toml, board {i}"))).collect()
}

fn read_row(row: &toml::Value) -> Result<Board> {
    let text = |key: &str| {
        let value = row.get(key).and_then(toml::Value::as_str);
        value.map(str::to_owned).with_context(|| format!("no text \"{key}\""))
    };
    let number = |value: &toml::Value| value.as_integer().and_then(|n| u64::try_from(n).ok());
    let count = |key: &str| row.get(key).and_then(number).with_context(|| format!("no number \"{key}\""));
    let region = |key: &str| {
        let numbers: Option<Vec<u64>> = row.get(key).and_then(|v| v.as_array()?.iter().map(number).collect());
        match numbers.as_deref() {
            Some([base, bytes]) => Ok(Region { base: *base, bytes: *bytes }),
            _ => bail!("\"{key}\" is not [base, bytes]"),
        }
    };
    let mut firmware = [Footprint::default(); FEATURES.len()];
    for (most, (name, _)) in firmware.iter_mut().zip(FEATURES) {
        let bytes = |key: &str| row.get("firmware")?.get(name)?.get(key).and_then(number);
        let missing = || format!("no numbers firmware.{name}.flash and .ram");
        let (flash, ram) = bytes("flash").zip(bytes("ram")).with_context(missing)?;
        *most = Footprint { flash, ram };
    }
    let runner = row.get("runner").and_then(toml::Value::as_array).context("no list \"runner\"")?;
    let runner: Option<Vec<String>> = runner.iter().map(|word| word.as_str().map(str::to_owned)).collect();
    Ok(Board {
        name: text("name")?,
        description: text("description")?,
        folder: text("folder")?,
        target: text("target")?,
        cpu: row.get("cpu").map(|_| text("cpu")).transpose()?,
        core: text("core")?,
        clock_hz: count("clock_hz")?,
        flash: region("flash")?,
        image: region("image")?,
        ram: region("ram")?,
        firmware,
        runner: runner.filter(|r| !r.is_empty()).context("\"runner\" is not a list of words")?,
    })
}

/// The row of this name.
///
/// # Errors
/// There is none; the message lists those that there are.
pub fn find(root: &Path, name: &str) -> Result<Board> {
    let boards = table(root)?;
    let names: Vec<&str> = boards.iter().map(|b| b.name.as_str()).collect();
    let unknown = format!("no board \"{name}\"; there are {}", names.join(", "));
    boards.into_iter().find(|b| b.name == name).context(unknown)
}

/// A toolchain that can build for a target.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// Folder to put first on the path; none for the path as it is.
    bin: Option<PathBuf>,
    /// Whether the standard library must be built from source.
    build_std: bool,
    /// A linker for bare-metal targets.
    lld: Option<PathBuf>,
}

/// Finds a toolchain for `target`: the path's own if it has the target (`rustup target add`), else any that has the
/// standard library's source: the path's (`rustup component add rust-src`) or Debian's in /usr/bin (`rust-web-src`).
///
/// # Errors
/// There is none; the message says how to get one.
pub fn toolchain(target: &str) -> Result<Toolchain> {
    let places = [None, Some(PathBuf::from("/usr/bin"))];
    let with_target = places
        .iter()
        .find(|bin| print(bin.as_deref(), &["target-libdir", "--target", target]).is_some_and(|d| d.is_dir()));
    let with_source =
        || places.iter().find(|bin| print(bin.as_deref(), &["sysroot"]).is_some_and(|s| s.join(SOURCE).is_dir()));
    let (bin, build_std) = match with_target {
        Some(bin) => (bin.clone(), false),
        None => (
            with_source()
                .cloned()
                .with_context(|| format!("no Rust toolchain for {target}: run `cargo xtask setup`"))?,
            true,
        ),
    };
    let lld = places.iter().find_map(|bin| {
        let tools = print(bin.as_deref(), &["target-libdir"])?.parent()?.join("bin/rust-lld");
        tools.is_file().then_some(tools)
    });
    let lld = lld.or_else(|| Some(PathBuf::from("/usr/bin/ld.lld")).filter(|p| p.is_file()));
    Ok(Toolchain { bin, build_std, lld })
}

const SOURCE: &str = "lib/rustlib/src/rust/library";

/// What `rustc --print WHAT` answers, if there is such a rustc.
fn print(bin: Option<&Path>, what: &[&str]) -> Option<PathBuf> {
    let rustc = bin.map_or_else(|| PathBuf::from("rustc"), |bin| bin.join("rustc"));
    let out = Command::new(rustc).arg("--print").args(what).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    out.status.success().then(|| PathBuf::from(text.trim()))
}

/// The environment variable that sets something of Cargo's for a target.
fn target_variable(target: &str, what: &str) -> String {
    format!("CARGO_TARGET_{}_{what}", target.to_uppercase().replace(['-', '.'], "_"))
}

impl Toolchain {
    /// A cargo command that builds for `target`; `std` names the libraries it needs (`core`, or `std,panic_unwind`).
    #[must_use]
    pub fn cargo(&self, verb: &str, target: &str, std: &str) -> Command {
        let program = self.bin.as_deref().map_or_else(|| PathBuf::from("cargo"), |bin| bin.join("cargo"));
        let mut cargo = Command::new(program);
        cargo.args([verb, "--target", target]);
        // What an outer cargo or rustup has set is about another toolchain.
        for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTC_WRAPPER", "CARGO_BUILD_TARGET"] {
            cargo.env_remove(name);
        }
        if let Some(bin) = &self.bin {
            let mut path = bin.clone().into_os_string();
            path.push(":");
            path.push(env::var_os("PATH").unwrap_or_default());
            cargo.env("PATH", path).env_remove("RUSTUP_TOOLCHAIN");
        }
        if self.build_std {
            // The project is stable Rust; this is for the one unstable flag.
            cargo.env("RUSTC_BOOTSTRAP", "1").arg(format!("-Zbuild-std={std}"));
        }
        let wasm = target.starts_with("wasm32-unknown-");
        if let Some(lld) = self.lld.as_ref().filter(|_| wasm || target.contains("-none-")) {
            // rust-lld is told what it links, Debian's goes by its name.
            let lld = if wasm && lld.ends_with("ld.lld") { &lld.with_file_name("wasm-ld") } else { lld };
            cargo.env(target_variable(target, "LINKER"), lld);
        }
        cargo
    }

    /// The folder it was found in, if that is not simply the path's.
    #[must_use]
    pub fn bin(&self) -> Option<&Path> {
        self.bin.as_deref()
    }

    /// Whether it makes the standard library from source, which has no C library in it.
    #[must_use]
    pub fn builds_std(&self) -> bool {
        self.build_std
    }

    /// In words.
    #[must_use]
    pub fn describe(&self) -> String {
        let place =
            self.bin.as_deref().map_or_else(|| "cargo on the path".into(), |b| format!("{}/cargo", b.display()));
        format!("{place}{}", if self.build_std { ", standard library from source" } else { "" })
    }
}

/// Where firmware is built: `$CARGO_TARGET_DIR/boards`, or `boards/target`.
#[must_use]
pub fn target_dir(root: &Path) -> PathBuf {
    let named = env::var_os("CARGO_TARGET_DIR").map(|dir| PathBuf::from(dir).join("boards"));
    let dir = named.unwrap_or_else(|| root.join("boards/target"));
    // Cargo and runners work in folders of their own.
    std::path::absolute(&dir).unwrap_or(dir)
}

/// The features that firmware is built with, of [`FEATURES`]; and of its formats.
fn chosen(firmware: Firmware<'_>) -> Result<(Vec<&'static str>, Vec<&'static str>)> {
    let Some(path) = firmware.image else {
        let named = FEATURES.iter().map(|(name, _)| *name).filter(|name| firmware.feature.is_none_or(|f| f == *name));
        return Ok((named.collect(), vec!["formats"]));
    };
    let bytes = fs::read(path).with_context(|| format!("no image {}", path.display()))?;
    let image = Image::open(&bytes).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))?;
    let formats = FORMATS.iter().filter(|(_, needs)| needs(&image)).map(|(name, _)| *name);
    Ok((features(&image), formats.collect()))
}

/// A cargo command over one board of the boards' workspace, with `firmware` in its environment.
///
/// # Errors
/// There is no toolchain, or no such image.
pub fn cargo(root: &Path, board: &Board, verb: &str, firmware: Firmware<'_>) -> Result<Command> {
    let mut cargo = toolchain(&board.target)?.cargo(verb, &board.target, "core");
    cargo.current_dir(root.join("boards")).args(["--release", "--package", &board.name, "--target-dir"]);
    let (features, mut formats) = chosen(firmware)?;
    // An image that is there while the firmware is built is checked then and there.
    formats.extend((firmware.vouched || firmware.image.is_some()).then_some("vouched"));
    let of_support = formats.into_iter().map(|name| format!("mote-board-support/{name}"));
    let steps = firmware.steps.then(|| "mote-board-support/steps".to_owned());
    let all: Vec<String> = features.into_iter().map(str::to_owned).chain(of_support).chain(steps).collect();
    cargo.arg(target_dir(root)).args(["--no-default-features", "--features", &all.join(",")]);
    if let Some(cpu) = &board.cpu {
        // Cargo adds the flags of boards/.cargo/config.toml.
        cargo.env(target_variable(&board.target, "RUSTFLAGS"), format!("-Ctarget-cpu={cpu}"));
    }
    for name in ["MOTE_IMAGE", "MOTE_BATCH", "MOTE_CONTEXT", "MOTE_ARENA_BYTES", "MOTE_OPS"] {
        cargo.env_remove(name);
    }
    if let Some(image) = firmware.image {
        let path = fs::canonicalize(image).with_context(|| format!("no image {}", image.display()))?;
        cargo.env("MOTE_IMAGE", path);
    }
    for (name, value) in [("MOTE_BATCH", firmware.batch), ("MOTE_CONTEXT", firmware.context)] {
        if let Some(value) = value {
            cargo.env(name, value.to_string());
        }
    }
    Ok(cargo)
}

/// Why an image does not fit a board, with the limits of `firmware`; `None` if it does.
///
/// # Errors
/// There is no such image.
pub fn lack(board: &Board, firmware: Firmware<'_>) -> Result<Option<String>> {
    let Some(path) = firmware.image else { return Ok(None) };
    let bytes = fs::read(path).with_context(|| format!("no image {}", path.display()))?;
    let image = Image::open(&bytes).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))?;
    let (batch, context) = if image.plan().takes_tokens() { (8, 256) } else { (1, 1) };
    let limits =
        Limits { batch: firmware.batch.unwrap_or(batch), context: firmware.context.unwrap_or(context), threads: 1 };
    let arena = image.arena_bytes(limits).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))?;
    let needs = [
        ("flash for a model", bytes.len() as u64, board.image.bytes),
        ("RAM", arena + board.most(&features(&image)).ram, board.ram.bytes),
    ];
    let name = path.file_stem().unwrap_or_default().display();
    Ok(needs.into_iter().find(|(_, needed, there)| needed > there).map(|(what, needed, there)| {
        format!("{name} on {}: it needs {needed} bytes of {what}, of which there are {there}", board.name)
    }))
}

/// A firmware that has been built.
#[derive(Clone, Debug)]
pub struct Built {
    /// The program.
    pub elf: PathBuf,
    /// What it was built for.
    pub features: Vec<&'static str>,
}

/// Builds the firmware. Cargo's messages go to stderr.
///
/// # Errors
/// The image does not fit the board, there is no toolchain, or the build fails.
pub fn build(root: &Path, board: &Board, firmware: Firmware<'_>) -> Result<Built> {
    if let Some(image) = firmware.image {
        let bytes = fs::metadata(image).with_context(|| format!("no image {}", image.display()))?.len();
        if bytes > board.image.bytes {
            bail!("{} has {bytes} bytes; {} has {} for a model", image.display(), board.name, board.image.bytes);
        }
    }
    let mut cargo = cargo(root, board, "build", firmware)?;
    let name = match firmware.example {
        Some(name) => {
            cargo.args(["--example", name]);
            format!("examples/{name}")
        }
        None => board.name.clone(),
    };
    if !cargo.arg("--quiet").status().context("cannot start cargo")?.success() {
        bail!("the firmware for {} did not build (its messages are above)", board.name);
    }
    let elf = target_dir(root).join(&board.target).join("release").join(name);
    Ok(Built { elf, features: chosen(firmware)?.0 })
}

/// Runs a firmware on its board; `line` is the firmware's command line (`boards/support/src/command.rs`). `emit` gets each
/// line of output as it comes. Returns the firmware's exit code.
///
/// # Errors
/// The runner cannot be started, or its output not be read.
pub fn run(board: &Board, built: &Built, line: &str, emit: &mut dyn FnMut(&str)) -> Result<i32> {
    run_in(Path::new("."), board, built, line, emit)
}

/// As [`run`], in `folder`: files that `line` names are looked for and written there.
///
/// # Errors
/// As [`run`].
pub fn run_in(folder: &Path, board: &Board, built: &Built, line: &str, emit: &mut dyn FnMut(&str)) -> Result<i32> {
    let elf = built.elf.as_path();
    let tables = root()?.join("boards");
    let doubled = line.replace(',', ",,");
    let fill = |word: &String| -> OsString {
        if word == "{elf}" {
            return elf.into();
        }
        let word = word.replace("{elf}", &elf.to_string_lossy()).replace("{folder}", &tables.to_string_lossy());
        word.replace("{words}", line).replace("{line}", &doubled).into()
    };
    let words: Vec<OsString> = board.runner.iter().map(fill).collect();
    let (program, args) = words.split_first().context("the board has no runner")?;
    let mut child = Command::new(program)
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}: run `cargo xtask setup`", program.display()))?;
    let mut out = BufReader::new(child.stdout.take().context("the runner has no output")?);
    let mut bytes = Vec::new();
    while out.read_until(b'\n', &mut bytes)? > 0 {
        emit(String::from_utf8_lossy(&bytes).trim_end_matches('\n'));
        bytes.clear();
    }
    let status = child.wait()?;
    status.code().with_context(|| format!("{} was killed ({status})", OsStr::new(program).display()))
}

/// The value of `key` in lines `key=value`.
#[must_use]
pub fn value<'l>(lines: &'l [String], key: &str) -> Option<&'l str> {
    lines.iter().rev().find_map(|l| l.strip_prefix(key)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_and_its_regions_are_apart() {
        let boards = table(&root().expect("in the repository")).expect("table");
        for board in &boards {
            assert!(!board.flash.holds(board.image.base, 1) && !board.ram.holds(board.image.base, 1), "{}", board.name);
            assert_eq!(board.image.base % 64, 0, "{}", board.name);
            assert!(board.runner.iter().any(|w| w.contains("{elf}")), "{}", board.name);
            let both = board.most(&["decoder", "convnet"]).flash;
            assert_eq!(both, board.most(&["decoder"]).flash + board.most(&["convnet"]).flash);
            assert!(both <= board.flash.bytes, "{}", board.name);
        }
        assert!(boards.len() >= 3);
    }

    #[test]
    fn values() {
        let lines = ["a=1".to_owned(), "ab=2".to_owned(), "text a=3".to_owned()];
        assert_eq!((value(&lines, "a"), value(&lines, "ab"), value(&lines, "b")), (Some("1"), Some("2"), None));
    }
}
