//! The application: opens the image, runs it, says what came out and what it cost.
//!
//! What runs is the image's business: a language model generates ([`tokens`](crate::tokens)), any other net goes from
//! inputs to outputs ([`net`](crate::net)). The output is text, if there is any, then lines `key=value`.

use crate::counter::Counter;
use crate::memory::{self, Room};
use crate::{Board, marks, print};
use embedded_hal::digital::OutputPin;
use embedded_io::Write;
use mote_runtime::Error;
use mote_runtime::image::program::entry;
#[cfg(feature = "steps")]
use mote_runtime::session::work::{Progress, Work};
#[cfg(feature = "decoder")]
use mote_runtime::text::TextError;

/// Why a run ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure<'a> {
    /// A word of the command line.
    Word(&'a str),
    #[cfg(feature = "decoder")]
    /// A batch larger than the firmware was built for.
    Batch {
        /// The largest.
        expected: u32,
    },
    #[cfg(feature = "decoder")]
    /// No tokens given, and no tokenizer that would begin a text.
    NoTokens,
    /// The image, the arena or a request.
    Runtime(Error),
    #[cfg(feature = "decoder")]
    /// The prompt.
    Text(TextError),
    #[cfg(feature = "convnet")]
    /// Too few or too many files of inputs.
    Inputs {
        /// Given.
        found: usize,
        /// The net's.
        expected: usize,
    },
    #[cfg(feature = "convnet")]
    /// A file that cannot be opened, read or written.
    File(&'a str),
    #[cfg(feature = "convnet")]
    /// A file of inputs of another length.
    InputBytes {
        /// The file's.
        found: usize,
        /// The input's, of all runs.
        expected: usize,
    },
}

impl From<Error> for Failure<'_> {
    fn from(why: Error) -> Self {
        Self::Runtime(why)
    }
}

/// Runs `line` on the image. Prints `board=`, then what `tokens.rs` or `net.rs` say, or
/// `error=` with `found=` and `expected=` where there are such numbers. Returns whether all went well.
pub fn app<W: Write, C: Counter, P: OutputPin>(board: &mut Board<W, C, P>, line: &str, room: Room) -> bool {
    print::field(&mut board.console, "board", board.name);
    let done = run(board, line, room);
    if let Err(failure) = done {
        report(&mut board.console, failure);
    }
    done.is_ok()
}

fn run<'l, W: Write, C: Counter, P: OutputPin>(
    board: &mut Board<W, C, P>,
    line: &'l str,
    room: Room,
) -> Result<(), Failure<'l>> {
    let image = memory::open(room.image)?;
    let mut meter = Meter {
        board,
        instructions: 0,
        #[cfg(feature = "steps")]
        steps: Steps::default(),
    };
    #[cfg(feature = "decoder")]
    if image.program().entry(entry::BODY).is_ok() {
        return crate::tokens::run(&mut meter, line, &image, room.arena, room.tokens);
    }
    #[cfg(feature = "convnet")]
    if image.program().entry(entry::RUN).is_ok() {
        return crate::net::run(&mut meter, line, &image, room.arena);
    }
    Err(Error::Entry { id: entry::RUN }.into())
}

/// What a run is measured and reported by.
pub(crate) struct Meter<'b, W: Write, C: Counter, P: OutputPin> {
    pub board: &'b mut Board<W, C, P>,
    pub instructions: u64,
    #[cfg(feature = "steps")]
    pub steps: Steps,
}

/// Work in pieces: what one may cost (0: there are none), how many there were, and the instructions of the longest.
#[cfg(feature = "steps")]
#[derive(Default)]
pub(crate) struct Steps {
    pub budget: u32,
    pieces: u64,
    longest: u64,
}

impl<W: Write, C: Counter, P: OutputPin> Meter<'_, W, C, P> {
    /// Runs `work` with the pin high, and counts its instructions.
    pub fn measure<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let _ = self.board.busy.set_high();
        let before = self.board.counter.instructions();
        let out = work();
        self.instructions += self.board.counter.instructions().saturating_sub(before);
        let _ = self.board.busy.set_low();
        out
    }

    /// Does work; with `--steps` in pieces, each measured.
    #[cfg(feature = "steps")]
    pub fn finish(&mut self, work: Work<'_, '_>) -> Result<(), Error> {
        let work = self.pieces(work)?;
        self.measure(|| work.finish())
    }

    /// Does work that computes logits, likewise.
    #[cfg(all(feature = "decoder", feature = "steps"))]
    pub fn logits<'w>(&mut self, work: Work<'w, '_>) -> Result<&'w mut [i32], Error> {
        let work = self.pieces(work)?;
        self.measure(|| work.logits())
    }

    #[cfg(feature = "steps")]
    fn pieces<'w, 'a>(&mut self, mut work: Work<'w, 'a>) -> Result<Work<'w, 'a>, Error> {
        let mut more = self.steps.budget > 0;
        while more {
            let before = self.instructions;
            let budget = self.steps.budget.into();
            more = self.measure(|| work.step_for(budget))? == Progress::More;
            self.steps.pieces += 1;
            self.steps.longest = self.steps.longest.max(self.instructions.saturating_sub(before));
        }
        Ok(work)
    }

    /// With `--steps`: prints `pieces`, and `longest_piece_instructions`.
    #[cfg(feature = "steps")]
    pub fn print_steps(&mut self) {
        if self.steps.budget > 0 {
            print::number(&mut self.board.console, "pieces", self.steps.pieces);
            print::number(&mut self.board.console, "longest_piece_instructions", self.steps.longest);
        }
    }
}

/// Prints the memory that was asked for and used.
pub(crate) fn memory(console: &mut impl Write, arena_bytes: u64, arena: &[u8]) {
    print::number(console, "arena_bytes", arena_bytes);
    print::number(console, "arena_high_water_bytes", marks::high_water(arena) as u64);
    print::number(console, "stack_high_water_bytes", marks::stack_high_water() as u64);
}

/// Prints a digest.
pub(crate) fn digest(console: &mut impl Write, key: &str, digest: &[u8]) {
    print::text(console, key);
    print::text(console, "=");
    print::hex(console, digest);
    print::text(console, "\n");
}

/// Prints a failure as `error=` and its numbers.
fn report(console: &mut impl Write, failure: Failure<'_>) {
    let (name, found, expected) = match failure {
        Failure::Word(word) => {
            print::field(console, "error", "command_line");
            return print::field(console, "found", word);
        }
        #[cfg(feature = "convnet")]
        Failure::File(name) => {
            print::field(console, "error", "file");
            return print::field(console, "found", name);
        }
        #[cfg(feature = "decoder")]
        Failure::Batch { expected } => ("batch_too_large", None, Some(expected.into())),
        #[cfg(feature = "convnet")]
        Failure::Inputs { found, expected } => ("inputs", Some(found as u64), Some(expected as u64)),
        #[cfg(feature = "convnet")]
        Failure::InputBytes { found, expected } => ("input_bytes", Some(found as u64), Some(expected as u64)),
        #[cfg(feature = "decoder")]
        Failure::NoTokens => ("no_tokens", None, None),
        #[cfg(feature = "decoder")]
        Failure::Text(why) => match why {
            TextError::Room { found } => ("prompt_too_long", None, Some(found as u64)),
            TextError::Scratch { found, needed } => ("scratch_too_small", Some(found as u64), Some(needed as u64)),
            TextError::NoToken => ("no_token_for_byte", None, None),
            _ => ("tokenizer", None, None),
        },
        Failure::Runtime(why) => match why {
            Error::NotAnImage => ("not_an_image", None, None),
            Error::Version { found, supported } => ("version", Some(found.into()), Some(supported.into())),
            Error::FileSize { found, expected } => ("file_size", Some(found as u64), Some(expected as u64)),
            Error::Checksum { section } => ("checksum_of_section", Some(section.into()), None),
            Error::Section { section } => ("section", Some(section.into()), None),
            Error::Tensor { index } => ("tensor", Some(index.into()), None),
            Error::Slot { index } => ("slot", Some(index.into()), None),
            Error::Op { index, code: _ } => ("op", Some(index.into()), None),
            Error::Entry { id } => ("entry", Some(id.into()), None),
            Error::Absent { section } => ("absent_section", Some(section.into()), None),
            #[cfg(feature = "decoder")]
            Error::Limits { max_context } => ("limits", None, Some(max_context.into())),
            Error::ArenaSize { found, needed } => ("arena_size", Some(found as u64), Some(needed as u64)),
            Error::ArenaAlignment => ("arena_alignment", None, Some(16)),
            #[cfg(feature = "decoder")]
            Error::Token { id, vocab } => ("token", Some(id.into()), Some(vocab.into())),
            #[cfg(feature = "decoder")]
            Error::ContextFull { used, context } => ("context_full", Some(used.into()), Some(context.into())),
            #[cfg(feature = "convnet")]
            Error::Port { index } => ("port", Some(index.into()), None),
            #[cfg(feature = "convnet")]
            Error::PortType { found, expected, .. } => ("port_type", Some(found as u64), Some(expected as u64)),
            #[cfg(feature = "decoder")]
            Error::Row { row, rows } => ("row", Some(row.into()), Some(rows.into())),
            _ => ("unknown", None, None),
        },
    };
    print::field(console, "error", name);
    for (key, value) in [("found", found), ("expected", expected)] {
        if let Some(value) = value {
            print::number(console, key, value);
        }
    }
}
