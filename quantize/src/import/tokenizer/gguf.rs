//! The vocabulary of a GGUF file: the keys `tokenizer.ggml.*` (ggml-org/ggml, `docs/gguf.md`), with llama.cpp's
//! defaults where a key is missing (`src/llama-vocab.cpp`, `llama_vocab::impl::load`).

use super::byte_level::{Names, name};
use super::{Class, Merge, Piece, Result, Vocabulary, byte_name, malformed, ranks, unsupported};
use candle_core::quantized::gguf_file::{Content, Value};
use mote_runtime::text::layout::{flag, kind, pre};
use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;

/// `tokenizer.ggml.pre`, how it cuts words, and whether whole words come first and BOS is put by default.
const PRES: [(&str, u32, bool); 8] = [
    ("gpt-2", pre::GPT2, false),
    ("llama-bpe", pre::LLAMA3, true),
    ("llama3", pre::LLAMA3, true),
    ("llama-v3", pre::LLAMA3, true),
    ("qwen2", pre::QWEN2, false),
    ("deepseek-r1-qwen", pre::QWEN2, false),
    ("smollm", pre::SMOLLM, false),
    ("smollm2", pre::SMOLLM, false),
];

/// Control tokens that end a text whatever the file's `eos_token_id` is: chat models end their turns with them.
const ENDS: [&str; 6] = ["<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "</s>"];

struct Keys<'a> {
    path: &'a Path,
    content: Content,
}

/// Reads a file's vocabulary; its tensors are not looked at.
pub(super) fn parse(path: &Path, file: &[u8]) -> Result<Vocabulary> {
    let content = Content::read(&mut Cursor::new(file))
        .map_err(|why| malformed(path, format!("not a whole GGUF file: {why}; is it truncated?")))?;
    let keys = Keys { path, content };
    match keys.string("model")?.ok_or_else(|| malformed(path, "it has no tokenizer.ggml.model: no vocabulary"))? {
        "llama" => scores(&keys),
        "gpt2" => merges(&keys),
        other => {
            let found = format!("GGUF tokenizer {other:?}");
            Err(unsupported(path, found, "supported are \"llama\" (SentencePiece BPE) and \"gpt2\" (byte-level BPE)"))
        }
    }
}

impl Keys<'_> {
    fn get<'v, T>(&'v self, key: &str, what: &str, read: impl Fn(&'v Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.content.metadata.get(&format!("tokenizer.ggml.{key}")) else { return Ok(None) };
        let wrong = || malformed(self.path, format!("tokenizer.ggml.{key} is {:?}, {what}", value.value_type()));
        read(value).ok_or_else(wrong).map(Some)
    }

    fn string(&self, key: &str) -> Result<Option<&str>> {
        self.get(key, "a string was expected", |v| v.to_string().ok().map(String::as_str))
    }

    fn bool(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.get(key, "a bool was expected", |v| v.to_bool().ok())?.unwrap_or(default))
    }

    fn id(&self, key: &str) -> Result<Option<u32>> {
        let id = |v: &Value| v.to_u64().ok().and_then(|id| u32::try_from(id).ok());
        let id = self.get(key, "an unsigned number was expected", |v| id(v).or(v.to_i32().ok().map(|id| id as u32)))?;
        Ok(id.filter(|id| *id != u32::MAX)) // -1 is none
    }

    /// An array of `count` values (or however many there are).
    fn array<'v, T>(
        &'v self,
        key: &str,
        count: Option<usize>,
        read: impl Fn(&'v Value) -> Option<T>,
    ) -> Result<Vec<T>> {
        let all = |v: &'v Value| v.to_vec().ok()?.iter().map(&read).collect::<Option<Vec<T>>>();
        let found = self.get(key, "or holds values of a type that does not belong there", all)?;
        let found = found.ok_or_else(|| malformed(self.path, format!("it has no tokenizer.ggml.{key}")))?;
        match count {
            Some(count) if count != found.len() => {
                Err(malformed(self.path, format!("tokenizer.ggml.{key} has {} values for {count} tokens", found.len())))
            }
            _ => Ok(found),
        }
    }

    /// Tokens with their types (1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte).
    fn tokens(&self) -> Result<Vec<(&str, i32)>> {
        let tokens = self.array("tokens", None, |v| v.to_string().ok().map(String::as_str))?;
        if !self.content.metadata.contains_key("tokenizer.ggml.token_type") {
            return Ok(tokens.into_iter().map(|t| (t, 1)).collect());
        }
        let types = self.array("token_type", Some(tokens.len()), |v| v.to_i32().ok())?;
        Ok(tokens.into_iter().zip(types).collect())
    }

    fn common(&self, v: &mut Vocabulary, tokens: &[(&str, i32)], add_bos: bool) -> Result<()> {
        if self.bool("add_bos_token", add_bos)? && v.bos.is_some() {
            v.flags |= flag::ADD_BOS;
        }
        for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
            v.ends.extend(self.id(key)?);
        }
        let ends = (0..).zip(tokens).filter(|(_, (text, class))| *class == 3 && ENDS.contains(text));
        v.ends.extend(ends.map(|(id, _)| id));
        Ok(())
    }
}

fn scores(keys: &Keys<'_>) -> Result<Vocabulary> {
    let tokens = keys.tokens()?;
    let scores = keys.array("scores", Some(tokens.len()), |v| v.to_f32().ok())?;
    let mut pieces = Vec::with_capacity(tokens.len());
    for (id, (text, class)) in tokens.iter().enumerate() {
        let spaced = text.replace('\u{2581}', " ");
        pieces.push(match class {
            2 | 3 => Piece::new(*text, Class::Special),
            4 => Piece::new(spaced, Class::Added),
            6 => {
                let wrong = || malformed(keys.path, format!("token {id}, {text:?}, is a byte; <0x0A> would be one"));
                Piece::new([byte_name(text).ok_or_else(wrong)?], Class::Byte)
            }
            // Text has no raw space when pieces are looked up, so a piece with one is never found.
            1 | 5 if !text.contains(' ') => Piece::new(spaced, Class::Normal),
            _ => Piece::new(*text, Class::Unused),
        });
    }
    if keys.bool("remove_extra_whitespaces", false)? {
        return Err(unsupported(keys.path, "remove_extra_whitespaces = true", "text is taken as it is"));
    }
    let mut v = Vocabulary::new(kind::SCORES, pieces);
    v.flags = flag::CHARACTERS;
    if keys.bool("add_space_prefix", true)? {
        v.flags |= flag::ADD_SPACE | flag::SPACE_EACH;
    }
    v.ranks = ranks(keys.path, &scores)?;
    v.unknown = keys.id("unknown_token_id")?.or(Some(0));
    v.bos = keys.id("bos_token_id")?.or(Some(1));
    keys.common(&mut v, &tokens, true)?;
    if v.ends.is_empty() {
        v.ends.push(2);
    }
    v.find_bytes();
    Ok(v)
}

fn merges(keys: &Keys<'_>) -> Result<Vocabulary> {
    let tokens = keys.tokens()?;
    let wanted = keys.string("pre")?.unwrap_or("default");
    let Some((_, pre, llama3)) = PRES.into_iter().find(|(name, ..)| *name == wanted) else {
        let supported = "supported are gpt-2, llama-bpe, qwen2 and smollm; if it is one of them, name it in \
                         tokenizer.ggml.pre, or give the model's tokenizer.json";
        return Err(unsupported(keys.path, format!("GGUF pre-tokenizer {wanted:?}"), supported));
    };
    let names = Names::new();
    let piece = |(text, class): &(&str, i32)| match class {
        1 => names.bytes(text).map_or_else(|| Piece::new(*text, Class::Unused), |b| Piece::new(b, Class::Normal)),
        2 | 3 => Piece::new(*text, Class::Special),
        4 => Piece::new(*text, Class::Added),
        _ => Piece::new(*text, Class::Unused),
    };
    let mut v = Vocabulary::new(kind::MERGES, tokens.iter().map(piece).collect());
    let ids: HashMap<&str, u32> = tokens.iter().map(|(text, _)| *text).zip(0..).collect();
    let mut seen = HashMap::new();
    let lines = keys.array("merges", None, |v| v.to_string().ok().map(String::as_str))?;
    for (rank, line) in (0..).zip(lines) {
        let merge = line.split_once(' ').and_then(|(left, right)| {
            let result = *ids.get(format!("{left}{right}").as_str())?;
            Some(Merge { left: *ids.get(left)?, right: *ids.get(right)?, rank, result })
        });
        let wrong =
            || malformed(keys.path, format!("merge {rank}, {line:?}, is not made of two tokens and gives a third"));
        let merge = merge.ok_or_else(wrong)?;
        seen.entry((merge.left, merge.right)).or_insert(merge); // the first counts, as in llama.cpp
    }
    v.merges = seen.into_values().collect();
    v.pre = pre;
    if llama3 {
        v.flags |= flag::WHOLE_WORDS;
    }
    v.bytes = std::array::from_fn(|b| ids.get(name(b as u8).encode_utf8(&mut [0; 4]) as &str).copied());
    v.unknown = keys.id("unknown_token_id")?;
    v.bos = keys.id("bos_token_id")?;
    keys.common(&mut v, &tokens, llama3)?;
    Ok(v)
}
