"""Questions of a custom evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.metrics.sample import Sample
from llamafarm_ray.evaluation.question_rows import ANSWERS, read_rows, texts_of

__all__ = ["Question", "is_list_of_objects", "read_questions"]

_FORM = 'Each line is an object such as {"prompt": "...", "answers": ["..."]}.'
_SLICES = ("document", "language", "topic")


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation to answer.

    Args:
        messages: the conversation; its last turn is the user's.
        accepted: answers that are right; empty where a scorer of your own decides.
        row: the line of the file, for that scorer.
    """

    id: str
    messages: tuple[Mapping[str, object], ...]
    accepted: tuple[str, ...] = ()
    row: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """The last turn's text."""
        return str(self.messages[-1].get("content", ""))

    @property
    def slices(self) -> dict[str, str]:
        """Groups of questions that this one belongs to: by document, language and topic, where the file names them."""
        return {name: str(self.row[name]) for name in _SLICES if self.row.get(name)}

    @property
    def tools(self) -> str | None:
        """The tools that the model has, as JSON text; None without any."""
        tools = self.row.get("tools")
        return json.dumps(tools, ensure_ascii=False) if tools else None

    def sample(self, answer: str) -> Sample:
        """Return what metrics see of an answer: what it is compared with, and passages, schema or calls of the row."""
        row = self.row
        return Sample(
            answer=answer,
            accepted=self.accepted,
            question=self.prompt,
            context=texts_of(row, ("context",), self.id),
            schema=row.get("schema"),
            expected_calls=tuple(row["calls"]) if "calls" in row else None,
        )


Check = Callable[[Mapping[str, object], str], None]
"""Takes a row and its place in the file; raises for a row that can't be scored."""


def read_questions(
    path: Path, *, system: str | None = None, needs_answers: bool = True, check: Check | None = None
) -> list[Question]:
    """Read questions.

    A row has ``prompt`` (or ``question``) or ``messages``, and ``answers`` (a list) or ``answer`` (a text). ``id``,
    ``document``, ``language``, ``topic`` and ``tools`` are optional; ``context``, ``schema`` and ``calls`` are what
    metrics such as ``faithfulness``, ``json_valid`` and ``tool_call_accuracy`` need. Other keys are there for a scorer
    of your own.

    Args:
        system: instructions put before conversations that have none.
        needs_answers: refuse a question without accepted answers.
        check: looks at each row.

    Raises:
        InputError: the file can't be read, is empty, names an id twice, or a row lacks something.
    """
    found: dict[str, Question] = {}
    for number, (row, where) in enumerate(read_rows(path, _FORM), 1):
        question = _question(row, where, str(row.get("id", number)), system)
        if needs_answers and not question.accepted:
            raise InputError(f"{where} has no answers.", hint=f"{_FORM} Or name a scorer of your own.")
        if check is not None:
            check(row, where)
        if question.id in found:
            raise InputError(
                f"{where} has the id {question.id!r}, which an earlier line has.", hint="Use each id once."
            )
        found[question.id] = question
    return list(found.values())


def is_list_of_objects(value: object) -> bool:
    """Return True for a list of JSON objects."""
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def _question(row: Mapping[str, object], where: str, name: str, system: str | None) -> Question:
    messages, prompt = row.get("messages"), row.get("prompt", row.get("question"))
    if messages is None and isinstance(prompt, str) and prompt.strip():
        messages = [{"role": "user", "content": prompt}]
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(one, dict) and isinstance(one.get("role"), str) for one in messages)
        or messages[-1]["role"] != "user"
    ):
        raise InputError(f"{where} has no prompt, and no messages that end with the user's.", hint=_FORM)
    if system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    if not is_list_of_objects(row.get("tools") or []):
        raise InputError(f"{where}: tools is no list of objects.", hint="Write them as OpenAI's API has them.")
    return Question(name, tuple(messages), texts_of(row, ANSWERS, where), row)
