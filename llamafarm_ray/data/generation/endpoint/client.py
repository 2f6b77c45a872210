"""A client of chat completions that tries again what fails for a while, and keeps the limits."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from llamafarm_ray.data.generation.endpoint.cache import Answer
from llamafarm_ray.data.generation.endpoint.limits import Budget, Pace, num_tokens_estimated
from llamafarm_ray.data.generation.endpoint.requests import Dialect
from llamafarm_ray.errors import AccessDeniedError, InfrastructureError, InputError, NotFoundError
from llamafarm_ray.storage.downloads.web import trusted_authorities

__all__ = ["Client", "RefusedError", "Terms", "UnansweredError", "all_of", "answer_in", "most_tokens"]

_T = TypeVar("_T")

_LONGEST_WAIT_S = 60.0
_LONGEST_RETRY_AFTER_S = 600.0
_PASSING = {408, 409, 425, 429}
_FORBIDDEN = {401, 403}
_NOT_FOUND = 404
_SERVER_ERROR = 500
_SHOWN_CHARS = 200
_HINT = "Run it again later: answers that have arrived are kept."


class RefusedError(Exception):
    """The server does not take this request (too long, against its rules, malformed); others it may."""


class UnansweredError(InfrastructureError):
    """All attempts at a request failed; ``last`` names the last failure, such as ``HTTP 500``."""

    def __init__(self, message: str, *, last: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.last = last


class _PassingError(Exception):
    """A failure that another attempt may not meet."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


@dataclass
class Terms:
    """Server, settings, and the state that all requests share.

    Args:
        base_url: address up to ``/v1``.
        api_key: sent as a bearer token; empty: none is sent.
        timeout_s: longest wait for one answer.
        concurrency: most requests at once.
        first_wait_s: wait after the first failure; each further one doubles it.
        closed_until: no request is sent before this time on the monotonic clock.
    """

    base_url: str
    api_key: str = field(repr=False)
    timeout_s: float
    max_attempts: int
    concurrency: int
    requests: Pace
    tokens: Pace
    budget: Budget
    dialect: Dialect = field(default_factory=Dialect)
    first_wait_s: float = 0.5
    closed_until: float = 0.0


class Client:
    """Asks a server. A client belongs to one event loop; its `Terms` outlast it."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._slots = asyncio.Semaphore(terms.concurrency)
        headers = {"Authorization": f"Bearer {terms.api_key}"} if terms.api_key else {}
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=terms.timeout_s,
            limits=httpx.Limits(max_connections=terms.concurrency),
            verify=trusted_authorities(),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def ask(self, request: Mapping[str, object]) -> Answer:
        """Send a request, several times if need be.

        Raises:
            RefusedError: the server does not take this request.
            AccessDeniedError: the key is missing or not accepted.
            NotFoundError: the server has no such model or path.
            InputError: the cost could pass the limit, or the account has no credit.
            UnansweredError: all attempts failed.
        """
        async with self._slots:
            return await self._tried(lambda: self._within_limits(request))

    @property
    def terms(self) -> Terms:
        """Server, settings and shared state."""
        return self._terms

    async def call(
        self,
        method: str,
        path: str,
        *,
        is_done: Callable[[], Awaitable[httpx.Response | None]] | None = None,
        **content: object,
    ) -> httpx.Response:
        """Send a request of another kind than for a chat completion, several times if need be.

        Args:
            method: ``GET`` or ``POST``.
            path: below the server's base URL.
            is_done: asked before a further attempt; returns a response if the earlier one had its effect after all.
            content: ``json``, or ``data`` and ``files``, see `httpx.AsyncClient.request`.

        Raises:
            RefusedError: see `ask`, for this and the other errors.
        """
        num_attempts = 0

        async def attempt() -> httpx.Response:
            nonlocal num_attempts
            num_attempts += 1
            done = await is_done() if is_done is not None and num_attempts > 1 else None
            if done is not None:
                return done
            await asyncio.sleep(max(0.0, self._terms.closed_until - time.monotonic()))
            response = await self._request(method, path, **content)
            if not response.is_success:
                raise self._failure(response)
            return response

        return await self._tried(attempt)

    async def _tried(self, attempt_once: Callable[[], Awaitable[_T]]) -> _T:
        """Return the first successful attempt's result, after several attempts if need be."""
        for attempt in range(1, self._terms.max_attempts + 1):
            try:
                return await attempt_once()
            except _PassingError as failure:
                wait_s = failure.retry_after_s
                if attempt == self._terms.max_attempts or (wait_s or 0.0) > _LONGEST_RETRY_AFTER_S:
                    asks = f" It asks to wait {wait_s:,.0f} s." if wait_s else ""
                    raise UnansweredError(
                        f"The endpoint {self._terms.base_url} gave no answer in {attempt} attempts; the last one: "
                        f"{failure}.{asks}",
                        last=str(failure).partition(":")[0],
                        hint=_HINT,
                    ) from None
            await self._wait(attempt, wait_s)
        raise AssertionError  # max_attempts is at least 1

    async def _wait(self, attempt: int, retry_after_s: float | None) -> None:
        """Wait after a failure. A time that the server names holds back all requests."""
        if retry_after_s:
            self._terms.closed_until = max(self._terms.closed_until, time.monotonic() + retry_after_s)
            return
        wait_s = min(_LONGEST_WAIT_S, self._terms.first_wait_s * 2.0 ** (attempt - 1))
        await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))

    async def _within_limits(self, request: Mapping[str, object]) -> Answer:
        terms = self._terms
        input_tokens, output_tokens = most_tokens(request)
        reserved = terms.budget.reserve(input_tokens, output_tokens)
        used = (0, 0)
        try:
            now = time.monotonic()
            pause_s = max(
                terms.closed_until - now,
                terms.requests.reserve(now, 1),
                terms.tokens.reserve(now, input_tokens + output_tokens / 2),
            )
            await asyncio.sleep(max(0.0, pause_s))
            answer = await self._send(request)
            used = (answer.input_tokens, answer.output_tokens)
            return answer
        finally:
            terms.budget.settle(reserved, *used)

    async def _send(self, request: Mapping[str, object]) -> Answer:
        """Send a request in the form that the server takes; learn another form where it complains."""
        while True:
            sent = self._terms.dialect.adapt(request)
            response = await self._request("POST", "/chat/completions", json=sent)
            if response.status_code == httpx.codes.OK:
                return _read(response, request)
            if response.status_code not in {400, 422} or not self._terms.dialect.learn(sent, response.text):
                raise self._failure(response)

    async def _request(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            return await self._http.request(method, f"{self._terms.base_url.rstrip('/')}{path}", **content)
        except httpx.TimeoutException:
            raise _PassingError(f"no answer in {self._terms.timeout_s:g} s") from None
        except httpx.TransportError as error:  # not reachable, or the answer broke off
            raise _PassingError(f"{type(error).__name__}: {error}") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.DecodingError) as error:
            raise _PassingError(f"{type(error).__name__}: {error}") from None

    def _failure(self, response: httpx.Response) -> Exception:
        status, said = response.status_code, _complaint(response)
        where = f"The endpoint {self._terms.base_url}"
        if status in _FORBIDDEN:
            return AccessDeniedError(f"{where} does not accept the key (HTTP {status}: {said}).")
        if status == _NOT_FOUND:
            return NotFoundError(f"{where} has no such model or path (HTTP {status}: {said}).")
        if "insufficient_quota" in response.text:
            return InputError(f"{where} says that the account has no credit left (HTTP {status}: {said}).", hint=_HINT)
        if status in _PASSING or status >= _SERVER_ERROR:
            return _PassingError(f"HTTP {status}: {said}", _retry_after_s(response.headers))
        return RefusedError(f"HTTP {status}: {said}")


def most_tokens(request: Mapping[str, Any]) -> tuple[int, int]:
    """Return the tokens of a request's prompt, about, and the most of its answer."""
    return sum(num_tokens_estimated(message["content"]) for message in request["messages"]), request["max_tokens"]


def _read(response: httpx.Response, request: Mapping[str, object]) -> Answer:
    """Return the answer in a response of status 200; one without it counts as a failure that passes."""
    try:
        answer = answer_in(response.json(), request)
    except ValueError:
        answer = None
    if answer is None:
        raise _PassingError(f"an answer that is no chat completion: {response.text[:_SHOWN_CHARS]!r}")
    return answer


def answer_in(body: Any, request: Mapping[str, object]) -> Answer | None:
    """Return the answer in the body of a response to a request; None if there is none."""
    try:
        choice = body["choices"][0]
        content, usage = choice["message"]["content"] or "", body.get("usage") or {}
        finish_reason = choice.get("finish_reason") or "stop"
        input_tokens = int(usage.get("prompt_tokens", most_tokens(request)[0]))
        output_tokens = int(usage.get("completion_tokens", num_tokens_estimated(content)))
        return Answer(content, str(finish_reason), input_tokens, output_tokens)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None


def _complaint(response: httpx.Response) -> str:
    """Return the message of an error, shortened and on one line."""
    try:
        error = response.json()["error"]
        said = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError):
        said = response.text
    return " ".join(str(said).split())[:_SHOWN_CHARS]


def _retry_after_s(headers: httpx.Headers) -> float | None:
    """Return the wait that a server asks for: ``Retry-After`` in seconds or as a date, or ``retry-after-ms``."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            return max(0.0, float(value) * unit_s)
        except ValueError:
            pass
    try:
        moment = parsedate_to_datetime(headers.get("retry-after", ""))
    except (TypeError, ValueError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


async def all_of(calls: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Return the results of calls that run at the same time. The first error, or a cancellation, ends all of them."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
