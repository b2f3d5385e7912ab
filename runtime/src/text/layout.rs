//! The bytes of a TEXT section: what the quantizer writes and [`super::Tokenizer`] reads in place.
//!
//! ```text
//! head, 64 bytes                     tables, one after the other, all u32 unless said
//!  0 u32 kind                         piece offsets  vocab + 1   into the blob
//!  4 u32 vocab                        sorted ids     sorted      normal pieces by their bytes
//!  8 u32 flags                        ranks          vocab       SPM: 0 is merged first; equal scores, equal ranks
//! 12 u32 bos id or NONE               merges         4 x merges  left, right, rank, result; by (left, right)
//! 16 u32 unknown id or NONE           specials       specials    ids of special tokens, longest piece first
//! 20 u32 pre-tokenizer                ends           ends        ids that end a text
//! 24 u32 merges (kind PIECES: rules)  bytes          256         id of each byte's token or NONE
//! 28 u32 specials                     added          added       ids matched whole, yet text; longest piece first
//! 32 u32 ends                         blob           blob bytes  u8; pieces' bytes, spaces as spaces
//! 36 u32 sorted
//! 40 u32 blob bytes
//! 44 u32 added
//! 48 u32 id after a text
//! 52 zeros
//! ```
//!
//! Of kind PIECES the table of merges has rules for characters: first, last, what they become ([`rule`]) and NONE or a second
//! character; by first, apart from each other.

/// Bytes of the head.
pub const HEAD_BYTES: usize = 64;
/// No such id.
pub const NONE: u32 = u32::MAX;

/// How symbols are merged.
pub mod kind {
    /// SentencePiece BPE: two neighbours merge if their bytes are a piece, best score first.
    pub const SCORES: u32 = 1;
    /// Merge list: two neighbours merge if the pair is listed, first in the list first.
    pub const MERGES: u32 = 2;
    /// WordPiece: nothing merges; words are spelled with the longest pieces, those that continue a word having ## before them.
    pub const PIECES: u32 = 3;
}

/// What a rule of kind PIECES does with the characters `first..=last`.
pub mod rule {
    /// Bits of the character that `first` becomes; the others follow it.
    pub const CHARACTER: u32 = (1 << 21) - 1;
    /// They are words of their own.
    pub const APART: u32 = 1 << 21;
    /// Nothing is left of them; with [`APART`], they are white space.
    pub const GONE: u32 = 1 << 22;
    /// They are syllables of Hangul, which come apart into their sounds.
    pub const HANGUL: u32 = 1 << 23;
}

/// Bits of the flags.
pub mod flag {
    /// Texts begin with BOS.
    pub const ADD_BOS: u32 = 1;
    /// A space is put before the text (SentencePiece's dummy prefix), and taken away when decoding.
    pub const ADD_SPACE: u32 = 2;
    /// Symbols start as characters (with byte tokens as fall-back) rather than as bytes.
    pub const CHARACTERS: u32 = 4;
    /// No piece holds a space after something else, so words can be merged one by one.
    pub const WORDS: u32 = 8;
    /// A whole word that is a piece needs no merging (`ignore_merges` of Llama 3).
    pub const WHOLE_WORDS: u32 = 16;
    /// The space of [`ADD_SPACE`] is put after each special token too, not only before the first text.
    pub const SPACE_EACH: u32 = 32;
    /// No space is put before text that begins with one.
    pub const SPACE_ONCE: u32 = 64;
    /// Texts end with the token that the head names.
    pub const ADD_END: u32 = 128;
}

/// How text is cut into words before merging.
pub mod pre {
    /// Not at all.
    pub const NONE: u32 = 0;
    /// GPT-2.
    pub const GPT2: u32 = 1;
    /// Llama 3: digits by one to three, line ends kept together.
    pub const LLAMA3: u32 = 2;
    /// Qwen 2: as Llama 3, digits one by one.
    pub const QWEN2: u32 = 3;
    /// SmolLM: digits one by one, what lies between them as GPT-2.
    pub const SMOLLM: u32 = 4;
}
