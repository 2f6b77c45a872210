"""Detectors of problems in a run: functions of its numbers, without clock, thread or network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, Self

from llamafarm_ray.config import Alerting

__all__ = ["Alert", "AlertKind", "EarlyStopping", "Limits", "RunWatch", "Smoothed"]

AlertKind = Literal["loss_threshold", "quality_degradation", "divergence", "nan", "stall", "failure"]

WARM_UP_STEPS: Final = 10
"""Steps before the smoothed loss means anything: its best and its beginning are taken from there on."""

_DECAY: Final = 0.9
_DIVERGED: Final = 1.5
_CLEAR: Final = 0.5


@dataclass(frozen=True, slots=True)
class Alert:
    """Something noticed.

    Args:
        text: a sentence that says what, with its numbers.
    """

    kind: AlertKind
    step: int
    text: str
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that raise an alert; see `config.Alerting`."""

    loss_threshold: float | None = None
    quality_degradation: float | None = None
    divergence: bool = True

    @classmethod
    def of(cls, alerting: Alerting) -> Self:
        """From the configuration."""
        return cls(alerting.loss_threshold, alerting.quality_degradation, alerting.divergence)


class Smoothed:
    """An exponentially weighted mean, corrected for its beginning as Adam's are (Kingma and Ba 2015, section 3)."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._weight = 0.0

    def add(self, value: float) -> float:
        """Take in a value; return the mean."""
        self._sum = _DECAY * self._sum + (1 - _DECAY) * value
        self._weight = _DECAY * self._weight + (1 - _DECAY)
        return self._sum / self._weight


class _Latch:
    """On above a limit, and off only well below it again, so that a value around it raises one alert."""

    def __init__(self) -> None:
        self._is_on = False

    def update(self, value: float, limit: float) -> bool:
        """Take in a value; return True if an alert begins now."""
        if self._is_on:
            self._is_on = value > limit * _CLEAR
            return False
        self._is_on = value > limit
        return self._is_on


class RunWatch:
    """Detectors of problems in each step's loss and each validation's. Each alert once until it clears.

    Losses are smoothed over some ten steps before they are compared. A rise clears at half of its limit.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._smoothed = Smoothed()
        self._num_losses = 0
        self._best = math.inf
        self._begin = math.inf
        self._best_quality: dict[str, float] = {}
        self._latches: dict[str, _Latch] = {}

    def step(self, step: int, loss: float) -> list[Alert]:
        """A step's training loss."""
        if not math.isfinite(loss):
            return self.not_finite("loss", loss, step)
        mean = self._smoothed.add(loss)
        self._num_losses += 1
        if self._num_losses < WARM_UP_STEPS:
            return []
        if self._num_losses == WARM_UP_STEPS:
            self._begin = mean
        self._best = min(self._best, mean)
        found = []
        rise, limit = mean - self._best, self._limits.loss_threshold
        if limit is not None and self._raises("loss_threshold", rise, limit):
            text = f"The loss rose to {mean:.4g}, {rise:.3g} above its lowest, {self._best:.4g} (limit {limit:g})."
            found.append(Alert("loss_threshold", step, text, mean, self._best + limit))
        if self._limits.divergence:
            diverged = self._best + (_DIVERGED - 1) * abs(self._best)
            above = max(diverged, self._begin)
            if self._raises("divergence", mean - self._best, above - self._best):
                text = (
                    f"The loss diverged: {mean:.4g}, after {self._begin:.4g} at the start and {self._best:.4g} at best."
                )
                found.append(Alert("divergence", step, text, mean, above))
        return found

    def quality(self, step: int, name: str, value: float, *, higher_is_better: bool = False) -> list[Alert]:
        """A measure of quality, such as the validation loss.

        Args:
            name: of the measure; each has a best value of its own.
            higher_is_better: False for losses.
        """
        if not math.isfinite(value):
            return self.not_finite(name, value, step)
        sign = -1.0 if higher_is_better else 1.0
        best = min(self._best_quality.get(name, math.inf), sign * value)
        self._best_quality[name] = best
        share = self._limits.quality_degradation
        if share is None:
            return []
        worse = sign * value - best
        if not self._raises(f"quality:{name}", worse, share * abs(best)):
            return []
        percent = f"{worse / abs(best):.1%}" if best else "from 0"
        text = f"The {name} got worse by {percent}: {value:.4g}, after {sign * best:.4g} at best (limit {share:.1%})."
        return [Alert("quality_degradation", step, text, value, sign * (best + share * abs(best)))]

    def not_finite(self, what: str, value: float, step: int) -> list[Alert]:
        """A number that is none."""
        if not self._raises("nan", 1.0, 0.5):
            return []
        return [Alert("nan", step, f"The {what} is {value} at step {step}.", value)]

    def idle(self, step: int, seconds: float, limit_s: float) -> list[Alert]:
        """Raise an alert when the last sign of life is too long ago; clear it at the next one.

        Args:
            seconds: since then.
            limit_s: limit in seconds.
        """
        if not self._raises("stall", seconds, limit_s):
            return []
        text = f"No step has ended for {seconds:.0f} s, since step {step} (limit {limit_s:g} s)."
        return [Alert("stall", step, text, seconds, limit_s)]

    def _raises(self, name: str, value: float, limit: float) -> bool:
        return self._latches.setdefault(name, _Latch()).update(value, limit)


class EarlyStopping:
    """Early stopping by the validation loss (Prechelt 1998, "Early Stopping - But When?").

    Args:
        patience: validations in a row without a better loss before the run ends.
        least_gain: least decrease of a loss that counts as better.
    """

    def __init__(self, patience: int, least_gain: float = 0.0) -> None:
        self._patience = patience
        self._least_gain = least_gain
        self.best = math.inf
        self.best_step = 0
        self.num_worse = 0

    def update(self, step: int, loss: float) -> bool:
        """Take in a validation loss; return whether the run shall end. A loss that is no number is not better."""
        if loss < self.best - self._least_gain:
            self.best, self.best_step, self.num_worse = loss, step, 0
        else:
            self.num_worse += 1
        return self.num_worse >= self._patience
