//! A vocabulary of characters: a token a line, ids from 0 on (CTranslate2's source_vocabulary.txt and target_vocabulary.txt).
//!
//! Each token is one character, or a name in angle or square brackets that text never becomes. Of pieces of several characters
//! such a list does not say how text is cut into them, so they are refused.

use super::{Class, Piece, Result, Vocabulary, malformed, unsupported};
use mote_runtime::text::layout::{flag, kind};
use std::path::Path;

/// Reads a file.
pub(super) fn parse(path: &Path, file: &[u8]) -> Result<Vocabulary> {
    let text = std::str::from_utf8(file).map_err(|why| malformed(path, format!("no UTF-8 text: {why}")))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let mut pieces = Vec::new();
    for (id, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let named =
            line.len() > 2 && [("<", ">"), ("[", "]")].iter().any(|(a, z)| line.starts_with(a) && line.ends_with(z));
        let class = match line.chars().count() {
            0 => return Err(malformed(path, format!("line {} is empty, a token was expected", id + 1))),
            1 => Class::Normal,
            _ if named => Class::Special,
            _ => {
                let supported =
                    "supported are lists of single characters: give the tokenizer.json that goes with these pieces";
                return Err(unsupported(path, format!("a list with the piece {line:?}"), supported));
            }
        };
        let piece = Piece::new(line, class);
        if class == Class::Normal && pieces.contains(&piece) {
            return Err(malformed(path, format!("line {} is {line:?}, which an earlier line is too", id + 1)));
        }
        pieces.push(piece);
    }
    let mut v = Vocabulary::new(kind::MERGES, pieces);
    v.flags = flag::CHARACTERS;
    let id = |name: &str| v.pieces.iter().position(|p| p.bytes == name.as_bytes()).map(|id| id as u32);
    (v.bos, v.unknown) = (id("<s>"), id("<unk>"));
    v.ends = id("</s>").into_iter().collect();
    Ok(v)
}
