"""Two versions side by side."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Generic, TypeVar

from llamafarm_ray.registry import RegistryApi, VersionRecord
from llamafarm_ray.storage import FileEntry
from llamafarm_ray.workflows.versions.describe import as_dict, files_of
from llamafarm_ray.workflows.versions.metrics import flat_metrics

__all__ = ["Changed", "Difference", "diff"]

_FIELDS = (
    "kind",
    "status",
    "base_model",
    "base_digest",
    "method",
    "dataset",
    "dataset_digest",
    "config_digest",
    "run",
    "code_version",
    "license",
    "usage_restrictions",
    "capabilities",
    "domain",
    "description",
    "tags",
    "manifest",
    "size_bytes",
)


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Changed(Generic[_T]):
    """A value on both sides; ``None`` where a side has none."""

    name: str
    left: _T | None
    right: _T | None


@dataclass(frozen=True, slots=True)
class Difference:
    """Differences of two versions.

    Attributes:
        left, right: the references, ``name:version``.
        parameters: of their training, by dotted name.
        metrics: their results by dotted name, also those that are equal.
        files: by path, as (size in bytes, digest).
        are_files_known: True if both sides' content is still stored.
    """

    left: str
    right: str
    fields: tuple[Changed[object], ...]
    parameters: tuple[Changed[object], ...]
    metrics: tuple[Changed[float], ...]
    files: tuple[Changed[tuple[int, str]], ...]
    num_same_files: int
    are_files_known: bool

    def to_dict(self) -> dict[str, object]:
        """The same for programs."""
        return asdict(self)


def diff(registry: RegistryApi, left: str, right: str, *, at: dt.datetime | None = None) -> Difference:
    """Compare two versions, of the same model or of two.

    Args:
        registry: the registry to read.
        left: ``name``, ``name:1.2.0`` or ``name@production``.
        at: as of when; now by default.

    Raises:
        NotFoundError: there is no such version.
    """
    first, second = registry.resolve(left, at=at), registry.resolve(right, at=at)
    files = files_of(registry, first), files_of(registry, second)
    by_path = _by_path(files[0]), _by_path(files[1])
    same = sum(by_path[1].get(path) == value for path, value in by_path[0].items())
    are_known = files[0] is not None and files[1] is not None
    return Difference(
        first.ref,
        second.ref,
        fields=_changed(_fields(first), _fields(second)),
        parameters=_changed(_flat(first.registered.parameters), _flat(second.registered.parameters)),
        metrics=_pairs(flat_metrics(first.metrics), flat_metrics(second.metrics)),
        files=_changed(*by_path) if are_known else (),
        num_same_files=same,
        are_files_known=are_known,
    )


def _fields(record: VersionRecord) -> dict[str, object]:
    known = as_dict(record, ())
    return {name: known[name] for name in _FIELDS}


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _by_path(files: tuple[FileEntry, ...] | None) -> dict[str, tuple[int, str]]:
    return {file.path: (file.size_bytes, str(file.digest)) for file in files or ()}


def _pairs(left: Mapping[str, _T], right: Mapping[str, _T]) -> tuple[Changed[_T], ...]:
    return tuple(Changed(name, left.get(name), right.get(name)) for name in sorted({*left, *right}))


def _changed(left: Mapping[str, _T], right: Mapping[str, _T]) -> tuple[Changed[_T], ...]:
    return tuple(pair for pair in _pairs(left, right) if pair.left != pair.right)
