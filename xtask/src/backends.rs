//! Every backend of other hosts gives the scalar kernels' bits: the runtime's own tests, built for their Linux, on emulated cores with
//! and without the instructions. This host's own backends are tested by cargo's tests.

use crate::hosts::{AARCH64, Host, RISCV64};
use crate::shell::{output, say};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// The tests that go over all backends.
const TESTS: [&str; 3] = ["backends", "convnet", "matmul"];

/// An emulated core, and the kernels that it must be seen to have.
type Core = (&'static str, &'static str);

const AARCH64_CORES: [Core; 3] = [
    ("max", "aarch64-i8-i8mm,aarch64-i8-dotprod,aarch64-i8-neon,any-i8-scalar"),
    ("cortex-a76", "aarch64-i8-dotprod,aarch64-i8-neon,any-i8-scalar"),
    ("cortex-a53", "aarch64-i8-neon,any-i8-scalar"),
];

/// With registers of 128 bits, of 256, and without vectors. Elements that an instruction leaves open become ones, which real cores may
/// do.
const RISCV64_CORES: [Core; 3] = [
    ("rv64,v=true,vext_spec=v1.0,vlen=128,rvv_ta_all_1s=true,rvv_ma_all_1s=true", "riscv64-i8-rvv,any-i8-scalar"),
    ("rv64,v=true,vext_spec=v1.0,vlen=256,rvv_ta_all_1s=true,rvv_ma_all_1s=true", "riscv64-i8-rvv,any-i8-scalar"),
    ("rv64", "any-i8-scalar"),
];

/// Builds the tests once for each host and runs them on each core. Returns how many tests passed.
pub fn check() -> Result<usize> {
    let mut passed = 0;
    for (host, cores) in [(AARCH64, AARCH64_CORES), (RISCV64, RISCV64_CORES)] {
        if !host.is_there() {
            say(&format!("skipped: backends of {}", host.target));
            continue;
        }
        for test in build(&host)? {
            for (core, names) in cores {
                let printed = output(host.run(core, &test).env("MOTE_EXPECTED_KERNELS", names))?;
                passed += count(&printed).with_context(|| format!("{} says nothing:\n{printed}", test.display()))?;
            }
        }
    }
    Ok(passed)
}

/// The tests' programs.
pub fn build(host: &Host) -> Result<Vec<PathBuf>> {
    let mut command = host.cargo("test", "std,panic_unwind,test")?;
    command.args(["--package", "mote-runtime", "--no-run", "--message-format", "json"]);
    TESTS.iter().for_each(|test| {
        command.args(["--test", test]);
    });
    let messages = output(&mut command)?;
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
