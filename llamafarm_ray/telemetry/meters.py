"""Metrics for Prometheus, and their export through Ray.

Ray's own endpoint shows them, each with ``ray_`` before its name, beside Ray Serve's and vLLM's
(https://docs.ray.io/en/latest/cluster/metrics.html).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from ray.util.metrics import Metric

__all__ = ["Meter", "Meters", "RayMeters"]


@dataclass(frozen=True, slots=True)
class Meter:
    """One metric.

    Attributes:
        name: its name in Prometheus, without ``ray_``.
        description: for people.
        bounds: upper ends of a histogram's buckets, in seconds.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    labels: tuple[str, ...] = ("model",)
    bounds: tuple[float, ...] = ()


_AGAIN_S: Final = 1.0
"""Seconds between two updates of gauges: Ray reports at most once a second (``metrics_report_interval_ms``)."""


class Meters(Protocol):
    """Sink for metrics."""

    def add(self, name: str, amount: float, labels: Mapping[str, str]) -> None:
        """Raise a counter by an amount above 0."""

    def observe(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Put a value into a histogram."""

    def set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Set a gauge."""


class RayMeters:
    """Metrics of this process in Ray's Prometheus endpoint.

    Ray reports a gauge once after it was set, and shows it for two intervals of its reports. So each is set again for
    as long as :meth:`keep_gauges` runs, or the thread of :meth:`keep_gauges_until`.

    Args:
        meters: the metrics, of :mod:`llamafarm_ray.telemetry.catalog`.
    """

    def __init__(self, meters: Sequence[Meter]) -> None:
        from ray.util import metrics  # the catalog is for those without Ray too

        kinds = {"counter": metrics.Counter, "gauge": metrics.Gauge, "histogram": metrics.Histogram}
        self._metrics: dict[str, Metric] = {
            meter.name: kinds[meter.kind](
                meter.name,
                description=meter.description,
                tag_keys=meter.labels,
                **({"boundaries": list(meter.bounds)} if meter.kind == "histogram" else {}),
            )
            for meter in meters
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

    def forget(self, name: str) -> None:
        """Stop showing a gauge with any labels, before it is set anew."""
        for key in [key for key in self._gauges if key[0] == name]:
            del self._gauges[key]

    async def keep_gauges(self) -> None:
        """Set each gauge to its value again now and then, for ever."""
        while True:
            await asyncio.sleep(_AGAIN_S)
            self._set_again()

    def keep_gauges_until(self, ended: threading.Event, refresh: Callable[[], object] = lambda: None) -> None:
        """Start a thread that does as :meth:`keep_gauges` until an event is set.

        Args:
            ended: set when the gauges are to go.
            refresh: called before each turn, to set gauges that change by themselves.
        """

        def keep() -> None:
            while not ended.wait(_AGAIN_S):
                refresh()
                self._set_again()

        threading.Thread(target=keep, name="llamafarm-gauges", daemon=True).start()

    def _set_again(self) -> None:
        for (name, labels), value in list(self._gauges.items()):
            self._metrics[name].set(value, tags=dict(labels))
