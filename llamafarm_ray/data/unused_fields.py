"""Fields of records that training does not use, reported for each file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from llamafarm_ray.data.formats.chats import question_and_answer
from llamafarm_ray.data.formats.turns import TURN_KEYS
from llamafarm_ray.data.formats.values import NUMBERED_NEGATIVE, RecordError, is_empty, turns_in

__all__ = ["UnusedFields", "has_images", "unused_fields"]

_IMAGES = frozenset({"images", "image"})
_OF_ROWS = frozenset({"id", "document", "document_digest", "passage", "provenance", "pii"}) | _IMAGES
_MARKS = frozenset({"weight", "train", "training", "loss"})
_TURNS = frozenset({"messages", "conversations"})
_BESIDE = frozenset({"system", "system_prompt", "history"})
_PROMPTS = _TURNS | _BESIDE | {"prompt", "instruction"}
_BELOW = frozenset({"input", "context"})
_WITH_TURNS = ("messages", "conversations", "prompt", "completion", "chosen", "rejected")
_OF_TURNS = TURN_KEYS | {"id"}
_BY_KIND: Mapping[str, frozenset[str]] = {
    "chat": _TURNS | _BESIDE | {"tools", "functions"},
    "preference": _PROMPTS | {"chosen", "rejected"},
    "judgement": _PROMPTS | {"label", "kto_tag", "completion", "output"},
    "match": frozenset({"anchor", "positive", "negatives", "negative", "query", "pos", "neg"}),
    "text": frozenset({"text"}),
}


def has_images(row: Mapping[str, Any]) -> bool:
    """Return True if a row has images, which are kept and not trained."""
    return any(turn.get("images") for turn in row.get("messages") or ())


def unused_fields(record: object, kind: str, rows: Iterable[Mapping[str, object]] = ()) -> tuple[str, ...]:
    """Return the names of a record's fields that have a value and that training does not use.

    Args:
        record: as its file has it, and sound.
        rows: its rows; those with images have ``images``.
    """
    if not isinstance(record, Mapping):
        return ()
    images = ("images",) if any(map(has_images, rows)) else ()
    used = _OF_ROWS | _MARKS | _BY_KIND[kind]
    if kind in {"chat", "judgement"}:
        used |= _of_pair(record)
    if kind in {"preference", "judgement"} and _is_asked_in_text(record):
        used |= _BELOW
    others = (
        str(name)
        for name, value in record.items()
        if name not in used and not is_empty(value) and not (kind == "match" and NUMBERED_NEGATIVE.fullmatch(str(name)))
    )
    return (*others, *_beside_turns(record), *images)


def _of_pair(record: Mapping[str, object]) -> frozenset[str]:
    """Return the names of a question and its answer, and of the text that goes below the question."""
    try:
        pair = question_and_answer(record)
    except RecordError:  # two of them: the reader of chats has refused the record
        return frozenset()
    if pair is None:
        return frozenset()
    return frozenset(pair) | (_BELOW if _is_asked_in_text(record) else frozenset())


def _is_asked_in_text(record: Mapping[str, object]) -> bool:
    """Return True if a record's question is a text, below which ``input`` and ``context`` go."""
    answers = [turns_in(record.get(key)) for key in ("chosen", "rejected")]
    has_turns = any(not is_empty(record.get(key)) for key in _TURNS) or bool(turns_in(record.get("prompt")))
    return not has_turns and min(map(len, answers)) <= 1


def _beside_turns(record: Mapping[str, object]) -> list[str]:
    """Return the names of fields that turns have and that are not read, behind the names of their lists."""
    found = {
        f"{key}[].{name}": None
        for key in _WITH_TURNS
        for turn in turns_in(record.get(key))
        if isinstance(turn, Mapping)
        for name, value in turn.items()
        if name not in _OF_TURNS and not is_empty(value)
    }
    return list(found)


class UnusedFields:
    """Counts the records of each file that have a field which training does not use."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}

    def add(self, file: str, names: Iterable[str]) -> None:
        """Count a record of a file."""
        for name in names:
            self._counts.setdefault(file, Counter())[name] += 1

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of records by file and field."""
        return {file: dict(sorted(counts.items())) for file, counts in sorted(self._counts.items())}

    def notes(self) -> dict[str, str]:
        """Return a sentence for each file that has such fields."""
        return {
            file: f"training does not use {', '.join(f'{name!r} of {count} records' for name, count in counts.items())}"
            for file, counts in self.counts().items()
        }
