//! What can be wrong with an image, an arena or a request.
//!
//! One enum for the whole runtime: `Copy`, no strings, every variant carries what was found and what would be right.

use core::fmt;

use crate::image::Dtype;

/// The runtime's result.
pub type Result<T> = core::result::Result<T, Error>;

/// Why an image was refused or a request could not be served. Never a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The first eight bytes are not [`crate::image::MAGIC`].
    NotAnImage,
    /// The image is of another format version.
    Version {
        /// Version in the file.
        found: u32,
        /// Version this runtime reads.
        supported: u32,
    },
    /// The file is shorter or longer than its header says.
    FileSize {
        /// Bytes given.
        found: usize,
        /// Bytes the header states; the largest number if that is more than there can be.
        expected: usize,
    },
    /// The header's or a section's CRC-32C differs: the image is damaged.
    Checksum {
        /// Section kind, 0 for the header.
        section: u32,
    },
    /// A section is misplaced, misaligned, missing, or there twice.
    Section {
        /// Section kind.
        section: u32,
    },
    /// A tensor record is malformed or lies outside the weights.
    Tensor {
        /// Index in the tensor table.
        index: u32,
    },
    /// A slot record is malformed.
    Slot {
        /// Index in the slot table.
        index: u32,
    },
    /// An op record is malformed: an unknown code, a wrong index, shape or type.
    Op {
        /// Index in the program.
        index: u32,
        /// The op's code.
        code: u16,
    },
    /// The program lacks an entry point.
    Entry {
        /// The entry point asked for.
        id: u32,
    },
    /// The image has no such section (a model without a tokenizer, say).
    Absent {
        /// Section kind.
        section: u32,
    },
    /// The limits asked for are zero or exceed what the image was planned for.
    Limits {
        /// Largest context the image allows.
        max_context: u32,
    },
    /// The arena is too small.
    ArenaSize {
        /// Bytes given.
        found: usize,
        /// Bytes needed; the largest number if that is more than there can be.
        needed: usize,
    },
    /// The arena's address is not a multiple of 16.
    ArenaAlignment,
    /// A token id is outside the vocabulary.
    Token {
        /// The id.
        id: u32,
        /// Ids are below this.
        vocab: u32,
    },
    /// The context is full: reset the session or open it with a longer context.
    ContextFull {
        /// Positions in use.
        used: u32,
        /// Positions there are.
        context: u32,
    },
    /// The model has an encoder, which has been given nothing.
    NoSource,
    /// The program has no such input or output.
    Port {
        /// The index asked for.
        index: u32,
    },
    /// The input or output has elements of another type.
    PortType {
        /// The index asked for.
        index: u32,
        /// The type of the image's elements.
        found: Dtype,
        /// The type asked for.
        expected: Dtype,
    },
    /// A query of more terms than the image takes.
    Terms {
        /// Terms of the query.
        found: usize,
        /// Terms that there is room for.
        most: usize,
    },
    /// A run was begun and neither finished nor abandoned, so what the net keeps from run to run is neither here nor there:
    /// reset the session.
    Unfinished,
    /// A row outside the last step's was asked for.
    Row {
        /// The row.
        row: u32,
        /// Rows of the last step.
        rows: u32,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::NotAnImage => write!(f, "not a .mote image: the magic bytes are missing"),
            Error::Version { found, supported } => write!(
                f,
                "the image has format version {found}, this runtime reads version {supported}: quantize the model again"
            ),
            Error::FileSize { found, expected } => {
                let how = if found < expected { "the file is truncated" } else { "there are bytes after its end" };
                write!(f, "the image states {expected} bytes, {found} were given: {how}")
            }
            Error::Checksum { section } => write!(f, "checksum of section {section} differs: the image is damaged"),
            Error::Section { section } => {
                write!(f, "section {section} is misplaced, missing, or there twice")
            }
            Error::Tensor { index } => {
                write!(f, "tensor {index} is malformed or lies outside the weights")
            }
            Error::Slot { index } => write!(f, "slot {index} of the plan is malformed"),
            Error::Op { index, code } => {
                write!(f, "op {index} (code {code}) is malformed or not known to this runtime")
            }
            Error::Entry { id } => write!(f, "the program has no entry point {id}"),
            Error::Absent { section } => write!(f, "the image has no section {section}"),
            Error::Limits { max_context } => {
                write!(f, "batch, context and threads must be at least 1 and the context at most {max_context}")
            }
            Error::ArenaSize { found, needed } => {
                write!(f, "the arena has {found} bytes, {needed} are needed")
            }
            Error::ArenaAlignment => write!(f, "the arena's address must be a multiple of 16"),
            Error::Token { id, vocab } => {
                write!(f, "token {id} is outside the vocabulary of {vocab}")
            }
            Error::ContextFull { used, context } => {
                write!(f, "the context is full: {used} of {context} positions are in use")
            }
            Error::Port { index } => write!(f, "the program has no input or output {index}"),
            Error::PortType { index, found, expected } => {
                write!(f, "input or output {index} has elements of type {found:?}, {expected:?} was asked for")
            }
            Error::Terms { found, most } => {
                write!(f, "the query has {found} terms, the image takes {most} at most")
            }
            Error::NoSource => write!(f, "the model has an encoder: give it a source of at least one token first"),
            Error::Unfinished => {
                write!(f, "an earlier run was not finished, so the net's state is lost: reset the session")
            }
            Error::Row { row, rows } => {
                write!(f, "row {row} was asked for, the last step had {rows}")
            }
        }
    }
}

impl core::error::Error for Error {}
