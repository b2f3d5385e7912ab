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
    tokens = torch.ones(batch, 1, dtype=torch.long)
    rows, caches = [], None
    for _ in range(steps):
        logits, caches = (model(tokens) if caches is None else model(tokens, caches))
        logits = logits[:, -1]
        if temperature == 0:
            tokens = logits.argmax(-1, keepdim=True)
        else:
            tokens = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        rows.append(tokens)
    return torch.cat(rows, 1)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--checkpoint", required=True)
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--expected", help="greedy text to check against")
    p.add_argument("--megabytes", type=float, default=25)
    p.add_argument("--temperature", type=float, default=0.8)
    p.add_argument("--batch", type=int, default=512)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("-o", required=True)
    a = p.parse_args()
    model = load_llama2c(a.checkpoint)
    pieces = read_pieces(a.tokenizer, model.cfg.vocab)
    if a.expected:
        got = text_of(generate(model, 1, 200, 0, None)[0].tolist(), pieces)
        want = open(a.expected, "rb").read()
        print("greedy text equals the expected one:", got.startswith(want) or want.startswith(got))
    generator = torch.Generator().manual_seed(a.seed)
    start, written = time.time(), 0
    with open(a.o, "wb") as out:
        while written < a.megabytes * 1e6:
            for row in generate(model, a.batch, 500, a.temperature, generator).tolist():
                end = next((i for i, t in enumerate(row) if t in (1, 2)), None)
                if end is None:  # no ending within the model's context: drop it
                    continue
                written += out.write(text_of(row[:end], pieces).strip() + b"\n<|endoftext|>\n")
            print(f"{written / 1e6:.1f} MB, {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
