//! Hostile tokenizer files and hostile TEXT sections: an error, or a vocabulary that works; never a panic.

use mote_quantize::import::tokenizer::{self, decode, encode};
use mote_runtime::text::{Decoder, Tokenizer};
use mote_tests::{root, shared};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

const TEXT: &str = "Once upon a time, 12 <s>漢字 don't\n<|endoftext|>  end ";

/// Opens `bytes` as a tokenizer file; what opens must encode and decode.
fn try_open(bytes: &[u8]) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, bytes).unwrap();
    let vocabulary = tokenizer::open(&path).map_err(|why| why.to_string())?;
    works(&vocabulary.to_bytes());
    Ok(())
}

fn works(section: &[u8]) {
    for parse_special in [false, true] {
        if let Ok(ids) = encode(section, TEXT, parse_special) {
            decode(section, &ids).unwrap();
        }
    }
}

fn bundled() -> PathBuf {
    root().join("examples/models/llm/tokenizer.json")
}

fn files() -> Vec<PathBuf> {
    let others = [
        "llm/tok512.bin",
        "llm/llama2_tokenizer.model",
        "tokenizers/ggml-vocab-llama-spm.gguf",
        "tokenizers/ggml-vocab-gpt-2.gguf",
    ];
    std::iter::once(bundled()).chain(others.into_iter().filter_map(shared)).collect()
}

#[test]
fn truncated() {
    for path in files() {
        let bytes = std::fs::read(&path).unwrap();
        for part in 0..50 {
            // A file of records that are not counted may end after any of them, so only "no panic" holds for all.
            let outcome = try_open(&bytes[..bytes.len() * part / 50]);
            if part < 2 || !path.ends_with("tok512.bin") {
                assert!(outcome.is_err(), "{} cut at {part}/50 opened", path.display());
            }
        }
    }
}

#[test]
fn some_other_file() {
    for bytes in [&b""[..], b"\0", b"PK\x03\x04zip", b"not a tokenizer at all", b"{", b"[]", b"{}", &[0xff; 64]] {
        assert!(try_open(bytes).is_err(), "{bytes:?}");
    }
    let why = try_open(b"not a tokenizer at all").unwrap_err();
    assert!(why.contains("tokenizer.json") && why.contains("GGUF"), "{why}");
}

fn bundled_with(change: impl FnOnce(&mut Value)) -> Result<(), String> {
    let mut json: Value = serde_json::from_slice(&std::fs::read(bundled()).unwrap()).unwrap();
    change(&mut json);
    try_open(&serde_json::to_vec(&json).unwrap())
}

#[test]
fn json_of_wrong_types() {
    let wrong =
        [json!(null), json!(7), json!(-1.5), json!("text"), json!([]), json!([[[]]]), json!({}), json!({"a": 1})];
    let places = [
        "/model",
        "/model/type",
        "/model/vocab",
        "/model/vocab/!",
        "/model/merges",
        "/model/merges/0",
        "/model/merges/0/0",
        "/model/unk_token",
        "/model/ignore_merges",
        "/pre_tokenizer",
        "/pre_tokenizer/type",
        "/post_processor",
        "/post_processor/single",
        "/post_processor/single/0/SpecialToken/id",
        "/added_tokens",
        "/post_processor/special_tokens/<|endoftext|>/ids",
        "/added_tokens/0",
        "/added_tokens/0/id",
        "/added_tokens/0/content",
        "/normalizer",
    ];
    for place in places {
        for value in &wrong {
            // Some are right after all; what matters is that none panics.
            let _ = bundled_with(|json| *json.pointer_mut(place).unwrap() = value.clone());
        }
    }
    let why = bundled_with(|json| json["model"]["vocab"]["!"] = json!("one")).unwrap_err();
    assert!(why.contains("\"!\" has id \"one\""), "{why}");
}

#[test]
fn json_ids_absurd() {
    for id in [json!(4_000_000_000u64), json!(u64::MAX), json!(-1), json!(1.5), json!(1e300), json!(1 << 24)] {
        assert!(bundled_with(|json| json["model"]["vocab"]["!"] = id.clone()).is_err(), "{id}");
        assert!(bundled_with(|json| json["added_tokens"][0]["id"] = id.clone()).is_err(), "{id}");
    }
    let why = bundled_with(|json| json["model"]["vocab"]["!"] = json!(2)).unwrap_err();
    assert!(why.contains("which another has too"), "{why}");
}

#[test]
fn json_merges_of_unknown_pieces() {
    for merge in [json!(["Ġno", "where"]), json!("Ġno where"), json!(["!", "漢"]), json!("one"), json!(["a", "b", "c"])]
    {
        let why = bundled_with(|json| json["model"]["merges"][9] = merge.clone()).unwrap_err();
        assert!(why.contains("merge 9"), "{why}");
    }
}

#[test]
fn json_unsupported_is_named() {
    let cases: [(&str, Value, &str); 7] = [
        ("/model/type", json!("WordPiece"), "WordPiece"),
        ("/model/type", json!("Unigram"), "Unigram"),
        ("/pre_tokenizer", json!({"type": "BertPreTokenizer"}), "BertPreTokenizer"),
        ("/normalizer", json!({"type": "Lowercase"}), "Lowercase"),
        ("/pre_tokenizer/add_prefix_space", json!(true), "add_prefix_space"),
        ("/added_tokens/0/lstrip", json!(true), "lstrip"),
        (
            "/pre_tokenizer",
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "\\d+"}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]}),
            "\\\\d+",
        ),
    ];
    for (place, value, named) in cases {
        let why = bundled_with(|json| *json.pointer_mut(place).unwrap() = value).unwrap_err();
        assert!(why.contains(named) && why.contains("supported"), "{why}");
    }
}

#[test]
fn characters_that_cannot_be_as_they_are() {
    let base = json!({ "model": { "type": "BPE", "unk_token": "<unk>", "merges": [], "vocab": { "a": 0, " ": 1, "<unk>": 2 } } });
    let open = |change: &dyn Fn(&mut Value)| {
        let mut json = base.clone();
        change(&mut json);
        try_open(json.to_string().as_bytes())
    };
    assert_eq!(open(&|_| ()), Ok(()));
    let word_level = json!({ "type": "WordLevel", "unk_token": "<unk>", "vocab": { "a": 0, "<unk>": 1 } });
    for (change, named) in [
        (&(|json: &mut Value| json["model"]["fuse_unk"] = json!(true)) as &dyn Fn(&mut Value), "fuse_unk"),
        (&|json: &mut Value| json["model"]["ignore_merges"] = json!(true), "ignore_merges"),
        (&|json: &mut Value| json["model"] = word_level.clone(), "WordLevel"),
        (&|json: &mut Value| json["pre_tokenizer"] = json!({ "type": "Whitespace" }), "Whitespace"),
        (&|json: &mut Value| json["model"]["byte_fallback"] = json!(true), "bytes to fall back on"),
    ] {
        let why = open(change).unwrap_err();
        assert!(why.contains(named) && why.contains("supported"), "{why}");
    }
}

#[test]
fn lists_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vocabulary.txt");
    let open = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        tokenizer::open(&path).map_err(|why| why.to_string())
    };
    let v = open("<s>\n</s>\n<unk>\na\nß\n ".as_bytes()).unwrap();
    assert_eq!((v.bos, v.ends.as_slice(), v.unknown), (Some(0), &[1][..], Some(2)));
    let ids = encode(&v.to_bytes(), "aß ?a", false).unwrap();
    assert_eq!(ids, [3, 4, 5, 2, 3]);
    assert_eq!(decode(&v.to_bytes(), &[0, 3, 4, 5, 3, 1]).unwrap(), "aß a");
    for (bytes, named) in [
        ("[PAD]\nthe\n##ing\n".as_bytes(), "\"the\""),
        ("a\n\nb\n".as_bytes(), "line 2 is empty"),
        ("a\nb\na\n".as_bytes(), "line 3"),
        (b"a\n\xff\n", "UTF-8"),
        (b"", "line 1 is empty"),
    ] {
        let why = open(bytes).unwrap_err();
        assert!(why.contains(named), "{why}");
    }
    // A vocabulary without a token for the rest refuses what it has none for.
    let v = open(b"a\nb\n").unwrap();
    assert!(encode(&v.to_bytes(), "abc", false).is_err());
}

#[test]
fn json_nested_without_end() {
    assert!(try_open(&[b"{\"a\":".as_slice(), &b"[".repeat(100_000)].concat()).is_err());
}

#[test]
fn llama2c_lengths_absurd() {
    let piece = |len: i32, bytes: &[u8]| [&1f32.to_le_bytes()[..], &len.to_le_bytes(), bytes].concat();
    let file = |last: Vec<u8>| [7i32.to_le_bytes().to_vec(), piece(1, b"a").repeat(5), last].concat();
    assert_eq!(try_open(&file(piece(1, b"b"))), Ok(()));
    for len in [2, i32::MAX, -1, i32::MIN] {
        let why = try_open(&file(piece(len, b"b"))).unwrap_err();
        assert!(why.contains("piece 5"), "{why}");
    }
    let nan = [f32::NAN.to_le_bytes().to_vec(), vec![1, 0, 0, 0, b'c']].concat();
    assert!(try_open(&file(nan)).unwrap_err().contains("not a number"));
}

#[test]
fn sentencepiece_lengths_absurd() {
    let endless: Vec<u8> = [&[0x0a, 0xff, 0x0a][..], &[0xff; 9], &[1]].concat();
    assert!(try_open(&endless).is_err());
    // One piece, a trainer that says BPE and no normaliser: the defaults would change white space.
    let unigram: &[u8] = &[0x0a, 0x03, 0x0a, 0x01, b'a', 0x12, 0x02, 0x18, 0x01];
    assert!(try_open(unigram).unwrap_err().contains("a unigram model"));
    let bpe: &[u8] = &[0x0a, 0x03, 0x0a, 0x01, b'a', 0x12, 0x02, 0x18, 0x02];
    assert!(try_open(bpe).unwrap_err().contains("remove_extra_whitespaces"));
}

/// A GGUF file of strings and arrays of strings, with `count` where the number of tokens stands.
fn gguf(model: &str, tokens: &[&str], merges: &[&str], count: Option<u64>) -> Vec<u8> {
    let string = |s: &str| [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat();
    let text = |key: &str, s: &str| [string(key), 8u32.to_le_bytes().to_vec(), string(s)].concat();
    let list = |key: &str, list: &[&str], count: Option<u64>| {
        let head = [string(key), 9u32.to_le_bytes().to_vec(), 8u32.to_le_bytes().to_vec()].concat();
        let count = count.unwrap_or(list.len() as u64).to_le_bytes().to_vec();
        [head, count, list.iter().flat_map(|s| string(s)).collect()].concat()
    };
    [
        b"GGUF\x03\0\0\0".to_vec(),
        [0u64.to_le_bytes(), 4u64.to_le_bytes()].concat(),
        text("tokenizer.ggml.model", model),
        text("tokenizer.ggml.pre", "gpt-2"),
        list("tokenizer.ggml.tokens", tokens, count),
        list("tokenizer.ggml.merges", merges, None),
    ]
    .concat()
}

#[test]
fn gguf_lengths_absurd() {
    assert_eq!(try_open(&gguf("gpt2", &["a", "b", "ab"], &["a b"], None)), Ok(()));
    for count in [4, 1 << 29, 1 << 40, u64::MAX] {
        assert!(try_open(&gguf("gpt2", &["a", "b", "ab"], &["a b"], Some(count))).is_err());
    }
    assert!(try_open(&gguf("gpt2", &[], &[], None)).unwrap_err().contains("empty"));
}

#[test]
fn gguf_merges_of_unknown_pieces() {
    for merge in ["a c", "b a", "ab", ""] {
        let why = try_open(&gguf("gpt2", &["a", "b", "ab"], &[merge], None)).unwrap_err();
        assert!(why.contains("merge 0"), "{why}");
    }
}

#[test]
fn gguf_of_wrong_types() {
    let why = try_open(&gguf("llama", &["a", "b"], &[], None)).unwrap_err();
    assert!(why.contains("no tokenizer.ggml.scores"), "{why}");
    let file = gguf("gpt2", &["a", "b", "ab"], &["a b"], None);
    let at = file.windows(11).position(|w| w == b"ggml.tokens").unwrap() + 11;
    let mut wrong = file.clone();
    wrong[at..at + 4].copy_from_slice(&4u32.to_le_bytes());
    assert!(try_open(&wrong).is_err());
}

#[test]
fn tokenizer_of_another_model() {
    let why = tokenizer::find(Path::new("model"), Some(&bundled()), 100).unwrap_err().to_string();
    assert!(why.contains("2048 pieces, the model 100"), "{why}");
    let padded = tokenizer::find(Path::new("model"), Some(&bundled()), 2050).unwrap().unwrap();
    assert_eq!(padded.len(), 2050);
    works(&padded.to_bytes());
    assert!(tokenizer::find(root(), None, 100).unwrap().is_none());
    assert!(tokenizer::find(root(), Some(root()), 100).is_err());
}

#[test]
fn ids_outside_the_vocabulary() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::copy(bundled(), &path).unwrap();
    for (config, fine) in [("2047", true), ("[0, 2047]", true), ("2048", false), ("\"x\"", false), ("[-1]", false)] {
        std::fs::write(folder.path().join("config.json"), format!("{{\"eos_token_id\": {config}}}")).unwrap();
        assert_eq!(tokenizer::open(&path).is_ok(), fine, "{config}");
    }
}

static SECTIONS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let paths = std::iter::once(bundled()).chain(shared("llm/tok512.bin"));
    paths.map(|path| tokenizer::open(&path).unwrap().to_bytes()).collect()
});

/// Everything that the runtime does with a section, in memory that is too small as well.
fn use_section(section: &[u8], text: &str) {
    let Ok(tokenizer) = Tokenizer::open(section) else { return };
    let mut scratch = vec![0; Tokenizer::scratch_words(text.len())];
    for (room, words) in [(2 * text.len() + 2, scratch.len()), (3, scratch.len()), (64, 10)] {
        let mut ids = vec![0; room];
        for parse_special in [false, true] {
            let _ = tokenizer.encode(text, parse_special, &mut ids, &mut scratch[..words.min(text.len() * 6)]);
        }
        let mut decoder = Decoder::new(tokenizer);
        for id in ids.into_iter().chain([tokenizer.vocab(), u32::MAX]) {
            let _ = (tokenizer.piece(id), tokenizer.is_special(id), tokenizer.is_end(id));
            decoder.push(id, &mut |_| ());
        }
        decoder.finish(&mut |_| ());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn section_with_changed_bytes(which: usize, changes in proptest::collection::vec(any::<(u32, u8)>(), 1..200), text: String) {
        let mut section = SECTIONS[which % SECTIONS.len()].clone();
        for (at, byte) in changes {
            // Half of them in the head and the first offsets, where they do most.
            let range = if at % 2 == 0 { 4096 } else { section.len() };
            section[at as usize / 2 % range] = byte;
        }
        use_section(&section, TEXT);
        use_section(&section, &text);
    }

    #[test]
    fn section_with_changed_head(which: usize, field in 0usize..16, value: u32, small in 0u32..600) {
        let mut section = SECTIONS[which % SECTIONS.len()].clone();
        for value in [value, small] {
            section[4 * field..][..4].copy_from_slice(&value.to_le_bytes());
            use_section(&section, TEXT);
        }
    }

    #[test]
    fn section_truncated(which: usize, len: usize) {
        let section = &SECTIONS[which % SECTIONS.len()];
        let part = &section[..len % section.len()];
        prop_assert!(Tokenizer::open(part).is_err());
    }

    #[test]
    fn section_of_noise(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        use_section(&bytes, TEXT);
    }

    #[test]
    fn files_with_changed_bytes(which: usize, changes in proptest::collection::vec(any::<(u32, u8)>(), 1..20)) {
        static FILES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
            let paths = std::iter::once(bundled()).chain(shared("llm/tok512.bin"));
            let small = gguf("gpt2", &["a", "b", "ab"], &["a b"], None);
            paths.map(|path| std::fs::read(path).unwrap()).chain([small]).collect()
        });
        let mut file = FILES[which % FILES.len()].clone();
        for (at, byte) in changes {
            let at = at as usize % file.len();
            file[at] = byte;
        }
        let _ = try_open(&file);
    }
}
