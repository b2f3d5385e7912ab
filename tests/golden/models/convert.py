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


def variables(file):
    """{name: (shape, floats)} of a CTranslate2 model, format version 2."""
    data, at, found = file.read_bytes(), 0, {}

    def number(kind):
        nonlocal at
        (value,) = struct.unpack_from("<" + kind, data, at)
        at += struct.calcsize(kind)
        return value

    def string():
        nonlocal at
        length = number("H")
        at += length
        return data[at - length : at - 1].decode()

    version, _, _ = number("I"), string(), number("I")
    assert version == 2, f"CTranslate2 format {version}"
    for _ in range(number("I")):
        name = string()
        shape = [number("I") for _ in range(number("B"))]
        item, items = number("B"), number("I")
        at += item * items
        if item == 4 and shape:
            found[name] = (shape, array.array("f", data[at - item * items : at]))
    return found


def aren(folder, out):
    found, tensors = variables(folder / "model.bin"), {}
    source, target = ((folder / f"{side}_vocabulary.txt").read_text() for side in ("source", "target"))
    layers = {side: sum(f"{side}/layer_{i}/ffn/linear_0/weight" in found for i in range(99)) for side in ("encoder", "decoder")}

    def norm(name, of):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = found[f"{of}/gamma"], found[f"{of}/beta"]

    def linear(name, of, part=0, parts=1):
        """Rows of the `part`th of `parts` matrices that are one there."""
        for kind in ("weight", "bias"):
            shape, values = found[f"{of}/{kind}"]
            size = len(values) // parts
            tensors[f"{name}.{kind}"] = ([shape[0] // parts, *shape[1:]], values[part * size : (part + 1) * size])

    for side in layers:
        tensors[f"model.{side}.embed_tokens.weight"] = found[f"{side}/embeddings/weight"]
        norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        for i in range(layers[side]):
            name, of = f"model.{side}.layers.{i}", f"{side}/layer_{i}"
            norm(f"{name}.self_attn_layer_norm", f"{of}/self_attention/layer_norm")
            for part, letter in enumerate("qkv"):
                linear(f"{name}.self_attn.{letter}_proj", f"{of}/self_attention/linear_0", part, 3)
            linear(f"{name}.self_attn.out_proj", f"{of}/self_attention/linear_1")
            if side == "decoder":
                norm(f"{name}.encoder_attn_layer_norm", f"{of}/attention/layer_norm")
                linear(f"{name}.encoder_attn.q_proj", f"{of}/attention/linear_0")
                for part, letter in enumerate("kv"):
                    linear(f"{name}.encoder_attn.{letter}_proj", f"{of}/attention/linear_1", part, 2)
                linear(f"{name}.encoder_attn.out_proj", f"{of}/attention/linear_2")
            norm(f"{name}.final_layer_norm", f"{of}/ffn/layer_norm")
            linear(f"{name}.fc1", f"{of}/ffn/linear_0")
            linear(f"{name}.fc2", f"{of}/ffn/linear_1")
    linear("lm_head", "decoder/projection")
    dim = tensors["model.encoder.embed_tokens.weight"][0][1]
    config = {
        "architectures": ["M2M100ForConditionalGeneration"], "model_type": "m2m_100", "is_encoder_decoder": True,
        "vocab_size": tensors["model.encoder.embed_tokens.weight"][0][0],
        "decoder_vocab_size": tensors["model.decoder.embed_tokens.weight"][0][0], "tie_word_embeddings": False,
        "d_model": dim, "encoder_layers": layers["encoder"], "decoder_layers": layers["decoder"],
        "encoder_attention_heads": 8, "decoder_attention_heads": 8, "encoder_ffn_dim": 4 * dim, "decoder_ffn_dim": 4 * dim,
        "activation_function": "relu", "scale_embedding": True, "max_position_embeddings": 64,
        # Positions are counted from the padding token's id plus 1.
        "pad_token_id": 0, "decoder_start_token_id": 1, "bos_token_id": 1, "eos_token_id": 2,
    }
    write(out, config, tensors)
    (out / "source_vocabulary.txt").write_text(source)
    (out / "target_vocabulary.txt").write_text(target)


if __name__ == "__main__":
    kind, folder, out = sys.argv[1:]
    {"gpt2basic": gpt2basic, "aren": aren}[kind](pathlib.Path(folder), pathlib.Path(out))
