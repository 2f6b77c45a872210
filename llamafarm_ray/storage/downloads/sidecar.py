"""The sidecar of a file being fetched: where it comes from, and which pieces of it are finished.

The first line is a JSON object with the file's address, validator and size; it is written before the first byte of the
file. Each further line is a finished piece with its digest (XXH3, 128 bits), or a piece under way with the number and
the digest of its bytes so far, appended in one write. A process that is killed leaves at most a last line that is cut
off, which is ignored.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from llamafarm_ray.storage.local import write_whole

__all__ = ["Head", "Sidecar"]

_FORMAT = 2


@dataclass(frozen=True, slots=True)
class Head:
    """The first line: an address without secrets, a validator (ETag), size and digest where known, and piece size."""

    address: str
    validator: str
    size_bytes: int | None
    digest: str
    piece_bytes: int
    format: int = _FORMAT


class Sidecar:
    """The sidecar at a path.

    Args:
        head: its first line.
        pieces: the digest of each finished piece in hexadecimal digits.
        begun: the number of bytes, and their digest, of each piece under way.
    """

    def __init__(
        self, path: Path, head: Head, pieces: dict[int, str], begun: dict[int, tuple[int, str]] | None = None
    ) -> None:
        self.path = path
        self.head = head
        self.pieces = pieces
        self.begun = begun or {}

    @classmethod
    def create(cls, path: Path, head: Head) -> Sidecar:
        """Write a new sidecar without finished pieces, whole or not at all."""
        write_whole(path, json.dumps(asdict(head)) + "\n")
        return cls(path, head, {})

    @classmethod
    def read(cls, path: Path) -> Sidecar | None:
        """Read a sidecar; ``None`` where there is none, or one that can't be used."""
        try:
            lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last line's end was cut off
            head = Head(**json.loads(lines[0]))
            pieces, begun = _pieces([json.loads(line) for line in lines[1:]])
        except (OSError, ValueError, TypeError, KeyError, IndexError):
            return None
        is_sound = head.format == _FORMAT and isinstance(head.piece_bytes, int) and head.piece_bytes > 0
        return cls(path, head, pieces, begun) if is_sound and isinstance(head.size_bytes, int | None) else None

    def add(self, piece: int, digest: str) -> None:
        """Append a finished piece."""
        self._append({"piece": piece, "xxh3": digest})
        self.pieces[piece] = digest
        self.begun.pop(piece, None)

    def mark(self, piece: int, num_bytes: int, digest: str) -> None:
        """Append the state of a piece under way."""
        self._append({"piece": piece, "bytes": num_bytes, "xxh3": digest})

    def _append(self, said: dict[str, object]) -> None:
        line = json.dumps(said) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


def _pieces(lines: list[dict[str, int | str]]) -> tuple[dict[int, str], dict[int, tuple[int, str]]]:
    """Return the finished pieces and the last state of each of the others."""
    finished: dict[int, str] = {}
    begun: dict[int, tuple[int, str]] = {}
    for line in lines:
        piece, digest = int(line["piece"]), str(line["xxh3"])
        if "bytes" in line:
            begun[piece] = int(line["bytes"]), digest
        else:
            finished[piece] = digest
    return finished, {piece: state for piece, state in begun.items() if piece not in finished}
