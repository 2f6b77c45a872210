"""JSON files: a list of records, an object that holds the list, or one record a line."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from llamafarm_ray.data.records.base import BadRecord, Record, UnreadableFileError
from llamafarm_ray.data.records.compression import open_to_read
from llamafarm_ray.data.text import decode_text, text_encoding

__all__ = ["open_text", "read_json", "read_json_lines"]

WRAPPERS = ("data", "rows", "examples", "records", "instances", "samples", "tickets")
"""Keys under which a file that is one object may hold its list of records."""

_HEAD_BYTES = 4096


def open_text(path: Path, *, newline: str) -> io.TextIOWrapper:
    """Open a text file in UTF-8, or in UTF-16 and UTF-32 where its first bytes show that.

    Args:
        path: of the file, which may be compressed.
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
        raise UnreadableFileError(path, "is not text in UTF-8.", hint="Save it as UTF-8.")
    if not text.strip():
        raise UnreadableFileError(path, "is empty.")
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        if not _begins_with_a_record(text):
            raise UnreadableFileError(path, f"is not valid JSON: {error}.") from error
        yield from _lines(text.split("\n"))
        return
    for index, record in enumerate(_list_in(whole, path)):
        yield f"record {index}", _checked(record, text)


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
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"line {number}", _parsed(line)


def _parsed(line: str) -> object:
    try:
        return _checked(json.loads(line), line)
    except (ValueError, RecursionError) as error:
        return BadRecord(f"is not valid JSON: {error}.")


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
