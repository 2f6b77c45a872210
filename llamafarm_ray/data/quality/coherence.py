"""Coherence: a question and its answer are about the same thing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from llamafarm_ray.data.rows import Example
from llamafarm_ray.data.steps.base import Dropped, Step
from llamafarm_ray.data.text import normal_form
from llamafarm_ray.data.text.vectors import cosines, embed
from llamafarm_ray.text.refusals import is_not_said

__all__ = ["DropIncoherent", "coherence_of"]

_MIN_COSINE = 0.1
"""95 of 100 pairs that belong together are above; four of five questions with another one's answer are below."""

_CERTAIN_COSINE = 0.3
_CONTENT_LETTERS = 4


def coherence_of(rows: Sequence[Example]) -> list[float]:
    """Return for each example how well its last question and answer go together, 0.0 to 1.0.

    The cosine of their vectors, 0.3 and more being certain; 1.0 if they share a content word.
    """
    near = cosines(embed([row.question for row in rows]), embed([row.answer for row in rows]))
    return [
        1.0 if _content(row.question) & _content(row.answer) else min(1.0, max(0.0, float(cosine) / _CERTAIN_COSINE))
        for row, cosine in zip(rows, near, strict=True)
    ]


def _content(text: str) -> set[str]:
    return {word for word in normal_form(text).split() if len(word) >= _CONTENT_LETTERS}


class DropIncoherent(Step[Example, Example]):
    """Drops examples whose answer is about something else than their question. Refusals stay."""

    name = "check_coherence"

    def apply(self, rows: Iterable[Example]) -> Iterator[Example | Dropped]:
        """See :meth:`Step.apply`."""
        examples = list(rows)
        for row, coherence in zip(examples, coherence_of(examples), strict=True):
            if coherence < _MIN_COSINE / _CERTAIN_COSINE and not is_not_said(row.answer):
                yield Dropped("question and answer are about different things", sample=f"{row.question} {row.answer}")
            else:
                yield row
