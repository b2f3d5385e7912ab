//! Links the model in: writes the constants that `src/memory.rs` includes.
//!
//! Environment: `MOTE_IMAGE` (path of a `.mote` file), `MOTE_BATCH` and `MOTE_CONTEXT` (limits, 8 and 256),
//! `MOTE_ARENA_BYTES` (instead of the exact number that the image states for these limits).
//! Without an image the firmware still builds, so that it can be linted; it then says `error=not_an_image`.

use mote_runtime::{Image, Limits};
use std::path::PathBuf;
use std::{env, fs};

fn main() {
    if let Err(why) = generate() {
        // Cargo shows this under "stderr"; a panic would add a backtrace to it.
        eprintln!("{why}");
        std::process::exit(1);
    }
}

fn number(name: &str, default: u32) -> Result<u32, String> {
    println!("cargo:rerun-if-env-changed={name}");
    let Ok(text) = env::var(name) else { return Ok(default) };
    text.parse().map_err(|_| format!("{name} is {text:?}, which is not a number"))
}

fn generate() -> Result<(), String> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=MOTE_IMAGE");
    let out = PathBuf::from(env::var("OUT_DIR").map_err(|e| e.to_string())?);
    let (batch, context) = (number("MOTE_BATCH", 8)?, number("MOTE_CONTEXT", 256)?);
    let limits = Limits { batch, context, threads: 1 };
    let (mut arena_bytes, mut image_bytes) = (64, 0);
    let path = match env::var("MOTE_IMAGE") {
        Ok(path) => {
            println!("cargo:rerun-if-changed={path}");
            let bytes = fs::read(&path).map_err(|e| format!("MOTE_IMAGE: cannot read {path}: {e}"))?;
            image_bytes = bytes.len();
            arena_bytes = needed(&bytes, limits).map_err(|e| format!("MOTE_IMAGE: {path}: {e}"))?;
            fs::canonicalize(&path).map_err(|e| e.to_string())?
        }
        Err(_) => {
            println!("cargo:warning=MOTE_IMAGE is not set: this firmware has no model");
            let empty = out.join("empty.mote");
            fs::write(&empty, []).map_err(|e| e.to_string())?;
            empty
        }
    };
    let arena_bytes = number("MOTE_ARENA_BYTES", arena_bytes)?;
    let text = format!(
        "/// Tokens a step may have.\npub const BATCH: u32 = {batch};\n\
         /// Positions the cache may hold.\npub const CONTEXT: u32 = {context};\n\
         /// Bytes of the arena.\npub const ARENA_BYTES: usize = {arena_bytes};\n\
         const FILE: &[u8; {image_bytes}] = include_bytes!({path:?});\n"
    );
    fs::write(out.join("image.rs"), text).map_err(|e| e.to_string())
}

/// Bytes of arena the image states for these limits.
fn needed(bytes: &[u8], limits: Limits) -> Result<u32, String> {
    let image = Image::open(bytes).map_err(|e| e.to_string())?;
    let bytes = image.arena_bytes(limits).map_err(|e| e.to_string())?;
    u32::try_from(bytes).map_err(|_| format!("the arena needs {bytes} bytes, more than a 32-bit machine has"))
}
