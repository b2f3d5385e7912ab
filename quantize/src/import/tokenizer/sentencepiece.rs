//! SentencePiece's tokenizer.model: the protobuf of google/sentencepiece, `src/sentencepiece_model.proto`.
//!
//! The messages below name the fields that matter here; others are skipped. One difference to the original is meant: it
//! takes the character U+2581 in a text for a space, since it writes spaces so; here it stays what it is.

use super::sidecar::Sidecar;
use super::{Class, ImportError, Piece, Result, Vocabulary, byte_name, ranks};
use mote_runtime::text::layout::{flag, kind};
use prost::Message;
use std::path::Path;

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<SentencePiece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct SentencePiece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3", default = "1")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerSpec {
    #[prost(int32, optional, tag = "3", default = "1")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(int32, optional, tag = "40")]
    unk_id: Option<i32>,
    #[prost(int32, optional, tag = "41", default = "1")]
    bos_id: Option<i32>,
    #[prost(int32, optional, tag = "42", default = "2")]
    eos_id: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3", default = "true")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4", default = "true")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5", default = "true")]
    escape_whitespaces: Option<bool>,
}

const BPE: i32 = 2;

/// Reads a file, and the configuration of the model whose folder it lies in.
pub(super) fn parse(path: &Path, file: &[u8]) -> Result<Vocabulary> {
    let malformed = |what: String| ImportError::Malformed { path: path.to_owned(), what };
    let model = ModelProto::decode(file)
        .map_err(|why| malformed(format!("not a whole SentencePiece model: {why}; is the file truncated?")))?;
    let trainer = model.trainer.ok_or_else(|| malformed("it has no trainer_spec: the file is truncated".into()))?;
    let normalizer = model.normalizer.unwrap_or_default();
    check(path, &trainer, &normalizer)?;
    let mut pieces = Vec::with_capacity(model.pieces.len());
    for piece in &model.pieces {
        pieces.push(import(path, pieces.len(), piece)?);
    }
    let scores: Vec<f32> = model.pieces.iter().map(SentencePiece::score).collect();
    let id = |id: i32| u32::try_from(id).ok();
    let mut v = Vocabulary::new(kind::SCORES, pieces);
    let sidecar = Sidecar::read(path)?;
    v.flags = flag::CHARACTERS;
    v.bos = id(trainer.bos_id());
    if sidecar.add_bos.unwrap_or(v.bos.is_some()) {
        v.flags |= flag::ADD_BOS;
    }
    if normalizer.add_dummy_prefix() {
        v.flags |= flag::ADD_SPACE | flag::SPACE_EACH;
    }
    v.ranks = ranks(path, &scores)?;
    v.unknown = id(trainer.unk_id());
    v.ends = id(trainer.eos_id()).into_iter().chain(sidecar.ends).collect();
    v.find_bytes();
    Ok(v)
}

fn check(path: &Path, trainer: &TrainerSpec, normalizer: &NormalizerSpec) -> Result<()> {
    let kind = match trainer.model_type() {
        BPE => "BPE",
        1 => "a unigram model",
        3 => "a word model",
        4 => "a character model",
        _ => "a model of unknown type",
    };
    let found = [
        (trainer.model_type() != BPE, kind),
        (normalizer.remove_extra_whitespaces(), "remove_extra_whitespaces = true"),
        (!normalizer.escape_whitespaces(), "escape_whitespaces = false"),
        (!normalizer.precompiled_charsmap().is_empty(), "normalisation other than identity"),
        (trainer.treat_whitespace_as_suffix(), "treat_whitespace_as_suffix = true"),
    ];
    match found.iter().find(|(is, _)| *is) {
        None => Ok(()),
        Some((_, found)) => Err(ImportError::Unsupported {
            path: path.to_owned(),
            found: (*found).to_owned(),
            supported: "supported are BPE models that take text as it is (--normalization_rule_name=identity \
                        --remove_extra_whitespaces=false), as Llama's are"
                .into(),
        }),
    }
}

fn import(path: &Path, id: usize, piece: &SentencePiece) -> Result<Piece> {
    let text = piece.piece();
    let spaced = text.replace('\u{2581}', " ");
    Ok(match piece.kind() {
        // Text has no raw space when pieces are looked up, so a piece with one is never found.
        1 if text.contains(' ') => Piece::new(text, Class::Unused),
        1 => Piece::new(spaced, Class::Normal),
        2 | 3 => Piece::new(text, Class::Special),
        4 => Piece::new(spaced, Class::Added),
        6 => {
            let what = || format!("piece {id}, {text:?}, is of type BYTE, its name should be like <0x0A>");
            let malformed = || ImportError::Malformed { path: path.to_owned(), what: what() };
            Piece::new([byte_name(text).ok_or_else(malformed)?], Class::Byte)
        }
        other => {
            return Err(ImportError::Unsupported {
                path: path.to_owned(),
                found: format!("piece {id}, {text:?}, of type {other}"),
                supported: "supported are types 1 to 4 and 6 (normal, unknown, control, user-defined, byte)".into(),
            });
        }
    })
}
