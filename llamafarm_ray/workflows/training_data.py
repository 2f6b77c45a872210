"""The data that a model was trained on, as its lineage knows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamafarm_ray.config import Config
from llamafarm_ray.data.reading import read_dataset
from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.workflows.register import read_run_record

__all__ = ["TrainingData", "find_training_data"]

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


def find_training_data(config: Config, registry: RegistryApi, *, folder: Path | None, version: str) -> TrainingData:
    """Find the dataset of a model's lineage by its digest: where it is registered, else at ``dataset.path``.

    Args:
        config: ``dataset.validation.split_ratio`` and ``seed`` say which rows of it were held out.
        registry: registry of versions and datasets.
        folder: the adapter's, or the model's.
        version: reference of its registered version; empty for a folder.
    """
    name: str | None
    digest: str | None
    if version:
        registered = registry.resolve(version).registered
        name, digest = registered.dataset, registered.dataset_digest
    else:
        lineage = read_run_record(folder).get("lineage", {}) if folder is not None else {}
        name, digest = lineage.get("dataset"), lineage.get("dataset_digest")
    if not digest:
        return TrainingData(name or "", reason="its lineage names no training data")
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
