"""Journal of a sweep in lines of JSON, each on disk before anything goes on, so that a killed sweep resumes from it."""

from __future__ import annotations

import datetime as dt
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from llamafarm_ray.errors import ConflictError, StorageError
from llamafarm_ray.storage.local import read_json_lines

__all__ = ["Journal", "Record", "State", "SweepFacts", "best_of"]

_SESSION_GAP_S: Final = 1.0
"""Duration in seconds that counts for a session killed before its first event."""


class State(StrEnum):
    """State of a trial."""

    RUNNING = "running"
    """It has begun, and has not ended: where no sweep runs, the next one goes on with it."""
    FINISHED = "finished"
    """Trained to its end: one of these becomes the best."""
    STOPPED = "stopped"
    """Ended by the scheduler, because others did better at the same point."""
    FAILED = "failed"
    """It began and raised an error."""
    INVALID = "invalid"
    """Its values break a rule of the configuration, so it never began."""


@dataclass(slots=True)
class Record:
    """Record of a trial.

    Args:
        number: from 0, in the order they were proposed.
        values: of the searched keys.
        points: the metric by the number of the comparison, from 1, as the trial went.
        seconds: spent in this trial, over all attempts.
        reason: reason for its failure, its invalidity or its stop.
        why: origin of the values, where it matters (a default that was tried first).
        parent: the trial whose weights it began with; None for the base model's.
        instead_of: the trial whose place it took.
        begins_at: the comparison after which it began; 0 for one from the start.
    """

    number: int
    values: dict[str, Any]
    state: State = State.RUNNING
    points: dict[int, float] = field(default_factory=dict)
    value: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    reason: str = ""
    why: str = ""
    parent: int | None = None
    instead_of: int | None = None
    begins_at: int = 0

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.number:04d}"

    @property
    def last(self) -> float | None:
        """The metric as last seen: of the finished trial, else of its last comparison."""
        return self.value if self.value is not None else self.points[max(self.points)] if self.points else None

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return {**asdict(self), "state": str(self.state), "points": {str(key): one for key, one in self.points.items()}}


@dataclass(frozen=True, slots=True)
class SweepFacts:
    """Identity of a sweep: the same command with other facts is another sweep.

    Args:
        lower_is_better: True if the lowest value is the best.
        facts: search space, search, scheduler and what all trials have in common, as JSON values.
    """

    name: str
    metric: str
    lower_is_better: bool
    facts: Mapping[str, object]


class Journal:
    """The log ``journal.jsonl`` of a sweep's folder, and the records that it adds up to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[int, Record] = {}
        self.facts: dict[str, Any] | None = None
        self.spent_s = 0.0
        """Time of all sessions up to the last event, seconds; the present one not included."""
        self._session: tuple[dt.datetime, dt.datetime] | None = None
        for entry in read_json_lines(path):
            self._take(entry)
        self._close_session()

    def begin(self, sweep: SweepFacts) -> bool:
        """Begin a session. Return True if an earlier one is continued.

        Raises:
            ConflictError: the folder holds another sweep.
        """
        facts = json.loads(json.dumps(asdict(sweep)))
        earlier = self.facts
        if earlier is not None and earlier != facts:
            raise ConflictError(
                f"The folder {self.path.parent} holds another sweep: it differs in {_difference(earlier, facts)}.",
                hint="Use its settings to go on with it, another --output, or --restart to forget it.",
            )
        if earlier is None:
            self._write({"event": "sweep", "sweep": facts})
        self._write({"event": "session"})
        return earlier is not None

    def started(self, number: int, values: Mapping[str, object], why: str = "") -> Record:
        """A trial begins."""
        self._write({"event": "trial", "trial": number, "values": dict(values), "why": why})
        return self.records[number]

    def branched(self, number: int, values: Mapping[str, object], *, parent: Record, instead_of: Record) -> Record:
        """A trial begins with the weights that ``parent`` had at the last comparison of ``instead_of``."""
        point = max(instead_of.points)
        why = f"In place of {instead_of.name}, from the weights of {parent.name} at comparison {point}."
        place = {"parent": parent.number, "instead_of": instead_of.number, "begins_at": point}
        self._write({"event": "trial", "trial": number, "values": dict(values), "why": why, **place})
        return self.records[number]

    def invalid(self, number: int, values: Mapping[str, object], reason: str) -> None:
        """Values that break a rule were proposed."""
        self._write({"event": "invalid", "trial": number, "values": dict(values), "reason": reason})

    def point(self, number: int, point: int, value: float) -> None:
        """A trial was measured on its way; what was measured before an interruption already is not written again."""
        if self.records[number].points.get(point) != value:
            self._write({"event": "point", "trial": number, "point": point, "value": _number(value)})

    def ended(
        self,
        number: int,
        state: State,
        *,
        seconds: float,
        value: float | None = None,
        metrics: Mapping[str, float] | None = None,
        reason: str = "",
    ) -> None:
        """A trial has ended; ``RUNNING`` says that it was interrupted."""
        known = {key: _number(one) for key, one in (metrics or {}).items()}
        found = {"value": value, "metrics": known, "seconds": round(seconds, 3), "reason": reason}
        self._write({"event": "end", "trial": number, "state": str(state), **found})

    def _write(self, entry: Mapping[str, object]) -> None:
        """Append one line; it is on disk when this returns.

        Raises:
            StorageError: it can't be written.
        """
        dated = {"at": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"), **entry}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _end_torn_line(self.path)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dated, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"The sweep's journal {self.path} can't be written: {error}") from error
        self._take(json.loads(json.dumps(dated)))

    def _take(self, entry: Mapping[str, Any]) -> None:
        at = dt.datetime.fromisoformat(entry["at"])
        kind = entry["event"]
        if kind == "session":
            self._close_session()
            self._session = (at, at)
        elif self._session is not None:
            self._session = (self._session[0], at)
        number = entry.get("trial", -1)
        if kind == "sweep":
            self.facts = entry["sweep"]
        elif kind == "trial":
            values = {key: _tuples(one) for key, one in entry["values"].items()}
            known = self.records.get(number)
            parent, instead_of = entry.get("parent"), entry.get("instead_of")
            new = Record(number, values, why=entry.get("why", ""), parent=parent, instead_of=instead_of)
            new.begins_at = entry.get("begins_at", 0)
            self.records[number] = known or new
        elif kind == "invalid":
            values = {key: _tuples(one) for key, one in entry["values"].items()}
            self.records[number] = Record(number, values, State.INVALID, reason=entry["reason"])
        elif kind == "point":
            value = entry["value"]
            self.records[number].points[entry["point"]] = math.nan if value is None else value
        elif kind == "end":
            record = self.records[number]
            record.state, record.value, record.reason = State(entry["state"]), entry["value"], entry["reason"]
            record.metrics = entry["metrics"]
            record.seconds += entry["seconds"]

    def _close_session(self) -> None:
        if self._session is not None:
            self.spent_s += max(_SESSION_GAP_S, (self._session[1] - self._session[0]).total_seconds())
            self._session = None


def best_of(records: Mapping[int, Record], *, lower_is_better: bool) -> list[Record]:
    """Finished trials, the best first."""
    finished = [
        record
        for record in records.values()
        if record.state is State.FINISHED and record.value is not None and math.isfinite(record.value)
    ]
    sign = 1 if lower_is_better else -1
    return sorted(finished, key=lambda record: (sign * (record.value or 0.0), record.number))


def _number(value: float) -> float | None:
    """Strict JSON: not-a-number becomes null."""
    return value if math.isfinite(value) else None


def _tuples(value: object) -> object:
    """Lists as tuples, as a domain's values are."""
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value


def _end_torn_line(path: Path) -> None:
    """A killed writer may have left half a line, which the next one must not be joined to."""
    if not path.is_file() or path.stat().st_size == 0:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")


def _difference(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = [key for key in now if key != "facts" and earlier.get(key) != now[key]]
    before, after = earlier.get("facts", {}), now["facts"]
    names += [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    return ", ".join(names) or "its form"
