"""A row that is ready for training, as the tokeniser makes it and as workers read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["IGNORED", "Row", "TokenisedRow"]

IGNORED = -100
"""The label of a token that is not trained."""


@dataclass(frozen=True, slots=True)
class TokenisedRow:
    """A row ready for training, or the reason why it is not.

    A row is one sequence for most objectives, and several for those that compare: an answer that was chosen and
    one that was rejected, a question and its passages. They are held one after another.

    Args:
        input_ids: the tokens of all sequences.
        labels: of the same length; the same tokens where they are trained, ``IGNORED`` (-100) elsewhere.
        lengths: tokens of each sequence, in order; by default there is one.
        tag: the objective's note on the row; 0 without one.
        dropped: reason to leave the row out; empty without one.
    """

    input_ids: list[int]
    labels: list[int]
    lengths: list[int] = field(default_factory=list)
    tag: int = 0
    dropped: str = ""

    @classmethod
    def left_out(cls, reason: str) -> TokenisedRow:
        """A row that is not trained on."""
        return cls([], [], dropped=reason)

    @property
    def parts(self) -> list[int]:
        """Tokens of each sequence."""
        return self.lengths or [len(self.input_ids)]


class Row(NamedTuple):
    """A worker's view of a `TokenisedRow`: arrays of int32 that belong to a larger table.

    Args:
        input_ids: the tokens of all sequences.
        labels: of the same length.
        lengths: tokens of each sequence.
        tag: the objective's note.
    """

    input_ids: Any
    labels: Any
    lengths: Any
    tag: int = 0
