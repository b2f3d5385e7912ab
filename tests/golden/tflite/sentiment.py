"""What LiteRT makes of reviews of our own, with the sentiment model of ../shared/data; for tests/conformance/sentiment.rs.

    pip install ai-edge-litert numpy
    python tests/golden/tflite/sentiment.py ../shared/data

The model holds its vocabulary, a zip at its end. A review becomes 256 ids: that of <START>, one a word, <PAD> to the end.
sentiment.txt: a line a review, its ids without the padding, a bar, the probabilities of "negative" and "positive".
"""

import pathlib
import re
import sys
import zipfile

import numpy as np
from ai_edge_litert.interpreter import Interpreter

HERE = pathlib.Path(__file__).parent
MODEL = "text/nl_classifier_embedding.tflite"
LENGTH = 256


def reviews():
    """Pairs of a text and whether it is meant to praise."""
    lines = (HERE / "reviews.txt").read_text().splitlines()
    return [(line[2:], line[0] == "+") for line in lines]


def ids(path, texts):
    """[texts, 256] of int32."""
    lines = zipfile.ZipFile(path).read("vocab.txt").decode().rstrip("\n").split("\n")
    # Some words are broken: a word and its number are on a line otherwise.
    vocab = {parts[0]: int(parts[1]) for parts in (line.rsplit(" ", 1) for line in lines) if len(parts) == 2}
    words = [[vocab.get(w, vocab["<UNKNOWN>"]) for w in re.findall(r"[\w']+", text.lower())] for text in texts]
    rows = [([vocab["<START>"]] + row + [vocab["<PAD>"]] * LENGTH)[:LENGTH] for row in words]
    return np.array(rows, np.int32)


def main():
    path = pathlib.Path(sys.argv[1]) / MODEL
    net = Interpreter(model_path=str(path))
    net.allocate_tensors()
    (given,), (made,) = net.get_input_details(), net.get_output_details()
    lines = []
    for row in ids(path, [text for text, _ in reviews()]):
        net.set_tensor(given["index"], row[None])
        net.invoke()
        words = " ".join(str(word) for word in np.trim_zeros(row, "b"))
        lines.append(f"{words} | " + " ".join(f"{p:.6f}" for p in net.get_tensor(made["index"])[0]))
    (HERE / "sentiment.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
