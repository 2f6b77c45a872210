"""Training runs to which something happens: a driver that is a process of its own, and workers that strike.

A run's folder holds ``case.json`` (what `Case` says), and while it goes ``events.jsonl`` gathers what drivers heard and
workers did, with the time of each; ``outcome.json`` is how the last driver ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from e2e_tools import ROOT, running

__all__ = ["Case", "Strike", "deadly_worker", "drive", "events", "main", "outcome"]

TESTS = Path(__file__).parent


@dataclass(frozen=True)
class Strike:
    """What happens once, or ``times`` often, to a run.

    Args:
        step: after how many steps, or later.
        moment: ``start`` (a worker's first act), ``begin`` (of a step), ``gradient`` (before the parameters change),
            ``writing`` (a checkpoint's files are there, its manifest is not), ``written`` (its manifest is there).
        target: ``worker`` (of ``rank``), ``all`` workers, or the ``driver``.
        action: ``kill`` -9, ``stop`` with SIGSTOP, or ``sleep`` for ever in the main thread.
        rank: rank of the worker that is hit; the first worker writes manifests, so ``writing`` hits that one.
        times: number of strikes, each in a process that started after the one before.
    """

    step: int
    moment: str = "begin"
    target: str = "worker"
    action: str = "kill"
    rank: int = 0
    times: int = 1


@dataclass(frozen=True)
class Case:
    """A run.

    Args:
        base: the base model's folder.
        fine_tuning: the configuration's section.
        num_rows: of the training data.
        num_validation_rows: likewise.
        strikes: in their order; each waits for the one before.
    """

    base: str
    fine_tuning: dict[str, Any]
    num_rows: int = 22
    num_validation_rows: int = 3
    strikes: list[Strike] = field(default_factory=list)

    def write(self, folder: Path) -> Path:
        """Make the run's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "case.json").write_text(json.dumps(asdict(self)))
        return folder


def drive(folder: Path, variables: dict[str, str], *, name: str = "out", timeout_s: float = 600) -> int:
    """Run the driver of a case until it ends. Returns its exit status; -9 where it was killed."""
    with driving(folder, variables, name=name) as process:
        return process.wait(timeout=timeout_s)


@contextmanager
def driving(folder: Path, variables: dict[str, str], *, name: str = "out", log: Path | None = None):
    """The driver's process, for the time of a block."""
    if (folder / "outcome.json").exists():
        (folder / "outcome.json").write_text("{}")
    code = "import sys, training_strikes; training_strikes.main(sys.argv[1], sys.argv[2])"
    command = [sys.executable, "-c", code, str(folder), name]
    log = log or folder / f"driver-{time.time_ns()}.log"
    with running(command, log, env=variables, cwd=ROOT) as process:
        yield process


def outcome(folder: Path) -> dict[str, Any]:
    """How the last driver ended: ``losses`` and ``metrics``, or ``error``, ``message`` and ``hint``."""
    return json.loads((folder / "outcome.json").read_text())


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """What happened: ``step`` and ``note`` as drivers heard them, ``strike``, ``driver`` (one started), ``end``."""
    file = folder / "events.jsonl"
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [event for event in found if event["kind"] == kind]


def _log(folder: Path, kind: str, **more: Any) -> None:
    line = json.dumps({"kind": kind, "time": time.time(), "pid": os.getpid(), **more}) + "\n"
    descriptor = os.open(folder / "events.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def main(folder_name: str, name: str) -> None:
    """The driver: train as the case says, on the cluster of ``RAY_ADDRESS``."""
    import ray.data
    from tiny_model import make_rows

    from llamafarm_ray.config import parse_config
    from llamafarm_ray.errors import LlamaFarmError
    from llamafarm_ray.training import TrainingCallbacks, TrainingInputs, train, trainer
    from llamafarm_ray.workflows.clusters.cluster import LOCAL, connect

    folder = Path(folder_name)
    case = json.loads((folder / "case.json").read_text())
    trainer.train_worker = deadly_worker
    _log(folder, "driver")
    with connect(LOCAL):
        try:
            inputs = TrainingInputs(
                ray.data.from_items(make_rows(case["num_rows"]), override_num_blocks=2),
                ray.data.from_items(make_rows(case["num_validation_rows"]), override_num_blocks=1),
                Path(case["base"]),
            )
            callbacks = TrainingCallbacks(
                on_progress=lambda progress: _log(folder, "step", step=progress.step, loss=progress.loss),
                on_note=lambda text: _log(folder, "note", text=text),
            )
            config = parse_config({"fine_tuning": case["fine_tuning"]})
            result = train(config, inputs, folder / name, callbacks=callbacks)
            found = {"losses": result.losses, "metrics": result.metrics}
        except LlamaFarmError as error:
            found = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
        _log(folder, "end")
        (folder / "outcome.json").write_text(json.dumps(found))


class _Striker:
    """In a worker's process: knows the strike whose turn it is, and carries it out when the time has come."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder = folder
        self.rank = rank
        self.step = 0
        case = json.loads((folder / "case.json").read_text())
        strikes = [Strike(**strike) for strike in case["strikes"]]
        turns = [strike for strike in strikes for _ in range(strike.times)]
        number = len(events(folder, "strike"))
        self._turn = turns[number] if number < len(turns) else None
        _log(folder, "worker", rank=rank)

    def at(self, moment: str) -> None:
        """Strike, if this is the moment."""
        strike = self._turn
        if strike is None or moment != strike.moment or self.step < strike.step:
            return
        if self.rank != (0 if moment in {"writing", "written"} else strike.rank):
            return
        self._turn = None
        hit = self._processes(strike.target)
        _log(self.folder, "strike", step=self.step, asked=asdict(strike), hit=hit)
        if strike.action == "sleep":
            time.sleep(3600)
        number = signal.SIGKILL if strike.action == "kill" else signal.SIGSTOP
        for process in hit:
            os.kill(process, number)

    def _processes(self, target: str) -> list[int]:
        if target == "driver":
            return [events(self.folder, "driver")[-1]["pid"]]
        if target == "worker":
            return [os.getpid()]
        latest = {event["rank"]: event["pid"] for event in events(self.folder, "worker")}
        return [*(pid for rank, pid in latest.items() if rank != self.rank), os.getpid()]


def deadly_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """`llamafarm_ray.training.entry.train_worker`, with the case's strikes."""
    import ray.train

    from llamafarm_ray.training import checkpoints, loop, worker

    striker = _Striker(settings["job"].folder.path.parent, ray.train.get_context().get_world_rank())
    striker.at("start")
    seed_step, find_strategy = loop.seed_step, worker.find_strategy
    finish, clean_up = checkpoints.CheckpointStore._finish, checkpoints.CheckpointStore._clean_up

    def seed(seed, step, rank):
        striker.step = step
        striker.at("begin")
        seed_step(seed, step, rank)

    def find(name):
        found = find_strategy(name)

        def step(self):
            striker.at("gradient")
            return found.step(self)

        return type(found.__name__, (found,), {"step": step})

    def writing(self, stored):
        striker.step = stored.step
        striker.at("writing")
        finish(self, stored)

    def written(self):
        striker.at("written")
        clean_up(self)

    loop.seed_step, worker.find_strategy = seed, find
    checkpoints.CheckpointStore._finish, checkpoints.CheckpointStore._clean_up = writing, written
    return worker.run_worker(settings)
