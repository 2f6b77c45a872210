"""Telemetry of a replica: metrics for Prometheus, and samples of running rollouts."""

from __future__ import annotations

from typing import Final, Literal

from llamafarm_ray.serving.telemetry.outcome import End, FinishedRequest
from llamafarm_ray.serving.telemetry.request_statistics import RecentRequests
from llamafarm_ray.serving.telemetry.rollout_windows import RolloutWindows
from llamafarm_ray.telemetry.meters import Meters

__all__ = ["OTHER", "Telemetry", "UnloadReason"]

UnloadReason = Literal["room", "unneeded"]
"""Reason for unloading an adapter: another one takes its place, or nothing needs it any more."""
OTHER: Final = "other"
"""The label of all versions beyond those that have one of their own."""
_MAX_VERSIONS = 100


class Telemetry:
    """Takes in finished requests.

    Args:
        meters: sink of the metrics.
        windows: windows that samples of rollouts are kept in.
        max_versions: number of versions with a label of their own, first come, first served. Each takes some 40 series
            in Prometheus for as long as the replica lives.

    Attributes:
        recent: recent requests by version.
        num_waiting: requests that wait for their turn at the engine.
    """

    def __init__(self, meters: Meters, windows: RolloutWindows, *, max_versions: int = _MAX_VERSIONS) -> None:
        self.windows = windows
        self.recent = RecentRequests()
        self.num_waiting = 0
        self._meters = meters
        self._max_versions = max_versions
        self._versions: set[str] = set()
        meters.set("llamafarm_queue_length", 0, {})
        meters.set("llamafarm_adapters_loaded", 0, {})
        meters.set("llamafarm_registry_reachable", 1, {})

    def finished(self, request: FinishedRequest) -> None:
        """Take in a request that the engine is done with."""
        target = request.target
        self.recent.add(target.ref, request.end, request.latency_s)
        if target.variant is not None:
            self.windows.add(target.rollout, target.variant, request.end, request.latency_s)
        model = {"model": self._label(target.ref)}
        variant = {**model, "variant": target.variant or "none"}
        self._meters.add("llamafarm_requests_total", 1, {**variant, "end": request.end})
        if request.end is End.FAILED:
            self._meters.add("llamafarm_errors_total", 1, variant)
        if request.end is End.ANSWERED:
            self._meters.observe("llamafarm_latency_seconds", request.latency_s, model)
        if request.first_token_s is not None:
            self._meters.observe("llamafarm_time_to_first_token_seconds", request.first_token_s, model)
        if request.inter_token_s is not None:
            self._meters.observe("llamafarm_inter_token_seconds", request.inter_token_s, model)
        for name, num_tokens in (("prompt", request.prompt_tokens), ("completion", request.completion_tokens)):
            if num_tokens > 0:
                self._meters.add(f"llamafarm_{name}_tokens_total", num_tokens, model)

    def queued(self, num_waiting: int) -> None:
        """Take in how many requests wait for their turn at the engine."""
        self.num_waiting = num_waiting
        self._meters.set("llamafarm_queue_length", num_waiting, {})

    def loaded(self, ref: str, num_loaded: int) -> None:
        """Take in that the engine was given an adapter, ``name:version``, and how many it has now."""
        self._meters.add("llamafarm_adapter_loads_total", 1, {"model": self._label(ref)})
        self._meters.set("llamafarm_adapters_loaded", num_loaded, {})

    def unloaded(self, ref: str, num_loaded: int, reason: UnloadReason) -> None:
        """Take in that the engine freed an adapter, why, and how many it has now."""
        self._meters.add("llamafarm_adapter_evictions_total", 1, {"model": self._label(ref), "reason": reason})
        self._meters.set("llamafarm_adapters_loaded", num_loaded, {})

    def registry_read(self, has_succeeded: bool) -> None:
        """Take in whether the registry could be read."""
        self._meters.set("llamafarm_registry_reachable", float(has_succeeded), {})

    def _label(self, ref: str) -> str:
        if ref not in self._versions:
            if len(self._versions) >= self._max_versions:
                return OTHER
            self._versions.add(ref)
        return ref
