"""Trains a tiny GPT-2 on children's stories and writes it as a Hugging Face folder (GPT2LMHeadModel).

    python train.py --real ../../../../shared/data/text/tinystories_head.txt --extra s11.txt s12.txt -o .

The last tenth of the stories of `--real` is held out: never trained on, and looked at once, at the end. `--extra` is
more text, sampled by ../train/sample_stories260k.py: 600 KB of real text are learned by heart long before they teach
the language. The tokenizer is a byte-level BPE of 512 pieces trained on the real stories; every story begins with
<|endoftext|>, id 0.

The model is Radford et al.'s (2019): layer norms first, learned positions, tanh GELU, the output tied to the embedding;
5 layers of width 64, 4 heads, 256 positions. Runs by steps, so that the same command gives the same model on the same
machine.
"""

import argparse
import json
import math
import os
import pathlib
import re
import tempfile
import time

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel

END = "<|endoftext|>"
CONTEXT = 256


def stories(path):
    text = path.read_text(encoding="utf-8", errors="ignore")
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
        texts,
        trainers.BpeTrainer(vocab_size=vocab, special_tokens=[END], initial_alphabet=alphabet, show_progress=False),
    )
    return tokenizer


def encode(tokenizer, texts):
    """One long array: each story begins with END, which is also its predecessor's end."""
    return np.concatenate([np.array(e.ids, dtype=np.int64) for e in tokenizer.encode_batch(texts)])


@torch.inference_mode()
def held_out_loss(model, tokens):
    """Mean over windows of the context, cut without regard to stories."""
    model.eval()
    count, total = (len(tokens) - 1) // CONTEXT, 0.0
    x = torch.from_numpy(tokens[: count * CONTEXT]).view(count, CONTEXT)
    y = torch.from_numpy(tokens[1 : count * CONTEXT + 1]).view(count, CONTEXT)
    for i in range(0, count, 32):
        logits = model(x[i : i + 32]).logits
        total += F.cross_entropy(logits.flatten(0, 1), y[i : i + 32].flatten(), reduction="sum").item()
    return total / (count * CONTEXT)


def export(model, tokenizer, out, metrics):
    """Each file is written elsewhere first, then renamed."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as temporary:
        there = pathlib.Path(temporary)
        model.save_pretrained(there)
        tokenizer.save(str(there / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END,
            "eos_token": END,
            "add_bos_token": True,
            "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False,
        }
        for name, content in {"tokenizer_config.json": settings, "training.json": metrics}.items():
            (there / name).write_text(json.dumps(content, indent=2) + "\n")
        for file in there.iterdir():
            file.chmod(0o644)
            os.replace(file, out / file.name)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--real", type=pathlib.Path, required=True)
    p.add_argument("--extra", type=pathlib.Path, nargs="*", default=[])
    p.add_argument("-o", type=pathlib.Path, required=True, help="the Hugging Face folder to write")
    p.add_argument("--vocab", type=int, default=512)
    p.add_argument("--steps", type=int, default=800)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--lr", type=float, default=4e-3)
    p.add_argument("--real-share", type=float, default=0.15, help="share of sequences from --real")
    p.add_argument("--real-share-end", type=float, default=0.4, help="the same in the last quarter")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    rng = np.random.default_rng(a.seed)
    real = stories(a.real)
    real, held = real[: -len(real) // 10], real[-len(real) // 10 :]
    tokenizer = make_tokenizer(real, a.vocab)
    train_real, val = encode(tokenizer, real), encode(tokenizer, held)
    extra = [story for path in a.extra for story in stories(path)]
    train_extra = encode(tokenizer, extra) if extra else train_real
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_positions=CONTEXT,
        n_embd=64,
        n_layer=5,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.05,
    )
    model = GPT2LMHeadModel(config)
    params = sum(q.numel() for q in model.parameters())
    print(
        f"{params} parameters; tokens: real {len(train_real)}, extra {len(train_extra)}, held out {len(val)}",
        flush=True,
    )
    groups = [
        {"params": [q for q in model.parameters() if q.dim() == 2], "weight_decay": 0.1},
        {"params": [q for q in model.parameters() if q.dim() != 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=a.lr, betas=(0.9, 0.95))

    def rows_of(tokens, n):
        return [tokens[i : i + CONTEXT + 1] for i in rng.integers(0, len(tokens) - CONTEXT - 1, n)]

    begun, smooth = time.time(), None
    model.train()
    for step in range(a.steps):
        progress = step / a.steps
        lr = a.lr * min(1.0, (step + 1) / 100) * (0.5 * (1 + math.cos(math.pi * progress)) * 0.98 + 0.02)
        for group in optimizer.param_groups:
            group["lr"] = lr
        n = int(rng.binomial(a.batch, a.real_share_end if progress > 0.75 else a.real_share))
        rows = torch.from_numpy(np.stack(rows_of(train_real, n) + rows_of(train_extra, a.batch - n)))
        loss = F.cross_entropy(model(rows[:, :-1]).logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if step % 100 == 99:
            print(f"step {step + 1} loss {smooth:.4f} {time.time() - begun:.0f} s", flush=True)
    model.load_state_dict(
        {name: w.half() for name, w in model.state_dict().items()}
    )  # what is written is what is measured
    loss = held_out_loss(model, val)
    metrics = {
        "parameters": params,
        "steps": a.steps,
        "training_loss": round(smooth, 4),
        "held_out_loss": round(loss, 4),
        "held_out_perplexity": round(math.exp(loss), 3),
        "held_out_nats_per_byte": round(loss * len(val) / sum(len(s.encode()) for s in held), 4),
        "seed": a.seed,
        "torch": torch.__version__,
    }
    print(json.dumps(metrics), flush=True)
    for prompt in ("Once upon a time", "One day, a little dog named"):
        ids = torch.tensor([tokenizer.encode(prompt).ids])
        torch.manual_seed(7)
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=0.7,
            top_k=0,
            max_new_tokens=200,
            pad_token_id=0,
        )
        print("---", tokenizer.decode(out[0].tolist()))
    export(model.half(), tokenizer, a.o, metrics)


if __name__ == "__main__":
    main()
