"""One trial of a sweep: a training in a process of its own that says how it does on its way."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamafarm_ray.config import Config
from llamafarm_ray.registry import open_registry
from llamafarm_ray.storage.locks import try_exclusive
from llamafarm_ray.training import BeginWith, Progress
from llamafarm_ray.training.fault_tolerance.branching import keep_checkpoints
from llamafarm_ray.training.monitoring.history import History
from llamafarm_ray.training.plan.job import RunFolder
from llamafarm_ray.tuning.trial import Place, Report
from llamafarm_ray.workflows.training.train import TrainingRun
from llamafarm_ray.workflows.tuning.sizes import Points, with_sizes

__all__ = ["TrialSettings", "run_trial"]

_OLD_RUN_ENDS_S: Final = 60.0
"""Seconds until the driver of an interrupted trial must be gone."""
_LOOK_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class TrialSettings:
    """Settings passed to every trial's process.

    Args:
        points: points of comparison; None if trials aren't compared.
        num_rows: rows of the training split.
        passes: passes over the questions that they are written in.
    """

    home: str | None
    metric: str
    points: Points | None
    num_rows: int
    passes: int


def run_trial(settings: TrialSettings, config: Config, place: Place, report: Report) -> Mapping[str, float]:
    """Train one trial, in a process of the cluster; one that was interrupted goes on from its last checkpoint."""
    output, points = place.output, settings.points
    finished = output / "training.json"
    if finished.is_file():  # its driver was killed before it could say so
        metrics: dict[str, float] = json.loads(finished.read_text(encoding="utf-8"))["metrics"]
        return metrics
    folder = RunFolder(output.parent / f".{output.name}.run")
    _wait_until_free(folder)
    watch, begin_with = None, None
    config = with_sizes(config, num_rows=settings.num_rows, passes=settings.passes)
    if points is not None:
        every = points.every_steps(config)
        config = _with_points(config, points, every, keep_all=place.kept is not None)
        watch = _Watcher(folder, settings.metric, every, report, kept=place.kept)
        if place.parent_kept is not None:
            begin_with = BeginWith(place.parent_kept, place.begins_at * every)
    run = TrainingRun.prepare(config, open_registry(settings.home), output=output)
    return run.run(on_progress=watch.step if watch else None, begin_with=begin_with, work="tune").result.metrics


def _with_points(config: Config, points: Points, every: int, *, keep_all: bool) -> Config:
    """A configuration that measures and stores where trials are compared."""
    training = config.fine_tuning.training
    update: dict[str, object] = {"evaluate_every_steps": every}
    if keep_all:
        update |= {"checkpoint_every_steps": every, "keep_checkpoints": points.count + 1, "checkpoint_location": None}
    elif training.checkpoint_every_steps is None:
        update["checkpoint_every_steps"] = every
    tuning = config.fine_tuning.model_copy(update={"training": training.model_copy(update=update)})
    return config.model_copy(update={"fine_tuning": tuning})


def _wait_until_free(folder: RunFolder) -> None:
    """The driver of an earlier attempt may still be ending. The run itself reports errors that occur here."""
    until = time.monotonic() + _OLD_RUN_ENDS_S
    while folder.lock.exists() and time.monotonic() < until:
        with try_exclusive(folder.lock) as is_free:
            if is_free:
                return
        time.sleep(_LOOK_S)


class _Watcher:
    """Says a trial's metric at each point of comparison.

    Validation losses come from the run's history; other metrics are means over the steps since the last point.

    Args:
        folder: of the run; its history is read as it is written.
        every: steps between two points.
        kept: folder for the checkpoints at the points of comparison; None if they are not needed.
    """

    def __init__(self, folder: RunFolder, metric: str, every: int, report: Report, *, kept: Path | None) -> None:
        self._folder = folder
        self._history = folder.output / "history.jsonl"
        self._kept = kept
        self._metric = metric
        self._every = every
        self._report = report
        self._said: set[int] = set()
        self._measured: dict[int, float] = {}
        self._recent: list[float] = []
        self._looked_at = 0.0

    def step(self, progress: Progress) -> None:
        """Take a step of the run."""
        if self._metric == "validation_loss":
            is_last = progress.step == progress.total_steps
            if is_last or time.monotonic() - self._looked_at >= _LOOK_S:
                self._looked_at = time.monotonic()
                self._look(progress.total_steps)
        else:
            value = progress.loss if self._metric == "train_loss" else progress.metrics.get(self._metric)
            if value is not None:
                self._recent.append(value)
            if progress.step % self._every == 0 and self._recent:
                self._measured[progress.step // self._every] = sum(self._recent) / len(self._recent)
                self._recent = []
        self._say(progress)

    def _look(self, total_steps: int) -> None:
        for validation in History.read(self._history, total_steps=total_steps).validations:
            if validation.step % self._every == 0 and math.isfinite(validation.loss):
                self._measured.setdefault(validation.step // self._every, validation.loss)

    def _say(self, progress: Progress) -> None:
        """Say what is new; where others may go on from this trial, once they can."""
        new = sorted(self._measured.keys() - self._said)
        if not new:
            return
        if self._kept is not None:
            kept = keep_checkpoints(self._folder, self._every, self._kept)
            new = [point for point in new if point * self._every in {*kept, progress.total_steps}]
        for point in new:
            self._said.add(point)
            self._report(point, self._measured[point])
