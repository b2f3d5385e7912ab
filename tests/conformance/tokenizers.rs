//! Tokenizers against their originals: llama.cpp's own cases, Hugging Face's `tokenizers`, and one vocabulary in three
//! formats against itself.

mod reference;

use mote_quantize::import::tokenizer::{self, Vocabulary, decode, encode, encode_after};
use mote_tests::{root, shared};
use proptest::prelude::*;
use reference::Pair;
use std::path::Path;

/// What people and programs write: words, code, white space of every kind, scripts, emoji, digits, contractions.
const TEXTS: [&str; 24] = [
    "Once upon a time, there was a little girl named Lily.",
    " leading",
    "trailing   ",
    "",
    " ",
    "   ",
    "\n",
    "\n\n \n\t x",
    "a  b   c    d",
    "I'll we've 'LL DON'T it's 's 'd'D ''re",
    "fn main() {\n    println!(\"{}\", 1_000 + 0x1F);\n}\n",
    "12345678901 3.14159 1,000,000 ½ Ⅷ ٣٤٥",
    "Äpfel über Straße — “quoted” … naïve façade",
    "нещо на Български, ещё раз",
    "我想在apple工作1314151天～。、「日本語」",
    "한국어 텍스트 ไทย हिन्दी नमस्ते",
    "🚀 (normal) 😶‍🌫️ ✅ 👨‍👩‍👧‍👦🇩🇪",
    "a\u{a0}b\u{2003}c\u{3000}d\u{85}e\u{200b}f\u{feff}g",
    "e\u{301}\u{327} ﬁ ſ 'ſ \u{212a}",
    "<s> </s> <unk> <0x41> [INST] text",
    "\u{0}\u{1}\u{7f}\u{fffd}\u{10ffff}",
    "don't\r\nstop\r\r\n",
    "=====-----....!!!!??? \t\t  \t#",
    "https://example.org/a?b=c&d=%20#e user@host.tld",
];

fn open(path: &Path) -> (Vocabulary, Vec<u8>) {
    let vocabulary = tokenizer::open(path).unwrap_or_else(|why| panic!("{why}"));
    let section = vocabulary.to_bytes();
    (vocabulary, section)
}

/// llama.cpp's cases, as its tests/test-tokenizer-0.cpp reads them: no BOS, special tokens are text.
fn cases(gguf: &Path) -> Vec<(String, Vec<u32>)> {
    let read = |ext: &str| std::fs::read_to_string(format!("{}.{ext}", gguf.display())).unwrap();
    let (inputs, outputs) = (read("inp"), read("out"));
    let separator = "\n__ggml_vocab_test__\n";
    let inputs: Vec<&str> = inputs.strip_suffix(separator).unwrap_or(&inputs).split(separator).collect();
    let outputs: Vec<&str> = outputs.lines().collect();
    assert_eq!(inputs.len(), outputs.len());
    let ids = |line: &str| line.split_whitespace().map(|id| id.parse().unwrap()).collect();
    inputs.into_iter().zip(outputs).map(|(text, line)| (text.to_owned(), ids(line))).collect()
}

fn llama_cpp(name: &str) {
    let Some(path) = shared(&format!("tokenizers/ggml-vocab-{name}.gguf")) else { return };
    let (_, section) = open(&path);
    let cases = cases(&path);
    assert!(cases.len() >= 40, "{} cases", cases.len());
    for (text, ids) in &cases {
        assert_eq!(encode_after(&section, None, text, false).as_ref(), Ok(ids), "{text:?}");
        assert_eq!(decode(&section, ids).as_ref(), Ok(text));
    }
    for text in TEXTS {
        let ids = encode(&section, text, false).unwrap();
        assert_eq!(decode(&section, &ids).as_deref(), Ok(text));
    }
    eprintln!("{name}: {} cases", cases.len());
}

#[test]
fn llama_cpp_gpt2() {
    llama_cpp("gpt-2");
}

#[test]
fn llama_cpp_spm() {
    llama_cpp("llama-spm");
}

#[test]
fn llama_cpp_llama3() {
    llama_cpp("llama-bpe");
}

#[test]
fn llama_cpp_qwen2() {
    llama_cpp("qwen2");
}

#[test]
fn other_gguf_vocabularies_are_refused_by_name() {
    let Some(path) = shared("tokenizers/ggml-vocab-bert-bge.gguf") else { return };
    let why = tokenizer::open(&path).unwrap_err().to_string();
    assert!(why.contains("\"bert\"") && why.contains("supported are"), "{why}");
}

/// One vocabulary in three formats, and llama.cpp's cases for it.
#[test]
fn llama2_in_three_formats() {
    let Some(model) = shared("llm/llama2_tokenizer.model") else { return };
    let Some(bin) = shared("llm/llama2_tokenizer.bin") else { return };
    let Some(gguf) = shared("tokenizers/ggml-vocab-llama-spm.gguf") else { return };
    let sections = [&model, &bin, &gguf].map(|path| open(path).1);
    for text in TEXTS {
        let [a, b, c] = sections.each_ref().map(|s| encode(s, text, false));
        assert_eq!(a, b, "{text:?}");
        assert_eq!(a, c, "{text:?}");
        assert_eq!(a.as_ref().unwrap()[0], 1);
    }
    for (text, ids) in cases(&gguf) {
        for section in &sections[..2] {
            assert_eq!(encode_after(section, None, &text, false).as_ref(), Ok(&ids), "{text:?}");
        }
    }
    // Templates: the turn's tokens are found, and text after them begins a word.
    let ids = encode(&sections[0], "<s>[INST] hi [/INST]</s>hi", true).unwrap();
    assert_eq!((ids[..2].to_vec(), ids[ids.len() - 2..].to_vec()), (vec![1, 1], vec![2, 7251]));
    assert!(!encode_after(&sections[0], None, "<s>", false).unwrap().contains(&1));
}

/// The 512 pieces of stories260K, with the prompt that llama2.c starts from.
#[test]
fn tok512() {
    let Some(path) = shared("llm/tok512.bin") else { return };
    let vocabulary = tokenizer::find(Path::new("."), Some(&path), 512).unwrap().unwrap();
    assert_eq!((vocabulary.len(), vocabulary.bos, vocabulary.ends.as_slice()), (512, Some(1), &[1, 2][..]));
    let section = vocabulary.to_bytes();
    for text in TEXTS {
        let ids = encode(&section, text, false).unwrap();
        assert_eq!(decode(&section, &ids).as_deref(), Ok(text));
    }
    assert_eq!(encode(&section, "Once upon a time", false).unwrap(), [1, 403, 407, 261, 378]);
}

#[test]
fn found_beside_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let find = |model: &Path| tokenizer::find(model, None, 32000).unwrap();
    assert!(find(folder.path()).is_none());
    let Some(model) = shared("llm/llama2_tokenizer.model") else { return };
    let Some(bin) = shared("llm/llama2_tokenizer.bin") else { return };
    std::fs::copy(bin, file("tokenizer.bin")).unwrap();
    assert!(find(folder.path()).is_none());
    assert_eq!(find(&file("stories15M.bin")).unwrap().ends, [1, 2]);
    std::fs::copy(model, file("tokenizer.model")).unwrap();
    assert_eq!(find(folder.path()).unwrap().ends, [2]);
    assert_eq!(find(&file("model.safetensors")).unwrap().ends, [2]);
    std::fs::copy(root().join("examples/models/llm/tokenizer.json"), file("tokenizer.json")).unwrap();
    assert_eq!(find(&file("config.json")).unwrap().bytes[usize::from(b'!')], Some(1));
}

/// What the files beside a tokenizer.json say of BOS and the ends.
#[test]
fn sidecar_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::copy(root().join("examples/models/llm/tokenizer.json"), &path).unwrap();
    let with = |files: &[(&str, &str)]| {
        for name in ["config.json", "generation_config.json", "tokenizer_config.json"] {
            let text = files.iter().find(|(file, _)| *file == name).map_or("{}", |(_, text)| text);
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let v = tokenizer::open(&path).unwrap_or_else(|why| panic!("{why}"));
        let first = encode(&v.to_bytes(), "!", false).unwrap();
        (v.bos, first.len() == 2, v.ends)
    };
    // The template alone puts BOS.
    assert_eq!(with(&[]), (Some(0), true, vec![]));
    assert_eq!(with(&[("config.json", r#"{"eos_token_id": 5}"#)]), (Some(0), true, vec![5]));
    let generation = ("generation_config.json", r#"{"eos_token_id": [7, 6, 7]}"#);
    assert_eq!(with(&[("config.json", r#"{"eos_token_id": 5}"#), generation]), (Some(0), true, vec![6, 7]));
    let tokenizer_config = r#"{"add_bos_token": false, "bos_token": {"content": "<|endoftext|>"}, "eos_token": "!"}"#;
    assert_eq!(with(&[("tokenizer_config.json", tokenizer_config), generation]), (Some(0), false, vec![1, 6, 7]));
}

#[test]
fn bundled_model_as_tokenizers_has_it() {
    let folder = root().join("examples/models/llm");
    let vocabulary = tokenizer::find(&folder, None, 2048).unwrap().unwrap();
    assert_eq!((vocabulary.bos, vocabulary.ends.as_slice()), (Some(0), &[0][..]));
    let pair = Pair::open(&folder.join("tokenizer.json"));
    pair.check_all(&TEXTS);
    pair.check("<|endoftext|>Once<|endoftext|> upon");
    for file in ["tokenizers/reftest_rust.txt", "llm/stories260K_expected_greedy.txt"] {
        if let Some(path) = shared(file) {
            pair.check(&std::fs::read_to_string(path).unwrap());
        }
    }
    pair.check_random();
}

/// GPT-2's released files, put into a tokenizer.json.
#[test]
fn gpt2_as_tokenizers_has_it() {
    let Some(vocab) = shared("tokenizers/gpt2_encoder.json") else { return };
    let Some(merges) = shared("tokenizers/gpt2_vocab.bpe") else { return };
    let pair = Pair::new(reference::gpt2(&vocab, &merges));
    pair.check_all(&TEXTS);
    pair.check_random();
}

/// Llama 3's and Qwen 2's vocabularies out of GGUF, put into the tokenizer.json that they were made from.
#[test]
fn llama3_and_qwen2_as_tokenizers_has_them() {
    for (name, digits) in [("llama-bpe", r"\p{N}{1,3}"), ("qwen2", r"\p{N}")] {
        let Some(path) = shared(&format!("tokenizers/ggml-vocab-{name}.gguf")) else { return };
        let pair = Pair::new(reference::split_then_bytes(&path, digits));
        pair.check_all(&TEXTS);
        pair.check("<|begin_of_text|>a<|im_start|>b<tool_call>c</tool_call>");
        pair.check_random();
    }
}

/// SmolLM's way with digits, on GPT-2's vocabulary.
#[test]
fn smollm_as_tokenizers_has_it() {
    let Some(vocab) = shared("tokenizers/gpt2_encoder.json") else { return };
    let Some(merges) = shared("tokenizers/gpt2_vocab.bpe") else { return };
    let mut json = reference::gpt2(&vocab, &merges);
    let digits = serde_json::json!({ "type": "Digits", "individual_digits": true });
    json["pre_tokenizer"] = serde_json::json!({ "type": "Sequence", "pretokenizers": [digits, json["pre_tokenizer"]] });
    let pair = Pair::new(json);
    pair.check_all(&TEXTS);
    pair.check_random();
}

/// Llama 2's pieces as BPE with byte fall-back, in each way that tokenizer.json has of putting spaces.
#[test]
fn llama2_as_tokenizers_has_it() {
    let Some(path) = shared("llm/llama2_tokenizer.model") else { return };
    let base = reference::byte_fallback(&open(&path).0);
    let metaspace = |scheme: &str, split: bool| serde_json::json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split });
    let ways = [
        ("normalizer", reference::prepend_and_replace()),
        ("pre_tokenizer", metaspace("first", false)),
        ("pre_tokenizer", metaspace("always", false)),
        ("pre_tokenizer", metaspace("never", false)),
        ("pre_tokenizer", metaspace("always", true)),
    ];
    for (field, way) in ways {
        let mut json = base.clone();
        json[field] = way;
        let pair = Pair::new(json).without_decoding();
        pair.check_all(&TEXTS);
        pair.check("</s> a</s>b<s>");
        pair.check_random();
    }
}

/// BERT's vocabulary with and without folding, and one of all characters of the texts, so that most words are known.
#[test]
fn bert_as_tokenizers_has_it() {
    let Some(list) = shared("tokenizers/bert_base_uncased_vocab.txt") else { return };
    let list = std::fs::read_to_string(list).unwrap();
    let known: std::collections::BTreeSet<char> = list.chars().collect();
    let texts = TEXTS.concat();
    let more = texts.chars().chain('\u{a0}'..'\u{2000}').chain('\u{1d15e}'..'\u{1d170}');
    let more = more.filter(|c| !known.contains(c) && !c.is_whitespace()).collect::<std::collections::BTreeSet<char>>();
    let characters: String = more.iter().map(|c| format!("{c}\n##{c}\n")).collect();
    let long = ["a".repeat(100), "b".repeat(101), "ё".repeat(100), "é".repeat(101)].join(" ");
    for (list, lower) in [(&list, true), (&list, false), (&format!("{list}{characters}"), true)] {
        let pair = Pair::new(reference::wordpiece(list, lower)).without_decoding();
        pair.check_all(&TEXTS);
        pair.check("[CLS] a[SEP]b [MASK]##s [unused1]");
        pair.check("각한글 ᄒ하 İstanbul ΑΣ ǅ ﷺ ≠ \u{37e} \u{f900} \u{344} \u{1fce}");
        pair.check(&long);
        pair.check_whole("Unaffable, don't!");
        pair.check_random();
    }
}

/// vocab.txt alone, with Hugging Face's ids of llama.cpp's cases and of a text in Rust.
#[test]
fn bert_from_a_list() {
    let Some(list) = shared("tokenizers/bert_base_uncased_vocab.txt") else { return };
    let (v, section) = open(&list);
    assert_eq!((v.len(), v.bos, v.after, v.unknown), (30522, Some(101), Some(102), Some(100)));
    assert_eq!(encode(&section, "Hello, wörld!", false).unwrap(), [101, 7592, 1010, 2088, 999, 102]);
    if let (Some(text), Some(ids)) =
        (shared("tokenizers/reftest_rust.txt"), shared("tokenizers/reftest_rust_bert_uncased.json"))
    {
        let expected: serde_json::Value = serde_json::from_slice(&std::fs::read(ids).unwrap()).unwrap();
        let ids = encode(&section, &std::fs::read_to_string(text).unwrap(), false).unwrap();
        assert_eq!(serde_json::json!(ids), expected["token_ids"]);
    }
    let Some(gguf) = shared("tokenizers/ggml-vocab-bert-bge.gguf") else { return };
    for (text, ids) in cases(&gguf) {
        assert_eq!(encode_after(&section, None, &text, false).as_ref(), Ok(&ids), "{text:?}");
    }
}

/// Vocabularies of characters in the three ways that tokenizer.json has of them, with a token for the rest.
#[test]
fn characters_as_tokenizers_has_them() {
    for json in reference::characters() {
        let pair = Pair::new(json).without_decoding();
        pair.check_all(&TEXTS);
        pair.check("the 3rd of May, 1999</s><unk>  ab");
        pair.check_random();
    }
}

/// What a template puts before and after a text.
#[test]
fn templates_as_tokenizers_has_them() {
    let token = |name: &str| serde_json::json!({ "SpecialToken": { "id": name, "type_id": 0 } });
    let text = serde_json::json!({ "Sequence": { "id": "A", "type_id": 0 } });
    let one = |name: &str, id: u32| serde_json::json!({ "id": name, "ids": [id], "tokens": [name] });
    for single in [
        vec![&text],
        vec![&token("<s>"), &text],
        vec![&text, &token("</s>")],
        vec![&token("<s>"), &text, &token("</s>")],
    ] {
        let mut json = reference::characters().remove(0);
        json["post_processor"] = serde_json::json!({
            "type": "TemplateProcessing", "single": single, "pair": [text.clone(), text.clone()],
            "special_tokens": { "<s>": one("<s>", 0), "</s>": one("</s>", 2) },
        });
        Pair::new(json).check_whole("May 3");
    }
    let mut json = reference::characters().remove(0);
    json["post_processor"] =
        serde_json::json!({ "type": "TemplateProcessing", "single": [token("<s>"), token("</s>"), text] });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, json.to_string()).unwrap();
    let why = tokenizer::open(&path).unwrap_err().to_string();
    assert!(why.contains("template") && why.contains("supported"), "{why}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Every text comes back from every kind of vocabulary.
    #[test]
    fn text_comes_back(text in reference::text()) {
        let folder = root().join("examples/models/llm/tokenizer.json");
        let mut paths = vec![folder];
        paths.extend(shared("llm/tok512.bin"));
        for path in paths {
            let section = tokenizer::open(&path).unwrap().to_bytes();
            let ids = encode(&section, &text, false).unwrap();
            prop_assert_eq!(decode(&section, &ids).unwrap(), text.as_str());
        }
    }
}
