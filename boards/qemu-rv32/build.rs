//! Puts `memory.x` where riscv-rt's linker script looks for it.

fn main() {
    println!("cargo:rerun-if-changed=memory.x");
    println!("cargo:rustc-link-search={}", env!("CARGO_MANIFEST_DIR"));
    for linked in ["bins", "examples"] {
        println!("cargo:rustc-link-arg-{linked}=-Tmemory.x");
        println!("cargo:rustc-link-arg-{linked}=-Tlink.x");
    }
}
