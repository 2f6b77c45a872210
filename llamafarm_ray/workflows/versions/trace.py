"""The lineage around a version, a dataset or a document."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable

from llamafarm_ray.errors import InputError
from llamafarm_ray.registry import RegistryApi, lineage
from llamafarm_ray.registry.governance.access import EVERY_NAMESPACE, Action

__all__ = ["trace"]


def trace(
    registry: RegistryApi,
    *,
    reference: str | None = None,
    dataset: str | None = None,
    document: str | None = None,
    direction: str = "both",
    at: dt.datetime | None = None,
) -> lineage.Graph:
    """Return the sources and the products of one thing. Exactly one of the three is given.

    Args:
        registry: the registry to read.
        reference: a version. Going down, equal content under names that the caller may not read has no name.
        document: a document's path or digest; what was made from it is shown, whatever the direction.
        direction: ``down`` to the sources, ``up`` to what came of it, ``both``.
        at: as of when; now by default.

    Raises:
        InputError: none or several are given, or there is no such direction.
        NotFoundError: there is no such thing.
        AccessDeniedError: results may be in any namespace, so tracing upward needs the right to read all.
    """
    if sum(start is not None for start in (reference, dataset, document)) != 1:
        raise InputError(
            "It takes one thing to trace.", hint="Give a version (name:1.2.0), or --dataset NAME, or --document PATH."
        )
    way = lineage.parse_direction(direction)
    state = registry.refresh() if at is None else registry.state_at(at)
    if reference is not None:
        record = registry.resolve(reference, at=at)
        if way == "down":
            return lineage.trace(state, record.ref, way, may_read=_readable(registry))
        registry.allow(Action.READ, EVERY_NAMESPACE, target=record.ref)
        return lineage.trace(state, record.ref, way)
    registry.allow(Action.READ, EVERY_NAMESPACE, target=f"trace {dataset or document}")
    if dataset is not None:
        return lineage.trace_dataset(state, dataset, way)
    return lineage.trace_document(state, document or "")


def _readable(registry: RegistryApi) -> Callable[[str], bool]:
    """Return True if the caller may read a namespace, asked once for each."""
    return functools.cache(lambda namespace: registry.may(Action.READ, namespace))
