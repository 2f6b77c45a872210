"""Files of a model that are read in parts: in a folder, in an archive, or wherever ranges of bytes can be fetched."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from llamafarm_ray.models.formats.archives import find_model

__all__ = ["FolderFiles", "ModelFiles", "RangedFile", "ZippedFiles", "opened_files"]

_BUFFER_BYTES = 1 << 18


class ModelFiles(Protocol):
    """Files of one model, none of which has to be here as a whole."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Size in bytes of each file, by its name; names have no folders."""

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading from its front.

        Raises:
            OSError: it can't be read.
        """


class FolderFiles:
    """Files of a folder, or one file.

    Args:
        path: the folder or file.
    """

    def __init__(self, path: Path) -> None:
        found = [path] if path.is_file() else sorted(one for one in path.iterdir() if one.is_file())
        self._paths = {one.name: one for one in found}

    @property
    def sizes(self) -> Mapping[str, int]:
        """See `ModelFiles.sizes`."""
        return {name: path.stat().st_size for name, path in self._paths.items()}

    def open(self, name: str) -> BinaryIO:
        """See `ModelFiles.open`."""
        return self._paths[name].open("rb")


class ZippedFiles:
    """Files of the one model in an archive.

    Raises:
        InputError: see `find_model`.
    """

    def __init__(self, path: Path) -> None:
        self._members = {member.filename.rpartition("/")[2]: member for member in find_model(path)}
        self._archive = zipfile.ZipFile(path)

    @property
    def sizes(self) -> Mapping[str, int]:
        """See `ModelFiles.sizes`."""
        return {name: member.file_size for name, member in self._members.items()}

    def open(self, name: str) -> BinaryIO:
        """See `ModelFiles.open`."""
        return cast("BinaryIO", self._archive.open(self._members[name]))

    def close(self) -> None:
        """Close the archive."""
        self._archive.close()


class RangedFile(io.RawIOBase):
    """A file of which ranges of bytes are fetched as they are read.

    Args:
        fetch: returns the bytes from a place on, so many or fewer.
    """

    def __init__(self, size_bytes: int, fetch: Callable[[int, int], bytes]) -> None:
        super().__init__()
        self._size_bytes, self._fetch, self._place = size_bytes, fetch, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, for which nothing is fetched, and return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size_bytes}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fetch as many bytes as fit into a buffer, and return their number."""
        wanted = min(len(buffer), self._size_bytes - self._place)
        data = self._fetch(self._place, wanted) if wanted > 0 else b""
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def buffered(self) -> BinaryIO:
        """Return a reader that fetches a quarter of a megabyte at once."""
        return io.BufferedReader(self, _BUFFER_BYTES)


@contextmanager
def opened_files(path: Path, *, is_archive: bool) -> Iterator[ModelFiles]:
    """Open the files of a model on this machine for the time of a block."""
    if not is_archive:
        yield FolderFiles(path)
        return
    files = ZippedFiles(path)
    try:
        yield files
    finally:
        files.close()
