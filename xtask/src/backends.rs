//! Every backend of aarch64 gives the scalar kernels' bits: the runtime's own tests, built for aarch64 Linux, on emulated cores with
//! and without the instructions. This host's own backends are tested by cargo's tests.

use crate::digest::{aarch64, target_dir};
use crate::setup::AARCH64;
use crate::shell::output;
use crate::table;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// The tests that go over all backends.
const TESTS: [&str; 3] = ["backends", "convnet", "matmul"];

/// Emulated cores, and the kernels that each must be seen to have.
const CORES: [(&str, &str); 3] = [
    ("max", "aarch64-i8-i8mm,aarch64-i8-dotprod,aarch64-i8-neon,any-i8-scalar"),
    ("cortex-a76", "aarch64-i8-dotprod,aarch64-i8-neon,any-i8-scalar"),
    ("cortex-a53", "aarch64-i8-neon,any-i8-scalar"),
];

/// Builds the tests once and runs them on each core. Returns how many tests passed.
pub fn check() -> Result<usize> {
    let mut passed = 0;
    for test in build()? {
        for (core, names) in CORES {
            let mut command = aarch64(core, &test);
            let printed = output(command.env("MOTE_EXPECTED_KERNELS", names))?;
            passed += count(&printed).with_context(|| format!("{} says nothing:\n{printed}", test.display()))?;
        }
    }
    Ok(passed)
}

/// The tests' programs.
fn build() -> Result<Vec<PathBuf>> {
    let folder = target_dir()?.join("aarch64");
    let mut command = table::toolchain(AARCH64)?.cargo("test", AARCH64, "std,panic_unwind,test");
    command.current_dir(table::root()?).env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc");
    command.args(["--quiet", "--release", "--package", "mote-runtime", "--no-run", "--message-format", "json"]);
    TESTS.iter().for_each(|test| {
        command.args(["--test", test]);
    });
    let messages = output(command.arg("--target-dir").arg(&folder))?;
    let programs = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(|program| Path::new(program).to_owned())
    });
    let programs: Vec<_> = programs.collect();
    if programs.len() == TESTS.len() { Ok(programs) } else { bail!("cargo built {programs:?} of {TESTS:?}") }
}

/// The number in `test result: ok. 4 passed; ...`.
fn count(printed: &str) -> Option<usize> {
    printed.split_once("test result: ok. ")?.1.split_once(' ')?.0.parse().ok()
}
