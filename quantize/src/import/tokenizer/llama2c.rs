//! llama2.c's tokenizer.bin (karpathy/llama2.c, `tokenizer.py`, `export`; `run.c`, `build_tokenizer`).
//!
//! ```text
//! i32 longest piece's bytes; then each piece: f32 score, i32 bytes, the bytes (spaces are spaces)
//! ```
//!
//! The file does not say what its pieces are; llama2.c has 0 for unknown, 1 for BOS, 2 for EOS, then the byte tokens.

use super::{Class, ImportError, Piece, Result, Vocabulary, byte_name, ranks};
use mote_runtime::text::layout::{flag, kind};
use std::path::Path;

/// Reads a file.
pub(super) fn parse(path: &Path, file: &[u8]) -> Result<Vocabulary> {
    let malformed = |what: String| ImportError::Malformed { path: path.to_owned(), what };
    let (mut pieces, mut scores) = (Vec::new(), Vec::new());
    let mut rest = file.get(4..).unwrap_or(&[]);
    while !rest.is_empty() {
        let truncated = || malformed(format!("the file ends within piece {}: it is truncated", pieces.len()));
        let (head, after) = rest.split_first_chunk::<8>().ok_or_else(truncated)?;
        let [s0, s1, s2, s3, l0, l1, l2, l3] = *head;
        let len = i32::from_le_bytes([l0, l1, l2, l3]);
        let negative = |_| malformed(format!("piece {} has {len} bytes", pieces.len()));
        let len = usize::try_from(len).map_err(negative)?;
        let (bytes, after) = after.split_at_checked(len).ok_or_else(truncated)?;
        let byte = std::str::from_utf8(bytes).ok().and_then(byte_name);
        scores.push(f32::from_le_bytes([s0, s1, s2, s3]));
        pieces.push(match (pieces.len(), byte) {
            (0..=2, _) => Piece::new(bytes, Class::Special),
            (_, Some(byte)) => Piece::new([byte], Class::Byte),
            (_, None) => Piece::new(bytes, Class::Normal),
        });
        rest = after;
    }
    if pieces.len() <= 3 {
        return Err(malformed(format!("{} pieces are too few for a tokenizer.bin", pieces.len())));
    }
    let mut v = Vocabulary::new(kind::SCORES, pieces);
    v.flags = flag::ADD_BOS | flag::ADD_SPACE | flag::CHARACTERS;
    v.ranks = ranks(path, &scores)?;
    v.unknown = Some(0);
    v.bos = Some(1);
    // `generate` in run.c stops at 1, which its training texts begin with; 2 ends what other tools train.
    v.ends = vec![1, 2];
    v.find_bytes();
    Ok(v)
}
