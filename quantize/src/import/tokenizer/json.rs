//! Hugging Face's tokenizer.json: byte-level BPE (GPT-2, Llama 3, Qwen 2, SmolLM), BPE over characters with byte
//! fall-back (Llama 2, Mistral), vocabularies of characters (BPE without merges, or WordLevel over single characters), and
//! BERT's WordPiece (wordpiece.rs).
//!
//! How text becomes words is in scheme.rs; here are the pieces, the merges and the tokens around the text. Source:
//! huggingface/tokenizers, `tokenizers/src/models/bpe`.

use super::byte_level::{Names, name};
use super::scheme::Scheme;
use super::sidecar::Sidecar;
use super::{Class, Merge, Piece, Result, Vocabulary, byte_name, malformed, unsupported, wordpiece};
use mote_runtime::text::layout::{flag, kind};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::Path;

/// Ids stay below this: no vocabulary is larger, and a made-up id cannot ask for all the memory.
const MOST_PIECES: usize = 1 << 24;

/// Reads a file, and the configuration files beside it.
pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Vocabulary> {
    let json: Value = serde_json::from_slice(text)
        .map_err(|why| malformed(path, format!("not JSON: {why}; is the file truncated?")))?;
    let model = &json["model"];
    check(path, model)?;
    if model["type"] == "WordPiece" {
        let ids = read_ids(path, vocabulary(path, model)?)?;
        let v = wordpiece::parse(path, &json, pieces(path, &Scheme::default(), &ids)?)?;
        return tokens(path, v, &json, &ids);
    }
    let word_level = model["type"] == "WordLevel";
    let no_merges = model["merges"].as_array().is_none_or(Vec::is_empty);
    let scheme = Scheme::read(path, &json, word_level, no_merges)?;
    let ids = read_ids(path, vocabulary(path, model)?)?;
    let mut v = Vocabulary::new(kind::MERGES, Vec::new());
    v.pre = scheme.pre;
    v.flags = scheme.flags;
    v.pieces = pieces(path, &scheme, &ids)?;
    v.merges = if word_level { Vec::new() } else { merges(path, &scheme, &model["merges"], &ids)? };
    v.warnings.extend(scheme.warning);
    let whole_words = model["ignore_merges"] == true;
    if scheme.byte_level {
        v.bytes = std::array::from_fn(|b| ids.get(name(b as u8).encode_utf8(&mut [0; 4]) as &str).copied());
        v.flags |= if whole_words { flag::WHOLE_WORDS } else { 0 };
    } else if no_merges && model["byte_fallback"] != true {
        v.flags |= flag::CHARACTERS;
        if whole_words || model["fuse_unk"] == true {
            let supported = "for a vocabulary of characters, supported is ignore_merges = false and fuse_unk = false";
            return Err(unsupported(path, "BPE without merges", supported));
        }
        // Nothing merges to them: text never becomes one.
        let longer = |p: &&mut Piece| std::str::from_utf8(&p.bytes).is_ok_and(|text| text.chars().count() != 1);
        v.pieces.iter_mut().filter(longer).for_each(|p| p.class = Class::Unused);
        if model["unk_token"].is_null() {
            v.warnings.push("characters outside the vocabulary are refused; the tokenizer itself drops them".into());
        }
    } else {
        v.flags |= flag::CHARACTERS;
        v.find_bytes();
        if model["byte_fallback"] != true || v.bytes.iter().any(Option::is_none) || whole_words {
            let supported = "over characters, BPE is supported with byte_fallback = true, a token <0x00> to <0xFF> \
                             for each byte, and ignore_merges = false";
            return Err(unsupported(path, "BPE without bytes to fall back on", supported));
        }
    }
    tokens(path, v, &json, &ids)
}

fn vocabulary<'j>(path: &Path, model: &'j Value) -> Result<&'j Map<String, Value>> {
    model["vocab"].as_object().ok_or_else(|| malformed(path, "model.vocab is no object"))
}

/// The tokens that no text is spelled with: unknown, added ones, and those around a text.
fn tokens(path: &Path, mut v: Vocabulary, json: &Value, ids: &HashMap<&str, u32>) -> Result<Vocabulary> {
    let unknown = json["model"]["unk_token"].as_str().filter(|name| !name.is_empty());
    v.unknown = unknown.and_then(|name| ids.get(name).copied());
    add_tokens(path, &mut v, &json["added_tokens"])?;
    around(path, &mut v, json, ids)?;
    Ok(v)
}

fn check(path: &Path, model: &Value) -> Result<()> {
    // GPT-2's own file is older than the field `type`; it is told by its merges.
    let kind = model["type"].as_str().unwrap_or(if model["merges"].is_array() { "BPE" } else { "of no type" });
    if !["BPE", "WordLevel", "WordPiece"].contains(&kind) {
        let supported =
            "supported is BPE, as Llama, Mistral and Qwen use, BERT's WordPiece, and WordLevel over single characters";
        return Err(unsupported(path, format!("a tokenizer {kind}"), supported));
    }
    let has_text = |field: &str| model[field].as_str().is_some_and(|s| !s.is_empty());
    for field in ["continuing_subword_prefix", "end_of_word_suffix"].into_iter().filter(|_| kind != "WordPiece") {
        if has_text(field) {
            return Err(unsupported(path, format!("BPE with {field} {}", model[field]), "supported is BPE without"));
        }
    }
    Ok(())
}

fn read_ids<'j>(path: &Path, vocab: &'j Map<String, Value>) -> Result<HashMap<&'j str, u32>> {
    vocab.iter().map(|(name, id)| Ok((name.as_str(), read_id(path, name, id)?))).collect()
}

fn read_id(path: &Path, name: &str, id: &Value) -> Result<u32> {
    let found = id.as_u64().filter(|id| *id < MOST_PIECES as u64).map(|id| id as u32);
    found.ok_or_else(|| {
        malformed(path, format!("token {name:?} has id {id}, a number below {MOST_PIECES} was expected"))
    })
}

fn pieces(path: &Path, scheme: &Scheme, ids: &HashMap<&str, u32>) -> Result<Vec<Piece>> {
    let mut pieces = vec![None; ids.values().max().map_or(0, |id| *id as usize + 1)];
    let names = Names::new();
    for (text, id) in ids {
        let piece = match (scheme.byte_level, byte_name(text)) {
            (true, _) => match names.bytes(text) {
                Some(bytes) => Piece::new(bytes, Class::Normal),
                // No bytes are spelled so: it is an added token, of which there is a list, or nothing.
                None => Piece::new(*text, Class::Unused),
            },
            (false, Some(byte)) => Piece::new([byte], Class::Byte),
            // Text has no raw space when pieces are looked up, so a piece with one is never found.
            (false, None) if scheme.marks_spaces && text.contains(' ') => Piece::new(*text, Class::Unused),
            (false, None) if scheme.marks_spaces => Piece::new(text.replace('\u{2581}', " "), Class::Normal),
            (false, None) => Piece::new(*text, Class::Normal),
        };
        if pieces[*id as usize].replace(piece).is_some() {
            return Err(malformed(path, format!("token {text:?} has id {id}, which another has too")));
        }
    }
    Ok(pieces.into_iter().map(|piece| piece.unwrap_or_else(Piece::padding)).collect())
}

fn merges(path: &Path, scheme: &Scheme, json: &Value, ids: &HashMap<&str, u32>) -> Result<Vec<Merge>> {
    let list = json.as_array().ok_or_else(|| malformed(path, "model.merges is no list"))?;
    let mut seen = HashMap::new();
    for (rank, json) in (0..).zip(list) {
        let pair = match json {
            Value::String(pair) => pair.split_once(' '),
            pair if pair.as_array().is_some_and(|p| p.len() == 2) => pair[0].as_str().zip(pair[1].as_str()),
            _ => None,
        };
        let (left, right) = pair.ok_or_else(|| malformed(path, format!("merge {rank} is {json}, no two tokens")))?;
        let both = format!("{left}{right}");
        let id = |name: &str| {
            let unknown = || malformed(path, format!("merge {rank}, {json}, names {name:?}, which is no token"));
            ids.get(name).copied().ok_or_else(unknown)
        };
        let merge = Merge { left: id(left)?, right: id(right)?, rank, result: id(&both)? };
        // Words that all begin at their only space never come to hold another.
        if !(scheme.single_spaces && both.chars().skip(1).any(|c| c == '\u{2581}')) {
            seen.insert((merge.left, merge.right), merge); // the last counts, as in the original
        }
    }
    Ok(seen.into_values().collect())
}

fn add_tokens(path: &Path, v: &mut Vocabulary, json: &Value) -> Result<()> {
    for token in json.as_array().into_iter().flatten() {
        let content = token["content"].as_str().ok_or_else(|| malformed(path, "an added token has no content"))?;
        let id = read_id(path, content, &token["id"])? as usize;
        if let Some(field) = ["lstrip", "rstrip", "single_word"].into_iter().find(|field| token[*field] == true) {
            let supported = "supported are added tokens that are found wherever they are spelled out";
            return Err(unsupported(path, format!("the added token {content:?} with {field} = true"), supported));
        }
        if id >= v.pieces.len() {
            v.pieces.resize_with(id + 1, Piece::padding);
        }
        v.pieces[id] = Piece::new(content, if token["special"] == true { Class::Special } else { Class::Added });
    }
    Ok(())
}

/// BOS and the ends.
fn around(path: &Path, v: &mut Vocabulary, json: &Value, ids: &HashMap<&str, u32>) -> Result<()> {
    let sidecar = Sidecar::read(path)?;
    let added = json["added_tokens"].as_array().into_iter().flatten();
    let added: HashMap<&str, &Value> = added.filter_map(|t| Some((t["content"].as_str()?, &t["id"]))).collect();
    let id_of = |name: &String| {
        let added = added.get(name.as_str()).and_then(|id| id.as_u64()).map(|id| id as u32);
        added.or_else(|| ids.get(name.as_str()).copied())
    };
    let (template, after) = template(path, &json["post_processor"])?;
    v.after = after;
    v.bos = template.or_else(|| sidecar.bos_name.as_ref().and_then(id_of)).or(sidecar.bos_id);
    if sidecar.add_bos.unwrap_or(template.is_some()) {
        if v.bos.is_none() {
            return Err(malformed(path, "add_bos_token is true in tokenizer_config.json, but there is no bos_token"));
        }
        v.flags |= flag::ADD_BOS;
    }
    v.ends = sidecar.ends;
    v.ends.extend(sidecar.eos_name.as_ref().and_then(id_of));
    Ok(())
}

/// The tokens that the post-processor puts before and after a text.
fn template(path: &Path, json: &Value) -> Result<(Option<u32>, Option<u32>)> {
    match json["type"].as_str() {
        None if json.is_null() => Ok((None, None)),
        Some("ByteLevel") => Ok((None, None)),
        Some("BertProcessing") => {
            let id = |name: &str| read_id(path, name, &json[name][1]).map(Some);
            Ok((id("cls")?, id("sep")?))
        }
        Some("Sequence") => {
            let parts = json["processors"].as_array().into_iter().flatten();
            let found = parts.map(|part| template(path, part)).collect::<Result<Vec<_>>>()?;
            Ok((found.iter().find_map(|f| f.0), found.iter().find_map(|f| f.1)))
        }
        Some("TemplateProcessing") => {
            let parts = json["single"].as_array().map_or(&[][..], Vec::as_slice);
            let text = parts.iter().position(|part| part["Sequence"].is_object()).unwrap_or(parts.len());
            let (before, after) = (&parts[..text], parts.get(text + 1..).unwrap_or(&[]));
            if before.len() > 1 || after.len() > 1 {
                let supported = "supported are templates of a token at most before the text and one after it";
                return Err(unsupported(path, format!("the template {}", json["single"]), supported));
            }
            let id = |part: &Value| {
                let name = part["SpecialToken"]["id"].as_str().unwrap_or_default();
                let ids = &json["special_tokens"][name]["ids"];
                match ids.as_array().map(Vec::as_slice) {
                    Some([id]) => read_id(path, name, id),
                    _ => Err(malformed(path, format!("the template's token {name:?} has ids {ids}"))),
                }
            };
            Ok((before.first().map(id).transpose()?, after.first().map(id).transpose()?))
        }
        other => {
            let found = format!("post-processor {}", other.unwrap_or("of no type"));
            Err(unsupported(path, found, "supported are TemplateProcessing, BertProcessing and ByteLevel"))
        }
    }
}
