//! How a tokenizer.json cuts text into words: its normalizer and pre-tokenizer, as far as the runtime knows them.

use super::{Result, malformed, unsupported};
use mote_runtime::text::layout::{flag, pre};
use serde_json::Value;
use std::path::Path;

/// The regular expressions that the runtime has by hand. Others may mean the same, but who would say so?
const SPLITS: [(&str, u32); 4] = [
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", pre::GPT2),
    (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", pre::GPT2),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        pre::LLAMA3,
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        pre::QWEN2,
    ),
];

/// What the file's parts come to.
#[derive(Debug, Default)]
pub(super) struct Scheme {
    /// One of `layout::pre`.
    pub(super) pre: u32,
    /// Bits of `layout::flag` about spaces.
    pub(super) flags: u32,
    /// Pieces are named by GPT-2's characters for bytes.
    pub(super) byte_level: bool,
    /// Each space begins a word of its own.
    pub(super) single_spaces: bool,
    /// What a person should know.
    pub(super) warning: Option<String>,
    /// Spaces are written as U+2581.
    pub(super) marks_spaces: bool,
}

impl Scheme {
    /// Reads the normalizer and the pre-tokenizer. Where nothing merges, characters need not be cut into words; those of a
    /// `WordLevel` model must be cut one by one.
    pub(super) fn read(path: &Path, json: &Value, word_level: bool, no_merges: bool) -> Result<Self> {
        let mut scheme = Self::default();
        for part in parts(&json["normalizer"], "normalizers") {
            scheme.normalize(path, part)?;
        }
        let parts = parts(&json["pre_tokenizer"], "pretokenizers");
        let kind = |part: &Value| part["type"].as_str().unwrap_or("of no type").to_owned();
        let kinds: Vec<String> = parts.iter().map(|part| kind(part)).collect();
        match kinds.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["Split"] if no_merges && each_character(parts[0]) => {}
            _ if word_level => {
                let found = format!("WordLevel with pre-tokenizer {}", json["pre_tokenizer"]);
                return Err(unsupported(path, found, "supported is Split by Regex \"\", Isolated: single characters"));
            }
            [] if scheme.marks_spaces || no_merges => {}
            ["Metaspace"] => scheme.metaspace(path, parts[0])?,
            ["ByteLevel"] => scheme.bytes(path, parts[0], pre::GPT2)?,
            ["Split", "ByteLevel"] => {
                scheme.bytes(path, parts[1], pre::NONE)?;
                scheme.pre = split(path, parts[0])?;
            }
            ["Digits", "ByteLevel"] if parts[0]["individual_digits"] == true && uses_regex(parts[1]) => {
                scheme.bytes(path, parts[1], pre::SMOLLM)?;
            }
            _ => {
                let found = if kinds.is_empty() { "none".to_owned() } else { kinds.join(" + ") };
                let supported =
                    "supported are ByteLevel, Split + ByteLevel, individual Digits + ByteLevel, and Metaspace";
                return Err(unsupported(path, format!("pre-tokenizer {found}"), supported));
            }
        }
        if scheme.byte_level && scheme.marks_spaces {
            return Err(unsupported(path, "ByteLevel after a normalizer of spaces", "supported is one of the two"));
        }
        Ok(scheme)
    }

    fn normalize(&mut self, path: &Path, part: &Value) -> Result<()> {
        match part["type"].as_str().unwrap_or("of no type") {
            "NFC" => {
                let warning = "the tokenizer brings text to Unicode's form NFC first, Mote does not: give it such text";
                self.warning = Some(warning.into());
            }
            "Prepend" if part["prepend"] == "\u{2581}" => self.flags |= flag::ADD_SPACE | flag::SPACE_EACH,
            "Replace" if part["pattern"]["String"] == " " && part["content"] == "\u{2581}" => self.marks_spaces = true,
            other => {
                let supported = "supported are NFC, Prepend \"▁\" and Replace \" \" by \"▁\"";
                return Err(unsupported(path, format!("normalizer {other} {part}"), supported));
            }
        }
        Ok(())
    }

    fn metaspace(&mut self, path: &Path, part: &Value) -> Result<()> {
        if part["replacement"] != "\u{2581}" {
            return Err(unsupported(path, format!("Metaspace with {}", part["replacement"]), "supported is \"▁\""));
        }
        self.marks_spaces = true;
        let once = flag::ADD_SPACE | flag::SPACE_ONCE;
        // Files from before `prepend_scheme` have `add_prefix_space`.
        let old = if part["add_prefix_space"] == false { "never" } else { "always" };
        self.flags |= match part["prepend_scheme"].as_str().unwrap_or(old) {
            "never" => 0,
            "first" => once,
            "always" => once | flag::SPACE_EACH,
            other => return Err(malformed(path, format!("Metaspace's prepend_scheme is {other:?}"))),
        };
        self.single_spaces = part["split"] != false;
        Ok(())
    }

    fn bytes(&mut self, path: &Path, part: &Value, pre: u32) -> Result<()> {
        if part["add_prefix_space"] == true {
            let supported = "supported is false: byte-level models take text as it is";
            return Err(unsupported(path, "ByteLevel with add_prefix_space = true", supported));
        }
        let wants_regex = pre != pre::NONE;
        if !wants_regex && uses_regex(part) {
            return Err(unsupported(path, "Split before ByteLevel with use_regex = true", "supported is false there"));
        }
        self.byte_level = true;
        self.pre = if uses_regex(part) { pre } else { pre::NONE };
        Ok(())
    }
}

fn uses_regex(part: &Value) -> bool {
    part["use_regex"] != false
}

/// Whether a `Split` cuts between all characters.
fn each_character(part: &Value) -> bool {
    part["pattern"]["Regex"] == "" && part["behavior"] == "Isolated" && part["invert"] != true
}

fn split(path: &Path, part: &Value) -> Result<u32> {
    let regex = &part["pattern"]["Regex"];
    if part["behavior"] != "Isolated" || part["invert"] == true {
        let found = format!("Split with behavior {} and invert {}", part["behavior"], part["invert"]);
        return Err(unsupported(path, found, "supported is Isolated, not inverted"));
    }
    let known = SPLITS.iter().find(|(known, _)| regex == known).map(|(_, pre)| *pre);
    let supported = "supported are exactly the expressions of GPT-2, Llama 3 and Qwen 2";
    known.ok_or_else(|| unsupported(path, format!("Split by {}", part["pattern"]), supported))
}

/// The parts of a sequence, or the one part, or none.
fn parts<'j>(json: &'j Value, name: &str) -> Vec<&'j Value> {
    match &json[name] {
        _ if json.is_null() => Vec::new(),
        Value::Array(list) if json["type"] == "Sequence" => list.iter().flat_map(|part| parts(part, name)).collect(),
        _ => vec![json],
    }
}
