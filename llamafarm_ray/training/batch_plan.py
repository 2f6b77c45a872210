"""How an epoch is cut into steps: arithmetic that driver and workers share."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["IGNORED", "BatchPlan"]

IGNORED = -100
"""The label of a token that is not trained."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How an epoch of ``num_rows`` rows is cut, the same on every worker.

    Args:
        num_rows: rows of all workers together.
        num_workers: workers; each has ``num_rows / num_workers`` rows, rounded up or down.
        batch_size: rows of a micro-batch.
        accumulation: micro-batches of a window.
    """

    num_rows: int
    num_workers: int
    batch_size: int
    accumulation: int

    @property
    def window_rows(self) -> int:
        """Rows of a full window of one worker."""
        return self.batch_size * self.accumulation

    @property
    def rows_per_worker(self) -> int:
        """Rows of the worker that has most."""
        return math.ceil(self.num_rows / self.num_workers)

    @property
    def num_windows(self) -> int:
        """Windows, and so optimizer steps, of an epoch."""
        return math.ceil(self.rows_per_worker / self.window_rows)

    def num_batches(self, window: int) -> int:
        """Micro-batches of the window of that number, counted from 0."""
        rows = min(self.window_rows, self.rows_per_worker - window * self.window_rows)
        return math.ceil(rows / self.batch_size)
