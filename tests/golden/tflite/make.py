"""What TensorFlow Lite Micro's reference kernels compute, for tests/conformance/tflite.rs.

    pip install tflite-micro ai-edge-litert numpy
    python tests/golden/tflite/make.py ../shared/data

Inputs are integers from a generator that the test has too: state' = state * 6364136223846793005 + 1442695040888963407 mod 2^64,
a byte is the highest of the state, an int16 two of them, the low one first; one stream a run, seeded with the run's number
+ 1, inputs in order. Models with state keep it from one run to the next. A model that takes floats and quantizes them gets
the floats that its integers stand for, and its output is taken back to the integers. Of the outputs the SHA-256 is kept, a line
a model and run, and the bytes of TFLM's arena in use as its allocator states them.

TFLM has no kernels for uint8: LiteRT's reference kernels (BUILTIN_REF) give those, up to the input of the last softmax,
which LiteRT computes in floats.
"""

import hashlib
import pathlib
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from tflite_micro.python.tflite_micro import runtime
from tflite_micro.python.tflite_micro._version import __version__ as version

# Model, runs.
MODELS = [
    ("mlperf-tiny/kws_int8.tflite", 100),
    ("mlperf-tiny/ic_resnet8_int8.tflite", 100),
    ("mlperf-tiny/ad_int8.tflite", 100),
    ("tflite-micro/hello_world_int8.tflite", 100),
    ("tflite-micro/micro_speech_quantized.tflite", 100),
    ("tflite-micro/audio_preprocessor_int8.tflite", 100),
    ("tflite-micro/seanet_conv5.tflite", 100),
    ("tflite-micro/seanet_conv10.tflite", 100),
    ("tflite-micro/seanet_conv20.tflite", 100),
    ("tflite-micro/seanet_transpose_conv0.tflite", 100),
    ("tflite-micro/seanet_transpose_conv3.tflite", 100),
    ("speech/mww_okay_nabu.tflite", 100),
    ("speech/mww_vad.tflite", 100),
    ("vision/mcunet_vww_int8.tflite", 100),
    ("vision/mobilenet_v1_0.25_128_quant.tflite", 10),
    ("vision/mobilenet_v1_0.25_224_quant.tflite", 10),
    ("vision/mobilenet_v2_1.0_224_quant.tflite", 3),
]


class Lcg:
    def __init__(self, seed):
        self.state = seed

    def bytes(self, count):
        out = np.empty(count, dtype=np.uint8)
        for i in range(count):
            self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
            out[i] = self.state >> 56
        return out

    def fill(self, shape, dtype):
        count = int(np.prod(shape))
        return self.bytes(count * np.dtype(dtype).itemsize).view(dtype).reshape(shape)


def ends(path):
    """The scales of the integers next to the floats at both ends: QUANTIZE's output, DEQUANTIZE's input."""
    net = Interpreter(model_path=str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    ops = net._get_ops_details()
    tensors = {t["index"]: t for t in net.get_tensor_details()}
    first = [o for o in ops if o["op_name"] == "QUANTIZE"][0]["outputs"][0]
    last = [o for o in ops if o["op_name"] == "DEQUANTIZE"][-1]["inputs"][0]
    return tensors[first]["quantization"], tensors[last]["quantization"]


def micro(path, runs):
    net = runtime.Interpreter.from_file(str(path), arena_size=1 << 22)
    inputs = []
    while True:
        try:
            inputs.append(net.get_input_details(len(inputs)))
        except Exception:
            break
    floats = inputs[-1]["dtype"] == np.float32
    scales = ends(path) if floats else None
    for run in range(runs):
        lcg = Lcg(run + 1)
        for index, detail in enumerate(inputs):
            shape, dtype = detail["shape"], detail["dtype"]
            if dtype == np.int32:
                # The output's shape of a transposed convolution.
                net.set_input(np.array(output_shape(path), dtype=np.int32), index)
            elif floats:
                (scale, zero), _ = scales
                q = lcg.fill(shape, np.int8)
                net.set_input(((q.astype(np.float32) - zero) * np.float32(scale)).astype(np.float32), index)
            else:
                net.set_input(lcg.fill(shape, dtype), index)
        net.invoke()
        out = net.get_output(0)
        if floats:
            _, (scale, zero) = scales
            out = np.rint(out / np.float32(scale) + zero).astype(np.int8)
        yield out
    net.print_allocations()


def output_shape(path):
    net = Interpreter(model_path=str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    return [int(d) for d in net.get_output_details()[0]["shape"]]


def lite(path, runs):
    net = Interpreter(
        model_path=str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=True,
    )
    net.allocate_tensors()
    (detail,) = net.get_input_details()
    last = net._get_ops_details()[-1]
    assert last["op_name"] == "SOFTMAX"
    for run in range(runs):
        net.set_tensor(detail["index"], Lcg(run + 1).fill(detail["shape"], detail["dtype"]))
        net.invoke()
        yield net.get_tensor(last["inputs"][0])


def main():
    data = pathlib.Path(sys.argv[1])
    lines = [f"# tflite-micro {version}, made by make.py: model, run, SHA-256 of the output"]
    for model, runs in MODELS:
        print(model, flush=True)
        run_all = lite if "mobilenet" in model else micro
        for run, out in enumerate(run_all(data / model, runs)):
            lines.append(f"{model} {run} {hashlib.sha256(np.ascontiguousarray(out).tobytes()).hexdigest()}")
    (pathlib.Path(__file__).parent / "outputs.txt").write_text("\n".join(lines) + "\n")


main()
