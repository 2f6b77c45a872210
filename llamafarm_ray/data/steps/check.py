"""Drop examples that are too short, too long, or teach nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llamafarm_ray.data.rows import Example
from llamafarm_ray.data.steps.base import Dropped, Step
from llamafarm_ray.data.text import normal_form

__all__ = ["CheckLength", "CheckSubstance"]


class CheckLength(Step[Example, Example]):
    """Keeps examples whose messages together have ``minimum_length`` to ``maximum_length`` characters.

    The length in tokens is the trainer's matter (``dataset.preprocessing.max_length``).
    """

    name = "check_length"

    def __init__(self, minimum_length: int | None, maximum_length: int | None) -> None:
        self.minimum_length = minimum_length or 0
        self.maximum_length = maximum_length

    def apply(self, rows: Iterable[Example]) -> Iterator[Example | Dropped]:
        """See :meth:`Step.apply`."""
        for row in rows:
            num_chars = sum(len(message.content) for message in row.messages)
            if num_chars < self.minimum_length:
                yield Dropped("shorter than minimum_length", sample=f"{row.question} {row.answer}")
            elif self.maximum_length is not None and num_chars > self.maximum_length:
                yield Dropped("longer than maximum_length", sample=f"{row.question} {row.answer}")
            else:
                yield row


class CheckSubstance(Step[Example, Example]):
    """Drops examples with an empty turn, and answers that only repeat their question."""

    name = "check_substance"

    def apply(self, rows: Iterable[Example]) -> Iterator[Example | Dropped]:
        """See :meth:`Step.apply`."""
        for row in rows:
            question, answer = normal_form(row.question), normal_form(row.answer)
            if not question or not answer:
                yield Dropped("a turn is empty", sample=f"{row.question} {row.answer}")
            elif question == answer:
                yield Dropped("the answer repeats the question", sample=f"{row.question} {row.answer}")
            else:
                yield row
