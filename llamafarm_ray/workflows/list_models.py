"""The registered versions that match a kind and filters."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llamafarm_ray.config.values import Comparison
from llamafarm_ray.errors import InputError, NotFoundError, did_you_mean
from llamafarm_ray.registry import RegistryApi, VersionRecord
from llamafarm_ray.registry.access import EVERY_NAMESPACE, Action
from llamafarm_ray.registry.policy import metric_value
from llamafarm_ray.types import ModelKind, ModelRef, Version
from llamafarm_ray.workflows.metrics import flat_metrics, main_metric

__all__ = ["Filters", "ListedVersion", "list_versions"]

_FILTER = re.compile(r"\s*([^=<>]+?)\s*(>=|<=|>|<|=)\s*(.*?)\s*", re.DOTALL)
_FIELDS: dict[str, Callable[[VersionRecord, tuple[str, ...]], Sequence[str]]] = {
    "alias": lambda _, aliases: aliases,
    "base_model": lambda record, _: (record.registered.base_model,),
    "capability": lambda record, _: record.registered.capabilities,
    "dataset": lambda record, _: (record.registered.dataset,),
    "domain": lambda record, _: (record.registered.domain,),
    "kind": lambda record, _: (record.registered.kind,),
    "license": lambda record, _: (record.license,),
    "method": lambda record, _: (record.registered.method,),
    "model": lambda record, _: (record.registered.model,),
    "principal": lambda record, _: (record.principal,),
    "run": lambda record, _: (record.registered.run,),
    "status": lambda record, _: (record.status,),
    "tag": lambda record, _: record.tags,
    "version": lambda record, _: (record.registered.version,),
}
_ENDED = {"retired", "purged"}


@dataclass(frozen=True, slots=True)
class ListedVersion:
    """A version, the aliases that point at it, and the results that the filters ask about or else the main one."""

    record: VersionRecord
    aliases: tuple[str, ...]
    shown_metrics: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Filters:
    """What must hold of a version: values of fields, and goals for results by dotted name."""

    fields: tuple[tuple[str, str], ...] = ()
    goals: tuple[tuple[str, Comparison], ...] = ()

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Filters:
        """Read ``domain=medical``, ``accuracy>0.8``, ...

        Raises:
            InputError: a text has another form, or there is no such field.
        """
        fields, goals = [], []
        for text in texts:
            name, sign, value = _parts(text)
            if sign == "=":
                fields.append((_field(name), value))
            else:
                goals.append((name, _goal(text, sign + value)))
        return cls(tuple(fields), tuple(goals))

    def hold(self, record: VersionRecord, aliases: tuple[str, ...]) -> bool:
        """Whether they hold of a version."""
        return all(value in _FIELDS[field](record, aliases) for field, value in self.fields) and all(
            (measured := metric_value(record.metrics, name)) is not None and goal.holds(measured)
            for name, goal in self.goals
        )

    def shown(self, record: VersionRecord) -> tuple[tuple[str, float], ...]:
        """The results worth showing of a version."""
        if self.goals:
            asked = dict.fromkeys(name for name, _ in self.goals)
            return tuple((name, value) for name in asked if (value := metric_value(record.metrics, name)) is not None)
        main = main_metric(record.metrics)
        return (main,) if main else ()

    def check_measured(self, records: Sequence[VersionRecord]) -> None:
        """Check that what is asked about was measured of any version, since a typing error would find nothing.

        Raises:
            NotFoundError: a result is known of no version.
        """
        for name, _ in self.goals:
            if any(metric_value(record.metrics, name) is not None for record in records):
                continue
            known = {metric for record in records for metric in flat_metrics(record.metrics)}
            if known:
                raise NotFoundError(f"No version has a metric {name!r}.", hint=did_you_mean(name, known))


def list_versions(
    registry: RegistryApi,
    *,
    kind: str | None = None,
    filters: Sequence[str] = (),
    namespace: str | None = None,
    include_ended: bool = False,
    at: dt.datetime | None = None,
) -> list[ListedVersion]:
    """Versions by name, highest number first.

    Args:
        registry: where to look.
        kind: ``adapter``, ``base``, ... (the plural is understood).
        filters: ``field=value`` or ``metric>0.8`` each; all must hold.
        namespace: only the models in it; by default all that whoever asks may read.
        include_ended: retired versions too; a filter for a status has them anyway.
        at: as of when; now by default.

    Raises:
        InputError: no such kind or field.
        AccessDeniedError: whoever asks may not read there.
    """
    wanted, asked = _kind(kind) if kind else None, Filters.parse(filters)
    include_ended = include_ended or any(field == "status" for field, _ in asked.fields)
    registry.refresh()
    if namespace is not None:
        registry.allow(Action.READ, namespace, target="list")
    elif not _readable(registry):
        registry.allow(Action.READ, EVERY_NAMESPACE, target="list")  # nothing at all: say so, and why
    state = registry.state if at is None else registry.state_at(at)
    readable = _readable(registry) if namespace is None else {namespace}
    asked.check_measured([v for v in state.versions() if ModelRef(v.registered.model).namespace in readable])
    found = []
    for name in sorted(state.models):
        if ModelRef(name).namespace not in readable:
            continue
        model = state.models[name]
        for number in sorted(model.versions, key=Version.parse, reverse=True):
            record, aliases = model.versions[number], tuple(model.pointing_at(number))
            if wanted not in {None, record.registered.kind} or (record.status in _ENDED and not include_ended):
                continue
            if asked.hold(record, aliases):
                found.append(ListedVersion(record, aliases, asked.shown(record)))
    return found


def _readable(registry: RegistryApi) -> set[str]:
    """The namespaces with models that whoever asks may read; that of models without one is empty text."""
    namespaces = {ModelRef(name).namespace for name in registry.state.models} | {""}
    return {namespace for namespace in namespaces if registry.may(Action.READ, namespace)}


def _kind(text: str) -> ModelKind:
    kinds = {kind.value: kind for kind in ModelKind}
    chosen = kinds.get(text) or kinds.get(text.removesuffix("s"))
    if chosen is None:
        raise InputError(f"{text!r} is no kind of model.", hint=did_you_mean(text, kinds))
    return chosen


def _parts(text: str) -> tuple[str, str, str]:
    match = _FILTER.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r} is no filter.", hint="Write it like domain=medical or 'accuracy>0.8'.")
    return match[1], match[2], match[3]


def _field(name: str) -> str:
    name = {"tags": "tag", "capabilities": "capability", "name": "model", "aliases": "alias"}.get(name, name)
    if name not in _FIELDS:
        raise InputError(f"{name!r} can't be filtered by.", hint=did_you_mean(name, _FIELDS))
    return name


def _goal(text: str, comparison: str) -> Comparison:
    try:
        return Comparison.parse(comparison)
    except ValueError as error:
        raise InputError(f"{text!r} is no filter: it {error}.", hint="Write it like 'accuracy>0.8'.") from None
