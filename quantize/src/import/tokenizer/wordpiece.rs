//! BERT's WordPiece: what becomes of each character before words are spelled, as rules that the runtime looks up; and vocab.txt.
//!
//! Source: huggingface/tokenizers, `normalizers/bert.rs` and `pre_tokenizers/bert.rs`, whose Unicode tables these are.

use super::sidecar::read;
use super::{Class, Piece, Result, Rule, Vocabulary, malformed, unsupported};
use mote_runtime::text::layout::{NONE, flag, kind, rule};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::Path;
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::char::decompose_canonical;

/// What is done to characters.
struct Folding {
    clean: bool,
    chinese: bool,
    strip: bool,
    lower: bool,
}

/// Reads the parts of a tokenizer.json but for its vocabulary.
pub(super) fn parse(path: &Path, json: &Value, pieces: Vec<Piece>) -> Result<Vocabulary> {
    let model = &json["model"];
    let fixed = [
        (&json["normalizer"]["type"], json!("BertNormalizer")),
        (&json["pre_tokenizer"]["type"], json!("BertPreTokenizer")),
        (&model["continuing_subword_prefix"], json!("##")),
        (&model["max_input_chars_per_word"], json!(100)),
    ];
    if let Some((found, expected)) = fixed.into_iter().find(|(found, expected)| *found != expected) {
        return Err(unsupported(path, format!("WordPiece with {found}"), &format!("supported is {expected} there")));
    }
    Ok(with_rules(pieces, &folding(&json["normalizer"], ["clean_text", "handle_chinese_chars", "lowercase"])))
}

/// How characters are folded, by the names of three switches, which are on if they are missing.
fn folding(json: &Value, names: [&str; 3]) -> Folding {
    let [clean, chinese, lower] = names.map(|name| json[name].as_bool().unwrap_or(true));
    Folding { clean, chinese, strip: json["strip_accents"].as_bool().unwrap_or(lower), lower }
}

/// Whether a list of tokens is a vocab.txt of BERT's.
pub(super) fn is_list(file: &[u8]) -> bool {
    let has = |name: &[u8]| file.split(|b| *b == b'\n').any(|line| line.trim_ascii_end() == name);
    has(b"[UNK]") && has(b"[CLS]") && has(b"[SEP]")
}

/// Reads vocab.txt: a token a line, ids from 0 on. How characters are folded says tokenizer_config.json beside it.
pub(super) fn parse_list(path: &Path, file: &[u8]) -> Result<Vocabulary> {
    let text = std::str::from_utf8(file).map_err(|why| malformed(path, format!("no UTF-8 text: {why}")))?;
    let piece = |line: &str| {
        let named = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].contains(&line);
        Piece::new(line, if named { Class::Special } else { Class::Normal })
    };
    let pieces: Vec<Piece> = text.lines().map(piece).collect();
    let json = read(&path.with_file_name("tokenizer_config.json"))?;
    let mut v = with_rules(pieces, &folding(&json, ["clean_text", "tokenize_chinese_chars", "do_lower_case"]));
    let id = |name: &str| v.pieces.iter().position(|p| p.bytes == name.as_bytes()).map(|id| id as u32);
    (v.bos, v.after, v.unknown) = (id("[CLS]"), id("[SEP]"), id("[UNK]"));
    v.flags |= flag::ADD_BOS;
    Ok(v)
}

fn with_rules(pieces: Vec<Piece>, folding: &Folding) -> Vocabulary {
    let texts = pieces.iter().filter_map(|piece| std::str::from_utf8(&piece.bytes).ok());
    let known: HashSet<char> = texts.flat_map(str::chars).collect();
    let mut v = Vocabulary::new(kind::PIECES, pieces);
    v.rules = rules(&known, folding);
    v
}

/// The rules of all characters. A word with a character that no piece has is unknown whatever else becomes of it, so characters that
/// become such ones, and are such ones, need no rule.
fn rules(known: &HashSet<char>, folding: &Folding) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for c in '\0'..=char::MAX {
        let (class, becomes) = folding.fold(c);
        let (to, second) = match becomes[..] {
            [] => (0, NONE),
            [to] => (u32::from(to), NONE),
            [to, second] => (u32::from(to), u32::from(second)),
            _ => continue, // a few musical signs
        };
        let can_be_known = known.contains(&c) || becomes.iter().all(|c| known.contains(c));
        if class == 0 && (becomes[..] == [c] || !can_be_known) {
            continue;
        }
        let c = u32::from(c);
        match rules.last_mut().filter(|last| last.last + 1 == c && last.second == NONE && second == NONE) {
            Some(last) if last.what == class | (to.wrapping_sub(c - last.first) & rule::CHARACTER) => last.last = c,
            Some(last) if becomes.is_empty() && last.what == class => last.last = c,
            _ => rules.push(Rule { first: c, last: c, what: class | to, second }),
        }
    }
    rules
}

impl Folding {
    /// What a character is (bits of `layout::rule`) and what it becomes.
    fn fold(&self, c: char) -> (u32, Vec<char>) {
        let white = matches!(c, '\t' | '\n' | '\r');
        if self.clean && (matches!(c, '\0' | '\u{fffd}') || c.is_other() && !white) {
            return (rule::GONE, vec![]);
        }
        if white || c.is_whitespace() {
            return (rule::APART | rule::GONE, vec![]);
        }
        if self.strip && ('\u{ac00}'..='\u{d7a3}').contains(&c) {
            return (rule::HANGUL, vec![]);
        }
        let mut becomes = Vec::new();
        if self.strip {
            decompose_canonical(c, |c| becomes.extend((!c.is_mark_nonspacing()).then_some(c)));
        } else {
            becomes.push(c);
        }
        if self.lower {
            becomes = becomes.into_iter().flat_map(char::to_lowercase).collect();
        }
        let is_punctuation = |c: &char| c.is_ascii_punctuation() || c.is_punctuation();
        let apart = self.chinese && is_chinese(c) || becomes.iter().any(is_punctuation);
        let gone = if becomes.is_empty() { rule::GONE } else { 0 };
        (gone | if apart { rule::APART } else { 0 }, becomes)
    }
}

fn is_chinese(c: char) -> bool {
    matches!(
        u32::from(c),
        0x4E00..=0x9FFF
            | 0x3400..=0x4DBF
            | 0x20000..=0x2A6DF
            | 0x2A700..=0x2B73F
            | 0x2B740..=0x2B81F
            | 0x2B920..=0x2CEAF
            | 0xF900..=0xFAFF
            | 0x2F800..=0x2FA1F
    )
}
