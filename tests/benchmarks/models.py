"""The speed of downloads beside huggingface_hub's, from one loopback hub, and of a hit in the cache.

Run ``make bench BENCH=models``; with ``ARGS=--quick`` to see that it works. The last line is one JSON object:
``{"benchmark": "models", "numbers": {name: {"measured": ..., "goal": ..., "met": ...}}}``.
"""

import argparse
import json
import logging
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from model_files import safetensors_head

from llamafarm_ray.storage.cache import Cache
from llamafarm_ray.storage.downloads.downloads import Downloads

BLOCK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    rounds: int = 5
    shards: int = 3
    shard_bytes: int = 256 * 1024**2
    hits: int = 30


QUICK = Scale(rounds=1, shards=2, shard_bytes=20 * 1024**2, hits=3)


@dataclass
class Report:
    """The numbers so far; each is printed as it comes."""

    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def at_least(self, name: str, measured: float, goal: float, unit: str) -> None:
        self._add(name, measured, goal, unit, "at least", met=measured >= goal)

    def at_most(self, name: str, measured: float, goal: float, unit: str) -> None:
        self._add(name, measured, goal, unit, "at most", met=measured <= goal)

    def note(self, text: str) -> None:
        print(f"    {text}")

    def _add(self, name: str, measured: float, goal: float, unit: str, sense: str, *, met: bool) -> None:
        self.numbers[name] = {"measured": round(measured, 4), "goal": f"{sense} {goal:g} {unit}", "met": met}
        print(f"{name:<46} {measured:>10.3g} {unit:<6} goal: {sense} {goal:g} {unit}   {'met' if met else 'NOT MET'}")


def measure_downloads(report: Report, scale: Scale, folder: Path) -> None:
    """Time whole downloads, in turn, each into an empty cache; the page cache is warm for both."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with hub(folder / "model") as url:
        os.environ["HF_ENDPOINT"], os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = url, "1"
        from huggingface_hub import snapshot_download

        def ours(cache: Path) -> None:
            Downloads(Cache(cache)).get("owner/tiny")

        def theirs(cache: Path) -> None:
            snapshot_download("owner/tiny", cache_dir=cache, endpoint=url)

        times: dict[str, list[float]] = {"ours": [], "theirs": []}
        for number in range(scale.rounds + 1):  # the first one warms up
            for name, call in (("ours", ours), ("theirs", theirs)):
                with scratch(folder / name) as cache:
                    taken = seconds(lambda call=call, cache=cache: call(cache))  # type: ignore[misc]
                if number:
                    times[name].append(taken)
        here, there = (statistics.median(times[name]) for name in ("ours", "theirs"))
        size = scale.shards * scale.shard_bytes / 1e6
        report.note(f"{size:,.0f} MB: {here:.2f} s with every byte hashed, huggingface_hub {there:.2f} s without")
        report.at_least("download against huggingface_hub", there / here, 0.9, "x")
        measure_hits(report, scale, folder / "hits")


def measure_hits(report: Report, scale: Scale, folder: Path) -> None:
    """Time what is in the cache already, with a look at the hub, and without one."""
    downloads = Downloads(Cache(folder))
    downloads.get("owner/tiny")
    for name, offline in (("a hit, the hub asked for its commit", False), ("a hit, offline", True)):
        hits = [seconds(lambda: downloads.get("owner/tiny", offline=offline)) for _ in range(scale.hits)]  # noqa: B023
        report.at_most(name, 1000 * statistics.median(hits), 50, "ms")


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """A hub in a process of its own that serves a folder's files."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(folder, there), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        here.send(None)
        process.join()


def _serve(folder: Path, parent: Connection) -> None:
    from file_server import hub_server

    with hub_server() as server:
        files = {path.name: path if path.suffix == ".safetensors" else path.read_bytes() for path in folder.iterdir()}
        server.add("owner/tiny", files)
        parent.send(server.url)
        parent.recv()


def make_model(folder: Path, scale: Scale) -> None:
    """Write shards of random bytes, and a configuration."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for number in range(scale.shards):
        with (folder / f"model-{number}.safetensors").open("wb") as file:
            file.write(safetensors_head(scale.shard_bytes // 4))
            for _ in range(scale.shard_bytes // BLOCK_BYTES):
                file.write(os.urandom(BLOCK_BYTES))


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A path where nothing is before and after."""
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it works")
    scale = QUICK if parser.parse_args().quick else Scale()
    report = Report()
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        make_model(Path(folder, "model"), scale)
        measure_downloads(report, scale, Path(folder))
    print(json.dumps({"benchmark": "models", "numbers": report.numbers}))


if __name__ == "__main__":
    main()
