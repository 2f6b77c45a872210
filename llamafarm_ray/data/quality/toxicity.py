"""Toxicity: a score by a word list, offline, or by a stronger model that ``toxicity_model`` names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from llamafarm_ray.data.quality.plug_ins import load_function
from llamafarm_ray.data.rows import Example
from llamafarm_ray.data.steps.base import Dropped, Step
from llamafarm_ray.text.toxicity import toxicity

__all__ = ["DropToxic", "load_scorer"]

Scorer = Callable[[str], float]


def load_scorer(name: str | None) -> Scorer:
    """Return the function ``module:name``, from a text to 0.0 ... 1.0; the word list for None.

    Raises:
        InputError: there is no such function.
    """
    if name is None:
        return toxicity
    return load_function(name, "dataset.quality_control.toxicity_model")


class DropToxic(Step[Example, Example]):
    """Drops examples of which a turn is more toxic than ``threshold``.

    Args:
        threshold: most that stays, 0 to 1.
        model: see :func:`load_scorer`.
    """

    name = "check_toxicity"

    def __init__(self, threshold: float, model: str | None = None) -> None:
        self.threshold = threshold
        self.model = model

    def apply(self, rows: Iterable[Example]) -> Iterator[Example | Dropped]:
        """See :meth:`Step.apply`."""
        score = load_scorer(self.model)
        for row in rows:
            if max((score(message.content) for message in row.messages), default=0.0) > self.threshold:
                yield Dropped("toxic", sample=row.answer or row.question)
            else:
                yield row
