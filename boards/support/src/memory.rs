//! The firmware's memory: the image in flash, the arena and the buffers in RAM. Everything is a static, so the linker
//! refuses what does not fit.

// Statics that are lent once, and the section the image is linked into.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use mote_runtime::ops::{self, OpDef};
use mote_runtime::{Image, Result};

include!(concat!(env!("OUT_DIR"), "/image.rs"));

/// Longest command line in bytes: a prompt takes room.
pub const LINE_BYTES: usize = if cfg!(feature = "decoder") { 4096 } else { 512 };

/// Tokens of a run: those given and those generated.
#[cfg(feature = "decoder")]
pub type Tokens = heapless::Vec<u32, 1024>;

/// 64 bytes: a line of weights (`mote_runtime::image::tensors`), and the alignment of sections in an image.
#[repr(C, align(64))]
struct Aligned<T>(T);

/// The model, in the section that the board's `memory.x` puts at its image address. Nothing copies it.
#[cfg_attr(target_os = "none", unsafe(link_section = ".mote_image"))]
#[used]
static MOTE_IMAGE: Aligned<[u8; FILE.len()]> = Aligned(*FILE);

struct Statics {
    line: UnsafeCell<[u8; LINE_BYTES]>,
    #[cfg(feature = "decoder")]
    tokens: UnsafeCell<Tokens>,
    taken: AtomicBool,
}

// SAFETY: the cells are reached only through `take`, which succeeds once; so there is one reference to each, ever.
unsafe impl Sync for Statics {}

/// The arena is a static of its own, so that its size can be read from the ELF.
struct Arena(UnsafeCell<Aligned<[u8; ARENA_BYTES]>>);

// SAFETY: as for `Statics`.
unsafe impl Sync for Arena {}

static MOTE_ARENA: Arena = Arena(UnsafeCell::new(Aligned([0; ARENA_BYTES])));

static STATICS: Statics = Statics {
    line: UnsafeCell::new([0; LINE_BYTES]),
    #[cfg(feature = "decoder")]
    tokens: UnsafeCell::new(Tokens::new()),
    taken: AtomicBool::new(false),
};

/// All memory.
#[derive(Debug)]
pub struct Memory {
    /// The command line.
    pub line: &'static mut [u8],
    /// For the run.
    pub room: Room,
}

/// Opens the model: with the feature `vouched` that which this firmware was built for, else whatever is there.
///
/// # Errors
/// [`mote_runtime::Error::Checksum`] if it is another; without the feature, those of `Image::open_with`.
pub fn open(image: &[u8]) -> Result<Image<'_>> {
    #[cfg(feature = "vouched")]
    // SAFETY: build.rs has opened the image of this checksum, by a runtime with the same features; what a 64-bit host counts further than
    // this machine can are sizes of slots and tensors, which fit the arena and the file. If it had no image, `image` is empty, which no
    // checksum makes one.
    return unsafe { Image::vouched(image, &OPS, CHECKSUM) };
    #[cfg(not(feature = "vouched"))]
    Image::open_with(image, &OPS)
}

/// The memory of a run.
#[derive(Debug)]
pub struct Room {
    /// The model.
    pub image: &'static [u8],
    /// The session's arena, 64-byte aligned.
    pub arena: &'static mut [u8],
    /// Tokens.
    #[cfg(feature = "decoder")]
    pub tokens: &'static mut Tokens,
}

/// Lends the memory; `None` but for the first call.
#[must_use]
pub fn take() -> Option<Memory> {
    // Not a swap, which a Cortex-M0 does not have: there is one core, and no interrupt calls this.
    if STATICS.taken.load(Ordering::Acquire) {
        return None;
    }
    STATICS.taken.store(true, Ordering::Release);
    // The optimiser must not look into the model: what is proved of this firmware shall hold for any image.
    let image: &'static [u8] = core::hint::black_box(&MOTE_IMAGE.0);
    // SAFETY: `taken` was false and never becomes false again, so these are the only references to the cells.
    unsafe {
        Some(Memory {
            line: &mut *STATICS.line.get(),
            room: Room {
                image,
                arena: &mut (*MOTE_ARENA.0.get()).0,
                #[cfg(feature = "decoder")]
                tokens: &mut *STATICS.tokens.get(),
            },
        })
    }
}
