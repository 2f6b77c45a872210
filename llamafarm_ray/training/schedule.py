"""The learning rate as a pure function of the step, so that there is no state to save or to lose."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llamafarm_ray.training.decided import DecidedTraining

__all__ = ["Schedule"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Linear warm-up to the peak, then ``constant``, ``linear`` to zero, or half a ``cosine`` to zero.

    Args:
        peak: the highest rate.
        num_warmup_steps: steps until the peak is reached; the first step already learns.
        num_steps: steps of the run; the last one still learns.
    """

    kind: str
    peak: float
    num_warmup_steps: int
    num_steps: int

    @classmethod
    def of(cls, training: DecidedTraining, num_steps: int) -> Schedule:
        """Return the configured schedule of a run."""
        warmup = training.warmup_steps
        if warmup is None:
            warmup = math.ceil(training.warmup_ratio * num_steps)
        return cls(str(training.lr_scheduler), training.learning_rate, min(warmup, num_steps), num_steps)

    def at(self, step: int) -> float:
        """The rate of ``step``, counted from 0."""
        if step < self.num_warmup_steps:
            return self.peak * (step + 1) / self.num_warmup_steps
        left = 1 - (step - self.num_warmup_steps) / max(1, self.num_steps - self.num_warmup_steps)
        match self.kind:
            case "linear":
                return self.peak * left
            case "cosine":
                return self.peak * 0.5 * (1 - math.cos(math.pi * left))
            case _:
                return self.peak
