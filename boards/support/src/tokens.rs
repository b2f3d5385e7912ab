//! Language models: tokens through the model, and what comes after them.

use crate::app::{self, Failure, Meter};
use crate::command::Generate;
use crate::counter::Counter;
use crate::memory::{BATCH, Tokens};
use crate::{marks, print};
use embedded_hal::digital::OutputPin;
use embedded_io::Write;
use mote_runtime::image::section;
use mote_runtime::sample::Sampler;
use mote_runtime::text::{Decoder, TextError, Tokenizer};
use mote_runtime::{Error, Image, Limits, Session};
use sha2::{Digest, Sha256};

/// Runs `line` on a language model and prints:
///
/// | key | value |
/// | --- | --- |
/// | `tokens` | ids: the prompt's, then the generated ones |
/// | `tokens_per_run` | tokens that went through the model |
/// | `prefill_tokens`, `prefill_instructions` | the prompt's share |
/// | `instructions_per_token` | instructions over tokens, of the whole run |
/// | `arena_bytes`, `arena_high_water_bytes` | what the image asked for, and how far it was written |
/// | `stack_high_water_bytes` | from the top of the stack |
/// | `logits_sha256` | with `--sha256`: SHA-256 of every position's logits in order, each `vocab` little-endian i32 |
pub(crate) fn run<'l, W: Write, C: Counter, P: OutputPin>(
    meter: &mut Meter<'_, W, C, P>,
    line: &'l str,
    image: &Image<'_>,
    arena: &mut [u8],
    tokens: &mut Tokens,
) -> Result<(), Failure<'l>> {
    let command = Generate::parse(line, tokens).map_err(Failure::Word)?;
    if command.batch > BATCH {
        return Err(Failure::Batch { expected: BATCH });
    }
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

    let mut session = Session::new(image, arena, limits)?;
    let frac_bits = session.logits_frac_bits();
    let mut sampler = Sampler::new(command.params, u64::from(command.seed));
    let mut decoder = tokenizer.map(Decoder::new);
    let mut hash = Sha256::new();

    #[cfg(feature = "steps")]
    {
        meter.steps.budget = command.steps;
    }
    let plan = image.plan();
    if plan.source_vocab != 0 {
        // The tokens are the source; the target begins with one that the image names.
        #[cfg(not(feature = "steps"))]
        meter.measure(|| session.encode(tokens))?;
        #[cfg(feature = "steps")]
        meter.finish(session.begin_encode(tokens)?)?;
        tokens.clear();
        tokens.push(plan.start).map_err(|_| Failure::NoTokens)?;
    }
    show(&mut meter.board.console, &mut decoder, tokens);
    let mut rest = tokens.as_slice();
    while !rest.is_empty() {
        let (batch, after) = rest.split_at_checked(limits.batch as usize).unwrap_or((rest, &[]));
        append(meter, &mut session, batch)?;
        // The very last row's logits are computed below, where the next token is chosen from them.
        let rows = session.rows().saturating_sub(u32::from(after.is_empty()));
        for row in 0..if command.sha256 { rows } else { 0 } {
            update(&mut hash, head(meter, &mut session, row)?);
        }
        rest = after;
    }
    let prefill = meter.instructions;

    for left in (0..=command.generate).rev() {
        if left == 0 && !command.sha256 {
            break;
        }
        let last = session.rows().wrapping_sub(1);
        let logits = head(meter, &mut session, last)?;
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
            append(meter, &mut session, &[id])?;
        }
    }
    let processed = u64::from(session.position());
    let instructions = meter.instructions;
    let console = &mut meter.board.console;
    if let Some(decoder) = &mut decoder {
        decoder.finish(&mut |text| print::text(console, text));
        print::text(console, "\n");
    }
    print::list(console, "tokens", tokens);
    print::number(console, "tokens_per_run", processed);
    print::number(console, "prefill_tokens", given as u64);
    print::number(console, "prefill_instructions", prefill);
    print::number(console, "instructions_per_token", instructions.checked_div(processed).unwrap_or(0));
    app::memory(console, arena_bytes, arena);
    if command.sha256 {
        app::digest(console, "logits_sha256", &hash.finalize());
    }
    #[cfg(feature = "steps")]
    meter.print_steps();
    Ok(())
}

fn append<W: Write, C: Counter, P: OutputPin>(
    meter: &mut Meter<'_, W, C, P>,
    session: &mut Session<'_>,
    tokens: &[u32],
) -> Result<(), Error> {
    #[cfg(not(feature = "steps"))]
    return meter.measure(|| session.prefill(tokens));
    #[cfg(feature = "steps")]
    return meter.finish(session.begin_prefill(tokens)?);
}

fn head<'s, W: Write, C: Counter, P: OutputPin>(
    meter: &mut Meter<'_, W, C, P>,
    session: &'s mut Session<'_>,
    row: u32,
) -> Result<&'s mut [i32], Error> {
    #[cfg(not(feature = "steps"))]
    return meter.measure(|| session.logits(row));
    #[cfg(feature = "steps")]
    return meter.logits(session.begin_logits(row)?);
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
