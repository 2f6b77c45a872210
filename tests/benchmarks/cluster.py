"""A cluster of machines against one machine, on machines of namespaces; see tests/hosts.py. Needs root.

Run ``make bench BENCH=cluster``; with ``ARGS=--quick`` to see that it works. Each worker has one CPU by Ray's count,
but all share this machine's cores with the storage and the clients: the ratios say something where it has four or more.
The last line is one JSON object:
``{"benchmark": "cluster", "numbers": {name: {"measured": ..., "goal": ..., "met": ...}}}``.
"""

import argparse
import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hosts import BUCKET, GATEWAY, S3_PORT, hosts, why_not
from hosts_cluster import HostsCluster, Load, wait_for
from s3 import s3_on
from tiny_model import make_tiny_model


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Args:
        epochs: of a training run.
        load_s: seconds of load on an endpoint.
        num_clients: that send it.
    """

    epochs: int = 4
    load_s: float = 40.0
    num_clients: int = 16


QUICK = Scale(epochs=1, load_s=10.0, num_clients=4)


def trained(cluster: HostsCluster, name: str, num_workers: int, scale: Scale) -> float:
    """Train on so many nodes, and return tokens a second."""
    more = [f"--set=fine_tuning.distributed.workers={num_workers}", f"--set=fine_tuning.training.epochs={scale.epochs}"]
    command = cluster.job(name, "--json", *more, "--set=fine_tuning.training.checkpoint_every_steps=100000")
    said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout
    result = json.loads(said[said.index('{\n  "path"') : said.rindex("}") + 1])
    return float(result["num_tokens"]) / float(result["seconds"])


def first_step(cluster: HostsCluster, command: list[str]) -> float:
    """Start a training, and return the seconds until its first checkpoint, which is after its first step."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: cluster.checkpoints() or process.poll() is not None, 300)
    seconds = time.monotonic() - began
    if process.wait():
        raise RuntimeError(f"{command} ended with {process.returncode}.")
    return seconds


def starts(cluster: HostsCluster) -> float:
    """Return how much longer a job takes to its first step than the same command on the head."""
    more = ["--set=fine_tuning.distributed.workers=2", "--set=fine_tuning.distributed.nodes=2"]
    more += ["--set=fine_tuning.training.max_steps=2", "--set=fine_tuning.training.checkpoint_every_steps=1"]
    job = cluster.job("by-job", *more)
    words = [word.replace("by-job", "by-hand") for word in job[job.index("--") + 1 :]]
    typed = f". ~/.bashrc; cd ~/llamafarm_ray; set -a; . ~/.llamafarm.env; {' '.join(words)} --address=auto"
    by_job = first_step(cluster, job)
    return by_job / first_step(cluster, cluster.machines["head"].command("bash", "-c", typed))


def served(cluster: HostsCluster, replicas: int, scale: Scale) -> float:
    """Return the requests that so many replicas answer a second."""
    cluster.serve(replicas=replicas)
    wait_for(lambda: cluster.replicas() == replicas, 300, cluster.serving)
    with Load(cluster, scale.num_clients) as load:
        time.sleep(scale.load_s)
    return len(load.answered) / scale.load_s


def measure(scale: Scale, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the numbers beside their goals."""
    with hosts() as machines, s3_on(GATEWAY, S3_PORT) as files:
        files.mkdir(BUCKET)
        cluster = HostsCluster(machines, files)
        cluster.fill_bucket(make_tiny_model(folder / "base", hidden_size=256))
        cluster.up()
        with cluster.dashboard():
            start = starts(cluster)
            training = trained(cluster, "two", 2, scale) / trained(cluster, "one", 1, scale)
            one, two = served(cluster, 1, scale), served(cluster, 2, scale)
    return {
        "a job's time to its first step, to that of the same command on the head": {
            "measured": round(start, 2),
            "goal": "<= 1.2",
            "met": start <= 1.2,
        },
        "training on two nodes, to one (tokens/s)": {
            "measured": round(training, 2),
            "goal": ">= 1.7",
            "met": training >= 1.7,
        },
        "requests/s of two nodes, to one": {
            "measured": round(two / one, 2),
            "goal": ">= 1.7",
            "met": two / one >= 1.7,
        },
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that it works")
    arguments = parser.parse_args()
    if reason := why_not():
        print(f"Not here: {reason}")
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        numbers = measure(QUICK if arguments.quick else Scale(), Path(folder))
    for name, number in numbers.items():
        print(f"{'met ' if number['met'] else 'MISS'} {name}: {number['measured']} (goal {number['goal']})")
    print(json.dumps({"benchmark": "cluster", "numbers": numbers}))


if __name__ == "__main__":
    main()
