"""History of a run in lines of JSON: ``history.jsonl`` in its folder, kept over all attempts."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llamafarm_ray.storage.local import read_json_lines, write_whole
from llamafarm_ray.training.monitoring.alerts import Alert
from llamafarm_ray.training.result import Progress

__all__ = ["Checkpoint", "History", "Validation", "append_lines", "entry", "open_lines", "step_entry"]

_STEP_FIELDS = (
    "step",
    "epoch",
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_s",
    "seconds",
    "memory_bytes",
    "mfu",
    "metrics",
)
_NUMBERS = (
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_s",
    "seconds",
)  # null in the file where they are not finite


@dataclass(frozen=True, slots=True)
class Validation:
    """A validation after a step."""

    step: int
    loss: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint of a step, and how long it took to write."""

    step: int
    seconds: float


@dataclass(slots=True)
class History:
    """Everything of a run up to now, in memory.

    Args:
        steps: of each step done.
        validations: of each validation done.
        checkpoints: of each checkpoint written.
        alerts: raised so far.
        attempts: number of resumes after interruptions, by the step of the resume.
        run_id: id that it is recorded under; empty without one.
        warnings: observers that stopped working: a tracker, an alert's channel.
    """

    total_steps: int
    steps: list[Progress] = field(default_factory=list)
    validations: list[Validation] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    run_id: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def last_step(self) -> int:
        """The last step that is known to be done; 0 before the first."""
        return max([*(step.step for step in self.steps[-1:]), *self.attempts[-1:]], default=0)

    @classmethod
    def read(cls, path: Path, *, total_steps: int, steps_done: int | None = None) -> History:
        """Return the history of earlier attempts; empty where there is none.

        Args:
            path: ``history.jsonl``.
            steps_done: last step that counts; later ones will be done again. None: all count.

        Raises:
            OSError: the file is there and can't be read.
        """
        history = cls(total_steps)
        for entry in read_json_lines(path):
            if steps_done is None or entry.get("step", 0) <= steps_done:
                history.add(entry)
        return history

    def add(self, entry: Mapping[str, Any]) -> None:
        """Take in one line; what is of no known kind is left out."""
        values = dict(entry)
        kind = values.pop("event", None)
        if kind == "step":
            numbers = {name: math.nan if values[name] is None else values[name] for name in _NUMBERS}
            self.steps.append(Progress(**{**values, **numbers, "total_steps": self.total_steps}))
        elif kind == "validation":
            self.validations.append(Validation(values["step"], math.nan if values["loss"] is None else values["loss"]))
        elif kind == "checkpoint":
            self.checkpoints.append(Checkpoint(**values))
        elif kind == "alert":
            self.alerts.append(Alert(**values))
        elif kind == "resume":
            self.attempts.append(values["step"])
        elif kind == "run":
            self.run_id = values["id"]
        elif kind == "warning":
            self.warnings.append(values["text"])


def step_entry(progress: Progress) -> dict[str, object]:
    """A step as a line."""
    return {"event": "step", **{name: getattr(progress, name) for name in _STEP_FIELDS}}


def entry(event: str, what: Validation | Checkpoint | Alert) -> dict[str, object]:
    """Anything else as a line."""
    return {"event": event, **asdict(what)}


def append_lines(path: Path, entries: Iterable[Mapping[str, object]]) -> None:
    """Add to a history.

    Args:
        path: ``history.jsonl``; its folder is made.
        entries: lines to add.

    Raises:
        OSError: it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(_line(one) for one in entries))


def open_lines(
    path: Path, *, keep: Callable[[Mapping[str, Any]], bool]
) -> Callable[[Sequence[Mapping[str, Any]]], None]:
    """Go on writing a history.

    Args:
        path: ``history.jsonl``; its folder is made.
        keep: returns True for a present line that stays.

    Returns:
        A file to which lines are appended.

    Raises:
        OSError: it can't be written.
    """
    write_whole(path, "".join(_line(one) for one in read_json_lines(path) if keep(one)))
    return functools.partial(append_lines, path)


def _line(entry: Mapping[str, object]) -> str:
    """Strict JSON: a number that is none becomes null."""
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in entry.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"
