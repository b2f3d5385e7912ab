"""A copy of a language model that computes the same and has the outlier channels of large models, which small ones lack.

    python outliers.py MODEL_FOLDER OUT_FOLDER [--share 0.01] [--low 10] [--high 100] [--seed 1] [--keys]

Where two operations in a row are linear in a channel, the first is multiplied by a factor and the second divided by it:

- a norm's gain (and bias), and the columns of the matrices that follow: q, k, v; gate, up; the output, if it is not tied;
- rows of v, and those columns of o that take them (of every head that shares a key-value head);
- rows of up, and columns of down (not in GPT-2, whose activation lies between).

With `--keys` nothing of that, but pairs of key channels that RoPE turns, which the queries' make up for (not in GPT-2).

Of each such place, `--share` of the channels (at least one) are chosen at random, their factors log-uniform between `--low` and
`--high`. Llama, Qwen3 and GPT-2. The weights are computed in f64 and saved in f32; the copy must give the same logits in f64
(LIMIT), or the script stops.
"""

import argparse
import math
import pathlib
import shutil

import torch
import transformers.utils.logging
from transformers import AutoModelForCausalLM

# Largest difference of a logit, as a share of the largest logit: f32's rounding of the weights makes about 1e-6.
LIMIT = 1e-4


class Injector:
    def __init__(self, share, low, high, seed):
        self.share, self.low, self.high = share, low, high
        self.generator = torch.Generator().manual_seed(seed)

    def factors(self, channels):
        """1 for most channels. [channels], f64"""
        out = torch.ones(channels, dtype=torch.float64)
        chosen = torch.randperm(channels, generator=self.generator)[: max(1, round(self.share * channels))]
        at = torch.rand(len(chosen), generator=self.generator, dtype=torch.float64)
        out[chosen] = torch.exp(math.log(self.low) + at * math.log(self.high / self.low))
        return out

    def norm(self, norm, matrices):
        """`matrices`: [outputs, inputs]"""
        c = self.factors(len(norm.weight))
        norm.weight *= c
        if getattr(norm, "bias", None) is not None:
            norm.bias *= c
        for w in matrices:
            w /= c

    def between(self, first, second, heads=1, shared=1, bias=None):
        """Rows of `first`, columns of `second`. `shared` heads of `second`'s columns take each of `heads` heads of rows."""
        c = self.factors(len(first))
        first *= c[:, None]
        if bias is not None:
            bias *= c
        second /= c.view(heads, 1, -1).expand(-1, shared, -1).reshape(-1)

    def pairs(self, keys, queries, heads=1, shared=1):
        """Pairs of rows, half a head apart, of `heads` heads of keys; `shared` heads of queries are multiplied with each."""
        c = self.factors(len(keys) // 2).view(heads, 1, -1).expand(-1, 2, -1).reshape(heads, 1, -1)
        keys *= c.reshape(-1, *[1] * (keys.dim() - 1))
        queries /= c.expand(-1, shared, -1).reshape(-1, *[1] * (queries.dim() - 1))


def key_pairs(model, injector):
    c = model.config
    for layer in model.model.layers:
        a = layer.self_attn
        if hasattr(a, "k_norm"):
            injector.pairs(a.k_norm.weight, a.q_norm.weight)
            continue
        shared = c.num_attention_heads // c.num_key_value_heads
        if a.k_proj.bias is not None:
            raise SystemExit("biases of keys are not known here")
        injector.pairs(a.k_proj.weight, a.q_proj.weight, c.num_key_value_heads, shared)


def llama(model, injector):
    c = model.config
    for layer in model.model.layers:
        a, m = layer.self_attn, layer.mlp
        injector.norm(layer.input_layernorm, [a.q_proj.weight, a.k_proj.weight, a.v_proj.weight])
        injector.norm(layer.post_attention_layernorm, [m.gate_proj.weight, m.up_proj.weight])
        shared = c.num_attention_heads // c.num_key_value_heads
        injector.between(a.v_proj.weight, a.o_proj.weight, c.num_key_value_heads, shared, a.v_proj.bias)
        injector.between(m.up_proj.weight, m.down_proj.weight, bias=m.up_proj.bias)
    if not c.tie_word_embeddings:
        injector.norm(model.model.norm, [model.lm_head.weight])


def gpt2(model, injector):
    """Its matrices are [inputs, outputs]; queries, keys and values are the thirds of one."""
    n = model.config.n_embd
    for layer in model.transformer.h:
        injector.norm(layer.ln_1, [layer.attn.c_attn.weight.T])
        injector.norm(layer.ln_2, [layer.mlp.c_fc.weight.T])
        values, bias = layer.attn.c_attn.weight[:, 2 * n :].T, layer.attn.c_attn.bias[2 * n :]
        injector.between(values, layer.attn.c_proj.weight.T, bias=bias)
    if not model.config.tie_word_embeddings:
        injector.norm(model.transformer.ln_f, [model.lm_head.weight])


FAMILIES = {"llama": llama, "qwen3": llama, "gpt2": gpt2}


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()


@torch.inference_mode()
def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=pathlib.Path)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--share", type=float, default=0.01)
    p.add_argument("--low", type=float, default=10)
    p.add_argument("--high", type=float, default=100)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--keys", action="store_true")
    a = p.parse_args()
    transformers.utils.logging.disable_progress_bar()
    model = load(a.model)
    c = model.config
    inject = FAMILIES.get(c.model_type)
    if a.keys:
        inject = key_pairs if inject is llama else None
    if inject is None:
        raise SystemExit(f"{c.model_type}: only {', '.join(FAMILIES)} are known here, with --keys not gpt2")
    generator = torch.Generator().manual_seed(a.seed)
    tokens = torch.randint(c.vocab_size, (4, min(64, c.max_position_embeddings)), generator=generator)
    expected = model(tokens).logits
    inject(model, Injector(a.share, a.low, a.high, a.seed))
    a.out.mkdir(parents=True, exist_ok=True)
    model.to(torch.float32).save_pretrained(a.out)
    for file in a.model.glob("tokenizer*"):
        shutil.copy(file, a.out)
    off = ((load(a.out)(tokens).logits - expected).abs().max() / expected.abs().max()).item()
    if not off < LIMIT:
        raise SystemExit(f"the copy computes something else: a logit is off by {off:.1e} of the largest")
    print(f"{a.out}: the same within {off:.1e} of the largest logit")


if __name__ == "__main__":
    main()
