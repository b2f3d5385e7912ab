"""Makes tiny random models in Hugging Face's layout, and the logits that transformers computes for them.

    python make.py [FOLDER]      # default: the folder of this script

One folder a model: config.json, safetensors and expected.json, {"tokens": [...], "logits": "logits.f32", ...}; the
logits are little-endian f32, [tokens, vocab] (of an encoder alone: embeddings of "sources", [sources, width]), computed in f32 on the CPU with eager attention from the folder as it was
written (so f16 and bf16 weights are rounded first, then widened). The same seed gives the same bytes on one version of
torch. Norm weights, biases and spread are far from their trained values on purpose: an importer that forgets a norm
weight, a bias, the rotary scaling or the window gets logits that are wrong by much more than rounding.
"""

import json
import pathlib
import sys

import torch
import transformers
import transformers.utils.logging
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, BertConfig, BertForMaskedLM, BertModel

# name, model, tokens, weight type, largest shard, keys of config.json, its whether config.json is as before transformers 5
MODELS = [
    (
        "mha-untied", "Llama", 40, torch.float32, "180KB",
        {"vocab_size": 160, "hidden_size": 64, "intermediate_size": 80, "num_attention_heads": 4,
         "num_key_value_heads": 4, "tie_word_embeddings": False, "rope_theta": 10000.0},
        True,
    ),
    (
        "gqa-tied", "Llama", 40, torch.float16, "5GB",
        {"vocab_size": 307, "hidden_size": 48, "intermediate_size": 128, "num_attention_heads": 6,
         "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True, "rms_norm_eps": 1e-5, "rope_theta": 500.0},
        False,
    ),
    (
        # Wavelengths 6.3 (kept), 17.5 (blended), 49 and longer (divided by 8).
        "llama3-rope", "Llama", 48, torch.bfloat16, "5GB",
        {"vocab_size": 211, "hidden_size": 72, "intermediate_size": 172, "num_attention_heads": 4,
         "num_key_value_heads": 2, "tie_word_embeddings": False, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
         "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                          "original_max_position_embeddings": 32}},
        True,
    ),
    (
        "qwen2-bias", "Qwen2", 40, torch.bfloat16, "5GB",
        {"vocab_size": 227, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
         "num_key_value_heads": 2, "tie_word_embeddings": True, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
         "sliding_window": 8, "use_sliding_window": False, "max_window_layers": 2},
        True,
    ),
    (
        "qwen3-qk-norm", "Qwen3", 40, torch.bfloat16, "5GB",
        {"vocab_size": 227, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 24, "tie_word_embeddings": True, "rms_norm_eps": 1e-6,
         "rope_theta": 1000000.0, "attention_bias": False},
        False,
    ),
    (
        "mistral-window", "Mistral", 40, torch.float16, "5GB",
        {"vocab_size": 203, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
         "num_key_value_heads": 2, "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
         "rope_theta": 10000.0, "sliding_window": 12},
        True,
    ),
    (
        "gpt2-tied", "GPT2", 40, torch.bfloat16, "5GB",
        {"vocab_size": 151, "n_embd": 40, "n_head": 4, "n_positions": 64},
        False,
    ),
    (
        # GELU by erf, a feed-forward width that is not four times the other, heads of odd width.
        "gpt2-untied", "GPT2", 40, torch.float16, "5GB",
        {"vocab_size": 131, "n_embd": 36, "n_head": 4, "n_inner": 80, "n_positions": 48, "activation_function": "gelu",
         "layer_norm_epsilon": 0.01, "tie_word_embeddings": False},
        False,
    ),
    (
        # Encoder and decoder with other heads and widths than each other.
        "m2m100", "M2M100", 30, torch.bfloat16, "5GB",
        {"vocab_size": 131, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 80, "decoder_ffn_dim": 48, "max_position_embeddings": 64,
         "pad_token_id": 1, "decoder_start_token_id": 2},
        False,
    ),
]

# name, class, weight type, whether the embedding is the first token's row instead of the mean of all, keys of config.json
EMBEDDERS = [
    (
        "bert", BertModel, torch.bfloat16, False,
        {"vocab_size": 131, "hidden_size": 40, "num_attention_heads": 4, "intermediate_size": 96, "max_position_embeddings": 64},
    ),
    (
        # With a head that is not used, so that names have a prefix.
        "bert-cls", BertForMaskedLM, torch.float16, True,
        {"vocab_size": 151, "hidden_size": 36, "num_attention_heads": 3, "intermediate_size": 80, "max_position_embeddings": 48,
         "hidden_act": "gelu_new", "layer_norm_eps": 0.01, "type_vocab_size": 3},
    ),
]


def randomise(model, generator):
    for name, p in model.named_parameters():
        if name.endswith(("norm.weight", "LayerNorm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight")):  # also q_norm and k_norm
            p.uniform_(0.5, 1.5, generator=generator)
        else:
            std = 0.5 if name.endswith(("embed_tokens.weight", "embeddings.weight", "wte.weight", "wpe.weight", "bias")) else 0.2
            p.normal_(0, std, generator=generator)


def older_config(path, keys):
    """Writes the rotary part, the type and the window as the config.json of most published models has them."""
    config = json.loads(path.read_text())
    for name in ("head_dim", "layer_types"):
        if name not in keys:
            config.pop(name, None)
    if "sliding_window" in keys:
        config["sliding_window"] = keys["sliding_window"]
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2) + "\n")


@torch.no_grad()
def make(folder, seed, kind, count, dtype, shard, keys, older):
    generator = torch.Generator().manual_seed(seed)
    common = {"num_hidden_layers": 2, "max_position_embeddings": keys.get("n_positions", 128)}
    auto, source, first = AutoModelForCausalLM, None, 0
    if kind == "M2M100":
        common, auto, first = {}, AutoModelForSeq2SeqLM, 3  # no padding: it has no position
    config = getattr(transformers, f"{kind}Config")(**common, bos_token_id=None, eos_token_id=None, **keys)
    model = auto.from_config(config)
    randomise(model, generator)
    tokens = torch.randint(first, config.vocab_size, (1, count), generator=generator)
    if kind == "M2M100":
        source = torch.randint(first, config.vocab_size, (1, count // 2), generator=generator)
    save(model, folder, dtype, shard)
    if older:
        older_config(folder / "config.json", keys)

    model = auto.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    logits = (model(tokens) if source is None else model(input_ids=source, decoder_input_ids=tokens)).logits[0]
    assert logits.dtype == torch.float32 and logits.isfinite().all()
    (folder / "logits.f32").write_bytes(logits.numpy().astype("<f4").tobytes())
    expected = {
        "tokens": tokens[0].tolist(),
        "logits": "logits.f32",
        "shape": list(logits.shape),
        **versions(seed),
    }
    if source is not None:
        expected["source"] = source[0].tolist()
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
    print(f"{folder.name}: logits' deviation {logits.std():.2f}, mean entropy {entropy:.2f} nats")


def save(model, folder, dtype, shard="5GB"):
    """Writes a model to a folder that has nothing else then."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    (folder / "generation_config.json").unlink(missing_ok=True)
    for file in folder.iterdir():
        file.chmod(0o644)


def versions(seed):
    return {"seed": seed, "torch": torch.__version__, "transformers": transformers.__version__}


@torch.no_grad()
def make_embedder(folder, seed, kind, dtype, first, keys):
    generator = torch.Generator().manual_seed(seed)
    model = kind(BertConfig(num_hidden_layers=2, **keys))
    randomise(model, generator)
    longest = keys["max_position_embeddings"]
    lengths = [1, 2, longest, *torch.randint(3, longest, (17,), generator=generator).tolist()]
    sources = [torch.randint(0, keys["vocab_size"], (n,), generator=generator) for n in lengths]
    for old in (path for path in folder.glob("*/*")):
        old.unlink()
        old.parent.rmdir()
    save(model, folder, dtype)
    if first:  # as sentence-transformers writes it
        name = "sentence_transformers.models."
        modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
        modules = [{"idx": i, "name": str(i), "path": path, "type": name + kind} for i, (kind, path) in enumerate(modules)]
        (folder / "modules.json").write_text(json.dumps(modules) + "\n")
        (folder / "1_Pooling").mkdir()
        pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
        (folder / "1_Pooling/config.json").write_text(json.dumps(pooling) + "\n")

    model = BertModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    rows = [model(ids[None]).last_hidden_state[0] for ids in sources]
    embeddings = torch.stack([row[0] if first else row.mean(0) for row in rows])
    assert embeddings.dtype == torch.float32 and embeddings.isfinite().all()
    (folder / "embeddings.f32").write_bytes(embeddings.numpy().astype("<f4").tobytes())
    expected = {"sources": [ids.tolist() for ids in sources], "embeddings": "embeddings.f32", **versions(seed)}
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    turned = torch.nn.functional.normalize(embeddings, dim=1)
    print(f"{folder.name}: mean cosine of two embeddings {(turned @ turned.T).mean():.2f}")


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    for seed, (name, *rest) in enumerate(MODELS, 1):
        make(out / name, seed, *rest)
    for seed, (name, *rest) in enumerate(EMBEDDERS, 101):
        make_embedder(out / name, seed, *rest)


if __name__ == "__main__":
    main()
