"""A record of structured data as text."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from llamafarm_ray.data.parsed import Metadata
from llamafarm_ray.data.readers.base import Outline
from llamafarm_ray.data.readers.text import text_blocks

__all__ = ["add_record", "record_line"]

_TEXT_KEYS = ("text", "content", "body")
_TITLE_KEYS = ("title", "name", "subject", "heading")
_MAX_DEPTH = 100
_MAX_METADATA_CHARS = 2000
"""Longest value that is kept beside each example of a record."""


def record_line(record: Mapping[str, object]) -> str:
    """Return ``key: value; key: value`` of the values that are not empty, lists joined by commas."""
    pairs = ((key, _value(value)) for key, value in record.items())
    return "; ".join(f"{key}: {value}" if key else value for key, value in pairs if value)


def add_record(record: object, outline: Outline) -> None:
    """Add a record to ``outline``, apart from the records around it.

    A record with a ``text``, ``content`` or ``body`` is that text, under its ``title``; one with ``question`` and
    ``answer`` is ``Q: ... A: ...``; another its keys and values on one line; text and lists deeper inside stand below.
    Other fields of the first two are their metadata, the entries of ``metadata`` one by one.
    """
    if not isinstance(record, Mapping):
        outline.record()
        _add(record, outline, 0)
        return
    title = next((key for key in _TITLE_KEYS if isinstance(record.get(key), str)), "")
    text = next((key for key in _TEXT_KEYS if isinstance(record.get(key), str) and record[key]), "")
    question, answer = record.get("question"), record.get("answer")
    if text:
        outline.record(_metadata(record, {text, title}, outline))
        outline.heading(1, record[title] if title else "")
        for block in text_blocks(record[text]):
            outline.block(block)
    elif isinstance(question, str) and isinstance(answer, str):
        outline.record(_metadata(record, {"question", "answer"}, outline))
        outline.block(f"Q: {question} A: {answer}")
    else:
        outline.record()
        _add(record, outline, 0)


def _metadata(record: Mapping[str, object], used: Collection[str], outline: Outline) -> Metadata:
    """Return a record's metadata beside its text; a note names values that are too long."""
    beside = {str(key): value for key, value in record.items() if key not in used}
    nested = beside.get("metadata")
    if isinstance(nested, Mapping) and beside.keys().isdisjoint(map(str, nested)):
        del beside["metadata"]
        beside |= {str(key): value for key, value in nested.items()}
    found = []
    for name, value in beside.items():
        if value is None or isinstance(value, bytes):
            continue
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        if len(shown) <= _MAX_METADATA_CHARS:
            found.append((name, shown))
        else:
            outline.note(f"{name!r} of its records is longer than {_MAX_METADATA_CHARS} characters and left out")
    return tuple(found)


def _add(value: object, outline: Outline, depth: int) -> None:
    """Add the simple values of ``value`` as one line, then the nested ones."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, Mapping):
        outline.block(record_line({key: inner for key, inner in value.items() if _is_simple(inner)}))
        children = [inner for inner in value.values() if not _is_simple(inner)]
    elif isinstance(value, list):
        children = value
    else:
        outline.block(_value(value))
        children = []
    for child in children:
        _add(child, outline, depth + 1)


def _is_simple(value: object) -> bool:
    if isinstance(value, list):
        return all(not isinstance(item, Mapping | list) for item in value)
    return not isinstance(value, Mapping)


def _value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(filter(None, map(_value, value)))
    if value is None or isinstance(value, bytes):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(str(value).split())
