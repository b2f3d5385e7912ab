"""Trains an encoder-decoder Transformer that turns dates as people write them into ISO 8601, and writes it as a Hugging
Face folder (M2M100ForConditionalGeneration).

    python train.py -o .

Text goes in and out by the character; the pairs are made by dates.py from a seed, anew in every batch. A tenth of all
days is held out: no form of them is ever trained on, and the figure printed is the share of them that come out right to
the last character, by transformers' own greedy `generate`, with the weights as they are written (f16).

The model is Vaswani et al.'s (2017) with the layer norms first, as M2M-100, NLLB and Whisper have it: 2 + 2 layers,
width 64, 4 heads, feed-forward 128 with ReLU, embeddings times 8 and shared by encoder, decoder and output, sinusoidal
positions.
"""

import argparse
import json
import math
import os
import pathlib
import random
import tempfile
import time

import torch
from dates import days, write
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import M2M100Config, M2M100ForConditionalGeneration

BOS, PAD, EOS, UNK = "<s>", "<pad>", "</s>", "<unk>"  # ids 0 to 3, as in M2M-100


def make_tokenizer(texts):
    """Characters by byte-level BPE without merges: a space is written Ġ. The text is followed by </s>."""
    alphabet = sorted(set("".join(texts)) | set("0123456789-"))
    names = [BOS, PAD, EOS, UNK] + ["\u0120" if c == " " else c for c in alphabet]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [], unk_token=UNK))
    tokenizer.add_special_tokens([BOS, PAD, EOS, UNK])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, 2)])
    return tokenizer


def padded(tokenizer, texts):
    rows = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    width = max(map(len, rows))
    return torch.tensor([row + [1] * (width - len(row)) for row in rows])


def batches(train_days, size, r):
    """Pairs of texts for ever, those of one batch of about the same length."""
    while True:
        some = [(write(d, r), d.isoformat()) for d in r.choices(train_days, k=16 * size)]
        some.sort(key=lambda pair: len(pair[0]))
        groups = [some[i : i + size] for i in range(0, len(some), size)]
        r.shuffle(groups)
        yield from groups


@torch.inference_mode()
def examine(model, tokenizer, held, count):
    """(share right, [(text, right, answer)] of the wrong ones), over `count` held-out days."""
    r, wrong = random.Random(2), []
    asked = [(write(d, r), d.isoformat()) for d in held[:count]]
    asked.sort(key=lambda pair: len(pair[0]))
    model.eval()
    for i in range(0, len(asked), 200):
        part = asked[i : i + 200]
        ids = padded(tokenizer, [text for text, _ in part])
        out = model.generate(
            input_ids=ids, attention_mask=(ids != 1).long(), max_new_tokens=12, do_sample=False, num_beams=1
        )
        answers = tokenizer.decode_batch(out.tolist())
        wrong += [(text, iso, answer) for (text, iso), answer in zip(part, answers) if answer != iso]
    return 1 - len(wrong) / len(asked), wrong


def export(model, tokenizer, out, metrics):
    """Each file is written elsewhere first, then renamed."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as temporary:
        there = pathlib.Path(temporary)
        model.save_pretrained(there)
        tokenizer.save(str(there / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
            "unk_token": UNK,
            "model_max_length": 64,
            "clean_up_tokenization_spaces": False,
        }
        for name, content in {"tokenizer_config.json": settings, "training.json": metrics}.items():
            (there / name).write_text(json.dumps(content, indent=2) + "\n")
        for file in there.iterdir():
            file.chmod(0o644)
            os.replace(file, out / file.name)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-o", type=pathlib.Path, required=True, help="the Hugging Face folder to write")
    p.add_argument("--steps", type=int, default=4000)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    r = random.Random(a.seed)
    train_days, held = days()
    tokenizer = make_tokenizer([write(d, random.Random(n)) for n, d in enumerate(train_days[:20000])])
    config = M2M100Config(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        activation_function="relu",
        scale_embedding=True,
        max_position_embeddings=64,
        init_std=0.1,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        tie_word_embeddings=True,
    )
    model = M2M100ForConditionalGeneration(config)
    params = sum(q.numel() for q in model.parameters())
    print(
        f"{params} parameters, {config.vocab_size} characters and signs, {len(train_days)} days, {len(held)} held out",
        flush=True,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=a.lr, betas=(0.9, 0.98), weight_decay=0.01)
    source, begun, smooth = batches(train_days, a.batch, r), time.time(), None
    model.train()
    for step in range(a.steps):
        optimizer.param_groups[0]["lr"] = (
            a.lr * min(1, (step + 1) / 300) * 0.5 * (1 + math.cos(math.pi * step / a.steps))
        )
        pairs = next(source)
        ids, labels = (padded(tokenizer, list(texts)) for texts in zip(*pairs))
        loss = model(input_ids=ids, attention_mask=(ids != 1).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if step % 500 == 499:
            share, _ = examine(model, tokenizer, held, 400)
            print(
                f"step {step + 1} loss {smooth:.5f} right {100 * share:.1f} % of 400, {time.time() - begun:.0f} s",
                flush=True,
            )
            model.train()
    model.load_state_dict(
        {name: w.half() for name, w in model.state_dict().items()}
    )  # what is written is what is examined
    share, wrong = examine(model, tokenizer, held, len(held))
    print(f"held out: {100 * share:.2f} % of {len(held)} days right; {len(wrong)} wrong, of them {wrong[:12]}")
    metrics = {
        "parameters": params,
        "steps": a.steps,
        "training_loss": round(smooth, 5),
        "held_out_days": len(held),
        "held_out_exact": round(share, 5),
        "seed": a.seed,
        "torch": torch.__version__,
    }
    export(model.half(), tokenizer, a.o, metrics)
    again = M2M100ForConditionalGeneration.from_pretrained(a.o, dtype=torch.float32)
    share, _ = examine(again, Tokenizer.from_file(str(a.o / "tokenizer.json")), held, 400)
    print(f"read again from {a.o}: {100 * share:.1f} % of 400")


if __name__ == "__main__":
    main()
