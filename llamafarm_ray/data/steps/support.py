"""Check answers that a model wrote against their passages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.rows import Example
from llamafarm_ray.data.steps.base import Dropped, Step
from llamafarm_ray.text.refusals import is_not_said
from llamafarm_ray.text.support import support

__all__ = ["MIN_SUPPORT", "CheckSupport"]

MIN_SUPPORT = 0.7


class CheckSupport(Step[Example, Example]):
    """Drops examples with an answer whose numbers, names or too many words neither passage nor headings hold.

    Args:
        passages: the passages of the document by index.
        min_support: least share of an answer's content words.
    """

    name = "check_support"

    def __init__(self, passages: Mapping[int, Passage], min_support: float = MIN_SUPPORT) -> None:
        self.passages = passages
        self.min_support = min_support

    def apply(self, rows: Iterable[Example]) -> Iterator[Example | Dropped]:
        """See :meth:`Step.apply`."""
        for row in rows:
            if row.provenance is not None and row.provenance.kind == "tool_calls":
                yield row  # calls were checked against their request and the tools' schemas
                continue
            passage = self.passages[row.passage_index]
            context = "\n".join([passage.title, *passage.headings, passage.text])
            asked = "\n".join(message.content for message in row.messages if message.role == "user")
            answers = [answer for answer in row.answers if not is_not_said(answer)]
            if any(support(answer, context, asked) < self.min_support for answer in answers):
                yield Dropped("the passage does not support the answer", sample=f"{row.question} {row.answer}")
            else:
                yield row
