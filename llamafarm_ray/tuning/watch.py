"""Course of a sweep: trials begin, report and end, and unneeded files are removed."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.tuning.budget import Budget
from llamafarm_ray.tuning.journal import Journal, Record, State, best_of
from llamafarm_ray.tuning.plan import Planner
from llamafarm_ray.tuning.space import base_table
from llamafarm_ray.tuning.sweep import Sweep
from llamafarm_ray.tuning.trial import POINT, VALUE

__all__ = ["Watch"]

_LIVE_S: Final = 1.0


@dataclass(slots=True)
class Watch:
    """Keeps the journal and the folders of a sweep as its trials begin, say something and end.

    Args:
        sweep: rules for running trials.
        planner: chooses the next trial.
        on_change: called with all trials when something happened, and every second.
        running: since when trials run (``time.monotonic``), by number.
        error: error that ends the sweep, or None.
    """

    sweep: Sweep
    journal: Journal
    planner: Planner
    budget: Budget
    on_change: Callable[[Mapping[int, Record]], None]
    running: dict[int, float] = field(default_factory=dict)
    ended: dict[int, State] = field(default_factory=dict)
    error: BaseException | None = None
    _shown_at: float = 0.0

    def begin(self) -> dict[str, object] | None:
        """Return the next trial's settings; None if none may begin now, see `is_waiting`."""
        if len(self.running) >= self.sweep.concurrent:
            return None
        try:
            task = self.planner.next()
        except Exception as error:  # noqa: BLE001 - Ray Tune would bury it
            self.error = error
            return None
        if task is None:
            return None
        self.running[task.record.number] = time.monotonic()
        self.show()
        place = self.sweep.place(task.record, self.journal.records)
        return {"trial": task.record.number, "config": json.dumps(base_table(task.config)), "place": place}

    @property
    def is_waiting(self) -> bool:
        """True if trials may begin later, though none may now."""
        return len(self.running) >= self.sweep.concurrent or (self.planner.is_waiting and self.error is None)

    def result(self, number: int, result: Mapping[str, Any]) -> None:
        """A trial said something."""
        if "state" in result:
            self._outcome(number, result)
        elif POINT in result:
            self.journal.point(number, int(result[POINT]), float(result[VALUE]))
        self.show()

    def _outcome(self, number: int, result: Mapping[str, Any]) -> None:
        """A trial said how it ended."""
        state, reason = State(result["state"]), str(result.get("reason", ""))
        metrics, name = dict(result.get("metrics", {})), self.sweep.facts.metric
        value = metrics.get(name)
        if state is State.FINISHED and (value is None or not math.isfinite(value)):
            state, value = State.FAILED, None
            known = ", ".join(sorted(metrics)) or "none"
            reason = f"The result's {name} is {metrics.get(name, 'not there')}; its metrics are: {known}."
        self._end(number, state, value=value, metrics=metrics, reason=reason)

    def complete(self, number: int) -> None:
        """Ray Tune is through with a trial: it ended, was stopped for being worse, or time was up."""
        if number in self.ended or number not in self.running:
            return
        if self.over():
            self._end(number, State.RUNNING, reason="The budget was over; a larger one goes on with it.")
            return
        points = self.journal.records[number].points
        last = max(points, default=0)
        there = sum(last in record.points for record in self.journal.records.values())
        reason = f"Not among the best 1/{self.sweep.reduction_factor} of {there} trials at comparison {last}."
        if self.sweep.population is not None:
            reason = f"Among the worst {self.sweep.population.quantile:.0%} of {there} trials at comparison {last}."
        self._end(number, State.STOPPED, reason=reason)

    def lost(self, number: int, reason: str) -> None:
        """A trial's process was lost more often than it is started again."""
        if number not in self.ended:
            self._end(number, State.FAILED, reason=reason)

    def _end(self, number: int, state: State, **details: Any) -> None:
        seconds = time.monotonic() - self.running.pop(number, time.monotonic())
        self.ended[number] = state
        try:
            self.journal.ended(number, state, seconds=seconds, **details)
        except LlamaFarmError as error:
            self.error = error
            return
        record = self.journal.records[number]
        if state is not State.RUNNING:
            self.planner.tell(record)
        self.clean_up()
        self.show()

    def clean_up(self, *, is_done: bool = False) -> None:
        """Remove unneeded files: stopped trials, and the weights of trials that others beat.

        Failed trials keep their logs. In a population others may go on from any trial, until the sweep is done.
        """
        ranked = best_of(self.journal.records, lower_is_better=self.sweep.facts.lower_is_better)
        for record in self.journal.records.values():
            folder = self.sweep.trial_folder(record)
            if record.state is State.STOPPED:
                others = [] if self.sweep.population is None or is_done else ["kept"]
                _remove_all_but(folder, others)
            elif is_done:
                shutil.rmtree(folder / "kept", ignore_errors=True)
        for record in ranked[self.sweep.keep_models :]:
            for path in self.sweep.output(record).glob("*.safetensors"):
                path.unlink(missing_ok=True)

    def over(self) -> bool:
        """True if everything must end now."""
        return self.budget.is_over or self.error is not None

    def show(self, *, now: bool = True) -> None:
        """Tell the caller, if it is time."""
        if now or time.monotonic() - self._shown_at >= _LIVE_S:
            self._shown_at = time.monotonic()
            self.on_change(self.journal.records)


def _remove_all_but(folder: Path, names: Sequence[str]) -> None:
    if not names:
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.is_dir():
        for path in folder.iterdir():
            if path.name not in names:
                shutil.rmtree(path, ignore_errors=True)
