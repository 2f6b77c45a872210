"""Service-level objectives such as ``p95<800ms`` or ``error_rate<1%``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.load.outcomes import Outcome, Summary, percentile

__all__ = ["Target", "parse_targets"]

Measure = Literal["latency", "ttft", "error_rate"]
_LATENCY: Final = re.compile(
    r"(?:(ttft|latency)[_ ])?p(\d{1,2}(?:\.\d{1,3})?)\s*(<=?)\s*(\d{1,9}(?:\.\d{1,9})?)\s*(ms|s)"
)
_ERRORS: Final = re.compile(r"error_rate\s*(<=?)\s*(\d{1,3}(?:\.\d{1,9})?)\s*(%?)")


@dataclass(frozen=True, slots=True)
class Target:
    """One objective.

    A percentile of latencies counts a failed request as one that is never answered: a server that refuses most
    requests does not reach its target by the few that it answers.

    Args:
        quantile: 0 to 1 for latencies.
        limit: seconds, or the share of errors.
        is_strict: True for ``<``, False for ``<=``.
    """

    spelling: str
    measure: Measure
    quantile: float
    limit: float
    is_strict: bool

    def value(self, summary: Summary) -> float | None:
        """Return the measured figure; None for a percentile that only failed requests reach."""
        if self.measure == "error_rate":
            return summary.error_rate
        known = summary.latencies_s if self.measure == "latency" else summary.first_tokens_s
        ordered = known + [float("inf")] * (summary.num_requests - len(known))
        value = percentile(ordered, self.quantile)
        return None if value == float("inf") else value

    def holds(self, summary: Summary) -> bool:
        """Return True if the objective is kept."""
        value = self.value(summary)
        return value is not None and self._allows(value)

    def is_broken_by(self, outcome: Outcome) -> bool:
        """Return True if this request alone misses the limit."""
        if outcome.failure:
            return True
        if self.measure == "error_rate":
            return False
        done_s = outcome.first_s if self.measure == "ttft" else outcome.done_s
        return done_s is None or not self._allows(done_s - outcome.due_s)

    @property
    def allowed_share(self) -> float:
        """Share of requests that may miss the limit."""
        return self.limit if self.measure == "error_rate" else 1 - self.quantile

    def _allows(self, value: float) -> bool:
        return value < self.limit if self.is_strict else value <= self.limit


def parse_targets(texts: Iterable[str]) -> tuple[Target, ...]:
    """Read objectives: ``p95<800ms``, ``ttft_p99<=0.5s``, ``error_rate<1%``; several may stand with commas between.

    Raises:
        InputError: one has another form, or no server could keep it.
    """
    targets = tuple(_parse(part.strip()) for text in texts for part in text.split(","))
    if not targets:
        raise InputError("No objective was given.", hint="Write one such as p95<800ms.")
    return targets


def _parse(text: str) -> Target:
    if match := _LATENCY.fullmatch(text):
        quantile, limit = float(match[2]) / 100, float(match[4]) * (0.001 if match[5] == "ms" else 1)
        if quantile > 0 and limit > 0:
            return Target(text, "ttft" if match[1] == "ttft" else "latency", quantile, limit, match[3] == "<")
    elif match := _ERRORS.fullmatch(text):
        limit = float(match[2]) / (100 if match[3] else 1)
        if limit <= 1 and (limit > 0 or match[1] == "<="):
            return Target(text, "error_rate", 0.0, limit, match[1] == "<")
    raise InputError(f"{text!r} is no objective.", hint="Write p95<800ms, ttft_p99<500ms or error_rate<1%.")
