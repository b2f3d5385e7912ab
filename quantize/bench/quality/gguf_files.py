"""Hugging Face language models as GGUF files: Llama and Qwen3 without biases, GPT-2, BERT."""

import math

import gguf
import numpy as np

# Module of a layer, tensors of a GGUF's block.
LLAMA = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
QWEN3 = LLAMA | {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
GPT2 = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
BERT = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
LAYERS = {
    "llama": ("model.layers", LLAMA),
    "qwen3": ("model.layers", QWEN3),
    "gpt2": ("transformer.h", GPT2),
    "bert": ("encoder.layer", BERT),
}
LLAMA_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
GPT2_OUTER = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
}
BERT_OUTER = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
OUTER = {"llama": LLAMA_OUTER, "qwen3": LLAMA_OUTER, "gpt2": GPT2_OUTER, "bert": BERT_OUTER}
ALL_F32 = 0  # llama.cpp's LLAMA_FTYPE_ALL_F32


def names(config):
    """Module of the Hugging Face model -> its name in a GGUF; a tied output matrix is the embedding."""
    if config.model_type not in LAYERS:
        raise SystemExit(f"{config.model_type}: only {', '.join(LAYERS)} are converted here")
    prefix, layer = LAYERS[config.model_type]
    out = {k: v for k, v in OUTER[config.model_type].items() if v != "output" or not config.tie_word_embeddings}
    for i in range(config.num_hidden_layers):
        out |= {f"{prefix}.{i}.{theirs}": f"blk.{i}.{ours}" for theirs, ours in layer.items()}
    return out


def interleave(w, heads):
    """Rotary pairs are (i, i + head_dim/2) in Hugging Face's rows of q and k, and (2i, 2i + 1) in llama.cpp's Llama."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def rope_of(config):
    """theta, and llama3's divisor of each frequency, or None."""
    rope = config.rope_parameters
    theta, kind = float(rope["rope_theta"]), rope["rope_type"]
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise SystemExit(f"rotary scaling {kind}: only llama3 is converted here")
    low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    divisors = []
    for i in range(0, config.head_dim, 2):
        length = 2 * math.pi * theta ** (i / config.head_dim)
        smooth = (low / length - 1) / (low / high - 1)
        blended = 1 / ((1 - smooth) / rope["factor"] + smooth)
        divisors.append(1.0 if length < high else rope["factor"] if length > low else blended)
    return theta, np.array(divisors, np.float32)


def describe(writer, c):
    """Writes what the architecture needs; returns the rotary embedding's divisors, if it has any."""
    writer.add_file_type(ALL_F32)
    writer.add_vocab_size(c.vocab_size)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_head_count(c.num_attention_heads)
    if c.model_type == "gpt2":
        writer.add_feed_forward_length(c.n_inner or 4 * c.hidden_size)
        writer.add_layer_norm_eps(c.layer_norm_epsilon)
        return None
    if c.model_type == "bert":
        writer.add_feed_forward_length(c.intermediate_size)
        writer.add_layer_norm_eps(c.layer_norm_eps)
        writer.add_causal_attention(False)
        writer.add_pooling_type(gguf.PoolingType.MEAN)
        writer.add_token_type_count(c.type_vocab_size)
        return None
    theta, divisors = rope_of(c)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(theta)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    return divisors


def check(c):
    """Refuses options that the conversion knows nothing of."""
    bad = []
    if c.model_type == "gpt2":
        if c.activation_function not in ("gelu_new", "gelu_pytorch_tanh"):
            bad.append(f"activation {c.activation_function}")
        if not c.scale_attn_weights or c.scale_attn_by_inverse_layer_idx:
            bad.append("scaling of attention")
    elif c.model_type == "bert":
        if c.hidden_act != "gelu":
            bad.append(f"activation {c.hidden_act}")
    else:
        if getattr(c, "attention_bias", False) or getattr(c, "mlp_bias", False):
            bad.append("biases")
        if getattr(c, "use_sliding_window", False):
            bad.append("sliding windows")
    if bad:
        raise SystemExit(f"{c.model_type} with {', '.join(bad)} is not converted here")


def convert(model, path):
    """Writes `model` (transformers, f32) as a GGUF of f32. It has no tokenizer: llama.cpp is only given token ids."""
    c, state = model.config, model.state_dict()
    known = names(c)
    check(c)
    writer = gguf.GGUFWriter(path, c.model_type)
    divisors = describe(writer, c)
    writer.add_tokenizer_model("no_vocab")
    if c.bos_token_id is not None:
        writer.add_bos_token_id(c.bos_token_id)
    if divisors is not None:
        writer.add_tensor("rope_freqs.weight", divisors)
    for module, name in known.items():
        for kind in ("weight", "bias"):
            if f"{module}.{kind}" not in state:
                continue
            w = state[f"{module}.{kind}"].numpy()
            if c.model_type == "gpt2" and kind == "weight" and w.ndim == 2 and name.startswith("blk."):
                w = w.T  # GPT-2's matrices are [inputs, outputs]
            if c.model_type == "llama" and name.endswith(("attn_q", "attn_k")):
                w = interleave(w, c.num_attention_heads if name.endswith("attn_q") else c.num_key_value_heads)
            writer.add_tensor(f"{name}.{kind}", np.ascontiguousarray(w, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors_of(path):
    """Parameters (the rotary table is none), bytes of tensors, and the weights' types with their tensor counts."""
    count, size, types = 0, 0, {}
    for t in gguf.GGUFReader(path).tensors:
        size += int(t.n_bytes)
        if t.name != "rope_freqs.weight":
            count += int(t.n_elements)
        if len(t.shape) > 1:
            types[t.tensor_type.name] = types.get(t.tensor_type.name, 0) + 1
    return count, size, types
