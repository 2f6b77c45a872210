"""Settings of a run's observers, chosen and checked by the driver."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from llamafarm_ray.config import Config, Monitoring, config_digest, recorded
from llamafarm_ray.telemetry.traces import traceparent, traces_endpoint
from llamafarm_ray.training.monitoring.alerts import Destinations
from llamafarm_ray.training.monitoring.history import History
from llamafarm_ray.training.monitoring.report import RunPage
from llamafarm_ray.training.monitoring.tracking import Outcome, Trackers

__all__ = ["ObserverSettings"]


@dataclass(frozen=True, slots=True)
class ObserverSettings:
    """Settings that the driver decides and the first worker needs.

    They hold secrets, so they are never shown or stored.

    Args:
        name: the run's, for people.
        run_id: the same for all attempts at one run; a run that is begun anew adds a suffix of its own.
        config: the whole configuration without secrets.
        facts: digests, method, strategy and the like.
        reasons: reasons for choices that were left open.
        trackers: trackers that get the numbers.
        timeout_s: the longest that a tracker may hold up the end of a run, or not answer in it.
        traces: URL that spans are sent to, or None, and the driver's span.
    """

    name: str
    run_id: str
    monitoring: Monitoring
    config: Mapping[str, object]
    facts: Mapping[str, object]
    reasons: tuple[str, ...]
    trackers: Trackers
    destinations: Destinations
    timeout_s: float = 30.0
    traces: tuple[str | None, str] = (None, "")

    @classmethod
    def of(
        cls, config: Config, *, run_id: str, facts: Mapping[str, object] | None = None, reasons: Sequence[str] = ()
    ) -> Self:
        """Choose and check, in the driver.

        Args:
            run_id: letters, digits, ``-`` and ``_``.
            facts: further records: base model, dataset and their digests, method, strategy, precision.
            reasons: reasons for choices that were left open; trackers add theirs.

        Raises:
            UserError: a tracker's package is not installed, or a variable of the environment is not set.
        """
        trackers = Trackers.choose(config.monitoring, experiment=config.name)
        return cls(
            config.name,
            run_id,
            config.monitoring,
            recorded(config),
            {"config_digest": config_digest(config), **(facts or {})},
            (*reasons, *trackers.notes),
            trackers,
            Destinations.find(config.monitoring.alerting),
            traces=(traces_endpoint(config.deployment.otlp_traces_endpoint, os.environ), traceparent()),
        )

    def page(
        self, history: History, outcome: Outcome, message: str, facts: Mapping[str, object] | None = None
    ) -> RunPage:
        """Return the report of a run that has ended.

        Args:
            message: the error of a failed run, or why one was stopped; else empty.
            facts: present facts, besides these settings' own.
        """
        return RunPage(
            name=self.name,
            run_id=history.run_id,
            outcome=outcome,
            history=history,
            config=self.config,
            facts={**self.facts, **(facts or {})},
            reasons=self.reasons,
            warnings=history.warnings,
            message=message,
        )
