//! GPT-2's names for bytes: printable ones are themselves, the others are characters from U+0100 on.
//!
//! Source: openai/gpt-2, `src/encoder.py`, `bytes_to_unicode`.

fn printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// The character that stands for `byte`.
pub(super) fn name(byte: u8) -> char {
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !printable(*b)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Turns pieces' names into the bytes they stand for.
pub(super) struct Names([(char, u8); 256]);

impl Names {
    pub(super) fn new() -> Self {
        let mut names: [(char, u8); 256] = std::array::from_fn(|b| (name(b as u8), b as u8));
        names.sort_unstable();
        Self(names)
    }

    /// The bytes of a piece, or `None` if it holds a character that stands for none.
    pub(super) fn bytes(&self, piece: &str) -> Option<Vec<u8>> {
        let byte = |c| self.0.binary_search_by_key(&c, |(name, _)| *name).ok().map(|i| self.0[i].1);
        piece.chars().map(byte).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_gpt2_names_them() {
        assert_eq!((name(b'a'), name(b' '), name(b'\n'), name(0xad), name(0)), ('a', 'Ġ', 'Ċ', '\u{143}', 'Ā'));
        assert_eq!(Names::new().bytes("Ġé").as_deref(), Some(&[b' ', 0xe9][..]));
        assert_eq!(Names::new().bytes("漢"), None);
    }
}
