"""Groups of answers: by document, language, topic and length of the question."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from llamafarm_ray.evaluation.answered import Answered

__all__ = ["Slice", "slices", "worst"]

_LENGTHS: Final = ((100, "up to 100 characters"), (400, "100 to 400 characters"), (math.inf, "over 400 characters"))


@dataclass(frozen=True, slots=True)
class Slice:
    """A group of answers.

    Args:
        kind: ``document``, ``language``, ``topic`` or ``length``.
        baseline: the baseline's mean score on the same questions; None if it was not asked.
    """

    kind: str
    name: str
    num_answers: int
    score: float
    baseline: float | None


def slices(answered: Iterable[Answered]) -> list[Slice]:
    """Return all groups of two and more kinds of answers, the lowest score first within each kind.

    A kind with one group only says nothing and is left out.
    """
    groups: dict[str, dict[str, list[Answered]]] = defaultdict(lambda: defaultdict(list))
    for one in answered:
        if one.score is not None:
            for kind, name in {**one.slices, "length": _length(one.prompt)}.items():
                groups[kind][name].append(one)
    found = []
    for kind, by_name in groups.items():
        if len(by_name) > 1:
            made = [_slice(kind, name, members) for name, members in by_name.items()]
            found += sorted(made, key=lambda one: (one.score, one.name))
    return found


def worst(answered: Sequence[Answered], number: int) -> list[Answered]:
    """Return the answers with the lowest scores; of equal ones, those first that are worse than the baseline's."""

    def rank(one: Answered) -> tuple[float, float]:
        score = -1.0 if one.score is None else one.score
        return score, score - (one.baseline_score or 0.0)

    return [one for one in sorted(answered, key=rank) if one.score is None or one.score < 1][:number]


def _slice(kind: str, name: str, members: Sequence[Answered]) -> Slice:
    before = [one.baseline_score for one in members if one.baseline_score is not None]
    return Slice(
        kind,
        name,
        len(members),
        math.fsum(one.score or 0.0 for one in members) / len(members),
        math.fsum(before) / len(before) if before else None,
    )


def _length(prompt: str) -> str:
    return next(name for limit, name in _LENGTHS if len(prompt) <= limit)
