//! config.json of GPT-2.

use super::hf::Config;
use super::{Activation, Family, LlmConfig, Result};
use serde_json::json;

/// What its folders call it.
pub(super) const NAMES: [&str; 3] = ["GPT2LMHeadModel", "GPT2Model", "gpt2"];

/// Reads it. A folder may have a `lm_head.bias`, which GPT-2 itself has not.
pub(super) fn parse(config: &Config, has: &dyn Fn(&str) -> bool) -> Result<LlmConfig> {
    config.expect(&[
        ("scale_attn_weights", json!(true)),
        ("scale_attn_by_inverse_layer_idx", json!(false)),
        ("add_cross_attention", json!(false)),
    ])?;
    let (dim, heads) = (config.number("n_embd")?, config.number("n_head")?);
    Ok(LlmConfig {
        architecture: config.architecture().to_owned(),
        family: Family::Gpt2,
        vocab: config.number("vocab_size")?,
        dim,
        hidden: config.optional("n_inner", 4 * dim)?,
        layers: config.layers("n_layer")?,
        heads,
        kv_heads: heads,
        head_dim: config.head_dim(dim, heads)?,
        max_context: config.number("n_positions")?,
        norm_eps: config.json["layer_norm_epsilon"].as_f64().filter(|e| (0.0..1.0).contains(e)).unwrap_or(1e-5),
        tied: config.json["tie_word_embeddings"].as_bool().unwrap_or(true) || !has("lm_head.weight"),
        activation: config.activation("activation_function", "gelu_new")?,
        head_bias: has("lm_head.bias"),
        ..LlmConfig::default()
    })
}

impl Config {
    /// The activation of a feed-forward net without gates.
    pub(super) fn activation(&self, name: &str, default: &str) -> Result<Activation> {
        match self.json[name].as_str().unwrap_or(default) {
            "relu" => Ok(Activation::Relu),
            "gelu" => Ok(Activation::GeluErf),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            other => Err(self.unsupported(format!("activation {other}"), "supported are gelu, gelu_new and relu")),
        }
    }
}
