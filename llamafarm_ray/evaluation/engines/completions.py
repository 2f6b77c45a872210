"""A running endpoint: OpenAI's completions with the log-probabilities of the prompt."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from llamafarm_ray.errors import UnsupportedError
from llamafarm_ray.evaluation.engines.client import EndpointClient
from llamafarm_ray.evaluation.engines.served import Endpoint
from llamafarm_ray.evaluation.engines.tokens import Ends, ScoredText, TokenScores, Written, confidence_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["EndpointEngine"]

_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")


class EndpointEngine:
    """A `TokenEngine` behind ``/v1/completions``.

    Args:
        max_length: the most tokens that the model reads, with one that it writes.
        first_wait_s: wait after the first failure of a request; each further one doubles it.
    """

    def __init__(
        self, endpoint: Endpoint, tokenizer: PreTrainedTokenizerBase, max_length: int, first_wait_s: float = 0.5
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length - 1  # a server writes one token at least
        self._client = EndpointClient(endpoint, first_wait_s)

    def score(self, texts: Sequence[ScoredText], *, with_adapter: bool) -> list[TokenScores]:
        """See `TokenEngine.score`.

        Raises:
            UnsupportedError: the endpoint does not tell the log-probabilities of a prompt, or has other tokens.
            AccessDeniedError: the key is missing or not accepted.
            NotFoundError: there is no such model or path.
            InputError: the endpoint refuses a request.
            InfrastructureError: all attempts at a request failed.
        """
        del with_adapter

        def score_one(text: ScoredText) -> TokenScores:
            body = {"prompt": list(text.tokens), "max_tokens": 1, "logprobs": 1, "echo": True}
            return self._read_scores(self._client.choice("completions", body), text)

        return self._map(score_one, texts)

    def write(self, prompts: Sequence[Sequence[int]], ends: Ends, *, with_adapter: bool) -> list[Written]:
        """See `TokenEngine.write`; it raises what `score` does."""
        del with_adapter
        stops: dict[str, object] = {"stop": [one for one in ends.stop if one]}
        if ends.stop_ids:
            stops["stop_token_ids"] = list(ends.stop_ids)

        def write_one(prompt: Sequence[int]) -> Written:
            body = {"prompt": list(prompt), "max_tokens": ends.max_tokens, "logprobs": 1, **stops}
            began = time.perf_counter()
            choice = self._client.choice("completions", body)
            seconds = time.perf_counter() - began
            text = str(choice.get("text") or "")
            logprobs = (choice.get("logprobs") or {}).get("token_logprobs") or []
            # A server that tells no log-probabilities tells no tokens either: the text's are counted.
            num_tokens = len(logprobs) or len(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            return Written(text, num_tokens, seconds, confidence_of(logprobs))

        return self._map(write_one, prompts)

    def close(self) -> None:
        """See `TokenEngine.close`."""
        self._client.close()

    def _map(self, function: Callable[[_Asked], _Answer], items: Sequence[_Asked]) -> list[_Answer]:
        with ThreadPoolExecutor(self._client.endpoint.concurrency) as pool:
            return list(pool.map(function, items))

    def _read_scores(self, choice: dict[str, Any], text: ScoredText) -> TokenScores:
        """Return the scores of the continuation."""
        told = choice.get("logprobs") or {}
        logprobs, tops = told.get("token_logprobs") or [], told.get("top_logprobs") or []
        length = len(text.tokens)
        # One token may follow the prompt's: it is written because servers refuse to write none.
        if len(logprobs) not in {length, length + 1} or len(tops) < length:
            raise UnsupportedError(
                f"The endpoint {self._client.endpoint.base_url} told {len(logprobs)} log-probabilities of {length} "
                "tokens.",
                hint="It has to take token ids in `prompt`, and `echo` with `logprobs`, for the model of --model.",
            )
        places = range(text.num_context, length)
        values = [logprobs[place] for place in places]
        if any(not isinstance(value, int | float) or math.isnan(value) for value in values):
            raise UnsupportedError(
                f"The endpoint {self._client.endpoint.base_url} told no log-probability of some tokens.",
                hint="It has to answer `echo` with `logprobs`.",
            )
        greedy = all(logprobs[place] >= max((tops[place] or {}).values(), default=-math.inf) for place in places)
        return TokenScores(tuple(values), greedy)
