//! Mote on hosts with `std`: an image mapped from a file, threads, and an owned session.
//!
//! The runtime stays as it is (no allocation while it runs); this crate only gives it a file, an arena and threads.
//!
//! ```no_run
//! # fn main() -> Result<(), mote_host::HostError> {
//! use mote_host::{Model, Options};
//! use std::ops::ControlFlow;
//!
//! let model = Model::open("model.mote".as_ref())?;
//! let prompt = model.encode("Once upon a time")?;
//! let made = model.generate(&prompt, &Options::default(), &mut |_, text| {
//!     print!("{text}");
//!     ControlFlow::Continue(())
//! })?;
//! println!("\n{} tokens", made.tokens.len());
//! # Ok(())
//! # }
//! ```
//!
//! Underneath, step by step: [`Model::session`] in an [`Arena`] on [`Threads`].

pub mod draft;
mod generate;
pub mod text;
mod threads;

pub use draft::{Draft, DraftError, Lookup, Small};
pub use generate::{Ended, Generation, Options};
pub use mote_runtime as runtime;
pub use threads::Threads;

use memmap2::Mmap;
use mote_runtime::image::{Image, Limits, section};
use mote_runtime::kernels;
use mote_runtime::text::{TextError, Tokenizer};
use mote_runtime::view::Pool;
use mote_runtime::{Error, Session};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The variable of the environment that names the kernels to use, for tests and benchmarks. No result depends on them.
const KERNEL: &str = "MOTE_KERNEL";

/// Bytes of a large page of the system.
#[cfg(target_os = "linux")]
const LARGE_PAGE: usize = 2 << 20;

/// Why a model could not be opened or run.
#[derive(Debug)]
#[non_exhaustive]
pub enum HostError {
    /// The file could not be read.
    File(PathBuf, std::io::Error),
    /// The bytes are not a good image.
    Image(PathBuf, Error),
    /// The session refused.
    Session(Error),
    /// The arena could not be allocated: so many bytes.
    Memory(u64),
    /// The text cannot be encoded, or the tokenizer is malformed.
    Text(TextError),
    /// The image has no tokenizer.
    NoTokenizer,
    /// A model cannot guess for another.
    Draft(DraftError),
    /// `MOTE_KERNEL` names kernels that this machine does not have.
    Kernel(String),
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, why) => write!(f, "{}: {why}", path.display()),
            Self::Image(path, why) => write!(f, "{}: {why}", path.display()),
            Self::Session(why) => write!(f, "{why}"),
            Self::Text(why) => write!(f, "{why}"),
            Self::Draft(why) => write!(f, "this model cannot draft: {why}"),
            Self::NoTokenizer => {
                write!(f, "the image has no tokenizer: give token ids, or quantize the model again with its tokenizer")
            }
            Self::Kernel(name) => {
                let known: Vec<&str> = kernels::available().map(|kernels| kernels.name).collect();
                write!(f, "MOTE_KERNEL is {name:?}; this machine has {}", known.join(", "))
            }
            Self::Memory(bytes) => write!(f, "{bytes} bytes of arena cannot be allocated: use a shorter context"),
        }
    }
}

impl std::error::Error for HostError {}

impl From<Error> for HostError {
    fn from(why: Error) -> Self {
        Self::Session(why)
    }
}

impl From<TextError> for HostError {
    fn from(why: TextError) -> Self {
        Self::Text(why)
    }
}

/// An image mapped from a file. Nothing is read but what [`Image::open`] checks; weights are paged in as they are used.
pub struct Model {
    image: Image<'static>,
    // Declared after `image`, which borrows from it, so it is dropped last.
    map: Arc<Mmap>,
}

impl Model {
    /// Maps and checks an image.
    ///
    /// # Errors
    /// [`HostError::File`], [`HostError::Image`].
    pub fn open(path: &Path) -> Result<Self, HostError> {
        let io = |why| HostError::File(path.to_owned(), why);
        let file = std::fs::File::open(path).map_err(io)?;
        // SAFETY: as for every file mapping, the bytes must not change while they are mapped. The quantizer never
        // writes into an existing image (it renames a finished file over it), and images are read-only data.
        #[allow(unsafe_code)]
        let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(io)?);
        // SAFETY: the bytes live as long as `map`, which lives in the same struct, is never replaced, and is dropped
        // after `image`; the mapping does not move when `Model` does. `image()` hands out shorter borrows only.
        #[allow(unsafe_code)]
        let bytes: &'static [u8] = unsafe { std::slice::from_raw_parts(map.as_ptr(), map.len()) };
        let image = Image::open(bytes).map_err(|why| HostError::Image(path.to_owned(), why))?;
        let model = Self { image, map };
        model.ask_for_large_pages();
        Ok(model)
    }

    /// Asks the system to read the whole image now, in the background: decoding will want all of it, front to back, for
    /// every token. Not done by [`Model::open`], which costs the same for any size; advice only, so no error.
    ///
    /// On Linux a thread of its own reads ahead of decoding, which alone would get a tenth of a file that is not cached in pages
    /// of 4 KiB: a fault gives two large pages, but coming to the second one asks for more in small ones.
    pub fn prefetch(&self) {
        #[cfg(target_os = "linux")]
        {
            let map = Arc::clone(&self.map);
            let touch = move || {
                for at in (0..map.len()).step_by(2 * LARGE_PAGE) {
                    std::hint::black_box(map[at]);
                }
            };
            let _ = std::thread::Builder::new().name("mote-prefetch".into()).spawn(touch);
        }
        #[cfg(all(unix, not(target_os = "linux")))]
        {
            let _ = self.map.advise(memmap2::Advice::WillNeed);
        }
    }

    /// Asks for the weights in pages of 2 MiB, where the file system has them (xfs, btrfs, ext4 since Linux 6.16): decoding,
    /// which reads them at the memory's speed, is up to twice as fast with them as with pages of 4 KiB. Advice only, so no error.
    fn ask_for_large_pages(&self) {
        #[cfg(target_os = "linux")]
        if let Ok(weights) = self.image.section(section::WEIGHTS) {
            let offset = weights.as_ptr().addr() - self.map.as_ptr().addr();
            let _ = self.map.advise_range(memmap2::Advice::HugePage, offset, weights.len());
        }
    }

    /// The image.
    #[must_use]
    pub fn image<'m>(&'m self) -> &'m Image<'m> {
        &self.image
    }

    /// The image's tokenizer.
    ///
    /// # Errors
    /// [`HostError::NoTokenizer`], [`HostError::Text`].
    pub fn tokenizer(&self) -> Result<Tokenizer<'_>, HostError> {
        Ok(Tokenizer::open(self.text()?)?)
    }

    /// The tokens of a text that the model is given: of a source, if it has an encoder. BOS first if the tokenizer wants it.
    /// Special tokens spelled out are text like any other.
    ///
    /// # Errors
    /// [`HostError::NoTokenizer`], [`HostError::Text`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, HostError> {
        let source = self.image.section(section::SOURCE_TEXT).ok().filter(|_| self.has_encoder());
        Ok(text::encode(source.map_or_else(|| self.text(), Ok)?, text, false)?)
    }

    /// Whether the model has an encoder, so that what it is given is a source and what it writes is a text of its own.
    #[must_use]
    pub fn has_encoder(&self) -> bool {
        self.image.plan().source_vocab != 0
    }

    /// Whether the model is an encoder alone, which gives embeddings.
    #[must_use]
    pub fn embeds(&self) -> bool {
        self.image.plan().embeds()
    }

    fn text(&self) -> Result<&[u8], HostError> {
        self.image.section(section::TEXT).map_err(|_| HostError::NoTokenizer)
    }

    /// Limits with the context cut to what the image allows.
    #[must_use]
    pub fn limits(&self, batch: u32, context: u32, threads: u32) -> Limits {
        Limits { batch, context: context.min(self.image.plan().max_context), threads }
    }

    /// Opens a session in `arena`, with the fastest kernels of this machine, or those that the environment's `MOTE_KERNEL` names.
    ///
    /// # Errors
    /// [`HostError::Session`], [`HostError::Kernel`].
    pub fn session<'m>(&'m self, arena: &'m mut Arena, pool: &'m dyn Pool) -> Result<Session<'m>, HostError> {
        let limits = arena.limits;
        let mut session = Session::with_pool(self.image(), arena.bytes(), limits, pool)?;
        if let Some(name) = std::env::var_os(KERNEL) {
            let name = name.to_string_lossy();
            session.set_kernels(kernels::named(&name).ok_or_else(|| HostError::Kernel(name.into()))?);
        }
        Ok(session)
    }
}

/// A line of the cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Memory for one session, of exactly the size the image states.
pub struct Arena {
    lines: Vec<Line>,
    bytes: usize,
    limits: Limits,
}

impl Arena {
    /// Allocates what `model` needs at `limits`.
    ///
    /// # Errors
    /// [`HostError::Session`] for limits out of range, [`HostError::Memory`].
    pub fn for_limits(model: &Model, limits: Limits) -> Result<Self, HostError> {
        let needed = model.image().arena_bytes(limits)?;
        let bytes = usize::try_from(needed).map_err(|_| HostError::Memory(needed))?;
        let mut lines = Vec::new();
        lines.try_reserve_exact(bytes.div_ceil(64)).map_err(|_| HostError::Memory(needed))?;
        lines.resize(bytes.div_ceil(64), Line([0; 64]));
        Ok(Self { lines, bytes, limits })
    }

    /// The limits it was made for.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Its bytes, 64-byte aligned: a session needs 16, but is faster where few vectors lie across two lines.
    #[must_use]
    pub fn bytes(&mut self) -> &mut [u8] {
        let bytes = self.bytes;
        let lines = self.lines.as_mut_slice();
        // SAFETY: a line is 64 initialised bytes without padding, u8 has alignment 1, and `bytes` <= 64 * lines.len().
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<u8>(), bytes)
        }
    }
}
