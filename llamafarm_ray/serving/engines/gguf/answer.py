"""An answer of llama.cpp's, written a token at a time."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llamafarm_ray.errors import DeploymentError, UserError
from llamafarm_ray.serving.engines.base import FinishReason, SamplingParams, ScoredToken
from llamafarm_ray.serving.engines.gguf.server import Connection

__all__ = ["LlamaAnswer", "Slot"]

_FORCED = 1e6
"""Bonus on a logit so that its token is taken; log-probabilities are reported without it."""
_ANY_SEED = 2**32 - 1
"""llama.cpp's word for a seed of its own choice."""
_WIDTHS = (64, 4096, 2**31 - 1)


@dataclass(eq=False, slots=True)
class Slot:
    """Cache slot of one answer in llama.cpp.

    Attributes:
        tokens: of its last prompt, and of an answer so far.
    """

    number: int
    tokens: list[int] = field(default_factory=list)

    def num_shared(self, prompt: Sequence[int]) -> int:
        """Return the number of leading prompt tokens that the slot has computed already."""
        pairs = zip(self.tokens, prompt, strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


class LlamaAnswer:
    """One answer, a token at a time.

    Args:
        end_of_text: a token without letters.
    """

    def __init__(self, connection: Connection, slot: Slot, params: SamplingParams, end_of_text: int) -> None:
        self._connection = connection
        self._slot = slot
        self._params = params
        self._end_of_text = end_of_text

    async def prompt(self, tokens: Sequence[int]) -> tuple[ScoredToken, ...]:
        """Take the prompt; its tokens with their log-probabilities, where they were asked for."""
        self._slot.tokens = list(tokens)
        if self._params.prompt_logprobs is None:
            return ()
        num_top = self._params.prompt_logprobs
        first = max(1, self._params.first_prompt_logprob)
        rest = [await self._score(tokens[:end], tokens[end], num_top) for end in range(first, len(tokens))]
        return (*map(ScoredToken, tokens[:first]), *rest)

    async def step(self, index: int) -> tuple[ScoredToken, FinishReason | None]:
        """The next token, and why it is the last one."""
        params, before = self._params, self._slot.tokens
        drawn = await self._ask(
            before,
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            seed=_ANY_SEED if params.seed is None else _seed_of(params.seed, index),
            n_probs=0 if params.logprobs is None else max(1, params.logprobs),
        )
        token_id: int = drawn["tokens"][0]
        token = ScoredToken(token_id)
        if params.logprobs is not None:
            scored = _told(drawn, token_id, params.logprobs)
            token = scored or await self._search(before, token_id, params.logprobs)
        before.append(token_id)
        ends = drawn["stop_type"] == "eos" and not params.ignore_eos
        if ends or token_id in params.stop_token_ids:
            return token, "stop"
        return token, "length" if index + 1 == params.max_tokens else None

    async def _score(self, before: Sequence[int], token_id: int, num_top: int) -> ScoredToken:
        """A token that is given: llama.cpp is made to choose it, and returns its probability."""
        forced = await self._ask(before, n_probs=max(1, num_top), logit_bias=[[token_id, _FORCED]])
        return _told(forced, token_id, num_top) or await self._search(before, token_id, num_top)

    async def _search(self, before: Sequence[int], token_id: int, num_top: int) -> ScoredToken:
        """A token that ends within a letter, of which llama.cpp tells only among the most probable ones."""
        for width in _WIDTHS:
            forced = await self._ask(before, n_probs=width, logit_bias=[[self._end_of_text, _FORCED]])
            found = _told(forced, self._end_of_text, width)
            logprob = dict(found.top).get(token_id) if found is not None else None
            if found is not None and logprob is not None:
                return ScoredToken(token_id, logprob, found.top[:num_top])
        raise UserError(f"llama.cpp does not tell how probable the token {token_id} is.", hint="Leave out logprobs.")

    async def _ask(self, before: Sequence[int], **options: Any) -> dict[str, Any]:
        asked = {
            "prompt": list(before),
            "n_predict": 1,
            "return_tokens": True,
            "id_slot": self._slot.number,
            "cache_prompt": True,
            "samplers": ["temperature", "top_k", "top_p"],  # in vLLM's order
            "temperature": 0.0,
            **options,
        }
        answer: dict[str, Any] = await self._connection.ask("/completion", asked)
        if not answer.get("tokens"):
            raise DeploymentError("llama.cpp gave no token.")
        return answer


def _told(answer: dict[str, Any], token_id: int, num_top: int) -> ScoredToken | None:
    """The log-probabilities in an answer of llama.cpp's, if it has any."""
    for place in answer.get("completion_probabilities") or ():
        if place["id"] == token_id:
            top = tuple((other["id"], other["logprob"]) for other in place["top_logprobs"][:num_top])
            return ScoredToken(token_id, place["logprob"], top)
    return None


def _seed_of(seed: int, index: int) -> int:
    """A seed for each token, since each is drawn anew."""
    return int.from_bytes(hashlib.sha256(f"{seed} {index}".encode()).digest()[:8], "little") % _ANY_SEED
