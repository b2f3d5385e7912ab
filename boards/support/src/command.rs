//! The firmware's command line.
//!
//! ```text
//! [--sha256] [-n N] [--batch N] [--context N] [--seed N] [--temperature X] [--top-k N] [--top-p X] [--min-p X]
//!            [--repeat-penalty X] [--repeat-last N] [--tokens 1,2,3 | --prompt TEXT TO THE END OF THE LINE]
//! ```
//!
//! There are no quotes: `--prompt` comes last and takes the rest of the line. `X` is a decimal fraction such as `0.85`.

use crate::memory::{BATCH, CONTEXT, Tokens};
use mote_runtime::sample::{ONE, Params};

/// What to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// Text to begin with; empty if there is none.
    pub prompt: &'a str,
    /// Tokens to generate.
    pub generate: u32,
    /// Whether every position's logits are computed and hashed.
    pub sha256: bool,
    /// Tokens a step.
    pub batch: u32,
    /// Positions of the cache.
    pub context: u32,
    /// The sampler's seed.
    pub seed: u32,
    /// How to sample; greedy unless told.
    pub params: Params,
}

impl<'a> Command<'a> {
    /// Reads a command line; ids of `--tokens` go to `tokens`.
    ///
    /// # Errors
    /// The word that was not understood, or whose value was not.
    pub fn parse(line: &'a str, tokens: &mut Tokens) -> Result<Self, &'a str> {
        let mut command = Self {
            prompt: "",
            generate: 0,
            sha256: false,
            batch: BATCH,
            context: CONTEXT,
            seed: 0,
            params: Params::GREEDY,
        };
        let mut rest = line.trim_ascii_start();
        while let (flag, Some(after)) = word(rest) {
            if flag == "--prompt" {
                command.prompt = after.strip_prefix(" ").unwrap_or(after);
                return Ok(command);
            }
            rest = after;
            if flag == "--sha256" {
                command.sha256 = true;
                continue;
            }
            let (value, Some(after)) = word(after) else { return Err(flag) };
            rest = after;
            command.set(flag, value, tokens).ok_or(flag)?;
        }
        Ok(command)
    }

    fn set(&mut self, flag: &str, value: &str, tokens: &mut Tokens) -> Option<()> {
        match flag {
            "-n" => self.generate = integer(value)?,
            "--batch" => self.batch = integer(value)?,
            "--context" => self.context = integer(value)?,
            "--seed" => self.seed = integer(value)?,
            "--temperature" => self.params.temperature = q16(value)?,
            "--top-k" => self.params.top_k = integer(value)?,
            "--top-p" => self.params.top_p = q16(value)?,
            "--min-p" => self.params.min_p = q16(value)?,
            "--repeat-penalty" => self.params.repeat_penalty = q16(value)?,
            "--repeat-last" => self.params.repeat_last = integer(value)?,
            "--tokens" => {
                // Bytes, because splitting a `str` by a character can panic, as far as the optimiser knows.
                for id in value.as_bytes().split(|b| *b == b',') {
                    tokens.push(digits(id)?).ok()?;
                }
            }
            _ => return None,
        }
        Some(())
    }
}

/// The first word of `text` and what follows it; `None` if there was no word.
fn word(text: &str) -> (&str, Option<&str>) {
    let text = text.trim_ascii_start();
    if text.is_empty() {
        return ("", None);
    }
    let len = text.bytes().position(|b| b.is_ascii_whitespace()).unwrap_or(text.len());
    text.split_at_checked(len).map_or((text, Some("")), |(word, rest)| (word, Some(rest)))
}

/// Decimal digits, at least one.
fn digits(text: &[u8]) -> Option<u32> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u32, |n, b| {
        let digit = b.checked_sub(b'0').filter(|d| *d < 10)?;
        n.checked_mul(10)?.checked_add(u32::from(digit))
    })
}

fn integer(text: &str) -> Option<u32> {
    digits(text.as_bytes())
}

/// A decimal fraction in Q16, rounded to the nearest; digits beyond the ninth are dropped.
fn q16(text: &str) -> Option<u32> {
    let mut parts = text.as_bytes().split(|b| *b == b'.');
    let (whole, fraction) = (parts.next()?, parts.next().unwrap_or(&[]));
    let (mut n, mut scale) = (0u64, 1u64);
    for digit in fraction.iter().take(9) {
        n = n * 10 + u64::from(digit.checked_sub(b'0').filter(|d| *d < 10)?);
        scale *= 10;
    }
    let part = ((n << 16) + scale / 2).checked_div(scale)?;
    let whole = u64::from(digits(whole)?).checked_mul(u64::from(ONE))?;
    parts.next().is_none().then_some(())?;
    whole.checked_add(part).and_then(|q| u32::try_from(q).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_line() {
        let mut tokens = Tokens::new();
        let command = Command::parse("-n 40 --temperature 0.5 --top-p 1 --prompt Once,  upon", &mut tokens);
        let params = Params { temperature: 32768, ..Params::GREEDY };
        let command = command.expect("good");
        assert_eq!((command.generate, command.params, command.prompt), (40, params, "Once,  upon"));
        let command = Command::parse(" --tokens 1,22,333 --sha256 ", &mut tokens).expect("good");
        assert!(command.sha256 && command.prompt.is_empty());
        assert_eq!(tokens.as_slice(), [1, 22, 333]);
    }

    #[test]
    fn bad_words_are_named() {
        let mut tokens = Tokens::new();
        for (line, bad) in
            [("-n x", "-n"), ("-n", "-n"), ("--frobnicate 1", "--frobnicate"), ("--tokens 1,,2", "--tokens")]
        {
            assert_eq!(Command::parse(line, &mut tokens), Err(bad), "{line}");
        }
        assert_eq!(integer("4294967296"), None);
    }

    #[test]
    fn fractions() {
        let cases = [("1", 65536), ("0.1", 6554), ("2.25", 147_456), ("0.999999999999", 65536)];
        for (text, q) in cases {
            assert_eq!(q16(text), Some(q), "{text}");
        }
        for text in ["", ".5", "1.x", "1.2.3", "-1", "70000"] {
            assert_eq!(q16(text), None, "{text}");
        }
    }
}
