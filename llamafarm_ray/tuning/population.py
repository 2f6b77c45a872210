"""Population based training (Jaderberg et al. 2017, https://arxiv.org/abs/1711.09846).

Trials train side by side and are compared at the same points. One of the worst ends there, and a new trial takes its
place: it goes on from the weights that one of the best had at that point, with settings that differ from its. So the
settings of the best model are a schedule, found while it was trained: those of its chain of parents.

A trial's settings never change here, and whose weights it began with is part of its record. That is what lets a sweep
be killed at any time and go on, and its page show what happened.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from llamafarm_ray.config import Domain
from llamafarm_ray.tuning.journal import Record, State
from llamafarm_ray.tuning.space import Space, sample

__all__ = ["Population", "ancestors"]

_FACTORS: Final = (0.8, 1.25)
"""A number is changed by one of these, as in the paper (0.8 and 1.2), but so that up and down cancel out."""


@dataclass(frozen=True, slots=True)
class Population:
    """Rules by which worse trials learn from better ones.

    Args:
        num_points: points of comparison of a whole training; after the last one there is nothing left to train.
        quantile: share of the trials that count as the worst, and as the best.
        resample_probability: probability that a setting is drawn anew.
        lower_is_better: True if the lowest metric is the best.
        seed: of every random choice.
    """

    num_points: int
    quantile: float
    resample_probability: float
    lower_is_better: bool
    seed: int

    def gives_up(self, number: int, point: int, value: float, records: Mapping[int, Record]) -> bool:
        """Return True if a trial ends here, as one of the worst that reached this point; ties go on.

        With fewer trials at that point than one quantile needs, none is the worst. A trial that goes on after an
        interruption says again what it said before; that was decided then.

        Args:
            records: of all trials, this point of this trial not yet among them.
        """
        if point >= self.num_points or point <= max(records[number].points, default=0):
            return False
        others = [
            record.points[point] for record in records.values() if record.number != number and point in record.points
        ]
        num_worst = math.floor((len(others) + 1) * self.quantile + 1e-9)
        mine = self._rank(value)
        return sum(self._rank(other) >= mine for other in others) < num_worst

    def vacancy(self, records: Mapping[int, Record]) -> Record | None:
        """The first trial that ended as one of the worst, and whose place is free."""
        taken = {record.instead_of for record in records.values()}
        free = (record for record in records.values() if record.state is State.STOPPED and record.number not in taken)
        return min(free, key=lambda record: record.number, default=None)

    def parent(self, gone: Record, records: Mapping[int, Record]) -> Record:
        """One of the best at the point at which a trial ended; which one is chance."""
        point = max(gone.points)
        there = [record for record in records.values() if point in record.points and record.number != gone.number]
        ranked = sorted(there, key=lambda record: (self._rank(record.points[point]), record.number))
        num_best = max(1, math.floor((len(there) + 1) * self.quantile + 1e-9))
        return self._chance(gone.number, "parent").choice(ranked[:num_best])

    def explore(self, parent: Record, space: Space, number: int, attempt: int) -> dict[str, object]:
        """A parent's settings, changed.

        Args:
            parent: trial whose weights are copied.
            number: the new trial's.
            attempt: from 0; counts proposals for it that break a rule.
        """
        rng = self._chance(number, attempt)
        return {key: self._changed(space.domains[key], value, rng) for key, value in parent.values.items()}

    def _changed(self, domain: Domain, value: Any, rng: random.Random) -> object:
        if rng.random() < self.resample_probability:
            return sample(domain, rng)
        if domain.is_list:
            place = next(index for index, one in enumerate(domain.values) if one == value)
            near = [index for index in (place - 1, place + 1) if 0 <= index < len(domain.values)]
            return domain.values[rng.choice(near)] if near else value
        low, high = domain.values[:2]
        changed = value * rng.choice(_FACTORS)
        if domain.kind == "quniform":
            step = domain.values[2]
            changed = low + round((changed - low) / step) * step
            high = low + math.floor((high - low) / step + 1e-9) * step
        changed = min(high, max(low, changed))
        return round(changed) if domain.kind in {"int", "log_int"} else float(f"{changed:.6g}")

    def _rank(self, value: float) -> float:
        """Return the rank of a value: lower is better, and values that are not finite are the worst."""
        if not math.isfinite(value):
            return math.inf
        return value if self.lower_is_better else -value

    def _chance(self, *what: object) -> random.Random:
        return random.Random("/".join(map(str, (self.seed, *what))))


def ancestors(record: Record, records: Mapping[int, Record]) -> Iterator[Record]:
    """The trials whose weights a trial goes back to, its parent first."""
    while record.parent is not None:
        record = records[record.parent]
        yield record
