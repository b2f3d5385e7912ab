//! Pre-tokenizers: the regular expressions of GPT-2, Llama 3, Qwen 2 and SmolLM, by hand.
//!
//! ```text
//! gpt-2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//! llama 3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*
//!          |\s*[\r\n]+|\s+(?!\S)|\s+
//! qwen 2   as llama 3 with \p{N} for \p{N}{1,3}
//! smollm   \p{N}, then gpt-2 on each stretch between
//! ```

use super::layout::pre;
use super::unicode::{DIGITS, LETTERS};

/// Whether `c` is one of those that a table of unicode.rs says. Texts are mostly of its first few ranges.
fn within(table: &[u8], c: char) -> bool {
    let (mut left, mut number, mut inside) = (u32::from(c), 0, false);
    for byte in table {
        number = number << 7 | u32::from(byte & 127);
        if byte & 128 == 0 {
            if left < number {
                return inside;
            }
            left -= number;
            (number, inside) = (0, !inside);
        }
    }
    false
}

fn letter(c: char) -> bool {
    within(&LETTERS, c)
}

fn digit(c: char) -> bool {
    within(&DIGITS, c)
}

/// `char::is_whitespace`, without its table of 256 bytes.
fn space(c: char) -> bool {
    matches!(c, '\t'..='\r' | ' ' | '\u{85}' | '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{2028}' | '\u{2029}')
        || matches!(c, '\u{202f}' | '\u{205f}' | '\u{3000}')
}

fn other(c: char) -> bool {
    !space(c) && !letter(c) && !digit(c)
}

fn line_end(c: char) -> bool {
    c == '\r' || c == '\n'
}

/// Bytes of the longest prefix of `text` whose characters all satisfy `is`, at most `most` of them.
fn run(text: &str, most: usize, is: fn(char) -> bool) -> usize {
    text.chars().take(most).take_while(|c| is(*c)).map(char::len_utf8).sum()
}

fn tail(text: &str, from: usize) -> &str {
    text.get(from..).unwrap_or("")
}

/// Bytes of the first word of `text` (not empty: at least one character).
pub(super) fn word(text: &str, pre: u32) -> usize {
    let len = match pre {
        pre::GPT2 => gpt2(text),
        pre::LLAMA3 => llama3(text, 3),
        pre::QWEN2 => llama3(text, 1),
        pre::SMOLLM => smollm(text),
        _ => text.len(),
    };
    if len == 0 { text.chars().next().map_or(text.len(), char::len_utf8) } else { len }
}

fn contraction(text: &str, any_case: bool) -> usize {
    for end in ["s", "t", "re", "ve", "m", "ll", "d"] {
        let rest = text.strip_prefix('\'').and_then(|t| t.get(..end.len()));
        if rest.is_some_and(|r| r == end || any_case && r.eq_ignore_ascii_case(end)) {
            return 1 + end.len();
        }
    }
    // Unicode's simple case folding also takes the long s to s.
    if any_case && text.starts_with("'\u{17f}") { 3 } else { 0 }
}

/// `\s+(?!\S)|\s+`: all white space but the last character if a word follows it.
fn spaces(text: &str) -> usize {
    let all = run(text, usize::MAX, space);
    let last = text.get(..all).and_then(|s| s.chars().next_back()).map_or(0, char::len_utf8);
    if all == text.len() || all == last { all } else { all - last }
}

fn gpt2(text: &str) -> usize {
    let found = contraction(text, false);
    if found > 0 {
        return found;
    }
    let lead = usize::from(text.starts_with(' '));
    for class in [letter, digit, other] {
        let len = run(tail(text, lead), usize::MAX, class);
        if len > 0 {
            return lead + len;
        }
    }
    spaces(text)
}

/// Before a digit, white space is a word to its end: the stretch that GPT-2's expression sees ends there.
fn smollm(text: &str) -> usize {
    let all = run(text, usize::MAX, space);
    match tail(text, all).chars().next().filter(|c| digit(*c)) {
        Some(c) if all == 0 => c.len_utf8(),
        Some(_) => all,
        None => gpt2(text),
    }
}

fn llama3(text: &str, digits: usize) -> usize {
    let found = contraction(text, true);
    if found > 0 {
        return found;
    }
    let first = text.chars().next().unwrap_or(' ');
    let lead = if line_end(first) || letter(first) || digit(first) { 0 } else { first.len_utf8() };
    let letters = run(tail(text, lead), usize::MAX, letter);
    if letters > 0 {
        return lead + letters;
    }
    let number = run(text, digits, digit);
    if number > 0 {
        return number;
    }
    let lead = usize::from(text.starts_with(' '));
    let others = run(tail(text, lead), usize::MAX, other);
    if others > 0 {
        let len = lead + others;
        return len + run(tail(text, len), usize::MAX, line_end);
    }
    // \s*[\r\n]+ : white space up to and with its last line end.
    let all = run(text, usize::MAX, space);
    let last_line_end = text.get(..all).and_then(|s| s.rfind(line_end)).map(|at| at + 1);
    last_line_end.unwrap_or_else(|| spaces(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str, pre: u32) -> Vec<&str> {
        let mut rest = text;
        let mut out = Vec::new();
        while !rest.is_empty() {
            let (word, after) = rest.split_at(word(rest, pre));
            out.push(word);
            rest = after;
        }
        out
    }

    #[test]
    fn classes() {
        let letters_and_digits = |chars: &mut dyn Iterator<Item = char>| {
            chars
                .fold((0, 0), |(letters, digits), c| (letters + usize::from(letter(c)), digits + usize::from(digit(c))))
        };
        // As Python's unicodedata2 16.0.0 counts: the first blocks, and one in 499 of all.
        assert_eq!(letters_and_digits(&mut ('\0'..'\u{3000}')), (5849, 564));
        assert_eq!(letters_and_digits(&mut ('\0'..=char::MAX).step_by(499)), (283, 5));
        let differ = |a: fn(char) -> bool, b: fn(char) -> bool| ('\0'..=char::MAX).find(|c| a(*c) != b(*c));
        assert_eq!(differ(space, char::is_whitespace), None);
    }

    #[test]
    fn by_hand() {
        assert_eq!(
            words("I'll go  now\n\n 12345!?", pre::GPT2),
            ["I", "'ll", " go", " ", " now", "\n\n", " 12345", "!?"]
        );
        assert_eq!(
            words("I'LL go  now \n\n 12345!?\n", pre::LLAMA3),
            ["I", "'LL", " go", " ", " now", " \n\n", " ", "123", "45", "!?\n"]
        );
        assert_eq!(words("a1234", pre::QWEN2), ["a", "1", "2", "3", "4"]);
        assert_eq!(words("a  12 b", pre::SMOLLM), ["a", "  ", "1", "2", " b"]);
        assert_eq!(words("  ", pre::GPT2), ["  "]);
        assert!(letter('é') && letter('漢') && !letter('1') && !letter('\u{301}') && !letter('Ⅷ') && digit('Ⅷ'));
    }
}
