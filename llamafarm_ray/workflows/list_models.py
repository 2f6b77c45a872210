"""The registered versions that match a kind and filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llamafarm_ray.errors import InputError, did_you_mean
from llamafarm_ray.registry import RegistryService, VersionRecord
from llamafarm_ray.types import ModelKind, Version

__all__ = ["ListedVersion", "list_versions"]

_FIELDS = ("model", "version", "kind", "method", "base_model", "dataset", "domain", "license", "tags")


@dataclass(frozen=True, slots=True)
class ListedVersion:
    """A version and the aliases that point at it."""

    record: VersionRecord
    aliases: tuple[str, ...]


def list_versions(
    registry: RegistryService, *, kind: str | None = None, filters: Sequence[str] = ()
) -> list[ListedVersion]:
    """Versions by name, newest number first.

    Args:
        registry: where to look.
        kind: ``adapter``, ``base``, ... (the plural is understood).
        filters: ``field=value`` each; all must hold.

    Raises:
        InputError: no such kind or field.
    """
    wanted = _kind(kind) if kind else None
    pairs = [_pair(text) for text in filters]
    registry.refresh()
    found = []
    for model in sorted(registry.state.models.values(), key=lambda model: model.name):
        for number in sorted(model.versions, key=Version.parse, reverse=True):
            record = model.versions[number]
            values = record.registered.model_dump(mode="json")
            if wanted not in {None, record.registered.kind} or not all(_holds(values[f], v) for f, v in pairs):
                continue
            aliases = tuple(sorted(name for name, moves in model.aliases.items() if moves[-1].version == number))
            found.append(ListedVersion(record, aliases))
    return found


def _kind(text: str) -> ModelKind:
    kinds = {kind.value: kind for kind in ModelKind}
    chosen = kinds.get(text) or kinds.get(text.removesuffix("s"))
    if chosen is None:
        raise InputError(f"{text!r} is no kind of model.", hint=did_you_mean(text, kinds))
    return chosen


def _pair(text: str) -> tuple[str, str]:
    field, mark, value = text.partition("=")
    if not mark:
        raise InputError(f"{text!r} is no filter.", hint="Write it like domain=medical.")
    if field not in _FIELDS:
        raise InputError(f"{field!r} can't be filtered by.", hint=did_you_mean(field, _FIELDS))
    return field, value


def _holds(actual: object, wanted: str) -> bool:
    return wanted in actual if isinstance(actual, list) else str(actual) == wanted
