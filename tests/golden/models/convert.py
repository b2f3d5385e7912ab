"""Writes two real models of ../shared/data as Hugging Face folders, which is what `mote quantize` reads.

    python convert.py gpt2basic FOLDER_OF_THE_MODEL OUT
    python convert.py aren FOLDER_OF_THE_MODEL OUT

gpt2basic: llm/gpt2basic_463k, GPT-2 with a head of its own and a bias in it (GPT2LMHeadModel, plus lm_head.bias).
aren: encoder-decoder/aren_f32, a Transformer of OpenNMT in CTranslate2's format (M2M100ForConditionalGeneration, with an
embedding for each side and biases in the head). Values are untouched. Needs nothing but Python.
"""

import array
import json
import pathlib
import struct
import sys


def write(out, config, tensors):
    """config.json and model.safetensors; `tensors` is {name: (shape, floats)}."""
    out.mkdir(parents=True, exist_ok=True)
    header, data = {}, bytearray()
    for name, (shape, floats) in tensors.items():
        start = len(data)
        data += array.array("f", floats).tobytes()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    (out / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def columns_beside(matrices, rows):
    """Matrices [rows, cols], one beside the other."""
    width = len(matrices[0]) // rows
    return [v for row in range(rows) for m in matrices for v in m[row * width : (row + 1) * width]]


def gpt2basic(folder, out):
    text = [line.split("=") for line in (folder / "config.txt").read_text().split() if "=" in line]
    c = {key: int(value) for key, value in text if value.isdigit()}
    vocab, dim, hidden, layers = c["vocab_size"], c["n_embd"], c["hidden_dim"], c["n_layer"]
    values = array.array("f", (folder / "weights_f32.bin").read_bytes())
    at = 0

    def take(count, *shape):
        """`count` tensors of a shape, all layers together in the file."""
        nonlocal at
        size = 1
        for n in shape:
            size *= n
        parts = [values[at + i * size : at + (i + 1) * size] for i in range(count)]
        at += count * size
        return parts

    tensors = {"transformer.wte.weight": ([vocab, dim], *take(1, vocab, dim))}
    tensors["transformer.wpe.weight"] = ([c["n_positions"], dim], *take(1, c["n_positions"], dim))
    ln1 = take(layers, dim), take(layers, dim)
    qkv = [(take(layers, dim, dim), take(layers, dim)) for _ in "qkv"]
    proj = take(layers, dim, dim), take(layers, dim)
    ln2 = take(layers, dim), take(layers, dim)
    fc1 = take(layers, dim, hidden), take(layers, hidden)
    fc2 = take(layers, hidden, dim), take(layers, dim)
    for l in range(layers):
        for name, (weight, bias), shape in [
            ("ln_1", ln1, [dim]), ("ln_2", ln2, [dim]), ("attn.c_proj", proj, [dim, dim]),
            ("mlp.c_fc", fc1, [dim, hidden]), ("mlp.c_proj", fc2, [hidden, dim]),
        ]:
            tensors[f"transformer.h.{l}.{name}.weight"] = (shape, weight[l])
            tensors[f"transformer.h.{l}.{name}.bias"] = (shape[-1:], bias[l])
        fused = columns_beside([weight[l] for weight, _ in qkv], dim)
        tensors[f"transformer.h.{l}.attn.c_attn.weight"] = ([dim, 3 * dim], fused)
        tensors[f"transformer.h.{l}.attn.c_attn.bias"] = ([3 * dim], [v for _, bias in qkv for v in bias[l]])
    tensors["transformer.ln_f.weight"] = ([dim], *take(1, dim))
    tensors["transformer.ln_f.bias"] = ([dim], *take(1, dim))
    head = take(1, dim, vocab)[0]
    tensors["lm_head.weight"] = ([vocab, dim], [head[i * vocab + r] for r in range(vocab) for i in range(dim)])
    tensors["lm_head.bias"] = ([vocab], *take(1, vocab))
    assert at == len(values), (at, len(values))
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": vocab, "n_positions": c["n_positions"],
        "n_embd": dim, "n_head": c["n_head"], "n_layer": layers, "n_inner": hidden, "activation_function": "gelu_new",
        "layer_norm_epsilon": 1 / 4096, "tie_word_embeddings": False,
    }
    write(out, config, tensors)


if __name__ == "__main__":
    kind, folder, out = sys.argv[1:]
    {"gpt2basic": gpt2basic}[kind](pathlib.Path(folder), pathlib.Path(out))
