"""Measures other quantizers of a Hugging Face language model against the float model, on a text.

    python peers.py MODEL_FOLDER --text FILE --calibrate FILE [--context 256] [--max-tokens N] [--only TEXT] [--json FILE]

1. The folder becomes an f32 GGUF (gguf_files.py), which must give transformers' logits, or the script stops.
2. llama.cpp quantizes that file, without an importance matrix and, to 3 and 4 bits, with one: the mean square of each column of
   each matrix's input, over the calibration text (llama-imatrix's numbers). llama-imatrix leaves out the output matrix by
   default; here both ways are measured and the better one is llama.cpp's row.
3. Rounding to nearest (4 bits, groups of 32, a scale of 16 bits: the floor) and, if their environment is there (COMPRESS),
   AutoRound, GPTQ and AWQ (autoround.py, llm_compressor.py) give weights that transformers computes with in f32. These three
   leave the embedding and the output matrix in 16 bits: a second row of each has them rounded to nearest, in 8 bits.
4. All of them and transformers (f32) walk the same windows in lock step: a window's logits are compared and dropped.

The windows are those of `mote eval`, so that the numbers can stand in one table: the text is tokenized whole with
tokenizer.json, without special tokens, and cut into chunks of (context - 1) tokens, the last one shorter; a window is
BOS and a chunk. Every position counts for the KL divergence and for the agreement; those whose next token is inside the
window count for the perplexity. `--max-tokens` stops after that many positions. Calibration: the first `--calibrate-tokens`
tokens of its text, in such windows.

Bits per weight: all bytes of tensors, scales and norms included, over all parameters. Where llama.cpp does not have a type for
a row's length it takes another one (`--json` has the types), and what it refuses is no row but in the list `refused`.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import time

import gguf_files
import llama_cpp
import numpy as np
import torch
import transformers.utils.logging
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

HERE = pathlib.Path(__file__).parent
# Type, and whether it is measured with an importance matrix too.
TYPES = {
    "IQ3_XXS": True,
    "IQ3_S": True,
    "Q3_K_M": True,
    "Q4_0": True,
    "Q4_0 pure": True,
    "Q4_K_S": True,
    "Q4_K_M": True,
    "IQ4_NL": True,
    "IQ4_XS": True,
    "Q5_K_M": False,
    "Q8_0": False,
}
# KL divergence that the f32 GGUF may have: llama.cpp's own rounding (an f16 softmax and the like) stays far below.
CONVERSION_LIMIT = 1e-5
# Windows that show whether the conversion is right.
CONVERSION_WINDOWS = 4
# Of rounding to nearest.
GROUP = 32
# Python of the environment with llmcompressor, which brings AutoRound: it needs older versions than those here.
COMPRESS = pathlib.Path(sys.prefix + "-compress") / "bin/python"
# Script, and what it is told.
COMPRESSORS = {
    "AutoRound W4 g32": ["autoround.py"],
    "GPTQ W4 g32": ["llm_compressor.py", "gptq"],
    "AWQ W4 g32": ["llm_compressor.py", "awq"],
}
SILENT = llama_cpp.llama_log_callback(lambda level, text, data: None)


class LlamaCpp:
    """llama.cpp on a GGUF. `logits(window)`: [positions, vocab]."""

    arithmetic = "8-bit blocks"  # what it rounds activations to before it multiplies with codes

    def __init__(self, path, context, threads):
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise SystemExit(f"llama.cpp could not open {path}")
        count, size, self.types = gguf_files.tensors_of(path)
        self.bpw = size * 8 / count
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = context
        params.n_threads = params.n_threads_batch = threads
        # Keys and values in f32: what is measured is the weights.
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.adjust(params)
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.batch = llama_cpp.llama_batch_init(context, 0, 1)

    def adjust(self, params):
        """For what other models need of a context."""

    def fill(self, window):
        self.batch.n_tokens = len(window)
        for i, token in enumerate(window):
            self.batch.token[i], self.batch.pos[i], self.batch.logits[i] = token, i, 1
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, 0

    def logits(self, window):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        self.fill(window)
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            raise SystemExit("llama.cpp could not decode a window")
        rows = llama_cpp.llama_get_logits(self.context)
        return np.ctypeslib.as_array(rows, (len(window), self.vocab)).copy()

    def close(self):
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)


def log_softmax(rows):
    rows = rows.astype(np.float64)
    rows -= rows.max(-1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(-1, keepdims=True))


class LockStep:
    """The sums of mote's quantize/src/float/metrics.rs."""

    def __init__(self):
        self.divergences, self.agreed, self.nll, self.reference_nll, self.predicted = [], 0, 0.0, 0.0, 0

    def push(self, p, rows, window):
        """`p`: the reference's log-probabilities, [positions, vocab]."""
        q = log_softmax(rows)
        self.divergences += np.maximum((np.exp(p) * (p - q)).sum(-1), 0).tolist()
        self.agreed += int((p.argmax(-1) == q.argmax(-1)).sum())
        following = np.array(window[1 : len(rows) + 1], int)
        at = np.arange(len(following))
        self.reference_nll -= p[at, following].sum()
        self.nll -= q[at, following].sum()
        self.predicted += len(following)

    def finish(self):
        values, n = sorted(self.divergences), len(self.divergences)
        quantile = lambda q: values[int(math.floor((n - 1) * q + 0.5))]
        return {
            "kld_mean": sum(values) / n,
            "kld_p99": quantile(0.99),
            "kld_max": values[-1],
            "perplexity": math.exp(self.nll / max(self.predicted, 1)),
            "reference_perplexity": math.exp(self.reference_nll / max(self.predicted, 1)),
            "top1_agreement": self.agreed / n,
            "positions": n,
        }


class Floats:
    """transformers in f32, with `state` for its weights. `logits(window)`: [positions, vocab]."""

    arithmetic = "float"
    options = {"dtype": torch.float32, "attn_implementation": "eager"}

    def __init__(self, folder, state=None, bpw=32.0):
        self.model = self.load(folder).eval()
        self.bpw, self.types = bpw, None
        if state is not None:
            self.model.load_state_dict(state)

    def load(self, folder):
        return AutoModelForCausalLM.from_pretrained(folder, **self.options)

    def logits(self, window):
        return self.model(torch.tensor([window])).logits[0].numpy()

    def close(self):
        pass


def matrices(model):
    """Name, weights [outputs, inputs] (a view) of what a model multiplies with; its embedding too."""
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding, Conv1D)):
            yield name, module.weight.T if isinstance(module, Conv1D) else module.weight


def round_to_nearest(w, bits):
    """In place: codes of -most to most and a scale of 16 bits a group, which gives the largest weight its code. Bits it takes."""
    most = 2 ** (bits - 1) - 1
    for start in range(0, w.shape[1], GROUP):  # the last group may be shorter
        group = w[:, start : start + GROUP]
        scale = (group.abs().amax(1, keepdim=True) / most).half().float().clamp_min(2.0**-24)
        group.copy_((group / scale).round().clamp(-most, most) * scale)
    return bits * w.numel() + 16 * w.shape[0] * math.ceil(w.shape[1] / GROUP)


def rounded_to_nearest(floats):
    """The floor: every matrix in 4 bits; vectors in f32."""
    # A tied matrix is one parameter; positions are added, as a bias is.
    added = ("wpe", "position_embeddings", "token_type_embeddings")
    coded = {w.data_ptr(): w for name, w in matrices(floats.model) if not name.endswith(added)}
    bits = sum(round_to_nearest(w, 4) for w in coded.values())
    total = sum(p.numel() for p in floats.model.parameters())
    floats.bpw = (bits + 32 * (total - sum(w.numel() for w in coded.values()))) / total
    return floats


def ends_rounded(floats):
    """Embedding and output matrix, which count 16 bits, in 8."""
    ends = (floats.model.get_input_embeddings().weight, floats.model.get_output_embeddings().weight)
    ends = {w.data_ptr(): w for w in ends}.values()
    saved = sum(16 * w.numel() - round_to_nearest(w, 8) for w in ends)
    floats.bpw -= saved / sum(p.numel() for p in floats.model.parameters())
    return floats


def importances(model, windows):
    """GGUF's tensor name -> mean square of each column of the matrix's input; a tied output matrix has the embedding's name."""
    known, sums, count = gguf_files.names(model.config), {}, sum(map(len, windows))

    def noting(name):
        def hook(_module, inputs):
            squares = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).double().square().sum(0)
            sums[name] = sums.get(name, 0) + squares

        return hook

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, Conv1D)):
            tensor = known.get(name, "token_embd") + ".weight"
            hooks.append(module.register_forward_pre_hook(noting(tensor)))
    for window in windows:
        model(torch.tensor([window]))
    for hook in hooks:
        hook.remove()
    return {name: (s / count).float().numpy() for name, s in sums.items()}


def child(script, *args, python=sys.executable):
    """What a script of this folder prints as JSON; None and the end of its complaints if it fails."""
    done = subprocess.run([python, HERE / script, *map(str, args)], capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        # An exception of several lines starts where nothing is indented.
        start = max((i for i, line in enumerate(lines) if line and not line.startswith(" ")), default=0)
        return None, "\n".join(lines[max(min(start, len(lines) - 3), 0) :])
    return json.loads(done.stdout.splitlines()[-1]), ""


class Candidates:
    """What is measured: rows so far and the models that compute them."""

    def __init__(self, folder, source, threads, context, only, opened=LlamaCpp):
        self.folder, self.source, self.threads, self.context, self.only = folder, source, threads, context, only
        self.opened = opened
        self.models, self.rows, self.refused = [], [], []

    def wanted(self, name):
        return self.only in name

    def add(self, name, model, **more):
        self.models.append(model)
        row = {"quantizer": name, "arithmetic": model.arithmetic, "bpw": model.bpw, "types": model.types}
        self.rows.append(row | more)

    def refuse(self, name, why):
        """Once, though importances may be of two kinds."""
        refused = {"quantizer": name, "why": why}
        if refused not in self.refused:
            self.refused.append(refused)

    def llama_cpp(self, kind, file=None, seconds=0.0, **more):
        """`file` has importances and took `seconds` to make."""
        name = f"llama.cpp {kind}" + (" imatrix" if file else "")
        if not self.wanted(name):
            return
        path = self.folder / f"{len(self.models)}.gguf"
        used, complaint = child("llama_quantize.py", self.source, path, kind, self.threads, *([file] if file else []))
        if used is None:
            self.refuse(name, complaint)
            return
        used["seconds"] += seconds
        self.add(name, self.opened(path, self.context, self.threads), **used, **more)

    def all_of_llama_cpp(self, model, calibration):
        """Every type, and to 4 bits with importances of both kinds too, if there is a text to `calibrate` with."""
        for kind in TYPES:
            self.llama_cpp(kind)
        if not calibration:
            return
        start = time.monotonic()
        found = importances(model, calibration)
        seconds = time.monotonic() - start
        layers = {name: values for name, values in found.items() if name.startswith("blk.")}
        given = {"layers": layers} if len(layers) == len(found) else {"layers": layers, "layers and output": found}
        for of, values in given.items():
            file = self.folder / f"{len(values)}.npz"
            np.savez(file, **values)
            for kind in (kind for kind, too in TYPES.items() if too):
                self.llama_cpp(kind, file, seconds, imatrix=of)

    def compressors(self, model, calibration):
        """AutoRound, GPTQ and AWQ."""
        names = {name: name + " + 8-bit embedding" for name in COMPRESSORS}
        wanted = [name for name, longer in names.items() if self.wanted(longer)]
        if wanted and not COMPRESS.is_file():
            print(f"{', '.join(wanted)} are not measured: there is no {COMPRESS}", file=sys.stderr)
            return
        windows, out = self.folder / "windows.json", self.folder / "weights.pt"
        windows.write_text(json.dumps(calibration))
        for name in wanted:
            script, *told = COMPRESSORS[name]
            used, complaint = child(script, model, windows, out, *told, python=COMPRESS)
            if used is None:
                self.refuse(name, complaint)
                continue
            state, bpw = torch.load(out), used.pop("bpw")
            if self.wanted(name):
                self.add(name, Floats(model, state, bpw), **used)
            self.add(names[name], ends_rounded(Floats(model, state, bpw)), **used)


def better(rows, lost="kld_mean"):
    """Of rows of one name, the one that loses least."""
    best = {}
    for row in rows:
        if row["quantizer"] not in best or row[lost] < best[row["quantizer"]][lost]:
            best[row["quantizer"]] = row
    return list(best.values())


def lock_step(reference, models, windows, most=math.inf):
    """A LockStep for each of `models`, over at most that many positions."""
    steps = [LockStep() for _ in models]
    for window in windows:
        if most <= 0:
            break
        expected = reference.logits(window)
        kept = int(min(most, len(expected)))
        most -= kept
        p = log_softmax(expected[:kept])
        for step, model in zip(steps, models):
            rows = model.logits(window)
            if rows.shape != expected.shape:
                raise SystemExit(f"logits of shape {rows.shape}, {expected.shape} in the reference")
            step.push(p, rows[:kept], window)
    return steps


def convert(reference, path, windows, context, threads):
    gguf_files.convert(reference.model, path)
    peer = LlamaCpp(path, context, threads)
    found = lock_step(reference, [peer], windows[:CONVERSION_WINDOWS])[0].finish()
    peer.close()
    if found["kld_mean"] > CONVERSION_LIMIT:
        raise SystemExit(f"the conversion is wrong: {found}")
    print(f"f32 GGUF: KL divergence {found['kld_mean']:.1e}", file=sys.stderr)


def read_windows(text, tokenizer, config, context, most=None):
    if text.suffix == ".json":
        tokens = json.loads(text.read_text())["tokens"]
    else:
        tokens = tokenizer.encode(text.read_bytes().decode(), add_special_tokens=False).ids
    start = [] if config.bos_token_id is None else [config.bos_token_id]
    tokens, chunk = tokens[:most], context - len(start)
    return [start + tokens[i : i + chunk] for i in range(0, len(tokens), chunk)]


def start(threads):
    """Says nothing from now on but what fails, and computes on so many threads."""
    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    llama_cpp.llama_log_set(SILENT, None)
    llama_cpp.llama_backend_init()


def arguments(doc, text):
    """The parser of what both scripts are told. `text`: what a text is."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=pathlib.Path, help="Hugging Face folder with tokenizer.json")
    p.add_argument("--text", type=pathlib.Path, required=True, help=text)
    p.add_argument("--calibrate", type=pathlib.Path, help="the same, for importances [default: none are taken]")
    p.add_argument("--calibrate-tokens", type=int, default=16384)
    p.add_argument("--only", default="", help="only quantizers whose name has this in it")
    p.add_argument("--threads", type=int, default=1, help="more are slower on a machine that is not idle")
    p.add_argument("--json", type=pathlib.Path, help="[default: standard output]")
    return p


def finish(a, reference, candidates, rows):
    """Writes the rows as JSON to a file or, without one, to standard output."""
    for model in candidates.models:
        model.close()
    parameters = sum(w.numel() for w in reference.model.parameters())
    found = {"model": str(a.model), "parameters": parameters, "rows": rows, "refused": candidates.refused}
    out = json.dumps(found, indent=2) + "\n"
    if a.json:
        a.json.write_text(out)
    else:
        print(out, end="")


@torch.inference_mode()
def main():
    p = arguments(__doc__, "UTF-8 text, or token ids if it ends in .json")
    p.add_argument("--context", type=int, default=256)
    p.add_argument("--max-tokens", type=int, default=sys.maxsize)
    a = p.parse_args()
    start(a.threads)

    reference = Floats(a.model)
    config = reference.model.config
    context = min(a.context, config.max_position_embeddings)
    known = a.model / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(known)) if known.is_file() else None
    windows = read_windows(a.text, tokenizer, config, context)
    calibration = read_windows(a.calibrate, tokenizer, config, context, a.calibrate_tokens) if a.calibrate else []

    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        source = folder / "f32.gguf"
        convert(reference, source, windows, context, a.threads)
        candidates = Candidates(folder, source, a.threads, context, a.only)
        if candidates.wanted("RTN"):
            candidates.add(f"RTN int4 g{GROUP}", rounded_to_nearest(Floats(a.model)))
        candidates.all_of_llama_cpp(reference.model, calibration)
        if calibration:
            candidates.compressors(a.model, calibration)
        steps = lock_step(reference, candidates.models, windows, a.max_tokens)
        rows = better([row | step.finish() for row, step in zip(candidates.rows, steps)])
        finish(a, reference, candidates, rows)


if __name__ == "__main__":
    main()
