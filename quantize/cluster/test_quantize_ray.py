"""quantize_ray.py on a cluster of three nodes on this machine, one of which is killed while it codes.

    python test_quantize_ray.py PATH_OF_MOTE MODEL

Prints a line and exits with 0, or says what went wrong and exits with 1. `cargo xtask test cluster` runs it where Ray is installed.
"""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

import ray
from quantize_ray import layer_count, quantize, split
from ray.cluster_utils import Cluster

TASKS = 3
# A node that is gone is found out within seconds, not half a minute.
HEALTH = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_failure_threshold": 5}
MEMORY = 80 << 20  # of an object store, the least that Ray takes


def status(pid):
    """Parent and command line of a process, or nothing if it has ended."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
        line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None, []
    return int(text.rpartition(")")[2].split()[1]), [word.decode(errors="replace") for word in line]


def motes():
    """Every running `mote quantize --layers`: its id, its worker's, its node's raylet's, and the layers."""
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            worker, words = status(int(entry.name))
            if words[1:2] == ["quantize"] and "--layers" in words:
                raylet, _ = status(worker)
                yield int(entry.name), worker, raylet, words[words.index("--layers") + 1]


class Killer(threading.Thread):
    """Notes which layers are begun by which process, and kills, once, the whole node of the first it sees."""

    def __init__(self, cluster, nodes):
        super().__init__(daemon=True)
        self.cluster, self.begun, self.killed, self.stop = cluster, {}, None, False
        self.nodes = {node.all_processes["raylet"][0].process.pid: node for node in nodes}

    def run(self):
        while not self.stop:
            for pid, worker, raylet, layers in motes():
                if raylet in self.nodes:
                    self.begun.setdefault(layers, set()).add(pid)
                    if self.killed is None:
                        self.killed = layers
                        os.kill(worker, signal.SIGKILL)
                        self.cluster.remove_node(self.nodes[raylet], allow_graceful=False)
            time.sleep(0.002)


def main():
    mote, model = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        # What comes out without Ray, a part after the other.
        parts = []
        for first, end in split(layer_count(model), TASKS):
            parts.append(f"{folder}/{first}.part")
            command = [mote, "quantize", model, "--layers", f"{first}..{end}", "-o", parts[-1]]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        alone, merged = pathlib.Path(folder, "alone.mote"), pathlib.Path(folder, "merged.mote")
        subprocess.run([mote, "merge", "-o", str(alone), *parts], check=True, stdout=subprocess.DEVNULL)

        # The head has no CPUs, so that tasks run on the others.
        head = {"num_cpus": 0, "object_store_memory": MEMORY, "_system_config": HEALTH}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        nodes = [cluster.add_node(num_cpus=1, object_store_memory=MEMORY) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False)
        killer = Killer(cluster, nodes)
        killer.start()
        try:
            quantize(mote, model, merged, tasks=TASKS)
        finally:
            killer.stop = True
            killer.join()
            alive = sum(node["Alive"] for node in ray.nodes())
            ray.shutdown()
            cluster.shutdown()
        if killer.killed is None or alive != 2:
            sys.exit(f"no node was killed ({alive} of 3 are alive)")
        if len(killer.begun[killer.killed]) < 2:
            sys.exit(f"layers {killer.killed} were not begun again after their node was killed: {killer.begun}")
        if merged.read_bytes() != alone.read_bytes():
            sys.exit("the image is not the one that comes out without the kill")
    print(f"layers {killer.killed} were begun {len(killer.begun[killer.killed])} times, and the image is the same")


if __name__ == "__main__":
    main()
