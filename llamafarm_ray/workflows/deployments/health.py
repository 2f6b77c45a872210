"""Health of deployed versions: differences from the reference, alerts, and rollbacks on request."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from llamafarm_ray.config import Config
from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.evaluation.metrics import METRICS
from llamafarm_ray.evaluation.metrics.registry import Score
from llamafarm_ray.evaluation.metrics.sample import Sample
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.registry.references import namespace_of
from llamafarm_ray.serving.health.detectors import check_river, river_changes
from llamafarm_ray.serving.health.looks import Alarm, Plan
from llamafarm_ray.serving.health.references import References
from llamafarm_ray.serving.health.signals import Difference
from llamafarm_ray.serving.health.versions import (
    Recorded,
    VersionHealth,
    alarm_dict,
    chosen_versions,
    utc_time,
)
from llamafarm_ray.serving.journal.samples import LiveSample
from llamafarm_ray.storage import Location
from llamafarm_ray.training.monitoring.alerts import Channel
from llamafarm_ray.workflows.deployments.move_alias import rollback
from llamafarm_ray.workflows.evaluation.question_perplexity import question_perplexity

__all__ = ["HealthAlert", "accept_changes", "check_health", "roll_back_worse", "said", "tell"]

_ALERTS = "alerts"
"""The folder below a registry's home with the alerts that people were told of and that hold."""


def check_health(
    registry: RegistryApi,
    names: Sequence[str] = (),
    *,
    plan: Plan | None = None,
    perplexity: Config | None = None,
    river: bool = False,
) -> list[VersionHealth]:
    """Look at the requests that replicas recorded.

    Args:
        names: models, versions or aliases; none: all that answered requests and may be read.
        plan: reference, windows and signals of the comparison.
        perplexity: the configuration by which the base models' perplexity of sampled questions is measured; None
            measures none.
        river: True to look with river's detector too.

    Raises:
        UnsupportedError: river is not installed.
        NotFoundError: nothing of that name was recorded.
    """
    if river:
        check_river()
    registry.refresh()
    recorded = Recorded.read(registry.home)
    readable = [ref for ref in recorded.blocks if registry.may(Action.READ, namespace_of(ref))]
    wanted = chosen_versions(registry.resolve, names, readable) if names else readable
    references = References(registry.home)
    found = (recorded.look(ref, references, registry.state, plan or Plan()) for ref in sorted(wanted))
    scored = [replace(one, scores=_scores(recorded.samples.get(one.ref, ()))) for one in found]
    if river:
        scored = [
            replace(one, changes=tuple(river_changes(recorded.blocks[one.ref], one.health.reference))) for one in scored
        ]
    if perplexity is None:
        return scored
    return [_with_perplexity(perplexity, registry, one, recorded.samples.get(one.ref, ())) for one in scored]


def _with_perplexity(
    config: Config, registry: RegistryApi, version: VersionHealth, samples: Sequence[LiveSample]
) -> VersionHealth:
    """Return a version's health with the base's perplexity of its sampled questions, or the trouble with it."""
    if not samples:
        return replace(version, trouble="No questions are sampled: deployment.journal.sample_rate is 0.")
    reference = version.health.reference
    if not reference.num_requests:
        return replace(version, trouble="No requests are in the reference yet, so there is nothing to compare with.")
    times = (reference.start_s, reference.end_s)
    try:
        return replace(version, perplexity=question_perplexity(config, registry, version.ref, samples, times))
    except LlamaFarmError as error:
        return replace(version, trouble=str(error))


def accept_changes(registry: RegistryApi, versions: Iterable[VersionHealth]) -> list[str]:
    """Begin new references for versions whose requests or answers changed, from the next request on.

    Returns:
        the changes, in sentences.

    Raises:
        AccessDeniedError: it takes the right to record metrics.
        StorageError: it could not be kept.
    """
    done = []
    for version in versions:
        if version.health.current:
            registry.allow(Action.RECORD_METRICS, namespace_of(version.ref), target=version.ref)
            References(registry.home).begin(version.ref, dt.datetime.now(dt.UTC).timestamp())
            done.append(f"{version.ref} has a new reference, from now on.")
    return done


def _scores(samples: Sequence[LiveSample]) -> dict[str, Score]:
    """Measure what can be measured without right answers."""
    made = [
        Sample(answer=one.answer, question=one.question, num_tokens=one.num_tokens, seconds=one.seconds)
        for one in samples
    ]
    scores = {name: metric.measure(made) for name, metric in METRICS.items()} if made else {}
    return {name: score for name, score in scores.items() if score.value is not None}


@dataclass(frozen=True, slots=True)
class HealthAlert:
    """An alarm of a version, as people are told of it."""

    ref: str
    alarm: Alarm

    @property
    def title(self) -> str:
        """One line."""
        return f"llamafarm {self.ref}: {self.alarm.difference.signal.says} changed"

    @property
    def text(self) -> str:
        """A sentence with the figures."""
        return said(self.alarm.difference)

    @property
    def footer(self) -> str:
        """The version and the time."""
        return f"Version: {self.ref}, requests up to {utc_time(self.alarm.end_s)}"

    @property
    def details(self) -> Mapping[str, object]:
        """Plain values."""
        return {"version": self.ref, "alarm": alarm_dict(self.alarm)}


def said(difference: Difference) -> str:
    """Put a difference in a sentence."""
    signal = difference.signal
    what = signal.says if difference.what.startswith("num_") else f"{signal.says} ({difference.what})"
    return (
        f"The share of {what} is {difference.share:.1%} of {difference.total:,}, after "
        f"{difference.reference_share:.1%} in the reference."
    )


def tell(home: Location, versions: Iterable[VersionHealth], channels: Sequence[Channel]) -> tuple[list[str], list[str]]:
    """Tell people of each alarm once, until it is over; however many processes look.

    Args:
        home: the registry's home, where what was told is kept.
        channels: destinations of the alerts.

    Returns:
        titles of the alerts that are new; sentences on channels that took none.
    """
    told, problems = [], []
    for version in versions:
        current = {alarm.difference.signal.name: alarm for alarm in version.health.current}
        folder = f"{_ALERTS}/{version.ref.replace(':', '/')}"
        known = {name.removesuffix(".json") for name in home.names(folder)}
        for name in known - current.keys():
            home.remove(f"{folder}/{name}.json")
        for name, alarm in current.items():
            alert = HealthAlert(version.ref, alarm)
            try:
                home.create(f"{folder}/{name}.json", json.dumps(alert.details).encode())
            except FileExistsError:
                continue
            told.append(alert.title)
            for channel in channels:
                try:
                    channel.send(alert)
                except OSError as error:
                    problems.append(f"{alert.title}: not sent by {channel.name}: {error}.")
    return told, problems


def roll_back_worse(registry: RegistryApi, versions: Iterable[VersionHealth], alias: str) -> list[str]:
    """Roll an alias back from each version whose answers got worse; return the actions in sentences."""
    done = []
    for version in versions:
        if version.status != "degraded" or alias not in version.aliases:
            continue
        worse = [alarm.difference for alarm in version.health.current if alarm.difference.signal.is_quality]
        name = version.ref.partition(":")[0]
        try:
            moved = rollback(registry, name, alias, reason=f"health: {said(worse[0])}")
        except LlamaFarmError as error:
            done.append(f"{name}@{alias} was not rolled back: {error}")
        else:
            done += [f"{name}@{alias} is rolled back to {moved.record.ref}.", *moved.notes]
    return done
