//! Links the model in: writes the constants that `src/memory.rs` includes.
//!
//! Environment: `MOTE_IMAGE` (path of a `.mote` file), `MOTE_BATCH` and `MOTE_CONTEXT` (limits, 8 and 256; 1 for nets without
//! tokens), `MOTE_ARENA_BYTES` (instead of the exact number that the image states for these limits), `MOTE_OPS=all` (every
//! op of the features, for firmware whose image will be replaced by others; else the ops that the image uses).
//!
//! The image is checked here, by the runtime with the firmware's features. With the feature `vouched` the firmware then takes this very
//! image alone, by its checksum, and has no code that checks it again.
//!
//! Without an image the firmware still builds, with every op, so that it can be linted; it then says `error=not_an_image`.

use mote_board_checker::image::header;
use mote_board_checker::image::program::entry;
use mote_board_checker::ops::{self, Set};
use mote_board_checker::{Error, Image, Limits};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::{env, fs};

fn main() {
    if let Err(why) = generate() {
        // Cargo shows this under "stderr"; a panic would add a backtrace to it.
        eprintln!("{why}");
        std::process::exit(1);
    }
}

/// An environment variable, of which Cargo is told.
fn variable(name: &str) -> Option<String> {
    println!("cargo:rerun-if-env-changed={name}");
    env::var(name).ok()
}

fn number(name: &str, default: u32) -> Result<u32, String> {
    let Some(text) = variable(name) else { return Ok(default) };
    text.parse().map_err(|_| format!("{name} is {text:?}, which is not a number"))
}

/// The codes of every op that the enabled features bring.
fn known() -> BTreeSet<u16> {
    let decoder: &[Set] = if cfg!(feature = "decoder") { &[&ops::DECODER] } else { &[] };
    let convnet: &[Set] = if cfg!(feature = "convnet") { &[&ops::CONVNET, &ops::CODED] } else { &[] };
    decoder.iter().chain(convnet).copied().flatten().map(|op| op.code).collect()
}

/// What of an image is compiled in: checksum, arena, limits, ops.
struct Needs {
    checksum: u32,
    arena_bytes: u32,
    batch: u32,
    context: u32,
    ops: BTreeSet<u16>,
}

fn generate() -> Result<(), String> {
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var("OUT_DIR").map_err(|e| e.to_string())?);
    let (needs, path, image_bytes) = match variable("MOTE_IMAGE") {
        Some(path) => {
            println!("cargo:rerun-if-changed={path}");
            let bytes = fs::read(&path).map_err(|e| format!("MOTE_IMAGE: cannot read {path}: {e}"))?;
            let needs = needs(&bytes).map_err(|e| format!("MOTE_IMAGE: {path}: {e}"))?;
            (needs, fs::canonicalize(&path).map_err(|e| e.to_string())?, bytes.len())
        }
        None => {
            println!("cargo:warning=MOTE_IMAGE is not set: this firmware has no model");
            let empty = out.join("empty.mote");
            fs::write(&empty, []).map_err(|e| e.to_string())?;
            (Needs { checksum: 0, arena_bytes: 64, batch: 8, context: 256, ops: known() }, empty, 0)
        }
    };
    let Needs { checksum, arena_bytes, batch, context, ops } = needs;
    let arena_bytes = number("MOTE_ARENA_BYTES", arena_bytes)?;
    let (count, ops) = (ops.len(), ops.iter().map(u16::to_string).collect::<Vec<_>>().join(", "));
    let text = format!(
        "/// Tokens a step may have.\npub const BATCH: u32 = {batch};\n\
         /// Positions the cache may hold.\npub const CONTEXT: u32 = {context};\n\
         /// Bytes of the arena.\npub const ARENA_BYTES: usize = {arena_bytes};\n\
         /// The ops that are linked.\npub static OPS: [OpDef; {count}] = ops::select([{ops}]);\n\
         /// The image's checksum.\n#[cfg(feature = \"vouched\")]\nconst CHECKSUM: u32 = {checksum};\n\
         const FILE: &[u8; {image_bytes}] = include_bytes!({path:?});\n"
    );
    fs::write(out.join("image.rs"), text).map_err(|e| e.to_string())
}

/// What is compiled in for this image.
fn needs(bytes: &[u8]) -> Result<Needs, String> {
    let why = |e| match e {
        Error::Op { .. } | Error::Slot { .. } | Error::Tensor { .. } => {
            format!("{e}; what a firmware knows are the features of mote-board-support that are enabled")
        }
        e => e.to_string(),
    };
    let image = Image::open(bytes).map_err(why)?;
    let (batch, context) = if image.program().entry(entry::BODY).is_ok() { (8, 256) } else { (1, 1) };
    let limits = Limits { batch: number("MOTE_BATCH", batch)?, context: number("MOTE_CONTEXT", context)?, threads: 1 };
    for (op, index) in image.program().ops().zip(0..) {
        ops::check_arena(&image, &op, index, limits).map_err(|e| e.to_string())?;
    }
    let arena = image.arena_bytes(limits).map_err(|e| e.to_string())?;
    Ok(Needs {
        checksum: header::checksum(bytes),
        arena_bytes: arena
            .try_into()
            .map_err(|_| format!("the arena needs {arena} bytes, more than a 32-bit machine has"))?,
        batch: limits.batch,
        context: limits.context,
        ops: match variable("MOTE_OPS").as_deref() {
            None => image.program().ops().map(|op| op.code).collect(),
            Some("all") if cfg!(feature = "vouched") => {
                return Err("MOTE_OPS=all is for images that are not known yet: leave out the feature vouched".into());
            }
            Some("all") => known(),
            Some(other) => return Err(format!("MOTE_OPS is {other:?}; it may be \"all\"")),
        },
    })
}
