//! Importers: tokenizer files to the TEXT section of an image.
//!
//! Six formats give one [`Vocabulary`]; `section.rs` writes it down. To add one: a file here, and a row in [`open`].
//!
//! ```text
//! json.rs           Hugging Face tokenizer.json (BPE, characters), its scheme.rs for cutting words, and sidecar.rs
//! wordpiece.rs      the same of BERT (WordPiece), and its vocab.txt
//! sentencepiece.rs  tokenizer.model (BPE)
//! llama2c.rs        tokenizer.bin
//! gguf.rs           the vocabulary of a GGUF file
//! list.rs           a vocabulary of characters, one a line (.txt)
//! ```

mod byte_level;
mod gguf;
mod json;
mod list;
mod llama2c;
mod scheme;
mod section;
mod sentencepiece;
mod sidecar;
mod wordpiece;

pub use mote_host::text::{decode, encode, encode_after};

use super::{ImportError, Result, map};
use std::path::{Path, PathBuf};

/// What a piece is to the encoder and the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Text that merging can reach.
    Normal,
    /// The fall-back for one byte (`<0x0A>`); its bytes are that byte.
    Byte,
    /// Control and unknown tokens: no text, found in templates only.
    Special,
    /// Text that is found whole before anything is merged.
    Added,
    /// An id that text never becomes: padding.
    Unused,
}

/// One piece of a vocabulary; its id is its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its bytes as they are in text: spaces are spaces.
    pub bytes: Vec<u8>,
    /// What it is.
    pub class: Class,
}

impl Piece {
    fn new(bytes: impl Into<Vec<u8>>, class: Class) -> Self {
        Self { bytes: bytes.into(), class }
    }

    fn padding() -> Self {
        Self::new([], Class::Unused)
    }
}

/// Two neighbours that become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Merge {
    /// Id of the left one.
    pub left: u32,
    /// Id of the right one.
    pub right: u32,
    /// 0 is merged first.
    pub rank: u32,
    /// Id of both together.
    pub result: u32,
}

/// What becomes of some characters (kind PIECES); see `layout::rule`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The first of them.
    pub first: u32,
    /// The last of them.
    pub last: u32,
    /// What they are, and what the first becomes.
    pub what: u32,
    /// A second character that the only one becomes, or NONE.
    pub second: u32,
}

/// A tokenizer as the runtime needs it; fields as in [`mote_runtime::text::layout`].
#[derive(Clone, Debug, PartialEq)]
pub struct Vocabulary {
    /// One of `layout::kind`.
    pub kind: u32,
    /// Bits of `layout::flag`.
    pub flags: u32,
    /// One of `layout::pre`.
    pub pre: u32,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The token that is put after a text.
    pub after: Option<u32>,
    /// The token for what has none.
    pub unknown: Option<u32>,
    /// Every piece, by id.
    pub pieces: Vec<Piece>,
    /// Rank of each piece (kind SCORES), or nothing.
    pub ranks: Vec<u32>,
    /// The merges in any order (kind MERGES), or nothing.
    pub merges: Vec<Merge>,
    /// The rules for characters (kind PIECES), by `first`, or nothing.
    pub rules: Vec<Rule>,
    /// Ids that end a text.
    pub ends: Vec<u32>,
    /// Id of each byte's token.
    pub bytes: [Option<u32>; 256],
    /// What a person should know.
    pub warnings: Vec<String>,
}

impl Vocabulary {
    fn new(kind: u32, pieces: Vec<Piece>) -> Self {
        Self {
            kind,
            flags: 0,
            pre: mote_runtime::text::layout::pre::NONE,
            bos: None,
            after: None,
            unknown: None,
            pieces,
            ranks: Vec::new(),
            merges: Vec::new(),
            rules: Vec::new(),
            ends: Vec::new(),
            bytes: [None; 256],
            warnings: Vec::new(),
        }
    }

    /// The vocabulary of whole words, none of which is ever cut or merged.
    ///
    /// # Errors
    /// [`ImportError::Malformed`], of the file at `path`.
    pub fn words(path: &Path, words: Vec<Vec<u8>>) -> Result<Self> {
        let pieces = words.into_iter().map(|word| Piece::new(word, Class::Normal)).collect();
        section::finish(path, Self::new(mote_runtime::text::layout::kind::MERGES, pieces))
    }

    /// Number of pieces.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // no importer gives an empty one
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Makes each [`Class::Byte`] piece the token of its byte.
    fn find_bytes(&mut self) {
        for (id, piece) in (0u32..).zip(&self.pieces) {
            if let (Class::Byte, [byte]) = (piece.class, piece.bytes.as_slice()) {
                self.bytes[usize::from(*byte)] = Some(id);
            }
        }
    }

    /// Pads to `vocab` pieces: the rows that a model's embedding has beyond its tokenizer's.
    fn fit(mut self, path: &Path, vocab: usize) -> Result<Self> {
        if self.len() > vocab {
            return Err(ImportError::Malformed {
                path: path.to_owned(),
                what: format!(
                    "the tokenizer has {} pieces, the model {vocab}: it is another model's, give the one of this model",
                    self.len()
                ),
            });
        }
        self.pieces.resize_with(vocab, Piece::padding);
        if !self.ranks.is_empty() {
            self.ranks.resize(vocab, mote_runtime::text::layout::NONE);
        }
        Ok(self)
    }
}

/// Finds the tokenizer of a model with `vocab` rows in its embedding, padded to them: `explicit` (a file, or a folder
/// to look in) if given; else what lies beside the model. In a Hugging Face folder that is tokenizer.json, else
/// tokenizer.model, else target_vocabulary.txt, else vocab.txt; beside a llama2.c checkpoint tokenizer.bin. `None` if there is none.
///
/// # Errors
/// [`ImportError`], saying what was found and what is supported.
pub fn find(model: &Path, explicit: Option<&Path>, vocab: usize) -> Result<Option<Vocabulary>> {
    find_in(model, explicit, vocab, &FOLDER_FILES)
}

/// As [`find`], for the sources of an encoder with a vocabulary of its own: source_tokenizer.json or source_vocabulary.txt.
///
/// # Errors
/// As [`find`].
pub fn find_source(model: &Path, explicit: Option<&Path>, vocab: usize) -> Result<Option<Vocabulary>> {
    find_in(model, explicit, vocab, &SOURCE_FILES)
}

fn find_in(model: &Path, explicit: Option<&Path>, vocab: usize, names: &[&str]) -> Result<Option<Vocabulary>> {
    let file = match explicit {
        Some(folder) if folder.is_dir() => {
            let missing = || ImportError::Missing { path: folder.to_owned(), name: names[0].into() };
            Some(first_in(folder, names).ok_or_else(missing)?)
        }
        Some(file) => Some(file.to_owned()),
        None if model.is_dir() => first_in(model, names),
        None => {
            let name = model.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let in_folder = name.ends_with(".json") || name.ends_with(".safetensors");
            let files: &[&str] = if in_folder { names } else { &["tokenizer.bin"] };
            first_in(model.parent().unwrap_or(Path::new("")), files)
        }
    };
    file.map(|file| open(&file)?.fit(&file, vocab)).transpose()
}

const FOLDER_FILES: [&str; 4] = ["tokenizer.json", "tokenizer.model", "target_vocabulary.txt", "vocab.txt"];
const SOURCE_FILES: [&str; 2] = ["source_tokenizer.json", "source_vocabulary.txt"];

fn first_in(folder: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// Reads a tokenizer file, whatever its format: told by content, but for lists (.txt), which could be anything.
///
/// # Errors
/// [`ImportError`], saying what was found and what is supported.
pub fn open(path: &Path) -> Result<Vocabulary> {
    let file = map(path)?;
    let bytes: &[u8] = &file;
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let is_txt = path.extension().is_some_and(|end| end == "txt");
    let vocabulary = match bytes {
        _ if is_txt && wordpiece::is_list(bytes) => wordpiece::parse_list(path, bytes),
        _ if is_txt => list::parse(path, bytes),
        _ if text.starts_with(b"{") => json::parse(path, text),
        [b'G', b'G', b'U', b'F', ..] => gguf::parse(path, bytes),
        // A length below 65536 in little-endian order; in a protobuf, byte 2 is the tag of the first piece's text.
        [_, _, 0, 0, ..] => llama2c::parse(path, bytes),
        [0x0a, _, 0x0a, ..] | [0x0a, _, _, 0x0a, ..] => sentencepiece::parse(path, bytes),
        _ => Err(ImportError::Unsupported {
            path: path.to_owned(),
            found: "this tokenizer file".into(),
            supported:
                "supported are tokenizer.json, SentencePiece's tokenizer.model, llama2.c's tokenizer.bin, GGUF, BERT's vocab.txt, and lists of characters (.txt)"
                    .into(),
        }),
    }?;
    section::finish(path, vocabulary)
}

/// Parses `<0x0A>`, the name of a byte token.
fn byte_name(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 2)
}

/// Ranks from scores: the highest is 0, equal scores have equal ranks.
fn ranks(path: &Path, scores: &[f32]) -> Result<Vec<u32>> {
    if let Some(id) = scores.iter().position(|s| s.is_nan()) {
        let what = format!("the score of piece {id} is not a number");
        return Err(ImportError::Malformed { path: path.to_owned(), what });
    }
    // Adding zero makes -0.0 and 0.0 one score.
    let mut order: Vec<f32> = scores.iter().map(|s| s + 0.0).collect();
    order.sort_by(|a, b| b.total_cmp(a));
    order.dedup();
    let rank = |s: &f32| order.partition_point(|o| *o > *s) as u32;
    Ok(scores.iter().map(rank).collect())
}

fn malformed(path: &Path, what: impl Into<String>) -> ImportError {
    ImportError::Malformed { path: path.to_owned(), what: what.into() }
}

fn unsupported(path: &Path, found: impl Into<String>, supported: &str) -> ImportError {
    ImportError::Unsupported { path: path.to_owned(), found: found.into(), supported: supported.to_owned() }
}
