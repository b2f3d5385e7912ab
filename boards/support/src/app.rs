//! The application: opens the image, runs tokens, says what came out and what it cost.
//!
//! The output is text (if the model has a tokenizer), then lines `key=value`; [`app`] documents the keys.

use crate::command::Command;
use crate::counter::Counter;
use crate::memory::{BATCH, Tokens};
use crate::{Board, marks, print};
use embedded_hal::digital::OutputPin;
use embedded_io::Write;
use mote_runtime::image::section;
use mote_runtime::sample::Sampler;
use mote_runtime::text::{Decoder, TextError, Tokenizer};
use mote_runtime::{Error, Image, Limits, Session};
use sha2::{Digest, Sha256};

/// Why a run ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure<'a> {
    /// A word of the command line.
    Word(&'a str),
    /// A batch larger than the firmware was built for.
    Batch,
    /// No tokens given, and no tokenizer that would begin a text.
    NoTokens,
    /// The image, the arena or a request.
    Runtime(Error),
    /// The prompt.
    Text(TextError),
}

impl From<Error> for Failure<'_> {
    fn from(why: Error) -> Self {
        Self::Runtime(why)
    }
}

/// Runs `line` on `image` and prints:
///
/// | key | value |
/// | --- | --- |
/// | `board` | name |
/// | `error` | only after a failure: what, then `found` and `expected` where there are such numbers |
/// | `tokens` | ids: the prompt's, then the generated ones |
/// | `tokens_per_run` | tokens that went through the model |
/// | `prefill_tokens`, `prefill_instructions` | the prompt's share |
/// | `instructions_per_token` | instructions over tokens, of the whole run |
/// | `arena_bytes`, `arena_high_water_bytes` | what the image asked for, and how far it was written |
/// | `stack_high_water_bytes` | from the top of the stack |
/// | `logits_sha256` | with `--sha256`: SHA-256 of every position's logits in order, each `vocab` little-endian i32 |
///
/// Returns whether all went well.
pub fn app<W: Write, C: Counter, P: OutputPin>(
    board: &mut Board<W, C, P>,
    line: &str,
    image: &[u8],
    arena: &mut [u8],
    tokens: &mut Tokens,
) -> bool {
    print::field(&mut board.console, "board", board.name);
    let done = run(board, line, image, arena, tokens);
    if let Err(failure) = done {
        report(&mut board.console, failure);
    }
    done.is_ok()
}

/// What a run is measured and reported by.
struct Meter<'b, W: Write, C: Counter, P: OutputPin> {
    board: &'b mut Board<W, C, P>,
    instructions: u64,
}

impl<W: Write, C: Counter, P: OutputPin> Meter<'_, W, C, P> {
    /// Runs `work` with the pin high, and counts its instructions.
    fn measure<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let _ = self.board.busy.set_high();
        let before = self.board.counter.instructions();
        let out = work();
        self.instructions += self.board.counter.instructions().saturating_sub(before);
        let _ = self.board.busy.set_low();
        out
    }
}

fn run<'l, W: Write, C: Counter, P: OutputPin>(
    board: &mut Board<W, C, P>,
    line: &'l str,
    image: &[u8],
    arena: &mut [u8],
    tokens: &mut Tokens,
) -> Result<(), Failure<'l>> {
    let command = Command::parse(line, tokens).map_err(Failure::Word)?;
    if command.batch > BATCH {
        return Err(Failure::Batch);
    }
    let image = Image::open(image)?;
    let limits = Limits { batch: command.batch, context: command.context, threads: 1 };
    let arena_bytes = image.arena_bytes(limits)?;
    let tokenizer = image.section(section::TEXT).ok().and_then(|s| Tokenizer::open(s).ok());
    if tokens.is_empty() {
        // What an encoder reads may have tables of its own.
        let source = image.section(section::SOURCE_TEXT).ok().and_then(|s| Tokenizer::open(s).ok());
        let tokenizer = source.or(tokenizer).ok_or(Failure::NoTokens)?;
        encode(&tokenizer, command.prompt, arena, tokens).map_err(Failure::Text)?;
    }
    let given = tokens.len();
    if given == 0 {
        return Err(Failure::NoTokens);
    }
    marks::paint(arena);

    let mut session = Session::new(&image, arena, limits)?;
    let frac_bits = session.logits_frac_bits();
    let mut sampler = Sampler::new(command.params, u64::from(command.seed));
    let mut decoder = tokenizer.map(Decoder::new);
    let mut hash = Sha256::new();
    let mut meter = Meter { board, instructions: 0 };

    let plan = image.plan();
    if plan.source_vocab != 0 {
        // The tokens are the source; the target begins with one that the image names.
        meter.measure(|| session.encode(tokens))?;
        tokens.clear();
        tokens.push(plan.start).map_err(|_| Failure::NoTokens)?;
    }
    show(&mut meter.board.console, &mut decoder, tokens);
    let mut rest = tokens.as_slice();
    while !rest.is_empty() {
        let (batch, after) = rest.split_at_checked(limits.batch as usize).unwrap_or((rest, &[]));
        meter.measure(|| session.prefill(batch))?;
        // The very last row's logits are computed below, where the next token is chosen from them.
        let rows = session.rows().saturating_sub(u32::from(after.is_empty()));
        for row in 0..if command.sha256 { rows } else { 0 } {
            update(&mut hash, meter.measure(|| session.logits(row))?);
        }
        rest = after;
    }
    let prefill = meter.instructions;

    for left in (0..=command.generate).rev() {
        if left == 0 && !command.sha256 {
            break;
        }
        let logits = meter.measure(|| session.last_logits())?;
        if command.sha256 {
            update(&mut hash, logits);
        }
        if left == 0 {
            break;
        }
        let id = meter.measure(|| sampler.sample(logits, frac_bits, tokens));
        if tokens.push(id).is_err() {
            return Err(Error::ContextFull { used: session.position(), context: limits.context }.into());
        }
        if tokenizer.is_some_and(|t| t.is_end(id)) {
            break;
        }
        show(&mut meter.board.console, &mut decoder, &[id]);
        if session.position() >= limits.context {
            break;
        }
        // The last token only goes through the model if its logits are asked for.
        if left > 1 || command.sha256 {
            meter.measure(|| session.prefill(&[id]))?;
        }
    }
    let processed = u64::from(session.position());
    let instructions = meter.instructions;
    let console = &mut board.console;
    if let Some(decoder) = &mut decoder {
        decoder.finish(&mut |text| print::text(console, text));
        print::text(console, "\n");
    }
    print::list(console, "tokens", tokens);
    print::number(console, "tokens_per_run", processed);
    print::number(console, "prefill_tokens", given as u64);
    print::number(console, "prefill_instructions", prefill);
    print::number(console, "instructions_per_token", instructions.checked_div(processed).unwrap_or(0));
    print::number(console, "arena_bytes", arena_bytes);
    print::number(console, "arena_high_water_bytes", marks::high_water(arena) as u64);
    print::number(console, "stack_high_water_bytes", marks::stack_high_water() as u64);
    if command.sha256 {
        print::text(console, "logits_sha256=");
        print::hex(console, &hash.finalize());
        print::text(console, "\n");
    }
    Ok(())
}

/// Encodes the prompt. The arena, not yet a session's, serves as scratch.
fn encode(tokenizer: &Tokenizer<'_>, prompt: &str, arena: &mut [u8], tokens: &mut Tokens) -> Result<(), TextError> {
    let room = TextError::Room { found: tokens.capacity() };
    let scratch = bytemuck::try_cast_slice_mut(arena).map_err(|_| TextError::Scratch { found: 0, needed: 1 })?;
    tokens.resize_default(tokens.capacity()).map_err(|_| room)?;
    let count = tokenizer.encode(prompt, false, tokens, scratch)?;
    tokens.truncate(count);
    Ok(())
}

/// Prints tokens as text.
fn show(console: &mut impl Write, decoder: &mut Option<Decoder<'_>>, ids: &[u32]) {
    if let Some(decoder) = decoder {
        for id in ids {
            decoder.push(*id, &mut |text| print::text(console, text));
        }
    }
}

fn update(hash: &mut Sha256, logits: &[i32]) {
    for logit in logits {
        hash.update(logit.to_le_bytes());
    }
}

/// Prints a failure as `error=` and its numbers.
fn report(console: &mut impl Write, failure: Failure<'_>) {
    let (name, found, expected) = match failure {
        Failure::Word(word) => {
            print::field(console, "error", "command_line");
            return print::field(console, "found", word);
        }
        Failure::Batch => ("batch_too_large", None, Some(u64::from(BATCH))),
        Failure::NoTokens => ("no_tokens", None, None),
        Failure::Text(why) => match why {
            TextError::Room { found } => ("prompt_too_long", None, Some(found as u64)),
            TextError::Scratch { found, needed } => ("scratch_too_small", Some(found as u64), Some(needed as u64)),
            TextError::NoToken => ("no_token_for_byte", None, None),
            _ => ("tokenizer", None, None),
        },
        Failure::Runtime(why) => match why {
            Error::NotAnImage => ("not_an_image", None, None),
            Error::Version { found, supported } => ("version", Some(found.into()), Some(supported.into())),
            Error::FileSize { found, expected } => ("file_size", Some(found), Some(expected)),
            Error::Checksum { section } => ("checksum_of_section", Some(section.into()), None),
            Error::Section { section } => ("section", Some(section.into()), None),
            Error::Tensor { index } => ("tensor", Some(index.into()), None),
            Error::Slot { index } => ("slot", Some(index.into()), None),
            Error::Op { index, code: _ } => ("op", Some(index.into()), None),
            Error::Entry { id } => ("entry", Some(id.into()), None),
            Error::Absent { section } => ("absent_section", Some(section.into()), None),
            Error::Limits { max_context } => ("limits", None, Some(max_context.into())),
            Error::ArenaSize { found, needed } => ("arena_size", Some(found as u64), Some(needed)),
            Error::ArenaAlignment => ("arena_alignment", None, Some(16)),
            Error::Token { id, vocab } => ("token", Some(id.into()), Some(vocab.into())),
            Error::ContextFull { used, context } => ("context_full", Some(used.into()), Some(context.into())),
            Error::Port { index } => ("port", Some(index.into()), None),
            Error::PortType { found, expected, .. } => ("port_type", Some(found as u64), Some(expected as u64)),
            Error::Row { row, rows } => ("row", Some(row.into()), Some(rows.into())),
            _ => ("unknown", None, None),
        },
    };
    print::field(console, "error", name);
    for (key, value) in [("found", found), ("expected", expected)] {
        if let Some(value) = value {
            print::number(console, key, value);
        }
    }
}
