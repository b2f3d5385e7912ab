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

use super::{ensure, ensure_or};
use crate::error::{Error, Result};

/// First bytes of every image. Like PNG's, they reveal a transfer in text mode.
pub const MAGIC: [u8; 8] = *b"\x89MOTE\r\n\x1a";
/// Format version this runtime reads and the quantizer writes.
pub const VERSION: u32 = 2;
/// Alignment of sections and tensors, in bytes: one cache line, one AVX-512 register.
pub const ALIGN: u64 = 64;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 64;
/// Where the header's own CRC stands.
const CRC_AT: usize = 24;
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
    /// Kinds that this runtime knows are below this.
    pub(crate) const KINDS: usize = 9;
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
    #[inline(never)] // here and below: what is called from many places, all of them cold, is there once; smaller firmware
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

/// The words of a record, of which those that it lacks are 0. Records are read so, once, and not field by field: a word is four loads
/// where addresses need not be aligned.
pub(crate) fn words<const N: usize>(record: &[u8]) -> [u32; N] {
    let mut words = [0; N];
    read_words(record, &mut words);
    words
}

#[inline(never)]
fn read_words(record: &[u8], words: &mut [u32]) {
    for (word, bytes) in words.iter_mut().zip(record.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
}

/// Whether words that must be 0 are. Not of a pattern's rest: that would be a copy.
#[inline(never)]
pub(crate) fn are_zero(words: &[u32]) -> bool {
    words.iter().all(|word| *word == 0)
}

/// Two words, the low one first.
pub(crate) fn wide(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// `a * b`, `None` on overflow: in products of 32 bits, which cores have that have none of 64.
#[inline(never)]
pub(crate) fn times(a: u64, b: u32) -> Option<u64> {
    // Most products are of small numbers; a small core takes a hundred cycles for others.
    if (a | u64::from(b)) >> 16 == 0 {
        return Some((a as u32 * b).into());
    }
    let (low, high) = (a & u64::from(u32::MAX), a >> 32);
    let low = low * u64::from(b);
    let high = high * u64::from(b) + (low >> 32);
    (high >> 32 == 0).then_some(wide(low as u32, high as u32))
}

/// The product of these dimensions; `None` on overflow.
#[inline(never)]
pub(crate) fn products(dims: &[u32]) -> Option<u64> {
    dims.iter().try_fold(1, |n, d| times(n, *d))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The byte offset at which a section may start after `end`.
#[must_use]
pub const fn align_up(end: u64) -> u64 {
    end.div_ceil(ALIGN) * ALIGN
}

/// The bytes of each section that there is, by its kind.
pub type Found<'a> = [Option<&'a [u8]>; section::KINDS];

/// The checksum of header and section table, in which are those of all sections: it tells one image from another.
#[must_use]
pub fn checksum(file: &[u8]) -> u32 {
    u32_at(file, CRC_AT).unwrap_or_default()
}

/// Reads and checks header and section table, and sums the small sections, which are read in any case. `checksum`: what the header's must
/// be, if that is known. Returns the table's entries, in file order.
///
/// # Errors
/// [`Error::NotAnImage`], [`Error::Version`], [`Error::FileSize`], [`Error::Checksum`], [`Error::Section`].
pub fn read<'a>(file: &'a [u8], checksum: Option<u32>, sections: &mut Found<'a>) -> Result<&'a [[u8; ENTRY_BYTES]]> {
    let found = file.len();
    let head = words::<{ HEADER_BYTES / 4 }>(file);
    let [version, count] = [head[2], head[3]];
    if wide(head[0], head[1]) != u64::from_le_bytes(MAGIC) {
        return Err(Error::NotAnImage);
    }
    ensure_or(found >= HEADER_BYTES, Error::FileSize { found, expected: HEADER_BYTES })?;
    ensure_or(version == VERSION, Error::Version { found: version, supported: VERSION })?;
    let stated = usize::try_from(wide(head[4], head[5])).unwrap_or(usize::MAX);
    ensure_or(stated == found, Error::FileSize { found, expected: stated })?;
    let none = Error::Section { section: 0 };
    if count as usize > MAX_SECTIONS {
        return Err(none);
    }
    let mut end = HEADER_BYTES + count as usize * ENTRY_BYTES;
    let (before, after) = file.get(..end).and_then(|head| head.split_at_checked(CRC_AT)).ok_or(none)?;
    let (_, after) = after.split_at_checked(4).ok_or(none)?;
    let crc = [before, &[0; 4], after].iter().fold(super::crc::start(), |crc, part| super::crc::update(crc, part));
    if checksum.unwrap_or(head[6]) != super::crc::finish(crc) {
        return Err(Error::Checksum { section: 0 });
    }
    ensure_or(are_zero(&head[7..]), none)?;
    let (table, _) = after.split_at_checked(HEADER_BYTES - CRC_AT - 4).ok_or(none)?.1.as_chunks::<ENTRY_BYTES>();
    let mut last_kind = 0;
    for entry in table {
        let Section { kind, crc, span } = Section::read(entry).ok_or(none)?;
        let bad = Error::Section { section: kind };
        let start = end.next_multiple_of(ALIGN as usize);
        let zero = file.get(end..start).is_some_and(|gap| gap.iter().all(|b| *b == 0));
        ensure_or(kind > last_kind && span.offset == start as u64 && zero, bad)?;
        last_kind = kind;
        let bytes = span.of(file).ok_or(bad)?;
        end = start + bytes.len();
        let small = matches!(kind, section::PROGRAM | section::PLAN | section::TENSORS | section::IO);
        if small && super::crc::crc32c(bytes) != crc {
            return Err(Error::Checksum { section: kind });
        }
        if let Some(found) = sections.get_mut(kind as usize) {
            *found = Some(bytes);
        }
    }
    ensure_or(end == found, Error::FileSize { found, expected: end })?;
    Ok(table)
}

impl Section {
    /// Reads an entry of the section table; `None` if bytes are not 0 that must be.
    #[must_use]
    pub fn read(entry: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let w = words::<{ ENTRY_BYTES / 4 }>(entry);
        let span = Span { offset: wide(w[2], w[3]), bytes: wide(w[4], w[5]) };
        ensure(are_zero(&w[6..]))?;
        Some(Self { kind: w[0], crc: w[1], span })
    }
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
    put(&mut header, CRC_AT, &super::crc::finish(crc).to_le_bytes());
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
