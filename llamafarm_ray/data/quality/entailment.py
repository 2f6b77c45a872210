"""Check with a model of the user's own that a passage entails the answers about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llamafarm_ray.data.quality.plug_ins import load_function
from llamafarm_ray.data.rows import Example
from llamafarm_ray.data.steps.base import Dropped, Kept, Step
from llamafarm_ray.errors import InputError
from llamafarm_ray.text.refusals import is_not_said

__all__ = ["CheckEntailment"]

_KEY = "dataset.quality_control.entailment_model"


class CheckEntailment(Step[Example, Example]):
    """Drops examples with an answer that the passage entails less than ``least``.

    Args:
        model: a function ``module:function`` from a passage and a statement to 0.0 ... 1.0. The statement is
            the question with its answer.
    """

    name = "check_entailment"

    def __init__(self, model: str, least: float) -> None:
        self.model = model
        self.least = least

    def apply(self, rows: Iterable[Example]) -> Iterator[Example | Dropped | Kept[Example]]:
        """See :meth:`Step.apply`.

        Raises:
            InputError: there is no such function, or it returns something else than a score.
        """
        for row in rows:
            if not row.passage or (row.provenance is not None and row.provenance.kind == "tool_calls"):
                yield Kept(row, {"no passage to check the answer against": 1})
            elif any(self._score(row.passage, statement) < self.least for statement in _statements(row)):
                yield Dropped("the passage does not entail the answer", sample=f"{row.question} {row.answer}")
            else:
                yield row

    def _score(self, passage: str, statement: str) -> float:
        score = load_function(self.model, _KEY)(passage, statement)
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0.0 <= score <= 1.0:
            raise InputError(f"{_KEY}: {self.model!r} returned {score!r}, no number from 0 to 1.")
        return float(score)


def _statements(row: Example) -> Iterator[str]:
    """Yield each answer after its question; refusals state nothing."""
    asked = ""
    for message in row.messages:
        if message.role == "user":
            asked = message.content
        elif message.role == "assistant" and message.content and not is_not_said(message.content):
            yield f"{asked} {message.content}".strip()
