"""A cluster of machines against one machine, watchers of the registry, and commands on the Ray of `llamafarm up`.

Run ``make bench BENCH=cluster``; with ``ARGS=--quick`` to see that it works, with ``ARGS="--only watch up"`` for parts.
The part ``machines`` makes machines of namespaces (tests/hosts.py) and needs root. Each worker has one CPU by Ray's
count, but all share this machine's cores with the storage and the clients: its ratios say something where it has four
or more. What is compared runs in turn; figures are medians of the rounds. The last line is one JSON object:
``{"benchmark": "cluster", "numbers": {name: {"measured": ..., "goal": ..., "met": ...}}}``.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e_tools import BIN, ROOT, environment
from hosts import BUCKET, GATEWAY, S3_PORT, hosts, why_not
from hosts_cluster import HostsCluster, Load, wait_for
from registry_watchers import watch_moves
from s3 import s3_on
from tiny_model import make_tiny_model

CORPUS = ROOT / "jobs" / "demo" / "corpus"
"""31 documents."""


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Args:
        epochs: of a training run.
        load_s: seconds of load on an endpoint.
        num_clients: that send it.
        watchers: of the registry's actor.
        moves: of an alias.
        rounds: of commands that are compared.
    """

    epochs: int = 4
    load_s: float = 40.0
    num_clients: int = 16
    watchers: int = 1000
    moves: int = 5
    rounds: int = 3


QUICK = Scale(epochs=1, load_s=10.0, num_clients=4, watchers=50, moves=1, rounds=1)


@dataclass
class Report:
    """The numbers so far; each is printed as it comes."""

    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def at_least(self, name: str, measured: float, goal: float, unit: str) -> None:
        """Note a number that has a lower bound."""
        self._note(name, measured, f"at least {goal:g} {unit}", met=measured >= goal)

    def at_most(self, name: str, measured: float, goal: float, unit: str) -> None:
        """Note a number that has an upper bound."""
        self._note(name, measured, f"at most {goal:g} {unit}", met=measured <= goal)

    def told(self, name: str, measured: float) -> None:
        """Note a number without a goal."""
        self._note(name, measured, None, met=None)

    def _note(self, name: str, measured: float, goal: str | None, *, met: bool | None) -> None:
        self.numbers[name] = {"measured": round(measured, 3), "goal": goal, "met": met}
        verdict = "" if goal is None else f"   goal: {goal}   {'met' if met else 'NOT MET'}"
        print(f"{name:<70} {measured:>8.3g}{verdict}", flush=True)


def watch(report: Report, scale: Scale, folder: Path) -> None:
    """An alias move that many subscribers get."""
    found = watch_moves(folder / "watched", scale.watchers, scale.moves)
    report.at_most(f"{scale.watchers:,} subscribers know of an alias move", max(found.delays_s), 2, "s")
    report.told("core seconds of the actor for it", max(found.costs_s))
    report.told("cores of the actor without news", found.idle)
    report.told("a command through the actor meanwhile, seconds", found.submit_s)


def up(report: Report, scale: Scale, folder: Path) -> None:
    """`create-dataset` and `train` on the Ray of `llamafarm up`, beside runs that start their own."""
    base = make_tiny_model(folder / "base")
    variables = environment(LLAMAFARM_HOME=str(folder / "home"))  # type: ignore[no-untyped-call]  # a test's helper
    took: dict[str, list[float]] = {}

    def commands(ray: str, *options: str) -> None:
        output = Path(tempfile.mkdtemp(dir=folder))
        create = ["create-dataset", "--source", str(CORPUS), "--output", str(output / "qa"), *options]
        took.setdefault(f"create {ray}", []).append(seconds_until(None, create, variables))
        train = ["train", "--base-model", str(base), "--dataset", str(output / "qa"), "--output", str(output / "bot")]
        train += [f"--set=fine_tuning.training.{key}" for key in ("max_steps=2", "checkpoint_every_steps=1")]
        step = seconds_until(lambda: list(output.rglob("checkpoint.json")), [*train, *options], variables)
        took.setdefault(f"train {ray}", []).append(step)

    with standing_ray(variables):
        for _ in range(scale.rounds):
            commands("up")
            commands("own", "--address", "local")
    median = {name: statistics.median(values) for name, values in took.items()}
    report.at_most("create-dataset of 31 documents on the Ray of `up`, seconds", median["create up"], 3, "s")
    report.told("the same with a Ray of its own, seconds", median["create own"])
    report.at_most("train to its first step on the Ray of `up`, seconds", median["train up"], 8, "s")
    report.told("train to its first step with a Ray of its own, seconds", median["train own"])


@contextmanager
def standing_ray(variables: dict[str, str]) -> Iterator[None]:
    """Have the Ray of `llamafarm up` for the time of a block."""
    quiet: dict[str, Any] = {"env": variables, "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    subprocess.run([str(BIN / "llamafarm"), "up", "--json"], check=True, **quiet)
    try:
        yield
    finally:
        subprocess.run([str(BIN / "llamafarm"), "down", "--json"], check=True, **quiet)


def seconds_until(seen: Callable[[], object] | None, words: Sequence[str], variables: dict[str, str]) -> float:
    """Run a verb of `llamafarm models` to its end.

    Returns:
        The seconds until `seen` was true, or until its end.

    Raises:
        RuntimeError: it failed.
    """
    seconds: float | None = None
    with tempfile.TemporaryFile() as said:
        quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": said}
        began = time.perf_counter()
        process = subprocess.Popen([str(BIN / "llamafarm"), "models", *words], env=variables, **quiet)
        while process.poll() is None:
            if seconds is None and seen is not None and seen():
                seconds = time.perf_counter() - began
            time.sleep(0.02)
        took = time.perf_counter() - began
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(words)} failed: {said.read().decode(errors='replace')[-2000:]}")
    return took if seconds is None else seconds


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


def starts(cluster: HostsCluster, scale: Scale) -> float:
    """Return how much longer a job takes to its first step than the same command on the head."""
    more = ["--set=fine_tuning.distributed.workers=2", "--set=fine_tuning.distributed.nodes=2"]
    more += ["--set=fine_tuning.training.max_steps=2", "--set=fine_tuning.training.checkpoint_every_steps=1"]

    def job(name: str) -> list[str]:
        return cluster.job(name, *more)

    def by_hand(name: str) -> list[str]:
        words = " ".join(job(name)[job(name).index("--") + 1 :])
        typed = f". ~/.bashrc; cd ~/llamafarm_ray; set -a; . ~/.llamafarm.env; {words} --address=auto"
        return cluster.machines["head"].command("bash", "-c", typed)

    first_step(cluster, job("warm"))  # the first one brings the base model to the workers
    took = [
        (first_step(cluster, job(f"job-{number}")), first_step(cluster, by_hand(f"hand-{number}")))
        for number in range(scale.rounds)
    ]
    return statistics.median(one for one, _ in took) / statistics.median(other for _, other in took)


def served(cluster: HostsCluster, replicas: int, scale: Scale) -> float:
    """Return the requests that so many replicas answer a second."""
    cluster.serve(replicas=replicas)
    wait_for(lambda: cluster.replicas() == replicas, 300, cluster.serving)
    with Load(cluster, scale.num_clients) as load:
        time.sleep(scale.load_s)
    return len(load.answered) / scale.load_s


def machines(report: Report, scale: Scale, folder: Path) -> None:
    """A cluster of a head and two workers of one CPU, against one worker."""
    if reason := why_not():
        print(f"No machines here: {reason}")
        return
    with hosts() as made, s3_on(GATEWAY, S3_PORT) as files:
        files.mkdir(BUCKET)
        cluster = HostsCluster(made, files)
        cluster.fill_bucket(make_tiny_model(folder / "large", hidden_size=256))
        cluster.up()
        with cluster.dashboard():
            name = "a job's time to its first step, to that of the same command on the head"
            report.at_most(name, starts(cluster, scale), 1.2, "x")
            ratio = trained(cluster, "two", 2, scale) / trained(cluster, "one", 1, scale)
            report.at_least("training on two nodes, to one (tokens/s)", ratio, 1.7, "x")
            one, two = served(cluster, 1, scale), served(cluster, 2, scale)
            report.at_least("requests/s of two nodes, to one", two / one, 1.7, "x")


PARTS = {"watch": watch, "up": up, "machines": machines}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that it works")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    arguments = parser.parse_args()
    report = Report()
    for name in arguments.only:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            PARTS[name](report, QUICK if arguments.quick else Scale(), Path(folder))
    print(json.dumps({"benchmark": "cluster", "numbers": report.numbers}))


if __name__ == "__main__":
    main()
