"""The next trial of a sweep: an interrupted one, one worth trying first, or the search's proposal."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llamafarm_ray.config import Config
from llamafarm_ray.errors import ConfigError
from llamafarm_ray.tuning.journal import Journal, Record, State
from llamafarm_ray.tuning.population import Population
from llamafarm_ray.tuning.search import GridSearch, Searcher
from llamafarm_ray.tuning.space import Space

__all__ = ["Planner", "Suggestion", "Task"]

_MAX_ATTEMPTS: Final = 200
"""Proposals that were tried already, in a row; then the space counts as tried out."""
_MAX_INVALID: Final = 100
"""Proposals that break a rule, in a row; then the sweep ends."""

_MAX_FAILED: Final = 3
"""Number of failures before any success after which the settings are not to blame."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Values worth trying before any search.

    Args:
        why: for people.
    """

    values: Mapping[str, object]
    why: str


@dataclass(frozen=True, slots=True)
class Task:
    """A trial to run."""

    record: Record
    config: Config


class Planner:
    """Hands out trials, and writes each into the journal before it begins.

    Args:
        search: proposes values.
        num_trials: trials in all, those of earlier sessions included and invalid ones not; None for no limit.
        first: tried before the search begins.
        has_time: function that returns True if there is time for one more trial.
        population: lets new trials take the place of the worst; None without.
    """

    def __init__(
        self,
        journal: Journal,
        space: Space,
        search: Searcher,
        *,
        num_trials: int | None,
        first: Sequence[Suggestion] = (),
        has_time: Callable[[], bool] = lambda: True,
        population: Population | None = None,
    ) -> None:
        self._journal = journal
        self._space = space
        self._search = search
        self._num_trials = num_trials
        self._first = deque(first)
        self._has_time = has_time
        self._population = population
        self.ended_because = ""
        """Why there is no further trial, once there is none."""
        self.is_waiting = False
        """True if `next` has no trial now, but may have one when a running trial has ended."""
        known = list(journal.records.values())
        self._interrupted = deque(record for record in known if record.state is State.RUNNING)
        ended = (record for record in known if record.state is not State.RUNNING)
        search.remember(record for record in ended if record.parent is None)

    @property
    def num_begun(self) -> int:
        """Trials so far; invalid ones are none, and one that took another's place is no further one."""
        records = self._journal.records.values()
        return sum(record.state is not State.INVALID and record.parent is None for record in records)

    def next(self) -> Task | None:
        """The next trial; None if there is none now (`is_waiting`), or ever, for the reason in `ended_because`.

        Raises:
            ConfigError: nothing that is proposed is a valid configuration.
        """
        self.is_waiting = False
        if not self._has_time():
            self._end("the budget is used up")
            return None
        while self._interrupted:
            record = self._interrupted.popleft()
            point = self._space.point(record.values)
            if point.config is not None:
                return Task(record, point.config)
            self._journal.ended(record.number, State.FAILED, seconds=0.0, reason=point.problem)
        task = self._original()
        if task is not None or self._population is None:
            return task
        return self._branch(self._population)

    def _original(self) -> Task | None:
        """A trial that begins with the base model's weights."""
        if self._num_trials is not None and self.num_begun >= self._num_trials:
            self._end(f"all {self._num_trials} trials are done")
            return None
        begun = [record for record in self._journal.records.values() if record.state is not State.INVALID]
        if len(begun) >= _MAX_FAILED and all(record.state is State.FAILED for record in begun):
            self._end(f"the first {len(begun)} trials failed")
            return None
        while self._first:
            suggestion = self._first.popleft()
            values = {key: suggestion.values[key] for key in self._space.domains if key in suggestion.values}
            task = self._begin(values, suggestion.why)
            if task is not None:
                return task
        return self._searched()

    def tell(self, record: Record) -> None:
        """A trial has ended."""
        if record.parent is None:  # how others did depends on whose weights they began with
            self._search.tell(record)

    def _branch(self, population: Population) -> Task | None:
        """A trial in the place of one of the worst."""
        records = self._journal.records
        gone = population.vacancy(records)
        if gone is None:
            self.is_waiting = any(record.state is State.RUNNING for record in records.values())
            return None
        parent, number = population.parent(gone, records), len(records)
        proposals = (population.explore(parent, self._space, number, attempt) for attempt in range(_MAX_INVALID))
        points = (self._space.point(values) for values in (*proposals, parent.values))
        point = next(point for point in points if point.config is not None)  # at the latest its parent's
        assert point.config is not None  # that is what was looked for
        return Task(self._journal.branched(number, point.values, parent=parent, instead_of=gone), point.config)

    def _searched(self) -> Task | None:
        num_invalid = attempt = 0
        while attempt < _MAX_ATTEMPTS or isinstance(self._search, GridSearch):
            number = len(self._journal.records)
            values = self._search.propose(number, attempt)
            if values is None:
                self._end("every combination was tried")
                return None
            task = self._begin(values)
            if task is not None:
                return task
            attempt += 1
            if len(self._journal.records) > number:
                num_invalid, attempt = num_invalid + 1, 0
                if num_invalid >= _MAX_INVALID:
                    self._end_invalid()
                    return None
        self._end("every combination that was proposed had been tried already")
        return None

    def _begin(self, values: Mapping[str, object], why: str = "") -> Task | None:
        """Begin a trial with these values, unless it is there already or breaks a rule."""
        point, number = self._space.point(values), len(self._journal.records)
        if any(record.values == point.values for record in self._journal.records.values()):
            return None
        if point.config is None:
            self._journal.invalid(number, point.values, point.problem)
            return None
        return Task(self._journal.started(number, point.values, why), point.config)

    def _end(self, why: str) -> None:
        self.ended_because = self.ended_because or why

    def _end_invalid(self) -> None:
        last = self._journal.records[len(self._journal.records) - 1]
        if self.num_begun == 0:
            raise ConfigError("the search space", [f"{_MAX_INVALID} proposals, and each breaks a rule: {last.reason}"])
        self._end(f"{_MAX_INVALID} proposals in a row broke a rule ({last.reason})")
