"""Answers to judge, and those that people have judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from llamafarm_ray.errors import InputError

__all__ = ["LABELS", "JudgedAnswer", "LabeledAnswer", "LabeledPair", "Labels", "labels_of"]

LABELS = "human_labels"
"""Key of a question's row with answers that people have judged."""
_FORM = 'A label is {"answer": "...", "good": true}, or {"better": "...", "worse": "..."}.'


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """A question with its answers.

    Args:
        baseline: the baseline's; None without one.
        document: its document; None if it is not known.
    """

    question: str
    accepted: tuple[str, ...]
    answer: str
    baseline: str | None
    document: str | None = None


@dataclass(frozen=True, slots=True)
class LabeledAnswer:
    """An answer that a person found good or not."""

    question: str
    accepted: tuple[str, ...]
    answer: str
    is_good: bool


@dataclass(frozen=True, slots=True)
class LabeledPair:
    """Two answers of which a person found one better."""

    question: str
    accepted: tuple[str, ...]
    better: str
    worse: str


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a set's questions."""

    answers: tuple[LabeledAnswer, ...] = ()
    pairs: tuple[LabeledPair, ...] = ()


def labels_of(rows: Sequence[tuple[str, tuple[str, ...], Mapping[str, object]]]) -> Labels:
    """Return the labels in rows of questions.

    Args:
        rows: question, accepted answers and row of each.

    Raises:
        InputError: a label has another form.
    """
    found = [one for question, accepted, row in rows for one in _labels(question, accepted, row.get(LABELS))]
    return Labels(
        tuple(one for one in found if isinstance(one, LabeledAnswer)),
        tuple(one for one in found if isinstance(one, LabeledPair)),
    )


def _labels(question: str, accepted: tuple[str, ...], value: object) -> Iterator[LabeledAnswer | LabeledPair]:
    for label in value if isinstance(value, list) else [] if value is None else [value]:
        match label:
            case {"answer": str(answer), "good": bool(is_good)}:
                yield LabeledAnswer(question, accepted, answer, is_good)
            case {"better": str(better), "worse": str(worse)}:
                yield LabeledPair(question, accepted, better, worse)
            case _:
                raise InputError(f"The question {question!r:.100} has the label {label!r:.200}.", hint=_FORM)
