"""Time budget of a sweep: trials begin only if they can end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = ["Budget"]

_SLACK = 1.1
"""Factor by which a trial may exceed its estimate."""


@dataclass(slots=True)
class Budget:
    """A length of time that all sessions of a sweep share.

    A trial begins only if a trial of the usual length would end within the budget. Trials that run when the budget is
    over are interrupted; the same command with a larger budget goes on with them.

    Args:
        limit_s: seconds in all; None for no limit.
        spent_s: seconds that earlier sessions took.
        clock: seconds, from any clock that only goes on.
    """

    limit_s: float | None
    spent_s: float = 0.0
    clock: Callable[[], float] = time.monotonic
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def left_s(self) -> float | None:
        """Seconds left, 0 at least; None for no limit."""
        if self.limit_s is None:
            return None
        return max(0.0, self.limit_s - self.spent_s - self.session_s)

    @property
    def session_s(self) -> float:
        """Seconds since this session began."""
        return self.clock() - self._began

    @property
    def is_over(self) -> bool:
        """True if nothing is left."""
        return self.left_s == 0.0

    def has_room(self, finished_s: Sequence[float]) -> bool:
        """Return True if one more trial is worth beginning.

        Args:
            finished_s: seconds that each finished trial took; without any, a trial begins while time is left.
        """
        left = self.left_s
        if left is None:
            return True
        usual = statistics.median(finished_s) * _SLACK if finished_s else 0.0
        return left > usual
