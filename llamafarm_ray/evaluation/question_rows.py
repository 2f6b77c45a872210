"""Rows of a file of questions, and the accepted answers in them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llamafarm_ray.errors import InputError

__all__ = ["ANSWERS", "read_rows", "texts_of"]

ANSWERS = ("answers", "accepted", "answer")
"""Names that a row's accepted answers may have."""


def read_rows(path: Path, form: str) -> Iterator[tuple[Mapping[str, object], str]]:
    """Yield each row with its place for errors: a JSON object a line, or one JSON list of them.

    Args:
        form: the form of a row, for errors.

    Raises:
        InputError: the file can't be read or has no rows, or a row is no JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"The questions {str(path)!r} can't be read: {error}.", hint="Give a JSONL file.") from None
    is_empty = True
    for row, where in _values(text, path, form):
        is_empty = False
        if not isinstance(row, Mapping):
            raise InputError(f"{where} is a JSON {type(row).__name__}, not an object.", hint=form)
        yield row, where
    if is_empty:
        raise InputError(f"{path} has no questions.", hint=form)


def texts_of(row: Mapping[str, object], names: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the texts that a row has under one of some names: a text, a number, or a list of them; () without any.

    Raises:
        InputError: they are something else or empty, or two of the names are given.
    """
    given = [name for name in names if row.get(name) is not None]
    if len(given) > 1:
        raise InputError(f"{where} has both {given[0]!r} and {given[1]!r}.", hint="Keep one.")
    value = row[given[0]] if given else ()
    texts = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in texts):
        raise InputError(f"{where}: {given[0]} is {value!r:.200}.", hint="Give a text, or a list of texts.")
    if any(not str(one).strip() for one in texts):
        raise InputError(f"{where}: {given[0]} has an empty text.", hint="Remove it.")
    return tuple(str(one).strip() for one in texts)


def _values(text: str, path: Path, form: str) -> Iterator[tuple[object, str]]:
    if text.lstrip().startswith("["):
        values = _parsed(text, str(path), form)
        yield from ((value, f"{path}, question {number}") for number, value in enumerate(values, 1))
        return
    # A text may hold U+2028, which splitlines() takes for the end of a line and JSON does not.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _parsed(line, f"{path}, line {number}", form), f"{path}, line {number}"


def _parsed(text: str, where: str, form: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON: {error}.", hint=form) from None
