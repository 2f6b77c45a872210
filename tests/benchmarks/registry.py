"""The registry's numbers, beside MLflow's registry on SQLite and beside a plain copy, in one run on one machine.

Run ``make bench BENCH=registry``; with ``ARGS=--quick`` to see that it works. The last line is one JSON object:
``{"benchmark": "registry", "numbers": {name: {"measured": ..., "goal": ..., "met": ...}}}``.
"""

import argparse
import asyncio
import contextlib
import functools
import hashlib
import itertools
import json
import logging
import os
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from model_files import safetensors_head

from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.commands import MoveAlias, Register
from llamafarm_ray.storage import ContentStore, Location
from llamafarm_ray.types import Digest, ModelKind, ModelRef, Version

CLIENTS = 16
PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    rounds: int = 5
    registrations: int = 64
    look_ups: int = 2000
    models: int = 100
    versions_a_model: int = 100
    moves_a_model: int = 9  # so that 900 commits are to be read again after the last snapshot
    resolves: int = 5000
    kills: int = 3
    changes: int = 200
    pull_bytes: int = 1024**3
    adapter_bytes: int = 20 * 1024**2


QUICK = Scale(
    rounds=2, registrations=16, look_ups=50, models=5, versions_a_model=10, resolves=100, kills=2, changes=10,
    pull_bytes=32 * 1024**2, adapter_bytes=1024**2,
)  # fmt: skip


@dataclass
class Report:
    """The numbers so far; each is printed as it comes."""

    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def at_least(self, name: str, measured: float, goal: float, unit: str) -> None:
        self._add(name, measured, goal, unit, "at least", met=measured >= goal)

    def at_most(self, name: str, measured: float, goal: float, unit: str) -> None:
        self._add(name, measured, goal, unit, "at most", met=measured <= goal)

    def below(self, name: str, measured: float, goal: float, unit: str) -> None:
        self._add(name, measured, goal, unit, "below", met=measured < goal)

    def _add(self, name: str, measured: float, goal: float, unit: str, sense: str, *, met: bool) -> None:
        self.numbers[name] = {"measured": round(measured, 4), "goal": f"{sense} {goal:g} {unit}", "met": met}
        print(f"{name:<46} {measured:>10.3g} {unit:<6} goal: {sense} {goal:g} {unit}   {'met' if met else 'NOT MET'}")

    def note(self, text: str) -> None:
        print(f"    {text}")


class Ours:
    """This registry, in this process; every acknowledged change is synced to disk."""

    def __init__(self, folder: Path) -> None:
        self._registry = RegistryService(Location(folder / "ours"))
        self._manifest = self._registry.content.publish(_adapter(folder / "small", 64)).digest
        self._numbers = itertools.count()

    def register(self) -> None:
        """A version, then an alias on it: two commands, each durable when it returns."""
        number = f"1.0.{next(self._numbers)}"
        self._registry.submit(Register("bot", ModelKind.ADAPTER, self._manifest, 64, version=number))
        self._registry.submit(MoveAlias(ModelRef("bot", version=Version.parse(number)), "production"))

    def look_up(self) -> None:
        self._registry.resolve("bot@production")


class Theirs:
    """MLflow's registry on SQLite, in this process, as MLflow sets it up (rollback journal, synchronous=FULL)."""

    def __init__(self, folder: Path) -> None:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._store = SqlAlchemyStore(f"sqlite:///{folder / 'mlflow.db'}")
        self._store.create_registered_model("bot")
        self._source = str(folder / "small")

    def register(self) -> None:
        version = self._store.create_model_version("bot", self._source)
        self._store.set_registered_model_alias("bot", "production", version.version)

    def look_up(self) -> None:
        self._store.get_model_version_by_alias("bot", "production")

    def synchronous(self) -> int:
        """SQLite's setting on MLflow's own connections; 2 is full."""
        from sqlalchemy import text

        with self._store.engine.connect() as connection:
            return int(connection.execute(text("PRAGMA synchronous")).scalar())


def against_mlflow(report: Report, scale: Scale, folder: Path) -> None:
    """Register+alias one after the other and with many clients, and look-ups; rounds in turn, medians."""
    ours, theirs = Ours(folder), Theirs(folder)
    report.note(f"MLflow's SQLite has synchronous={theirs.synchronous()} (2 is full)")
    number = scale.registrations

    def one_by_one(side: Ours | Theirs) -> float:
        return _a_second(number, lambda: [side.register() for _ in range(number)])

    def at_once(side: Ours | Theirs) -> float:
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda _: None, range(CLIENTS)))  # the threads are there
            return _a_second(number * 2, lambda: list(pool.map(lambda _: side.register(), range(number * 2))))

    def looks(side: Ours | Theirs) -> float:
        times = scale.look_ups if side is ours else max(scale.look_ups // 20, 1)
        return _a_second(times, lambda: [side.look_up() for _ in range(times)])

    for name, measure, goal in (
        ("register+alias, one after the other", one_by_one, 2),
        (f"register+alias, {CLIENTS} clients at once", at_once, 10),
        ("look-ups by alias, in-process", looks, 50),
    ):
        rates: dict[Any, list[float]] = {side: [] for side in (ours, theirs)}
        for side in (ours, theirs) * scale.rounds:
            rates[side].append(measure(side))
        here, there = (statistics.median(rates[side]) for side in (ours, theirs))
        report.note(f"{name}: {here:,.0f} a second, MLflow {there:,.0f} (medians of {scale.rounds} rounds in turn)")
        report.at_least(name, here / there, goal, "x")


def many_versions(report: Report, scale: Scale, folder: Path) -> None:
    """A registry of 10,000 versions, a commit each: look-ups, the memory of the actor, and its return."""
    import ray

    from llamafarm_ray.registry.remote.client import RegistryClient
    from llamafarm_ray.workflows.clusters.cluster import LOCAL, connect

    home = folder / "many"
    registry = _fill(home, scale)
    number = scale.models * scale.versions_a_model
    report.note(f"{number:,} versions in {registry.head.sequence:,} commits, {_disk_bytes(home) / 1e6:.0f} MB on disk")
    references = [f"model-{number % scale.models}@production" for number in range(scale.resolves)]
    in_process = _latencies_ms(registry.resolve, references)
    report.below("resolve in-process, p99", _p99(in_process), 1, "ms")
    with connect(LOCAL):
        client = RegistryClient(str(home))
        client.resolve(references[0])
        through = _latencies_ms(client.resolve, references)
        report.note(f"through the actor, with a look for what is new: median {statistics.median(through):.2f} ms")
        report.below("resolve through the actor, p99", _p99(through), 5, "ms")
        parsed = [ModelRef.parse(reference) for reference in references]
        plain = _latencies_ms(lambda ref: ray.get(client._actor.resolve.remote(ref)), parsed)
        report.below("resolve by the actor itself, p99", _p99(plain), 5, "ms")
        report.below("memory of the actor (RSS)", psutil.Process(_pid(client)).memory_info().rss / 1e6, 200, "MB")
        backs = [_back_after_kill_s(client, ray, number) for number in range(scale.kills)]
        report.note(f"back after kills (by Ray and by SIGKILL in turn): {', '.join(f'{s:.2f} s' for s in backs)}")
        report.below("actor back after a kill", max(backs), 5, "s")
        _subscription(report, scale, str(home))


def _fill(home: Path, scale: Scale) -> RegistryService:
    registry = RegistryService(Location(home))
    manifest = registry.content.publish(_adapter(home.parent / "adapter", 64)).digest

    for number in range(scale.models * scale.versions_a_model):
        model, version = divmod(number, scale.versions_a_model)
        registry.submit(_registration(f"model-{model}", version, manifest))
    for version in range(scale.versions_a_model - scale.moves_a_model, scale.versions_a_model):
        for model in range(scale.models):
            registry.submit(MoveAlias(ModelRef(f"model-{model}", version=Version(1, version, 0)), "production"))
    return registry


def _registration(model: str, number: int, manifest: Digest) -> Register:
    details = {
        "base_model": "meta-llama/Llama-3.1-8B-Instruct",
        "base_digest": str(manifest),
        "method": "qlora",
        "parameters": {"r": 16, "alpha": 32, "dropout": 0.05, "targets": ["q_proj", "v_proj"], "learning_rate": 2e-4},
        "dataset": f"documents-{model}",
        "dataset_digest": str(manifest),
        "config_digest": str(manifest),
        "run": f"{model}-{number}",
        "metrics": {"loss": 1.0 + number / 1000, "perplexity": 7.5, "exact_match": 0.5, "rouge_l": 0.41, "bleu": 23.5},
        "license": "apache-2.0",
        "domain": "medical",
        "description": "Answers questions about the documents.",
        "tags": ("nightly",),
    }
    return Register(model, ModelKind.ADAPTER, manifest, 64, version=f"1.{number}.0", details=details)


def _pid(client: Any) -> int:
    import ray

    return int(ray.get(client._actor.__ray_call__.remote(lambda _actor: os.getpid())))


def _back_after_kill_s(client: Any, ray: Any, number: int) -> float:
    """From the kill to the next answer."""
    process = psutil.Process(_pid(client))
    began = time.perf_counter()
    if number % 2:
        ray.kill(client._actor, no_restart=False)
    else:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    ray.get(client._actor.resolve.remote(ModelRef.parse("model-0@production")))
    return time.perf_counter() - began


def _subscription(report: Report, scale: Scale, home: str) -> None:
    """From another writer's call to the change in a subscriber's copy."""
    from llamafarm_ray.registry.remote.view import RegistryView

    registry = RegistryService(Location(home))

    async def delay_s(view: RegistryView, number: int) -> float:
        ref = ModelRef("model-0", version=Version(1, number % 2, 0))
        began = time.perf_counter()
        outcome = await asyncio.to_thread(registry.submit, MoveAlias(ref, "staging"))
        while view.state.sequence < outcome.sequence:  # noqa: ASYNC110  (a view has no event)
            await asyncio.sleep(0.001)
        return time.perf_counter() - began

    async def delays_s() -> list[float]:
        view = RegistryView(home)
        await view.start()
        delays = [await delay_s(view, number) for number in range(scale.changes)]
        await view.stop()
        return delays

    report.below("a change past the actor reaches a view, p99", _p99(asyncio.run(delays_s())), 1, "s")


def same_adapter_again(report: Report, scale: Scale, folder: Path) -> None:
    """How much a home grows when an adapter is registered a second time."""
    home = folder / "again"
    registry = RegistryService(Location(home))
    adapter = _adapter(folder / "large", scale.adapter_bytes)
    registry.register(adapter, name="bot", kind=ModelKind.ADAPTER)
    before = _disk_bytes(home)
    registry.register(adapter, name="bot", kind=ModelKind.ADAPTER)
    report.below("growth when registered again", 100 * (_disk_bytes(home) / before - 1), 1, "%")


def cold_pull(report: Report, scale: Scale, folder: Path) -> None:
    """A pull into an empty cache beside a copy plus sha256 of the same file; the page cache is warm for both."""
    adapter = _adapter(folder / "big", scale.pull_bytes)
    (source,) = adapter.iterdir()
    location = Location(folder / "pull")
    digest = ContentStore(location).publish(adapter).digest
    times: dict[str, list[float]] = {"pull": [], "copy": []}
    for number in range(scale.rounds + 1):  # the first one warms up
        with _scratch(folder / "cache") as cache:
            times["pull"].append(_seconds(functools.partial(ContentStore(location, cache).pull, digest)))
        with _scratch(folder / "copy") as copy:
            copy.mkdir()
            times["copy"].append(_seconds(functools.partial(_copy_and_hash, source, copy / "file")))
        if number == 0:
            times = {"pull": [], "copy": []}
    pull, copy_s = (statistics.median(times[what]) for what in ("pull", "copy"))
    report.note(f"pull {pull:.2f} s, copy and sha256 {copy_s:.2f} s, page cache warm for both")
    report.at_most("cold pull of 1 GB against copy + sha256", pull / copy_s, 1.3, "x")


def _copy_and_hash(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        hashlib.file_digest(file, "sha256")


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A path where nothing is before and after."""
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _adapter(folder: Path, size_bytes: int) -> Path:
    """A folder with one safetensors file of random weights of about that size."""
    folder.mkdir(parents=True)
    size_bytes -= size_bytes % 4
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(safetensors_head(size_bytes // 4))
        for start in range(0, size_bytes, PIECE_BYTES):
            words = np.frombuffer(os.urandom(min(PIECE_BYTES, size_bytes - start)), "<u4")
            file.write((words & 0xBFFF_FFFF).tobytes())  # below 2, so none is NaN or infinite: that would be refused
    return folder


def _disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _a_second(number: int, call: Callable[[], object]) -> float:
    return number / _seconds(call)


def _latencies_ms(call: Callable[[Any], object], arguments: list[Any]) -> list[float]:
    return [1000 * _seconds(functools.partial(call, argument)) for argument in arguments]


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it works")
    parser.add_argument("--only", choices=["mlflow", "versions", "again", "pull"], help="one part")
    options = parser.parse_args()
    parts = {"mlflow": against_mlflow, "versions": many_versions, "again": same_adapter_again, "pull": cold_pull}
    report = Report()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for name, part in parts.items():
            if options.only in {None, name}:
                part(report, QUICK if options.quick else Scale(), _new(Path(folder, name)))
    print(json.dumps({"benchmark": "registry", "numbers": report.numbers}))


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
