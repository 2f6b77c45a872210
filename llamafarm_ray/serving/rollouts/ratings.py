"""Ratings of a rollout's versions, read from the feedback stored in the home."""

from __future__ import annotations

import datetime as dt
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from llamafarm_ray.registry.state import RolloutRecord
from llamafarm_ray.serving.telemetry.rollout_observations import Moments
from llamafarm_ray.storage import Location
from llamafarm_ray.types import FEEDBACK_FOLDER

__all__ = ["Ratings", "StoredRatings", "ratings_since"]

logger = logging.getLogger(__name__)

_LOOK_S = 2.0
_SHARE_OF_TIME = 0.05
_DAY = dt.timedelta(days=1)
_THUMBS: Final = {"up": 1.0, "down": 0.0}


class Ratings(Protocol):
    """Source of ratings."""

    def new(self, rollout: RolloutRecord, *, is_anew: bool) -> tuple[Moments, Moments]:
        """Return ratings of the baseline and of the candidate since the last call; may block.

        Args:
            is_anew: give all that was said since it began.

        Raises:
            StorageError: they can't be read; the next call gives what this one would have.
        """


@dataclass(slots=True)
class _Read:
    """Position in the feedback up to which it was read for a rollout."""

    rollout: str
    from_day: dt.date
    files: set[str] = field(default_factory=set)
    look_at_s: float = 0.0


class StoredRatings:
    """Reads the ratings that :class:`~llamafarm_ray.serving.gateway.feedback.FeedbackLog` wrote.

    It looks every 2 seconds at most, and less often where looking takes long: a twentieth of the time is spent on it.

    Args:
        clock: seconds, never going back.
        now: the time, by which files have their names.
    """

    def __init__(
        self,
        home: Location,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._home = home
        self._clock = clock
        self._now = now
        self._read: dict[str, _Read] = {}

    def new(self, rollout: RolloutRecord, *, is_anew: bool) -> tuple[Moments, Moments]:
        """See :meth:`Ratings.new`."""
        begun, read, started_s = rollout.changes[0].time, self._read.get(rollout.target), self._clock()
        if read is None or read.rollout != rollout.id or is_anew:
            look_at_s = read.look_at_s if read is not None else 0.0
            read = _Read(rollout.id, begun.astimezone(dt.UTC).date(), look_at_s=look_at_s)
            self._read[rollout.target] = read
        if started_s < read.look_at_s:
            return Moments(), Moments()
        today = self._now().astimezone(dt.UTC).date()
        files = [name for name in self._files(read.from_day, today) if name not in read.files]
        contents = self._home.read_many(files)
        said: dict[str, list[float]] = {rollout.baseline: [], rollout.candidate: []}
        for name, data in zip(files, contents, strict=True):
            for version, rating in _ratings(name, data or b"", rollout.model, begun):
                if version in said:
                    said[version].append(rating)
        read.files.update(files)
        read.from_day = max(read.from_day, today - _DAY)  # what is written at midnight may be in either folder
        read.files = {name for name in read.files if name >= _folder(read.from_day)}
        read.look_at_s = self._clock() + max(_LOOK_S, (self._clock() - started_s) / _SHARE_OF_TIME)
        return Moments.of(said[rollout.baseline]), Moments.of(said[rollout.candidate])

    def _files(self, first: dt.date, last: dt.date) -> Iterator[str]:
        while first <= last:
            folder = _folder(first)
            yield from (f"{folder}/{name}" for name in self._home.names(folder))
            first += _DAY


def ratings_since(home: Location, refs: Collection[str], begun: dt.datetime) -> list[float]:
    """Return the ratings of some versions since a time, each from 0 to 1.

    Args:
        refs: versions as ``name:version``.
        begun: the first moment.
    """
    day, today = begun.astimezone(dt.UTC).date(), dt.datetime.now(dt.UTC).date()
    days = [day + _DAY * number for number in range((today - day).days + 1)] if refs else []
    files = [f"{_folder(one)}/{name}" for one in days for name in home.names(_folder(one))]
    contents = list(zip(files, home.read_many(files), strict=True))
    return [
        rating
        for model in sorted({ref.partition(":")[0] for ref in refs})
        for name, data in contents
        for version, rating in _ratings(name, data or b"", model, begun)
        if f"{model}:{version}" in refs
    ]


def _folder(day: dt.date) -> str:
    return f"{FEEDBACK_FOLDER}/{day:%Y/%m/%d}"


def _ratings(name: str, data: bytes, model: str, begun: dt.datetime) -> Iterator[tuple[str, float]]:
    """The ratings in a file of feedback on a model since a time, with the version's number."""
    for line in data.splitlines():
        try:
            record = json.loads(line)
            ref, _, version = record["version"].partition(":")
            rating = _rating(record)
            if ref == model and rating is not None and dt.datetime.fromisoformat(record["time"]) >= begun:
                yield version, rating
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("A record in %s is no feedback: %r", name, error)


def _rating(record: Mapping[str, Any]) -> float | None:
    if record.get("rating") is not None:
        return float(record["rating"])
    return _THUMBS.get(record.get("thumb", ""))
