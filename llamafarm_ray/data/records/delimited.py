"""CSV and TSV files: the first line names the columns."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

from llamafarm_ray.data.records.base import BadRecord, Record, UnreadableFileError
from llamafarm_ray.data.records.compression import file_type
from llamafarm_ray.data.records.json_files import open_text

__all__ = ["read_delimited"]

_LONGEST_CELL = 2**31 - 1
_BOOLEANS = {"true": True, "false": False}
_BOOLEAN_DIGITS = {"1": True, "0": False}
_JUDGED = frozenset({"prompt", "messages", "conversations", "kto_tag"})
"""Columns beside which 1 and 0 are judgements; beside a question and its answer they may be classes."""
_BOOLEAN_COLUMNS = ("label", "kto_tag")


def read_delimited(path: Path) -> Iterator[Record]:
    """Yield a record a row, in a streaming way. Cells are text; an empty one counts as missing.

    Raises:
        UnreadableFileError: the header is missing, or names a column twice or not at all.
    """
    csv.field_size_limit(_LONGEST_CELL)
    with open_text(path, newline="") as file:
        first = file.readline()
        rows = csv.reader(itertools.chain([first], file), delimiter=_delimiter(path, first), strict=True)
        try:
            header = [name.strip() for name in next(rows, []) or []]
        except csv.Error as error:
            raise UnreadableFileError(path, f"has no header in line 1: {error}.") from None
        _check_header(path, header)
        while True:
            place = f"line {rows.line_num + 1}"
            try:
                cells = next(rows, None)
            except csv.Error as error:
                yield place, BadRecord(f"is not valid CSV: {error}.")
                return  # where the next row begins is not known
            if cells is None:
                return
            if cells:
                yield place, _record(header, cells)


def _record(header: list[str], cells: list[str]) -> object:
    if len(cells) != len(header):
        return BadRecord(f"has {len(cells)} cells where the header names {len(header)} columns; quote delimiters.")
    record: dict[str, object] = {name: cell or None for name, cell in zip(header, cells, strict=True)}
    values = _BOOLEANS | (_BOOLEAN_DIGITS if _JUDGED & record.keys() else {})
    for name in _BOOLEAN_COLUMNS:
        written = record.get(name)
        if isinstance(written, str):
            record[name] = values.get(written.strip().lower(), written)
    return record


def _delimiter(path: Path, header: str) -> str:
    """Return the delimiter: a tab in TSV; in CSV a comma, or a semicolon where the header has no comma."""
    if file_type(path) == ".tsv":
        return "\t"
    return ";" if "," not in header and ";" in header else ","


def _check_header(path: Path, header: list[str]) -> None:
    if not header:
        raise UnreadableFileError(path, "is empty.", hint="Its first line has to name the columns.")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UnreadableFileError(path, f"names the column {twice[0]!r} twice in line 1.", hint="Rename one.")
    if not all(header):
        raise UnreadableFileError(path, "has a column without a name in line 1.", hint="Name or remove it.")
