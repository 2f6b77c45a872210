"""Remote file that is read from an offset on, and the failures that are worth another try."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from llamafarm_ray.types import Digest

__all__ = ["Answer", "Patience", "RemoteFile", "ReplacedError", "TransientError", "Wanted"]


class TransientError(Exception):
    """A failure that another try may not meet.

    Args:
        reason: the end of a sentence, ``"answered 503"``.
        wait_s: the pause that the other side asked for.
    """

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait_s = wait_s


class ReplacedError(Exception):
    """The file became another one while it was read."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Limits of time and of tries.

    Attributes:
        connect_s: for a connection to be made.
        read_s: without a byte on a connection.
        attempts: tries in a row without a byte of progress.
        first_wait_s: the pause after the first failed try; each further one doubles it.
        max_wait_s: the longest pause, also where the other side asks for a longer one.
        slow_s: time after which a connection is given up whose rate stayed below ``slow_bytes_per_s``.
        slow_bytes_per_s: that rate.
    """

    connect_s: float = 10.0
    read_s: float = 30.0
    attempts: int = 6
    first_wait_s: float = 0.5
    max_wait_s: float = 60.0
    slow_s: float = 30.0
    slow_bytes_per_s: int = 2048

    def wait_s(self, failures: int, asked_s: float | None = None) -> float:
        """Return the pause after that many failures in a row."""
        doubled: float = self.first_wait_s * 2.0 ** (failures - 1)
        return min(self.max_wait_s, max(doubled, asked_s or 0.0))


@dataclass(frozen=True, slots=True)
class Answer:
    """The bytes of a file from an offset on.

    Attributes:
        begin: the offset of the first byte, 0 where the other side ignored the one that was asked for.
        size_bytes: the size of the whole file, ``None`` where the other side does not tell.
        validator: an ETag or the like, which changes with the file; empty where there is none.
        chunks: the bytes.
        is_range: True if the answer is the requested range, not the whole file.
    """

    begin: int
    size_bytes: int | None
    validator: str
    chunks: Iterator[bytes]
    is_range: bool = True


class RemoteFile(Protocol):
    """A file somewhere else."""

    @property
    def shown(self) -> str:
        """Its address without any secret, for messages and records."""

    def read(self, begin: int, end: int) -> AbstractContextManager[Answer]:
        """Ask for the bytes from ``begin`` up to ``end``.

        Raises:
            TransientError: another try may succeed.
            LlamaFarmError: none will.
        """


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to fetch, with everything that is known of it beforehand.

    Attributes:
        path: its place below the target folder, with ``/``.
        remote: source of its bytes.
        digest: its sha256.
        git_digest: the id that git gives it, the sha1 of ``blob``, the size and the bytes, in hexadecimal digits.
        validator: its ETag.
        is_optional: True if the download continues without it where the source lacks it.
    """

    path: str
    remote: RemoteFile
    size_bytes: int | None = None
    digest: Digest | None = None
    git_digest: str | None = None
    validator: str = ""
    is_optional: bool = False
