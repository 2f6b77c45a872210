"""Metrics of a replica for Prometheus: their list, and their export through Ray.

Ray's own endpoint shows them, each with ``ray_`` before its name, beside Ray Serve's and vLLM's
(https://docs.ray.io/en/latest/cluster/metrics.html).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

__all__ = ["METERS", "Meter", "Meters", "RayMeters"]


@dataclass(frozen=True, slots=True)
class Meter:
    """One metric.

    Attributes:
        name: its name in Prometheus, without ``ray_``.
        kind: kind of metric.
        description: for people.
        labels: the names of its labels.
        bounds: upper ends of a histogram's buckets, in seconds.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    labels: tuple[str, ...] = ("model",)
    bounds: tuple[float, ...] = ()


_AGAIN_S: Final = 1.0
"""Seconds between two updates of gauges: Ray reports at most once a second (``metrics_report_interval_ms``)."""
_FIRST_TOKEN_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_INTER_TOKEN_S: Final = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
_LATENCY_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

METERS: Final = (
    Meter(
        "llamafarm_requests_total",
        "counter",
        "Requests that reached the engine: answered, refused, failed or cancelled.",
        ("model", "variant", "end"),
    ),
    Meter(
        "llamafarm_errors_total",
        "counter",
        "Requests that failed: a 5xx, or an answer that broke off.",
        ("model", "variant"),
    ),
    Meter(
        "llamafarm_latency_seconds",
        "histogram",
        "From a request's turn at the engine to the end of its answer.",
        bounds=_LATENCY_S,
    ),
    Meter(
        "llamafarm_time_to_first_token_seconds",
        "histogram",
        "From a request's turn at the engine to the first event of a stream.",
        bounds=_FIRST_TOKEN_S,
    ),
    Meter(
        "llamafarm_inter_token_seconds",
        "histogram",
        "Mean gap between the tokens of a stream.",
        bounds=_INTER_TOKEN_S,
    ),
    Meter("llamafarm_prompt_tokens_total", "counter", "Tokens of prompts."),
    Meter("llamafarm_completion_tokens_total", "counter", "Tokens of answers."),
    Meter("llamafarm_queue_length", "gauge", "Requests that wait for their turn at the engine.", ()),
    Meter("llamafarm_adapter_loads_total", "counter", "Loads of an adapter into the engine."),
    Meter(
        "llamafarm_adapter_evictions_total",
        "counter",
        "Adapters that the engine freed: to make room, or because nothing needs them any more.",
        ("model", "reason"),
    ),
    Meter("llamafarm_adapters_loaded", "gauge", "Adapters that the engine holds.", ()),
)
"""All there are."""


class Meters(Protocol):
    """Sink for a replica's metrics."""

    def add(self, name: str, amount: float, labels: Mapping[str, str]) -> None:
        """Raise a counter of :data:`METERS` by an amount above 0."""

    def observe(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Put a value into a histogram."""

    def set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Set a gauge."""


class RayMeters:
    """The metrics of this process in Ray's Prometheus endpoint.

    Ray reports a gauge once after it was set, and shows it for two intervals of its reports. So each is set again for
    as long as :meth:`keep_gauges` runs.
    """

    def __init__(self) -> None:
        from ray.util import metrics  # noqa: PLC0415  (the list above is for those without Ray too)

        kinds = {"counter": metrics.Counter, "gauge": metrics.Gauge, "histogram": metrics.Histogram}
        self._metrics: dict[str, Any] = {
            meter.name: kinds[meter.kind](
                meter.name,
                description=meter.description,
                tag_keys=meter.labels,
                **({"boundaries": list(meter.bounds)} if meter.kind == "histogram" else {}),
            )
            for meter in METERS
        }
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def add(self, name: str, amount: float, labels: Mapping[str, str]) -> None:
        """See :class:`Meters`."""
        self._metrics[name].inc(amount, tags=dict(labels))

    def observe(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """See :class:`Meters`."""
        self._metrics[name].observe(value, tags=dict(labels))

    def set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """See :class:`Meters`."""
        self._gauges[name, tuple(sorted(labels.items()))] = value
        self._metrics[name].set(value, tags=dict(labels))

    async def keep_gauges(self) -> None:
        """Set each gauge to its value again now and then, for ever."""
        while True:
            await asyncio.sleep(_AGAIN_S)
            for (name, labels), value in self._gauges.items():
                self._metrics[name].set(value, tags=dict(labels))
