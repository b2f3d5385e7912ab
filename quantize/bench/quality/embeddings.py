"""Measures other quantizers of a sentence encoder (BERT, the mean of all tokens' rows) against the float model, on sentences.

    python embeddings.py MODEL_FOLDER --text FILE --calibrate FILE [--only TEXT] [--json FILE]

As peers.py, whose quantizers these are, but for what is compared: each line of the text is a sentence, embedded whole ([CLS] and
[SEP] around it, cut to the model's positions). The numbers are those of `mote eval`: 1 - cosine of each embedding and the float
one's, Spearman's correlation of the cosines of all pairs, and how often a sentence's nearest neighbour is the same.
"""

import pathlib
import sys
import tempfile

import gguf_files
import llama_cpp
import numpy as np
import torch
from peers import GROUP, Candidates, Floats, LlamaCpp, arguments, better, finish, rounded_to_nearest, start
from scipy.stats import spearmanr
from tokenizers import Tokenizer
from transformers import BertModel

# 1 - cosine that the f32 GGUF may have: its GELU is a table of f16.
CONVERSION_LIMIT = 1e-5


class Encoder(Floats):
    """transformers in f32. `embed(ids)`: [width]."""

    def load(self, folder):
        return BertModel.from_pretrained(folder, add_pooling_layer=False, **self.options)

    def embed(self, ids):
        return self.model(torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()


class LlamaEncoder(LlamaCpp):
    """llama.cpp on a GGUF of BERT. `embed(ids)`: [width]."""

    def adjust(self, params):
        params.embeddings, params.pooling_type = True, llama_cpp.LLAMA_POOLING_TYPE_MEAN

    def embed(self, ids):
        self.fill(ids)
        if llama_cpp.llama_encode(self.context, self.batch) != 0:
            raise SystemExit("llama.cpp could not encode a sentence")
        row = llama_cpp.llama_get_embeddings_seq(self.context, 0)
        return np.ctypeslib.as_array(row, (llama_cpp.llama_model_n_embd(self.model),)).copy()


def embed(model, sentences):
    """Unit vectors [sentences, width] in f64."""
    rows = np.array([model.embed(ids) for ids in sentences], np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def compare(expected, found):
    """mote's quantize/src/float/embeddings.rs."""
    distances = np.sort(np.maximum(1 - (expected * found).sum(1), 0))
    cosines = [rows @ rows.T for rows in (expected, found)]
    pairs = np.tril_indices(len(expected), -1)
    neighbours = [(c - 4 * np.eye(len(c))).argmax(1) for c in cosines]
    return {
        "cosine_distance_mean": float(distances.mean()),
        "cosine_distance_p99": float(distances[int((len(distances) - 1) * 0.99 + 0.5)]),
        "cosine_distance_max": float(distances[-1]),
        "spearman": float(spearmanr(cosines[0][pairs], cosines[1][pairs]).statistic),
        "neighbour_agreement": float((neighbours[0] == neighbours[1]).mean()),
        "texts": len(expected),
    }


def read(path, tokenizer, longest, most=sys.maxsize):
    """Token ids of each line, until there are `most`."""
    sentences, count = [], 0
    for line in filter(str.strip, path.read_text().splitlines()):
        ids = tokenizer.encode(line).ids
        ids = ids if len(ids) <= longest else ids[: longest - 1] + ids[-1:]
        sentences.append(ids)
        count += len(ids)
        if count >= most:
            break
    return sentences


@torch.inference_mode()
def main():
    a = arguments(__doc__, "UTF-8 text, a sentence a line").parse_args()
    start(a.threads)

    reference = Encoder(a.model)
    context = reference.model.config.max_position_embeddings
    tokenizer = Tokenizer.from_file(str(a.model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    sentences = read(a.text, tokenizer, context)
    calibration = read(a.calibrate, tokenizer, context, a.calibrate_tokens) if a.calibrate else []
    expected = embed(reference, sentences)

    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        source = folder / "f32.gguf"
        gguf_files.convert(reference.model, source)
        peer = LlamaEncoder(source, context, a.threads)
        found = compare(expected[:8], embed(peer, sentences[:8]))
        peer.close()
        if found["cosine_distance_max"] > CONVERSION_LIMIT:
            raise SystemExit(f"the conversion is wrong: {found}")
        print(f"f32 GGUF: 1 - cosine {found['cosine_distance_mean']:.1e}", file=sys.stderr)
        candidates = Candidates(folder, source, a.threads, context, a.only, LlamaEncoder)
        if candidates.wanted("RTN"):
            candidates.add(f"RTN int4 g{GROUP}", rounded_to_nearest(Encoder(a.model)))
        candidates.all_of_llama_cpp(reference.model, calibration)
        models = zip(candidates.rows, candidates.models)
        rows = better([row | compare(expected, embed(model, sentences)) for row, model in models], "cosine_distance_mean")
        finish(a, reference, candidates, rows)


if __name__ == "__main__":
    main()
