"""GPTQ and AWQ (the vLLM project's `llmcompressor`) as a process of its own.

    python llm_compressor.py MODEL_FOLDER WINDOWS.json OUT.pt gptq|awq

4 bits, groups of 32 with zero points (symmetric, which is GPTQ's default in it, both lose 30 to 57 % more, for 0.125 bits
less), its other settings as they are by default; calibrated on the windows (lists of token ids). OUT: the model's weights after it,
dequantized. Prints {"bpw", "seconds", "peak_rss_bytes"}. It codes the layers' matrices; an embedding and the output matrix stay as
they are and count 16 bits, as do vectors.

It knows no Conv1D and no AWQ for GPT-2: these matrices become Linear for it, and AWQ is told which norm is before which of them.
"""

import json
import os
import sys

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, forward_quantize
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQMapping, AWQModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from measure import Usage
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

BITS, GROUP, SCALE_BITS = 4, 32, 16
# AWQ would pin memory for a GPU without asking whether there is one (since llm-compressor's pull request 2813).
IntermediatesCache.pin_memory = lambda *_: None
GPT2 = [AWQMapping("re:.*ln_1$", ["re:.*c_attn$"]), AWQMapping("re:.*ln_2$", ["re:.*c_fc$"])]


def recipe(method, kind):
    weights = QuantizationArgs(num_bits=BITS, strategy="group", group_size=GROUP, symmetric=False)
    scheme = {"config_groups": {"layers": QuantizationScheme(targets=["Linear"], weights=weights)}, "ignore": ["lm_head"]}
    if method == "gptq":
        return [GPTQModifier(**scheme)]
    return [AWQModifier(mappings=GPT2 if kind == "gpt2" else None), QuantizationModifier(**scheme)]


def without_conv1d(model):
    """Puts Linear in the place of each Conv1D. Their names."""
    found = [name for name, module in model.named_modules() if isinstance(module, Conv1D)]
    for name in found:
        conv = model.get_submodule(name)
        linear = torch.nn.Linear(*conv.weight.shape)
        linear.weight.data, linear.bias.data = conv.weight.data.T.contiguous(), conv.bias.data
        model.set_submodule(name, linear)
    return found


@torch.no_grad()
def main():
    folder, windows, out, method = sys.argv[1:]
    # What it tells on standard output is not the answer.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    windows = [torch.tensor([w]) for w in json.load(open(windows))]
    samples = [{"input_ids": w, "attention_mask": torch.ones_like(w)} for w in windows]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    known = model.state_dict().keys()
    total = sum(p.numel() for p in model.parameters())
    with Usage() as used:
        transposed = without_conv1d(model)
        loader = torch.utils.data.DataLoader(samples, batch_size=None)
        oneshot(model=model, dataset=loader, recipe=recipe(method, model.config.model_type), num_calibration_samples=len(samples))
    coded = 0
    state = {name: w.float() for name, w in model.state_dict().items() if name in known}
    for name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is not None:
            w = forward_quantize(module, module.weight, "weight", scheme.weights)
            state[name + ".weight"] = w.T if name in transposed else w
            coded += w.numel()
    if coded == 0:
        raise SystemExit("llmcompressor coded no weights")
    torch.save({name: w.contiguous() for name, w in state.items()}, out)
    bpw = (coded * (BITS + (SCALE_BITS + BITS) / GROUP) + 16 * (total - coded)) / total
    print(json.dumps({"bpw": bpw} | used.found()), file=answer)


if __name__ == "__main__":
    main()
