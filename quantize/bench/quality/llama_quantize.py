"""llama.cpp's quantizer as a process of its own, so that what it takes can be measured.

    python llama_quantize.py SOURCE.gguf OUT.gguf TYPE THREADS [IMATRIX.npz]

"TYPE pure" is llama-quantize's `--pure`: every matrix in that type, the output matrix too, to which it gives more bits by itself.
IMATRIX holds, by the tensor's name, the mean squares of the columns of its input. Prints {"seconds", "peak_rss_bytes"}: the
memory is what quantizing took beyond what the interpreter had before.
"""

import ctypes
import json
import sys

import llama_cpp
import numpy as np
from measure import Usage


def importance(path):
    """llama.cpp's array of importances, ended by an empty entry, and what keeps its memory alive."""
    found = dict(np.load(path))
    array, kept = (llama_cpp.llama_model_imatrix_data * (len(found) + 1))(), []
    for entry, (name, values) in zip(array, found.items()):
        data = (ctypes.c_float * len(values))(*values.tolist())
        kept.append(data)
        entry.name, entry.size = name.encode(), len(values)
        entry.data = ctypes.cast(data, ctypes.POINTER(ctypes.c_float))
    return array, kept


def main():
    source, out, kind, threads, *imatrix = sys.argv[1:]
    # What it has to say goes to stderr, which is shown if it fails.
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_quantize_default_params()
    kind, *pure = kind.split()
    params.ftype, params.nthread = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}"), int(threads)
    params.pure = bool(pure)
    if imatrix:
        array, _kept = importance(imatrix[0])
        params.imatrix = ctypes.cast(array, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    with Usage() as used:
        failed = llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(params))
    if failed:
        raise SystemExit(f"llama.cpp could not write {kind}")
    print(json.dumps(used.found()))


if __name__ == "__main__":
    main()
