//! Text from an image in one call: tokens in, tokens and text out, all memory allocated once.

use crate::{Arena, Draft, HostError, Model, Threads};
use mote_runtime::sample::{ONE, Params, Sampler};
use mote_runtime::text::Decoder;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// How to generate.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Tokens to generate at most.
    pub max_tokens: u32,
    /// How the next token is chosen.
    pub sampling: Params,
    /// Seed of the choice: the same seed gives the same text on every device.
    pub seed: u64,
    /// Positions of the context; `None` for as many as prompt and `max_tokens` need. Never more than the image allows.
    pub context: Option<u32>,
    /// Tokens of the prompt that are processed at a time; changes no result.
    pub batch: u32,
    /// Threads; their number changes no result.
    pub threads: u32,
    /// Models with an encoder: the token after the one that begins every target (the language to translate to).
    pub begin: Option<u32>,
}

impl Default for Options {
    /// 128 tokens at temperature 0.8 from the 40 likeliest, seed 0, one thread.
    fn default() -> Self {
        let sampling = Params { temperature: ONE / 5 * 4, top_k: 40, ..Params::GREEDY };
        Self { max_tokens: 128, sampling, seed: 0, context: None, batch: 32, threads: 1, begin: None }
    }
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// There are as many tokens as were asked for.
    Length,
    /// The model ended its text.
    EndToken,
    /// The context is full.
    ContextFull,
    /// The caller stopped it.
    Stopped,
}

/// What was generated.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The prompt's tokens, then the generated ones. With an encoder: those that begin the target, then the generated ones.
    pub tokens: Vec<u32>,
    /// How many of them are the prompt's, or begin the target.
    pub prompt_tokens: usize,
    /// Their text; empty if the image has no tokenizer.
    pub text: String,
    /// Why it ended.
    pub ended: Ended,
    /// Tokens that a draft guessed and the model checked, and those among them that were right.
    pub drafted: usize,
    /// See [`Generation::drafted`].
    pub accepted: usize,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// Time for the prompt.
    pub prefill: Duration,
    /// Time for the generated tokens.
    pub decode: Duration,
}

impl Model {
    /// Continues `prompt`; a model with an encoder takes it as its source and writes the target. `on_token` gets each token of
    /// [`Generation::tokens`], the prompt's too, with the text it completes (tokens can end within a character: then the text
    /// comes with a later one), and may stop the generation.
    ///
    /// # Errors
    /// [`HostError::Session`] for an empty prompt, ids outside the vocabulary or a context that is too short;
    /// [`HostError::Memory`].
    pub fn generate(
        &self,
        prompt: &[u32],
        options: &Options,
        on_token: &mut dyn FnMut(u32, &str) -> ControlFlow<()>,
    ) -> Result<Generation, HostError> {
        self.generate_with(prompt, options, None, on_token)
    }

    /// As [`Model::generate`], with a draft: the same tokens and text, in fewer passes over the weights where it guesses well.
    ///
    /// # Errors
    /// As [`Model::generate`], and those of the draft.
    pub fn generate_with(
        &self,
        prompt: &[u32],
        options: &Options,
        mut draft: Option<&mut dyn Draft>,
        on_token: &mut dyn FnMut(u32, &str) -> ControlFlow<()>,
    ) -> Result<Generation, HostError> {
        let given = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        let begin: Vec<u32> = std::iter::once(self.image().plan().start).chain(options.begin).collect();
        let wanted = match self.has_encoder() {
            true => given.max(options.max_tokens.saturating_add(begin.len() as u32)),
            false => given.saturating_add(options.max_tokens),
        };
        // A token and its guesses are one batch.
        let most_guesses = draft.as_ref().map_or(0, |draft| draft.most());
        let limits = self.limits(
            options.batch.max(most_guesses.saturating_add(1)),
            options.context.unwrap_or(wanted),
            options.threads,
        );
        let pool = Threads::new(options.threads as usize);
        let mut arena = Arena::for_limits(self, limits)?;
        let mut session = self.session(&mut arena, &pool)?;
        let mut sampler = Sampler::new(options.sampling, options.seed);
        let tokenizer = self.tokenizer().ok();
        let mut decoder = tokenizer.map(Decoder::new);
        let mut text = String::new();
        let mut show = |id: Option<u32>, last: u32| {
            let from = text.len();
            match (&mut decoder, id) {
                (Some(decoder), Some(id)) => decoder.push(id, &mut |piece| text.push_str(piece)),
                (Some(decoder), None) => decoder.finish(&mut |piece| text.push_str(piece)),
                (None, _) => {}
            }
            match (id, text.get(from..).unwrap_or_default()) {
                (None, "") => ControlFlow::Continue(()),
                (_, piece) => on_token(last, piece),
            }
        };
        let mut tokens = prompt.to_vec();
        let start = Instant::now();
        if self.has_encoder() {
            session.encode(prompt)?;
            tokens = begin;
        }
        session.prefill(&tokens)?;
        let (prefill, prompt_tokens) = (start.elapsed(), tokens.len());
        let mut ended = Ended::Length;
        if tokens.iter().any(|id| show(Some(*id), *id).is_break()) {
            ended = Ended::Stopped;
        }
        let start = Instant::now();
        // What was guessed after the last token that the session was given, and how many of that were right so far.
        let (mut guesses, mut right) = (Vec::new(), 0);
        let (mut drafted, mut accepted) = (0, 0);
        // Logits of a token and its guesses, and scratch for them.
        let (batch, vocab) = (most_guesses as usize + 1, self.image().plan().vocab as usize);
        let mut all = if draft.is_some() { vec![0; batch * vocab] } else { Vec::new() };
        let mut room = if draft.is_some() { vec![0; batch * session.head_bytes()] } else { Vec::new() };
        let mut rows = session.rows().wrapping_sub(1);
        let most = if ended == Ended::Stopped { 0 } else { options.max_tokens };
        for left in (0..most).rev() {
            let frac_bits = session.logits_frac_bits();
            let logits = match guesses.is_empty() {
                true => session.logits(rows)?,
                false => &mut all[rows as usize * vocab..][..vocab],
            };
            let id = sampler.sample(logits, frac_bits, &tokens);
            tokens.push(id);
            if tokenizer.is_some_and(|t| t.is_end(id)) {
                ended = Ended::EndToken;
                break;
            }
            if show(Some(id), id).is_break() {
                ended = Ended::Stopped;
                break;
            }
            // The last token needs no logits.
            if left == 0 {
                break;
            }
            // All but the token just chosen.
            let position = tokens.len() - 1;
            if position == limits.context as usize {
                ended = Ended::ContextFull;
                break;
            }
            if guesses.get(right) == Some(&id) {
                (right, rows, accepted) = (right + 1, rows + 1, accepted + 1);
                continue;
            }
            session.rewind(position as u32);
            (guesses, right, rows) = (vec![id], 0, 0);
            if let Some(draft) = &mut draft {
                // None behind the context's end, or beyond what is wanted.
                let room = (limits.context as usize - tokens.len()).min(left as usize - 1).min(most_guesses as usize);
                guesses.extend(draft.guess(&tokens, room)?.into_iter().take(room));
            }
            session.prefill(&guesses)?;
            guesses.remove(0);
            drafted += guesses.len();
            if !guesses.is_empty() {
                session.logits_of(session.rows(), &mut room, &mut all)?;
            }
        }
        let decode = start.elapsed();
        // A text that ends within a character.
        let _ = show(None, tokens.last().copied().unwrap_or(0));
        let arena_bytes = self.image().arena_bytes(limits)?;
        Ok(Generation { prompt_tokens, tokens, text, ended, drafted, accepted, arena_bytes, prefill, decode })
    }
}
