"""A record of structured data as text."""

from __future__ import annotations

from collections.abc import Mapping

from llamafarm_ray.data.readers.base import Outline
from llamafarm_ray.data.readers.text import text_blocks

__all__ = ["add_record", "record_line"]

_TEXT_KEYS = ("text", "content", "body")
_TITLE_KEYS = ("title", "name", "subject", "heading")
_MAX_DEPTH = 100


def record_line(record: Mapping[str, object]) -> str:
    """Return ``key: value; key: value`` of what is not empty, lists joined by commas."""
    pairs = ((key, _value(value)) for key, value in record.items())
    return "; ".join(f"{key}: {value}" if key else value for key, value in pairs if value)


def add_record(record: object, outline: Outline) -> None:
    """Add a record to ``outline``, apart from the records around it.

    A record with a ``text``, ``content`` or ``body`` is that text, under its ``title``; one with ``question`` and
    ``answer`` is ``Q: ... A: ...``; another its keys and values on one line; text and lists deeper inside stand below.
    """
    outline.record()
    if not isinstance(record, Mapping):
        _add(record, outline, 0)
        return
    title = next((record[key] for key in _TITLE_KEYS if isinstance(record.get(key), str)), "")
    text = next((record[key] for key in _TEXT_KEYS if isinstance(record.get(key), str)), "")
    question, answer = record.get("question"), record.get("answer")
    if text:
        outline.heading(1, title)
        for block in text_blocks(text):
            outline.block(block)
    elif isinstance(question, str) and isinstance(answer, str):
        outline.block(f"Q: {question} A: {answer}")
    else:
        _add(record, outline, 0)


def _add(value: object, outline: Outline, depth: int) -> None:
    """Add what is simple in ``value`` as one line, then all that is nested in it."""
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
