"""Find the base model that a configuration names: a folder, a registered model, or any source of downloads."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.errors import ConflictError, InputError, NotFoundError, did_you_mean
from llamafarm_ray.registry.api import RegistryApi
from llamafarm_ray.registry.state import VersionRecord
from llamafarm_ray.storage import Manifest
from llamafarm_ray.storage.downloads.providers.spelling import is_source
from llamafarm_ray.telemetry.displays import display_of
from llamafarm_ray.types import MODEL_NAME, Digest, ModelKind, ModelRef

__all__ = ["BaseModel", "base_here", "find_base", "is_registered"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model on this machine.

    Attributes:
        reference: as it was asked for.
        folder: its files; of one that is a GGUF file, that.
        digest: the digest of their manifest; adapters are tied to it.
    """

    reference: str
    name: str
    folder: Path
    digest: Digest


def find_base(reference: str | None, registry: RegistryApi, *, or_adapter: bool = False) -> BaseModel:
    """The base model of that reference, fetched if it isn't on this machine.

    Args:
        reference: a folder, a GGUF file, ``name``/``name:version``/``name@alias`` in the registry, ``owner/name`` on
            the hub, or any other source, see :func:`~llamafarm_ray.storage.downloads.providers.sources.parse_source`.
        registry: registry for names.
        or_adapter: True if a registered adapter will do as well.

    Raises:
        InputError: there is no reference, it names an adapter, or the folder's files are unusable.
        NotFoundError: nothing of that name is found anywhere.
        LlamaFarmError: the source refuses it or can't be reached, or its files are damaged.
    """
    if not reference:
        raise InputError("base_model is not set.", hint="Set it to a folder, a registered model or a hub id.")
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return BaseModel(reference, _plain(folder.resolve().name), folder.resolve(), Manifest.of_folder(folder).digest)
    if folder.suffix.lower() == ".gguf" and folder.is_file():
        return BaseModel(reference, _plain(folder.stem), folder.resolve(), Manifest.of_file(folder).digest)
    if is_registered(reference, registry):
        ref = ModelRef.parse(reference)
        record = registry.resolve(ref)
        if record.registered.kind is ModelKind.ADAPTER and not or_adapter:
            raise InputError(f"{record.ref} is an adapter, and no base model.", hint=_other_base(record, registry))
        return BaseModel(reference, ref.name, registry.pull(ref), Digest(record.registered.manifest))
    if is_source(reference):
        return _downloaded(reference, registry)
    near = did_you_mean(reference, [*registry.state.models, *(p.name for p in Path.cwd().iterdir() if p.is_dir())])
    raise NotFoundError(f"There is no folder and no registered model {reference!r} to start from.", hint=near)


def is_registered(reference: str, registry: RegistryApi) -> bool:
    """Return True if a reference is written as that of a registered model, and there is one of its name."""
    match = re.fullmatch(rf"({MODEL_NAME})(?:[:@].*)?", reference) if "://" not in reference else None
    return match is not None and match[1] in registry.refresh().models


def _other_base(adapter: VersionRecord, registry: RegistryApi) -> str:
    """Return the next step of a user who named an adapter for a base model."""
    model = registry.state.models[adapter.registered.model]
    wholes = [one.ref for one in model.versions.values() if one.registered.kind is not ModelKind.ADAPTER]
    if wholes:
        return f"Name the version that is meant: {', '.join(wholes)}."
    return f"It is based on {adapter.registered.base_model or 'a model without a name'!r}."


def base_here(base: BaseModel, registry: RegistryApi) -> Path:
    """The files of a base model that was found on one machine, on this one: fetched where they are not at that path.

    Args:
        registry: registry whose home has the files, or which finds the place of a model of the hub.

    Returns:
        its ``folder`` on this machine.

    Raises:
        NotFoundError: they are only on the other machine.
        ConflictError: the hub gives other files by now.
        LlamaFarmError: the home or the hub can't be read, or the files in it are damaged.
    """
    if base.folder.exists():
        return base.folder
    if next(registry.refresh().with_content(base.digest), None) is not None:
        return registry.content.pull(base.digest)
    if not is_source(base.reference):
        raise NotFoundError(
            f"The base model's files are at {base.folder} on the machine that deployed it, and neither here nor in "
            f"the registry at {registry.home}.",
            hint="Import it (`llamafarm models import`) into a home that every node reaches, and deploy it by name.",
        )
    found = _downloaded(base.reference, registry, offline=False)  # Serve's processes are told to be offline
    if found.digest != base.digest:
        raise ConflictError(
            f"The files of {base.reference} are {found.digest.short} now, and were {base.digest.short} when it was "
            "deployed.",
            hint="Import the model, so that it stays what it is, or deploy it again.",
        )
    return found.folder


def _plain(name: str) -> str:
    """A file's name as a model's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "base"


def _downloaded(reference: str, registry: RegistryApi, *, offline: bool | None = None) -> BaseModel:
    from llamafarm_ray.storage.downloads.downloads import Report  # httpx, which few commands need

    named = reference.partition("?")[0]  # a query may hold a signature
    found = registry.content.download(reference, offline=offline, report=Report(display_of(named), logger.warning))
    shown = found.record.source if "?" in reference else reference
    return BaseModel(shown, _plain(found.record.name), found.folder, found.record.manifest)
