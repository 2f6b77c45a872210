"""From logits to the next token: temperature, then top-k, then top-p, as vLLM and transformers do it."""

from __future__ import annotations

import torch

from llamafarm_ray.serving.engines.base import SamplingParams, ScoredToken

__all__ = ["Sampler", "score"]

_GREEDY_BELOW = 1e-5
"""Temperatures below this mean 0, as in vLLM: logits over smaller ones are infinite in float32."""


class Sampler:
    """Draws one answer's tokens."""

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        self._generator = torch.Generator()
        if params.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(params.seed)

    def __call__(self, logits: torch.Tensor) -> int:
        """The next token's id.

        Args:
            logits: of shape (vocabulary,).
        """
        params = self._params
        if params.temperature < _GREEDY_BELOW:
            return int(logits.argmax())  # of the logits as they are, as transformers' greedy search
        logits = logits.float().cpu() / params.temperature
        if 0 < params.top_k < len(logits):
            logits = logits.masked_fill(logits < logits.topk(params.top_k).values[-1], -torch.inf)
        if params.top_p < 1:
            logits = _nucleus(logits, params.top_p)
        return int(torch.multinomial(logits.softmax(dim=-1), 1, generator=self._generator))


def _nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Only the fewest tokens that have ``top_p`` together, one at least (https://arxiv.org/abs/1904.09751)."""
    ordered, order = logits.sort(descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities  # what those before a token have together
    before[0] = 0.0
    ordered[before >= top_p] = -torch.inf
    ordered[0] = logits.max()  # also where top_p is 0
    return torch.empty_like(logits).scatter_(0, order, ordered)


def score(token_id: int, logits: torch.Tensor, num_top: int | None) -> ScoredToken:
    """A token with its log-probability under the model.

    Args:
        logits: of shape (vocabulary,), at the position before it.
        num_top: number of most probable tokens to report; ``None``: no log-probabilities.
    """
    if num_top is None:
        return ScoredToken(token_id)
    logprobs = logits.float().log_softmax(dim=-1)
    values, ids = logprobs.topk(min(num_top, len(logprobs)))
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return ScoredToken(token_id, float(logprobs[token_id]), top)
