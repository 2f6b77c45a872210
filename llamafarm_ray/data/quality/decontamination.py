"""Decontamination: no example repeats a question that a model is evaluated with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamafarm_ray.data.records import BadRecord, is_record_file, read_file
from llamafarm_ray.data.steps.base import Dropped, Step
from llamafarm_ray.data.text import normal_form, normal_words
from llamafarm_ray.errors import InputError

__all__ = ["Decontaminate", "EvaluationTexts", "Overlap", "find_overlaps", "questions_of", "read_evaluation_texts"]

_GRAM_WORDS = 13  # as in the GPT-3 paper, appendix C
_QUESTION_KEYS = ("question", "prompt", "query", "input", "instruction", "problem", "ctx")


@dataclass(frozen=True)
class EvaluationTexts:
    """Questions of evaluation sets.

    Args:
        questions: each question's normal form.
        grams: each run of 13 words in them.
    """

    questions: frozenset[str]
    grams: frozenset[str]

    @classmethod
    def of(cls, texts: Iterable[str]) -> EvaluationTexts:
        """Return the questions and word runs of ``texts``."""
        found = list(texts)
        return cls(
            frozenset(filter(None, map(normal_form, found))), frozenset(gram for text in found for gram in _grams(text))
        )

    def overlap(self, turns: Iterable[Mapping[str, object]]) -> bool:
        """Return True if a user turn is one of the questions, or a turn shares 13 words in a row with one."""
        return next(self.shared(turns), None) is not None

    def shared(self, turns: Iterable[Mapping[str, Any]]) -> Iterator[str]:
        """Yield questions that are a user turn, and runs of 13 words that are in a turn, in their normal form."""
        for turn in turns:
            text = turn["content"] or ""
            if turn["role"] == "user" and (form := normal_form(text)) in self.questions:
                yield form
            yield from (gram for gram in _grams(text) if gram in self.grams)


def _grams(text: str) -> Iterator[str]:
    words = normal_words(text)
    for start in range(len(words) - _GRAM_WORDS + 1):
        yield " ".join(words[start : start + _GRAM_WORDS])


@dataclass(frozen=True, slots=True)
class Overlap:
    """An example that repeats a question.

    Args:
        shared: the question, or 13 words in a row, in normal form.
    """

    row: Mapping[str, Any]
    shared: str


def find_overlaps(questions: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> dict[int, Overlap]:
    """Return the first example that repeats each question, by the question's place; see `EvaluationTexts.overlap`.

    Args:
        rows: examples with ``messages``.
    """
    texts = EvaluationTexts.of(questions)
    places: dict[str, list[int]] = {}
    for at, question in enumerate(questions):
        for part in {normal_form(question), *_grams(question)}:
            places.setdefault(part, []).append(at)
    found: dict[int, Overlap] = {}
    for row in rows:
        for shared in texts.shared(row["messages"]):
            for at in places[shared]:
                found.setdefault(at, Overlap(row, shared))
    return dict(sorted(found.items()))


class Decontaminate(Step[Mapping[str, object], Mapping[str, object]]):
    """Drops examples that ask a question of an evaluation set, or share 13 words in a row with one."""

    name = "decontaminate"

    def __init__(self, texts: EvaluationTexts) -> None:
        self.texts = texts

    def apply(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, object] | Dropped]:
        """See :meth:`Step.apply`; a row has (at least) ``messages``."""
        for row in rows:
            if self.texts.overlap(row["messages"]):
                yield Dropped(
                    "overlaps an evaluation set", sample=" ".join(turn["content"] for turn in row["messages"])
                )
            else:
                yield row


def read_evaluation_texts(paths: Sequence[str]) -> EvaluationTexts:
    """Read the questions of evaluation sets.

    Of a record (of JSON, CSV, Parquet and the like) the question is under ``question``, ``prompt``, ``query``,
    ``input``, ``instruction``, ``problem`` or ``ctx``, or in the user turns of ``messages``; of another file each line
    is one.

    Raises:
        InputError: a file can't be read, or has no question.
    """
    return EvaluationTexts.of(text for path in paths for text in _questions(Path(path)))


def _questions(path: Path) -> list[str]:
    where = f"dataset.quality_control.decontaminate: {str(path)!r}"
    try:
        if is_record_file(path) and path.suffix not in {".json", ".jsonl"}:
            found = list(_questions_of_file(path, where))
        elif path.suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            found = [one for line in lines if line.strip() for one in questions_of(json.loads(line))]
        elif path.suffix == ".json":
            found = list(questions_of(json.loads(path.read_text(encoding="utf-8-sig"))))
        else:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            found = [line for line in lines if re.search(r"\w", line)]
    except OSError as error:
        raise InputError(f"{where} can't be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"{where} is no {path.suffix or 'text'} file in UTF-8: {error}.") from error
    if not found:
        raise InputError(
            f"{where} has no question.", hint=f"Its rows need one of: {', '.join(_QUESTION_KEYS)}, messages."
        )
    return found


def _questions_of_file(path: Path, where: str) -> Iterator[str]:
    for place, record in read_file(path):
        if isinstance(record, BadRecord):
            raise InputError(f"{where}, {place} {record.reason}")
        yield from questions_of(record)


def questions_of(value: object) -> Iterator[str]:
    """Yield the questions of a row of an evaluation set, see `read_evaluation_texts`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from questions_of(one)
    elif isinstance(value, Mapping):
        turns = value.get("messages")
        if isinstance(turns, list):
            yield from (str(turn.get("content")) for turn in turns if turn.get("role") == "user")
        named = {str(key).strip().casefold(): one for key, one in value.items()}
        found = [named[key] for key in _QUESTION_KEYS if isinstance(named.get(key), str)]
        yield from found
        if not found and turns is None:
            for nested in value.values():
                if isinstance(nested, list | Mapping):
                    yield from questions_of(nested)
