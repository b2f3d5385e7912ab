//! Hugging Face folders of GPT-2, M2M-100 and BERT whose config.json or tensors are not as they must be.

use mote_quantize::import::{Pooling, open_model};
use mote_tests::golden;
use serde_json::{Value, json};

/// What is said of the golden model `name` with a changed config.json.
fn opened(name: &str, change: &dyn Fn(&mut Value)) -> Result<(), String> {
    let from = golden().join("transformers").join(name);
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(from.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    open_model(folder.path()).map(drop).map_err(|why| why.to_string())
}

/// Each change of one field, and what the error must name.
fn refused(name: &str, cases: &[(&str, Value, &str)]) {
    assert_eq!(opened(name, &|_| ()), Ok(()), "{name}");
    for (field, value, named) in cases {
        let why = opened(name, &|config| config[*field] = value.clone()).expect_err(field);
        assert!(why.contains(named), "{name}, {field} = {value}: {why}");
    }
}

#[test]
fn gpt2() {
    refused(
        "gpt2-tied",
        &[
            ("architectures", json!(["GPT2ForSequenceClassification"]), "supported are LlamaForCausalLM"),
            ("activation_function", json!("swish"), "activation swish"),
            ("scale_attn_by_inverse_layer_idx", json!(true), "scale_attn_by_inverse_layer_idx = true"),
            ("add_cross_attention", json!(true), "add_cross_attention"),
            ("scale_attn_weights", json!(false), "scale_attn_weights"),
            ("n_head", json!(7), "multiple of 7 heads"),
            ("n_head", json!(0), "n_head is 0"),
            ("n_layer", json!(3), "h.2.ln_1.weight is missing"),
            ("n_layer", json!(5000), "at most 4096"),
            ("n_embd", json!(44), "[151, 40]"),
            ("n_positions", json!(65), "wpe.weight"),
            ("n_inner", json!(-1), "n_inner is -1"),
            ("vocab_size", json!("many"), "vocab_size"),
        ],
    );
}

#[test]
fn m2m100() {
    refused(
        "m2m100",
        &[
            ("d_model", json!(33), "multiple of"),
            ("encoder_attention_heads", json!(5), "multiple of 5"),
            ("encoder_layers", json!(3), "encoder.layers.2"),
            ("decoder_start_token_id", json!(131), "decoder_start_token_id is 131"),
            ("pad_token_id", json!(-1), "pad_token_id is -1"),
            ("activation_function", json!("tanh"), "activation tanh"),
            ("decoder_ffn_dim", json!(40), "fc1"),
            // The folder shares its one embedding.
            ("tie_word_embeddings", json!(false), "embed_tokens.weight is missing"),
            ("quantization_config", json!({}), "quantized"),
        ],
    );
}

#[test]
fn bert() {
    refused(
        "bert",
        &[
            ("architectures", json!(["BertForSequenceClassification"]), "supported are"),
            ("position_embedding_type", json!("relative_key"), "relative_key"),
            ("is_decoder", json!(true), "is_decoder"),
            ("hidden_act", json!("tanh"), "activation tanh"),
            ("num_attention_heads", json!(7), "multiple of 7 heads"),
            ("num_hidden_layers", json!(3), "encoder.layer.2"),
            ("intermediate_size", json!(80), "intermediate.dense"),
            ("max_position_embeddings", json!(65), "position_embeddings"),
            ("type_vocab_size", json!(3), "token_type_embeddings"),
            ("vocab_size", json!(0), "vocab_size is 0"),
        ],
    );
    // What sentence-transformers puts after the encoder.
    let pooled = |modules: Value, pooling: Value| {
        let folder = tempfile::tempdir().unwrap();
        let from = golden().join("transformers/bert");
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(from.join(name), folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("modules.json"), modules.to_string()).unwrap();
        std::fs::create_dir(folder.path().join("p")).unwrap();
        std::fs::write(folder.path().join("p/config.json"), pooling.to_string()).unwrap();
        open_model(folder.path()).map(|model| model.config().pooling).map_err(|why| why.to_string())
    };
    let modules = json!([{ "type": "a.Transformer", "path": "" }, { "type": "a.b.Pooling", "path": "p" }]);
    assert_eq!(pooled(modules.clone(), json!({ "pooling_mode_mean_tokens": true })), Ok(Pooling::Mean));
    assert_eq!(pooled(modules.clone(), json!({ "pooling_mode": "cls" })), Ok(Pooling::First));
    let two = json!({ "pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true });
    let why = pooled(modules.clone(), two).unwrap_err();
    assert!(why.contains("pooling_mode_max_tokens") && why.contains("supported"), "{why}");
    let why = pooled(json!([{ "type": "a.Dense", "path": "p" }]), json!({})).unwrap_err();
    assert!(why.contains("a.Dense"), "{why}");
    assert!(pooled(modules, json!([])).is_err_and(|why| why.contains("pooling")));
}

#[test]
fn folders_without_the_models_prefix() {
    // As `save_pretrained` of a model without its head writes them, and OpenAI's own gpt2.
    let from = golden().join("transformers/gpt2-tied");
    let folder = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let (head, data) = bytes[8..].split_at(u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize);
    let head = std::str::from_utf8(head).unwrap().replace("\"transformer.", "\"");
    let file = [&(head.len() as u64).to_le_bytes(), head.as_bytes(), data].concat();
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    std::fs::copy(from.join("config.json"), folder.path().join("config.json")).unwrap();
    let (named, short) = (open_model(&from).unwrap(), open_model(folder.path()).unwrap());
    for weight in mote_quantize::lower::weights(named.config()) {
        assert_eq!(named.tensor(&weight).unwrap(), short.tensor(&weight).unwrap(), "{}", weight.name);
    }
    assert!(short.warnings().is_empty(), "{:?}", short.warnings());
}
