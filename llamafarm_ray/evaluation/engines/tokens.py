"""Engines that write tokens, and tell log-probabilities of given ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Ends", "ScoredText", "TokenEngine", "TokenScores", "Written", "confidence_of"]


@dataclass(frozen=True, slots=True)
class ScoredText:
    """Tokens whose end is scored.

    Args:
        tokens: context and continuation.
        num_context: tokens of the context; at least one.
    """

    tokens: tuple[int, ...]
    num_context: int


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Scores of a continuation.

    Args:
        logprobs: the log-probability of each token after the context.
        is_greedy: True if each of them is the most probable one.
    """

    logprobs: tuple[float, ...]
    is_greedy: bool

    @property
    def total(self) -> float:
        """The continuation's log-probability."""
        return math.fsum(self.logprobs)


@dataclass(frozen=True, slots=True)
class Written:
    """An answer.

    Args:
        text: the text, without the token that ends it.
        seconds: time that it took, together with others that were asked at once.
        confidence: geometric mean of the tokens' probabilities, 0 to 1; None where the engine does not tell.
    """

    text: str
    num_tokens: int
    seconds: float
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Ends:
    """Ends of answers: the first text of ``stop``, the first token of ``stop_ids``, or a number of tokens."""

    max_tokens: int
    stop: Sequence[str] = ()
    stop_ids: Sequence[int] = ()


class TokenEngine(Protocol):
    """An engine that scores and writes tokens."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, as transformers has them."""

    @property
    def max_length(self) -> int:
        """The most tokens that a text may have."""

    def score(self, texts: Sequence[ScoredText], *, with_adapter: bool) -> list[TokenScores]:
        """Return the scores of each continuation."""

    def write(self, prompts: Sequence[Sequence[int]], ends: Ends, *, with_adapter: bool) -> list[Written]:
        """Return the most probable answer to each prompt."""

    def close(self) -> None:
        """Free the model's memory, and end the processes that were started for it."""


def confidence_of(logprobs: Sequence[float | None]) -> float | None:
    """Return the geometric mean of tokens' probabilities; None where one of them is not known, or there is none."""
    known = [one for one in logprobs if one is not None]
    return math.exp(math.fsum(known) / len(known)) if known and len(known) == len(logprobs) else None
