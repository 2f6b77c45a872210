"""Register a folder as a model's version, with its provenance."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamafarm_ray.config import Config
from llamafarm_ray.errors import InputError, UserError, did_you_mean
from llamafarm_ray.models.folder import gguf_file, weight_formats
from llamafarm_ray.models.formats.files import FolderFiles
from llamafarm_ray.models.formats.inspection import inspect_files
from llamafarm_ray.models.packed_files import is_packed
from llamafarm_ray.models.sentence_files import gives_vectors
from llamafarm_ray.registry import (
    RegistryApi,
    RegistryState,
    VersionRecord,
    check_free_for,
    check_name,
    check_new_alias,
    find_base,
)
from llamafarm_ray.registry.commands import Bump, event_of
from llamafarm_ray.registry.events import WEIGHTS, AdapterFacts, StatedFacts, VersionFacts
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.storage import Manifest
from llamafarm_ray.storage.formats.gguf import read_gguf
from llamafarm_ray.storage.manifest import left_out
from llamafarm_ray.telemetry.traces import step
from llamafarm_ray.types import ModelKind, ModelRef
from llamafarm_ray.workflows.versions.inherited import inherited_facts
from llamafarm_ray.workflows.versions.metrics import read_metrics
from llamafarm_ray.workflows.versions.prove import check_same_base, known_base, proved_folder

_QUANTIZE = "quantize"
"""The command whose results are forms of their source, whatever their files."""

_RECORDED = ("base_model", "base_digest", "derived_from", "parameters", "dataset", "dataset_digest", "config_digest")
"""Facts that a run's record may state."""

__all__ = ["Registration", "base_reference", "read_run_record", "register", "register_trained", "stated"]


@dataclass(frozen=True, slots=True)
class Registration:
    """Registration as the user asks for it.

    Attributes:
        folder: the adapter's or model's files.
        name: the model's name; the folder's by default.
        version: the number; the next free one by default.
        bump: the part that the next free number raises: major, minor (the default) or patch. With it, files and facts
            that are registered already become another version.
        facts: the facts that the user states; others come from the run's record, from the registered models that it
            was made from, and from its own card.
        performance_metrics: a JSON file with evaluation results.
        alias: an alias that shall point at it.
        idempotency_key: key that makes a repeated call the same call.
        fix_names: True to correct well-known wrong names of an adapter's tensors.
    """

    folder: Path
    name: str | None = None
    version: str | None = None
    bump: str | None = None
    facts: StatedFacts = field(default_factory=StatedFacts)
    performance_metrics: Path | None = None
    alias: str | None = None
    idempotency_key: str | None = None
    fix_names: bool = False


def register(
    registry: RegistryApi, asked: Registration, *, on_note: Callable[[str], None] = lambda _: None
) -> VersionRecord:
    """Publish and register; the same files and facts registered again under the same name are the version they are.

    Args:
        registry: registry that gets the version.
        asked: the folder, and the facts that are stated about it.
        on_note: called with notes for the user.

    Raises:
        InputError: the folder is no model or adapter, a file or name given is unusable, or an adapter does not fit its
            base model.
        ConflictError: the version number is taken by other content.
        AccessDeniedError: the principal may not register under that name.
    """
    folder = asked.folder
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", hint="Give the folder that `train` wrote.")
    record, bump = read_run_record(folder), _bump(asked)
    is_derived = bool(asked.facts.base_model) or record.get("made_by") == _QUANTIZE
    kind = _kind(folder, is_derived=is_derived)
    name = asked.name or folder.resolve().name
    check_name(name)
    state = registry.refresh()
    if asked.alias:
        check_new_alias(asked.alias, state, name)
    registry.allow(Action.REGISTER, ModelRef(name).namespace, target=name)  # before a base is fetched
    facts = _facts(asked, record, registry.state)
    facts = inherited_facts(registry, facts, folder, is_adapter=kind is ModelKind.ADAPTER)
    if kind is ModelKind.BASE and facts.method:
        kind = ModelKind.MERGED
    check_free_for(kind, name, registry.state)
    base = None
    if kind in {ModelKind.ADAPTER, ModelKind.QUANTIZED}:
        facts, base = _base(registry, asked, facts)
        facts = _with_format(facts, kind, folder)
    if names := left_out(folder):
        on_note(f"Left out, since they are no weights: {', '.join(names)}.")
    with _checked(folder, base, asked, on_note) as (files, adapter):
        is_open = asked.version is None and asked.bump is None and asked.idempotency_key is None
        version = _same_version(registry, name, files, facts) if is_open else None
        version = version or registry.register(
            files,
            name=name,
            version=asked.version,
            bump=bump,
            kind=kind,
            idempotency_key=asked.idempotency_key,
            adapter=adapter,
            **facts.model_dump(),
        )
    if asked.alias:
        try:
            registry.promote(version.ref, asked.alias, reason="registered")
        except UserError as error:
            error.hint = f"{version.ref} is registered; only the alias was not moved. {error.hint}".rstrip()
            raise
    return version


@contextlib.contextmanager
def _checked(
    folder: Path, base: Path | None, asked: Registration, on_note: Callable[[str], None]
) -> Iterator[tuple[Path, AdapterFacts | None]]:
    """Prove an adapter, or check a whole model, for the time of a block: the folder to register, and the findings."""
    if not (folder / "adapter_config.json").is_file():
        _check_whole(folder, on_note)
        yield folder, None
        return
    with proved_folder(folder, base, fix_names=asked.fix_names) as proved:
        facts = proved.facts
        if not facts.proved:
            on_note("Its base model's files are not on this machine: it is proved against them when it is loaded.")
        if facts.not_for_vllm:
            on_note(f"It has {facts.not_for_vllm}, which vLLM can't serve: engine transformers is chosen for it.")
        if facts.renamed:
            on_note(f"Its tensors were renamed: {facts.renamed}.")
        yield proved.folder, facts


def _check_whole(folder: Path, on_note: Callable[[str], None]) -> None:
    """Hold the tensors of a whole model against its index and its architecture, by the headers of its files.

    Raises:
        InputError: tensors or files are missing, or have another shape.
    """
    if weight_formats(folder)[:1] not in {("safetensors",), ("gguf",)}:
        return
    found = inspect_files(FolderFiles(folder), shown=str(folder))
    if found.faults:
        raise InputError(
            f"{str(folder)!r} is no whole model. {' '.join(found.faults)}",
            hint="Download or save it again; `llamafarm models inspect` shows what is wrong with it.",
        )
    for problem in found.problems:
        on_note(problem)


def register_trained(registry: RegistryApi, config: Config, folder: Path, *, run: str | None = None) -> VersionRecord:
    """Register a configuration's trained model, under its name and with its description.

    Args:
        registry: registry that gets the version.

    Raises:
        UserError: as `register`.
    """
    asked = Registration(
        folder=folder,
        name=config.name,
        version=config.version,
        facts=stated(
            domain=config.domain, description=config.description, license=config.license, tags=config.tags, run=run
        ),
    )
    with step("register", {"llamafarm.model": config.name}):
        return register(registry, asked)


def stated(**facts: object) -> StatedFacts:
    """Return the facts that a user states, ``None`` for those that were not given.

    Raises:
        InputError: a value is unusable.
    """
    return event_of(StatedFacts, **{name: value for name, value in facts.items() if value is not None})


def _facts(asked: Registration, record: dict[str, Any], state: RegistryState) -> VersionFacts:
    """Return the facts of a version: those that the user states, else those that the run's record has."""
    given = {name: value for name, value in asked.facts if value}
    if dataset := asked.facts.dataset:
        builds = state.datasets.get(dataset)
        given["dataset_digest"] = builds[-1].digest if builds else None
    if asked.performance_metrics:
        given["metrics"] = read_metrics(asked.performance_metrics)
    known = {name: value for name, value in record.get("lineage", {}).items() if name in _RECORDED}
    known |= {"method": record.get("method", ""), "metrics": record.get("metrics", {})}
    return event_of(VersionFacts, **known | given)


def _with_format(facts: VersionFacts, kind: ModelKind, folder: Path) -> VersionFacts:
    """Return the facts of an adapter or a quantized model with the format of its files, where engines ask for it."""
    if kind is ModelKind.QUANTIZED and is_packed(folder):
        weights = "safetensors"
    elif kind is ModelKind.ADAPTER and weight_formats(folder)[:1] == ("gguf",):
        weights = "gguf"
    else:
        return facts
    return facts.model_copy(update={"parameters": {**facts.parameters, WEIGHTS: weights}})


def _base(registry: RegistryApi, asked: Registration, facts: VersionFacts) -> tuple[VersionFacts, Path | None]:
    """Return the facts with the base that an adapter is tied to, and its folder, where it has weights in safetensors.

    It is the one that is named, else the run's, else that of the adapter's own config.

    Raises:
        InputError: the one that is named has other weights than the one that the adapter was trained on.
    """
    trained_on = facts.base_digest
    named = asked.facts.base_model
    if trained_on and not named:
        return facts, known_base(registry, facts.base_model, trained_on)
    base = find_base(named or base_reference(asked.folder), registry)
    if named:
        for known in filter(None, (trained_on, _named_base(asked.folder))):
            check_same_base(registry, base, known)
    facts = facts.model_copy(update={"base_model": facts.base_model or base.reference, "base_digest": base.digest})
    return facts, base.folder if any(base.folder.glob("*.safetensors")) else None


def _bump(asked: Registration) -> Bump:
    if asked.bump is not None and asked.version is not None:
        raise InputError("A version and a part to raise were given.", hint="Give --version or --bump, not both.")
    match asked.bump or "minor":
        case "major" | "minor" | "patch" as part:
            return part
        case other:
            raise InputError(
                f"{other!r} is no part of a version.", hint=did_you_mean(other, ("major", "minor", "patch"))
            )


def _kind(folder: Path, *, is_derived: bool) -> ModelKind:
    """Return a folder's kind, by its files; quantized weights, and other formats of a named base, are its forms.

    Raises:
        InputError: it is nothing that can be registered.
    """
    if (folder / "adapter_config.json").is_file():
        return ModelKind.ADAPTER
    formats = weight_formats(folder)
    is_embedding = gives_vectors(folder)
    if formats[:1] == ("gguf",):
        header = read_gguf(gguf_file(folder))
        if header.is_adapter:
            return ModelKind.ADAPTER
        is_embedding = header.gives_vectors
    elif not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} holds neither adapter_config.json nor config.json nor a GGUF file.",
            hint="Give the folder of an adapter or of a whole model.",
        )
    if is_derived and (formats[:1] not in {(), ("safetensors",)} or is_packed(folder)):
        return ModelKind.QUANTIZED
    return ModelKind.EMBEDDING if is_embedding else ModelKind.BASE


def read_run_record(folder: Path) -> dict[str, Any]:
    """Return the record of the command that made a folder; empty if it was made elsewhere.

    Raises:
        InputError: the record is not what such a command writes.
    """
    path = folder / "training.json"
    record = _read_json(path) if path.is_file() else {}
    if not isinstance(record.get("lineage", {}), dict) or not isinstance(record.get("metrics", {}), dict):
        raise InputError(f"{path} is not what `train` writes.", hint="Remove it, and state its facts with options.")
    return record


def _read_json(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read as JSON: {error}.", hint="Write or copy it again.") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a JSON {type(value).__name__}, not an object.")
    return value


def base_reference(folder: Path) -> str:
    """The base model that an adapter's folder names.

    Raises:
        InputError: it names none.
    """
    reference = _named_base(folder)
    if not reference:
        raise InputError(f"{folder} does not name its base model.", hint="Say it with --base-model.")
    return reference


def _named_base(folder: Path) -> str:
    path = folder / "adapter_config.json"
    return str(_read_json(path).get("base_model_name_or_path") or "") if path.is_file() else ""


def _same_version(registry: RegistryApi, name: str, folder: Path, facts: VersionFacts) -> VersionRecord | None:
    """Return the living version that has these files and of which these facts are known already."""
    model = registry.state.models.get(name)
    if model is None:
        return None
    digest = Manifest.of_folder(folder).digest
    for version in model.versions.values():
        known = version.registered
        if (
            version.retired is None
            and known.manifest == digest
            and all(getattr(known, key) == value for key, value in facts)
        ):
            return version
    return None
