"""Checks of archives before anything in them is unpacked: names, kinds, places and sizes of their members."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from typing import IO, Self

from llamafarm_ray.errors import InputError
from llamafarm_ray.storage.paths import clash, path_problem
from llamafarm_ray.storage.ranges import PIECE_BYTES

__all__ = ["MAX_MEMBERS", "check_zip", "checked_tar", "copy_grown"]

MAX_MEMBERS = 10_000
"""The most members that an archive may have."""

_MAX_RATIO = 200
"""Times that more than a megabyte may grow; weights shrink to a third at best."""
_CHECKED_FROM_BYTES = 1 << 20
_MAX_TAR_HEADER_BYTES = 1 << 20
_HEADER_BYTES = 30
_ENCRYPTED = 0x1
_LONG_HEADERS = frozenset({tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, b"L", b"K"})
"""Kinds of tar headers that tarfile reads into memory as a whole: extended ones, and GNU's long names."""
_HINT = "Unpack it yourself, look at what is in it, and give the model's folder or GGUF file."


def check_zip(shown: str, members: Sequence[zipfile.ZipInfo]) -> None:
    """Check the names, kinds, sizes and places of all members of a zip file.

    Args:
        shown: the file's name in errors.

    Raises:
        InputError: one is unsafe.
    """
    if len(members) > MAX_MEMBERS:
        raise InputError(f"{shown!r} holds {len(members)} files; {MAX_MEMBERS} are the limit.", hint=_HINT)
    if problem := clash(member.filename for member in members if not member.is_dir()):
        raise _refused(shown, problem)
    end = 0
    for member in sorted(members, key=lambda one: one.header_offset):
        reason = _zip_problem(member)
        if member.header_offset < end:
            reason = "overlaps another file"
        end = member.header_offset + _HEADER_BYTES + member.compress_size
        if reason:
            raise _refused(shown, f"{member.orig_filename[:200]!r} {reason}")
    packed, whole = sum(one.compress_size for one in members), sum(one.file_size for one in members)
    if _grows(packed, whole):
        raise _refused(shown, f"it would grow from {packed} to {whole} bytes")


def _zip_problem(member: zipfile.ZipInfo) -> str:
    """Return the reason why a member is unsafe, as the end of a sentence; empty if it is not."""
    mode = stat.S_IFMT(member.external_attr >> 16)
    if mode == stat.S_IFLNK:
        return "is a link"
    if mode not in {0, stat.S_IFREG, stat.S_IFDIR}:
        return "is no plain file"
    if problem := _name_problem(member.orig_filename.rstrip("/")):
        return problem
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if _grows(member.compress_size, member.file_size):
        return f"would grow from {member.compress_size} to {member.file_size} bytes"
    return ""


class _BoundedInfo(tarfile.TarInfo):
    """A member of a tar file whose long headers have a limit: tarfile reads them into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.type in _LONG_HEADERS and found.size > _MAX_TAR_HEADER_BYTES:
            raise InputError(f"A tar file is refused: it has a header of {found.size} bytes.", hint=_HINT)
        return found


def checked_tar(opened: IO[bytes], shown: str, packed_bytes: int) -> tuple[tarfile.TarFile, dict[str, tarfile.TarInfo]]:
    """Open a tar file, and check its members one by one, before the bytes of any are unpacked.

    Args:
        opened: the file, which can be sought in.
        shown: its name in errors.

    Returns:
        the tar file, and its plain files by name.

    Raises:
        InputError: a member is unsafe: a link, a device, outside of the folder, or much larger than the archive.
        tarfile.TarError: it is no tar file.
    """
    archive = tarfile.open(fileobj=opened, tarinfo=_BoundedInfo)  # noqa: SIM115  (the caller closes it)
    found: dict[str, tarfile.TarInfo] = {}
    for member in _safe_members(archive, shown, packed_bytes):
        name = member.name.removeprefix("./")
        if name in found:
            raise _refused(shown, f"{name!r} is listed twice")
        found[name] = member
    if problem := clash(found):
        raise _refused(shown, problem)
    return archive, found


def _safe_members(archive: tarfile.TarFile, shown: str, packed_bytes: int) -> Iterator[tarfile.TarInfo]:
    total = 0
    for number, member in enumerate(archive, 1):
        if number > MAX_MEMBERS:
            raise InputError(f"{shown!r} holds more than {MAX_MEMBERS} files.", hint=_HINT)
        total += member.size
        if reason := _tar_problem(member):
            raise _refused(shown, f"{member.name[:200]!r} {reason}")
        if _grows(packed_bytes, total):
            raise _refused(shown, f"it would grow from {packed_bytes} to {total} bytes or more")
        if member.isreg():
            yield member


def _tar_problem(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return "is a link"
    if member.isdir():
        return ""
    if not member.isreg():
        return "is no plain file"
    if member.issparse():
        return "is sparse"
    return _name_problem(member.name.removeprefix("./"))


def copy_grown(source: IO[bytes], target: IO[bytes], shown: str, packed_bytes: int) -> int:
    """Copy a decompressor's output within bounds; return the number of bytes.

    Args:
        source: the decompressor.
        shown: name of the archive in errors.

    Raises:
        InputError: it grows too much.
    """
    total = 0
    while data := source.read(PIECE_BYTES):
        total += len(data)
        if _grows(packed_bytes, total):
            raise _refused(shown, f"it would grow from {packed_bytes} to {total} bytes or more")
        target.write(data)
    return total


def _grows(packed_bytes: int, whole_bytes: int) -> bool:
    return whole_bytes > _CHECKED_FROM_BYTES and whole_bytes > _MAX_RATIO * max(1, packed_bytes)


def _name_problem(name: str) -> str:
    problem = path_problem(name)
    return "" if problem in {None, "is hidden"} else str(problem)  # hidden ones are never unpacked


def _refused(shown: str, why: str) -> InputError:
    return InputError(f"{shown!r} is refused: {why}.", hint=_HINT)
