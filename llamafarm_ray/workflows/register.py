"""Register a folder as a model's version, with all that is known of how it came to be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamafarm_ray.config import Config
from llamafarm_ray.errors import InputError
from llamafarm_ray.registry import RegistryService, VersionRecord, check_name, find_base
from llamafarm_ray.storage import Manifest
from llamafarm_ray.types import ModelKind

__all__ = ["Registration", "base_reference", "register", "register_trained"]


@dataclass(frozen=True, slots=True)
class Registration:
    """What the user says of a version; what is left out is taken from the run's own record.

    Attributes:
        folder: the adapter's or model's files.
        name: the model's name; the folder's by default.
        version: the number; the next free one by default.
        base_model: the base it was trained on.
        method: how it was trained.
        dataset: the dataset's name.
        performance_metrics: a JSON file with evaluation results.
        domain, description, license, tags: to find and to judge it by.
        alias: an alias that shall point at it.
    """

    folder: Path
    name: str | None = None
    version: str | None = None
    base_model: str | None = None
    method: str | None = None
    dataset: str | None = None
    performance_metrics: Path | None = None
    domain: str | None = None
    description: str | None = None
    license: str | None = None
    tags: tuple[str, ...] = ()
    alias: str | None = None


def register(registry: RegistryService, asked: Registration) -> VersionRecord:
    """Publish and register; the same files and facts registered again under the same name are the version they are.

    Raises:
        InputError: the folder is no model or adapter, or a file given is unusable.
        ConflictError: the version number is taken by other content.
    """
    folder = asked.folder
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", hint="Give the folder that `train` wrote.")
    kind = _kind(folder)
    record = _run_record(folder)
    lineage = record.get("lineage", {})
    name = asked.name or folder.resolve().name
    details: dict[str, Any] = {
        "base_model": asked.base_model or lineage.get("base_model", ""),
        "base_digest": lineage.get("base_digest"),
        "method": asked.method or record.get("method", ""),
        "parameters": lineage.get("parameters", {}),
        "dataset": asked.dataset or lineage.get("dataset", ""),
        "dataset_digest": lineage.get("dataset_digest"),
        "config_digest": lineage.get("config_digest"),
        "metrics": _read_json(asked.performance_metrics) if asked.performance_metrics else record.get("metrics", {}),
        "license": asked.license or "",
        "domain": asked.domain or "",
        "description": asked.description or "",
        "tags": asked.tags,
    }
    if kind is ModelKind.ADAPTER:
        reference = asked.base_model or (None if details["base_digest"] else base_reference(folder))
        if reference:
            base = find_base(reference, registry)
            details |= {"base_model": details["base_model"] or base.reference, "base_digest": base.digest}
    elif kind is ModelKind.BASE and details["method"]:
        kind = ModelKind.MERGED
    if asked.alias:
        check_name(asked.alias)
    found = _same_version(registry, name, folder, details) if asked.version is None else None
    version = found or registry.register(folder, name=name, version=asked.version, kind=kind, **details)
    if asked.alias:
        registry.move_alias_to(version, asked.alias, reason="registered")
    return version


def register_trained(registry: RegistryService, config: Config, folder: Path) -> VersionRecord:
    """Register what a configuration trained, under the name and with the words it gives."""
    asked = Registration(
        folder=folder,
        name=config.name,
        version=config.version,
        domain=config.domain,
        description=config.description,
        license=config.license,
        tags=config.tags,
    )
    return register(registry, asked)


def _kind(folder: Path) -> ModelKind:
    if (folder / "adapter_config.json").is_file():
        return ModelKind.ADAPTER
    if (folder / "config.json").is_file():
        return ModelKind.BASE
    raise InputError(
        f"{folder} holds neither adapter_config.json nor config.json.",
        hint="Give the folder of an adapter or of a whole model.",
    )


def _run_record(folder: Path) -> dict[str, Any]:
    path = folder / "training.json"
    record = _read_json(path) if path.is_file() else {}
    if not isinstance(record.get("lineage", {}), dict) or not isinstance(record.get("metrics", {}), dict):
        raise InputError(f"{path} is not what `train` writes.", hint="Remove it, and say what it should with options.")
    return record


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as JSON: {error}.", hint="Give a file that `evaluate` wrote.") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a JSON {type(value).__name__}, not an object.")
    return value


def base_reference(folder: Path) -> str:
    """The base model that an adapter's folder names.

    Raises:
        InputError: it names none.
    """
    reference = _read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not reference:
        raise InputError(
            f"{folder}/adapter_config.json does not name its base model.", hint="Say it with --base-model."
        )
    return str(reference)


def _same_version(registry: RegistryService, name: str, folder: Path, details: dict[str, Any]) -> VersionRecord | None:
    """The version that has these files and of which these facts are known already."""
    registry.refresh()
    model = registry.state.models.get(name)
    if model is None:
        return None
    digest = Manifest.of_folder(folder).digest
    for version in model.versions.values():
        known = version.registered.model_dump()
        if known["manifest"] == digest and all(known[key] == value for key, value in details.items()):
            return version
    return None
