//! The plan: where each activation lies in the arena, as a function of batch, context and threads.
//!
//! ```text
//! plan section: 64-byte head, then 48-byte slots
//! head                                         slot
//!  0  u32 slots                                 0  u8  kind         4  u32 cols
//!  4  u32 largest context                       1  u8  rows         8  u32 heads      (cache)
//!  8  u32 vocabulary                            2  i16 frac        12  u32 head_dim   (cache)
//! 12  u32 slot of the logits                   16  [u64;4] offset coefficients
//! 16  u32 vocabulary of sources (encoder)
//! 20  u32 token that begins a target
//! 24  [u8;40] zero
//! ```
//!
//! Offset and size are *affine*: `k[0] + k[1]*batch + k[2]*context + k[3]*context*threads` bytes. The quantizer
//! packs slots by lifetime once, for all limits at a time; the device evaluates four products. Coefficients are
//! multiples of 16 (the last: of 4, its basis being a multiple of 4), so every slot is 16-byte aligned. The arena ends
//! where its highest slot does, which is another slot at other limits.

use core::ops::Range;

use super::header::{are_zero, put, times, wide, words};
use super::tensors::{Dtype, GROUP};
use super::{ensure, ensure_or};
use crate::error::{Error, Result};

/// Bytes of the plan's head.
pub const HEAD_BYTES: usize = 64;
/// Bytes of a slot.
pub const SLOT_BYTES: usize = 48;
/// Alignment of slots in bytes.
pub const SLOT_ALIGN: u64 = 16;
/// Bytes before the codes of a row of [`Kind::Q8`]: the scale (u16 mantissa, i16 exponent), 12 bytes zero.
pub const Q8_HEAD: usize = 16;

/// Whether any op of this build works on tokens. If none does, a slot is one row at one place, whatever a session is opened for.
pub(crate) const HAS_TOKENS: bool = cfg!(feature = "decoder");

/// What a session is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens processed in one step.
    pub batch: u32,
    /// Positions the cache holds.
    pub context: u32,
    /// Threads that work at once.
    pub threads: u32,
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Rows of int32 in fixed point with `frac` fraction bits; the stride is `cols` rounded up to 4 elements.
    I32 = 1,
    /// Rows of int8 with a scale each: 16 bytes of head, then `cols` rounded up to 32 codes.
    Q8 = 2,
    /// Keys and values of one layer: K codes [heads, context, head_dim], V codes likewise, then K scales
    /// [heads, context] and V scales, 4 bytes each (u16 mantissa, i16 exponent).
    Cache = 3,
    /// One int8 tensor of `cols` elements, in the order of its dimensions (images: height, width, channels); what its
    /// integers mean is the ops' and the IO section's business. The stride is `cols` rounded up to 16.
    I8 = 4,
    /// One int16 tensor, as [`Kind::I8`]: `2 * cols` bytes, rounded up to 16.
    I16 = 5,
    /// As [`Kind::Cache`] in 4 bits: codes of half a byte, an even element's in the lower half; scales 2 bytes each (u8
    /// mantissa / 256, i8 exponent). NUMERICS.md, section 9.1.
    Cache4 = 6,
}

impl Kind {
    /// Whether it is a cache of keys and values.
    #[must_use]
    pub fn is_cache(self) -> bool {
        matches!(self, Self::Cache | Self::Cache4)
    }

    /// Bytes of a cache's codes and of their scale, of keys or of values, for one head and position.
    #[must_use]
    pub fn cached(self, head_dim: usize) -> (usize, usize) {
        if self == Self::Cache4 { (head_dim / 2, 2) } else { (head_dim, 4) }
    }
}

/// How many rows a slot has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Rows {
    /// One.
    One = 0,
    /// One a token of the step.
    Batch = 1,
    /// One a position (caches, and what the stages of an encoder hand on).
    Context = 2,
    /// One a thread, each as long as the context (scratch); `cols` is 1.
    ThreadContext = 3,
}

/// One row of the slot table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// What it holds.
    pub kind: Kind,
    /// How many rows.
    pub rows: Rows,
    /// Fraction bits of [`Kind::I32`].
    pub frac: i16,
    /// Elements of a row.
    pub cols: u32,
    /// Cache: key-value heads.
    pub heads: u32,
    /// Cache: elements of a head.
    pub head_dim: u32,
    /// Offset coefficients.
    pub offset: [u64; 4],
}

impl Slot {
    /// Bytes from one row to the next: at most 2^30, as a slot of 2^28 columns or more is refused.
    #[must_use]
    pub fn stride_bytes(&self) -> u64 {
        let cols = self.cols.min(1 << 28);
        let bytes = match self.kind {
            Kind::I8 => cols,
            Kind::I16 => 2 * cols,
            Kind::Q8 if HAS_TOKENS => Q8_HEAD as u32 + cols.next_multiple_of(GROUP as u32),
            Kind::Cache | Kind::Cache4 if HAS_TOKENS => {
                let (codes, scale) = self.kind.cached(self.head_dim as usize);
                self.heads.saturating_mul(2 * (codes + scale) as u32)
            }
            _ => 4 * cols,
        };
        (bytes.saturating_add(SLOT_ALIGN as u32 - 1) & !(SLOT_ALIGN as u32 - 1)).into()
    }

    /// The type of the elements if the slot is one plain tensor: I8 (or U8: the same bytes), I16 or I32 of one row.
    #[must_use]
    pub fn plain(&self) -> Option<Dtype> {
        let dtype = match self.kind {
            Kind::I8 => Dtype::I8,
            Kind::I16 => Dtype::I16,
            Kind::I32 => Dtype::I32,
            Kind::Q8 | Kind::Cache | Kind::Cache4 => return None,
        };
        (self.rows == Rows::One).then_some(dtype)
    }

    /// Size coefficients in bytes, as the plan's packing uses them.
    #[must_use]
    pub fn size(&self) -> [u64; 4] {
        let bytes = self.stride_bytes();
        match self.rows {
            _ if !HAS_TOKENS => [bytes, 0, 0, 0],
            Rows::One => [bytes, 0, 0, 0],
            Rows::Batch => [0, bytes, 0, 0],
            Rows::Context => [0, 0, bytes, 0],
            // Scores of 4 bytes; `affine` rounds the context up to 4 here, so the sum stays a multiple of 16.
            Rows::ThreadContext => [0, 0, 0, 4],
        }
    }

    /// The slot's bytes in an arena of these limits; `None` on overflow.
    #[must_use]
    #[inline(never)]
    pub fn range(&self, limits: Limits) -> Option<Range<u64>> {
        let start = affine(self.offset, limits)?;
        Some(start..start.checked_add(affine(self.size(), limits)?)?)
    }

    /// As [`Self::range`], in memory.
    #[inline(never)]
    pub(crate) fn place(&self, limits: Limits) -> Option<Range<usize>> {
        let Range { start, end } = self.range(limits)?;
        Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }

    /// The slot's record.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; SLOT_BYTES] {
        let mut r = [0; SLOT_BYTES];
        put(&mut r, 0, &[self.kind as u8, self.rows as u8]);
        put(&mut r, 2, &self.frac.to_le_bytes());
        put(&mut r, 4, &self.cols.to_le_bytes());
        put(&mut r, 8, &self.heads.to_le_bytes());
        put(&mut r, 12, &self.head_dim.to_le_bytes());
        put_affine(&mut r, 16, self.offset);
        r
    }

    fn decode(r: &[u8; SLOT_BYTES]) -> Option<Self> {
        let w = words::<{ SLOT_BYTES / 4 }>(r);
        let [head, cols, heads, head_dim] = [w[0], w[1], w[2], w[3]];
        let place = |term: usize| wide(w[4 + 2 * term], w[5 + 2 * term]);
        let kind = match head as u8 {
            1 => Kind::I32,
            2 if HAS_TOKENS => Kind::Q8,
            3 if HAS_TOKENS => Kind::Cache,
            4 => Kind::I8,
            5 if cfg!(feature = "int16") => Kind::I16,
            6 if HAS_TOKENS && cfg!(feature = "cache4") => Kind::Cache4,
            _ => return None,
        };
        let rows = match (head >> 8) as u8 {
            0 => Rows::One,
            1 if HAS_TOKENS => Rows::Batch,
            2 if HAS_TOKENS => Rows::Context,
            3 if HAS_TOKENS => Rows::ThreadContext,
            _ => return None,
        };
        let slot = Self {
            kind,
            rows,
            frac: (head >> 16) as i16,
            cols,
            heads,
            head_dim,
            offset: if HAS_TOKENS { [place(0), place(1), place(2), place(3)] } else { [place(0), 0, 0, 0] },
        };
        let shape_ok = slot.cols != 0
            && slot.cols < 1 << 28
            && (-64..=64).contains(&slot.frac)
            && (!matches!(kind, Kind::I8 | Kind::I16) || (rows == Rows::One && slot.frac == 0))
            && (if HAS_TOKENS { slot.rows_ok() } else { heads | head_dim == 0 && are_zero(&w[6..]) });
        let aligned = (w[4] | w[6] | w[8]).is_multiple_of(SLOT_ALIGN as u32) && w[10].is_multiple_of(4);
        ensure(shape_ok && aligned)?;
        Some(slot)
    }

    /// Whether kind and shape go with the rows.
    fn rows_ok(&self) -> bool {
        let Self { kind, rows, .. } = *self;
        let is_cache = kind.is_cache();
        (!is_cache || rows == Rows::Context)
            && (rows != Rows::Context || is_cache || kind == Kind::I32)
            && is_cache == (self.heads != 0 && self.head_dim != 0)
            && self.heads < 1 << 16
            && self.head_dim <= MAX_HEAD_DIM
            && (kind != Kind::Cache4 || self.head_dim.is_multiple_of(2))
            && (rows != Rows::ThreadContext || (kind == Kind::I32 && self.cols == 1))
    }
}

/// Largest head dimension: attention keeps one quantized query on the stack.
pub const MAX_HEAD_DIM: u32 = 256;

/// The plan's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Number of slots.
    pub slots: u32,
    /// Largest context a session may be opened with.
    pub max_context: u32,
    /// Token ids of what is written are below this; 0 for models that write none.
    pub vocab: u32,
    /// The slot that holds the result of the last entry point.
    pub logits: u32,
    /// Token ids of sources are below this; 0 for models without an encoder.
    pub source_vocab: u32,
    /// The token that begins a target; only models with an encoder have one.
    pub start: u32,
}

impl Plan {
    /// Whether the program takes tokens.
    #[must_use]
    pub fn takes_tokens(&self) -> bool {
        self.vocab != 0 || self.source_vocab != 0
    }

    /// Whether it is an encoder without a decoder, which gives the embedding of its source.
    #[must_use]
    pub fn embeds(&self) -> bool {
        self.vocab == 0 && self.source_vocab != 0
    }

    /// The head's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEAD_BYTES] {
        let mut r = [0; HEAD_BYTES];
        let words = [self.slots, self.max_context, self.vocab, self.logits, self.source_vocab, self.start];
        for (i, word) in words.iter().enumerate() {
            put(&mut r, 4 * i, &word.to_le_bytes());
        }
        r
    }

    /// Reads the head and checks every slot by itself.
    ///
    /// # Errors
    /// [`Error::Slot`]; index `u32::MAX` stands for the head.
    pub fn read(section: &[u8]) -> Result<Self> {
        let bad = Error::Slot { index: u32::MAX };
        let plan = Self::decode(section).ok_or(bad)?;
        let expected = HEAD_BYTES as u64 + u64::from(plan.slots) * SLOT_BYTES as u64;
        ensure_or(section.len() as u64 == expected && plan.logits < plan.slots, bad)?;
        for index in 0..plan.slots {
            ensure_or(slot(section, index).is_some(), Error::Slot { index })?;
        }
        Ok(plan)
    }

    fn decode(s: &[u8]) -> Option<Self> {
        let w = words::<{ HEAD_BYTES / 4 }>(s.first_chunk::<HEAD_BYTES>()?);
        let [slots, max_context, vocab, logits, source_vocab, start] = [w[0], w[1], w[2], w[3], w[4], w[5]];
        ensure(are_zero(&w[6..]))?;
        Some(Self { slots, max_context, vocab, logits, source_vocab, start })
    }
}

/// Slot `index` of a plan section; `None` if there is none, or a malformed one.
#[inline(never)]
pub(super) fn slot(section: &[u8], index: u32) -> Option<Slot> {
    Slot::decode(section.get(HEAD_BYTES..)?.as_chunks().0.get(index as usize)?)
}

/// `k[0] + k[1]*batch + k[2]*context + k[3]*context*threads`, the context rounded up to 4 in the last term so that
/// thread scratch of 4-byte scores stays 16-byte aligned; `None` on overflow.
#[must_use]
pub fn affine(k: [u64; 4], limits: Limits) -> Option<u64> {
    let [alone, batch, context, scratch] = k;
    // Of nets without tokens nothing is to be multiplied.
    if !HAS_TOKENS || batch | context | scratch == 0 {
        return Some(alone);
    }
    let scratch = times(times(scratch, 4)?, limits.threads)?;
    let terms = [(batch, limits.batch), (context, limits.context), (scratch, limits.context.div_ceil(4))];
    terms.iter().try_fold(alone, |sum: u64, (k, n)| sum.checked_add(times(*k, *n)?))
}

fn put_affine(r: &mut [u8], at: usize, k: [u64; 4]) {
    for (i, k) in k.iter().enumerate() {
        put(r, at + 8 * i, &k.to_le_bytes());
    }
}
