"""Trains word vectors, skip-gram with negative sampling (Mikolov et al., 2013), and writes them in word2vec's binary
format.

    python train.py ../../../../shared/data -o .

Text: text/{wikitext2_test.txt,lee_background.cor,tinystories_head.txt,tinyshakespeare.txt} under the folder of data,
lower case, words of letters. The most frequent words get a vector; the others are left out of the text, so that windows
reach over them. Frequent words are thinned as in word2vec (`--sample`), the window's width is drawn anew for each word.

Two liberties, both for speed with dense matrices: the negative words are drawn for a batch, not for a pair, and
weighted as `--negative` draws a pair; Adam instead of plain gradient steps.

After training: neighbours of some words, Spearman's correlation with WordSim-353 and the share of word2vec's analogy
questions answered right (3CosAdd), both over those of which every word has a vector. Neither chooses anything.
"""

import argparse
import os
import pathlib
import re
from collections import Counter

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

TEXTS = ["wikitext2_test.txt", "lee_background.cor", "tinystories_head.txt", "tinyshakespeare.txt"]
SHOWN = ["king", "mother", "dog", "two", "river", "war", "happy", "minister", "play", "australia"]


def lines_of(path):
    """Lines of words: no window reaches over a line's end."""
    text = path.read_text(encoding="utf-8", errors="ignore").replace("<unk>", " ").lower()
    for line in text.splitlines():
        words = re.findall(r"[a-z]+", line)
        if len(words) > 1:
            yield words


def pairs(lines, keep, window, rng):
    """(centers, contexts) of one pass over the text, shuffled."""
    centers, contexts = [], []
    for line in lines:
        line = line[rng.random(len(line)) < keep[line]]
        reach = rng.integers(1, window + 1, len(line))
        for d in range(1, min(window, len(line) - 1) + 1):
            left, right = line[:-d], line[d:]
            a, b = reach[:-d] >= d, reach[d:] >= d
            centers += [left[a], right[b]]
            contexts += [right[a], left[b]]
    centers, contexts = np.concatenate(centers), np.concatenate(contexts)
    order = rng.permutation(len(centers))
    return torch.from_numpy(centers[order]), torch.from_numpy(contexts[order])


def train(lines, counts, a):
    rng = np.random.default_rng(a.seed)
    torch.manual_seed(a.seed)
    n = len(counts)
    words = torch.nn.Embedding(n, a.dim)
    others = torch.nn.Embedding(n, a.dim)
    torch.nn.init.uniform_(words.weight, -0.5 / a.dim, 0.5 / a.dim)
    torch.nn.init.zeros_(others.weight)
    share = counts / counts.sum()
    keep = np.minimum(1, np.sqrt(a.sample / share) + a.sample / share)
    noise = torch.from_numpy(counts**0.75 / (counts**0.75).sum())
    optimizer = torch.optim.Adam([words.weight, others.weight], lr=a.lr)
    for epoch in range(a.epochs):
        centers, contexts = pairs(lines, keep, a.window, rng)
        total, steps = 0.0, len(centers) // a.batch
        for i in range(steps):
            optimizer.param_groups[0]["lr"] = a.lr * max(0.02, 1 - (epoch + i / steps) / a.epochs)
            at = slice(i * a.batch, (i + 1) * a.batch)
            center = words(centers[at])
            drawn = torch.multinomial(noise, a.drawn, replacement=True)
            near = F.logsigmoid((center * others(contexts[at])).sum(1)).mean()
            far = F.logsigmoid(-center @ others(drawn).T).mean() * a.negative
            loss = -(near + far)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: {len(centers)} pairs, loss {total / steps:.4f}", flush=True)
    return words.weight.detach().numpy()


def write_binary(path, names, vectors):
    """word2vec's binary format: "words dim\\n", then for each word its name, a space, f32 little-endian, a newline."""
    temporary = path.with_name("tmp-" + path.name)
    with open(temporary, "wb") as f:
        f.write(f"{len(names)} {vectors.shape[1]}\n".encode())
        for name, vector in zip(names, vectors):
            f.write(name.encode() + b" " + vector.astype("<f4").tobytes() + b"\n")
    os.replace(temporary, path)


def report(names, vectors, data):
    ids = {name: i for i, name in enumerate(names)}
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for word in SHOWN:
        if word in ids:
            near = np.argsort(-(unit @ unit[ids[word]]))[1:7]
            print(f"{word}: " + ", ".join(f"{names[i]} {unit[i] @ unit[ids[word]]:.2f}" for i in near))
    rows = [line.lower().split("\t") for line in (data / "wordsim353.tsv").read_text().splitlines() if line[0] != "#"]
    known = [(ids[x], ids[y], float(score)) for x, y, score in rows if x in ids and y in ids]
    cosines = [unit[x] @ unit[y] for x, y, _ in known]
    rho = spearmanr(cosines, [score for _, _, score in known]).statistic
    print(f"WordSim-353: Spearman {rho:.3f} over {len(known)} of {len(rows)} pairs")
    right = asked = total = 0
    for line in (data / "questions-words.txt").read_text().lower().splitlines():
        if line.startswith(":"):
            continue
        total += 1
        question = [ids.get(word) for word in line.split()]
        if None in question:
            continue
        x, y, z, answer = question
        score = unit @ (unit[y] - unit[x] + unit[z])
        score[[x, y, z]] = -np.inf
        asked += 1
        right += int(score.argmax() == answer)
    print(f"analogies: {right} of {asked} right ({100 * right / max(asked, 1):.1f} %), of {total} questions")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=pathlib.Path, help="the folder that holds text/ and word2vec/")
    p.add_argument("-o", type=pathlib.Path, required=True, help="the folder to write vectors.bin to")
    p.add_argument("--words", type=int, default=3000)
    p.add_argument("--dim", type=int, default=48)
    p.add_argument("--window", type=int, default=6)
    p.add_argument("--sample", type=float, default=5e-4)
    p.add_argument("--negative", type=float, default=5)
    p.add_argument("--drawn", type=int, default=64, help="negative words drawn for a batch")
    p.add_argument("--batch", type=int, default=2048)
    p.add_argument("--lr", type=float, default=4e-3)
    p.add_argument("--epochs", type=int, default=20)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    text = [line for name in TEXTS for line in lines_of(a.data / "text" / name)]
    found = Counter(word for line in text for word in line)
    kept = sorted(found, key=lambda word: (-found[word], word))[: a.words]
    ids = {word: i for i, word in enumerate(kept)}
    lines = [np.array([ids[word] for word in line if word in ids]) for line in text]
    lines = [line for line in lines if len(line) > 1]
    counts = np.array([found[word] for word in kept], dtype=np.float64)
    print(f"{sum(found.values())} words of text, {len(found)} different; the {len(kept)} kept", end=" ")
    print(f"({counts[-1]:.0f} times or more) are {100 * counts.sum() / sum(found.values()):.1f} % of it", flush=True)
    vectors = train(lines, counts, a)
    a.o.mkdir(parents=True, exist_ok=True)
    write_binary(a.o / "vectors.bin", kept, vectors)
    report(kept, vectors, a.data / "word2vec")


if __name__ == "__main__":
    main()
