//! Hugging Face's `tokenizers` beside Mote's, over the same tokenizer.json.

use mote_quantize::import::tokenizer::{self, Class, Vocabulary, decode, encode_after};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use std::path::Path;

/// Both tokenizers.
pub struct Pair {
    reference: tokenizers::Tokenizer,
    section: Vec<u8>,
    decodes: bool,
}

/// Texts of pieces that tokenizers find hard: spaces, digits, contractions, marks, any character at all.
pub fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[a-zA-Z]{1,8}",
        3 => "[ \n\r\t]{1,4}",
        2 => "[0-9]{1,7}",
        2 => "['!?.,;:(){}\\-_=+/#@\"]{1,4}",
        1 => "'(s|t|re|ve|m|ll|d|S|LL|Ve)",
        2 => "\\PC{1,4}",
        1 => any::<String>(),
    ];
    // U+2581 is how SentencePiece writes a space; see `Pair::check_random`.
    proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat().replace('\u{2581}', ""))
}

impl Pair {
    /// Opens a file with both.
    pub fn open(path: &Path) -> Self {
        let reference = tokenizers::Tokenizer::from_file(path).unwrap();
        let vocabulary = tokenizer::open(path).unwrap_or_else(|why| panic!("{why}"));
        Self { reference, section: vocabulary.to_bytes(), decodes: true }
    }

    /// Opens the file that `json` would be.
    pub fn new(json: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, serde_json::to_vec(&json).unwrap()).unwrap();
        Self::open(&path)
    }

    /// Compares ids only: the decoder of the reference is not part of what Mote reads.
    pub fn without_decoding(self) -> Self {
        Self { decodes: false, ..self }
    }

    /// Compares ids without BOS, and the text that they decode to.
    pub fn check(&self, text: &str) {
        let expected = self.reference.encode_fast(text, false).unwrap();
        let ids = encode_after(&self.section, None, text, true).unwrap();
        assert_eq!(ids, expected.get_ids(), "{text:?}: {:?}", expected.get_tokens());
        if self.decodes {
            assert_eq!(decode(&self.section, &ids).unwrap(), self.reference.decode(&ids, true).unwrap(), "{text:?}");
        }
    }

    /// Compares ids with what the post-processor adds.
    pub fn check_whole(&self, text: &str) {
        let expected = self.reference.encode_fast(text, true).unwrap();
        let ids = mote_quantize::import::tokenizer::encode(&self.section, text, true).unwrap();
        assert_eq!(ids, expected.get_ids(), "{text:?}: {:?}", expected.get_tokens());
    }

    /// [`Pair::check`] for each, and for all of them in one text.
    pub fn check_all(&self, texts: &[&str]) {
        texts.iter().for_each(|text| self.check(text));
        self.check(&texts.concat());
    }

    /// [`Pair::check`] for texts by chance, as many as `$PROPTEST_CASES` says. Without U+2581: what takes it for a
    /// space gives a space back, Mote gives back what was typed.
    pub fn check_random(&self) {
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
        TestRunner::new(config)
            .run(&text(), |text| {
                self.check(&text);
                Ok(())
            })
            .unwrap_or_else(|why| panic!("{why}"));
    }
}

fn tokenizer_json(model: Value, pre_tokenizer: Value, added: Vec<Value>) -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": added, "pre_tokenizer": pre_tokenizer, "decoder": byte_level(true), "model": model,
    })
}

fn byte_level(use_regex: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex })
}

fn bpe(vocab: Value, merges: Value, ignore_merges: bool, byte_fallback: bool) -> Value {
    json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges,
    })
}

fn added(id: usize, content: &str, special: bool) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": special,
    })
}

/// encoder.json and vocab.bpe.
pub fn gpt2(vocab: &Path, merges: &Path) -> Value {
    let vocab: Value = serde_json::from_slice(&std::fs::read(vocab).unwrap()).unwrap();
    let merges = std::fs::read_to_string(merges).unwrap();
    let merges: Vec<&str> = merges.lines().skip(1).filter(|line| !line.is_empty()).collect();
    let end = vocab["<|endoftext|>"].as_u64().unwrap() as usize;
    let model = bpe(vocab, json!(merges), false, false);
    tokenizer_json(model, byte_level(true), vec![added(end, "<|endoftext|>", true)])
}

/// The tokenizer.json that a GGUF vocabulary of Llama 3 or Qwen 2 came from.
pub fn split_then_bytes(gguf: &Path, digits: &str) -> Value {
    let v = tokenizer::open(gguf).unwrap();
    let name = |byte: u8| {
        let id = v.bytes[usize::from(byte)].unwrap();
        (byte, id)
    };
    // Names of bytes, by GPT-2's rule written a second time.
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    let names: Vec<char> = (0..=255u8)
        .map(|b| {
            assert_eq!(v.pieces[name(b).1 as usize].bytes, [b]);
            if printable(b) {
                return char::from(b);
            }
            next += 1;
            char::from_u32(next - 1).unwrap()
        })
        .collect();
    let text = |id: u32| v.pieces[id as usize].bytes.iter().map(|b| names[usize::from(*b)]).collect::<String>();
    let (mut vocab, mut extra) = (serde_json::Map::new(), Vec::new());
    for (id, piece) in v.pieces.iter().enumerate() {
        match piece.class {
            Class::Normal => drop(vocab.insert(text(id as u32), json!(id))),
            _ => extra.push(added(id, std::str::from_utf8(&piece.bytes).unwrap(), piece.class == Class::Special)),
        }
    }
    let mut merges = v.merges.clone();
    merges.sort_by_key(|m| m.rank);
    let merges: Vec<Value> = merges.iter().map(|m| json!([text(m.left), text(m.right)])).collect();
    let regex = format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    );
    let split = json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
    let pre = json!({ "type": "Sequence", "pretokenizers": [split, byte_level(false)] });
    let whole_words = v.flags & mote_runtime::text::layout::flag::WHOLE_WORDS != 0;
    tokenizer_json(bpe(json!(vocab), json!(merges), whole_words, false), pre, extra)
}

/// The tokenizer.json of a vocab.txt of BERT's, whose text is lower case without accents or not.
pub fn wordpiece(list: &str, lower: bool) -> Value {
    let vocab: serde_json::Map<String, Value> = list.lines().zip(0..).map(|(t, id)| (t.into(), json!(id))).collect();
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let special = special.map(|name| added(vocab[name].as_u64().unwrap() as usize, name, true));
    let model = json!({
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": vocab,
    });
    let mut json = tokenizer_json(model, json!({ "type": "BertPreTokenizer" }), special.to_vec());
    json["normalizer"] = json!({
        "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": lower,
    });
    json["post_processor"] = json!({ "type": "BertProcessing", "sep": ["[SEP]", 102], "cls": ["[CLS]", 101] });
    json
}

/// Vocabularies of some characters: byte-level BPE without merges, BPE over characters without merges, WordLevel.
pub fn characters() -> Vec<Value> {
    let specials = ["<s>", "<pad>", "</s>", "<unk>"];
    let extra: Vec<Value> = specials.iter().enumerate().map(|(id, name)| added(id, name, true)).collect();
    let vocab = |space: &str| -> Value {
        let letters = ('a'..='z').chain('0'..='9').chain("MTé漢-,".chars()).map(String::from);
        let names = specials.map(str::to_owned).into_iter().chain(letters).chain([space.to_owned()]);
        names.enumerate().map(|(id, name)| (name, json!(id))).collect::<serde_json::Map<_, _>>().into()
    };
    let model = |space: &str| {
        let mut model = bpe(vocab(space), json!([]), false, false);
        model["unk_token"] = json!("<unk>");
        model
    };
    let split = json!({ "type": "Split", "pattern": { "Regex": "" }, "behavior": "Isolated", "invert": false });
    let word_level = json!({ "type": "WordLevel", "vocab": vocab(" "), "unk_token": "<unk>" });
    let mut bytes = tokenizer_json(model("Ġ"), byte_level(false), extra.clone());
    // In bytes, these two are several characters' names.
    for name in ["é", "漢"] {
        let id = bytes["model"]["vocab"].as_object_mut().unwrap().remove(name).unwrap();
        let other = format!("unused{id}");
        bytes["model"]["vocab"][other] = id;
    }
    vec![
        bytes,
        tokenizer_json(model(" "), Value::Null, extra.clone()),
        tokenizer_json(model(" "), split.clone(), extra.clone()),
        tokenizer_json(word_level, split, extra),
    ]
}

/// A SentencePiece vocabulary as `transformers` converts it: the merges that give each piece, best piece first.
pub fn byte_fallback(v: &Vocabulary) -> Value {
    let name = |id: usize| match v.pieces[id].class {
        Class::Byte => format!("<0x{:02X}>", v.pieces[id].bytes[0]),
        _ => String::from_utf8(v.pieces[id].bytes.clone()).unwrap().replace(' ', "▁"),
    };
    let ids: std::collections::HashMap<String, usize> = (0..v.len()).map(|id| (name(id), id)).collect();
    let mut merges = Vec::new();
    for (id, piece) in v.pieces.iter().enumerate().filter(|(_, p)| p.class == Class::Normal) {
        let text = std::str::from_utf8(&piece.bytes).unwrap().replace(' ', "▁");
        let mut local = Vec::new();
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if let (Some(l), Some(r)) = (ids.get(left), ids.get(right)) {
                local.push((*l, *r, format!("{left} {right}")));
            }
        }
        local.sort();
        merges.extend(local.into_iter().map(|(.., line)| (v.ranks[id], line)));
    }
    merges.sort_by_key(|(rank, _)| *rank);
    let merges: Vec<String> = merges.into_iter().map(|(_, line)| line).collect();
    let vocab: serde_json::Map<String, Value> = ids.into_iter().map(|(name, id)| (name, json!(id))).collect();
    let specials = [(0, "<unk>"), (1, "<s>"), (2, "</s>")].map(|(id, text)| added(id, text, true));
    tokenizer_json(bpe(json!(vocab), json!(merges), false, true), Value::Null, specials.to_vec())
}

/// Llama 2's normalizer.
pub fn prepend_and_replace() -> Value {
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    json!({ "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": "▁" }, replace] })
}
