"""Engines that tell log-probabilities of given tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ScoredText", "TokenEngine"]


@dataclass(frozen=True, slots=True)
class ScoredText:
    """Tokens whose end is scored.

    Args:
        tokens: context and continuation.
        num_context: tokens of the context; at least one.
    """

    tokens: tuple[int, ...]
    num_context: int


class TokenEngine(Protocol):
    """An engine that scores and writes tokens."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, as transformers has them."""

    @property
    def max_length(self) -> int:
        """The most tokens that a text may have."""

    def score(self, texts: Sequence[ScoredText], *, with_adapter: bool) -> list[tuple[float, bool]]:
        """Return each continuation's log-probability, and True if each of its tokens is the most probable one."""

    def write(
        self, prompts: Sequence[Sequence[int]], *, max_tokens: int, stop: Sequence[str], with_adapter: bool
    ) -> list[str]:
        """Return the most probable answer to each prompt, up to the first text of ``stop``."""
