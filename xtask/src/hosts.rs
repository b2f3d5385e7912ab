//! Linux on other processors: what builds for it here, and what runs that.

use crate::digest::target_dir;
use crate::shell::run;
use crate::{setup, table};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A processor whose Linux programs are built and emulated.
pub struct Host {
    /// The processor, after which the folder is called.
    pub name: &'static str,
    /// Rust's.
    pub target: &'static str,
    /// A C compiler, which links.
    pub linker: &'static str,
    /// QEMU's.
    pub emulator: &'static str,
    /// Where its C library is.
    pub libraries: &'static str,
}

/// Whose digests are compared with the other machines'.
pub const AARCH64: Host = Host {
    name: "aarch64",
    target: "aarch64-unknown-linux-gnu",
    linker: "aarch64-linux-gnu-gcc",
    emulator: "qemu-aarch64",
    libraries: "/usr/aarch64-linux-gnu",
};

/// Whose kernels are tested.
pub const RISCV64: Host = Host {
    name: "riscv64",
    target: "riscv64gc-unknown-linux-gnu",
    linker: "riscv64-linux-gnu-gcc",
    emulator: "qemu-riscv64",
    libraries: "/usr/riscv64-linux-gnu",
};

impl Host {
    /// Whether programs for it can be built and run.
    pub fn is_there(&self) -> bool {
        let c_library = format!("{}/lib/libc.so", self.libraries);
        [self.linker, self.emulator, &c_library].iter().all(|file| setup::is_there(file))
            && table::toolchain(self.target).is_ok()
    }

    /// A cargo command that builds for it in release mode, in [`Host::folder`]; `std`: see `Toolchain::cargo`.
    pub fn cargo(&self, verb: &str, std: &str) -> Result<Command> {
        let mut command = table::toolchain(self.target)?.cargo(verb, self.target, std);
        let linker = format!("CARGO_TARGET_{}_LINKER", self.target.to_uppercase().replace('-', "_"));
        command.current_dir(table::root()?).env(linker, self.linker);
        command.args(["--quiet", "--release", "--target-dir"]).arg(self.folder()?);
        Ok(command)
    }

    /// Where cargo puts what it builds.
    pub fn folder(&self) -> Result<PathBuf> {
        Ok(target_dir()?.join(self.name))
    }

    /// Builds a program of this workspace.
    pub fn build(&self, package: &str, program: &str) -> Result<PathBuf> {
        run(self.cargo("build", "std,panic_unwind")?.args(["--package", package, "--bin", program]))?;
        Ok(self.folder()?.join(self.target).join("release").join(program))
    }

    /// A command that runs a program on an emulated core.
    pub fn run(&self, core: &str, program: &Path) -> Command {
        let mut command = Command::new(self.emulator);
        command.args(["-cpu", core, "-L", self.libraries]).arg(program);
        command
    }
}
