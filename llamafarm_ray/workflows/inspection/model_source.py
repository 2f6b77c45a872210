"""The model that a command names: a folder, a GGUF file, an archive with one model, or a registered version."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.convert.pickled import pickled_weights, write_safetensors
from llamafarm_ray.models.folder import gguf_file, weight_formats
from llamafarm_ray.models.formats.archives import is_archive, unpack_model
from llamafarm_ray.registry import RegistryApi, find_base
from llamafarm_ray.storage import Manifest
from llamafarm_ray.storage.manifest import FileEntry, file_digest
from llamafarm_ray.types import Digest

__all__ = ["ModelSource", "opened_model", "opened_pickle"]


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model on this machine.

    Attributes:
        reference: as it was asked for.
        name: a name for it, from that.
        path: a GGUF file, or a folder in transformers' layout; of an archive, for the time of a block.
        is_kept: False if its files are gone after the block.
        documents: the folder with its licence and card, where it is a folder of its own.
        pickles: the files that its weights were read from, where these are pickles.
    """

    reference: str
    name: str
    path: Path
    digest: Digest
    is_kept: bool = True
    documents: Path | None = None
    pickles: tuple[str, ...] = ()


@contextmanager
def opened_model(registry: RegistryApi, reference: str, scratch: Path) -> Iterator[ModelSource]:
    """Find a model, for the time of a block.

    Args:
        registry: registry for names.
        reference: a folder, a file, ``name``, ``name:1.2.0``, ``name@production``, or a model of the hub.
        scratch: an existing folder, below which an archive is unpacked.

    Raises:
        InputError: it is no model.
        NotFoundError: there is nothing of that name.
    """
    path = Path(reference).expanduser()
    if is_archive(path):
        with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=scratch) as folder:
            found = unpack_model(path, Path(folder))
            digest = Manifest.of_file(found).digest if found.is_file() else Manifest.of_folder(found).digest
            yield ModelSource(reference, found.stem if found.is_file() else path.stem, found, digest, is_kept=False)
        return
    if path.is_file() and path.suffix.lower() != ".gguf":
        raise InputError(
            f"{reference!r} is no model: its extension is {path.suffix or 'missing'}.",
            hint="Give a GGUF file, a wheel or zip file, or the folder of a model.",
        )
    base = find_base(reference, registry, or_adapter=True)
    is_gguf = base.folder.is_dir() and weight_formats(base.folder)[:1] == ("gguf",)
    yield ModelSource(
        reference,
        base.name,
        gguf_file(base.folder) if is_gguf else base.folder,
        base.digest,
        documents=base.folder if base.folder.is_dir() else None,
    )


@contextmanager
def opened_pickle(reference: str, scratch: Path) -> Iterator[ModelSource]:
    """Convert a folder's pickled weights to safetensors, for the time of a block.

    Args:
        scratch: an existing folder, below which the safetensors are written.

    Raises:
        InputError: it is no such folder, or a pickle is refused; the message has the names that the pickle imports.
    """
    folder = Path(reference).expanduser()
    if not folder.is_dir():
        raise InputError(
            f"--convert-pickle reads a folder, and {reference!r} is none.", hint="Give the model's folder."
        )
    pickles = pickled_weights(folder)
    paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    entries = (
        FileEntry(path.name, path.stat().st_size, file_digest(path), "application/octet-stream") for path in paths
    )
    digest = Manifest(tuple(entries)).digest
    with tempfile.TemporaryDirectory(prefix=".pickled-", dir=scratch) as made:
        write_safetensors(folder, pickles, Path(made))
        names = tuple(path.name for path in pickles)
        yield ModelSource(reference, folder.name, Path(made), digest, is_kept=False, documents=folder, pickles=names)
