"""Outcomes of a simulation's requests, and their summary."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Outcome", "Summary", "percentile", "summarize"]

QUANTILES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request. Times are seconds from the start of the simulation.

    Args:
        due_s: scheduled time.
        sent_s: time at which the client sent it.
        first_s: arrival of the answer's first token; None if it was not streamed, or never came.
        done_s: end of the answer, or of the attempt.
        failure: kind of failure, such as ``HTTP 503`` or ``timeout``; empty for an answer.
        model: model named by the answer.
        is_last: True for the last turn of its session.
    """

    session: int
    due_s: float
    sent_s: float
    first_s: float | None
    done_s: float
    num_tokens: int = 0
    failure: str = ""
    model: str = ""
    is_last: bool = True

    @property
    def latency_s(self) -> float:
        """Seconds from the scheduled time to the end of the answer."""
        return self.done_s - self.due_s


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of a simulation. Latencies are those of answers alone, counted from each request's scheduled time.

    Args:
        num_completed_sessions: sessions in which every turn got an answer that is not empty.
        failures: number of failed requests by kind.
        latencies_s: sorted latencies.
        first_tokens_s: sorted times to the first token of streamed answers.
        span_s: from the start to the last answer.
        client_lag_s: 99th percentile of the time that the client itself was late.
        models: answers by the model that they name.
    """

    num_sessions: int
    num_completed_sessions: int
    num_requests: int
    failures: dict[str, int]
    latencies_s: list[float]
    first_tokens_s: list[float]
    num_tokens: int
    span_s: float
    client_lag_s: float
    models: dict[str, int] = field(default_factory=dict)

    @property
    def num_failed(self) -> int:
        """Number of failed requests."""
        return sum(self.failures.values())

    @property
    def error_rate(self) -> float:
        """Share of requests that failed; 1 if none was sent."""
        return self.num_failed / self.num_requests if self.num_requests else 1.0

    @property
    def task_completion_rate(self) -> float:
        """Share of sessions that were completed; 0 if none began."""
        return self.num_completed_sessions / self.num_sessions if self.num_sessions else 0.0

    @property
    def is_client_late(self) -> bool:
        """Return True if the client's own lateness is more than a twentieth of the 99th percentile."""
        p99_s = percentile(self.latencies_s, 0.99)
        return p99_s is not None and self.client_lag_s > p99_s / 20

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for JSON; those of an empty set are missing."""
        span = self.span_s or math.inf
        found: dict[str, object] = {
            "num_sessions": self.num_sessions,
            "num_requests": self.num_requests,
            "num_answers": len(self.latencies_s),
            "num_failed": self.num_failed,
            "failures": self.failures,
            "answers_per_second": len(self.latencies_s) / span,
            "tokens_per_second": self.num_tokens / span,
            "latency_s": _quantiles(self.latencies_s),
            "time_to_first_token_s": _quantiles(self.first_tokens_s),
            "client_lag_p99_s": self.client_lag_s,
            "models": self.models,
        }
        return {name: value for name, value in found.items() if value != {}}


def summarize(outcomes: Iterable[Outcome], *, num_sessions: int) -> Summary:
    """Return the figures of all outcomes.

    Args:
        outcomes: in any order.
    """
    known = list(outcomes)
    answers = [one for one in known if not one.failure]
    by_session: dict[int, list[Outcome]] = defaultdict(list)
    for one in known:
        by_session[one.session].append(one)
    completed = sum(
        any(one.is_last for one in turns) and all(not one.failure and one.num_tokens for one in turns)
        for turns in by_session.values()
    )
    return Summary(
        num_sessions=num_sessions,
        num_completed_sessions=completed,
        num_requests=len(known),
        failures=dict(sorted(Counter(one.failure for one in known if one.failure).items())),
        latencies_s=sorted(one.latency_s for one in answers),
        first_tokens_s=sorted(one.first_s - one.due_s for one in answers if one.first_s is not None),
        num_tokens=sum(one.num_tokens for one in answers),
        span_s=max((one.done_s for one in known), default=0.0),
        client_lag_s=percentile(sorted(one.sent_s - one.due_s for one in known), 0.99) or 0.0,
        models=dict(sorted(Counter(one.model for one in answers if one.model).items())),
    )


def percentile(ordered: Sequence[float], quantile: float) -> float | None:
    """Return the smallest value that at least the share ``quantile`` does not exceed; None for no values.

    This is the nearest-rank method: the result is a value that was measured.
    """
    if not ordered:
        return None
    # 0.99 * 100 is a little above 99 in floating point.
    return ordered[max(0, math.ceil(quantile * len(ordered) - 1e-9) - 1)]


def _quantiles(ordered: Sequence[float]) -> dict[str, float]:
    if not ordered:
        return {}
    found = {f"p{quantile * 100:g}": percentile(ordered, quantile) or 0.0 for quantile in QUANTILES}
    return {"mean": math.fsum(ordered) / len(ordered), **found, "max": ordered[-1]}
