"""What TensorFlow Lite Micro's reference kernels compute, for tests/conformance/tflite.rs.

    pip install tflite-micro numpy
    python tests/golden/tflite/make.py ../shared/data

Inputs are int8 from a generator that the test has too: state' = state * 6364136223846793005 + 1442695040888963407 mod 2^64,
the byte is the highest of the state; one stream a model, seeded with the run's number + 1. Of the outputs the SHA-256 is
kept, a line a model and run, and the bytes of TFLM's arena in use as its allocator states them.
"""

import hashlib
import pathlib
import sys

import numpy as np
from tflite_micro.python.tflite_micro import runtime
from tflite_micro.python.tflite_micro._version import __version__ as version

MODELS = {
    "mlperf-tiny/kws_int8.tflite": 100,
    "mlperf-tiny/ic_resnet8_int8.tflite": 100,
    "mlperf-tiny/ad_int8.tflite": 100,
    "tflite-micro/hello_world_int8.tflite": 100,
    "tflite-micro/micro_speech_quantized.tflite": 100,
}


def lcg(seed, count):
    state, out = seed, np.empty(count, dtype=np.uint8)
    for i in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out[i] = state >> 56
    return out.view(np.int8)


def main():
    data = pathlib.Path(sys.argv[1])
    lines = [f"# tflite-micro {version}, made by make.py: model, run, SHA-256 of the output"]
    for model, runs in MODELS.items():
        net = runtime.Interpreter.from_file(str(data / model), arena_size=1 << 20)
        shape = net.get_input_details(0)["shape"]
        for run in range(runs):
            net.set_input(lcg(run + 1, int(np.prod(shape))).reshape(shape), 0)
            net.invoke()
            digest = hashlib.sha256(net.get_output(0).tobytes()).hexdigest()
            lines.append(f"{model} {run} {digest}")
        print(model, flush=True)
        net.print_allocations()
    (pathlib.Path(__file__).parent / "outputs.txt").write_text("\n".join(lines) + "\n")


main()
