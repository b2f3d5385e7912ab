"""A Llama in Hugging Face's layout as a GGUF of Q4_0 with its tokenizer, which wllama needs (tests/peers/web_speed.mjs).

    python web_gguf.py FOLDER OUT.gguf
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parents[2] / "quantize/bench/quality"))
from gguf_files import describe, interleave, names  # noqa: E402

Q4_0 = gguf.GGMLQuantizationType.Q4_0


def tokenizer(writer, folder, config):
    """A byte-level BPE, as GPT-2's."""
    found = json.loads((folder / "tokenizer.json").read_text())
    pieces = sorted(found["model"]["vocab"], key=found["model"]["vocab"].get)
    special = {token["content"] for token in found["added_tokens"]}
    kinds = [gguf.TokenType.CONTROL if piece in special else gguf.TokenType.NORMAL for piece in pieces]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in found["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_add_bos_token(True)


def main():
    folder, out = Path(sys.argv[1]), sys.argv[2]
    config = SimpleNamespace(**json.loads((folder / "config.json").read_text()))
    config.rope_parameters = {"rope_theta": config.rope_theta, "rope_type": "default"}
    writer = gguf.GGUFWriter(out, config.model_type)
    describe(writer, config)
    tokenizer(writer, folder, config)
    state = load_file(folder / "model.safetensors")
    for module, name in names(config).items():
        w = state[f"{module}.weight"].astype(np.float32)
        if name.endswith(("attn_q", "attn_k")):
            w = interleave(w, config.num_attention_heads if name.endswith("attn_q") else config.num_key_value_heads)
        w = np.ascontiguousarray(w)
        if w.ndim == 2:
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(w, Q4_0), raw_dtype=Q4_0)
        else:
            writer.add_tensor(f"{name}.weight", w)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
