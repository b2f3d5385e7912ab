"""Third-party weights of ../shared/data that come without a graph, as ONNX files: what is imported there is imported as
a net.

    pip install onnx onnxruntime safetensors numpy pillow
    python tests/golden/nets/to_onnx.py ../shared/data OUTDIR

- OUTDIR/lenet5.onnx from mnist/lenet5.safetensors: image [1, 1, 32, 32] in [0, 1] -> logits [1, 10]. Its author's last
  step, log-softmax, is left out: it changes no label.
- OUTDIR/mnist_generator_mlp.onnx from gan/mnist_generator_mlp.safetensors: latent [1, 64], standard normal -> image
  [1, 784], tanh, in [-1, 1].

Then each is run by ONNX Runtime: LeNet-5 on t10k, the generator against the same net in NumPy. The files belong to
others and stay out of this repository.
"""

import gzip
import os
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.numpy import load_file


class Net:
    """A chain of nodes, each fed by the one before it."""

    def __init__(self, name, shape):
        self.input, self.last = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape), name
        self.nodes, self.weights = [], []

    def add(self, op, *weights, **attributes):
        """A node whose further inputs are `weights`, pairs of a name and an array."""
        names = [self.last] + [name for name, _ in weights]
        self.weights += [numpy_helper.from_array(array, name) for name, array in weights]
        self.last = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [self.last], name=self.last, **attributes))

    def write(self, path, name, shape):
        """Writes the net, its output called `name`, beside `path` first."""
        self.nodes[-1].output[0] = name
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, path.stem, [self.input], [output], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        temporary = path.with_suffix(".tmp")
        onnx.save(model, temporary)
        os.replace(temporary, path)
        return onnxruntime.InferenceSession(path)


def lenet5(data, out):
    w = load_file(data / "mnist/lenet5.safetensors")

    def both(layer):
        return [(f"{layer}.{part}", w[f"{layer}.{part}"]) for part in ("weight", "bias")]

    net = Net("image", [1, 1, 32, 32])
    for layer in ("c1", "c3"):
        net.add("Conv", *both(f"convnet.{layer}"), kernel_shape=[5, 5])
        net.add("Relu")
        net.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    net.add("Conv", *both("convnet.c5"), kernel_shape=[5, 5])
    net.add("Relu")
    net.add("Flatten", axis=1)
    net.add("Gemm", *both("fc.f6"), transB=1)
    net.add("Relu")
    net.add("Gemm", *both("fc.f7"), transB=1)
    run = net.write(out / "lenet5.onnx", "logits", [1, 10])

    images = np.frombuffer(gzip.open(data / "mnist/t10k-images-idx3-ubyte.gz").read(), np.uint8, offset=16)
    labels = np.frombuffer(gzip.open(data / "mnist/t10k-labels-idx1-ubyte.gz").read(), np.uint8, offset=8)
    right = 0
    for image, label in zip(images.reshape(-1, 28, 28), labels):
        large = np.array(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR), np.float32) / 255
        right += int(run.run(None, {"image": large[None, None]})[0].argmax()) == label
    print(f"lenet5.onnx: {right} of {len(labels)} images of t10k, resized to 32x32 (bilinear), are named right")


def generator(data, out):
    w = load_file(data / "gan/mnist_generator_mlp.safetensors")
    net = Net("latent", [1, 64])
    for layer in "024":
        net.add("Gemm", *[(f"{layer}.{part}", w[f"{layer}.{part}"]) for part in ("weight", "bias")], transB=1)
        net.add("Relu" if layer != "4" else "Tanh")
    run = net.write(out / "mnist_generator_mlp.onnx", "image", [1, 784])

    z = np.random.default_rng(1).standard_normal((1, 64), np.float32)
    x = z
    for layer in "02":
        x = np.maximum(x @ w[f"{layer}.weight"].T + w[f"{layer}.bias"], 0)
    x = np.tanh(x @ w["4.weight"].T + w["4.bias"])
    off = np.abs(run.run(None, {"latent": z})[0] - x).max()
    print(f"mnist_generator_mlp.onnx: within {off:.1e} of NumPy's")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    data, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    lenet5(data, out)
    generator(data, out)


main()
