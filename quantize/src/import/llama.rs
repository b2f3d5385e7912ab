//! config.json of the Llama family: Llama, Mistral, Qwen 2 and Qwen 3.

use super::hf::Config;
use super::{LlmConfig, Result, RopeScaling};

/// What their folders call them.
pub(super) const NAMES: [&str; 8] = [
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
];

/// Layer and rest of a tensor's name; the whole name, and layer 0, of those outside the layers.
pub(super) fn part(name: &str) -> (usize, &str) {
    let inside = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    inside.and_then(|(layer, rest)| Some((layer.parse().ok()?, rest))).unwrap_or((0, name))
}

/// Reads it.
pub(super) fn parse(config: &Config, has: &dyn Fn(&str) -> bool) -> Result<LlmConfig> {
    let json = &config.json;
    let architecture = config.architecture().to_owned();
    let (qkv_bias, qk_norm) =
        (architecture.to_lowercase().starts_with("qwen2"), architecture.to_lowercase().starts_with("qwen3"));
    if json["hidden_act"].as_str().unwrap_or("silu") != "silu" {
        return Err(config.unsupported(format!("activation {}", json["hidden_act"]), "supported is silu"));
    }
    for name in ["attention_bias", "mlp_bias"] {
        if json[name].as_bool() == Some(true) {
            return Err(
                config.unsupported(format!("{name} = true"), "biases are supported for Qwen2's q, k and v only")
            );
        }
    }
    let (dim, heads) = (config.number("hidden_size")?, config.number("num_attention_heads")?);
    let head_dim = config.optional("head_dim", dim / heads)?;
    let kv_heads = config.optional("num_key_value_heads", heads)?;
    let largest = mote_runtime::image::plan::MAX_HEAD_DIM as usize;
    if head_dim == 0 || head_dim % 2 != 0 || head_dim > largest {
        return Err(
            config.unsupported(format!("head_dim {head_dim}"), &format!("even ones up to {largest} are supported"))
        );
    }
    if heads % kv_heads != 0 {
        return Err(config.malformed(format!("{heads} query heads are no multiple of {kv_heads} key-value heads")));
    }
    // Newer folders keep theta and scaling together in rope_parameters.
    let rope = if json["rope_parameters"].is_object() { &json["rope_parameters"] } else { &json["rope_scaling"] };
    let theta = json["rope_theta"].as_f64().or(rope["rope_theta"].as_f64()).unwrap_or(10000.0);
    let positive = |name: &str| {
        let missing =
            || config.malformed(format!("rope scaling: {name} is {}, a positive number was expected", rope[name]));
        rope[name].as_f64().filter(|v| *v > 0.0).ok_or_else(missing)
    };
    let rope_scaling = match rope["rope_type"].as_str().or(rope["type"].as_str()).unwrap_or("default") {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: positive("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: positive("factor")?,
            low_freq_factor: positive("low_freq_factor")?,
            high_freq_factor: positive("high_freq_factor")?,
            original_context: positive("original_max_position_embeddings")?,
        },
        other => {
            return Err(config.unsupported(format!("rope scaling {other}"), "supported are default, linear and llama3"));
        }
    };
    if !(theta > 1.0 && theta.is_finite()) {
        return Err(config.malformed(format!("rope_theta is {theta}")));
    }
    let window = json["sliding_window"].as_u64().filter(|_| json["use_sliding_window"].as_bool() != Some(false));
    Ok(LlmConfig {
        vocab: config.number("vocab_size")?,
        dim,
        hidden: config.number("intermediate_size")?,
        layers: config.layers("num_hidden_layers")?,
        heads,
        kv_heads,
        head_dim,
        max_context: config.optional("max_position_embeddings", 2048)?,
        rope_theta: theta,
        rope_scaling,
        norm_eps: json["rms_norm_eps"].as_f64().filter(|e| (0.0..1.0).contains(e)).unwrap_or(1e-6),
        // Some folders say "untied" and then hold no output matrix, or leave the field out: believe the file.
        tied: json["tie_word_embeddings"].as_bool().unwrap_or(false) || !has("lm_head.weight"),
        qkv_bias,
        qk_norm,
        sliding_window: window.and_then(|w| usize::try_from(w).ok()),
        architecture,
        ..LlmConfig::default()
    })
}
