//! config.json of BERT, for the embedding of a text (sentence-transformers); beside it, what is made of the tokens' rows.

use super::hf::{Config, read_json};
use super::{Encoder, Family, LlmConfig, Pooling, Result};
use serde_json::{Value, json};

/// What their folders call it. A head beside the encoder is not used.
pub(super) const NAMES: [&str; 4] = ["BertModel", "BertForMaskedLM", "BertForPreTraining", "bert"];

/// Reads it.
pub(super) fn parse(config: &Config, _: &dyn Fn(&str) -> bool) -> Result<LlmConfig> {
    config.expect(&[
        ("position_embedding_type", json!("absolute")),
        ("is_decoder", json!(false)),
        ("add_cross_attention", json!(false)),
    ])?;
    let (dim, heads) = (config.number("hidden_size")?, config.number("num_attention_heads")?);
    let (vocab, hidden) = (config.number("vocab_size")?, config.number("intermediate_size")?);
    let layers = config.layers("num_hidden_layers")?;
    Ok(LlmConfig {
        architecture: config.architecture().to_owned(),
        family: Family::Bert,
        vocab,
        dim,
        hidden,
        heads,
        kv_heads: heads,
        head_dim: config.head_dim(dim, heads)?,
        max_context: config.number("max_position_embeddings")?,
        token_types: config.optional("type_vocab_size", 2)?,
        norm_eps: config.json["layer_norm_eps"].as_f64().filter(|e| (0.0..1.0).contains(e)).unwrap_or(1e-12),
        activation: config.activation("hidden_act", "gelu")?,
        pooling: pooling(config)?,
        encoder: Some(Encoder { vocab, shared: true, layers, heads, hidden, start: 0 }),
        ..LlmConfig::default()
    })
}

/// What sentence-transformers' modules.json says comes after the encoder: a mean of all rows, or the first; without the file, a mean.
/// Normalising to unit length is left to the caller.
fn pooling(config: &Config) -> Result<Pooling> {
    let modules = config.beside("modules.json");
    if !modules.is_file() {
        return Ok(Pooling::Mean);
    }
    let mut pooling = Pooling::Mean;
    for module in read_json(&modules)?.as_array().into_iter().flatten() {
        let kind = module["type"].as_str().unwrap_or("of no type");
        match kind.rsplit('.').next() {
            Some("Transformer" | "Normalize") => {}
            Some("Pooling") => {
                let path = config.beside(module["path"].as_str().unwrap_or_default()).join("config.json");
                pooling = mode(config, &read_json(&path)?)?;
            }
            _ => {
                let supported = "supported after BERT are Pooling and Normalize";
                return Err(config.unsupported(format!("module {kind}"), supported));
            }
        }
    }
    Ok(pooling)
}

fn mode(config: &Config, json: &Value) -> Result<Pooling> {
    let fields = json.as_object().into_iter().flatten();
    let modes: Vec<&str> =
        fields.filter(|(name, on)| name.starts_with("pooling_mode") && **on == true).map(|(name, _)| &**name).collect();
    // Later versions have the mode's name instead.
    match (&modes[..], json["pooling_mode"].as_str()) {
        (["pooling_mode_mean_tokens"], _) | ([], Some("mean")) => Ok(Pooling::Mean),
        (["pooling_mode_cls_token"], _) | ([], Some("cls")) => Ok(Pooling::First),
        (modes, mode) => {
            let found = format!("pooling by {}", mode.map_or_else(|| modes.join(" and "), str::to_owned));
            Err(config.unsupported(found, "supported are the mean of all tokens and the first token"))
        }
    }
}
