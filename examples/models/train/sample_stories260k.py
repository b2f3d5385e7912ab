"""Samples children's stories from stories260K, as extra training text (the real corpus at hand is only 600 KB).

    python sample_stories260k.py --checkpoint stories260K.bin --tokenizer tok512.bin --expected greedy.txt \
        --megabytes 25 -o stories.txt

First checks that greedy decoding prints llama2.c's own text, so what is sampled is really that model's.
"""

import argparse
import struct
import time

import torch
from llama import load_llama2c


def read_pieces(path, vocab):
    data = open(path, "rb").read()
    at, pieces = 4, []
    for _ in range(vocab):
        (size,) = struct.unpack_from("<i", data, at + 4)
        pieces.append(data[at + 8 : at + 8 + size])
        at += 8 + size
    return pieces


def text_of(tokens, pieces):
    out, previous = b"", 1
    for t in tokens:
        piece = pieces[t]
        if previous == 1 and piece.startswith(b" "):
            piece = piece[1:]
        if piece.startswith(b"<0x") and len(piece) == 6:
            piece = bytes([int(piece[3:5], 16)])
        out += piece
        previous = t
    return out


@torch.inference_mode()
def generate(model, batch, steps, temperature, generator):
    """`batch` stories from BOS; those that end (BOS or EOS) leave the batch, those cut off by `steps` come last."""
    tokens, done = torch.ones(batch, 1, dtype=torch.long), []
    text = torch.zeros(batch, steps, dtype=torch.long)
    ended = torch.zeros(batch, dtype=torch.bool)
    caches = model.new_caches(batch, steps)
    for step in range(steps):
        logits = model(tokens, caches)[:, -1]
        if temperature == 0:
            tokens = logits.argmax(-1, keepdim=True)
        else:
            tokens = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        text[:, step] = tokens[:, 0]
        ended |= (tokens[:, 0] == 1) | (tokens[:, 0] == 2)
        if step % 16 == 15 and ended.sum() * 8 > len(ended):  # pack the batch
            done += text[ended, : step + 1].tolist()
            going = ~ended
            tokens, text, ended = tokens[going], text[going], ended[going]
            for cache in caches:
                cache.keep(going)
            if len(tokens) == 0:
                break
    return done + text.tolist()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--checkpoint", required=True)
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--expected", help="greedy text to check against")
    p.add_argument("--megabytes", type=float, default=25)
    p.add_argument("--temperature", type=float, default=1.0)
    p.add_argument("--batch", type=int, default=1024)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("-o", required=True)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    model = load_llama2c(a.checkpoint)
    pieces = read_pieces(a.tokenizer, model.cfg.vocab)
    if a.expected:
        got = text_of(generate(model, 1, 200, 0, None)[0], pieces)
        want = open(a.expected, "rb").read()
        if not (len(got) >= len(want) > 0 and got.startswith(want)):
            raise SystemExit(f"the greedy text is not the expected one:\n{got.decode()}")
        print("greedy text equals the expected one", flush=True)
    generator = torch.Generator().manual_seed(a.seed)
    start, written = time.time(), 0
    with open(a.o, "wb") as out:
        while written < a.megabytes * 1e6:
            for row in generate(model, a.batch, 500, a.temperature, generator):
                end = next((i for i, t in enumerate(row) if t in (1, 2)), None)
                if end is None:  # no ending within the model's context: drop it
                    continue
                written += out.write(text_of(row[:end], pieces).strip() + b"\n<|endoftext|>\n")
            print(f"{written / 1e6:.1f} MB, {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
