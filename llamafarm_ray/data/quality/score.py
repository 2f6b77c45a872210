"""Quality score of an example, 0 to 1, from the other checks' measurements."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from llamafarm_ray.data.quality.coherence import coherence_of
from llamafarm_ray.data.rows import Example
from llamafarm_ray.data.steps.base import Dropped, Step
from llamafarm_ray.data.text import normal_words
from llamafarm_ray.text.refusals import is_not_said
from llamafarm_ray.text.support import support
from llamafarm_ray.text.toxicity import toxicity

__all__ = ["DropLowQuality", "quality_of"]

_SUPPORT, _COHERENCE, _FORM, _DECENCY = 0.4, 0.3, 0.2, 0.1
_MIN_QUESTION_WORDS = 3
_POINTING = re.compile(
    r"(?i)^(?:(?:what|who|why|how|when|where) (?:is|are|was|does|did|do) )?(?:it|this|that|they|these)\b"
)


def quality_of(rows: Sequence[Example]) -> list[float]:
    """Return the quality of each example: 0.4 support + 0.3 coherence + 0.2 form + 0.1 (1 - toxicity).

    Support is the answer's by its passage and question, coherence that of question and answer; both are 1 for a
    refusal, and support is where there is no passage. Form is the mean of three: the question has three words or more
    and points at nothing ("What is it?"), the answer isn't cut off, and neither is mostly signs.
    """
    return [
        _SUPPORT * (support(row.answer, row.passage, row.question) if row.passage and not _refuses(row) else 1.0)
        + _COHERENCE * (1.0 if _refuses(row) else coherence)
        + _FORM * _form(row)
        + _DECENCY * (1 - max(toxicity(row.question), toxicity(row.answer)))
        for row, coherence in zip(rows, coherence_of(rows), strict=True)
    ]


def _refuses(row: Example) -> bool:
    return is_not_said(row.answer)


def _form(row: Example) -> float:
    stands_alone = len(normal_words(row.question)) >= _MIN_QUESTION_WORDS and not _POINTING.match(row.question)
    is_whole = not re.search(r"(?:[,;(\u2013-]|\.\.\.|\u2026|:)$", row.answer.strip())
    is_text = all(2 * sum(map(str.isalnum, text)) >= len(text.replace(" ", "")) for text in (row.question, row.answer))
    return (stands_alone + is_whole + is_text) / 3


class DropLowQuality(Step[Example, Example]):
    """Drops examples with a quality below ``minimum``, see :func:`quality_of`."""

    name = "check_quality"

    def __init__(self, minimum: float) -> None:
        self.minimum = minimum

    def apply(self, rows: Iterable[Example]) -> Iterator[Example | Dropped]:
        """See :meth:`Step.apply`."""
        examples = list(rows)
        for row, quality in zip(examples, quality_of(examples), strict=True):
            if quality < self.minimum:
                yield Dropped("quality below min_quality_score", sample=f"{row.question} {row.answer}")
            else:
                yield row
