//! The program: a straight list of ops over slots and tensors, with named entry points.
//!
//! ```text
//! program section: 16-byte head, entry points, ops
//! head                    entry, 16 bytes        op, 48 bytes
//!  0  u32 entry points     0  u32 id              0  u16 code
//!  4  u32 ops              4  u32 first op        2  u16 flags
//!  8  u64 zero             8  u32 ops             4  [u32;11] arguments
//!                         12  u32 zero
//! ```
//!
//! What the arguments of an op mean stands in its file under `ops/`.

use super::header::{are_zero, put, words};
use super::{ensure, ensure_or};
use crate::error::{Error, Result};

/// Bytes of the head.
pub const HEAD_BYTES: usize = 16;
/// Bytes of an entry point.
pub const ENTRY_BYTES: usize = 16;
/// Bytes of an op.
pub const OP_BYTES: usize = 48;
/// Arguments of an op.
pub const ARGS: usize = 11;
/// An argument that names no tensor or slot.
pub const NONE: u32 = u32::MAX;

/// Entry points: two of language models, more of those with an encoder; one of everything else, two if it keeps state.
pub mod entry {
    /// Runs the tokens of a step through all layers: embeddings to the last residual, caches filled.
    pub const BODY: u32 = 1;
    /// Computes the logits of one row of the last step; of an encoder without a decoder, the embedding of the source.
    pub const HEAD: u32 = 2;
    /// Computes the outputs from the inputs (`image::io`).
    pub const RUN: u32 = 3;
    /// Gives the slots that live from one run to the next their first contents: runs once before the first run, and at
    /// `Session::reset`. A program whose runs keep nothing has none.
    pub const RESET: u32 = 4;
    /// A stage of the encoder: runs all tokens of a source through some ops, a batch at a time. There are as many entry points
    /// of this id as stages; each begins when the one before has seen the whole source, since attention looks at all of it.
    pub const ENCODE: u32 = 5;
}

/// A named stretch of ops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// See [`entry`].
    pub id: u32,
    /// Index of the first op.
    pub first: u32,
    /// Number of ops.
    pub count: u32,
}

/// One op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// Which; see the table in `ops/mod.rs`.
    pub code: u16,
    /// Bits whose meaning is the op's own.
    pub flags: u16,
    /// Arguments whose meaning is the op's own; unused ones are zero.
    pub args: [u32; ARGS],
}

impl Op {
    /// The record's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; OP_BYTES] {
        let mut r = [0; OP_BYTES];
        put(&mut r, 0, &self.code.to_le_bytes());
        put(&mut r, 2, &self.flags.to_le_bytes());
        for (i, arg) in self.args.iter().enumerate() {
            put(&mut r, 4 + 4 * i, &arg.to_le_bytes());
        }
        r
    }
}

impl Entry {
    /// The record's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; ENTRY_BYTES] {
        let mut r = [0; ENTRY_BYTES];
        for (i, word) in [self.id, self.first, self.count].iter().enumerate() {
            put(&mut r, 4 * i, &word.to_le_bytes());
        }
        r
    }
}

/// A checked program section.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    entries: &'a [[u8; ENTRY_BYTES]],
    ops: &'a [[u8; OP_BYTES]],
}

impl<'a> Program<'a> {
    /// Reads the section's shape and checks the entry points.
    ///
    /// # Errors
    /// [`Error::Section`], [`Error::Entry`].
    pub fn read(section: &'a [u8]) -> Result<Self> {
        let bad = Error::Section { section: super::header::section::PROGRAM };
        let program = Self::split(section).ok_or(bad)?;
        // Entry points share no ops: as many as there are, so that walking all of them costs no more than the section.
        let mut left = program.ops.len() as u64;
        for record in program.entries {
            let (entry, zero) = decode_entry(record);
            ensure_or(zero == 0, bad)?;
            let last = u64::from(entry.first) + u64::from(entry.count);
            let (rest, more) = left.overflowing_sub(entry.count.into());
            left = rest;
            ensure_or(last <= program.ops.len() as u64 && !more, Error::Entry { id: entry.id })?;
        }
        Ok(program)
    }

    fn split(section: &'a [u8]) -> Option<Self> {
        let (head, rest) = section.split_first_chunk::<HEAD_BYTES>()?;
        let head = words::<{ HEAD_BYTES / 4 }>(head);
        ensure(are_zero(&head[2..]))?;
        let [entries, ops] = [head[0], head[1]];
        let (entry_bytes, op_bytes) = rest.split_at_checked((entries as usize).checked_mul(ENTRY_BYTES)?)?;
        let (entry_table, _) = entry_bytes.as_chunks::<ENTRY_BYTES>();
        let (op_table, rest) = op_bytes.as_chunks::<OP_BYTES>();
        ensure(op_table.len() == ops as usize && rest.is_empty())?;
        Some(Self { entries: entry_table, ops: op_table })
    }

    /// Entry points in file order.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + 'a {
        self.entries.iter().map(|r| decode_entry(r).0)
    }

    /// Ops in order.
    pub fn ops(&self) -> impl Iterator<Item = Op> + 'a {
        self.ops.iter().map(decode)
    }

    /// The first entry point `id` among those from number `from` on, with its number.
    #[must_use]
    #[inline(never)] // called from several places, all of them cold; smaller firmware
    pub fn stage(&self, id: u32, from: usize) -> Option<(usize, Entry)> {
        self.entries().enumerate().skip(from).find(|(_, e)| e.id == id)
    }

    /// Op number `index`.
    #[must_use]
    pub fn op(&self, index: u32) -> Option<Op> {
        self.ops.get(index as usize).map(decode)
    }

    /// The ops of entry point `id`, each with its index.
    ///
    /// # Errors
    /// [`Error::Entry`].
    pub fn entry(&self, id: u32) -> Result<impl Iterator<Item = (u32, Op)> + 'a> {
        Ok(self.ops_of(self.stage(id, 0).ok_or(Error::Entry { id })?.1))
    }

    /// The ops of an entry point, each with its index.
    pub fn ops_of(&self, entry: Entry) -> impl Iterator<Item = (u32, Op)> + 'a {
        let ops = self.ops.iter().skip(entry.first as usize).take(entry.count as usize);
        ops.zip(entry.first..).map(|(r, index)| (index, decode(r)))
    }
}

/// An entry point, and the word that must be 0.
fn decode_entry(r: &[u8; ENTRY_BYTES]) -> (Entry, u32) {
    let [id, first, count, zero] = words(r);
    (Entry { id, first, count }, zero)
}

#[inline(never)]
fn decode(r: &[u8; OP_BYTES]) -> Op {
    let [head, args @ ..] = words::<{ OP_BYTES / 4 }>(r);
    Op { code: head as u16, flags: (head >> 16) as u16, args }
}
