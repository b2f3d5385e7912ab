"""A Llama in plain PyTorch, with the parameter names of Hugging Face's LlamaForCausalLM; with `qk_norm`, Qwen3ForCausalLM's.

Small enough to read; used by train_llm.py (training) and sample_stories260k.py (sampling, with key-value caches).
"""

import struct
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    vocab: int
    dim: int = 256
    hidden: int = 768
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    context: int = 256
    theta: float = 10000.0
    eps: float = 1e-5
    qk_norm: bool = False  # queries and keys normed head by head, as Qwen3 does


class Norm(nn.Module):
    def __init__(self, cfg, width=None):
        super().__init__()
        self.eps = cfg.eps
        self.weight = nn.Parameter(torch.ones(width or cfg.dim))

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rotate(x, cos, sin):
    """Rotary embedding, half-split pairs (Hugging Face's layout). x: [batch, heads, time, head_dim]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Cache:
    """The keys and values of one layer, [batch, kv_heads, room, head_dim], filled up to `length`."""

    def __init__(self, batch, room, cfg):
        shape = (batch, cfg.kv_heads, room, cfg.dim // cfg.heads)
        self.k, self.v, self.length = torch.zeros(shape), torch.zeros(shape), 0

    def append(self, k, v):
        end = self.length + k.shape[2]
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]

    def keep(self, rows):
        self.k, self.v = self.k[rows], self.v[rows]


class Attention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        head = cfg.dim // cfg.heads
        self.q_proj = nn.Linear(cfg.dim, cfg.heads * head, bias=False)
        self.k_proj = nn.Linear(cfg.dim, cfg.kv_heads * head, bias=False)
        self.v_proj = nn.Linear(cfg.dim, cfg.kv_heads * head, bias=False)
        self.o_proj = nn.Linear(cfg.heads * head, cfg.dim, bias=False)
        self.q_norm, self.k_norm = (Norm(cfg, head) if cfg.qk_norm else nn.Identity() for _ in range(2))

    def forward(self, x, cos, sin, cache):
        batch, time, _ = x.shape
        q, k, v = (
            proj(x).view(batch, time, n, -1).transpose(1, 2)
            for proj, n in ((self.q_proj, self.cfg.heads), (self.k_proj, self.cfg.kv_heads), (self.v_proj, self.cfg.kv_heads))
        )
        q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
        if cache is not None:
            k, v = cache.append(k, v)
        if time > 1:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:  # one token: written out, as the heads that share keys then need no copies of them
            q = q.view(batch, self.cfg.kv_heads, -1, q.shape[-1]) * q.shape[-1] ** -0.5
            y = ((q @ k.transpose(2, 3)).softmax(-1) @ v).view(batch, self.cfg.heads, 1, -1)
        return self.o_proj(y.transpose(1, 2).reshape(batch, time, -1))


class Mlp(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.gate_proj = nn.Linear(cfg.dim, cfg.hidden, bias=False)
        self.up_proj = nn.Linear(cfg.dim, cfg.hidden, bias=False)
        self.down_proj = nn.Linear(cfg.hidden, cfg.dim, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(cfg), Norm(cfg)
        self.self_attn, self.mlp = Attention(cfg), Mlp(cfg)

    def forward(self, x, cos, sin, cache):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """Tied embeddings. forward(tokens [batch, time]) -> logits [batch, time, vocab].

    With `caches` (from `new_caches`): the first call may pass many tokens, each later call passes one.
    """

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.embed_tokens = nn.Embedding(cfg.vocab, cfg.dim)
        self.layers = nn.ModuleList(Layer(cfg) for _ in range(cfg.layers))
        self.norm = Norm(cfg)
        half = cfg.dim // cfg.heads // 2
        angles = torch.outer(torch.arange(4096), cfg.theta ** (-torch.arange(half) / half))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                scale = 0.02 / (2 * cfg.layers) ** 0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
                nn.init.normal_(p, std=scale)

    def new_caches(self, batch, room):
        return [Cache(batch, room, self.cfg) for _ in self.layers]

    def forward(self, tokens, caches=None):
        start = caches[0].length if caches else 0
        cos, sin = (t[start : start + tokens.shape[1]] for t in (self.cos, self.sin))
        x = self.embed_tokens(tokens)
        for i, layer in enumerate(self.layers):
            x = layer(x, cos, sin, caches[i] if caches else None)
        return F.linear(self.norm(x), self.embed_tokens.weight)


def load_llama2c(path):
    """Reads a legacy llama2.c checkpoint (karpathy/llama2.c, run.c) with tied embeddings."""
    data = open(path, "rb").read()
    dim, hidden, layers, heads, kv_heads, vocab, context = struct.unpack("7i", data[:28])
    cfg = Config(vocab, dim, hidden, layers, heads, kv_heads, context)
    values = torch.frombuffer(bytearray(data[28:]), dtype=torch.float32)
    at = 0

    def take(*shape):
        nonlocal at
        size = torch.Size(shape).numel()
        at += size
        return values[at - size : at].view(shape).clone()

    def half_split(w, n):
        """llama2.c rotates neighbouring pairs: reorder each head's rows so that half-split rotation is the same."""
        return w.view(n, -1, 2, dim).transpose(1, 2).reshape(-1, dim)

    head, kv = dim // heads, dim // heads * kv_heads
    state = {"embed_tokens.weight": take(vocab, dim)}
    parts = [
        ("input_layernorm.weight", take(layers, dim)),
        ("self_attn.q_proj.weight", take(layers, heads * head, dim)),
        ("self_attn.k_proj.weight", take(layers, kv, dim)),
        ("self_attn.v_proj.weight", take(layers, kv, dim)),
        ("self_attn.o_proj.weight", take(layers, dim, heads * head)),
        ("post_attention_layernorm.weight", take(layers, dim)),
        ("mlp.gate_proj.weight", take(layers, hidden, dim)),
        ("mlp.down_proj.weight", take(layers, dim, hidden)),
        ("mlp.up_proj.weight", take(layers, hidden, dim)),
    ]
    for name, stacked in parts:
        for layer, w in enumerate(stacked):
            n = {"self_attn.q_proj.weight": heads, "self_attn.k_proj.weight": kv_heads}.get(name)
            state[f"layers.{layer}.{name}"] = half_split(w, n) if n else w
    state["norm.weight"] = take(dim)
    model = Llama(cfg)
    model.load_state_dict(state)
    return model.eval()
