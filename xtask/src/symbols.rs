//! What is linked into a firmware: sizes, addresses, and the proof of what is not.
//!
//! The runtime promises no float, no allocator and no panic. Each would leave a symbol: soft-float routines have names
//! set by the ABIs, an allocator has `__rust_alloc`, and every panic, failed index or unwrap goes through
//! `core::panicking`, every formatted number through `core::fmt`. LTO and section collection drop what nothing calls, so a
//! symbol that is absent is code that cannot run.

use crate::table::{Board, Built, Region};
use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SymbolKind};
use std::collections::HashSet;
use std::fmt;
use std::fs;

/// Sizes in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    /// Code.
    pub text: u64,
    /// Constants, vector table included.
    pub rodata: u64,
    /// Initialised variables.
    pub data: u64,
    /// Zeroed variables, the arena included.
    pub bss: u64,
    /// The model.
    pub image: u64,
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, rodata, data, bss, image } = self;
        write!(f, "text_bytes={text}\nrodata_bytes={rodata}\ndata_bytes={data}\nbss_bytes={bss}\nimage_bytes={image}")
    }
}

/// Checks an ELF: no forbidden symbol, everything in its region, the model 64-byte aligned.
///
/// # Errors
/// What was found, by name.
pub fn check(board: &Board, Built { elf, features }: &Built) -> Result<Sizes> {
    let bytes = fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let file = object::File::parse(&*bytes).with_context(|| format!("{} is no ELF", elf.display()))?;
    let mut linked = 0;
    let mut forbidden = Vec::new();
    for symbol in
        file.symbols().filter(|s| s.is_definition() && matches!(s.kind(), SymbolKind::Text | SymbolKind::Data))
    {
        let name = symbol.name().context("a symbol's name is no text")?;
        linked += 1;
        if let Some(why) = why_forbidden(name) {
            forbidden.push(format!("  {why}: {name}"));
        }
    }
    if !forbidden.is_empty() {
        bail!("{} links what it must not:\n{}", elf.display(), forbidden.join("\n"));
    }
    if linked == 0 {
        bail!("{} has no symbols: nothing was proved", elf.display());
    }
    for segment in file.segments().filter(|s| s.size() > 0) {
        let (start, size) = (segment.address(), segment.size());
        let regions = [board.flash, board.image, board.ram];
        if !regions.iter().any(|r: &Region| r.holds(start, size)) {
            bail!("{size} bytes at {start:#x} lie outside the regions of {} in boards.toml", board.name);
        }
    }
    let mut sizes = Sizes::default();
    for section in file.sections() {
        let size = section.size();
        match section.name().unwrap_or_default() {
            ".text" | ".trap" | ".init" => sizes.text += size,
            ".rodata" | ".vector_table" => sizes.rodata += size,
            ".data" => sizes.data += size,
            ".bss" | ".uninit" => sizes.bss += size,
            ".mote_image" => {
                sizes.image = size;
                if size > 0 && section.address() != board.image.base {
                    bail!("the model lies at {:#x}, not at {:#x}", section.address(), board.image.base);
                }
            }
            _ => {}
        }
    }
    let arena = file.symbols().find(|s| s.name().is_ok_and(|n| n.contains("ARENA"))).map_or(0, |s| s.size());
    let (flash, ram) = (sizes.text + sizes.rodata + sizes.data, sizes.data + sizes.bss - arena + STACK_BYTES);
    let most = board.most(features);
    for (name, used, most) in [("flash", flash, most.flash), ("ram", ram, most.ram)] {
        if used > most {
            bail!(
                "{}: the firmware for {} takes {used} bytes of {name}, boards.toml says at most {most}",
                board.name,
                features.join(" and ")
            );
        }
    }
    Ok(sizes)
}

/// Whose the bytes of code and constants are, without the model, in a firmware that has nothing but the runtime
/// (`boards/support/src/least.rs`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Owners {
    /// The runtime's: its symbols, what it makes of generic code of `core`, and `main`, into which its functions are inlined.
    pub runtime: u64,
    /// The language's: copying and comparing memory, dividing, 64 bits. The rest of a firmware calls them, too.
    pub language: u64,
    /// Start-up, interrupts, gaps.
    pub rest: u64,
}

impl fmt::Display for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runtime, language, rest } = self;
        write!(f, "runtime_bytes={runtime}\nlanguage_bytes={language}\nrest_bytes={rest}")
    }
}

/// Parts of the names of what is the runtime's: `OPS` is the table of the image's ops, in mote-board-support.
const RUNTIME: [&str; 4] = ["mote_runtime", "_rt_main", "4core", "6memory3OPS"];

/// Divides the code and constants of an ELF, whose sizes these are.
///
/// # Errors
/// It cannot be read.
pub fn owners(Built { elf, .. }: &Built, sizes: &Sizes) -> Result<Owners> {
    let bytes = fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let file = object::File::parse(&*bytes).with_context(|| format!("{} is no ELF", elf.display()))?;
    let mut owners = Owners { rest: sizes.text + sizes.rodata + sizes.data, ..Owners::default() };
    let mut seen = HashSet::new(); // one function has several names
    for symbol in file.symbols().filter(|s| s.is_definition() && s.size() > 0 && seen.insert(s.address())) {
        let in_section = symbol.section_index().and_then(|index| file.section_by_index(index).ok());
        let section = in_section.as_ref().and_then(|section| section.name().ok()).unwrap_or_default();
        if ![".text", ".trap", ".init", ".rodata"].contains(&section) {
            continue;
        }
        let name = symbol.name().context("a symbol's name is no text")?;
        let owner = match name {
            _ if RUNTIME.iter().any(|part| name.contains(part)) => &mut owners.runtime,
            _ if name.contains("compiler_builtins") || name.starts_with("__") || name.starts_with("mem") => {
                &mut owners.language
            }
            _ => continue,
        };
        *owner += symbol.size();
        owners.rest -= symbol.size();
    }
    Ok(owners)
}

/// Stack that `ram` in boards.toml includes; the high-water marks of `cargo xtask bench boards` stay below it.
const STACK_BYTES: u64 = 6 * 1024;

/// What a symbol's presence means, if it may not be there.
fn why_forbidden(name: &str) -> Option<&'static str> {
    let parts: [(&str, &[&str]); 3] = [
        // `4core9panicking` is how both of Rust's mangling schemes write the path.
        ("panic", &["4core9panicking", "rust_begin_unwind", "rust_panic", "slice_index_fail", "unwrap_failed"]),
        ("formatting", &["4core3fmt"]),
        ("allocator", &["__rust_alloc", "__rust_realloc", "__rust_dealloc", "__rdl_alloc", "_5alloc", "malloc"]),
    ];
    let found = parts.iter().find(|(_, parts)| parts.iter().any(|part| name.contains(part)));
    found.map(|(why, _)| *why).or(is_float(name).then_some("float"))
}

/// Whether this is a soft-float routine: of the Arm run-time ABI, or of libgcc's names, which RISC-V uses.
fn is_float(name: &str) -> bool {
    if let Some(rest) = name.strip_prefix("__aeabi_") {
        let converts = ["i2f", "i2d", "ui2f", "ui2d", "l2f", "l2d", "ul2f", "ul2d", "h2f"];
        return rest.starts_with(['f', 'd'])
            || rest.starts_with("cf")
            || rest.starts_with("cd")
            || converts.contains(&rest);
    }
    const VERBS: &str = "add sub mul div neg cmp eq ne lt le gt ge unord fix float extend trunc powi";
    let routine = name.strip_prefix("__").is_some_and(|rest| {
        let modes = ["hf", "sf", "df", "tf"];
        VERBS.split(' ').any(|v| rest.strip_prefix(v).is_some_and(|tail| modes.iter().any(|m| tail.contains(m))))
    });
    routine || name.contains("17compiler_builtins5float")
}

#[cfg(test)]
mod tests {
    use super::why_forbidden;

    #[test]
    fn names() {
        let bad = [
            ("_RNvNtCs1_4core9panicking9panic_fmt", "panic"),
            ("_ZN4core3fmt9Formatter3pad17h0E", "formatting"),
            ("__rust_alloc", "allocator"),
            ("__aeabi_fadd", "float"),
            ("__aeabi_ui2d", "float"),
            ("__floatunsisf", "float"),
            ("__addsf3", "float"),
            ("__fixdfdi", "float"),
            ("__unorddf2", "float"),
        ];
        for (name, why) in bad {
            assert_eq!(why_forbidden(name), Some(why), "{name}");
        }
        for name in ["__aeabi_uldivmod", "__aeabi_memcpy", "__udivdi3", "__muldi3", "_stack_start", "main"] {
            assert_eq!(why_forbidden(name), None, "{name}");
        }
    }
}
