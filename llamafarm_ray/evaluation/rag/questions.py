"""Questions with accepted answers, from a JSONL or JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.question_rows import ANSWERS, read_rows, texts_of
from llamafarm_ray.types import Digest

__all__ = ["Question", "questions_digest", "read_questions"]

_CONTEXT = ("context", "contexts")
_KNOWN = ("question", *ANSWERS, "document", *_CONTEXT)
_FORM = 'A question is {"question": "...", "answers": ["..."], "document": "optional", "context": "optional"}.'


@dataclass(frozen=True, slots=True)
class Question:
    """A question.

    Args:
        answers: accepted answers: an answer that holds one is right.
        document: the document of the corpus that has the answer; None if it is not named.
        context: passages that have the answer; empty if they are not given.
        is_whole: True if the answers are whole sentences: an answer is right if it holds all their content.
        more: other values of its row, for the report.
    """

    question: str
    answers: tuple[str, ...]
    document: str | None = None
    context: tuple[str, ...] = ()
    is_whole: bool = False
    more: Mapping[str, object] = field(default_factory=dict)


def read_questions(path: Path) -> list[Question]:
    """Read questions: a JSON object a line, or one JSON list of them.

    ``answers`` may be called ``accepted`` or ``answer``, and be one text. Other keys are kept for the report.

    Raises:
        InputError: the file can't be read or has no questions, or a row is not as it has to be; with its line.
    """
    return [_question(row, where) for row, where in read_rows(path, _FORM)]


def questions_digest(questions: Iterable[Question]) -> Digest:
    """Return the digest of the questions and accepted answers; it does not depend on the file's form."""
    rows = [[one.question, one.answers, one.document, one.context, one.is_whole] for one in questions]
    return Digest.of(json.dumps(rows, ensure_ascii=True).encode())


def _question(row: Mapping[str, object], where: str) -> Question:
    for name in row:
        near = [] if name in _KNOWN else get_close_matches(name, _KNOWN, n=1, cutoff=0.8)
        if near:
            raise InputError(f"{where} has the key {name!r}.", hint=f"Did you mean {near[0]!r}? Else rename it.")
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"{where} has no question, but {question!r}.", hint=_FORM)
    answers = texts_of(row, ANSWERS, where)
    if not answers:
        raise InputError(f"{where} has no accepted answer.", hint=_FORM)
    document = row.get("document")
    if document is not None and not isinstance(document, str):
        raise InputError(f"{where}: document is {document!r}.", hint="Give a document's path in the corpus.")
    more = {name: value for name, value in row.items() if name not in _KNOWN}
    return Question(question.strip(), answers, document or None, texts_of(row, _CONTEXT, where), more=more)
