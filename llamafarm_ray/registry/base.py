"""Finding the base model that a configuration names: a folder, a registered model, or a model of a hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.errors import ConflictError, InputError, NotFoundError, did_you_mean
from llamafarm_ray.registry.api import RegistryApi
from llamafarm_ray.storage import Manifest
from llamafarm_ray.types import MODEL_NAME, Digest, ModelRef

__all__ = ["BaseModel", "base_here", "find_base"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt")


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model on this machine.

    Attributes:
        reference: as it was asked for.
        name: what requests call it by.
        folder: its files; of one that is a GGUF file, that.
        digest: the digest of their manifest; adapters are tied to it.
    """

    reference: str
    name: str
    folder: Path
    digest: Digest


def find_base(reference: str | None, registry: RegistryApi) -> BaseModel:
    """The base model of that reference, fetched if it isn't on this machine.

    Args:
        reference: a folder, a GGUF file, ``name``/``name:version``/``name@alias`` in the registry, or ``owner/name`` on
            the hub.
        registry: where names are looked up.

    Raises:
        InputError: there is no reference, or the folder's files are unusable.
        NotFoundError: nothing of that name is found anywhere.
    """
    if not reference:
        raise InputError("base_model is not set.", hint="Set it to a folder, a registered model or a hub id.")
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return BaseModel(reference, _plain(folder.resolve().name), folder.resolve(), Manifest.of_folder(folder).digest)
    if folder.suffix.lower() == ".gguf" and folder.is_file():
        return BaseModel(reference, _plain(folder.stem), folder.resolve(), Manifest.of_file(folder).digest)
    if re.fullmatch(rf"{MODEL_NAME}([:@].*)?", reference):
        ref = ModelRef.parse(reference)
        if ref.name in registry.refresh().models:
            digest = Digest(registry.resolve(ref).registered.manifest)
            return BaseModel(reference, ref.name, registry.pull(ref), digest)
    if _HUB_ID.fullmatch(reference) and not reference.startswith("."):
        folder = _from_hub(reference, registry.content.cache / "hub" / reference)
        return BaseModel(reference, reference.rpartition("/")[2], folder, Manifest.of_folder(folder).digest)
    near = did_you_mean(reference, [*registry.state.models, *(p.name for p in Path.cwd().iterdir() if p.is_dir())])
    raise NotFoundError(f"There is no folder and no registered model {reference!r} to start from.", hint=near)


def base_here(base: BaseModel, registry: RegistryApi) -> Path:
    """The files of a base model that was found on one machine, on this one: fetched where they are not at that path.

    Args:
        base: as it was found.
        registry: whose home has the files, or, of a model of the hub, knows where they go.

    Returns:
        what its ``folder`` is here.

    Raises:
        NotFoundError: they are only on the other machine.
        ConflictError: the hub gives other files by now.
        LlamaFarmError: the home or the hub can't be read, or the files in it are damaged.
    """
    if base.folder.exists():
        return base.folder
    if next(registry.refresh().with_content(base.digest), None) is not None:
        return registry.content.pull(base.digest)
    if not _HUB_ID.fullmatch(base.reference) or base.reference.startswith("."):
        raise NotFoundError(
            f"The base model's files are at {base.folder} on the machine that deployed it, and neither here nor in "
            f"the registry at {registry.home}.",
            hint="Import it (`llamafarm models import`) into a home that every node reaches, and deploy it by name.",
        )
    folder = _from_hub(base.reference, registry.content.cache / "hub" / base.reference)
    if (digest := Manifest.of_folder(folder).digest) != base.digest:
        raise ConflictError(
            f"The hub's files of {base.reference} are {digest.short} now, and were {base.digest.short} when it was "
            "deployed.",
            hint="Import the model, so that it stays what it is, or deploy it again.",
        )
    return folder


def _plain(name: str) -> str:
    """A file's name as a model's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "base"


def _from_hub(model_id: str, folder: Path) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (half a second, and rarely needed)
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        # Into a folder of its own: the hub's cache holds links, and what is digested must be the files themselves.
        snapshot_download(model_id, allow_patterns=list(_HUB_FILES), local_dir=folder)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise NotFoundError(
            f"{model_id!r} is no folder here, and the hub does not give it: {str(error).splitlines()[0]}",
            hint="Check the name, log in with `hf auth login` if it is gated, or give a folder that you have.",
        ) from None
    return folder
