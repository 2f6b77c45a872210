"""Merged statistics of a rollout over all replicas of an application, with the ratings of its versions."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.registry.rollouts import AbPlan
from llamafarm_ray.registry.state import RolloutRecord
from llamafarm_ray.serving.rollouts.ratings import Ratings
from llamafarm_ray.serving.telemetry.rollout_observations import Moments, Sample, Window
from llamafarm_ray.serving.telemetry.rollout_windows import Report

__all__ = ["Fleet", "FleetObservations"]

logger = logging.getLogger(__name__)

_INSTANT = dt.timedelta(microseconds=1)


class Fleet(Protocol):
    """The running replicas of an application."""

    async def reports(self, rollout: str, after: dt.datetime) -> Sequence[Report]:
        """Return the windows that ended after a time, of each replica that answers."""


class FleetObservations:
    """Source of ``Observations``: the sum of the replicas' windows, and the ratings in the store.

    Replicas keep their samples until the rollout is over, so a controller that starts again gets all of them. A
    replica that dies takes along what it has not handed over yet: to a controller that lives on that is the last
    second; one that begins anew never hears of that replica. Nothing that was handed over is ever taken back.
    """

    def __init__(self, fleet: Fleet, ratings: Ratings) -> None:
        self._fleet = fleet
        self._ratings = ratings

    async def windows(self, rollout: RolloutRecord, after: dt.datetime) -> Sequence[Window]:
        """See :meth:`Observations.windows <llamafarm_ray.serving.rollouts.Observations.windows>`.

        Evidence that another replica might still add to is left for the next time. A replica that is late, having
        answered nothing while others did, loses what it saw meanwhile.
        """
        begun = rollout.changes[0].time
        reports = await self._fleet.reports(rollout.id, after)
        if not reports:
            return []
        until = min(report.until for report in reports)
        joined = _joined(window for report in reports for window in report.windows if window.end <= until)
        clipped = (replace(window, start=max(window.start, begun)) for window in joined)
        found = [window for window in clipped if window.start >= after]
        if rollout.plan.guards.min_feedback is not None or _compares_feedback(rollout):
            baseline, candidate = await self._rated(rollout, is_anew=after == begun)
            if baseline.count + candidate.count:
                last = found.pop() if found else Window(after, max(until, after + _INSTANT), Sample(), Sample())
                found.append(
                    replace(
                        last,
                        baseline=last.baseline + Sample(ratings=baseline),
                        candidate=last.candidate + Sample(ratings=candidate),
                    )
                )
        return found

    async def _rated(self, rollout: RolloutRecord, *, is_anew: bool) -> tuple[Moments, Moments]:
        try:
            return await asyncio.to_thread(self._ratings.new, rollout, is_anew=is_anew)
        except LlamaFarmError as error:  # errors and latency are guarded without it
            logger.warning("Feedback for %s can't be read: %s", rollout.id, error)
            return Moments(), Moments()


def _compares_feedback(rollout: RolloutRecord) -> bool:
    return isinstance(rollout.plan, AbPlan) and rollout.plan.metric == "feedback"


def _joined(windows: Iterable[Window]) -> list[Window]:
    """One window for those that overlap, oldest first: the same second of several replicas, mostly."""
    joined: list[Window] = []
    for window in sorted(windows, key=lambda window: (window.start, -window.end.timestamp())):
        last = joined[-1] if joined else None
        if last is not None and window.start < last.end:
            joined[-1] = Window(
                last.start,
                max(last.end, window.end),
                last.baseline + window.baseline,
                last.candidate + window.candidate,
            )
        else:
            joined.append(window)
    return joined
