"""Questions with accepted answers, from a JSONL or JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from llamafarm_ray.errors import InputError
from llamafarm_ray.types import Digest

__all__ = ["Question", "questions_digest", "read_questions"]

_ANSWERS = ("answers", "accepted", "answer")
_CONTEXT = ("context", "contexts")
_KNOWN = ("question", *_ANSWERS, "document", *_CONTEXT)
_SHAPE = '{"question": "...", "answers": ["..."], "document": "optional", "context": "optional"}'


@dataclass(frozen=True, slots=True)
class Question:
    """A question.

    Args:
        question: its text.
        answers: accepted answers: an answer that holds one is right.
        document: the document of the corpus that has the answer; None if it is not named.
        context: passages that have the answer; empty if they are not given.
        is_whole: whether the answers are whole sentences: an answer is right if it holds all their content.
        more: other values of its row, for the report.
    """

    question: str
    answers: tuple[str, ...]
    document: str | None = None
    context: tuple[str, ...] = ()
    is_whole: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)


def read_questions(path: Path) -> list[Question]:
    """Read questions: a JSON object a line, or one JSON list of them.

    ``answers`` may be called ``accepted`` or ``answer``, and be one text. Other keys are kept for the report.

    Raises:
        InputError: the file can't be read or has no questions, or a row is not as it has to be; with its line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"The questions {str(path)!r} can't be read: {error}.", hint="Give a JSONL file.") from None
    found = [_question(value, where) for value, where in _values(text, path)]
    if not found:
        raise InputError(f"{path} has no questions.", hint=f"Write one a line: {_SHAPE}.")
    return found


def questions_digest(questions: Iterable[Question]) -> Digest:
    """Return the digest of what is asked and accepted; it does not depend on the file's form."""
    rows = [[one.question, one.answers, one.document, one.context] for one in questions]
    return Digest.of(json.dumps(rows, ensure_ascii=True).encode())


def _values(text: str, path: Path) -> Iterator[tuple[Any, str]]:
    if text.lstrip().startswith("["):
        values = _parsed(text, str(path))
        yield from ((value, f"{path}, question {number}") for number, value in enumerate(values, 1))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _parsed(line, f"{path}, line {number}"), f"{path}, line {number}"


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON: {error}.", hint=f"A question is {_SHAPE}.") from None


def _question(row: Any, where: str) -> Question:
    if not isinstance(row, Mapping):
        raise InputError(f"{where} is a JSON {type(row).__name__}, not an object.", hint=f"A question is {_SHAPE}.")
    for name in row:
        near = [] if name in _KNOWN else get_close_matches(name, _KNOWN, n=1, cutoff=0.8)
        if near:
            raise InputError(f"{where} has the key {name!r}.", hint=f"Did you mean {near[0]!r}? Else rename it.")
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"{where} has no question, but {question!r}.", hint=f"A question is {_SHAPE}.")
    answers = _texts(row, _ANSWERS, where)
    if not answers:
        raise InputError(f"{where} has no accepted answer.", hint=f"A question is {_SHAPE}.")
    document = row.get("document")
    if document is not None and not isinstance(document, str):
        raise InputError(f"{where}: document is {document!r}.", hint="Give a document's path in the corpus.")
    more = {name: value for name, value in row.items() if name not in _KNOWN}
    return Question(question.strip(), answers, document or None, _texts(row, _CONTEXT, where), more=more)


def _texts(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> tuple[str, ...]:
    given = [name for name in names if row.get(name) is not None]
    if len(given) > 1:
        raise InputError(f"{where} has both {given[0]!r} and {given[1]!r}.", hint="Keep one.")
    value = row[given[0]] if given else ()
    texts = [value] if isinstance(value, str | int | float) and not isinstance(value, bool) else value
    if not isinstance(texts, list | tuple) or not all(
        isinstance(one, str | int | float) and not isinstance(one, bool) for one in texts
    ):
        raise InputError(f"{where}: {given[0]} is {value!r}.", hint="Give a text, or a list of texts.")
    if any(not str(one).strip() for one in texts):
        raise InputError(f"{where}: {given[0]} has an empty text.", hint="Remove it.")
    return tuple(str(one).strip() for one in texts)
