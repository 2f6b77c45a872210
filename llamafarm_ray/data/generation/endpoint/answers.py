"""Read a model's answer: strictly as the JSON that was asked for, then pair by pair."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

from llamafarm_ray.config.sections.generation import Difficulty
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.rows import Example, Message, Provenance
from llamafarm_ray.data.text import language_of, text_digest
from llamafarm_ray.text.refusals import NOT_SAID

__all__ = [
    "MAX_CHARS",
    "BadAnswerError",
    "Pair",
    "difficulty_of",
    "examples_from",
    "objects_in",
    "one_line",
    "parse_answer",
    "parse_json",
    "points_at_passage",
    "text_of",
    "without_controls",
]

_CONTROLS = dict.fromkeys(range(0x20), " ")
_FENCED = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", re.DOTALL)
_TEXT = r"(?:the|this) (?:text|document|article|section|paragraph|context|author)"
_POINTING = re.compile(
    r"\b(?:(?:the|this) (?:passage|excerpt)|(?:mentioned|stated|described) above"
    rf"|(?:according to|in|by) {_TEXT}|(?:do|does|did) {_TEXT} (?:say|state|mention|describe|explain|discuss))\b",
    re.IGNORECASE,
)
MAX_CHARS = 4000
"""Longest question or answer that is taken."""


class BadAnswerError(Exception):
    """An answer that is not the JSON that was asked for; the text says why, for the model that tries again."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A question in several wordings and its answer; the answer is empty if the passage has none."""

    questions: tuple[str, ...]
    answer: str
    difficulty: str = ""


def without_controls(text: str) -> str:
    """Return JSON with spaces for control characters.

    JSON has none within a text, but vLLM's grammars let a model write them there.
    """
    return text.translate(_CONTROLS)


def parse_json(text: str) -> object:
    """Read the JSON of an answer; a Markdown fence around it is allowed, nothing else.

    Raises:
        BadAnswerError: the text has another form.
    """
    fenced = _FENCED.fullmatch(text)
    try:
        value: object = json.loads(without_controls(fenced[1] if fenced else text))
    except (ValueError, RecursionError) as error:
        raise BadAnswerError(f"It is not JSON ({str(error)[:80]}).") from None
    return value


def text_of(item: Mapping[str, object], name: str) -> str:
    """Return the text of an element's field on one line.

    Raises:
        BadAnswerError: the field is missing or no text.
    """
    value = item.get(name)
    if not isinstance(value, str):
        raise BadAnswerError(f'The "{name}" of an element is not a text.')
    return one_line(value)


def parse_answer(text: str) -> list[Pair]:
    """Read an answer with pairs.

    Raises:
        BadAnswerError: the text has another form.
    """
    return [_pair(pair) for pair in objects_in(text, "pairs")]


def objects_in(text: str, key: str) -> list[dict[str, object]]:
    """Return the objects that an answer lists under a key.

    Raises:
        BadAnswerError: the text has another form.
    """
    value = parse_json(text)
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise BadAnswerError(f'It is not an object with a list "{key}".')
    if not all(isinstance(one, dict) for one in found):
        raise BadAnswerError(f'An element of "{key}" is not an object.')
    return found


def points_at_passage(question: str) -> bool:
    """Return True if a question mentions "the passage", which its reader does not see."""
    return _POINTING.search(question) is not None


def _pair(value: Mapping[str, object]) -> Pair:
    questions, answer = value.get("questions"), value.get("answer")
    if not isinstance(questions, list) or not all(isinstance(question, str) for question in questions):
        raise BadAnswerError('The "questions" of a pair are not a list of texts.')
    if not isinstance(answer, str):
        raise BadAnswerError('The "answer" of a pair is not a text.')
    return Pair(tuple(one_line(question) for question in questions), one_line(answer), difficulty_of(value))


def difficulty_of(value: Mapping[str, object]) -> str:
    """Return the difficulty that an element of an answer names; "" if it names none that is known."""
    named = value.get("difficulty")
    return str(named) if named in get_args(Difficulty) else ""


def one_line(text: str) -> str:
    """Return a text on one line, without lone surrogates."""
    return " ".join(text.encode("utf-8", "ignore").decode("utf-8").split())


def examples_from(
    pairs: list[Pair], passage: Passage, provenance: Provenance, *, unanswerable: bool
) -> tuple[list[Example], Counter[str]]:
    """Return the examples of an answer, and the number of dropped pairs or wordings by reason.

    Args:
        provenance: recorded with each example.
        unanswerable: turn a pair without an answer into an example with the fixed refusal of its language; else it is
            dropped.
    """
    refusal = _refusal_of(passage) if unanswerable and not all(pair.answer for pair in pairs) else ""
    examples: list[Example] = []
    dropped: Counter[str] = Counter()
    for pair in pairs:
        questions = [question for question in pair.questions if question]
        fitting = [question for question in questions if not points_at_passage(question)]
        dropped["question points at its passage"] += len(questions) - len(fitting)
        if not questions:
            dropped["pair without a question"] += 1
        elif not pair.answer and not refusal:
            dropped["no refusal is known in its language" if unanswerable else "pair without an answer"] += 1
        elif len(pair.answer) > MAX_CHARS or any(len(question) > MAX_CHARS for question in fitting):
            dropped["pair far too long"] += 1
        elif fitting:
            answer = pair.answer or refusal
            fact = text_digest([fitting[0], answer])
            origin = replace(provenance, difficulty=pair.difficulty)
            examples += [_example(question, answer, fact, passage, origin) for question in fitting]
    return examples, +dropped


def _refusal_of(passage: Passage) -> str:
    """Return the refusal in the language of a passage; "" if there is none."""
    return NOT_SAID.get(passage.language or language_of(passage.prose, "en"), "")


def _example(question: str, answer: str, fact: str, passage: Passage, provenance: Provenance) -> Example:
    return Example(
        (Message("user", question), Message("assistant", answer)),
        passage.document,
        passage.document_digest,
        passage.with_headings,
        fact,
        passage.index,
        provenance=provenance,
    )
