"""The registered versions that match a kind and filters."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from llamafarm_ray.errors import InputError, did_you_mean
from llamafarm_ray.registry import RegistryApi, VersionRecord
from llamafarm_ray.registry.governance.access import EVERY_NAMESPACE, Action
from llamafarm_ray.types import ModelKind, ModelRef, Version
from llamafarm_ray.workflows.inspection.model_facts import FactsReader
from llamafarm_ray.workflows.versions.filters import Filters

__all__ = ["ListedVersion", "list_versions"]

_ENDED = {"retired", "purged"}


@dataclass(frozen=True, slots=True)
class ListedVersion:
    """A version, the aliases that point at it, and the results that the filters ask about or else the main one."""

    record: VersionRecord
    aliases: tuple[str, ...]
    shown_metrics: tuple[tuple[str, float], ...]


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
        registry: the registry to read.
        kind: ``adapter``, ``base``, ... (the plural is understood).
        filters: conditions, see `llamafarm_ray.workflows.versions.filters`; all must hold.
        namespace: only the models in it; by default all that the caller may read.
        include_ended: retired versions too; a filter for a status has them anyway.
        at: as of when; now by default.

    Raises:
        InputError: no such kind, or a filter that can't be read.
        NotFoundError: no version has a result that is asked about.
        AccessDeniedError: the principal may not read there.
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
    found, reader = [], FactsReader(registry)
    for name in sorted(state.models):
        if ModelRef(name).namespace not in readable:
            continue
        model = state.models[name]
        for number in sorted(model.versions, key=Version.parse, reverse=True):
            record, aliases = model.versions[number], tuple(model.pointing_at(number))
            if wanted not in {None, record.registered.kind} or (record.status in _ENDED and not include_ended):
                continue
            if asked.hold(record, aliases, reader):
                found.append(ListedVersion(record, aliases, asked.shown(record)))
    return found


def _readable(registry: RegistryApi) -> set[str]:
    """Return the namespaces that the caller may read, with models or without; that of no namespace is empty text."""
    namespaces = {ModelRef(name).namespace for name in registry.state.models} | {""}
    granted = (space for principal in registry.state.principals.values() for space in principal.grants)
    namespaces |= {space for space in granted if space != EVERY_NAMESPACE}
    return {namespace for namespace in namespaces if registry.may(Action.READ, namespace)}


def _kind(text: str) -> ModelKind:
    kinds = {kind.value: kind for kind in ModelKind}
    chosen = kinds.get(text) or kinds.get(text.removesuffix("s"))
    if chosen is None:
        raise InputError(f"{text!r} is no kind of model.", hint=did_you_mean(text, kinds))
    return chosen
