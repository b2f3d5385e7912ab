//! How the float model goes on, and how the image does, always with the likeliest token.

use super::ReportError;
use super::measure::threads;
use crate::float::FloatModel;
use crate::float::metrics::likeliest;
use mote_host::Options;
use mote_runtime::image::section;
use mote_runtime::sample::Params;
use mote_runtime::text::{Decoder, Tokenizer};
use std::ops::ControlFlow;

/// Tokens that each model writes.
const TOKENS: usize = 40;

/// A text up to the first token that the other model has not, that token, and what comes after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// What both wrote.
    pub same: String,
    /// The first token that differs, if one does.
    pub first: Option<String>,
    /// The rest.
    pub rest: String,
}

/// One prompt, and what both made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Continuation {
    /// The prompt, or the source.
    pub prompt: String,
    /// The float model's.
    pub float: Written,
    /// The image's.
    pub integer: Written,
    /// Tokens that both have in common, and how many the longer has.
    pub tokens: (usize, usize),
}

impl Continuation {
    /// Whether both are the same.
    #[must_use]
    pub fn same(&self) -> bool {
        self.tokens.0 == self.tokens.1
    }
}

/// Has both models continue `prompts`; a model with an encoder takes them as its sources.
pub(super) fn continuations(
    float: &FloatModel,
    image: &mote_host::Model,
    prompts: &[Vec<u32>],
) -> Result<Vec<Continuation>, ReportError> {
    let plan = image.image().plan();
    let tokenizer = image.tokenizer().ok();
    let source = image.image().section(section::SOURCE_TEXT).ok().filter(|_| image.has_encoder());
    let reads = source.map_or(tokenizer, |section| Tokenizer::open(section).ok());
    let mut all = Vec::new();
    for prompt in prompts.iter().filter(|prompt| !prompt.is_empty()) {
        let prompt = &prompt[..prompt.len().min(plan.max_context as usize)];
        let begin = if image.has_encoder() { vec![plan.start] } else { prompt.to_vec() };
        let most = TOKENS.min((plan.max_context as usize + 1).saturating_sub(begin.len()));
        let options = Options {
            max_tokens: most as u32,
            sampling: Params::GREEDY,
            threads: threads(),
            context: Some(plan.max_context.min((prompt.len() + TOKENS) as u32)),
            ..Options::default()
        };
        let generated = image.generate(prompt, &options, &mut |_, _| ControlFlow::Continue(()))?;
        let integer = &generated.tokens[generated.prompt_tokens..];

        let mut session = float.session();
        if image.has_encoder() {
            session.encode(prompt)?;
        }
        let (mut next, mut written) = (begin.clone(), Vec::new());
        while written.len() < most {
            let id = likeliest(&session.forward(&next)?.pop().unwrap_or_default());
            written.push(id);
            if tokenizer.is_some_and(|t| t.is_end(id)) {
                break;
            }
            next = vec![id];
        }
        let after = |ids: &[u32]| pieces(tokenizer, if image.has_encoder() { &[] } else { prompt }, ids);
        let common = written.iter().zip(integer).take_while(|(a, b)| a == b).count();
        let given: Vec<u32> = prompt.iter().copied().filter(|id| !reads.is_some_and(|t| t.is_end(*id))).collect();
        all.push(Continuation {
            prompt: pieces(reads, &[], &given).concat(),
            float: split(&after(&written), common),
            integer: split(&after(integer), common),
            tokens: (common, written.len().max(integer.len())),
        });
    }
    Ok(all)
}

fn split(pieces: &[String], common: usize) -> Written {
    let (same, other) = pieces.split_at(common);
    let rest = other.get(1..).unwrap_or_default().concat();
    Written { same: same.concat(), first: other.first().cloned(), rest }
}

/// The text of each token of `ids` after those of `before`; without a tokenizer the ids.
fn pieces(tokenizer: Option<Tokenizer<'_>>, before: &[u32], ids: &[u32]) -> Vec<String> {
    let Some(tokenizer) = tokenizer else { return ids.iter().map(|id| format!("{id} ")).collect() };
    let mut decoder = Decoder::new(tokenizer);
    before.iter().for_each(|id| decoder.push(*id, &mut |_| {}));
    let mut pieces = vec![String::new(); ids.len()];
    for (id, piece) in ids.iter().zip(&mut pieces) {
        decoder.push(*id, &mut |text| piece.push_str(text));
        if tokenizer.is_end(*id) {
            piece.push_str(" [end]");
        }
    }
    // A text that ends within a character.
    if let Some(last) = pieces.last_mut() {
        decoder.finish(&mut |text| last.push_str(text));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_part_at_the_first_token_that_differs() {
        let pieces = ["a ", "b ", "c ", "d"].map(String::from);
        let written = |same: &str, first: Option<&str>, rest: &str| Written {
            same: same.into(),
            first: first.map(String::from),
            rest: rest.into(),
        };
        assert_eq!(split(&pieces, 1), written("a ", Some("b "), "c d"));
        assert_eq!(split(&pieces, 3), written("a b c ", Some("d"), ""));
        assert_eq!(split(&pieces, 4), written("a b c d", None, ""));
        assert_eq!(super::pieces(None, &[7], &[1, 2]), ["1 ", "2 "]);
    }
}
