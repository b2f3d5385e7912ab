//! config.json of M2M-100 and NLLB, which have an encoder and a decoder.
//!
//! Two things may be otherwise than in M2M-100 itself: `decoder_vocab_size` (Marian's word) and an embedding each for encoder and
//! decoder, if `tie_word_embeddings` is false; and a `lm_head.bias`.

use super::hf::Config;
use super::{Encoder, Family, LlmConfig, Result};

/// What their folders call them.
pub(super) const NAMES: [&str; 2] = ["M2M100ForConditionalGeneration", "m2m_100"];
/// The embedding that encoder, decoder and output share.
pub(super) const SHARED: &str = "model.shared.weight";
/// The names of those that share it.
pub(super) const SHARING: [&str; 3] =
    ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"];

/// Reads it.
pub(super) fn parse(config: &Config, has: &dyn Fn(&str) -> bool) -> Result<LlmConfig> {
    let json = &config.json;
    let (dim, heads) = (config.number("d_model")?, config.number("decoder_attention_heads")?);
    let encoder_heads = config.number("encoder_attention_heads")?;
    config.head_dim(dim, encoder_heads)?;
    if dim % 2 != 0 {
        return Err(config.unsupported(format!("d_model {dim}"), "sinusoidal positions need an even one"));
    }
    let tied = json["tie_word_embeddings"].as_bool().unwrap_or(true);
    let source = config.number("vocab_size")?;
    let vocab = if tied { source } else { config.optional("decoder_vocab_size", source)? };
    let id = |name: &str, default: usize| match json[name].as_u64() {
        None if json[name].is_null() => Ok(default),
        Some(id) if id < vocab as u64 => Ok(id as usize),
        _ => Err(config.malformed(format!("{name} is {}, the vocabulary has {vocab} tokens", json[name]))),
    };
    let start = id("decoder_start_token_id", id("eos_token_id", 2)?)?;
    Ok(LlmConfig {
        architecture: config.architecture().to_owned(),
        family: Family::M2m100,
        vocab,
        dim,
        hidden: config.number("decoder_ffn_dim")?,
        layers: config.layers("decoder_layers")?,
        heads,
        kv_heads: heads,
        head_dim: config.head_dim(dim, heads)?,
        max_context: config.optional("max_position_embeddings", 1024)?,
        norm_eps: 1e-5,
        tied,
        activation: config.activation("activation_function", "relu")?,
        head_bias: has("lm_head.bias"),
        scaled_embedding: json["scale_embedding"].as_bool().unwrap_or(true),
        // fairseq counts positions from the one after the padding token's id.
        first_position: id("pad_token_id", 1)? + 1,
        encoder: Some(Encoder {
            vocab: source,
            shared: tied,
            layers: config.layers("encoder_layers")?,
            heads: encoder_heads,
            hidden: config.number("encoder_ffn_dim")?,
            start: start as u32,
        }),
        ..LlmConfig::default()
    })
}
