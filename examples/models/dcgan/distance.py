"""How far made digits are from real ones, and from other made ones.

    python distance.py ../../../../shared/data/mnist --onnx dcgan.onnx   # 2000 digits of the generator, by ONNX Runtime
    python distance.py ../../../../shared/data/mnist --onnx dcgan.onnx --save float.npy --latents z.npy
    python distance.py ../../../../shared/data/mnist --images four_bit.npy --against float.npy

`--images` is a .npy of [n, 1, 28, 28] or [n, 784] (float in [0, 1], or uint8), or a folder of .png of 28x28, in the
order of their names. Printed are, for the first 2000 digits:

- the Frechet distance between Gaussians of 84 features, those that our LeNet-5 (../lenet5/lenet5.onnx) has before its
  last layer, made digits against the first 2000 of t10k: Heusel et al. (2017), with a net that knows digits for the
  Inception net. As a yardstick the same for real digits that the generator was trained on.
- how sure LeNet-5 is of the digits: the mean probability of its label, the share of digits where it is above 0.9 (for
  real ones too), and the share of each label.
- with `--against`: pixel by pixel, the mean and largest difference (0 to 255) and PSNR, and the share of digits that
  LeNet-5 reads alike.
"""

import argparse
import gzip
import pathlib

import numpy as np
import onnx
import onnxruntime
from PIL import Image


def mnist(path):
    return np.frombuffer(gzip.open(path).read(), np.uint8, offset=16).reshape(-1, 1, 28, 28).astype(np.float32) / 255


def load(path):
    """Images as f32 [n, 1, 28, 28] in [0, 1]."""
    if path.is_dir():
        stack = np.stack([np.array(Image.open(file).convert("L")) for file in sorted(path.glob("*.png"))])
    else:
        stack = np.load(path)
    stack = stack.astype(np.float32) / 255 if stack.dtype == np.uint8 else stack.astype(np.float32)
    if stack.min() < -0.01 or stack.max() > 1.01:
        raise SystemExit(f"{path}: values from {stack.min()} to {stack.max()}, 0 to 1 (or uint8) were expected")
    return stack.reshape(-1, 1, 28, 28)


def run_each(session, rows):
    """The outputs of a net of batch 1, for each row."""
    name = session.get_inputs()[0].name
    outputs = [session.run(None, {name: row[None]}) for row in rows]
    return [np.concatenate(output) for output in zip(*outputs)]


class Reader:
    """LeNet-5 with its 84 features as a second output."""

    def __init__(self, path):
        model = onnx.load(path)
        features = model.graph.node[-1].input[0]
        model.graph.output.append(onnx.helper.make_tensor_value_info(features, onnx.TensorProto.FLOAT, [1, 84]))
        self.session = onnxruntime.InferenceSession(model.SerializeToString())

    def __call__(self, images):
        """(features [n, 84], probabilities [n, 10])"""
        logits, features = run_each(self.session, images)
        e = np.exp(logits - logits.max(1, keepdims=True))
        return features.astype(np.float64), e / e.sum(1, keepdims=True)


def frechet(a, b):
    """|mean a - mean b|^2 + tr(A + B - 2 (AB)^1/2), A and B the covariances."""
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(ca @ cb).real.clip(0)).sum()  # its trace; AB has real eigenvalues, none below 0
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb) - 2 * root)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=pathlib.Path, help="the folder of MNIST")
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--images", type=pathlib.Path)
    what.add_argument("--onnx", type=pathlib.Path, help="make the images with this generator (output in [0, 1])")
    p.add_argument("--latents", type=pathlib.Path, help="for --onnx: a .npy of latents instead of 2000 of seed 9")
    p.add_argument("--save", type=pathlib.Path, help="for --onnx: keep the images as .npy")
    p.add_argument("--against", type=pathlib.Path, help="other images, of the same latents")
    p.add_argument("--count", type=int, default=2000)
    a = p.parse_args()
    if a.onnx:
        session = onnxruntime.InferenceSession(a.onnx)
        shape = session.get_inputs()[0].shape
        draw = np.random.default_rng(9).standard_normal((a.count, *shape[1:]), np.float32)
        z = np.load(a.latents).reshape(-1, *shape[1:]) if a.latents else draw
        images = run_each(session, z)[0].reshape(-1, 1, 28, 28)
        if a.save:
            np.save(a.save, images)
    else:
        images = load(a.images)
    images = images[: a.count]
    read = Reader(pathlib.Path(__file__).parent / "../lenet5/lenet5.onnx")
    real, f = mnist(a.data / "t10k-images-idx3-ubyte.gz")[: len(images)], {}
    known = mnist(a.data / "train8k-images-idx3-ubyte.gz")[: len(images)]
    for name, stack in {"t10k": real, "train8k": known, "made": images}.items():
        f[name], probabilities = read(stack)
        top = probabilities.max(1)
        shares = " ".join(f"{100 * s:.1f}" for s in np.bincount(probabilities.argmax(1), minlength=10) / len(top))
        distance = "" if name == "t10k" else f"Frechet distance to t10k {frechet(f[name], f['t10k']):.2f}, "
        print(
            f"{name} ({len(top)}): {distance}mean probability {top.mean():.4f}, "
            f"above 0.9 {100 * (top > 0.9).mean():.1f} %"
        )
        print(f"    share of each digit, %: {shares}")
    if a.against:
        other = load(a.against)[: len(images)]
        difference = 255 * np.abs(images - other)
        psnr = 10 * np.log10(255**2 / np.mean(difference**2)) if difference.any() else np.inf
        same = (read(other)[1].argmax(1) == probabilities.argmax(1)).mean()
        away = frechet(f["made"], read(other)[0])
        print(
            f"against {a.against.name}: mean difference {difference.mean():.3f} of 255, largest {difference.max():.0f}"
        )
        print(f"    PSNR {psnr:.1f} dB, read alike {100 * same:.2f} %, Frechet distance {away:.3f}")


if __name__ == "__main__":
    main()
