//! `setup`: finds or installs what the tests need. Safe to run again: what is there is left alone.
//!
//! Rust targets come from rustup where it can reach its server; otherwise from Debian's compiler, which brings the
//! standard library's source. Emulators and C libraries come from apt, the emulator of the rp2040 from npm where there is one:
//! without Node.js its tests are skipped.

use crate::hosts::{AARCH64, RISCV64};
use crate::shell::{run, say, succeeds, which};
use crate::table::Board;
use crate::{peers, python, table, web};
use anyhow::{Result, bail};
use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Debian's compiler, and its linter for `ci`.
const RUST_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"];

/// A file that shows that a package is there; the package. A name without a slash is looked for on the path.
const TOOLS: [(&str, &str); 5] = [
    ("qemu-system-arm", "qemu-system-arm"),
    ("qemu-system-riscv32", "qemu-system-misc"),
    ("qemu-aarch64", "qemu-user"),
    ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    ("/usr/aarch64-linux-gnu/lib/libc.so", "libc6-dev-arm64-cross"),
];

/// The same for riscv64 Linux, whose tests are skipped without.
const RISCV64_TOOLS: [(&str, &str); 3] = [
    (RISCV64.emulator, "qemu-user"),
    (RISCV64.linker, "gcc-riscv64-linux-gnu"),
    ("/usr/riscv64-linux-gnu/lib/libc.so", "libc6-dev-riscv64-cross"),
];

/// The emulator of the rp2040, for Node.js: a package of npm, installed where firmware is built (`boards/rp2040/run.mjs`).
const RP2040JS: &str = "rp2040js@1.4.1";

/// Runs the verb.
pub fn main(args: &[String]) -> Result<()> {
    ensure()?;
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Ok(()),
        ["--peers"] => {
            python::ensure()?;
            peers::program().map(|program| say(&format!("peers: {}", program.display())))
        }
        _ => bail!("setup takes nothing, or --peers"),
    }
}

/// Targets and emulators; tests also take a [`browser`].
pub fn ensure() -> Result<()> {
    let mut packages: Vec<&str> =
        TOOLS.iter().filter(|(file, _)| !is_there(file)).map(|(_, package)| *package).collect();
    let root = table::root()?;
    let mut targets: BTreeSet<String> = table::table(&root)?.into_iter().map(|b| b.target).collect();
    targets.insert(AARCH64.target.to_owned());
    targets.extend(web::TARGETS.map(str::to_owned));
    let missing: Vec<&String> = targets.iter().filter(|t| table::toolchain(t).is_err()).collect();
    if !missing.is_empty() && !rustup_adds(&missing) {
        packages.extend(RUST_PACKAGES);
        if which("ld.lld").is_none() {
            packages.push("lld");
        }
    }
    packages.extend(targets.iter().find_map(|target| linter(target)));
    if !packages.is_empty() {
        apt_install(&packages)?;
    }
    for target in &targets {
        say(&format!("{target}: {}", table::toolchain(target)?.describe()));
    }
    for (file, _) in TOOLS {
        if !is_there(file) {
            bail!("{file} is still missing");
        }
    }
    say("emulators and the aarch64 C library are there");
    if let Err(why) = riscv64() {
        say(&format!("tests of riscv64 will be skipped: {why:#}"));
    }
    if which("npm").is_some() && !is_installed(RP2040JS)? {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--save-exact", "--prefix"]).arg(table::target_dir(&root));
        if let Err(why) = run(npm.arg(RP2040JS)) {
            say(&format!("tests on the rp2040 will be skipped: {why:#}"));
        }
    }
    Ok(())
}

/// The package of the linter, if Debian's compiler builds for `target` and has none.
fn linter(target: &str) -> Option<&'static str> {
    let is_debian = table::toolchain(target).is_ok_and(|toolchain| toolchain.bin().is_some());
    (is_debian && !is_there("/usr/bin/cargo-clippy")).then_some("rust-web-clippy")
}

/// What builds for riscv64 Linux and runs that.
fn riscv64() -> Result<()> {
    let missing = RISCV64_TOOLS.iter().filter(|(file, _)| !is_there(file));
    let mut packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if table::toolchain(RISCV64.target).is_err() && !rustup_adds(&[&RISCV64.target.to_owned()]) {
        packages.extend(RUST_PACKAGES);
    }
    packages.extend(linter(RISCV64.target));
    if !packages.is_empty() {
        apt_install(&packages)?;
    }
    say(&format!("{}: {}", RISCV64.target, table::toolchain(RISCV64.target)?.describe()));
    Ok(())
}

/// Chromium, which tests look at pages with; they skip themselves without one.
pub fn browser() {
    if which("chromium").is_none()
        && which("google-chrome").is_none()
        && let Err(why) = apt_install(&["chromium"])
    {
        say(&format!("tests in a browser will be skipped: {why:#}"));
    }
}

/// Whether the package of npm is there, in this version.
fn is_installed(package: &str) -> Result<bool> {
    let Some((name, version)) = package.rsplit_once('@') else { return Ok(false) };
    let about: PathBuf = table::target_dir(&table::root()?).join("node_modules").join(name).join("package.json");
    let text = std::fs::read_to_string(about).unwrap_or_default();
    Ok(text.contains(&format!("\"version\": \"{version}\"")))
}

/// Whether this machine has what runs firmware of this board.
pub fn runs(board: &Board) -> Result<bool> {
    let program = board.runner.first().map_or("", String::as_str);
    Ok(which(program).is_some() && (program != "node" || is_installed(RP2040JS)?))
}

/// Whether there is this file, or a program of this name on the path.
pub fn is_there(file: &str) -> bool {
    if file.contains('/') { Path::new(file).is_file() } else { which(file).is_some() }
}

/// `rustup target add`, if rustup is here and answers soon.
fn rustup_adds(targets: &[&String]) -> bool {
    if which("rustup").is_none() {
        say("no rustup: taking Debian's Rust for the other targets");
        return false;
    }
    let server = env::var("RUSTUP_DIST_SERVER").unwrap_or_else(|_| "https://static.rust-lang.org".into());
    let mut probe = Command::new("curl");
    probe
        .args(["--silent", "--fail", "--head", "--max-time", "8"])
        .arg(format!("{server}/dist/channel-rust-stable.toml.sha256"));
    // Without curl rustup itself finds out, within its limit.
    if which("curl").is_some() && !succeeds(probe.stdout(Stdio::null()), Duration::from_secs(10)) {
        say(&format!("rustup cannot reach {server}: taking Debian's Rust for the other targets"));
        return false;
    }
    say(&format!("rustup target add {}", targets.iter().map(|t| t.as_str()).collect::<Vec<_>>().join(" ")));
    let added = succeeds(Command::new("rustup").args(["target", "add"]).args(targets), Duration::from_secs(300));
    if !added {
        say("rustup target add failed: taking Debian's Rust for the other targets");
    }
    added
}

/// Installs Debian packages.
pub fn apt_install(packages: &[&str]) -> Result<()> {
    let by_hand = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    if which("apt-get").is_none() {
        bail!(
            "missing: {}. This machine has no apt-get; install what provides these Debian packages",
            packages.join(" ")
        );
    }
    // `id -u` is root's own answer to whether this is root.
    let root = Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.trim_ascii() == b"0");
    if !root && which("sudo").is_none() {
        bail!("neither root nor sudo. As root: {by_hand}");
    }
    let apt = || {
        let mut command = if root { Command::new("apt-get") } else { Command::new("sudo") };
        if !root {
            command.arg("apt-get");
        }
        command.env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        command
    };
    run(apt().arg("update"))?;
    run(apt().args(["install", "--yes", "--no-install-recommends"]).args(packages))
}
