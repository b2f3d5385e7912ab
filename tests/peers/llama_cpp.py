"""Measures llama.cpp's quantizations of a Hugging Face Llama against the float model, on a text.

    python llama_cpp.py MODEL_FOLDER --text FILE [--context 256] [--types Q4_0 Q4_K_M Q8_0] [--max-tokens N] [--json FILE]

1. The folder becomes an f32 GGUF (below: the one thing to get right is the order of q's and k's rows), which must give
   transformers' logits, or the script stops.
2. llama.cpp quantizes that file, without an importance matrix, as `llama-quantize` does by default.
3. Each file and transformers (f32) walk the same windows in lock step, and every position's logits are compared.

The windows are those of `mote eval`, so that the numbers can stand in one table: the text is tokenized whole with
tokenizer.json, without special tokens, and cut into chunks of (context - 1) tokens, the last one shorter; a window is
BOS and a chunk. Every position counts for the KL divergence and for the agreement; those whose next token is inside the
window count for the perplexity. `--max-tokens` stops after that many positions.
"""

import argparse
import ctypes
import importlib.metadata
import json
import math
import pathlib
import sys
import tempfile

import gguf
import numpy as np
import torch
import transformers.utils.logging
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

# This file has the package's name: look for the package elsewhere than in this folder.
sys.path = [p for p in sys.path if pathlib.Path(p).resolve() != pathlib.Path(__file__).resolve().parent]
import llama_cpp  # noqa: E402

FTYPES = {
    "F16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1,
    "Q4_K_S": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_S,
    "Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "IQ4_NL": llama_cpp.LLAMA_FTYPE_MOSTLY_IQ4_NL,
    "Q5_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "Q6_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
}
# KL divergence that the f32 GGUF may have: llama.cpp's own rounding (an f16 softmax and the like) stays far below.
CONVERSION_LIMIT = 1e-5


def interleave(w, heads):
    """Rotary pairs are (i, i + head_dim/2) in Hugging Face's rows of q and k, and (2i, 2i + 1) in llama.cpp's."""
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


def convert(model, path, bos):
    """Writes the f32 GGUF. It has no tokenizer: llama.cpp is only given token ids."""
    c, state = model.config, model.state_dict()
    if c.model_type != "llama" or getattr(c, "attention_bias", False) or getattr(c, "mlp_bias", False):
        raise SystemExit(f"{c.model_type} with its options: only Llama without biases is converted here")
    theta, divisors = rope_of(c)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(llama_cpp.LLAMA_FTYPE_ALL_F32)
    writer.add_vocab_size(c.vocab_size)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(theta)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_tokenizer_model("no_vocab")
    if bos is not None:
        writer.add_bos_token_id(bos)

    def add(name, values):
        writer.add_tensor(name, np.ascontiguousarray(values, np.float32))

    add("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    add("output_norm.weight", state["model.norm.weight"].numpy())
    if not c.tie_word_embeddings:
        add("output.weight", state["lm_head.weight"].numpy())
    if divisors is not None:
        add("rope_freqs.weight", divisors)
    names = {
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
    heads = {"attn_q": c.num_attention_heads, "attn_k": c.num_key_value_heads}
    for layer in range(c.num_hidden_layers):
        for theirs, ours in names.items():
            w = state[f"model.layers.{layer}.{theirs}.weight"].numpy()
            add(f"blk.{layer}.{ours}.weight", interleave(w, heads[ours]) if ours in heads else w)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source, out, ftype, threads):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = FTYPES[ftype], threads
    if llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)) != 0:
        raise SystemExit(f"llama.cpp could not write {ftype}")


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


class Peer:
    """llama.cpp's logits of a window, [positions, vocab]."""

    def __init__(self, path, context, threads):
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise SystemExit(f"llama.cpp could not open {path}")
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = context
        params.n_threads = params.n_threads_batch = threads
        # Keys and values in f32: what is measured is the weights.
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.batch = llama_cpp.llama_batch_init(context, 0, 1)

    def logits(self, window):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        self.batch.n_tokens = len(window)
        for i, token in enumerate(window):
            self.batch.token[i], self.batch.pos[i], self.batch.logits[i] = token, i, 1
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, 0
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            raise SystemExit("llama.cpp could not decode a window")
        rows = llama_cpp.llama_get_logits(self.context)
        return np.ctypeslib.as_array(rows, (len(window), self.vocab)).copy()

    def close(self):
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)


def log_softmax(rows):
    rows = rows.astype(np.float64)
    rows -= rows.max(-1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(-1, keepdims=True))


class LockStep:
    """The sums of mote's quantize/src/float/metrics.rs."""

    def __init__(self):
        self.divergences, self.agreed, self.nll, self.reference_nll, self.predicted = [], 0, 0.0, 0.0, 0

    def push(self, reference, rows, window):
        p, q = log_softmax(reference), log_softmax(rows)
        self.divergences += np.maximum((np.exp(p) * (p - q)).sum(-1), 0).tolist()
        self.agreed += int((reference.argmax(-1) == rows.argmax(-1)).sum())
        following = np.array(window[1 : len(rows) + 1], int)
        at = np.arange(len(following))
        self.reference_nll -= p[at, following].sum()
        self.nll -= q[at, following].sum()
        self.predicted += len(following)

    def finish(self):
        values, n = sorted(self.divergences), len(self.divergences)
        quantile = lambda q: values[int(math.floor((n - 1) * q + 0.5))]
        return {
            "kld": {"mean": sum(values) / n, "median": quantile(0.5), "p99": quantile(0.99), "max": values[-1]},
            "perplexity": math.exp(self.nll / max(self.predicted, 1)),
            "reference_perplexity": math.exp(self.reference_nll / max(self.predicted, 1)),
            "top1_agreement": self.agreed / n,
            "positions": n,
        }


def measure(path, references, windows, context, threads):
    peer, steps = Peer(path, context, threads), LockStep()
    for window, reference in zip(windows, references):
        rows = peer.logits(window)
        if rows.shape[1] != reference.shape[1]:
            raise SystemExit(f"{rows.shape[1]} tokens in llama.cpp, {reference.shape[1]} in the reference")
        steps.push(reference, rows[: len(reference)], window)
    peer.close()
    params, size, types = tensors_of(path)
    found = steps.finish()
    found |= {"bits_per_weight": size * 8 / params, "file_bytes": path.stat().st_size, "tensor_types": types}
    return found


def table(results):
    lines = [
        "| weights | file, bytes | bits/weight | KL divergence, mean | median | 99 % | same top token | perplexity | float model's |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, r in results.items():
        kld = r["kld"]
        lines.append(
            f"| llama.cpp {name} | {r['file_bytes']} | {r['bits_per_weight']:.3f} | {kld['mean']:.6f} | {kld['median']:.6f} | "
            f"{kld['p99']:.5f} | {100 * r['top1_agreement']:.2f} % | {r['perplexity']:.4f} | {r['reference_perplexity']:.4f} |"
        )
    return "\n".join(lines)


@torch.inference_mode()
def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=pathlib.Path, help="Hugging Face folder with tokenizer.json")
    p.add_argument("--text", type=pathlib.Path, required=True, help="UTF-8 text, or token ids if it ends in .json")
    p.add_argument("--context", type=int, default=256)
    p.add_argument("--types", nargs="+", default=["Q4_0", "Q4_K_M", "Q8_0"], choices=FTYPES)
    p.add_argument("--max-tokens", type=int)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--keep", type=pathlib.Path, help="write the GGUF files into this folder and keep them")
    p.add_argument("--json", type=pathlib.Path)
    p.add_argument("--verbose", action="store_true", help="show what llama.cpp prints")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    transformers.utils.logging.disable_progress_bar()
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    if not a.verbose:
        llama_cpp.llama_log_set(silent, None)
    llama_cpp.llama_backend_init()

    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32, attn_implementation="eager").eval()
    bos = model.config.bos_token_id
    context = min(a.context, model.config.max_position_embeddings)
    if a.text.suffix == ".json":
        tokens = json.loads(a.text.read_text())["tokens"]
    else:
        tokenizer = Tokenizer.from_file(str(a.model / "tokenizer.json"))
        tokens = tokenizer.encode(a.text.read_bytes().decode(), add_special_tokens=False).ids
    start = [] if bos is None else [bos]
    chunk = context - len(start)
    windows = [start + tokens[i : i + chunk] for i in range(0, len(tokens), chunk)]
    left = a.max_tokens or math.inf
    references = []
    for window in windows:
        if left <= 0:
            break
        rows = model(torch.tensor([window])).logits[0].numpy()
        references.append(rows[: int(min(left, len(rows)))])
        left -= len(rows)

    with tempfile.TemporaryDirectory() as temporary:
        folder = a.keep or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / "F32.gguf"
        convert(model, source, bos)
        results = {"F32": measure(source, references, windows, context, a.threads)}
        if results["F32"]["kld"]["mean"] > CONVERSION_LIMIT:
            raise SystemExit(f"the conversion is wrong: {results['F32']}")
        for name in a.types:
            path = folder / f"{name}.gguf"
            quantize(source, path, name, a.threads)
            results[name] = measure(path, references, windows, context, a.threads)
    print(table(results))
    if a.json:
        versions = {p: importlib.metadata.version(p) for p in ("llama-cpp-python", "gguf", "torch", "transformers")}
        out = {"model": str(a.model), "text": str(a.text), "context": context, "versions": versions, "results": results}
        a.json.write_text(json.dumps(out, indent=2) + "\n")


if __name__ == "__main__":
    main()
