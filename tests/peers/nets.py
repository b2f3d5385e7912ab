"""ONNX files of nets of real shapes with random weights: NAME.onnx of floats, NAME.int8.onnx of integers (QuantizeLinear and
DequantizeLinear, int8 weights with a scale for each channel, by ONNX Runtime's static quantizer), NAME.npy to calibrate with, NAME.macs: multiply-accumulates of an inference.

    python nets.py FOLDER [NAME ...]

The shapes: MLPerf Tiny's DS-CNN (keywords) and ResNet-8, MobileNetV1 0.25, MobileNetV2 1.0. Batch normalization is folded, as in
what is deployed. Padding is TensorFlow's "same".
"""

import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

CLASSES = 1000


class Net:
    """A graph that is added to from its input to its output; `self.at` is the name of the last result, `self.shape` its shape."""

    def __init__(self, shape):
        self.nodes, self.weights, self.rng = [], [], np.random.default_rng(5)
        self.input, self.at, self.shape, self.macs = shape, "input", shape, 0

    def add(self, op, inputs, **attributes):
        self.at = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [self.at], self.at, **attributes))
        return self

    def weight(self, array):
        self.weights.append(numpy_helper.from_array(np.asarray(array), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def random(self, shape, fan_in):
        """Weights that leave what passes through them its size, and small biases."""
        weights = self.rng.normal(0, (2 / fan_in) ** 0.5, shape).astype(np.float32)
        return [self.weight(weights), self.weight(self.rng.normal(0, 0.1, shape[0]).astype(np.float32))]

    def conv(self, out, kernel, stride=1, groups=1, act="relu6"):
        _, channels, *size = self.shape
        stride, kernel = np.broadcast_to(stride, 2), np.broadcast_to(kernel, 2)
        to = [-(-n // s) for n, s in zip(size, stride)]
        pad = [max(0, (t - 1) * s + k - n) for t, s, k, n in zip(to, stride, kernel, size)]
        shape = (out, channels // groups, *kernel)
        operands = [self.at, *self.random(shape, int(np.prod(shape[1:])))]
        begin = [p // 2 for p in pad]
        pads = begin + [p - b for p, b in zip(pad, begin)]
        self.add("Conv", operands, kernel_shape=kernel.tolist(), strides=stride.tolist(), pads=pads, group=groups)
        self.shape = (1, out, *to)
        self.macs += int(np.prod(shape)) * to[0] * to[1]
        if act == "relu":
            self.add("Relu", [self.at])
        elif act == "relu6":
            self.add("Clip", [self.at, self.weight(np.float32(0)), self.weight(np.float32(6))])
        return self

    def separable(self, out, stride=1, act="relu6"):
        channels = self.shape[1]
        return self.conv(channels, 3, stride, channels, act).conv(out, 1, act=act)

    def plus(self, other, act=None):
        self.add("Add", [self.at, other])
        return self.add("Relu", [self.at]) if act else self

    def classes(self, count):
        """Without a softmax: ONNX Runtime's quantizer rounds it to steps of 1/255, which Mote's op has not (TensorFlow's are 1/256)."""
        channels = self.shape[1]
        self.add("GlobalAveragePool", [self.at]).add("Flatten", [self.at])
        self.add("Gemm", [self.at, *self.random((count, channels), channels)], transB=1)
        self.macs += count * channels
        return self

    def save(self, path):
        value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        outputs = [value(self.at, None)]
        graph = helper.make_graph(self.nodes, path.stem, [value("input", self.input)], outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(onnx.shape_inference.infer_shapes(model, strict_mode=True), path)


def dscnn():
    net = Net((1, 1, 49, 10)).conv(64, (10, 4), 2, act="relu")
    for _ in range(4):
        net.separable(64, act="relu")
    return net.classes(12)


def resnet8():
    net = Net((1, 3, 32, 32)).conv(16, 3, act="relu")
    for out, stride in [(16, 1), (32, 2), (64, 2)]:
        begin, shape = net.at, net.shape
        main = net.conv(out, 3, stride, act="relu").conv(out, 3, act=None).at
        if stride == 1:
            net.plus(begin, "relu")
        else:
            net.at, net.shape = begin, shape
            net.conv(out, 1, stride, act=None).plus(main, "relu")
    return net.classes(10)


def mobilenet_v1(side, width):
    net = Net((1, 3, side, side)).conv(int(32 * width), 3, 2)
    for out, stride in [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)] + 5 * [(512, 1)] + [(1024, 2), (1024, 1)]:
        net.separable(int(out * width), stride)
    return net.classes(CLASSES + 1)


def mobilenet_v2(side):
    net = Net((1, 3, side, side)).conv(32, 3, 2)
    blocks = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expand, out, times, first in blocks:
        for i in range(times):
            begin, channels, stride = net.at, net.shape[1], first if i == 0 else 1
            if expand > 1:
                net.conv(channels * expand, 1)
            net.conv(net.shape[1], 3, stride, net.shape[1]).conv(out, 1, act=None)
            if stride == 1 and channels == out:
                net.plus(begin)
    return net.conv(1280, 1).classes(CLASSES + 1)


NETS = {
    "dscnn_49x10": dscnn,
    "resnet8_32": resnet8,
    "mobilenet_v1_0.25_96": lambda: mobilenet_v1(96, 0.25),
    "mobilenet_v1_0.25_128": lambda: mobilenet_v1(128, 0.25),
    "mobilenet_v2_1.0_224": lambda: mobilenet_v2(224),
}


class Samples(quantization.CalibrationDataReader):
    def __init__(self, samples):
        self.left = iter(samples)

    def get_next(self):
        sample = next(self.left, None)
        return None if sample is None else {"input": sample[None]}


def main():
    folder, names = pathlib.Path(sys.argv[1]), sys.argv[2:] or list(NETS)
    for name in names:
        net, path = NETS[name](), folder / f"{name}.onnx"
        net.save(path)
        samples = np.random.default_rng(6).uniform(-1, 1, (4, *net.input[1:])).astype(np.float32)
        np.save(folder / f"{name}.npy", samples)
        quantization.quantize_static(
            path,
            folder / f"{name}.int8.onnx",
            Samples(samples),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        # Last: that it is there says that the rest is.
        (folder / f"{name}.macs").write_text(f"{net.macs}\n")


main()
