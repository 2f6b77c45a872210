"""Quality control of rows that are made of others: invented examples and changed copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llamafarm_ray.config import QualityControl
from llamafarm_ray.data.quality.decontamination import EvaluationTexts
from llamafarm_ray.data.quality.filters import example_filters, min_support
from llamafarm_ray.data.rows import Example, Message
from llamafarm_ray.data.steps import CheckLength, Dropped
from llamafarm_ray.text.pii.find import find_pii
from llamafarm_ray.text.refusals import is_not_said
from llamafarm_ray.text.support import support

__all__ = ["FaultOf", "NewRowCheck"]

FaultOf = Callable[[Mapping[str, Any]], str]
"""Returns the reason to drop a new row; "" for none."""


class NewRowCheck:
    """Tells why a new row can't be used, by the filters that the rows passed which it is made of.

    Personal data that `quality_control.pii` redacts or drops is a reason: the row that it is made of has none.
    """

    def __init__(self, quality: QualityControl, evaluation: EvaluationTexts) -> None:
        self._quality = quality
        self._evaluation = evaluation
        length = CheckLength(quality.filters.minimum_length, quality.filters.maximum_length)
        self._steps = (length, *example_filters(quality))
        self._min_support = min_support(quality)

    def __call__(self, row: Mapping[str, Any]) -> str:
        """Return the reason to drop a row of ``EXAMPLE_SCHEMA``; "" for none."""
        if self._evaluation.overlap(row["messages"]):
            return "overlaps an evaluation set"
        personal = self._personal(row)
        if personal:
            return f"has personal data: {', '.join(personal)}"
        messages = tuple(Message.of(turn) for turn in row["messages"])
        example = Example(messages, row["document"], row["document_digest"], row["passage"])
        for step in self._steps:
            for result in step.apply([example]):
                if isinstance(result, Dropped):
                    return result.reason
        if self._min_support is not None and example.passage and not is_not_said(example.answer):
            asked = "\n".join(message.content for message in messages if message.role == "user")
            if support(example.answer, example.passage, asked) < self._min_support:
                return "the passage does not support the answer"
        return ""

    def _personal(self, row: Mapping[str, Any]) -> list[str]:
        pii = self._quality.pii
        if pii.applied_action not in {"redact", "drop"}:
            return []
        texts = (str(turn["content"]) for turn in row["messages"])
        return sorted({one.kind for text in texts for one in find_pii(text, pii.applied_kinds, regions=pii.regions)})
