"""Health of deployed versions: what differs from the reference, who is told, and rollbacks where they are asked for."""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llamafarm_ray.errors import LlamaFarmError, NotFoundError, did_you_mean
from llamafarm_ray.evaluation.metrics import METRICS
from llamafarm_ray.evaluation.metrics.registry import Score
from llamafarm_ray.evaluation.metrics.sample import Sample
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.registry.access import Action
from llamafarm_ray.registry.references import namespace_of
from llamafarm_ray.serving.health.looks import Alarm, Health, Plan
from llamafarm_ray.serving.health.references import References
from llamafarm_ray.serving.health.signals import Difference, quantile
from llamafarm_ray.serving.journal.files import read_journal
from llamafarm_ray.serving.journal.samples import LiveSample
from llamafarm_ray.serving.journal.sketch import Sketch
from llamafarm_ray.storage import Location
from llamafarm_ray.training.alerts import Channel
from llamafarm_ray.types import ModelRef
from llamafarm_ray.workflows.move_alias import rollback

__all__ = [
    "HealthAlert",
    "VersionHealth",
    "check_health",
    "health_dict",
    "roll_back_worse",
    "said",
    "tell",
]

_ALERTS = "alerts"
"""The folder below a registry's home with the alerts that people were told of and that hold."""


@dataclass(frozen=True, slots=True)
class VersionHealth:
    """A version's health.

    Args:
        ref: ``name:version``, or the base's name.
        aliases: those that point at it.
        health: findings.
        scores: of its redacted samples, by metric; empty where there are none.
    """

    ref: str
    aliases: tuple[str, ...]
    health: Health
    scores: Mapping[str, Score] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """``degraded`` if answers got worse, ``drifted`` if requests differ, else ``stable`` or ``unknown``."""
        if self.health.window is None:
            return "unknown"
        if any(alarm.difference.signal.is_quality for alarm in self.health.current):
            return "degraded"
        return "drifted" if self.health.current else "stable"


def check_health(
    registry: RegistryApi, names: Sequence[str] = (), *, plan: Plan | None = None, since: dt.date | None = None
) -> list[VersionHealth]:
    """Look at the requests that replicas recorded.

    Args:
        registry: registry with the records.
        names: models, versions or aliases; none: all that answered requests and may be read.
        plan: reference, windows and signals of the comparison.
        since: the first day of the records; None: all that are kept.

    Raises:
        NotFoundError: nothing of that name was recorded.
    """
    registry.refresh()
    blocks: dict[str, list[Sketch]] = defaultdict(list)
    samples: dict[str, list[LiveSample]] = defaultdict(list)
    for page in read_journal(registry.home, since):
        for ref, found in page.blocks.items():
            blocks[ref] += found
        for sample in page.samples:
            samples[sample.ref].append(sample)
    readable = [ref for ref in blocks if registry.may(Action.READ, namespace_of(ref))]
    references = References(registry.home)
    return [
        VersionHealth(
            ref, _aliases(registry, ref), references.examine(ref, blocks[ref], plan or Plan()), _scores(samples[ref])
        )
        for ref in sorted(chosen_versions(registry, names, readable) if names else readable)
    ]


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


def chosen_versions(registry: RegistryApi, names: Sequence[str], recorded: Sequence[str]) -> set[str]:
    """Return the recorded versions that names mean."""
    chosen: set[str] = set()
    for name in names:
        ref = ModelRef.parse(name)
        wanted = registry.resolve(ref).ref if ref.alias or ref.version else name
        found = {one for one in recorded if wanted in {one, one.partition(":")[0]}}
        if not found:
            hint = did_you_mean(name, [*recorded, *(one.partition(":")[0] for one in recorded)])
            raise NotFoundError(f"No requests to {name!r} are on record.", hint=hint)
        chosen |= found
    return chosen


def _aliases(registry: RegistryApi, ref: str) -> tuple[str, ...]:
    name, _, version = ref.partition(":")
    model = registry.state.models.get(name)
    return tuple(model.pointing_at(version)) if model is not None and version in model.versions else ()


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
        return f"Version: {self.ref}, requests up to {_time(self.alarm.end_s)}"

    @property
    def details(self) -> Mapping[str, Any]:
        """Plain values."""
        return {"version": self.ref, "alarm": _alarm_dict(self.alarm)}


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
        versions: their health.
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
    """Roll an alias back from each version whose answers got worse; return what was done, in sentences."""
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


def health_dict(version: VersionHealth) -> dict[str, Any]:
    """Return a version's health as plain values."""
    health = version.health
    return {
        "version": version.ref,
        "aliases": list(version.aliases),
        "status": version.status,
        "requests": health.num_requests,
        "windows": health.num_looks,
        "reference": _sketch_dict(health.reference) | {"is_whole": health.is_reference_whole},
        "window": _sketch_dict(health.window) if health.window is not None else None,
        "signals": [_difference_dict(one) for one in health.latest],
        "alarms": [_alarm_dict(alarm) for alarm in health.current],
        "first_alarms": [_alarm_dict(alarm) for alarm in health.first],
        "scores": {name: {"value": one.value, "samples": one.num_measured} for name, one in version.scores.items()},
    }


def _sketch_dict(sketch: Sketch) -> dict[str, Any]:
    if not sketch.num_requests:
        return {"requests": 0}
    histograms = ("prompt_tokens", "answer_tokens", "latency", "wait")
    return {
        "requests": sketch.num_requests,
        "start": _time(sketch.start_s),
        "end": _time(sketch.end_s),
        **{
            f"{name}_p{percent}": quantile(getattr(sketch, name), percent / 100)
            for name in histograms
            for percent in (50, 95)
        },
    }


def _difference_dict(difference: Difference) -> dict[str, Any]:
    return {
        "signal": difference.signal.name,
        "what": difference.what,
        "share": difference.share,
        "reference_share": difference.reference_share,
        "effect": difference.effect,
        "p_value": difference.p_value,
        "matters": difference.matters,
    }


def _alarm_dict(alarm: Alarm) -> dict[str, Any]:
    times = {"start": _time(alarm.start_s), "end": _time(alarm.end_s)}
    return {**_difference_dict(alarm.difference), **times, "limit": alarm.limit, "requests_later": alarm.num_later}


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")
