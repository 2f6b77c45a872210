"""Division of an epoch into steps: arithmetic shared by driver and workers."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["BatchPlan"]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Division of an epoch of ``num_rows`` rows into windows, one for each optimizer step.

    A window is the same rows however many workers share it: what a step sees, and so what is learnt, does not depend
    on their number.

    Args:
        num_rows: rows of an epoch.
        batch_size: the most rows of a worker's micro-batch.
        window_rows: rows of a window, of all workers together; an epoch's last window may have fewer.
    """

    num_rows: int
    batch_size: int
    window_rows: int

    @property
    def num_windows(self) -> int:
        """Windows, and so optimizer steps, of an epoch."""
        return math.ceil(self.num_rows / self.window_rows)

    def rows_of(self, window: int) -> int:
        """Rows of the window of that number, counted from 0."""
        return min(self.window_rows, self.num_rows - window * self.window_rows)

    def num_batches(self, window: int, num_workers: int) -> int:
        """Micro-batches that every worker runs in that window."""
        share = math.ceil(self.rows_of(window) / num_workers)
        return math.ceil(share / self.batch_size)
