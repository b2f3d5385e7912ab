//! Text to tokens and back with memory from the heap, over the TEXT section of an image or of one that is being made.

use mote_runtime::text::{Decoder, TextError, Tokenizer};

/// Encodes `text` with the TEXT section of an image, with BOS before it and an end after it if the tokenizer wants them. With
/// `parse_special`, special tokens spelled out in the text become those tokens.
///
/// # Errors
/// As [`Tokenizer::open`] and [`Tokenizer::encode`]; never for want of room.
pub fn encode(section: &[u8], text: &str, parse_special: bool) -> Result<Vec<u32>, TextError> {
    let tokenizer = Tokenizer::open(section)?;
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let mut ids = encode_after(section, bos, text, parse_special)?;
    ids.extend(tokenizer.after());
    Ok(ids)
}

/// As [`encode`], beginning with `first` (or nothing) instead of BOS, and with nothing at the end.
///
/// # Errors
/// As [`encode`].
pub fn encode_after(
    section: &[u8],
    first: Option<u32>,
    text: &str,
    parse_special: bool,
) -> Result<Vec<u32>, TextError> {
    let tokenizer = Tokenizer::open(section)?;
    // Every token but `first` stands for at least a byte, or is a space put before some.
    let mut ids = vec![0; 2 * text.len() + 1];
    let mut scratch = vec![0; Tokenizer::scratch_words(text.len())];
    let count = tokenizer.encode_after(first, text, parse_special, &mut ids, &mut scratch)?;
    ids.truncate(count);
    Ok(ids)
}

/// Decodes a whole text; special tokens have none.
///
/// # Errors
/// As [`Tokenizer::open`].
pub fn decode(section: &[u8], ids: &[u32]) -> Result<String, TextError> {
    let mut decoder = Decoder::new(Tokenizer::open(section)?);
    let mut text = String::new();
    for id in ids {
        decoder.push(*id, &mut |part| text.push_str(part));
    }
    decoder.finish(&mut |part| text.push_str(part));
    Ok(text)
}
