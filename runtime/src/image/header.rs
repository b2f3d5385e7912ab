//! The first bytes of an image: header and section table.
//!
//! ```text
//! header, 64 bytes                          section entry, 32 bytes, `sections` of them, right after
//!  0  [u8;8] magic                           0  u32 kind
//!  8  u32    format version                  4  u32 CRC-32C of the section's bytes
//! 12  u32    sections                        8  u64 offset, a multiple of 64
//! 16  u64    bytes of the whole file        16  u64 bytes
//! 24  u32    CRC-32C of header + entries,   24  u64 zero
//!            this field as zero
//! 28  [u8;36] zero
//! ```
//!
//! Sections follow in the order of their kind, each at the next multiple of 64; the bytes between are zero and
//! the last section ends the file. So every byte of a file is accounted for: no holes, no tail.

use crate::error::{Error, Result};

/// First bytes of every image. Like PNG's, they reveal a transfer in text mode.
pub const MAGIC: [u8; 8] = *b"\x89MOTE\r\n\x1a";
/// Format version this runtime reads and the quantizer writes.
pub const VERSION: u32 = 1;
/// Alignment of sections and tensors, in bytes: one cache line, one AVX-512 register.
pub const ALIGN: u64 = 64;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 64;
/// Bytes of a section entry.
pub const ENTRY_BYTES: usize = 32;
/// Sections there can be.
pub const MAX_SECTIONS: usize = 16;

/// Kinds of sections, in file order.
pub mod section {
    /// The program: entry points and ops.
    pub const PROGRAM: u32 = 1;
    /// The memory plan: slots and arena coefficients.
    pub const PLAN: u32 = 2;
    /// The tensor table.
    pub const TENSORS: u32 = 3;
    /// Tokenizer tables.
    pub const TEXT: u32 = 4;
    /// Tensor data.
    pub const WEIGHTS: u32 = 5;
    /// JSON for people and tools: names, licence, source hash, quantizer settings. The runtime never parses it.
    pub const META: u32 = 6;
    /// Inputs and outputs of programs that are not language models'.
    pub const IO: u32 = 7;
    /// Tokenizer tables of an encoder's sources, if they are other than those of TEXT.
    pub const SOURCE_TEXT: u32 = 8;
}

/// A place in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

impl Span {
    /// The span's bytes, or `None` if it does not lie in `file`.
    #[must_use]
    pub fn of<'a>(&self, file: &'a [u8]) -> Option<&'a [u8]> {
        let start = usize::try_from(self.offset).ok()?;
        let len = usize::try_from(self.bytes).ok()?;
        file.get(start..)?.get(..len)
    }
}

/// One row of the section table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// See [`section`].
    pub kind: u32,
    /// CRC-32C of the bytes.
    pub crc: u32,
    /// Where it is.
    pub span: Span,
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The byte offset at which a section may start after `end`.
#[must_use]
pub const fn align_up(end: u64) -> u64 {
    end.div_ceil(ALIGN) * ALIGN
}

/// Reads and checks header and section table. Returns the sections in file order and their number.
///
/// # Errors
/// [`Error::NotAnImage`], [`Error::Version`], [`Error::FileSize`], [`Error::Checksum`], [`Error::Section`].
pub fn read(file: &[u8]) -> Result<([Section; MAX_SECTIONS], usize)> {
    if file.first_chunk() != Some(&MAGIC) {
        return Err(Error::NotAnImage);
    }
    let size = Error::FileSize { found: file.len() as u64, expected: HEADER_BYTES as u64 };
    let header = file.first_chunk::<HEADER_BYTES>().ok_or(size)?;
    let version = u32_at(header, 8).ok_or(size)?;
    if version != VERSION {
        return Err(Error::Version { found: version, supported: VERSION });
    }
    let stated = u64_at(header, 16).ok_or(size)?;
    if stated != file.len() as u64 {
        return Err(Error::FileSize { found: file.len() as u64, expected: stated });
    }
    let count = u32_at(header, 12).ok_or(size)? as usize;
    if count > MAX_SECTIONS {
        return Err(Error::Section { section: 0 });
    }
    let end = HEADER_BYTES + count * ENTRY_BYTES;
    let table = file.get(HEADER_BYTES..end).ok_or(Error::Section { section: 0 })?;
    let stored = u32_at(header, 24).ok_or(size)?;
    if stored != header_crc(header, table) {
        return Err(Error::Checksum { section: 0 });
    }
    if header.iter().skip(28).any(|b| *b != 0) {
        return Err(Error::Section { section: 0 });
    }
    let mut sections = [Section::default(); MAX_SECTIONS];
    let mut expected = end as u64;
    let mut last_kind = 0;
    for (entry, out) in table.as_chunks::<ENTRY_BYTES>().0.iter().zip(sections.iter_mut()) {
        let section = read_entry(entry).ok_or(Error::Section { section: 0 })?;
        let bad = Error::Section { section: section.kind };
        let start = align_up(expected);
        let gap = Span { offset: expected, bytes: start - expected };
        let zero = gap.of(file).ok_or(bad)?.iter().all(|b| *b == 0);
        if section.kind <= last_kind || section.span.offset != start || !zero {
            return Err(bad);
        }
        section.span.of(file).ok_or(bad)?;
        last_kind = section.kind;
        expected = start + section.span.bytes;
        *out = section;
    }
    if expected != stated {
        return Err(Error::FileSize { found: stated, expected });
    }
    Ok((sections, count))
}

fn read_entry(entry: &[u8; ENTRY_BYTES]) -> Option<Section> {
    if u64_at(entry, 24)? != 0 {
        return None;
    }
    Some(Section {
        kind: u32_at(entry, 0)?,
        crc: u32_at(entry, 4)?,
        span: Span { offset: u64_at(entry, 8)?, bytes: u64_at(entry, 16)? },
    })
}

/// The bytes of header and section table for `sections`, as [`read`] expects them; calls `emit` for each piece.
pub fn write(sections: &[Section], file_bytes: u64, emit: &mut dyn FnMut(&[u8])) {
    let mut header = [0u8; HEADER_BYTES];
    put(&mut header, 0, &MAGIC);
    put(&mut header, 8, &VERSION.to_le_bytes());
    put(&mut header, 12, &(sections.len() as u32).to_le_bytes());
    put(&mut header, 16, &file_bytes.to_le_bytes());
    let mut crc = super::crc::start();
    crc = super::crc::update(crc, &header);
    for section in sections {
        crc = super::crc::update(crc, &entry_bytes(section));
    }
    put(&mut header, 24, &super::crc::finish(crc).to_le_bytes());
    emit(&header);
    for section in sections {
        emit(&entry_bytes(section));
    }
}

fn entry_bytes(section: &Section) -> [u8; ENTRY_BYTES] {
    let mut entry = [0u8; ENTRY_BYTES];
    put(&mut entry, 0, &section.kind.to_le_bytes());
    put(&mut entry, 4, &section.crc.to_le_bytes());
    put(&mut entry, 8, &section.span.offset.to_le_bytes());
    put(&mut entry, 16, &section.span.bytes.to_le_bytes());
    entry
}

pub(crate) fn put(record: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in record.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

fn header_crc(header: &[u8; HEADER_BYTES], table: &[u8]) -> u32 {
    let mut blank = *header;
    put(&mut blank, 24, &[0; 4]);
    let crc = super::crc::update(super::crc::start(), &blank);
    super::crc::finish(super::crc::update(crc, table))
}
