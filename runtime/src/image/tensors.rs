//! Tensors: constant data read in place.
//!
//! ```text
//! record, 64 bytes
//!  0  u8  dtype            4  i32 exponent: value = integer * 2^-exponent
//!  1  u8  rank, 1 to 4     8  [u32;4] dims, 1 beyond the rank
//!  2  u16 zero            24  u64 offset in the weights section, a multiple of 64
//!                         32  u64 bytes
//!                         40  [i8;16] codebook (N4, T3, N5), else zero
//!                         56  u64 zero
//! ```
//!
//! **N4**, a matrix [rows, cols] of 4-bit codes: `weight = codebook[code] * scale[row, group] * mult[row] * 2^-exponent`.
//! Rows are padded to blocks of 16, columns to groups of 32. Three streams, one after the other:
//!
//! ```text
//! codes   [block][group][line 0..4][row 0..16][4 bytes]   one 64-byte line = 16 rows x 8 columns
//!         byte b of row r in line l: low nibble  = column 32*group + 8*l + b
//!                                    high nibble = column 32*group + 8*l + 4 + b
//! scales  [block][group][row 0..16] u8
//! mults   [block][row 0..16] u16
//! ```
//!
//! A 64-byte line is what AVX-512 takes (low nibbles are 16 rows x 4 columns, one `vpdpbusd`), 16 bytes of it what
//! NEON takes (4 rows, `sdot` by lane), a 32-bit word what Cortex-M takes (nibbles n and n+4 are an SMLAD pair). No
//! horizontal sums anywhere, and nothing is repacked at load.
//!
//! A matrix of more than 2,048 columns lies in **strips** of 64 groups, the last one of what is left: codes (and signs, and scales) of all
//! blocks' first 64 groups, then of their next 64, `[strip][block][group of the strip]`. So what weights are multiplied with stays in the first cache
//! while they are read in order; a wider row of activations would be driven out of it by each block's weights.
//!
//! **N5** is N4 with a sign to each code: `level = codebook[nibble]`, negated if its sign bit is set, so that a book of 16
//! magnitudes (0 to 127) gives 32 levels. A stream of signs lies between codes and scales:
//!
//! ```text
//! signs   [block][group][line 0..4][low, high] u64        bit 4*r + b of `low`:  sign of the low nibble of byte b of row r
//!                                                         bit 4*r + b of `high`: sign of its high nibble
//! ```
//!
//! One such word is the mask that AVX-512 negates a vector of levels with; four bits side by side are a row's word.
//!
//! **T4** is N4's bytes with 64 levels, of which the code behind leaves 16 to choose from: a level is looked up by a window of six bits of
//! a row's word in a line, the code's own four (from bit 0) and the two lowest of the next one, around the word's end. In the order of the
//! nibbles, which are columns 0, 4, 1, 5, 2, 6, 3, 7 of a line: `w = rotate_right(word, 4 * nibble) & 63`,
//! `level = T4_LEVELS[w & 31]`, negated if `w & 32`. That is trellis-coded quantization (Marcellin and Fischer 1990) with four states,
//! its trellis a ring of eight columns, decoded by windows as QTIP's are (arXiv 2406.11235). The levels are the same for all tensors.
//!
//! **T3** has codes of 3 bits along another trellis, a ring of a block's 16 rows, with Ungerboeck's code of four states: their lowest bits
//! pick, with those of the rows before in the same column (those before the block's first are its last), one of four sets of four levels,
//! the other two bits a level of the set: with `c[r]` row r's code, `level = codebook[8 * (c[r-1] & 1) + 4 * ((c[r] ^ c[r-2]) & 1) + (c[r] >> 1)]`. Three
//! lines a group:
//!
//! ```text
//! codes   [block][group][line 0..3][row 0..16][4 bytes]
//!         line 0, 1: bits 2*i + 4*h and the next of byte b = code >> 1 of column 32*group + 16*line + 8*i + 4*h + b (i, h: 0, 1)
//!         line 2:    bit i + 4*h of byte b                 = code & 1  of column 32*group + 8*i + 4*h + b         (i: 0..4)
//! ```
//!
//! So what is to be looked up falls into N4's nibbles with shifts and masks, and neighbours' bits are combined for 32 columns at once.
//!
//! **N8** is N4 with a byte a code and no codebook: 8 lines of 64 bytes a group, byte b of row r in line l is
//! column 32*group + 4*l + b.

use core::ops::Range;

use super::ensure;
use super::header::{Span, are_zero, products, put, times, wide, words};

/// Bytes of a tensor record.
pub const RECORD_BYTES: usize = 64;
/// Columns that share a scale.
pub const GROUP: usize = 32;
/// Rows stored side by side.
pub const BLOCK: usize = 16;
/// Bytes of a line of codes: 4 of each row of a block.
pub const LINE: usize = 64;
/// Bytes of a line's signs (N5).
pub const SIGNS: usize = 16;
/// Groups of a strip: a matrix of more lies in several.
pub const STRIP: usize = 64;

/// What T4's windows of five bits stand for; of six, negated if the highest is set. Lloyd's algorithm leaves them where they are for groups
/// of normal weights (`find_levels` in the quantizer's `codes/ring.rs`).
pub const T4_LEVELS: [i8; 32] = [
    -127, -61, -79, -47, -30, -14, -21, -4, 4, 24, 13, 34, 41, 71, 54, 95, //
    -83, -47, -110, -61, -20, -4, -30, -11, 12, 33, 4, 23, 55, 96, 41, 72,
];

/// What T4's windows of six bits stand for.
pub const T4_BY_WINDOW: [i8; 64] = {
    let mut levels = [0; 64];
    let mut at = 0;
    while at < levels.len() {
        levels[at] = if at < 32 { T4_LEVELS[at] } else { -T4_LEVELS[at - 32] };
        at += 1;
    }
    levels
};

/// Whether any codes are built in.
const CODED: bool = cfg!(any(feature = "t3", feature = "n4", feature = "t4", feature = "n5", feature = "n8"));

/// Types of tensor data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Dtype {
    /// Signed bytes.
    I8 = 1,
    /// Signed 16 bit.
    I16 = 2,
    /// Signed 32 bit.
    I32 = 3,
    /// Unsigned 64 bit.
    U64 = 4,
    /// 4-bit codes with group scales, see the module's page.
    N4 = 5,
    /// 8-bit codes with group scales.
    N8 = 6,
    /// Unsigned bytes.
    U8 = 7,
    /// 5-bit codes, a magnitude and a sign, with group scales.
    N5 = 8,
    /// 3-bit codes along a trellis, with group scales.
    T3 = 10,
    /// 4-bit codes along a trellis, with group scales. (9 was another trellis.)
    T4 = 11,
}

impl Dtype {
    pub(super) fn of(code: u8) -> Option<Self> {
        [Self::I8, Self::I16, Self::I32, Self::U64, Self::N4, Self::N5, Self::N8, Self::U8, Self::T3, Self::T4]
            .into_iter()
            .find(|d| *d as u8 == code)
    }

    /// Whether this build of the runtime has it: firmware has what its image needs.
    #[must_use]
    #[allow(clippy::match_like_matches_macro)] // a table, of which this build may have nothing
    pub const fn is_built_in(self) -> bool {
        match self {
            Self::T3 => cfg!(feature = "t3"),
            Self::N4 => cfg!(feature = "n4"),
            Self::T4 => cfg!(feature = "t4"),
            Self::N5 => cfg!(feature = "n5"),
            Self::N8 => cfg!(feature = "n8"),
            _ => true,
        }
    }

    /// Bits of a code; `None` of what has no codes.
    #[must_use]
    pub const fn code_bits(self) -> Option<u8> {
        if !CODED {
            return None;
        }
        match self {
            Self::T3 => Some(3),
            Self::N4 | Self::T4 => Some(4),
            Self::N5 => Some(5),
            Self::N8 => Some(8),
            Self::I8 | Self::I16 | Self::I32 | Self::U64 | Self::U8 => None,
        }
    }
}

/// One row of the tensor table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorDesc {
    /// Element type.
    pub dtype: Dtype,
    /// Number of dimensions, 1 to 4.
    pub rank: u8,
    /// `value = integer * 2^-exponent`.
    pub exponent: i32,
    /// Dimensions; 1 beyond the rank. Codes: `[rows, cols, 1, 1]`.
    pub dims: [u32; 4],
    /// Place in the weights section.
    pub span: Span,
    /// N4, T3: what the codes stand for. N5: their magnitudes.
    pub codebook: [i8; 16],
}

impl TensorDesc {
    /// Bytes that a tensor of this type and these dimensions takes; `None` if that overflows.
    #[must_use]
    pub fn data_bytes(dtype: Dtype, dims: [u32; 4]) -> Option<u64> {
        let count = products(&dims)?;
        let [rows, cols, _, _] = dims;
        let bytes = match dtype {
            Dtype::I8 | Dtype::U8 => return Some(count),
            Dtype::I16 => 2,
            Dtype::I32 => 4,
            Dtype::U64 => 8,
            Dtype::T3 | Dtype::N4 | Dtype::T4 | Dtype::N5 | Dtype::N8 => {
                let rows = u64::from(rows).next_multiple_of(BLOCK as u64);
                let groups = times(rows, cols.div_ceil(GROUP as u32))?;
                // The codes of a group, and its scale.
                let codes = times(groups, GROUP as u32 / 8 * u32::from(dtype.code_bits()?) + 1)?;
                return codes.checked_add(2 * rows);
            }
        };
        times(count, bytes)
    }

    /// The record's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; RECORD_BYTES] {
        let mut r = [0; RECORD_BYTES];
        put(&mut r, 0, &[self.dtype as u8, self.rank]);
        put(&mut r, 4, &self.exponent.to_le_bytes());
        for (i, dim) in self.dims.iter().enumerate() {
            put(&mut r, 8 + 4 * i, &dim.to_le_bytes());
        }
        put(&mut r, 24, &self.span.offset.to_le_bytes());
        put(&mut r, 32, &self.span.bytes.to_le_bytes());
        for (to, from) in r.iter_mut().skip(40).zip(self.codebook) {
            *to = from as u8;
        }
        r
    }

    /// Reads record `index` and checks it by itself: type, dimensions, size; not yet its place. `None` if it is no such record.
    #[must_use]
    #[inline(never)]
    pub fn read(table: &[u8], index: u32) -> Option<Self> {
        Self::decode(table.as_chunks().0.get(index as usize)?)
    }

    fn decode(r: &[u8; RECORD_BYTES]) -> Option<Self> {
        let dtype = Dtype::of(r[0]).filter(|dtype| dtype.is_built_in())?;
        let rank = r[1];
        let w = words::<{ RECORD_BYTES / 4 }>(r);
        let exponent = w[1] as i32;
        let dims = [w[2], w[3], w[4], w[5]];
        let span = Span { offset: wide(w[6], w[7]), bytes: wide(w[8], w[9]) };
        // One after the other, not all at once: each condition that is kept for later is a register.
        shape_ok(rank, &dims)?;
        ensure(w[0] >> 16 == 0 && are_zero(&w[if CODED { 14 } else { 10 }..]))?;
        ensure((-256..=256).contains(&exponent) && w[6].is_multiple_of(super::header::ALIGN as u32))?;
        ensure(Self::data_bytes(dtype, dims) == Some(span.bytes))?;
        let mut codebook = [0i8; 16];
        // Of firmware without codes it stays 0; so, then, must what is there.
        if CODED {
            codebook.iter_mut().zip(r.iter().skip(40)).for_each(|(to, from)| *to = *from as i8);
            let lowest = if dtype == Dtype::N5 { 0 } else { -i8::MAX };
            ensure(codebook.iter().all(|level| *level >= lowest) && (dtype.code_bits().is_none() || rank == 2))?;
            ensure(cfg!(feature = "wide") || dtype.code_bits().is_none() || !is_wide(dims[1]))?;
        }
        Some(Self { dtype, rank, exponent, dims, span, codebook })
    }
}

/// Whether a matrix of codes of so many columns lies in strips.
#[must_use]
pub const fn is_wide(cols: u32) -> bool {
    cols as usize > STRIP * GROUP
}

/// Checks dimensions: 1 to 4, none of them 0, those beyond the rank 1.
#[inline(never)]
pub(super) fn shape_ok(rank: u8, dims: &[u32; 4]) -> Option<()> {
    ensure((1..=4).contains(&rank) && dims.iter().zip(0..).all(|(d, at)| *d == 1 || (*d != 0 && at < rank)))
}

/// Blocks and groups of a matrix in the order of its streams.
pub fn stream_order(blocks: usize, groups: usize) -> impl Iterator<Item = (usize, usize)> {
    let strips = (0..groups).step_by(STRIP).map(move |start| start..groups.min(start + STRIP));
    strips.flat_map(move |strip| (0..blocks).flat_map(move |block| strip.clone().map(move |group| (block, group))))
}

/// A coded matrix (T3, N4, T4, N5 or N8), its streams found.
#[derive(Clone, Copy, Debug)]
pub struct Coded<'a> {
    /// T3, N4, T4, N5 or N8.
    pub dtype: Dtype,
    /// Rows, without padding.
    pub rows: usize,
    /// Columns, without padding.
    pub cols: usize,
    /// Groups of 32 columns.
    pub groups: usize,
    /// Stream of codes.
    pub codes: &'a [u8],
    /// Stream of signs: N5, else empty.
    pub signs: &'a [u8],
    /// Stream of group scales.
    pub scales: &'a [u8],
    /// Stream of row multipliers.
    pub mults: &'a [u8],
    /// What nibbles stand for, or what T3 looks up.
    pub codebook: [i8; 16],
    /// `weight = level * scale * mult * 2^-exponent`.
    pub exponent: i32,
    /// Groups whose sum fits int32 whatever the codes, scales and activations are (NUMERICS.md, "matmul").
    pub stretch: u32,
    /// Bits by which row sums may exceed int32.
    pub excess_bits: u32,
}

impl<'a> Coded<'a> {
    /// The view of `desc`; `None` if it is not a coded matrix or its bytes are missing.
    #[must_use]
    pub fn new(desc: &TensorDesc, weights: &'a [u8]) -> Option<Self> {
        let bits = desc.dtype.code_bits()?;
        let [rows, cols, _, _] = desc.dims;
        let (rows, cols) = (rows as usize, cols as usize);
        let padded = rows.checked_next_multiple_of(BLOCK)?;
        let groups = cols.div_ceil(GROUP);
        let scale_bytes = padded.checked_mul(groups)?;
        let code_bytes = scale_bytes.checked_mul(line_count(desc.dtype) * LINE / BLOCK)?;
        let sign_bytes = if bits == 5 { code_bytes / 4 } else { 0 };
        let (codes, rest) = desc.span.of(weights)?.split_at_checked(code_bytes)?;
        let (signs, rest) = rest.split_at_checked(sign_bytes)?;
        let (scales, mults) = rest.split_at_checked(scale_bytes)?;
        let top = match desc.dtype {
            Dtype::N8 => 128,
            Dtype::T4 => 127,
            _ => desc.codebook.iter().map(|c| c.unsigned_abs()).fold(1, u8::max),
        };
        // Activations may be any int8.
        let group_bound = GROUP as u64 * 128 * 255 * u64::from(top);
        let row_bound = group_bound.saturating_mul(groups as u64);
        Some(Self {
            dtype: desc.dtype,
            rows,
            cols,
            groups,
            codes,
            signs,
            scales,
            mults,
            codebook: desc.codebook,
            exponent: desc.exponent,
            stretch: (i32::MAX as u32) / (group_bound as u32).max(1),
            excess_bits: (64 - row_bound.leading_zeros()).saturating_sub(31),
        })
    }

    /// Bytes of codes of a group.
    #[must_use]
    #[inline]
    pub fn group_bytes(&self) -> usize {
        line_count(self.dtype) * LINE
    }

    /// The end of the strip that group `group` is in.
    #[must_use]
    #[inline]
    pub fn strip_end(&self, group: usize) -> usize {
        // One strip where no others are built in.
        if cfg!(feature = "wide") { self.groups.min((group / STRIP + 1) * STRIP) } else { self.groups }
    }

    /// The groups of each strip.
    pub fn strips(&self) -> impl Iterator<Item = Range<usize>> {
        // Not by `step_by`, which could panic where it is not inlined.
        let mut start = 0;
        core::iter::from_fn(move || {
            let strip = start..self.strip_end(start);
            start = strip.end;
            (!strip.is_empty()).then_some(strip)
        })
    }

    /// Where group `group` of block `block` is in a stream.
    #[inline]
    fn place(&self, block: usize, group: usize) -> usize {
        let start = if cfg!(feature = "wide") { group / STRIP * STRIP } else { 0 };
        let strip = start.wrapping_mul(self.rows.div_ceil(BLOCK));
        strip.wrapping_add(block.wrapping_mul(self.strip_end(start) - start)).wrapping_add(group - start)
    }

    /// Codes and scales of some groups of block `block` (16 rows), all in one strip; `None` if they are not there.
    #[must_use]
    #[inline]
    pub fn part(&self, block: usize, groups: Range<usize>) -> Option<(&'a [u8], &'a [u8])> {
        let (at, bytes) = (self.place(block, groups.start), self.group_bytes());
        // Beyond the last block of a strip the next strip begins.
        ensure(!cfg!(feature = "wide") || block < self.rows.div_ceil(BLOCK))?;
        let codes = slice(self.codes, at.wrapping_mul(bytes), groups.len().wrapping_mul(bytes))?;
        Some((codes, slice(self.scales, at.wrapping_mul(BLOCK), groups.len().wrapping_mul(BLOCK))?))
    }

    /// Their signs, for each line of codes the words of its low and its high nibbles; empty unless N5.
    #[must_use]
    #[inline]
    pub fn part_signs(&self, block: usize, groups: Range<usize>) -> &'a [[u8; SIGNS]] {
        let bytes = line_count(self.dtype) * SIGNS;
        let at = self.place(block, groups.start).wrapping_mul(bytes);
        slice(self.signs, at, groups.len().wrapping_mul(bytes)).unwrap_or_default().as_chunks().0
    }

    /// Calls `put(out, level * scale)` for each column of `row`, in order, with the elements of `out`.
    pub fn row_levels(&self, row: usize, out: &mut [i32], put: impl FnMut(&mut i32, i32)) {
        self.row_levels_from(row, 0, out, put);
    }

    /// As [`Self::row_levels`], from column `first` on, a multiple of 8, for as many columns as `out` has elements.
    pub fn row_levels_from<T>(&self, row: usize, first: usize, out: &mut [T], mut put: impl FnMut(&mut T, i32)) {
        let levels = self.levels();
        let lane = row % BLOCK;
        // Columns are taken 8 by 8, N8's 4 by 4: a line of codes but for T3's.
        let parts = if self.dtype == Dtype::N8 { 8 } else { 4 };
        let mut out = out.iter_mut();
        for index in first / (GROUP / parts).. {
            let (group, part) = (index / parts, index % parts);
            if out.as_slice().is_empty() {
                return;
            }
            let Some((codes, scales)) = self.part(row / BLOCK, group..group + 1) else { return };
            let lines = codes.as_chunks::<LINE>().0;
            let scale = i32::from(scales.get(lane).copied().unwrap_or(0));
            if self.dtype == Dtype::N8 {
                for (out, code) in out.by_ref().take(4).zip(word(lines, part, lane).to_le_bytes()) {
                    put(out, i32::from(code as i8) * scale);
                }
            } else {
                let signs = self.part_signs(row / BLOCK, group..group + 1).get(part).unwrap_or(&[0; SIGNS]);
                for (out, code) in out.by_ref().take(8).zip(self.part_codes(lines, part, signs, lane)) {
                    put(out, i32::from(levels[usize::from(code & 63)]) * scale);
                }
            }
        }
    }

    /// What row `lane` has in the levels for eight columns, part `part` of a group that begins with these lines (T3, N4, T4, N5). One
    /// function for all that decode rows: firmware is small.
    #[inline(never)]
    fn part_codes(&self, lines: &[[u8; LINE]], part: usize, signs: &[u8; SIGNS], lane: usize) -> [u8; 8] {
        let three = cfg!(feature = "t3") && self.dtype == Dtype::T3;
        let codes = [0, 1].map(|half| match self.dtype {
            Dtype::T3 if three => {
                // The lowest bits of this row's codes, and those of one and of two rows before.
                let row = |before: usize| lowest_bits(word(lines, 2, (lane + BLOCK - before) % BLOCK), part, half);
                with_set(upper_bits(word(lines, part / 2, lane), part, half), [row(0), row(1), row(2)])
            }
            Dtype::T4 if cfg!(feature = "t4") => windows(word(lines, part, lane), half),
            _ => with_signs(word(lines, part, lane), signs, lane, half),
        });
        bytemuck::must_cast(codes.map(u32::to_le))
    }

    /// Levels of T4's windows; of 5-bit codes, bit 4 of which is the sign (N5), in the first 32; of 4-bit ones in the first 16.
    #[must_use]
    pub fn levels(&self) -> [i8; 64] {
        // Firmware that has T4 alone has no codebooks.
        let books = cfg!(any(feature = "t3", feature = "n4", feature = "n5"));
        if cfg!(feature = "t4") && (self.dtype == Dtype::T4 || !books) {
            return T4_BY_WINDOW;
        }
        let mut levels = [0; 64];
        for (at, level) in self.codebook.iter().enumerate() {
            (levels[at], levels[at + 16]) = (*level, level.wrapping_neg());
        }
        levels
    }

    /// Multipliers of the rows of block `block`; zeros if there is no such block.
    #[must_use]
    pub fn block_mults(&self, block: usize) -> [u16; BLOCK] {
        let bytes = slice(self.mults, block.wrapping_mul(2 * BLOCK), 2 * BLOCK).unwrap_or_default();
        let mut mults = [0; BLOCK];
        mults.iter_mut().zip(bytes.as_chunks::<2>().0).for_each(|(to, b)| *to = u16::from_le_bytes(*b));
        mults
    }

    /// Multiplier of `row`; 0 if there is no such row.
    #[must_use]
    pub fn mult(&self, row: usize) -> u32 {
        self.mults.as_chunks().0.get(row).map_or(0, |mult| u16::from_le_bytes(*mult).into())
    }
}

/// Lines of codes of a group.
const fn line_count(dtype: Dtype) -> usize {
    match dtype {
        Dtype::T3 => 3,
        Dtype::N8 => 8,
        _ => 4,
    }
}

/// The word of row `lane` in a line; 0 if there is none.
fn word(lines: &[[u8; LINE]], line: usize, lane: usize) -> u32 {
    let bytes = lines.get(line).and_then(|l| l.as_chunks::<4>().0.get(lane)).copied().unwrap_or_default();
    u32::from_le_bytes(bytes)
}

/// Nibbles of a row's word of codes, a byte each: the low ones (`half` 0) or the high ones (1).
#[inline(always)]
#[must_use]
pub fn nibbles(word: u32, half: u32) -> u32 {
    word >> (4 * half) & 0x0F0F_0F0F
}

/// 5-bit codes of row `lane` of a line, given its word of codes: a byte each, bit 4 of which is the sign. Without loops, which
/// firmware's compilers, told to make small code, would keep.
#[inline(always)]
#[must_use]
pub fn with_signs(word: u32, signs: &[u8; SIGNS], lane: usize, half: u32) -> u32 {
    let two_rows = signs[lane / 2 % 8 + (half as usize & 1) * 8];
    nibbles(word, half) | byte_each((two_rows >> (lane % 2 * 4) & 15).into()) << 4
}

/// A byte, 0 or 1, for each of four bits.
#[inline(always)]
#[must_use]
pub fn byte_each(bits: u32) -> u32 {
    // Four copies, 7 bits apart: bit b is at 8 * b in copy b.
    (bits * 0x0020_4081) & 0x0101_0101
}

/// T4's windows of a row's word of codes: a byte each, those of the low nibbles (`half` 0) or of the high ones (1).
#[inline(always)]
#[must_use]
pub fn windows(word: u32, half: u32) -> u32 {
    word.rotate_right(4 * half) & 0x3F3F_3F3F
}

/// Of T3, given the word of line `part / 2`: all but the lowest bit of the codes of half `half` of eight columns, a byte each.
#[inline(always)]
#[must_use]
pub fn upper_bits(word: u32, part: usize, half: u32) -> u32 {
    word >> (2 * (part as u32 & 1) + 4 * (half & 1)) & 0x0303_0303
}

/// The same of the lowest bits, given the word of line 2.
#[inline(always)]
#[must_use]
pub fn lowest_bits(word: u32, part: usize, half: u32) -> u32 {
    word >> ((part as u32 & 3) + 4 * (half & 1)) & 0x0101_0101
}

/// What T3 looks up, given the upper bits of codes, and the lowest ones of this row and of one and of two rows before.
#[inline(always)]
#[must_use]
pub fn with_set(upper: u32, [this, before, before_that]: [u32; 3]) -> u32 {
    upper | (this ^ before_that) << 2 | before << 3
}

fn slice(bytes: &[u8], at: usize, len: usize) -> Option<&[u8]> {
    bytes.get(at..)?.get(..len)
}

/// Signed 16-bit values with a common exponent, read in place.
#[derive(Clone, Copy, Debug)]
pub struct Vector16<'a> {
    bytes: &'a [u8],
    /// `value = integer * 2^-exponent`.
    pub exponent: i32,
}

impl<'a> Vector16<'a> {
    /// The view of `desc`; `None` unless it is I16 and in place.
    #[must_use]
    pub fn new(desc: &TensorDesc, weights: &'a [u8]) -> Option<Self> {
        let bytes = desc.span.of(weights)?;
        (desc.dtype == Dtype::I16).then_some(Self { bytes, exponent: desc.exponent })
    }

    /// The values in order.
    pub fn iter(&self) -> impl Iterator<Item = i16> + 'a {
        self.bytes.as_chunks::<2>().0.iter().map(|b| i16::from_le_bytes(*b))
    }
}
