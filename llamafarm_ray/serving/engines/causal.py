"""Writing with any causal language model that gives logits: the loop over tokens, the prompt in chunks before it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from llamafarm_ray.serving.adapters.protocols import NotNumbersError
from llamafarm_ray.serving.engines.base import FinishReason, Output, SamplingParams, ScoredToken
from llamafarm_ray.serving.engines.in_process import LanguageModel
from llamafarm_ray.serving.engines.sampling import Sampler, score

__all__ = ["CausalModel"]


class CausalModel(LanguageModel):
    """A model whose subclass computes logits, and keeps intermediate results in a cache of its own kind."""

    eos_ids: frozenset[int] = frozenset()
    """The tokens that end a text."""

    @property
    def chunk_tokens(self) -> int | None:
        """Number of prompt tokens computed in one step; ``None``: the whole prompt."""
        return None

    @abstractmethod
    def new_cache(self) -> Any:
        """Return an empty cache for one answer."""

    @abstractmethod
    def logits(self, tokens: Sequence[int], cache: Any, *, all_of_them: bool) -> torch.Tensor:
        """The logits after each of the tokens, or at least after the last one; the cache takes them in.

        Returns:
            A tensor of shape (positions, vocabulary).
        """

    @torch.inference_mode()
    def generate(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[Output]:
        """See `LanguageModel.generate`."""
        cache = self.new_cache()
        told: list[ScoredToken] = []
        logits = torch.empty(0)
        size = self.chunk_tokens or len(prompt)
        for start in range(0, len(prompt), size):
            chunk = prompt[start : start + size]
            computed = self.logits(chunk, cache, all_of_them=params.prompt_logprobs is not None)
            if params.prompt_logprobs is not None:
                told += _scored(chunk, logits, computed, params.prompt_logprobs)
            logits = _numbers(computed[-1])
            if start + size < len(prompt):
                yield Output()
        if params.max_tokens == 0:
            yield Output(finish_reason="length", prompt=tuple(told))
            return
        sample, ends = Sampler(params), self._ends(params)
        for index in range(params.max_tokens):
            token_id = sample(logits)
            reason: FinishReason | None = None
            if token_id in ends:
                reason = "stop"
            elif index + 1 == params.max_tokens:
                reason = "length"
            yield Output(score(token_id, logits, params.logprobs), reason, tuple(told) if index == 0 else ())
            if reason is not None:
                return
            logits = _numbers(self.logits([token_id], cache, all_of_them=False)[-1])

    def _ends(self, params: SamplingParams) -> set[int]:
        return {*params.stop_token_ids, *(() if params.ignore_eos else self.eos_ids)}


def _numbers(logits: torch.Tensor) -> torch.Tensor:
    """Return logits that a token can be drawn from.

    Raises:
        NotNumbersError: they can't: one is NaN, or the largest is infinite.
    """
    if not bool(torch.isfinite(logits.max())):
        raise NotNumbersError("It computed logits that are no numbers.")
    return logits


def _scored(tokens: Sequence[int], before: torch.Tensor, logits: torch.Tensor, num_top: int) -> list[ScoredToken]:
    """A prompt's tokens, each by the logits at the position before it; the first one of all has none.

    Args:
        before: the logits that the chunk before ended with; empty for the first chunk.
        logits: of shape (tokens, vocabulary).
        num_top: see `score`.
    """
    places = [before, *logits[:-1]]
    return [
        score(token, place, num_top) if place.numel() else ScoredToken(token)
        for token, place in zip(tokens, places, strict=True)
    ]
