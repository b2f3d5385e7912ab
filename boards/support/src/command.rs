//! The firmware's command lines.
//!
//! ```text
//! a language model:
//! [--sha256] [-n N] [--batch N] [--context N] [--seed N] [--temperature X] [--top-k N] [--top-p X] [--min-p X]
//!            [--repeat-penalty X] [--repeat-last N] [--tokens 1,2,3 | --prompt TEXT TO THE END OF THE LINE]
//! any other net:
//! [--sha256] [--each] [--runs N] [--seed N] [--top N] [--text N] [--input FILE ...] [--output FILE ...]
//! ```
//!
//! With the feature `steps` either takes `--steps BUDGET`: it works in pieces, and says how long the longest was.
//!
//! There are no quotes: `--prompt` comes last and takes the rest of the line. `X` is a decimal fraction such as `0.85`.
//! `FILE` is opened on the machine of the debugger or emulator, and holds the integers of an input or output of every run,
//! one run's after the other's, little-endian, without a header; one for each, in order.

#[cfg(feature = "decoder")]
use crate::memory::{BATCH, CONTEXT, Tokens};
#[cfg(feature = "decoder")]
use mote_runtime::sample::{ONE, Params};

/// What a language model is to do.
#[cfg(feature = "decoder")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generate<'a> {
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
    /// What a piece of work may cost; 0: no pieces.
    #[cfg(feature = "steps")]
    pub steps: u32,
}

#[cfg(feature = "decoder")]
impl<'a> Generate<'a> {
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
            #[cfg(feature = "steps")]
            steps: 0,
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
            #[cfg(feature = "steps")]
            "--steps" => self.steps = integer(value)?,
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

/// Names of files, an input's or output's each.
#[cfg(feature = "convnet")]
pub type Files<'a> = heapless::Vec<&'a str, 8>;

/// What a net without tokens is to do.
#[cfg(feature = "convnet")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Infer<'a> {
    /// Whether all outputs are hashed.
    pub sha256: bool,
    /// Whether every run's outputs are hashed by themselves, too.
    pub each: bool,
    /// How often it runs.
    pub runs: u32,
    /// The seed of the first run's inputs, if they are random; later runs count upwards.
    pub seed: u32,
    /// How many of the largest values of output 0 are printed.
    pub top: u32,
    /// Values in a line of output 0 as characters; 0: it is not printed so.
    pub text: u32,
    /// Where the inputs come from; none: they are random.
    pub inputs: Files<'a>,
    /// Where the outputs go, those that are wanted.
    pub outputs: Files<'a>,
    /// What a piece of work may cost; 0: no pieces.
    #[cfg(feature = "steps")]
    pub steps: u32,
}

#[cfg(feature = "convnet")]
impl<'a> Infer<'a> {
    /// Reads a command line.
    ///
    /// # Errors
    /// The word that was not understood, or whose value was not.
    pub fn parse(line: &'a str) -> Result<Self, &'a str> {
        let mut command = Self {
            sha256: false,
            each: false,
            runs: 1,
            seed: 1,
            top: 5,
            text: 0,
            inputs: Files::new(),
            outputs: Files::new(),
            #[cfg(feature = "steps")]
            steps: 0,
        };
        let mut rest = line.trim_ascii_start();
        while let (flag, Some(after)) = word(rest) {
            rest = after;
            match flag {
                "--sha256" => command.sha256 = true,
                "--each" => command.each = true,
                _ => {
                    let (value, Some(after)) = word(after) else { return Err(flag) };
                    rest = after;
                    command.set(flag, value).ok_or(flag)?;
                }
            }
        }
        Ok(command)
    }

    fn set(&mut self, flag: &str, value: &'a str) -> Option<()> {
        match flag {
            "--runs" => self.runs = integer(value).filter(|n| *n > 0)?,
            "--seed" => self.seed = integer(value)?,
            "--top" => self.top = integer(value)?,
            "--text" => self.text = integer(value)?,
            #[cfg(feature = "steps")]
            "--steps" => self.steps = integer(value)?,
            "--input" => self.inputs.push(value).ok()?,
            "--output" => self.outputs.push(value).ok()?,
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
#[cfg(feature = "decoder")]
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

#[cfg(all(test, feature = "decoder", feature = "convnet"))]
mod tests {
    use super::*;

    #[test]
    fn a_whole_line() {
        let mut tokens = Tokens::new();
        let command = Generate::parse("-n 40 --temperature 0.5 --top-p 1 --prompt Once,  upon", &mut tokens);
        let params = Params { temperature: 32768, ..Params::GREEDY };
        let command = command.expect("good");
        assert_eq!((command.generate, command.params, command.prompt), (40, params, "Once,  upon"));
        let command = Generate::parse(" --tokens 1,22,333 --sha256 ", &mut tokens).expect("good");
        assert!(command.sha256 && command.prompt.is_empty());
        assert_eq!(tokens.as_slice(), [1, 22, 333]);
    }

    #[test]
    fn bad_words_are_named() {
        let mut tokens = Tokens::new();
        for (line, bad) in
            [("-n x", "-n"), ("-n", "-n"), ("--frobnicate 1", "--frobnicate"), ("--tokens 1,,2", "--tokens")]
        {
            assert_eq!(Generate::parse(line, &mut tokens), Err(bad), "{line}");
        }
        assert_eq!(integer("4294967296"), None);
    }

    #[test]
    fn nets() {
        let command = Infer::parse("--runs 3 --input a --input b --each --text 28").expect("good");
        assert_eq!((command.runs, command.seed, command.text, command.each, command.sha256), (3, 1, 28, true, false));
        assert_eq!((command.inputs.as_slice(), command.outputs.len()), (&["a", "b"][..], 0));
        for (line, bad) in [("--runs 0", "--runs"), ("--tokens 1", "--tokens"), ("--input", "--input")] {
            assert_eq!(Infer::parse(line), Err(bad), "{line}");
        }
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
