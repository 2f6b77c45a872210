"""Manifests: the list of a version's files with sizes, digests and media types (the OCI image spec's terms)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn, Self

from llamafarm_ray.errors import InputError, IntegrityError
from llamafarm_ray.storage.formats.gguf import read_gguf
from llamafarm_ray.storage.formats.onnx import check_onnx
from llamafarm_ray.storage.formats.pickles import refuse_pickles
from llamafarm_ray.storage.formats.safetensors import read_tensors
from llamafarm_ray.storage.paths import MAX_FILES, clash, path_problem
from llamafarm_ray.types import Digest

__all__ = ["FileEntry", "Manifest", "file_digest", "left_out"]

_MEDIA_TYPES = {
    ".safetensors": "application/vnd.safetensors",
    ".gguf": "application/vnd.gguf",
    ".onnx": "application/vnd.onnx",
    ".xml": "application/xml",
    ".json": "application/json",
    ".jinja": "text/x-jinja",
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".model": "application/vnd.sentencepiece",
    ".parquet": "application/vnd.apache.parquet",
}
_NOT_CONTENT = {"download.json", "history.jsonl", "report.html", "tensorboard", "training.json", "wandb"}
"""A run's curves and its record, and that of a download: the registry keeps the facts of them itself."""
_TRAINER_STATE = re.compile(
    r"training_args\.bin|(?:optimizer|scheduler|scaler)\.(?:pt|bin)|rng_state(?:_\d+)?\.pth|random_states_\d+\.pkl"
    r"|(?:checkpoint-|global_step)\d+"
)
"""The state that Hugging Face's Trainer, TRL and Accelerate leave beside weights, and their checkpoints."""
_MAX_SIZE_BYTES = 2**63 - 1
_FIELDS = {"path", "size_bytes", "digest", "media_type"}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file: its path with ``/``, size in bytes, digest and media type."""

    path: str
    size_bytes: int
    digest: Digest
    media_type: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of one version, sorted by path. Its own digest names the version's content."""

    files: tuple[FileEntry, ...]

    @classmethod
    def of_folder(cls, folder: Path, digests: Mapping[str, Digest] | None = None) -> Self:
        """Read, check and list every file of a folder.

        Hidden files are left out (other tools' caches), and so is what a training run leaves beside its result, see
        `left_out`.

        Args:
            digests: those of files that were hashed just now, by their path below the folder.

        Raises:
            InputError: no folder, no file in it, too many, one that can't be read, a link or another thing that is no
                plain file, a name that is not the same on every system, pickled code, or a broken file of weights.
        """
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder.", hint="Give the folder that holds the model's files.")
        try:
            paths = _checked_paths(folder)
            known = digests or {}
            return cls(tuple(_entry(paths[name], name, known.get(name)) for name in sorted(paths)))
        except OSError as error:
            raise InputError(f"{folder} can't be read: {error}.", hint="Check its files' permissions.") from error

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """Read, check and list one file, as if it were alone in its folder.

        Raises:
            InputError: see `of_folder`.
        """
        try:
            return cls((_entry(path, path.name),))
        except OSError as error:
            raise InputError(f"{path} can't be read: {error}.", hint="Check its permissions.") from error

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse what :meth:`to_bytes` wrote, and nothing else.

        Raises:
            IntegrityError: it is no manifest, or lists files that :meth:`of_folder` would not.
        """
        try:
            body = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"This is no manifest: {error}.") from error
        listed = body.get("files") if isinstance(body, dict) else None
        if not isinstance(listed, list):
            raise IntegrityError("This is no manifest: it has no list of files.")
        if body.get("format_version") != 1:
            raise IntegrityError(
                f"The manifest has the format version {body.get('format_version')!r}; this release reads 1.",
                hint="Upgrade llamafarm_ray.",
            )
        if len(listed) > MAX_FILES:
            raise IntegrityError(f"The manifest lists {len(listed)} files, more than {MAX_FILES}.")
        manifest = cls(tuple(_parse_entry(entry) for entry in listed))
        if problem := clash(entry.path for entry in manifest.files):
            raise IntegrityError(f"The manifest can't be unpacked: {problem}.")
        if manifest.to_bytes() != data:
            raise IntegrityError("The manifest is not in its canonical form, so its digest does not name its content.")
        return manifest

    def to_bytes(self) -> bytes:
        """The canonical JSON form: the same files always give the same bytes."""
        body = {"format_version": 1, "files": [asdict(entry) for entry in self.files]}
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> Digest:
        """The digest of the canonical form."""
        return Digest.of(self.to_bytes())

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(entry.size_bytes for entry in self.files)


def left_out(folder: Path) -> list[str]:
    """Return the names of the files and folders of a trainer's state, sorted: no version holds them.

    Raises:
        InputError: the folder can't be read.
    """
    try:
        return sorted(path.name for path in folder.iterdir() if _is_trainer_state(folder, path.name))
    except OSError as error:
        raise InputError(f"{folder} can't be read: {error}.", hint="Check its permissions.") from error


def _is_trainer_state(folder: Path, name: str) -> bool:
    """Return whether a file or folder holds a trainer's state: by its name, and where weights are beside it."""
    return _TRAINER_STATE.fullmatch(name) is not None and any(folder.glob("*.safetensors"))


def file_digest(path: Path) -> Digest:
    """The sha256 of a local file, read in pieces."""
    with path.open("rb") as file:
        return Digest(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")


def _parse_entry(entry: object) -> FileEntry:
    if not isinstance(entry, dict) or set(entry) != _FIELDS:
        raise IntegrityError(f"The manifest has an entry without the fields of a file: {repr(entry)[:120]}.")
    path, size_bytes, digest, media_type = (entry[name] for name in ("path", "size_bytes", "digest", "media_type"))
    if not all(isinstance(value, str) for value in (path, digest, media_type)):
        raise IntegrityError(f"The manifest has a path, digest or media type that is no text: {repr(entry)[:120]}.")
    if problem := path_problem(path):
        raise IntegrityError(f"The manifest names {path[:200]!r}, which {problem}.")
    if type(size_bytes) is not int or not 0 <= size_bytes <= _MAX_SIZE_BYTES:
        raise IntegrityError(f"The manifest gives {path!r} the size {str(size_bytes)[:40]!r}.")
    try:
        return FileEntry(path, size_bytes, Digest(digest), media_type)
    except InputError as error:
        raise IntegrityError(f"The manifest gives {path!r} no digest: {error}") from None


def _checked_paths(folder: Path) -> dict[str, Path]:
    """The plain files of a folder by their name below it, all names sound and none the same as another."""
    paths: dict[str, Path] = {}
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if not stat.S_ISREG(path.lstat().st_mode):
            raise InputError(f"{str(path)!r} is a link or no plain file.", hint="Copy the real file into the folder.")
        if problem := path_problem(name):
            raise InputError(f"{str(path)!r} {problem}.", hint="Rename it.")
        if len(paths) == MAX_FILES:
            raise InputError(f"{folder} holds more than {MAX_FILES} files.", hint="Pack them into fewer.")
        paths[name] = path
    if not paths:
        raise InputError(f"{folder} holds no file.", hint="Give the folder that holds the model's files.")
    if problem := clash(paths):
        raise InputError(f"{folder} can't be published: {problem}.", hint="Rename one of them.")
    return paths


def _walk(folder: Path) -> Iterator[Path]:
    for current, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if _is_content(Path(current), name)]
        yield from (Path(current, name) for name in files if _is_content(Path(current), name))
        yield from (path for name in folders if (path := Path(current, name)).is_symlink())


def _is_content(folder: Path, name: str) -> bool:
    return not name.startswith(".") and name not in _NOT_CONTENT and not _is_trainer_state(folder, name)


def _raise(error: OSError) -> NoReturn:
    raise error


def _entry(path: Path, name: str, digest: Digest | None = None) -> FileEntry:
    refuse_pickles(path)
    match path.suffix.lower():
        case ".safetensors":
            read_tensors(path)
        case ".gguf":
            read_gguf(path)
        case ".onnx":
            check_onnx(path)
    media_type = _MEDIA_TYPES.get(path.suffix, "application/octet-stream")
    return FileEntry(name, path.stat().st_size, digest or file_digest(path), media_type)
