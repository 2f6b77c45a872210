"""Manifests: the list of a version's files with sizes, digests and media types (the OCI image spec's terms)."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from llamafarm_ray.errors import InputError, IntegrityError
from llamafarm_ray.types import Digest

__all__ = ["FileEntry", "Manifest", "file_digest"]

_MEDIA_TYPES = {
    ".safetensors": "application/vnd.safetensors",
    ".json": "application/json",
    ".jinja": "text/x-jinja",
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".model": "application/vnd.sentencepiece",
    ".parquet": "application/vnd.apache.parquet",
}
_REFUSED = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".joblib", ".dill", ".npy", ".npz"}
_NOT_CONTENT = {"tensorboard", "training.json"}
"""A run's curves and its record: the registry keeps the facts of them itself."""
_MAX_SAFETENSORS_HEADER_BYTES = 100 * 1024 * 1024


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
    def of_folder(cls, folder: Path) -> Self:
        """Read, check and list every file of a folder.

        Hidden files are left out (other tools' caches), and so is what a training run leaves beside its result.

        Raises:
            InputError: no folder, no file in it, a symbolic link, pickled weights, or a broken safetensors file.
        """
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder.", hint="Give the folder that holds the model's files.")
        entries = [_entry(folder, path) for path in _walk(folder)]
        if not entries:
            raise InputError(f"{folder} holds no file.", hint="Give the folder that holds the model's files.")
        return cls(tuple(sorted(entries, key=lambda entry: entry.path)))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse what :meth:`to_bytes` wrote.

        Raises:
            IntegrityError: it is no manifest, or a path in it leaves its folder.
        """
        try:
            listed = json.loads(data)["files"]
            files = tuple(
                FileEntry(f["path"], int(f["size_bytes"]), Digest(f["digest"]), f["media_type"]) for f in listed
            )
        except (ValueError, KeyError, TypeError, InputError) as error:
            raise IntegrityError(f"This is no manifest: {error}.") from error
        for entry in files:
            if entry.path.startswith("/") or any(part in {"", ".", ".."} for part in entry.path.split("/")):
                raise IntegrityError(f"The manifest names {entry.path!r}, which is outside its folder.")
        return cls(files)

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


def file_digest(path: Path) -> Digest:
    """The sha256 of a local file, read in pieces."""
    with path.open("rb") as file:
        return Digest(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")


def _walk(folder: Path) -> list[Path]:
    found: list[Path] = []
    for current, folders, files in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _NOT_CONTENT]
        found.extend(Path(current, name) for name in files if not name.startswith(".") and name not in _NOT_CONTENT)
        found.extend(path for name in folders if (path := Path(current, name)).is_symlink())
    return found


def _entry(folder: Path, path: Path) -> FileEntry:
    name = path.relative_to(folder).as_posix()
    if path.is_symlink() or not path.is_file():
        raise InputError(f"{path} is a link or no plain file.", hint="Copy the real file into the folder.")
    if _REFUSED.intersection(suffix.lower() for suffix in path.suffixes):
        raise InputError(
            f"{path} can hold pickled code, which runs when it is loaded.",
            hint="Only safetensors weights are accepted: convert it with transformers' save_pretrained.",
        )
    if path.suffix.lower() == ".safetensors":
        _check_safetensors(path)
    media_type = _MEDIA_TYPES.get(path.suffix, "application/octet-stream")
    return FileEntry(name, path.stat().st_size, file_digest(path), media_type)


def _check_safetensors(path: Path) -> None:
    """Validate the header (https://github.com/huggingface/safetensors#format) without reading the tensors."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1  # noqa: PLR2004
        if not 0 < header_bytes <= min(size_bytes - 8, _MAX_SAFETENSORS_HEADER_BYTES):
            raise InputError(f"{path} is no safetensors file.", hint="It may be cut off: copy it again.")
        try:
            header = json.loads(file.read(header_bytes))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise InputError(f"{path} has a broken safetensors header.", hint="Save the weights again.") from None
    if max(ends, default=0) != size_bytes - 8 - header_bytes:
        raise InputError(f"{path} is cut off or has bytes after its tensors.", hint="Copy it again.")
