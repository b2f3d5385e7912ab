"""Quantizes a language model on a Ray cluster, some layers a task.

    python quantize_ray.py MODEL -o OUT.mote [--tasks N] [--cpus N] [--address ADDRESS] [--mote PATH] [-- ARGUMENTS]

ARGUMENTS go to `mote quantize`. Every node needs MODEL (and the files that ARGUMENTS name) and `mote` under the same paths, a shared
file system, say; parts travel through Ray. A task whose machine is lost, or whose process is killed, is run again elsewhere; an
error of mote's is not. The image depends on where the layers are split, that is on --tasks, and not on who did what (but all
machines should have the same kind of CPU: its vector width can change the last bit of a float).
"""

import argparse
import ctypes
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import ray

RETRIES = 5


class Killed(Exception):
    """A mote that a signal has ended: worth another try."""


def layer_count(model):
    """Layers of a Hugging Face folder, an encoder's included."""
    config = json.loads((pathlib.Path(model) / "config.json").read_text())
    if "encoder_layers" in config:
        return config["encoder_layers"] + config["decoder_layers"]
    return config.get("num_hidden_layers") or config["n_layer"]


def split(layers, tasks):
    """`tasks` ranges of layers, as equal as may be."""
    tasks = max(1, min(tasks, layers))
    bounds = [layers * i // tasks for i in range(tasks + 1)]
    return list(zip(bounds, bounds[1:]))


def end_with_parent():
    """Asks Linux to kill this process when its parent ends: a worker that is lost leaves no mote behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@ray.remote(max_retries=RETRIES, retry_exceptions=[Killed])
def code(mote, model, layers, arguments, cpus):
    """The part of a range of layers, as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        part = pathlib.Path(folder) / "part"
        command = [mote, "quantize", model, "--layers", f"{layers[0]}..{layers[1]}", "-o", str(part), *arguments]
        environment = {**os.environ, "RAYON_NUM_THREADS": str(cpus)}
        run = subprocess.run(command, capture_output=True, text=True, env=environment, preexec_fn=end_with_parent)
        if run.returncode < 0:
            raise Killed(f"{' '.join(command)} was ended by signal {-run.returncode}")
        if run.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {run.stderr}")
        return part.read_bytes()


def quantize(mote, model, out, arguments=(), tasks=None, cpus=1):
    """Quantizes on the cluster that `ray.init` has joined. Returns what `mote merge --json` says."""
    tasks = tasks or max(1, int(ray.cluster_resources().get("CPU", 1)) // cpus)
    ranges = split(layer_count(model), tasks)
    coding = code.options(num_cpus=cpus)
    running = {coding.remote(mote, model, layers, list(arguments), cpus): layers for layers in ranges}
    with tempfile.TemporaryDirectory(dir=pathlib.Path(out).resolve().parent) as folder:
        parts = []
        while running:
            (done, *_), _ = ray.wait(list(running))
            layers = running.pop(done)
            parts.append(pathlib.Path(folder) / f"{layers[0]}..{layers[1]}.part")
            parts[-1].write_bytes(ray.get(done))
            print(f"layers {layers[0]}..{layers[1]} done, {len(running)} tasks left", file=sys.stderr)
        merge = subprocess.run([mote, "merge", "--json", "-o", str(out), *map(str, parts)], capture_output=True, text=True)
    if merge.returncode != 0:
        raise RuntimeError(merge.stderr)
    return json.loads(merge.stdout)


def main():
    words = [*sys.argv[1:], "--"]
    own, arguments = words[: words.index("--")], words[words.index("--") + 1 : -1]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-o", "--out", required=True)
    parser.add_argument("--tasks", type=int, help="ranges of layers [default: as many as fit at a time]")
    parser.add_argument("--cpus", type=int, default=1, help="CPUs of a task")
    parser.add_argument("--address", help="of the cluster [default: the one that RAY_ADDRESS names, or one on this machine]")
    parser.add_argument("--mote", default="mote")
    args = parser.parse_args(own)
    ray.init(address=args.address)
    found = quantize(args.mote, str(pathlib.Path(args.model).resolve()), args.out, arguments, args.tasks, args.cpus)
    print(f"{args.out}: {found['bytes']} bytes, {found['bits_per_weight']:.3f} bits per weight")


if __name__ == "__main__":
    main()
