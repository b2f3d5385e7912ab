//! Says which kernels are built: `cfg(mote_vector)`, those of cores with vectors (`src/kernels/vector`), and `cfg(mote_dsp)`, those of
//! Arm's microcontrollers with the DSP extension (`SMLAD` and its kin), and `cfg(mote_lanes)`, those of smaller cores.
//!
//! rustc has no stable `cfg` for the DSP extension. ARMv7E-M (Cortex-M4, M7) always has it; ARMv8-M (M33, M35P) may, and M55 and M85 do, if the
//! code is compiled for them: `-C target-cpu` or `-C target-feature=+dsp` among the flags.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(mote_dsp, mote_lanes, mote_vector)");
    let variable = |name| env::var(name).unwrap_or_default();
    let features = variable("CARGO_CFG_TARGET_FEATURE");
    let has = |wanted| features.split(',').any(|feature| feature == wanted);
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
    let told =
        ["+dsp", "cortex-m33", "cortex-m35p", "cortex-m55", "cortex-m85"].iter().any(|word| flags.contains(word))
            || has("dsp");
    if target.starts_with("thumbv7em") || (target.starts_with("thumbv8m.main") && told && !flags.contains("-dsp")) {
        println!("cargo:rustc-cfg=mote_dsp");
    } else if target.starts_with("thumbv6m") || target.starts_with("riscv32im") {
        println!("cargo:rustc-cfg=mote_lanes");
    }
}
