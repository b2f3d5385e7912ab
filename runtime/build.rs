//! Says which kernels are built: `cfg(mote_vector)`, those of cores with vectors (`src/kernels/vector`), and `cfg(mote_dsp)`, those of
//! Arm's microcontrollers with the DSP extension (`SMLAD` and its kin), `cfg(mote_mve)`, those of its vectors (Helium), and
//! `cfg(mote_lanes)`, those of smaller cores: Cortex-M0+, M3, RV32IM, and ARMv8-M without either extension.
//!
//! rustc has no stable `cfg` for these extensions. ARMv7E-M (Cortex-M4, M7) always has DSP; ARMv8-M (M33, M35P) may, and M55 and M85 have
//! vectors, if the code is compiled for them: `-C target-cpu` or `-C target-feature=+dsp` or `+mve` among the flags. Link-time optimisation reads assembly
//! before it heeds the flags, so `MOTE_CPU` has a line that goes before each function of it.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(mote_dsp, mote_lanes, mote_mve, mote_vector)");
    let variable = |name| env::var(name).unwrap_or_default();
    let features = variable("CARGO_CFG_TARGET_FEATURE");
    let has = |wanted: &str| features.split(',').any(|feature| feature == wanted);
    let target = variable("TARGET");
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    let vectors = match variable("CARGO_CFG_TARGET_ARCH").as_str() {
        "x86_64" => true,
        "aarch64" => has("neon"),
        "wasm32" => has("simd128"),
        // With `std` Linux is asked. Else flags say so: `v` is no stable feature, of which cargo would tell.
        "riscv64" => {
            let asks = env::var_os("CARGO_FEATURE_STD").is_some() && variable("CARGO_CFG_TARGET_OS") == "linux";
            asks || has("v") || flags.contains("+v")
        }
        _ => false,
    };
    if vectors {
        println!("cargo:rustc-cfg=mote_vector");
    }
    let asked = |feature: &str, cpus: &[&str]| {
        let told = flags.contains(&format!("+{feature}")) || has(feature) || cpus.iter().any(|cpu| flags.contains(cpu));
        target.starts_with("thumbv8m.main") && told && !flags.contains(&format!("-{feature}"))
    };
    let mve = asked("mve", &["cortex-m55", "cortex-m85"]);
    let dsp = asked("dsp", &["cortex-m33", "cortex-m35p", "cortex-m55", "cortex-m85"]);
    let cpu = if mve {
        ".cpu cortex-m55"
    } else if dsp {
        ".cpu cortex-m33"
    } else {
        ""
    };
    println!("cargo:rustc-env=MOTE_CPU={cpu}");
    if mve {
        println!("cargo:rustc-cfg=mote_mve");
    } else if target.starts_with("thumbv7em") || dsp {
        println!("cargo:rustc-cfg=mote_dsp");
    } else if ["thumbv6m", "thumbv7m", "thumbv8m", "riscv32im"].iter().any(|small| target.starts_with(small)) {
        println!("cargo:rustc-cfg=mote_lanes");
    }
}
