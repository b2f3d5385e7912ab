"""ONNX Runtime, or LiteRT with XNNPACK, timed: answers `run COUNT` as tests/bench/speed/answer.rs says.

    python nets_speed.py onnxruntime MODEL.onnx THREADS
    python nets_speed.py xnnpack MODEL.tflite THREADS
"""

import sys
import time

import numpy as np


def numbers(shape, dtype):
    """-1 to 1 for floats; bytes of all kinds for integers."""
    i = np.arange(np.prod(shape)).reshape(shape) * 7919
    return (i % 2001 / 1000 - 1).astype(dtype) if dtype == np.float32 else i.astype(np.uint8).view(dtype)


def onnxruntime(path, threads):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = {x.name: numbers(x.shape, np.float32) for x in session.get_inputs()}
    return lambda: session.run(None, given)


def xnnpack(path, threads):
    # LiteRT's interpreter hands what it can to XNNPACK unless told otherwise.
    from ai_edge_litert.interpreter import Interpreter

    net = Interpreter(path, num_threads=threads)
    net.allocate_tensors()
    for x in net.get_input_details():
        net.set_tensor(x["index"], numbers(x["shape"], x["dtype"]))
    return net.invoke


def main():
    who, path, threads = sys.argv[1:]
    # What a runtime prints as it starts is no answer.
    try:
        run = {"onnxruntime": onnxruntime, "xnnpack": xnnpack}[who](path, int(threads))
        refused = None
    except Exception as why:
        refused = " ".join(str(why).split())
    for line in sys.stdin:
        what, count = line.split()
        if refused or what != "run":
            print(f"error: {refused or 'no question ' + what}", flush=True)
            continue
        times = []
        for _ in range(int(count)):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        print(*times, flush=True)


main()
