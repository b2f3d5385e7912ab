//! WordPiece, as BERT cuts text: characters are cleaned and folded, words cut at white space and around punctuation, and each word
//! is spelled with the longest pieces there are, from left to right.
//!
//! What becomes of a character is a table of the image ([`super::layout::rule`]), so that nothing here depends on Unicode's versions.

use super::layout::{NONE, rule};
use super::{Ids, TextError, Tokenizer};
use crate::image::header::u32_at;
use core::cmp::Ordering;

/// Characters of a word; a longer one is unknown (`max_input_chars_per_word`).
pub(super) const LONGEST_WORD: usize = 100;

/// What is before pieces that continue a word.
const CONTINUES: &[u8] = b"##";

/// A word while its characters are collected, in UTF-8.
struct Word {
    bytes: [u8; 4 * LONGEST_WORD],
    len: usize,
    chars: usize,
}

impl Word {
    fn push(&mut self, c: char) {
        self.chars = self.chars.saturating_add(1);
        let mut utf8 = [0; 4];
        let bytes = c.encode_utf8(&mut utf8).as_bytes();
        if let Some(to) = self.bytes.get_mut(self.len..).and_then(|to| to.get_mut(..bytes.len())) {
            to.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
            self.len += bytes.len();
        }
    }
}

/// The rule of a character: what it is, and up to two characters that it becomes. Without a rule it stays.
fn rule_of(tokenizer: &Tokenizer<'_>, c: char) -> (u32, [Option<char>; 2]) {
    let code = u32::from(c);
    let field = |r: &[u8; 16], i: usize| u32_at(r, 4 * i).unwrap_or(NONE);
    let order = |r: &[u8; 16]| match (field(r, 0).cmp(&code), field(r, 1).cmp(&code)) {
        (Ordering::Greater, _) => Ordering::Greater,
        (_, Ordering::Less) => Ordering::Less,
        _ => Ordering::Equal,
    };
    let Some(found) = tokenizer.merges.binary_search_by(order).ok().and_then(|i| tokenizer.merges.get(i)) else {
        return (0, [Some(c), None]);
    };
    let (first, what, second) = (field(found, 0), field(found, 2), field(found, 3));
    let to = (what & rule::CHARACTER).wrapping_add(code.wrapping_sub(first));
    (what & !rule::CHARACTER, [char::from_u32(to), char::from_u32(second)])
}

/// Syllables of Hangul from this one on come apart into a first, a middle and maybe a last sound (Unicode, section 3.12).
const HANGUL: u32 = 0xAC00;

fn sounds(c: char) -> [Option<char>; 3] {
    let index = u32::from(c).wrapping_sub(HANGUL);
    let last = index % 28;
    let sound = |from: u32, n: u32| char::from_u32(from.wrapping_add(n));
    [sound(0x1100, index / 588), sound(0x1161, index % 588 / 28), sound(0x11A7, last).filter(|_| last > 0)]
}

/// Appends the tokens of `text`.
pub(super) fn encode(tokenizer: &Tokenizer<'_>, text: &str, out: &mut Ids<'_>) -> Result<(), TextError> {
    let mut word = Word { bytes: [0; 4 * LONGEST_WORD], len: 0, chars: 0 };
    for c in text.chars() {
        let (class, becomes) = rule_of(tokenizer, c);
        if class & rule::APART != 0 {
            spell(tokenizer, &mut word, out)?;
        }
        if class & rule::HANGUL != 0 {
            sounds(c).into_iter().flatten().for_each(|c| word.push(c));
        } else if class & rule::GONE == 0 {
            becomes.into_iter().flatten().for_each(|c| word.push(c));
        }
        if class & rule::APART != 0 {
            spell(tokenizer, &mut word, out)?;
        }
    }
    spell(tokenizer, &mut word, out)
}

/// The piece that begins (or continues) a word with `bytes`.
fn find(tokenizer: &Tokenizer<'_>, bytes: &[u8], continues: bool) -> Option<u32> {
    let before = if continues { CONTINUES } else { &[] };
    let wanted = || before.iter().chain(bytes);
    let order = |id: &[u8; 4]| tokenizer.piece(u32::from_le_bytes(*id)).iter().cmp(wanted());
    let found = tokenizer.sorted.binary_search_by(order).ok();
    found.and_then(|i| tokenizer.sorted.get(i)).map(|id| u32::from_le_bytes(*id))
}

/// Appends the pieces of a word, or the unknown token if it cannot be spelled, and empties it.
fn spell(tokenizer: &Tokenizer<'_>, word: &mut Word, out: &mut Ids<'_>) -> Result<(), TextError> {
    let (chars, len) = (core::mem::take(&mut word.chars), core::mem::take(&mut word.len));
    if chars == 0 {
        return Ok(());
    }
    let before = out.count;
    let mut rest = word.bytes.get(..len).unwrap_or(&[]);
    let mut whole = chars <= LONGEST_WORD;
    while whole && !rest.is_empty() {
        // An end inside a character is no piece's.
        let longest = (1..=rest.len()).rev().find_map(|end| {
            let (piece, after) = rest.split_at_checked(end)?;
            Some((find(tokenizer, piece, out.count > before)?, after))
        });
        whole = longest.is_some();
        if let Some((id, after)) = longest {
            out.push(id)?;
            rest = after;
        }
    }
    if whole {
        return Ok(());
    }
    out.count = before;
    if tokenizer.unknown == NONE { Err(TextError::NoToken) } else { out.push(tokenizer.unknown) }
}
