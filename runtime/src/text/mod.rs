//! Text to tokens and back, from tables read in place.
//!
//! One algorithm serves SentencePiece BPE (merge what scores best) and byte-level BPE (merge what is listed first):
//! cut the text into words, start from characters or bytes, merge pairs by rank. BERT's WordPiece is another. [`layout`] has the tables.
//!
//! Opening costs the same whatever the vocabulary; tables are checked as they are used, so hostile ones give odd tokens
//! or an error, never a fault.

pub mod layout;
mod merge;
mod pretokenize;
mod unicode;
mod wordpiece;

use crate::image::header::u32_at;
use core::cmp::Ordering;
use core::fmt;
use layout::{HEAD_BYTES, NONE, flag, kind};
use merge::{Pair, Symbol, Word};

/// Why text could not be encoded, or a TEXT section not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextError {
    /// The section's tables do not lie in it, or its kind is unknown.
    Malformed,
    /// More ids than there is room for.
    Room {
        /// Ids there is room for.
        found: usize,
    },
    /// More scratch is needed for the longest word.
    Scratch {
        /// Words of u32 given.
        found: usize,
        /// Words of u32 needed.
        needed: usize,
    },
    /// The tokenizer has no token for a byte of the text.
    NoToken,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Malformed => write!(f, "the image's tokenizer tables are malformed"),
            Self::Room { found } => write!(f, "the text has more tokens than the {found} there is room for"),
            Self::Scratch { found, needed } => {
                write!(f, "the tokenizer needs {needed} words of scratch, {found} given")
            }
            Self::NoToken => write!(f, "the text holds a byte that the tokenizer has no token for"),
        }
    }
}

impl core::error::Error for TextError {}

/// A tokenizer over a TEXT section.
#[derive(Clone, Copy, Debug)]
pub struct Tokenizer<'a> {
    kind: u32,
    flags: u32,
    pre: u32,
    bos: u32,
    unknown: u32,
    after: u32,
    offsets: &'a [[u8; 4]],
    sorted: &'a [[u8; 4]],
    ranks: &'a [[u8; 4]],
    merges: &'a [[u8; 16]],
    specials: &'a [[u8; 4]],
    ends: &'a [[u8; 4]],
    bytes: &'a [[u8; 4]],
    added: &'a [[u8; 4]],
    blob: &'a [u8],
}

fn word(table: &[[u8; 4]], i: usize) -> Option<u32> {
    table.get(i).map(|b| u32::from_le_bytes(*b))
}

/// Takes `count` records of `N` bytes off the front of `rest`.
fn take<'a, const N: usize>(rest: &mut &'a [u8], count: u32) -> Option<&'a [[u8; N]]> {
    let (table, after) = rest.split_at_checked((count as usize).checked_mul(N)?)?;
    *rest = after;
    Some(table.as_chunks::<N>().0)
}

impl<'a> Tokenizer<'a> {
    /// Finds the tables of a TEXT section.
    ///
    /// # Errors
    /// [`TextError::Malformed`].
    pub fn open(section: &'a [u8]) -> Result<Self, TextError> {
        Self::find(section).ok_or(TextError::Malformed)
    }

    fn find(section: &'a [u8]) -> Option<Self> {
        let field = |i: usize| u32_at(section, 4 * i);
        let (kind, vocab) = (field(0)?, field(1)?);
        let mut rest = section.get(HEAD_BYTES..)?;
        let tokenizer = Self {
            kind,
            flags: field(2)?,
            bos: field(3)?,
            unknown: field(4)?,
            pre: field(5)?,
            after: field(12)?,
            offsets: take(&mut rest, vocab.checked_add(1)?)?,
            sorted: take(&mut rest, field(9)?)?,
            ranks: take(&mut rest, if kind == kind::SCORES { vocab } else { 0 })?,
            merges: take(&mut rest, field(6)?)?,
            specials: take(&mut rest, field(7)?)?,
            ends: take(&mut rest, field(8)?)?,
            bytes: take(&mut rest, 256)?,
            added: take(&mut rest, field(11)?)?,
            blob: rest,
        };
        let last = if cfg!(feature = "wordpiece") { kind::PIECES } else { kind::PIECES - 1 };
        let known = (kind::SCORES..=last).contains(&kind) && tokenizer.pre <= layout::pre::SMOLLM;
        (known && rest.len() == field(10)? as usize).then_some(tokenizer)
    }

    /// Whether it spells words with the longest pieces (BERT's).
    #[must_use]
    pub fn is_wordpiece(&self) -> bool {
        self.kind == kind::PIECES
    }

    /// Number of pieces.
    #[must_use]
    pub fn vocab(&self) -> u32 {
        (self.offsets.len() as u32).saturating_sub(1)
    }

    /// The token that begins a text, if there is one.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        Some(self.bos).filter(|id| *id != NONE)
    }

    /// Whether texts begin with BOS.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        self.flags & flag::ADD_BOS != 0
    }

    /// The token that is put after a text, if one is.
    #[must_use]
    pub fn after(&self) -> Option<u32> {
        Some(self.after).filter(|_| self.flags & flag::ADD_END != 0)
    }

    /// Whether `id` ends a text.
    #[must_use]
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.iter().any(|e| u32::from_le_bytes(*e) == id)
    }

    /// Whether `id` is a special token, which has no text of its own.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.specials.iter().any(|e| u32::from_le_bytes(*e) == id)
    }

    /// The bytes of a piece; empty for an id that does not exist.
    #[must_use]
    pub fn piece(&self, id: u32) -> &'a [u8] {
        let id = id as usize;
        let span = word(self.offsets, id).zip(id.checked_add(1).and_then(|next| word(self.offsets, next)));
        span.and_then(|(start, end)| self.blob.get(start as usize..end as usize)).unwrap_or(&[])
    }

    /// The normal piece with these bytes.
    #[must_use]
    pub fn find_piece(&self, bytes: &[u8]) -> Option<u32> {
        let by_bytes = |id: &[u8; 4]| self.piece(u32::from_le_bytes(*id)).cmp(bytes);
        self.sorted.binary_search_by(by_bytes).ok().and_then(|i| word(self.sorted, i))
    }

    /// The merge of two neighbouring pieces.
    fn find_merge(&self, left: u32, right: u32) -> Option<Pair> {
        let field = |m: &[u8; 16], i: usize| u32_at(m, 4 * i).unwrap_or(NONE);
        let order = |m: &[u8; 16]| match field(m, 0).cmp(&left) {
            Ordering::Equal => field(m, 1).cmp(&right),
            unequal => unequal,
        };
        let found = self.merges.binary_search_by(order).ok().and_then(|i| self.merges.get(i))?;
        Some(Pair { rank: field(found, 2), id: field(found, 3) })
    }

    /// u32 words of scratch that suffice for any text of `text_bytes` bytes.
    #[must_use]
    pub fn scratch_words(text_bytes: usize) -> usize {
        merge::scratch_words(text_bytes.saturating_add(1))
    }

    /// Encodes `text` into `ids` and returns how many there are. With `parse_special`, special tokens spelled out in the
    /// text become those tokens (for templates); without, they are text like any other (for what users type).
    /// Added tokens that are no special ones (`<tool_call>`, say) are found either way, as their tokenizers do.
    /// BOS is put first, and an end last, if the tokenizer wants it.
    ///
    /// `scratch` serves the longest word; [`Tokenizer::scratch_words`] of the text's length is always enough.
    ///
    /// # Errors
    /// [`TextError::Room`], [`TextError::Scratch`], [`TextError::NoToken`].
    pub fn encode(
        &self,
        text: &str,
        parse_special: bool,
        ids: &mut [u32],
        scratch: &mut [u32],
    ) -> Result<usize, TextError> {
        let bos = if self.adds_bos() { self.bos() } else { None };
        let count = self.encode_after(bos, text, parse_special, ids, scratch)?;
        let mut out = Ids { ids, count };
        self.after().map_or(Ok(()), |id| out.push(id))?;
        Ok(out.count)
    }

    /// As [`Tokenizer::encode`], beginning with `first` (or nothing) instead of BOS, and with nothing at the end.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_after(
        &self,
        first: Option<u32>,
        text: &str,
        parse_special: bool,
        ids: &mut [u32],
        scratch: &mut [u32],
    ) -> Result<usize, TextError> {
        let mut out = Ids { ids, count: 0 };
        if let Some(first) = first {
            out.push(first)?;
        }
        let mut rest = text;
        let mut prefix = self.flags & flag::ADD_SPACE != 0;
        let again = prefix && self.flags & flag::SPACE_EACH != 0;
        while !rest.is_empty() {
            let whole = self.next_whole(rest, parse_special);
            let (plain, after) = match whole {
                Some((at, _)) => rest.split_at_checked(at).unwrap_or((rest, "")),
                None => (rest, ""),
            };
            if !plain.is_empty() {
                let has_space = self.flags & flag::SPACE_ONCE != 0 && plain.starts_with(' ');
                self.encode_plain(plain, prefix && !has_space, &mut out, scratch)?;
            }
            prefix = again;
            rest = after;
            if let Some((_, id)) = whole {
                out.push(id)?;
                rest = after.get(self.piece(id).len()..).unwrap_or("");
            }
        }
        Ok(out.count)
    }

    /// The first token in `text` that is matched whole, and where it begins; the longest of those that begin there.
    fn next_whole(&self, text: &str, parse_special: bool) -> Option<(usize, u32)> {
        let specials = if parse_special { self.specials } else { &[] };
        if specials.is_empty() && self.added.is_empty() {
            return None;
        }
        text.char_indices().find_map(|(at, _)| {
            let here = text.as_bytes().get(at..)?;
            let matches = |id: &u32| {
                let piece = self.piece(*id);
                !piece.is_empty() && here.starts_with(piece)
            };
            let longest = |table: &[[u8; 4]]| table.iter().map(|e| u32::from_le_bytes(*e)).find(matches);
            let both = [longest(self.added), longest(specials)];
            both.into_iter().flatten().max_by_key(|id| self.piece(*id).len()).map(|id| (at, id))
        })
    }

    fn encode_plain(&self, text: &str, prefix: bool, out: &mut Ids<'_>, scratch: &mut [u32]) -> Result<(), TextError> {
        if cfg!(feature = "wordpiece") && self.is_wordpiece() {
            return wordpiece::encode(self, text, out);
        }
        let mut rest = text;
        let mut prefix = prefix;
        while !rest.is_empty() {
            let (word, after) = rest.split_at_checked(self.word_len(rest)).unwrap_or((rest, ""));
            self.encode_word(word, prefix, out, scratch)?;
            prefix = false;
            rest = after;
        }
        Ok(())
    }

    /// Bytes of the first word of `text`.
    fn word_len(&self, text: &str) -> usize {
        if self.pre == layout::pre::NONE && self.flags & flag::WORDS != 0 {
            // A word ends where a space follows something else.
            let mut seen = false;
            for (at, c) in text.char_indices() {
                if c == ' ' && seen {
                    return at;
                }
                seen |= c != ' ';
            }
            return text.len();
        }
        pretokenize::word(text, self.pre)
    }

    fn encode_word(&self, text: &str, prefix: bool, out: &mut Ids<'_>, scratch: &mut [u32]) -> Result<(), TextError> {
        let lead = usize::from(prefix);
        if self.flags & flag::WHOLE_WORDS != 0
            && !prefix
            && let Some(id) = self.find_piece(text.as_bytes())
        {
            return out.push(id);
        }
        let characters = self.flags & flag::CHARACTERS != 0;
        let count = lead + if characters { text.chars().count() } else { text.len() };
        let too_small = TextError::Scratch { found: scratch.len(), needed: merge::scratch_words(count) };
        let mut word = Word::new(scratch, count).ok_or(too_small)?;
        // Positions count the prefix as one byte before the text.
        let bytes_of = |start: u32, end: u32| SpacedText { text: text.as_bytes(), lead, start, end };
        let id_of = |start: usize, end: usize| bytes_of(start as u32, end as u32).find(self).unwrap_or(NONE);
        let mut index = 0;
        let mut put = |id: u32, end: usize| {
            word.put(index, Symbol { id, end: end as u32 });
            index += 1;
        };
        if prefix {
            put(id_of(0, 1), 1);
        }
        if characters {
            for (at, c) in text.char_indices() {
                let (start, end) = (lead + at, lead + at + c.len_utf8());
                put(id_of(start, end), end);
            }
        } else {
            for (at, byte) in text.bytes().enumerate() {
                put(word_at(self.bytes, byte), lead + at + 1);
            }
        }
        if self.kind == kind::SCORES {
            word.merge(|_, _, start, end| {
                let id = bytes_of(start, end).find(self)?;
                Some(Pair { rank: word_at_rank(self.ranks, id)?, id })
            });
        } else {
            word.merge(|left, right, _, _| self.find_merge(left, right));
        }
        for (id, start, end) in word.symbols() {
            if id != NONE {
                out.push(id)?;
                continue;
            }
            for byte in bytes_of(start, end).bytes() {
                let id = word_at(self.bytes, byte);
                let id = if id == NONE { self.unknown } else { id };
                if id == NONE {
                    return Err(TextError::NoToken);
                }
                out.push(id)?;
                if id == self.unknown {
                    break;
                }
            }
        }
        Ok(())
    }
}

fn word_at(bytes: &[[u8; 4]], byte: u8) -> u32 {
    word(bytes, usize::from(byte)).unwrap_or(NONE)
}

fn word_at_rank(ranks: &[[u8; 4]], id: u32) -> Option<u32> {
    word(ranks, id as usize).filter(|r| *r != NONE)
}

/// A stretch of a word that may have a space before it which is not in the text.
struct SpacedText<'t> {
    text: &'t [u8],
    lead: usize,
    start: u32,
    end: u32,
}

/// Longest piece that a prefixed word is compared with; no vocabulary has a longer one that a word could be.
const LONGEST: usize = 128;

impl SpacedText<'_> {
    fn plain(&self) -> &[u8] {
        let start = (self.start as usize).saturating_sub(self.lead);
        let end = (self.end as usize).saturating_sub(self.lead);
        self.text.get(start..end).unwrap_or(&[])
    }

    fn spaced(&self) -> bool {
        self.lead > 0 && self.start == 0
    }

    fn bytes(&self) -> impl Iterator<Item = u8> + '_ {
        self.spaced().then_some(b' ').into_iter().chain(self.plain().iter().copied())
    }

    fn find(&self, tokenizer: &Tokenizer<'_>) -> Option<u32> {
        if !self.spaced() {
            return tokenizer.find_piece(self.plain());
        }
        let mut buffer = [0u8; LONGEST];
        let len = self.plain().len() + 1;
        for (to, from) in buffer.iter_mut().zip(self.bytes()) {
            *to = from;
        }
        tokenizer.find_piece(buffer.get(..len)?)
    }
}

struct Ids<'i> {
    ids: &'i mut [u32],
    count: usize,
}

impl Ids<'_> {
    fn push(&mut self, id: u32) -> Result<(), TextError> {
        let full = TextError::Room { found: self.ids.len() };
        *self.ids.get_mut(self.count).ok_or(full)? = id;
        self.count += 1;
        Ok(())
    }
}

/// Decodes tokens one by one: holds back bytes until they make whole characters, drops the space that encoding added.
#[derive(Clone, Copy, Debug)]
pub struct Decoder<'a> {
    tokenizer: Tokenizer<'a>,
    held: [u8; 4],
    count: usize,
    started: bool,
}

impl<'a> Decoder<'a> {
    /// A decoder at the beginning of a text.
    #[must_use]
    pub fn new(tokenizer: Tokenizer<'a>) -> Self {
        Self { tokenizer, held: [0; 4], count: 0, started: false }
    }

    /// Decodes one token; calls `emit` with whole characters. Bytes that are no UTF-8 become U+FFFD.
    pub fn push(&mut self, id: u32, emit: &mut dyn FnMut(&str)) {
        if self.tokenizer.is_special(id) {
            return;
        }
        let mut piece = self.tokenizer.piece(id);
        if !self.started && self.tokenizer.flags & flag::ADD_SPACE != 0 {
            piece = piece.strip_prefix(b" ").unwrap_or(piece);
        }
        self.started = true;
        for byte in piece {
            if let Some(slot) = self.held.get_mut(self.count) {
                *slot = *byte;
                self.count += 1;
            }
            self.release(emit);
        }
    }

    fn release(&mut self, emit: &mut dyn FnMut(&str)) {
        while let Some(held) = self.held.get(..self.count).filter(|h| !h.is_empty()) {
            let used = match core::str::from_utf8(held) {
                Ok(text) => {
                    emit(text);
                    self.count
                }
                Err(why) => match why.error_len() {
                    None => return, // a character's beginning: wait
                    Some(bad) => {
                        emit("\u{fffd}");
                        bad
                    }
                },
            };
            let mut rest = [0; 4];
            for (to, from) in rest.iter_mut().zip(self.held.iter().skip(used)) {
                *to = *from;
            }
            self.held = rest;
            self.count = self.count.saturating_sub(used);
        }
    }

    /// Ends the text: what is still held becomes U+FFFD.
    pub fn finish(&mut self, emit: &mut dyn FnMut(&str)) {
        if self.count > 0 {
            emit("\u{fffd}");
        }
        *self = Self::new(self.tokenizer);
    }
}
