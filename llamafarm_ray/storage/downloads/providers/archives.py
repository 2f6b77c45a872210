"""Take one model out of a zip file, a wheel or a tar file.

Members are read by their declared sizes, and an archive that holds more is refused. So is one with links, devices or
names outside of it, and one that would grow beyond all measure.
"""

from __future__ import annotations

import contextlib
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Self

import zstandard

from llamafarm_ray.errors import InputError, StorageError
from llamafarm_ray.storage.archive_checks import check_zip, checked_tar, copy_grown
from llamafarm_ray.storage.downloads.providers.wanted_files import choose_files
from llamafarm_ray.storage.failures import NO_SPACE
from llamafarm_ray.storage.paths import path_problem
from llamafarm_ray.storage.ranges import PIECE_BYTES

__all__ = ["ARCHIVES", "is_archive", "unpack_members", "unpack_model", "unpack_tar"]

_ZIPS = (".zip", ".whl")
_ZSTANDARD = (".tar.zst", ".tzst")
_TARS = (".tar", ".tar.gz", ".tgz", *_ZSTANDARD)
ARCHIVES = (*_ZIPS, *_TARS)
"""Extensions of archives, in lower case."""


def is_archive(name: str) -> bool:
    """Return whether a file's name is that of an archive."""
    return name.lower().endswith(ARCHIVES)


def unpack_model(archive: Path, folder: Path, include: Sequence[str]) -> None:
    """Write the one model in an archive into a folder: a folder with config.json and weights, or a GGUF file.

    Raises:
        InputError: the archive is broken or hostile, or holds no model or several.
        StorageError: the disk has no room for it.
    """
    with _opened(archive) as opened:
        sizes = opened.sizes
        top = _model_folder(sizes, archive.name)
        inside = {name[len(top) :]: size for name, size in sizes.items() if name.startswith(top)}
        names = choose_files(inside, include, archive.name)
        _extract(opened, {name: top + name for name in names}, folder)


def unpack_tar(archive: Path, folder: Path) -> None:
    """Write every plain file of a tar file into a folder.

    Raises:
        InputError: the archive is broken or hostile.
        StorageError: the disk has no room for it.
    """
    with _Tar(archive) as opened:
        _extract(opened, {name: name for name in opened.sizes}, folder)


def unpack_members(archive: Path, names: Mapping[str, str], folder: Path) -> None:
    """Write some plain files of an archive into a folder.

    Args:
        archive: a zip file or a tar file.
        names: names in the archive, by the paths in the folder.
        folder: an existing folder.

    Raises:
        InputError: the archive is broken or hostile.
        StorageError: the disk has no room for them.
    """
    with _opened(archive) as opened:
        _extract(opened, names, folder)


def _opened(archive: Path) -> _Zip | _Tar:
    return _Zip(archive) if archive.name.lower().endswith(_ZIPS) else _Tar(archive)


class _Zip:
    """A zip file's plain members."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
            raise _broken(path, error) from None
        check_zip(path.name, self._file.infolist())
        self._members = {one.filename: one for one in self._file.infolist() if not one.is_dir()}
        self.sizes: dict[str, int | None] = {name: one.file_size for name, one in self._members.items()}

    def open(self, name: str) -> IO[bytes]:
        return self._file.open(self._members[name])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class _Tar:
    """A tar file's plain members."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._closing = contextlib.ExitStack()
        with self._closing as closing:
            try:
                packed_bytes = path.stat().st_size
                opened = closing.enter_context(self._expanded() if _is_zstandard(path.name) else path.open("rb"))
                archive, self._members = checked_tar(opened, path.name, packed_bytes)
                self._file = closing.enter_context(archive)
            except (tarfile.TarError, OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
                if isinstance(error, OSError) and error.errno in NO_SPACE:
                    raise
                raise _broken(path, error) from None
            self._closing = closing.pop_all()
        self.sizes: dict[str, int | None] = {name: one.size for name, one in self._members.items()}

    def _expanded(self) -> IO[bytes]:
        """Return a file without a name that holds the archive without its compression, which tarfile can't read."""
        plain: IO[bytes] = tempfile.TemporaryFile(dir=self.path.parent)  # noqa: SIM115  (closed by `__exit__`)
        try:
            with (
                self.path.open("rb") as packed,
                zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as source,
            ):
                copy_grown(source, plain, self.path.name, self.path.stat().st_size)
        except BaseException:  # Ctrl-C too: the file has no name by which it could be deleted
            plain.close()
            raise
        plain.seek(0)
        return plain

    def open(self, name: str) -> IO[bytes]:
        opened = self._file.extractfile(self._members[name])
        if opened is None:
            raise _broken(self.path, f"{name} is no file")
        return opened

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()


def _model_folder(sizes: dict[str, int | None], archive: str) -> str:
    """Return the folder of the one model, with its ``/`` at the end."""
    configs = {name[: -len("config.json")] for name in sizes if PurePosixPath(name).name == "config.json"}
    weights = {f"{folder}/" if folder != "." else "" for folder in _folders(sizes, ".safetensors")}
    found = sorted(configs & weights) or sorted(f"{one}/" if one != "." else "" for one in _folders(sizes, ".gguf"))
    if len(found) == 1:
        return found[0]
    listed = ", ".join(repr(name) for name in found) or "none"
    raise InputError(
        f"{archive} should hold one model: a folder with config.json and *.safetensors, or a GGUF file; it holds "
        f"{listed}.",
        hint="Unpack it, and give the folder of the model.",
    )


def _folders(sizes: dict[str, int | None], suffix: str) -> set[str]:
    return {str(PurePosixPath(name).parent) for name in sizes if name.lower().endswith(suffix)}


def _extract(opened: _Zip | _Tar, names: Mapping[str, str], folder: Path) -> None:
    for target in names:
        if problem := path_problem(target):
            raise InputError(f"{opened.path.name} holds {target[:200]!r}, which {problem}.", hint="Don't trust it.")
    needed, free = sum(opened.sizes[name] or 0 for name in names.values()), shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"{opened.path.name} unpacks to {needed / 1e9:,.2f} GB, and {folder} has {free / 1e9:,.2f} GB free.",
            hint="Free space there.",
        )
    for target, name in names.items():
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with opened.open(name) as source, path.open("wb") as written:
                _copy(source, written, opened.sizes[name] or 0)
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, ValueError) as error:
            path.unlink(missing_ok=True)
            raise _broken(opened.path, f"{name}: {error}") from None


def _copy(source: IO[bytes], target: IO[bytes], num_bytes: int) -> None:
    """Copy a member, which must have as many bytes as it declares."""
    left = num_bytes
    while data := source.read(min(PIECE_BYTES, left + 1)):
        left -= len(data)
        if left < 0:
            raise ValueError("it holds more than it declares")
        target.write(data)
    if left:
        raise ValueError(f"it ends {left} bytes early")


def _is_zstandard(name: str) -> bool:
    return name.lower().endswith(_ZSTANDARD)


def _broken(path: Path, why: object) -> InputError:
    return InputError(f"{path.name} is no sound archive: {why}.", hint="Download it again.")
