"""Licence, restrictions and capabilities that a version has from the models it was made from, or from its own card."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from llamafarm_ray.registry import RegistryApi, VersionRecord
from llamafarm_ray.registry.events import VersionFacts
from llamafarm_ray.storage.downloads.record import find_licence
from llamafarm_ray.types import ModelKind

__all__ = ["inherited_facts"]


def inherited_facts(registry: RegistryApi, facts: VersionFacts, folder: Path, *, is_adapter: bool) -> VersionFacts:
    """Return a model's facts, with the missing ones that it inherits from its parents; those of several together.

    Args:
        folder: its own files; their card or GGUF header names the licence where no registered source does.
        is_adapter: True for an adapter, which holds none of its base's weights.
    """
    found = [record.registered for record in _records(registry, facts.derived_from, is_adapter=is_adapter)]
    names = [path.name for path in folder.iterdir() if path.is_file()]
    licences = _distinct(one.license for one in found) or _distinct([find_licence(folder, names)])
    inherited = {
        "license": " AND ".join(licences),
        "usage_restrictions": " ".join(_distinct(one.usage_restrictions for one in found)),
        "capabilities": tuple(_distinct(name for one in found for name in one.capabilities)),
    }
    return facts.model_copy(update={name: value for name, value in inherited.items() if not getattr(facts, name)})


def _records(registry: RegistryApi, sources: Iterable[str], *, is_adapter: bool) -> Iterator[VersionRecord]:
    """Yield the versions with the files of the sources, and with those of the bases that are merged into a model."""
    for source in sources:
        for record in registry.state.with_content(source):
            yield record
            base = record.registered.base_digest
            if record.registered.kind is ModelKind.ADAPTER and base is not None and not is_adapter:
                yield from registry.state.with_content(base)


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, values)))
