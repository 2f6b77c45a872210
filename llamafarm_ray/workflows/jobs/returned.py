"""Small results of a job, sent back in its output: lines that whoever follows the job turns into files again."""

from __future__ import annotations

import base64
import binascii
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from llamafarm_ray.errors import InputError
from llamafarm_ray.storage.local import write_whole

__all__ = ["RETURN_VARIABLE", "ReturnedFiles", "returned_lines"]

RETURN_VARIABLE = "LLAMAFARM_RETURN_FILES"
"""Set to 1 in a job that somebody follows."""

_MARK = "llamafarm-file:"
_LINE_CHARS = 8192
"""Ray cuts lines of a job's output after 20,000 characters."""
_MAX_BYTES = 4 * 1024**2
"""Of a file, compressed; a larger one stays on the cluster."""


def returned_lines(option: str, path: Path) -> Iterator[str]:
    """Yield the lines that hold a file; none outside of a job that is followed, or where it is too large.

    Args:
        option: the verb's option that named the file.
    """
    if os.environ.get(RETURN_VARIABLE) != "1":
        return
    data = zlib.compress(path.read_bytes())
    if len(data) > _MAX_BYTES:
        return
    text = base64.b64encode(data).decode()
    parts = [text[start : start + _LINE_CHARS] for start in range(0, len(text), _LINE_CHARS)]
    for number, part in enumerate(parts, start=1):
        yield f"{_MARK}{option} {number}/{len(parts)} {part}\n"


class ReturnedFiles:
    """Takes files out of a job's output.

    Args:
        places: the option of each file that may come, and where it goes; no other file is written.
    """

    def __init__(self, places: Mapping[str, Path]) -> None:
        self._places = dict(places)
        self._parts: dict[str, list[str]] = {}
        self._held = ""
        self.written: list[Path] = []
        """Files that arrived."""

    def visible(self, text: str) -> str:
        """Return what of new output is not part of a file; the beginning of a line that may be is kept for later."""
        *lines, last = (self._held + text).split("\n")
        shown = [line for line in lines if not self._take(line)]
        is_open = last.startswith(_MARK) or bool(last and _MARK.startswith(last))
        self._held = last if is_open else ""
        return "".join(f"{line}\n" for line in shown) + ("" if is_open else last)

    def rest(self) -> str:
        """Return what was kept, once the output has ended."""
        held, self._held = self._held, ""
        return "" if self._take(held) else held

    def _take(self, line: str) -> bool:
        """Return True if a line is part of a file; the last part writes the file."""
        option, _, rest = line.strip().removeprefix(_MARK).partition(" ")
        place, part = rest.partition(" ")[::2]
        number, _, count = place.partition("/")
        if not line.startswith(_MARK) or option not in self._places or not (number.isdigit() and count.isdigit()):
            return False
        parts = self._parts.setdefault(option, [])
        if int(number) == len(parts) + 1:
            parts.append(part)
        if int(number) == int(count) == len(parts):
            self._write(self._places[option], "".join(parts))
        return True

    def _write(self, path: Path, text: str) -> None:
        try:
            data = zlib.decompress(base64.b64decode(text, validate=True))
        except (binascii.Error, zlib.error):
            return
        try:
            write_whole(path, data)
        except OSError as error:
            raise InputError(f"{path} can't be written: {error.strerror}.", hint="It is on the cluster too.") from error
        self.written.append(path)
