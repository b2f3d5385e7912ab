"""AutoRound (Intel's `auto-round`) as a process of its own.

    python autoround.py MODEL_FOLDER WINDOWS.json OUT.pt

4 bits, symmetric, groups of 32, its other settings as they are by default; calibrated on the windows (lists of token ids). OUT:
the model's weights after it, dequantized. Prints {"bpw", "seconds", "peak_rss_bytes"}. It codes the layers' matrices; an
embedding and the output matrix stay as they are and count 16 bits, as do vectors.
"""

import json
import os
import sys

import torch
from auto_round import AutoRound
from measure import Usage
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

BITS, GROUP, SCALE_BITS = 4, 32, 16


def main():
    folder, windows, out = sys.argv[1:]
    # What it tells on standard output is not the answer.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    windows = json.load(open(windows))
    length = len(windows[0])
    windows = [torch.tensor([w]) for w in windows if len(w) == length]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    before = {name: w.clone() for name, w in model.state_dict().items()}
    total = sum(p.numel() for p in model.parameters())
    with Usage() as used:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        rounder = AutoRound(
            model, tokenizer, bits=BITS, group_size=GROUP, sym=True, dataset=windows, seqlen=length, nsamples=len(windows),
            device_map="cpu", amp=False,
        )  # fmt: skip
        model, _ = rounder.quantize()
    state = {name: w for name, w in model.state_dict().items() if name in before}
    if state.keys() != before.keys():
        raise SystemExit(f"AutoRound left no weights named {sorted(before.keys() - state.keys())}")
    coded = sum(w.numel() for name, w in state.items() if w.ndim == 2 and not torch.equal(w, before[name]))
    if coded == 0:
        raise SystemExit("AutoRound changed no weights")
    torch.save({name: w.float().contiguous() for name, w in state.items()}, out)
    bpw = (coded * (BITS + SCALE_BITS / GROUP) + 16 * (total - coded)) / total
    print(json.dumps({"bpw": bpw} | used.found()), file=answer)


if __name__ == "__main__":
    main()
