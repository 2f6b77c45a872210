"""Values of a record's keys: texts that must be there, lists that may be written as JSON, and words for the rest."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "NUMBERED_NEGATIVE",
    "RecordError",
    "check_agree",
    "is_empty",
    "kind_name",
    "parsed_list",
    "required_text",
    "text_of",
    "turns_in",
]

NUMBERED_NEGATIVE = re.compile(r"negative_\d+")
"""Names of the columns of further negatives, as sentence-transformers has them."""


class RecordError(Exception):
    """A fault of one record; the reader of the file adds which one it is."""


def is_empty(value: object) -> bool:
    """Return True for what says nothing: datasets in columns fill keys up with such values."""
    return value is None or value is False or value in ("", "[]", [], {})


def check_agree(
    record: Mapping[str, object],
    names: Sequence[str],
    where: str = "",
    *,
    read: Callable[[str], object] | None = None,
) -> None:
    """Check that the names of one thing hold the same value: only one of them is read.

    Args:
        record: a record, or one of its turns.
        where: place of the turn.
        read: returns the value of a name in one form, where names have forms of their own; by default the value
            itself, parsed if it is JSON.

    Raises:
        RecordError: two of them differ.
    """
    read = read or (lambda name: parsed_list(record[name]))
    given = [name for name in names if not is_empty(record.get(name))]
    for name in given[1:]:
        if read(name) != read(given[0]):
            raise RecordError(f"has '{where}{given[0]}' and '{where}{name}', which differ; keep one.")


def required_text(record: Mapping[str, object], key: str) -> str:
    """Return the text under ``key``.

    Raises:
        RecordError: it is missing, empty or no text.
    """
    return text_of(record, key)


def text_of(record: Mapping[str, object], key: str, prefix: str = "", *, optional: bool = False) -> str:
    """Return the text under ``key``; "" where it may be missing and is.

    Raises:
        RecordError: it is missing, empty or no text.
    """
    value = record.get(key)
    if optional and (value is None or value == ""):
        return ""
    if value is None:
        raise RecordError(f"is missing '{prefix}{key}'.")
    if not isinstance(value, str):
        raise RecordError(f"has {kind_name(value)} as '{prefix}{key}', not text.")
    if not value.strip():
        raise RecordError(f"has an empty '{prefix}{key}'.")
    return value


def parsed_list(value: object) -> object:
    """Return the list or object that a text holds as JSON, as cells of tables do; any other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def turns_in(value: object) -> list[object]:
    """Return a list of turns that stands in place of a text; none of a text that is none."""
    turns = parsed_list(value)
    if isinstance(value, str) and isinstance(turns, list):
        return (
            turns if turns and all(isinstance(turn, dict) and {"role", "from"} & turn.keys() for turn in turns) else []
        )
    return turns if isinstance(turns, list) else []


def kind_name(value: object) -> str:
    """Return a value's type in the words of JSON."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}
    if value == []:
        return "an empty list"
    return "null" if value is None else kinds.get(type(value), type(value).__name__)
