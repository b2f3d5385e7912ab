"""Trains LeNet-5 on 8000 MNIST digits and writes it as ONNX, with a calibration set and a few test images.

    python train.py ../../../../shared/data/mnist -o .

The net is LeCun et al. (1998) in size: convolutions 6@5x5 (padded to 28x28) and 16@5x5, each followed by 2x2 pooling,
then 120, 84 and 10; here every convolution sees all channels before it, the outputs are logits, and `--kind` is ReLU
with max-pooling (`relu`, what we ship) or tanh with average pooling as in 1998 (`tanh`). The input is [1, 1, 28, 28], a
pixel's grey divided by 255: white ink on black.

Training: each image is bent by a random small affine map and an elastic field (Simard et al., 2003) every time it is
seen; AdamW, one-cycle learning rate, a running mean of the weights. The number of epochs is fixed beforehand, and the
test set is looked at once, at the end. `--validate` instead trains on the first 7000 images and reports the last 1000:
for choosing options.
"""

import argparse
import gzip
import os
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn


def idx(path):
    """An IDX file of bytes as an array."""
    data = gzip.open(path).read()
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def lenet5(kind):
    squash, pool = {"relu": (nn.ReLU, nn.MaxPool2d), "tanh": (nn.Tanh, nn.AvgPool2d)}[kind]
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), squash(), pool(2),
        nn.Conv2d(6, 16, 5), squash(), pool(2),
        nn.Flatten(),
        nn.Linear(400, 120), squash(),
        nn.Linear(120, 84), squash(),
        nn.Linear(84, 10),
    )  # fmt: skip


def bend(x, g, strength):
    """The images, each turned, scaled, sheared, shifted and rippled a little."""
    n = len(x)

    def uniform(limit):
        return (torch.rand(n, generator=g) * 2 - 1) * limit * strength

    angle, shear = uniform(0.21), uniform(0.2)
    sx, sy = torch.exp(uniform(0.14)), torch.exp(uniform(0.14))
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack([cos * sx, (shear * cos - sin) * sy, uniform(0.14)], 1), \
        torch.stack([sin * sx, (shear * sin + cos) * sy, uniform(0.14)], 1)  # fmt: skip
    grid = F.affine_grid(torch.stack(theta, 1), x.shape, align_corners=False)
    field = (torch.rand(n, 2, 5, 5, generator=g) * 2 - 1) * 0.09 * strength
    grid = grid + F.interpolate(field, 28, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    return F.grid_sample(x, grid, align_corners=False)


@torch.inference_mode()
def accuracy(net, x, y):
    net.eval()
    return (net(x).argmax(1) == y).float().mean().item()


def train(net, x, y, a):
    g = torch.Generator().manual_seed(a.seed)
    mean = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998))
    optimizer = torch.optim.AdamW(net.parameters(), lr=a.lr, weight_decay=a.decay)
    steps = a.epochs * (len(x) // a.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, a.lr, total_steps=steps, pct_start=0.15)
    for epoch in range(a.epochs):
        net.train()
        order, total = torch.randperm(len(x), generator=g), 0.0
        for i in range(0, len(x) - a.batch + 1, a.batch):
            rows = order[i : i + a.batch]
            loss = F.cross_entropy(net(bend(x[rows], g, a.bend)), y[rows], label_smoothing=a.smooth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            mean.update_parameters(net)
            total += loss.item()
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1} training loss {total / (len(x) // a.batch):.4f}", flush=True)
    return mean.module


def write(path, fill):
    """Fills a temporary file beside `path`, then renames it."""
    temporary = path.with_name("tmp-" + path.name)
    fill(temporary)
    os.replace(temporary, path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=pathlib.Path, help="the folder of train8k-*.gz and t10k-*.gz")
    p.add_argument("-o", type=pathlib.Path, required=True, help="the folder to write to")
    p.add_argument("--kind", choices=["relu", "tanh"], default="relu")
    p.add_argument("--epochs", type=int, default=100)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--lr", type=float, default=4e-3)
    p.add_argument("--decay", type=float, default=0.02)
    p.add_argument("--smooth", type=float, default=0.0, help="label smoothing")
    p.add_argument("--bend", type=float, default=1.0, help="strength of the bending of images")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--validate", action="store_true", help="hold out the last 1000 training images; write nothing")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    images, labels = (idx(a.data / f"train8k-{part}-ubyte.gz") for part in ("images-idx3", "labels-idx1"))
    x, y = torch.from_numpy(images.astype(np.float32) / 255)[:, None], torch.from_numpy(labels.astype(np.int64))
    net = lenet5(a.kind)
    if a.validate:
        net = train(net, x[:7000], y[:7000], a)
        print(f"{vars(a)}\nheld out: {100 * accuracy(net, x[7000:], y[7000:]):.2f} % of 1000", flush=True)
        return
    net = train(net, x, y, a)
    tests, truth = (idx(a.data / f"t10k-{part}-ubyte.gz") for part in ("images-idx3", "labels-idx1"))
    tx, ty = torch.from_numpy(tests.astype(np.float32) / 255)[:, None], torch.from_numpy(truth.astype(np.int64))
    print(
        f"{sum(q.numel() for q in net.parameters())} parameters; t10k: {100 * accuracy(net, tx, ty):.2f} % of {len(ty)}"
    )

    (a.o / "calibration").mkdir(parents=True, exist_ok=True)
    names = {"input_names": ["image"], "output_names": ["logits"]}
    export = torch.onnx.export
    write(a.o / "lenet5.onnx", lambda path: export(net, (x[:1],), path, **names, opset_version=17, dynamo=False))
    write(a.o / "calibration/train8k_first32.npy", lambda path: np.save(path, x[:32].numpy()))
    for digit in range(10):
        first = int(np.argmax(truth == digit))
        write(a.o / f"digit{digit}.png", Image.fromarray(tests[first]).save)


if __name__ == "__main__":
    main()
