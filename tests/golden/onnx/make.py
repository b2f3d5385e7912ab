"""What ONNX Runtime gives for the real models of the shared data, and for small nets of random weights that ONNX Runtime
itself has quantized; for tests/conformance/onnx.rs.

    pip install onnx onnxruntime numpy                  (made with 1.23.2, 1.32.0 and 2.4.6)
    python tests/golden/onnx/make.py ../shared/data

NAME.f32: little-endian floats. DTLN: all outputs, one after the other, of the third of three runs on numbers of the
generator below, the second output fed back as the second input. Silero: the probability of speech in each 32 ms of
silero_test.wav (a minute). net_*: ten runs.
"""

import sys
import wave
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime import quantization

HERE = Path(__file__).parent
DATA = Path(sys.argv[1])


def noise(seed, count):
    """(byte - 128) / 256 of a linear congruential generator."""
    out = np.empty(count, np.float32)
    for i in range(count):
        seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
        out[i] = ((seed >> 56) - 128) / 256
    return out


def dtln(name):
    session = onnxruntime.InferenceSession(DATA / f"speech/{name}.onnx")
    x, state = session.get_inputs()
    held = np.zeros(state.shape, np.float32)
    for run in (1, 2, 3):
        outputs = session.run(None, {x.name: noise(run, np.prod(x.shape)).reshape(x.shape), state.name: held})
        held = outputs[1]
    np.concatenate([o.ravel() for o in outputs]).astype("<f4").tofile(HERE / f"{name}.f32")


def silero():
    session = onnxruntime.InferenceSession(DATA / "speech/silero_vad_16k_op15.onnx")
    with wave.open(str(DATA / "speech/silero_test.wav")) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    state, context, out = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32), []
    for start in range(0, len(sound), 512):
        window = np.concatenate([context, sound[start : start + 512]])
        feed = {"input": window[None], "state": state, "sr": np.array(16000, np.int64)}
        probability, state = session.run(None, feed)
        context = window[-64:]
        out.append(probability[0, 0])
    np.array(out, "<f4").tofile(HERE / "silero_vad_16k_op15.f32")


def net(opset):
    """Convolution, depthwise, pointwise with a skip, pool, linear: what an image net is made of."""
    rng = np.random.default_rng(7)
    weights = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 1, 3, 3), "b2": (8,), "w3": (8, 8, 1, 1), "b3": (8,), "w4": (10, 8), "b4": (10,)}
    tensors = []
    for name, shape in weights.items():
        fan = np.prod(shape[1:]) if len(shape) > 1 else 10
        tensors.append(numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32), name))
    if opset < 11:
        clip = helper.make_node("Clip", ["c2"], ["r2"], "clip", min=0.0, max=6.0)
    else:
        tensors += [numpy_helper.from_array(np.float32(v), n) for n, v in (("low", 0), ("high", 6))]
        clip = helper.make_node("Clip", ["c2", "low", "high"], ["r2"], "clip")
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu"),
        helper.make_node("MaxPool", ["r1"], ["p1"], "halve", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2", "b2"], ["c2"], "depthwise", auto_pad="SAME_UPPER", group=8),
        clip,
        helper.make_node("Conv", ["r2", "w3", "b3"], ["c3"], "pointwise"),
        helper.make_node("Add", ["c3", "p1"], ["a3"], "skip"),
        helper.make_node("GlobalAveragePool", ["a3"], ["g3"], "mean"),
        helper.make_node("Flatten", ["g3"], ["f3"], "flat"),
        helper.make_node("Gemm", ["f3", "w4", "b4"], ["y"], "linear", transB=1),
    ]
    value = lambda name, shape: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "net", [value("x", ["n", 3, 16, 16])], [value("y", ["n", 10])], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model


class Samples(quantization.CalibrationDataReader):
    def __init__(self):
        self.left = [{"x": noise(100 + i, 768).reshape(1, 3, 16, 16)} for i in range(20)]

    def get_next(self):
        return self.left.pop() if self.left else None


def nets():
    for opset in (9, 13, 22):
        onnx.save(net(opset), HERE / f"net_float_{opset}.onnx")
    source, kinds = HERE / "net_float_13.onnx", quantization.QuantType
    for name, form, activations in (
        ("net_qdq", quantization.QuantFormat.QDQ, kinds.QInt8),
        ("net_qoperator", quantization.QuantFormat.QOperator, kinds.QUInt8),
    ):
        quantization.quantize_static(
            source, HERE / f"{name}.onnx", Samples(), form, per_channel=True, activation_type=activations, weight_type=kinds.QInt8
        )
    quantization.quantize_dynamic(source, HERE / "net_dynamic.onnx", weight_type=kinds.QUInt8)
    # As the file says, node by node.
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for path in sorted(HERE.glob("net_*.onnx")):
        session = onnxruntime.InferenceSession(path, plain)
        out = [session.run(None, {"x": noise(1 + i, 768).reshape(1, 3, 16, 16)})[0].ravel() for i in range(10)]
        np.concatenate(out).astype("<f4").tofile(path.with_suffix(".f32"))
        print(path.name, [n.op_type for n in onnx.load(path).graph.node])


def recurrent():
    """What the node tests leave out: both directions, first states, the reset gate before and after; lengths all the same."""
    steps, batch, width, hidden = 5, 2, 3, 4
    rng = np.random.default_rng(11)
    for name, gates, direction, attributes in (
        ("lstm_both", 4, "bidirectional", {}),
        ("gru_both", 3, "bidirectional", {"linear_before_reset": 0}),
        ("gru_reverse", 3, "reverse", {"linear_before_reset": 1}),
    ):
        d = 2 if direction == "bidirectional" else 1
        shapes = {
            "w": (d, gates * hidden, width),
            "r": (d, gates * hidden, hidden),
            "b": (d, 2 * gates * hidden),
            "h": (d, batch, hidden),
            "c": (d, batch, hidden),
        }
        inputs, outputs = ["x", "w", "r", "b", "lengths", "h"], ["y", "y_h"]
        if gates == 4:
            inputs, outputs = inputs + ["c"], outputs + ["y_c"]
        tensors = [numpy_helper.from_array(rng.uniform(-1, 1, shapes[n]).astype(np.float32), n) for n in inputs if n in shapes]
        tensors.append(numpy_helper.from_array(np.array([steps] * batch, np.int32), "lengths"))
        kind = name.split("_")[0].upper()
        node = helper.make_node(kind, inputs, outputs, name, hidden_size=hidden, direction=direction, **attributes)
        value = lambda n, shape: helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape)
        graph = helper.make_graph([node], name, [value("x", [steps, batch, width])], [value(o, None) for o in outputs], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
        onnx.save(model, HERE / f"{name}.onnx")
        session = onnxruntime.InferenceSession(HERE / f"{name}.onnx")
        out = session.run(None, {"x": noise(1, steps * batch * width).reshape(steps, batch, width)})
        np.concatenate([o.ravel() for o in out]).astype("<f4").tofile(HERE / f"{name}.f32")


nets()
recurrent()
dtln("dtln_model_1")
dtln("dtln_model_2")
silero()
