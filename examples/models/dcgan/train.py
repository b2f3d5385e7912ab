"""Trains a DCGAN on MNIST and writes its generator as ONNX, with latents for calibration and for the examples.

    python train.py ../../../../shared/data/mnist -o .

The generator (Radford et al., 2015): latent [1, 32, 1, 1], standard normal; transposed convolutions 64@4x4, 48@3x3/2,
24@4x4/2, 1@4x4/2 without biases before batch norm, ReLU between them, a sigmoid at the end: image [1, 1, 28, 28], grey
/ 255 as LeNet-5 takes it.

What makes it train on 8000 images: spectral norm in the discriminator (Miyato et al., 2018) and the hinge loss; the
spread over the minibatch as one more feature, so that it sees when all digits are alike (Karras et al., 2018); real and
made images shifted alike, which the generator does not learn then (Zhao et al., 2020). What we keep is a running mean
of the generator's weights, its batch norms measured anew, written every 500 steps. The number of steps is fixed
beforehand; no test image is used.
"""

import argparse
import copy
import gzip
import os
import pathlib
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

LATENT = 32


def generator():
    layers = []
    for cin, cout, kernel, stride, padding in [(LATENT, 64, 4, 1, 0), (64, 48, 3, 2, 1), (48, 24, 4, 2, 1)]:
        layers += [nn.ConvTranspose2d(cin, cout, kernel, stride, padding, bias=False), nn.BatchNorm2d(cout), nn.ReLU()]
    net = nn.Sequential(*layers, nn.ConvTranspose2d(24, 1, 4, 2, 1), nn.Sigmoid())
    for layer in net:
        if isinstance(layer, nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0, 0.05)
    return net


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        sizes = [(1, 24, 4, 2, 1), (24, 48, 4, 2, 1), (48, 96, 3, 2, 1)]
        self.convs = nn.ModuleList(spectral_norm(nn.Conv2d(*size)) for size in sizes)
        self.mix = spectral_norm(nn.Linear(97 * 16, 96))
        self.out = spectral_norm(nn.Linear(96, 1))

    def forward(self, x):
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.2)
        groups = x.view(-1, 8, *x.shape[1:])  # the spread over groups of 8 images
        spread = groups.std(1, unbiased=False).mean((1, 2, 3))
        spread = spread.repeat_interleave(8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
        x = torch.cat([x, spread], 1).flatten(1)
        return self.out(F.leaky_relu(self.mix(x), 0.2))


def shift(x, g, most=3):
    """Each image shifted by up to `most` pixels, with black around."""
    n, at = len(x), torch.arange(28)
    dy, dx = (torch.randint(2 * most + 1, (n, 1), generator=g) for _ in range(2))
    x = F.pad(x, [most] * 4)
    return x[torch.arange(n)[:, None, None], :, (at + dy)[:, :, None], (at + dx)[:, None, :]].permute(0, 3, 1, 2)


def write(path, fill):
    """Fills a temporary file beside `path`, then renames it."""
    temporary = path.with_name("tmp-" + path.name)
    fill(temporary)
    os.replace(temporary, path)


def sheet(images, columns=10):
    """The images [n, 1, 28, 28] side by side."""
    rows = images.view(-1, columns, 28, 28).permute(0, 2, 1, 3).reshape(-1, columns * 28)
    return Image.fromarray((rows.clamp(0, 1) * 255).round().byte().numpy())


def settled(net):
    """A copy with its batch norms' statistics measured over 4000 latents."""
    net = copy.deepcopy(net).train()
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the plain mean
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _ in range(40):
            net(torch.randn(100, LATENT, 1, 1, generator=g))
    return net.eval()


def export(net, out):
    """Writes the generator, latents to calibrate with, and a sheet of 100 digits with its latents."""
    latents = torch.randn(100, LATENT, 1, 1, generator=torch.Generator().manual_seed(7))
    calibration = torch.randn(64, LATENT, 1, 1, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        write(out / "sheet.png", sheet(net(latents)).save)
    names = {"input_names": ["latent"], "output_names": ["image"], "opset_version": 17, "dynamo": False}
    keep = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}  # batch norms stay nodes
    write(out / "dcgan.onnx", lambda path: torch.onnx.export(net, (latents[:1],), path, **names, **keep))
    write(out / "calibration/latents64.npy", lambda path: np.save(path, calibration.numpy()))
    write(out / "sheet_latents.npy", lambda path: np.save(path, latents.numpy()))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=pathlib.Path, help="the folder of train8k-images-idx3-ubyte.gz")
    p.add_argument("-o", type=pathlib.Path, required=True, help="the folder to write to")
    p.add_argument("--steps", type=int, default=5000)
    p.add_argument("--batch", type=int, default=64, help="a multiple of 8")
    p.add_argument("--lr", type=float, nargs=2, default=[5e-4, 5e-4], help="of the generator, of the discriminator")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    (a.o / "calibration").mkdir(parents=True, exist_ok=True)
    pixels = np.frombuffer(gzip.open(a.data / "train8k-images-idx3-ubyte.gz").read(), np.uint8, offset=16)
    real = torch.from_numpy(pixels.reshape(-1, 1, 28, 28).astype(np.float32) / 255)
    g = torch.Generator().manual_seed(a.seed)
    make, judge = generator(), Discriminator()
    mean = copy.deepcopy(make).requires_grad_(False)
    print(f"{sum(q.numel() for q in make.parameters())} parameters", flush=True)
    of_make = torch.optim.Adam(make.parameters(), lr=a.lr[0], betas=(0.0, 0.99))
    of_judge = torch.optim.Adam(judge.parameters(), lr=a.lr[1], betas=(0.0, 0.99))
    begun = time.time()
    for step in range(a.steps):
        rate = min(1.0, 2 * (1 - step / a.steps)) * 0.98 + 0.02  # falls in the second half
        for optimizer, lr in zip((of_make, of_judge), a.lr):
            optimizer.param_groups[0]["lr"] = lr * rate
        fake = make(torch.randn(a.batch, LATENT, 1, 1, generator=g))
        true = real[torch.randint(len(real), (a.batch,), generator=g)]
        loss = F.relu(1 - judge(shift(true, g))).mean() + F.relu(1 + judge(shift(fake.detach(), g))).mean()
        of_judge.zero_grad()
        loss.backward()
        of_judge.step()

        score = judge(shift(fake, g)).mean()
        of_make.zero_grad()
        (-score).backward()
        of_make.step()
        keep = min(0.999, step / (step + 20))
        for m, q in zip(mean.parameters(), make.parameters()):
            m.lerp_(q.detach(), 1 - keep)
        if step % 500 == 499 or step + 1 == a.steps:
            spent = time.time() - begun
            print(f"step {step + 1} discriminator {loss.item():.3f} score {score.item():.3f} {spent:.0f} s", flush=True)
            export(settled(mean), a.o)


if __name__ == "__main__":
    main()
