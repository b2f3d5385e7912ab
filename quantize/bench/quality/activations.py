"""What each kind of activation and what 4-bit keys and values cost in floats: one at a time, nothing else quantized.

python activations.py MODEL_FOLDER TEXT [WINDOWS]: mean KL divergence in nats to the float model, over windows of 256 positions of the
text. Models: Llama or Qwen3 in Hugging Face's layout, tied, as examples/models/llm and qwen3. Needs torch, safetensors, tokenizers.
"""

import json
import math
import sys

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

folder, text = sys.argv[1], open(sys.argv[2]).read()
windows = int(sys.argv[3]) if len(sys.argv) > 3 else 16
config = json.load(open(f"{folder}/config.json"))
weights = {name: w.float() for name, w in load_file(f"{folder}/model.safetensors").items()}
ids = Tokenizer.from_file(f"{folder}/tokenizer.json").encode(text, add_special_tokens=False).ids
bos = config["bos_token_id"]
tokens = torch.tensor([[bos] + ids[i : i + 255] for i in range(0, len(ids) - 255, 255)][:windows])
heads, kv_heads, width = (config[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
angles = torch.outer(torch.arange(256.0), config["rope_theta"] ** (-torch.arange(width // 2) / (width // 2)))
mask = torch.full((256, 256), float("-inf")).triu(1)


def hadamard(x):
    """The Walsh-Hadamard transform, normalised, in blocks of the largest power of two that divides the row."""
    n = x.shape[-1]
    block, half = n & -n, 1
    while half < block:
        a, b = x.reshape(*x.shape[:-1], n // (2 * half), 2, half).unbind(-2)
        x, half = torch.stack([a + b, a - b], -2).reshape(x.shape), 2 * half
    return x / math.sqrt(block)


def steps(most):
    """Equal steps, -most to most, a scale a row."""
    def quantize(x):
        scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-9) / most
        return (x / scale).round() * scale
    return quantize


def levels(x):
    """What NUMERICS.md, section 9.1 makes of rows, but for the scale's 8 bits."""
    odd = torch.arange(-15.0, 16, 2)
    book = torch.floor((odd * (800 + odd * odd) + 64) / 128)
    fine = x / (x.abs().amax(-1, keepdim=True).clamp_min(1e-9) / 127)
    near = book[torch.bucketize(fine.round().contiguous(), (book[1:] + book[:-1]) / 2)]
    return near * ((x * near).sum(-1, keepdim=True) / (near * near).sum(-1, keepdim=True))


def rotated(quantize):
    return lambda x: hadamard(quantize(hadamard(x)))


def norm(x, name):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + config["rms_norm_eps"]) * weights[name]


def rope(x):
    a, b = x.chunk(2, -1)
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


def forward(how):
    """Log-probabilities [windows, 256, vocab]; `how` quantizes some of the activations."""
    act = lambda place, x: how.get(place, lambda x: x)(x)
    x = weights["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}."
        times = lambda x, part: x @ weights[f"{name}{part}_proj.weight"].T
        y = act("input of q, k, v", norm(x, f"{name}input_layernorm.weight"))
        q, k, v = (times(y, f"self_attn.{p}").unflatten(-1, (-1, width)).transpose(1, 2) for p in "qkv")
        if f"{name}self_attn.q_norm.weight" in weights:
            q, k = norm(q, f"{name}self_attn.q_norm.weight"), norm(k, f"{name}self_attn.k_norm.weight")
        q, k, v = act("queries", rope(q)), act("keys", rope(k)), act("values", v)
        k, v = (t.repeat_interleave(heads // kv_heads, 1) for t in (k, v))
        seen = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(width) + mask, -1) @ v
        x = x + times(act("input of o", seen.transpose(1, 2).flatten(2)), "self_attn.o")
        y = act("input of gate, up", norm(x, f"{name}post_attention_layernorm.weight"))
        y = torch.nn.functional.silu(times(y, "mlp.gate")) * times(y, "mlp.up")
        x = x + times(act("input of down", y), "mlp.down")
    x = act("input of the head", norm(x, "model.norm.weight"))
    return torch.log_softmax(x @ weights["model.embed_tokens.weight"].T, -1)


exact = forward({})


def report(name, how):
    print(f"{name:32} {float((exact.exp() * (exact - forward(how))).sum(-1).double().mean()):.6f}", flush=True)


eight = {f"input of {p}": rotated(steps(127)) for p in ("q, k, v", "o", "gate, up", "down", "the head")}
eight |= {p: steps(127) for p in ("queries", "keys", "values")}
for place, quantize in eight.items():
    report(f"{place}, 8 bits", {place: quantize})
report("all of them", eight)
for name, quantize in (("-7 to 7", steps(7)), ("levels", levels)):
    for places in (["keys"], ["values"], ["keys", "values"]):
        report(f"{', '.join(places)}: {name}", dict.fromkeys(places, quantize))
        report(f"{', '.join(places)}: {name}, rotated", dict.fromkeys(places, rotated(quantize)))
