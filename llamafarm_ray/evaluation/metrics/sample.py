"""One answer of a model with everything that a metric may compare it with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Sample"]


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer; a metric leaves out samples that lack its inputs.

    Args:
        accepted: the answers that are right, or the references.
        relevant: for each passage of a retriever's ranking, True if it answers the question; the best ranked first.
        num_relevant: passages that the best ranking of that length would have; None where they are not known, and those
            that were found count.
        schema: JSON Schema of the answer.
        expected_calls: the calls of tools that are right.
        confidence: geometric mean of the probabilities of the answer's tokens, 0 to 1.
        seconds: time that the answer took.
        loss_sum: cross-entropies of the reference's tokens in nats, summed.
        num_loss_tokens: number of these tokens.
        num_loss_bytes: bytes of UTF-8 that they spell.
    """

    answer: str = ""
    accepted: tuple[str, ...] = ()
    question: str = ""
    context: tuple[str, ...] = ()
    relevant: tuple[bool, ...] | None = None
    num_relevant: int | None = None
    schema: Mapping[str, object] | bool | None = None
    expected_calls: tuple[Mapping[str, object], ...] | None = None
    confidence: float | None = None
    num_tokens: int | None = None
    seconds: float | None = None
    loss_sum: float | None = None
    num_loss_tokens: int | None = None
    num_loss_bytes: int | None = None
