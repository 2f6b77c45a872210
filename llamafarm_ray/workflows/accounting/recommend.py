"""Recommended savings: the estimate of each, and its measured effect once it was followed.

Each recommendation is kept below the home with the figures that it was made from. When what it asks for was done, the
same figures are taken again from the days since, and their difference is the measured saving.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, Self

from llamafarm_ray.errors import InputError, LlamaFarmError
from llamafarm_ray.models.adapters.rank import used_rank
from llamafarm_ray.registry import DeploymentRecorded, RegistryApi, VersionRecord
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.registry.references import namespace_of
from llamafarm_ray.serving.journal.files import Page, read_journal
from llamafarm_ray.serving.journal.usage import Used
from llamafarm_ray.types import ModelKind, ModelRef
from llamafarm_ray.workflows.accounting.usage import last_days

__all__ = ["Recommendation", "Saving", "recommend_savings"]

Kind = Literal["undeploy", "merge", "lower_rank", "fewer_replicas"]

_FOLDER: Final = "recommendations"
_LONE: Final = 0.95
"""The share of an application's tokens from which an adapter is alone."""
_MIN_REQUESTS: Final = 1000
_LEAST_S: Final = 86400.0
"""Least seconds on record of an application: a day, since the hours differ."""
_BUSY: Final = 16.0
"""Requests at once that a replica is meant for: the default of auto_scaling.target_ongoing_requests."""
_HEADROOM: Final = 2.0


@dataclass(frozen=True, slots=True)
class Saving:
    """An amount that is saved.

    Args:
        unit: ``bytes``, ``device hours a day``, or ``percent of the time for a token``.
    """

    amount: float
    unit: str

    @property
    def text(self) -> str:
        """For people."""
        if self.unit == "bytes":
            return f"{self.amount / 1e6:,.4g} MB"
        return f"{self.amount:,.3g} {self.unit}"


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Something that would save devices, memory or time.

    Args:
        subject: the version or application.
        action: the command to type.
        before: the figure that the measured saving is taken from.
        goal: the rank or the number of replicas; 0 where there is none.
        made: time of its first making, ISO 8601.
        measured: measured saving; None until it was followed and measured.
    """

    kind: Kind
    subject: str
    application: str
    reason: str
    action: str
    predicted: Saving
    before: float = 0.0
    goal: int = 0
    made: str = ""
    measured: Saving | None = None

    @property
    def file(self) -> str:
        """Its name below the home."""
        return f"{_FOLDER}/{self.kind}/{self.application}/{self.subject.replace(':', '/')}.json"

    def to_dict(self) -> dict[str, object]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read plain values.

        Raises:
            InputError: they are no recommendation.
        """
        try:
            measured = Saving(**values["measured"]) if values.get("measured") else None
            return cls(**{**values, "predicted": Saving(**values["predicted"]), "measured": measured})
        except (KeyError, TypeError) as error:
            raise InputError(f"These values are no recommendation: {error!r}.") from None


@dataclass(frozen=True, slots=True)
class _Application:
    """Records of an application's replicas on the days of the evaluation.

    Args:
        pages: one of each replica and day.
        record: the deployment on record; None if it is gone.
    """

    pages: Sequence[Page]
    record: DeploymentRecorded | None

    def used(self) -> dict[str, Used]:
        """Return usage by version."""
        found: dict[str, Used] = defaultdict(Used)
        for page in self.pages:
            for key, used in page.usage.rows.items():
                found[key.ref].take_in(used)
        return found

    @property
    def num_replicas(self) -> int:
        """Replicas of the last day, counted by the time that they ran."""
        last = max((page.day for page in self.pages), default=None)
        return len([page for page in self.pages if page.day == last and page.end_s >= self._end_s - _STALE_S])

    @property
    def spanned_s(self) -> float:
        """Seconds from the first to the last record."""
        return self._end_s - min((page.start_s for page in self.pages), default=self._end_s)

    @property
    def _end_s(self) -> float:
        return max((page.end_s for page in self.pages), default=0.0)

    @property
    def busiest(self) -> float:
        """Requests at once in the busiest hour of any day, all replicas together."""
        hours: dict[tuple[dt.date, int], float] = defaultdict(float)
        for page in self.pages:
            for hour, seconds in enumerate(page.usage.hours_s):
                hours[page.day, hour] += seconds / 3600
        return max(hours.values(), default=0.0)

    @property
    def device_hours_a_day(self) -> float:
        """CPU or GPU hours of its replicas on a day, from the time between the first and the last record."""
        days = max(self.spanned_s / 86400, 1 / 24)
        return sum(page.seconds * (page.num_gpus or page.num_cpus) for page in self.pages) / 3600 / days


_STALE_S: Final = 900.0
"""A replica writes at least every ten minutes: one that has not for longer is gone."""


def recommend_savings(registry: RegistryApi, *, days: int = 7) -> list[Recommendation]:
    """Recommend savings, and measure the effect of earlier recommendations that were followed.

    Args:
        days: days that are looked at, today included.

    Returns:
        those that are open first, then those that were followed.
    """
    registry.refresh()
    pages: dict[str, list[Page]] = defaultdict(list)
    for page in read_journal(registry.home, last_days(days)):
        pages[page.application].append(page)
    records = registry.state.deployments
    applications = {name: _Application(pages.get(name, []), records.get(name)) for name in sorted({*pages, *records})}
    known = {one.file: one for one in _stored(registry)}
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    found: dict[str, Recommendation] = {}
    for name, application in applications.items():
        for one in _of_application(registry, name, application):
            if registry.may(Action.READ, namespace_of(one.subject)):
                found[one.file] = replace(one, made=known[one.file].made if one.file in known else now)
    followed = []
    for file, old in known.items():
        if file not in found and registry.may(Action.READ, namespace_of(old.subject)):
            measured = _measured(registry, old, applications.get(old.application))
            if measured is not None:
                followed.append(replace(old, measured=measured))
    for one in [*found.values(), *followed]:
        if known.get(one.file) != one:
            registry.home.write(one.file, json.dumps(one.to_dict()).encode())
    return [*found.values(), *followed]


def _stored(registry: RegistryApi) -> Iterator[Recommendation]:
    for file in registry.home.walk(_FOLDER):
        try:
            yield Recommendation.from_dict(json.loads(registry.home.read(file.name)))
        except (InputError, ValueError, FileNotFoundError):  # another release's, or removed meanwhile
            continue


def _of_application(registry: RegistryApi, name: str, application: _Application) -> Iterator[Recommendation]:
    if application.record is None or application.spanned_s < _LEAST_S:
        return
    used = application.used()
    yield from _idle(registry, name, application.record, application, used)
    yield from _lone(registry, name, application.record, used)
    yield from _ranks(registry, name, used)
    yield from _replicas(name, application)


def _idle(
    registry: RegistryApi, name: str, record: DeploymentRecorded, application: _Application, used: dict[str, Used]
) -> Iterator[Recommendation]:
    """Yield adapters that are preloaded, but had no requests."""
    for ref in record.adapters:
        version = _version(registry, ref)
        if version is None or ref in used:
            continue
        size = version.registered.size_bytes * max(1, application.num_replicas)
        yield Recommendation(
            "undeploy",
            ref,
            name,
            f"no request in {_spanned(application)}, and {name} loads it when it starts.",
            f"Leave {ref} out of deployment.adapters, and deploy again.",
            Saving(size, "bytes"),
            before=size,
        )


def _lone(
    registry: RegistryApi, name: str, record: DeploymentRecorded, used: dict[str, Used]
) -> Iterator[Recommendation]:
    """Adapter with nearly all tokens of an application: merged, it needs no computation of its own."""
    total = sum(one.num_tokens for one in used.values())
    for ref, one in used.items():
        version = _version(registry, ref)
        if version is None or version.registered.kind is not ModelKind.ADAPTER:
            continue
        if one.num_requests < _MIN_REQUESTS or one.num_tokens < _LONE * total or not one.answer_tokens:
            continue
        base = next(iter(registry.state.with_content(record.base_digest)), None)
        share = version.registered.size_bytes / base.registered.size_bytes if base is not None else 0.0
        yield Recommendation(
            "merge",
            ref,
            name,
            f"{one.num_tokens / total:.1%} of the tokens of {name} are its own.",
            f"llamafarm models merge --model {ref} --output merged --register NAME, and deploy that.",
            Saving(100 * share / (1 + share), "percent of the time for a token, at least"),
            before=one.request_s / one.answer_tokens,
        )


def _ranks(registry: RegistryApi, name: str, used: dict[str, Used]) -> Iterator[Recommendation]:
    """Adapters of which half of the rank would do."""
    for ref in used:
        version = _version(registry, ref)
        if version is None or version.registered.kind is not ModelKind.ADAPTER:
            continue
        try:
            found = used_rank(registry.pull(ref))
        except (LlamaFarmError, OSError):  # an adapter of another kind, or its files are gone
            continue
        if found is None or found.enough > found.rank // 2:
            continue
        size = version.registered.size_bytes
        yield Recommendation(
            "lower_rank",
            ref,
            name,
            f"rank {found.enough} of {found.rank} keeps 99 % of each update; {found.module} needs most.",
            f"Train the next version with fine_tuning.parameters.r={found.enough}, and evaluate it beside this one.",
            Saving(size * (1 - found.enough / found.rank), "bytes"),
            before=size,
            goal=found.enough,
        )


def _replicas(name: str, application: _Application) -> Iterator[Recommendation]:
    """Replicas that the busiest hour does not need, with as much room again."""
    running = application.num_replicas
    needed = max(1, math.ceil(application.busiest * _HEADROOM / _BUSY))
    if running <= needed:
        return
    hours = application.device_hours_a_day
    yield Recommendation(
        "fewer_replicas",
        name,
        name,
        f"{running} replicas, and {application.busiest:.2g} requests at once in the busiest hour.",
        f"Set deployment.replicas={needed}, or auto_scaling.min_replicas, and deploy again.",
        Saving(hours * (1 - needed / running), "device hours a day"),
        before=hours,
        goal=needed,
    )


def _measured(registry: RegistryApi, old: Recommendation, application: _Application | None) -> Saving | None:
    """Return a recommendation's measured savings; None before it was followed, or without records since."""
    if application is None or application.record is None:
        return None
    made_s = dt.datetime.fromisoformat(old.made).timestamp()
    later = _Application([page for page in application.pages if page.start_s > made_s], application.record)
    match old.kind:
        case "undeploy":
            gone = old.subject not in application.record.adapters
            return Saving(old.before, "bytes") if gone and later.pages else None
        case "fewer_replicas":
            if not later.pages or later.num_replicas > old.goal:
                return None
            return Saving(old.before - later.device_hours_a_day, "device hours a day")
        case "lower_rank":
            return _smaller(registry, old, later)
        case "merge":
            return _merged(registry, old, later, application.record)


def _smaller(registry: RegistryApi, old: Recommendation, later: _Application) -> Saving | None:
    """Return the bytes that a later version of the same model has less, once it answers."""
    model, _, number = old.subject.partition(":")
    sizes = {
        ref: version.registered.size_bytes
        for ref in later.used()
        if ref.partition(":")[0] == model
        and ref != old.subject
        and (version := _version(registry, ref)) is not None
        and ModelRef.parse(ref).version > ModelRef.parse(f"{model}:{number}").version  # type: ignore[operator]
    }
    smallest = min(sizes.values(), default=old.before)
    return Saving(old.before - smallest, "bytes") if smallest < old.before else None


def _merged(
    registry: RegistryApi, old: Recommendation, later: _Application, record: DeploymentRecorded
) -> Saving | None:
    """Return how much less time a token takes with the merged model, once that is deployed as the base."""
    adapter = _version(registry, old.subject)
    used = later.used().get(record.base_model)
    bases = registry.state.with_content(record.base_digest)
    is_merged = adapter is not None and any(
        adapter.registered.manifest in base.registered.derived_from for base in bases
    )
    if not is_merged or used is None or not used.answer_tokens or not old.before:
        return None
    return Saving(100 * (1 - used.request_s / used.answer_tokens / old.before), "percent of the time for a token")


def _version(registry: RegistryApi, ref: str) -> VersionRecord | None:
    """Return a version that is registered here; None for a base's name and for unknown ones."""
    model, _, number = ref.partition(":")
    record = registry.state.models.get(model)
    return record.versions.get(number) if record is not None else None


def _spanned(application: _Application) -> str:
    days = {page.day for page in application.pages}
    return f"{len(days)} day{'s' if len(days) != 1 else ''} on record"
