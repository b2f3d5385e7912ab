//! Drafts: what may come next, guessed cheaply, so that the model can check several tokens in one pass over its weights.
//!
//! ```text
//! loop:
//!   d[1..n]  = what the draft guesses after the text so far
//!   logits   = the model's, after the last token and after each of d[1..n]: one batch
//!   the sampler takes its tokens from them in order, as ever; while it takes d[i] too, d[i + 1]'s logits are the right ones
//!   the cache forgets the tokens of d that were not taken
//! ```
//!
//! The sampler sees the same logits and draws the same random numbers as without a draft, so the text is the same, whatever is
//! guessed. (Leviathan et al., arXiv 2211.17192, keep only the distribution.) Whether it is made faster depends on how often guesses are right, and
//! on what a batch costs beside one token.

use crate::{Arena, HostError, Model};
use mote_runtime::Session;
use mote_runtime::image::section;
use mote_runtime::view::Pool;
use std::fmt;

/// Guesses tokens.
pub trait Draft {
    /// How many tokens it guesses at a time, at most.
    fn most(&self) -> u32;

    /// Guesses what follows `tokens`, which is not empty: no more than `most` tokens, or none.
    ///
    /// # Errors
    /// Those of a model that guesses.
    fn guess(&mut self, tokens: &[u32], most: usize) -> Result<Vec<u32>, HostError>;
}

/// Guesses that the text goes on as it did before after the same few tokens: prompt lookup.
#[derive(Clone, Copy, Debug)]
pub struct Lookup {
    /// Tokens it guesses at a time.
    pub most: u32,
}

/// The longest run of tokens that is looked for; then shorter ones.
const LONGEST: usize = 3;

impl Draft for Lookup {
    fn most(&self) -> u32 {
        self.most
    }

    fn guess(&mut self, tokens: &[u32], most: usize) -> Result<Vec<u32>, HostError> {
        let (before, _) = tokens.split_at(tokens.len().saturating_sub(1));
        for length in (1..=LONGEST.min(before.len())).rev() {
            let last = &tokens[tokens.len() - length..];
            // The latest place before the end: what was written last is likeliest to go on alike.
            if let Some(at) = before.windows(length).rposition(|run| run == last) {
                let after = &tokens[at + length..];
                return Ok(after[..most.min(after.len())].to_vec());
            }
        }
        Ok(Vec::new())
    }
}

/// Why a model cannot guess for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DraftError {
    /// It is no language model that writes.
    NoLanguageModel,
    /// It has an encoder: it writes from a source, which it does not get.
    Encoder,
    /// Its tokens are others.
    Vocabulary {
        /// How many it has.
        found: u32,
        /// How many the model has that it is to guess for.
        expected: u32,
    },
    /// Its tokenizer differs: as many tokens, but they stand for something else.
    Tokenizer,
}

impl fmt::Display for DraftError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLanguageModel => write!(f, "it is no language model that writes"),
            Self::Encoder => write!(f, "it has an encoder, and only texts that go on can be guessed"),
            Self::Vocabulary { found, expected } => {
                write!(f, "it has a vocabulary of {found} tokens, the model one of {expected}: they must be the same")
            }
            Self::Tokenizer => write!(f, "its tokenizer is not the model's: they must be the same"),
        }
    }
}

/// Guesses what a smaller model would write: its likeliest token, each time.
pub struct Small<'m> {
    session: Session<'m>,
    most: u32,
    context: usize,
    /// The tokens that the session's cache holds.
    seen: Vec<u32>,
}

impl<'m> Small<'m> {
    /// Opens a session of `small` in `arena`, which guesses for `model`, `most` tokens at a time.
    ///
    /// # Errors
    /// [`HostError::Draft`], [`HostError::Session`], [`HostError::Kernel`].
    pub fn new(
        small: &'m Model,
        model: &Model,
        arena: &'m mut Arena,
        pool: &'m dyn Pool,
        most: u32,
    ) -> Result<Self, HostError> {
        Self::check(small, model)?;
        let context = arena.limits().context as usize;
        Ok(Self { session: small.session(arena, pool)?, most, context, seen: Vec::new() })
    }

    /// Checks that `small` can guess for `model`. If either has no tokenizer, equal numbers of tokens must do.
    ///
    /// # Errors
    /// [`HostError::Draft`].
    pub fn check(small: &Model, model: &Model) -> Result<(), HostError> {
        let (found, expected) = (small.image().plan().vocab, model.image().plan().vocab);
        let texts = (small.image().section(section::TEXT), model.image().section(section::TEXT));
        let why = match texts {
            _ if found == 0 => DraftError::NoLanguageModel,
            _ if small.has_encoder() || model.has_encoder() => DraftError::Encoder,
            _ if found != expected => DraftError::Vocabulary { found, expected },
            (Ok(a), Ok(b)) if a != b => DraftError::Tokenizer,
            _ => return Ok(()),
        };
        Err(HostError::Draft(why))
    }
}

impl Draft for Small<'_> {
    fn most(&self) -> u32 {
        self.most
    }

    fn guess(&mut self, tokens: &[u32], most: usize) -> Result<Vec<u32>, HostError> {
        let room = self.context.saturating_sub(tokens.len());
        let most = most.min(room);
        if most == 0 {
            return Ok(Vec::new());
        }
        // What it guessed and the model did not write is forgotten; the last token gives the logits.
        let common = self.seen.iter().zip(tokens).take_while(|(a, b)| a == b).count().min(tokens.len() - 1);
        self.session.rewind(common as u32);
        self.session.prefill(&tokens[common..])?;
        self.seen.clear();
        self.seen.extend_from_slice(tokens);
        let mut guessed = Vec::with_capacity(most);
        loop {
            let logits = self.session.last_logits()?;
            let top = logits.iter().copied().max().unwrap_or(0);
            let id = logits.iter().position(|logit| *logit == top).unwrap_or(0) as u32;
            guessed.push(id);
            if guessed.len() == most {
                return Ok(guessed);
            }
            self.session.prefill(&[id])?;
            self.seen.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookup_goes_on_as_before() {
        let guess = |tokens: &[u32], most| Lookup { most: 8 }.guess(tokens, most).unwrap();
        assert_eq!(guess(&[1, 2, 3, 4, 1, 2], 8), [3, 4, 1, 2]);
        assert_eq!(guess(&[1, 2, 3, 4, 1, 2], 1), [3]);
        // Of several places the latest, of several lengths the longest.
        assert_eq!(guess(&[7, 1, 7, 2, 7], 1), [2]);
        assert_eq!(guess(&[5, 7, 1, 9, 7, 2, 5, 7], 1), [1]);
        assert_eq!(guess(&[4, 4, 4], 8), [4]);
        assert!(guess(&[1, 2, 3], 8).is_empty() && guess(&[1], 8).is_empty() && guess(&[1, 1], 0).is_empty());
    }
}
