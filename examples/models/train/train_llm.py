"""Trains a small language model and writes it as a Hugging Face folder (LlamaForCausalLM, or Qwen3ForCausalLM with --qwen3).

    python train_llm.py --real tinystories_head.txt --extra stories.txt -o ../llm --minutes 50

`--real` is text whose last tenth is held out for validation and never trained on; `--extra` is more text (sampled by
sample_stories260k.py). Stories end with `<|endoftext|>`, or else with a single newline (paragraphs then with two).
What is written is always the best model so far by loss on the held-out text. Runs on a CPU or a GPU. `--resume` goes
on from the last checkpoint; `--start` begins a new schedule from the weights of an earlier run (its checkpoint, or the
folder that it wrote, which has no moments: they begin at zero). The schedule is by `--steps` (the same numbers again on
the same machine) or by `--minutes` (as many steps as fit).

Under `torchrun --nproc-per-node 2` each process trains on its share of the batch, with one thread. On a busy machine
that is much faster than one process with two threads, which spend their time waiting for each other in every layer.
"""

import argparse
import json
import math
import os
import re
import time

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from llama import Config, Llama
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

END = "<|endoftext|>"


def stories(path):
    text = open(path, encoding="utf-8", errors="ignore").read()
    if END in text:  # sampled text has one newline between paragraphs, the real text two
        parts = [re.sub(r"\n+", "\n\n", part.strip()) for part in text.split(END)]
    else:
        parts = re.split(r"(?<!\n)\n(?!\n)", text)
    return [p.strip() for p in parts if len(p.strip()) > 100]


def make_tokenizer(texts, vocab):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocab, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def encode(tokenizer, texts):
    """One long array: each story begins with END, which is also its predecessor's end."""
    return np.concatenate([np.array(e.ids, dtype=np.int64) for e in tokenizer.encode_batch(texts)])


def export(model, tokenizer, cfg, out, metrics):
    os.makedirs(out, exist_ok=True)
    state = {f"model.{k}": v.detach().to(torch.float16).contiguous() for k, v in model.state_dict().items()}
    temporary = os.path.join(out, "model.safetensors.tmp")
    save_file(state, temporary, metadata={"format": "pt"})
    os.replace(temporary, os.path.join(out, "model.safetensors"))
    config = {
        "architectures": ["Qwen3ForCausalLM" if cfg.qk_norm else "LlamaForCausalLM"],
        "model_type": "qwen3" if cfg.qk_norm else "llama",
        "vocab_size": cfg.vocab,
        "hidden_size": cfg.dim,
        "intermediate_size": cfg.hidden,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.dim // cfg.heads,
        "hidden_act": "silu",
        "max_position_embeddings": cfg.context,
        "rms_norm_eps": cfg.eps,
        "rope_theta": cfg.theta,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "float16",
    }
    files = {
        "config.json": config,
        "generation_config.json": {"bos_token_id": 0, "eos_token_id": 0},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END,
            "eos_token": END,
            "add_bos_token": True,
            "model_max_length": cfg.context,
            "clean_up_tokenization_spaces": False,
        },
        "training.json": metrics,
    }
    for name, content in files.items():
        with open(os.path.join(out, name), "w") as f:
            json.dump(content, f, indent=2)
            f.write("\n")
    tokenizer.save(os.path.join(out, "tokenizer.json"))


def load_start(path, device):
    """A checkpoint of ours, or the weights alone of an exported folder (or of its model.safetensors)."""
    if os.path.isdir(path):
        path = os.path.join(path, "model.safetensors")
    if not path.endswith(".safetensors"):
        return torch.load(path, map_location=device)
    weights = load_file(path, device=str(device))
    return {"model": {name.removeprefix("model."): w.float() for name, w in weights.items()}}


@torch.inference_mode()
def validation_loss(model, tokens, context, device):
    count = (len(tokens) - 1) // context
    x = torch.from_numpy(tokens[: count * context]).view(count, context).to(device)
    y = torch.from_numpy(tokens[1 : count * context + 1]).view(count, context).to(device)
    total = 0.0
    for i in range(0, count, 32):
        logits = model(x[i : i + 32])
        total += F.cross_entropy(logits.float().flatten(0, 1), y[i : i + 32].flatten(), reduction="sum").item()
    return total / (count * context)


@torch.inference_mode()
def sample(model, tokenizer, prompt, steps, device, temperature=0.7):
    generator = torch.Generator(device=device).manual_seed(7)
    tokens = torch.tensor([tokenizer.encode(prompt).ids], device=device)
    out = tokens[0].tolist()
    caches = model.new_caches(1, len(out) + steps)
    for _ in range(steps):
        logits = model(tokens, caches)
        tokens = torch.multinomial((logits[:, -1].float() / temperature).softmax(-1), 1, generator=generator)
        if tokens.item() == 0:
            break
        out.append(tokens.item())
    return tokenizer.decode(out)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--real", required=True)
    p.add_argument("--extra", nargs="*", default=[])
    p.add_argument("-o", required=True, help="the Hugging Face folder to write")
    p.add_argument("--work", default="train-work", help="folder of the checkpoint, last.pt")
    p.add_argument("--minutes", type=float, default=50)
    p.add_argument("--steps", type=int, help="instead of --minutes")
    p.add_argument("--vocab", type=int, default=2048)
    p.add_argument("--tokenizer", help="use this tokenizer.json instead of training one")
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--dim", type=int, default=256)
    p.add_argument("--hidden", type=int, default=768)
    p.add_argument("--heads", type=int, default=8)
    p.add_argument("--kv-heads", type=int, default=4)
    p.add_argument("--qwen3", action="store_true", help="norm queries and keys, as Qwen3 does")
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--warmup", type=int, default=100, help="steps")
    p.add_argument("--real-share", type=float, default=0.12, help="share of sequences from --real")
    p.add_argument("--real-share-end", type=float, default=0.35, help="the same in the last quarter")
    p.add_argument("--looks", type=int, default=20, help="how often to look at the held-out loss")
    p.add_argument("--compile", action="store_true", help="torch.compile the training step")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    p.add_argument("--start", help="begin from this checkpoint or exported folder (needs --tokenizer)")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        dist.init_process_group("gloo")
        torch.set_num_threads(1)
    rng = np.random.default_rng(a.seed + 1000 * rank)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    os.makedirs(a.work, exist_ok=True)

    real = stories(a.real)
    held = real[-len(real) // 10 :]
    real = real[: -len(real) // 10]
    extra = [story for path in a.extra for story in stories(path)]
    tokenizer = Tokenizer.from_file(a.tokenizer) if a.tokenizer else make_tokenizer(real + extra[:4000], a.vocab)
    train_real, val = encode(tokenizer, real), encode(tokenizer, held)
    train_extra = encode(tokenizer, extra) if extra else train_real
    cfg = Config(tokenizer.get_vocab_size(), a.dim, a.hidden, a.layers, a.heads, a.kv_heads, qk_norm=a.qwen3)
    model = Llama(cfg).to(device)
    params = sum(q.numel() for q in model.parameters())
    print(f"{params} parameters; tokens: real {len(train_real)}, extra {len(train_extra)}, held out {len(val)}", flush=True)
    held_bytes = sum(len(s.encode()) for s in held)

    decay = [q for q in model.parameters() if q.dim() == 2]
    rest = [q for q in model.parameters() if q.dim() != 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=a.lr, betas=(0.9, 0.95))
    checkpoint = os.path.join(a.work, "last.pt")
    step, elapsed, best, smooth, next_look = 0, 0.0, math.inf, None, 0.0
    if a.start or a.resume and os.path.exists(checkpoint):
        saved = load_start(a.start or checkpoint, device)
        model.load_state_dict(saved["model"])
        if "optimizer" in saved:
            optimizer.load_state_dict(saved["optimizer"])
        if not a.start:
            step, elapsed, best, smooth = saved["step"], saved["elapsed"], saved["best"], saved["smooth"]
            next_look = saved["next_look"]
            if rank == 0:
                rng.bit_generator.state = saved["rng"]
            else:
                rng = np.random.default_rng(a.seed + 1000 * rank + step)

    def batch_from(tokens, n):
        at = rng.integers(0, len(tokens) - cfg.context - 1, n)
        return [tokens[i : i + cfg.context + 1] for i in at]

    def loss_of(rows):
        with torch.autocast(device, dtype=torch.bfloat16):
            logits = model(rows[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())

    if a.compile:
        loss_of = torch.compile(loss_of)

    def look():
        """Measures the held-out loss; writes the model if it is the best so far, and the checkpoint."""
        nonlocal best
        v = validation_loss(model, val, cfg.context, device)
        rate = seen / (time.time() - begun_here)
        print(
            f"step {step} {100 * progress:.0f} % train {smooth:.4f} held out {v:.4f} ppl {math.exp(v):.2f} lr {lr:.2e} {rate:.0f} tok/s",
            flush=True,
        )
        if v < best:
            best = v
            metrics = {
                "parameters": params,
                "steps": step,
                "training_loss": round(smooth, 4),
                "held_out_loss": round(v, 4),
                "held_out_perplexity": round(math.exp(v), 3),
                "held_out_nats_per_byte": round(v * len(val) / held_bytes, 4),
                "seed": a.seed,
                "torch": torch.__version__,
            }
            export(model, tokenizer, cfg, a.o, metrics)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        state |= {"elapsed": time.time() - begun, "best": best, "smooth": smooth}
        state |= {"next_look": next_look, "rng": rng.bit_generator.state}
        torch.save(state, checkpoint + ".tmp")
        os.replace(checkpoint + ".tmp", checkpoint)

    def share_out(loss):
        """The mean over all processes of the gradients, and of the loss, which it returns."""
        parts = [q.grad for q in model.parameters()] + [loss.detach().view(1)]
        flat = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(flat)
        for part, mean in zip(parts, (flat / world).split([part.numel() for part in parts])):
            part.copy_(mean.view_as(part))
        return parts[-1]

    begun_here, seen = time.time(), 0
    begun = begun_here - elapsed
    while True:
        progress = step / a.steps if a.steps else (time.time() - begun) / (a.minutes * 60)
        if world > 1:
            clock = torch.tensor([progress], dtype=torch.float64)
            dist.broadcast(clock, 0)
            progress = clock.item()
        if progress >= 1:
            break
        lr = a.lr * min(1.0, (step + 1) / a.warmup) * (0.5 * (1 + math.cos(math.pi * progress)) * 0.98 + 0.02)
        for group in optimizer.param_groups:
            group["lr"] = lr
        share = a.real_share_end if progress > 0.75 else a.real_share
        batch = a.batch // world
        n_real = int(rng.binomial(batch, share))
        rows = torch.from_numpy(np.stack(batch_from(train_real, n_real) + batch_from(train_extra, batch - n_real)))
        loss = loss_of(rows.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if world > 1:
            loss = share_out(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        seen += rows.shape[0] * cfg.context * world
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if progress >= next_look:
            next_look += 1 / a.looks
            if rank == 0:
                look()
    progress = 1.0
    if rank > 0:
        return
    look()
    for prompt in ("Once upon a time", "One day, a little dog named"):
        print("---", sample(model, tokenizer, prompt, 200, device))


if __name__ == "__main__":
    main()
