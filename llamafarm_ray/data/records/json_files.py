"""JSON files: a list of records, an object that holds the list, or one record a line."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from llamafarm_ray.data.records.base import BadRecord, Record, UnreadableFileError
from llamafarm_ray.data.records.compression import open_to_read
from llamafarm_ray.data.text import decode_text, text_encoding

__all__ = ["not_unicode", "open_text", "read_json", "read_json_lines"]

WRAPPERS = ("data", "rows", "examples", "records", "instances", "samples", "tickets")
"""Keys under which a file that is one object may hold its list of records."""

_HEAD_BYTES = 4096


class _Repeating(dict[str, object]):
    """An object that names a key twice; of such a key it has the last value only."""

    def __init__(self, pairs: Sequence[tuple[str, object]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.repeated = next(name for name in names if names.count(name) > 1)


def open_text(path: Path, *, newline: str) -> io.TextIOWrapper:
    """Open a text file in UTF-8, or in UTF-16 and UTF-32 where its first bytes show that.

    Args:
        newline: see `open`.
    """
    buffered = io.BufferedReader(open_to_read(path), _HEAD_BYTES)  # type: ignore[type-var]
    return io.TextIOWrapper(buffered, encoding=text_encoding(buffered.peek(_HEAD_BYTES)), newline=newline)


def read_json_lines(path: Path) -> Iterator[Record]:
    """Yield a record a line, in a streaming way; empty lines are passed over."""
    with open_text(path, newline="\n") as file:
        yield from _lines(file)


def read_json(path: Path) -> Iterator[Record]:
    """Yield the records of a file that is one list, or an object around a list; JSON lines are recognized too.

    Raises:
        UnreadableFileError: it is neither.
    """
    with open_to_read(path) as file:
        text = decode_text(file.read())
    if text is None:
        raise not_unicode(path)
    if not text.strip():
        raise UnreadableFileError(path, "is empty.")
    decoder = _StrictDecoder()
    try:
        whole = decoder.decode(text)
    except (ValueError, RecursionError) as error:
        if not _begins_with_a_record(text):
            raise UnreadableFileError(path, _fault(error, str(error))) from error
        yield from _lines(text.split("\n"))
        return
    if isinstance(whole, _Repeating):
        raise UnreadableFileError(path, _twice(whole.repeated))
    for index, record in enumerate(_list_in(whole, path)):
        repeated = _repeated_in(record) if decoder.has_repeats else None
        yield f"record {index}", _checked(record, text) if repeated is None else BadRecord(_twice(repeated))


def not_unicode(path: Path) -> UnreadableFileError:
    """Return the error of a file that is no Unicode text, with the line where that shows."""
    reason = "is not text in UTF-8."
    with open_to_read(path) as file:
        for number, line in enumerate(file, start=1):
            if b"\0" in line and "line" not in reason:
                reason = f"is not text: line {number} has a zero byte."
            try:
                line.decode()
            except UnicodeDecodeError as error:
                reason = f"is not text in UTF-8: line {number} has the byte 0x{line[error.start]:02x} at a wrong place."
                break
    return UnreadableFileError(path, reason, hint="Save it as UTF-8.")


class _StrictDecoder(json.JSONDecoder):
    """A decoder that marks objects that name a key twice.

    Attributes:
        has_repeats: True once a decoded text had such an object, until the caller resets it.
    """

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._object)
        self.has_repeats = False

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        self.has_repeats = True
        return _Repeating(pairs)


def _repeated_in(value: object) -> str | None:
    """Return a key that an object in a value names twice; ``None`` if there is none."""
    if isinstance(value, _Repeating):
        return value.repeated
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for found in map(_repeated_in, inner) if found is not None), None)


def _twice(key: str) -> str:
    return f"has the key {key[:80]!r} twice in one object; keep one."


def _fault(error: ValueError | RecursionError, shown: str) -> str:
    """Return the reason why JSON can't be read, in the words of a user's file.

    Args:
        error: of Python's reader.
        shown: of an error of syntax, what it says and where.
    """
    if isinstance(error, json.JSONDecodeError):
        return f"is not valid JSON: {shown}."
    if isinstance(error, RecursionError):
        return "is nested too deeply."
    return f"has a whole number of more than {sys.get_int_max_str_digits():,} digits."


def _list_in(whole: object, path: Path) -> list[object]:
    if isinstance(whole, dict):
        found = [key for key in WRAPPERS if isinstance(whole.get(key), list)]
        if len(found) == 1:
            whole = whole[found[0]]
    if not isinstance(whole, list):
        kind = "an object" if isinstance(whole, dict) else f"the value {str(whole)[:40]!r}"
        raise UnreadableFileError(
            path,
            f"holds {kind}, not a list of records.",
            hint=f"Put the list under {' or '.join(map(repr, WRAPPERS[:2]))}, or write one record a line (.jsonl).",
        )
    return whole


def _begins_with_a_record(text: str) -> bool:
    try:
        return isinstance(json.loads(text.lstrip().split("\n", 1)[0]), dict)
    except (ValueError, RecursionError):
        return False


def _lines(lines: Iterable[str]) -> Iterator[Record]:
    decoder = _StrictDecoder()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"line {number}", _parsed(decoder, line)


def _parsed(decoder: _StrictDecoder, line: str) -> object:
    decoder.has_repeats = False
    try:
        record = decoder.decode(line)
        repeated = _repeated_in(record) if decoder.has_repeats else None
    except json.JSONDecodeError as error:
        return BadRecord(_fault(error, f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"))
    except (ValueError, RecursionError) as error:
        return BadRecord(_fault(error, ""))
    return _checked(record, line) if repeated is None else BadRecord(_twice(repeated))


def _checked(record: object, source: str) -> object:
    """Return the record, or a `BadRecord` if an escape of its text stands for no character."""
    if "\\ud" not in source and "\\uD" not in source:
        return record
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        found = f"\\u{ord(error.object[error.start]):04x}"
        return BadRecord(f"has the escape {found}, half of a surrogate pair, which is no character; remove it.")
    return record
