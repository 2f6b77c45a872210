"""The data that a model was trained on, as its lineage knows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from llamafarm_ray.config import Config
from llamafarm_ray.data.reading import read_dataset
from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.registry.references import namespace_of
from llamafarm_ray.workflows.versions.register import read_run_record

__all__ = ["TrainingData", "find_inherited_data", "find_training_data", "joined"]

_CHAT = "chat"


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Rows that a model was trained on.

    Args:
        name: the dataset's, with the beginning of its digest.
        rows: rows of the training split with ``messages``; none if they are not known.
        reason: the reason why there are none.
    """

    name: str
    rows: tuple[Mapping[str, Any], ...] = ()
    reason: str = ""


def joined(parts: Sequence[TrainingData]) -> TrainingData:
    """Return the rows of several datasets as one: the training data of a model and its ancestors.

    Args:
        parts: the model's own first; its reason counts where no rows are known.
    """
    known = [one for one in parts if one.rows]
    if not known:
        return parts[0]
    rows = {str(row["id"]): row for one in reversed(known) for row in one.rows}
    return TrainingData(" and ".join(one.name for one in known), tuple(rows.values()))


def find_training_data(config: Config, registry: RegistryApi, *, folder: Path | None, version: str) -> TrainingData:
    """Find the dataset of a model's lineage by its digest: where it is registered, else at ``dataset.path``.

    Args:
        config: ``dataset.validation.split_ratio`` and ``seed`` say which rows of it were held out.
        folder: the adapter's, or the model's.
        version: reference of its registered version; empty for a folder.
    """
    made = _Origin.of(registry, folder, version)
    if not made.digest:
        return TrainingData(made.dataset, reason="its lineage names no training data")
    return _read(config, registry, made.dataset, made.digest)


def find_inherited_data(
    config: Config, registry: RegistryApi, *, folder: Path | None, version: str, base: Path, base_digest: str
) -> list[TrainingData]:
    """Find the datasets that a model's ancestors were trained on: its base, what that was merged from, and so on.

    Args:
        config: see `find_training_data`.
        registry: likewise.
        folder: likewise.
        version: likewise.
        base: folder of the base that the model is on; what made the folder is known without a registry too.
    """
    own = _Origin.of(registry, folder, version)
    below = _Origin.of(registry, base, "")
    datasets = {below.digest: below.dataset}
    left, seen = {base_digest, *own.parents, *below.parents}, set[str]()
    while left:
        one = left.pop()
        seen.add(one)
        for record in registry.refresh().with_content(one):
            if not registry.may(Action.READ, namespace_of(record.ref)):
                continue
            made = _Origin.of(registry, None, record.ref)
            datasets[made.digest] = made.dataset
            left |= made.parents - seen
    return [
        _read(config, registry, name, digest)
        for digest, name in sorted(datasets.items())
        if digest and digest != own.digest
    ]


@dataclass(frozen=True, slots=True)
class _Origin:
    """The dataset that a model was made with, and the digests of the models that it was made from."""

    dataset: str
    digest: str
    parents: frozenset[str]

    @classmethod
    def of(cls, registry: RegistryApi, folder: Path | None, version: str) -> Self:
        """Read the record of a version, else of a folder."""
        names = ("dataset", "dataset_digest", "base_digest", "derived_from")
        if version:
            known = registry.resolve(version).registered
            facts: dict[str, Any] = {name: getattr(known, name) for name in names}
        else:
            facts = read_run_record(folder).get("lineage", {}) if folder is not None else {}
        parents = (facts.get("base_digest"), *(facts.get("derived_from") or ()))
        return cls(
            facts.get("dataset") or "", facts.get("dataset_digest") or "", frozenset(one for one in parents if one)
        )


def _read(config: Config, registry: RegistryApi, name: str, digest: str) -> TrainingData:
    """Read the rows of a dataset, where they are to be found."""
    named = f"{name or 'dataset'}@{digest.removeprefix('sha256:')[:12]}"
    reason = f"its training data {named} are registered at no place that can be read"
    for place in _places(config, registry, digest):
        try:
            found = read_dataset(place, split_ratio=config.dataset.validation.split_ratio, seed=config.seed)
        except LlamaFarmError as error:
            reason = f"its training data {named} can't be read: {error.message}"
            continue
        if found.digest != digest:
            reason = f"its training data {named} are not at {place} any more, which has other rows now"
        elif found.kind.name != _CHAT:
            reason = f"its training data {named} are {found.kind.name} rows, and no conversations"
        else:
            return TrainingData(named, tuple(found.rows["train"]))
    return TrainingData(named, reason=reason)


def _places(config: Config, registry: RegistryApi, digest: str) -> Iterator[Path]:
    for versions in registry.refresh().datasets.values():
        yield from (Path(one.location) for one in versions if one.digest == digest and one.location)
    if config.dataset.path is not None:
        yield Path(config.dataset.path).expanduser()
