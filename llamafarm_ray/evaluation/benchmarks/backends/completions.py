"""A running endpoint: OpenAI's completions with the log-probabilities of the prompt."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpx

from llamafarm_ray.errors import AccessDeniedError, InfrastructureError, InputError, NotFoundError, UnsupportedError
from llamafarm_ray.evaluation.benchmarks.backends.served import Endpoint
from llamafarm_ray.evaluation.benchmarks.backends.tokens import ScoredText

__all__ = ["EndpointEngine"]

_PASSING: Final = {408, 409, 425, 429}
_FORBIDDEN: Final = {401, 403}
_NOT_FOUND: Final = 404
_SERVER_ERROR: Final = 500
_LONGEST_WAIT_S: Final = 30.0
_SHOWN_CHARS: Final = 200
_VERSION: Final = re.compile(r"[^:#@]+:\d+\.\d+\.\d+[^:#@]*")
"""A reference that a deployment of this package answers as."""


class EndpointEngine:
    """A `TokenEngine` behind ``/v1/completions``.

    Args:
        endpoint: the server.
        tokenizer: the model's tokenizer.
        max_length: the most tokens that the model reads, with one that it writes.
        first_wait_s: wait after the first failure of a request; each further one doubles it.
    """

    def __init__(self, endpoint: Endpoint, tokenizer: Any, max_length: int, first_wait_s: float = 0.5) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length - 1  # a server writes one token at least
        self._endpoint = endpoint
        self._first_wait_s = first_wait_s
        key = os.environ.get(endpoint.api_key_env, "")
        limits = httpx.Limits(max_connections=endpoint.concurrency)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(headers=headers, timeout=endpoint.timeout_s, limits=limits)

    def score(self, texts: Sequence[ScoredText], *, with_adapter: bool) -> list[tuple[float, bool]]:
        """See `TokenEngine.score`.

        Raises:
            UnsupportedError: the endpoint does not tell the log-probabilities of a prompt, or has other tokens.
            AccessDeniedError: the key is missing or not accepted.
            NotFoundError: there is no such model or path.
            InputError: the endpoint refuses a request.
            InfrastructureError: all attempts at a request failed.
        """
        del with_adapter

        def score_one(text: ScoredText) -> tuple[float, bool]:
            body = {"prompt": list(text.tokens), "max_tokens": 1, "logprobs": 1, "echo": True}
            return self._read_scores(self._ask(body), text)

        return self._map(score_one, texts)

    def write(
        self, prompts: Sequence[Sequence[int]], *, max_tokens: int, stop: Sequence[str], with_adapter: bool
    ) -> list[str]:
        """See `TokenEngine.write`; it raises what `score` does."""
        del with_adapter

        def write_one(prompt: Sequence[int]) -> str:
            body = {"prompt": list(prompt), "max_tokens": max_tokens, "stop": [one for one in stop if one]}
            return str(self._ask(body).get("text") or "")

        return self._map(write_one, prompts)

    def _map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        with ThreadPoolExecutor(self._endpoint.concurrency) as pool:
            return list(pool.map(function, items))

    def _read_scores(self, choice: dict[str, Any], text: ScoredText) -> tuple[float, bool]:
        """Return the log-probability of the continuation, and whether greedy decoding writes it."""
        told = choice.get("logprobs") or {}
        logprobs, tops = told.get("token_logprobs") or [], told.get("top_logprobs") or []
        length = len(text.tokens)
        # One token may follow the prompt's: it is written because servers refuse to write none.
        if len(logprobs) not in {length, length + 1} or len(tops) < length:
            raise UnsupportedError(
                f"The endpoint {self._endpoint.base_url} told {len(logprobs)} log-probabilities of {length} tokens.",
                hint="It has to take token ids in `prompt`, and `echo` with `logprobs`, for the model of --model.",
            )
        places = range(text.num_context, length)
        values = [logprobs[place] for place in places]
        if any(not isinstance(value, int | float) or math.isnan(value) for value in values):
            raise UnsupportedError(
                f"The endpoint {self._endpoint.base_url} told no log-probability of some tokens.",
                hint="It has to answer `echo` with `logprobs`.",
            )
        greedy = all(logprobs[place] >= max((tops[place] or {}).values(), default=-math.inf) for place in places)
        return math.fsum(values), greedy

    def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the first choice of a completion; failures that pass are tried again."""
        endpoint = self._endpoint
        sent = {"model": endpoint.model, "temperature": 0, "seed": 0, **body}
        failure = ""
        for attempt in range(endpoint.max_attempts):
            if attempt:
                time.sleep(min(_LONGEST_WAIT_S, self._first_wait_s * 2.0 ** (attempt - 1)))
            try:
                response = self._http.post(f"{endpoint.base_url.rstrip('/')}/completions", json=sent)
            except (httpx.TransportError, httpx.InvalidURL, httpx.DecodingError) as error:
                failure = f"{type(error).__name__}: {error}"
                continue
            if response.status_code != httpx.codes.OK:
                failure = self._passing_failure(response)
                continue
            try:
                answered = response.json()
                choice: dict[str, Any] = answered["choices"][0]
            except (ValueError, KeyError, IndexError, TypeError):
                failure = f"an answer that is no completion: {response.text[:_SHOWN_CHARS]!r}"
                continue
            self._check_version(str(answered.get("model") or ""))
            return choice
        raise InfrastructureError(
            f"The endpoint {endpoint.base_url} gave no answer in {endpoint.max_attempts} attempts; the last one: "
            f"{failure}.",
            hint="Look at the server's log, and run it again.",
        )

    def _check_version(self, answered: str) -> None:
        """Refuse the answer of another version than the one that is evaluated: an alias may have moved."""
        version = answered.partition("#")[0]
        wanted = self._endpoint.version
        if wanted and version != wanted and _VERSION.fullmatch(version):
            raise InputError(
                f"The endpoint {self._endpoint.base_url} answers as {version}, and {wanted} is evaluated.",
                hint=f"Set evaluation.endpoint.model to {wanted}, or evaluate {version}.",
            )

    def _passing_failure(self, response: httpx.Response) -> str:
        """Return the name of a failure that may pass; raise one that won't."""
        status, where = response.status_code, f"The endpoint {self._endpoint.base_url}"
        said = f"HTTP {status}: {' '.join(response.text.split())[:_SHOWN_CHARS]}"
        if status in _FORBIDDEN:
            hint = f"Set {self._endpoint.api_key_env}."
            raise AccessDeniedError(f"{where} does not accept the key ({said}).", hint=hint)
        if status == _NOT_FOUND:
            raise NotFoundError(
                f"{where} has no model {self._endpoint.model!r}, or no completions ({said}).",
                hint="Set evaluation.endpoint.model to the name that it serves.",
            )
        if status not in _PASSING and status < _SERVER_ERROR:
            raise InputError(f"{where} refuses a request ({said}).", hint="Its log may say why.")
        return said
