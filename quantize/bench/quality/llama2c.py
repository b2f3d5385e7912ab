"""A llama2.c checkpoint and its tokenizer.bin as a Hugging Face folder, in f32.

    python llama2c.py CHECKPOINT.bin TOKENIZER.bin OUT_FOLDER
"""

import pathlib
import struct
import sys

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "examples/models/train"))
from llama import load_llama2c  # noqa: E402

UNKNOWN, BOS, EOS = 0, 1, 2


def read_pieces(path, vocab):
    """(text, score) of each token."""
    data, at, pieces = pathlib.Path(path).read_bytes(), 4, []
    for _ in range(vocab):
        score, size = struct.unpack_from("<fi", data, at)
        pieces.append((data[at + 8 : at + 8 + size].decode(), score))
        at += 8 + size
    return pieces


def tokenizer_of(pieces):
    """Byte-pair encoding by score, spaces as U+2581, one before the text, bytes for unknown characters: SentencePiece's."""
    special = {UNKNOWN: "<unk>", BOS: "<s>", EOS: "</s>"}
    texts = [special.get(i, text.replace(" ", "\u2581")) for i, (text, _) in enumerate(pieces)]
    ids = {text: i for i, text in enumerate(texts)}
    merges = []
    for i, text in enumerate(texts):
        if i not in special and not text.startswith("<0x"):
            splits = ((text[:at], text[at:]) for at in range(1, len(text)))
            merges += [(pieces[i][1], pair) for pair in splits if pair[0] in ids and pair[1] in ids]
    merges.sort(key=lambda merge: -merge[0])  # stable: of equal scores the first token's
    model = models.BPE(ids, [pair for _, pair in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special.values()])
    return tokenizer


def main():
    checkpoint, pieces, out = sys.argv[1:]
    source = load_llama2c(checkpoint)
    c = source.cfg
    config = LlamaConfig(
        vocab_size=c.vocab,
        hidden_size=c.dim,
        intermediate_size=c.hidden,
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads,
        head_dim=c.dim // c.heads,
        max_position_embeddings=c.context,
        rms_norm_eps=c.eps,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    model = LlamaForCausalLM(config)
    model.model.load_state_dict(source.state_dict())
    model.save_pretrained(out)
    tokenizer_of(read_pieces(pieces, c.vocab)).save(str(pathlib.Path(out) / "tokenizer.json"))


if __name__ == "__main__":
    main()
