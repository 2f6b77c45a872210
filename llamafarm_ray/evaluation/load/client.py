"""Open-loop client: every request goes out at its time, however slow the answers are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp  # part of Ray's dashboard client; a request costs a third of httpx's CPU time

from llamafarm_ray.evaluation.load.answers import BrokenAnswerError, Streamed, WholeAnswer, read_whole
from llamafarm_ray.evaluation.load.outcomes import Outcome
from llamafarm_ray.evaluation.load.traffic import Session, Turn

__all__ = ["Endpoint", "drive"]

_OK: Final = 200
_LEAD_S: Final = 0.05
"""Time to set up before the first request is due."""

Progress = Callable[[int, int], None]
"""Called with the number of sessions that are over and the number of all."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible server and the way to ask it.

    Args:
        url: its root, such as ``http://127.0.0.1:8000/v1``.
        key: sent as a bearer token.
        is_streamed: ask for streams, which show the time to the first token.
        timeout_s: a request fails this long after its scheduled time.
        options: further fields of each request's body.
    """

    url: str
    model: str
    key: str | None = None
    is_streamed: bool = True
    timeout_s: float = 60.0
    options: Mapping[str, object] | None = None


async def drive(
    endpoint: Endpoint,
    sessions: Sequence[Session],
    *,
    on_progress: Progress | None = None,
    stop: Callable[[Outcome], bool] | None = None,
) -> list[Outcome]:
    """Send sessions by their schedule and return the outcome of every request.

    A turn after the first is due its ``think_s`` after the previous answer. A session ends at its first failure.

    Args:
        sessions: in any order.
        on_progress: told of sessions that are over.
        stop: called with each outcome; once it returns True, nothing more is sent and requests under way are given up.
    """
    headers = {"content-type": "application/json"}
    if endpoint.key:
        headers["authorization"] = f"Bearer {endpoint.key}"
    timeout = aiohttp.ClientTimeout(total=None)
    # No limit of connections: a request that waits for a free one would not be open loop.
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as http:
        return await _Driver(endpoint, http, len(sessions), on_progress, stop).run(sessions)


class _Driver:
    def __init__(
        self,
        endpoint: Endpoint,
        http: aiohttp.ClientSession,
        num_sessions: int,
        on_progress: Progress | None,
        stop: Callable[[Outcome], bool] | None,
    ) -> None:
        self._endpoint = endpoint
        self._http = http
        self._url = f"{endpoint.url.rstrip('/')}/chat/completions"
        self._num_sessions = num_sessions
        self._on_progress = on_progress
        self._stop = stop
        self._stopped = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._start = 0.0
        self._num_over = 0
        self.outcomes: list[Outcome] = []

    async def run(self, sessions: Sequence[Session]) -> list[Outcome]:
        self._start = self._loop.time() + _LEAD_S
        sending = asyncio.create_task(self._send_all(sessions))
        stopping = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait({sending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            sending.cancel()
            await asyncio.gather(sending, stopping, return_exceptions=True)
        if not sending.cancelled() and (error := sending.exception()) is not None:
            raise error
        return self.outcomes

    async def _send_all(self, sessions: Sequence[Session]) -> None:
        async with asyncio.TaskGroup() as group:
            for number, session in sorted(enumerate(sessions), key=lambda one: one[1].at_s):
                await self._until(session.at_s)
                group.create_task(self._converse(number, session))

    async def _converse(self, number: int, session: Session) -> None:
        history: list[Mapping[str, object]] = []
        due_s = session.at_s
        for place, turn in enumerate(session.turns, start=1):
            history.extend(turn.messages)
            is_last = place == len(session.turns)
            outcome, text = await self._ask(number, session, turn, history, due_s, is_last=is_last)
            self.outcomes.append(outcome)
            if self._stop is not None and self._stop(outcome):
                self._stopped.set()
            if outcome.failure or is_last:
                break
            history.append({"role": "assistant", "content": text})
            due_s = outcome.done_s + session.turns[place].think_s
            await self._until(due_s)
        self._num_over += 1
        if self._on_progress is not None:
            self._on_progress(self._num_over, self._num_sessions)

    async def _ask(
        self,
        number: int,
        session: Session,
        turn: Turn,
        messages: Sequence[Mapping[str, object]],
        due_s: float,
        *,
        is_last: bool,
    ) -> tuple[Outcome, str]:
        body = json.dumps(self._body(session, turn, messages)).encode()
        answer, failure, first_s = WholeAnswer("", 0, ""), "", None
        sent_s = self._now()
        try:
            async with asyncio.timeout_at(self._start + due_s + self._endpoint.timeout_s):
                async with self._http.post(self._url, data=body) as response:
                    if response.status != _OK:
                        await response.read()
                        failure = f"HTTP {response.status}"
                    elif self._endpoint.is_streamed:
                        answer, first_s = await self._read_stream(response)
                    else:
                        answer = read_whole(await response.read())
        except TimeoutError:
            failure = "timeout"
        except BrokenAnswerError as error:
            failure = str(error)
        except aiohttp.ClientConnectionError as error:
            cause = error.os_error.strerror if isinstance(error, aiohttp.ClientConnectorError) else None
            failure = f"connection: {cause or type(error).__name__}"
        except aiohttp.ClientError as error:
            failure = type(error).__name__
        outcome = Outcome(
            session=number,
            due_s=due_s,
            sent_s=sent_s,
            first_s=None if failure else first_s,
            done_s=self._now(),
            num_tokens=0 if failure else answer.num_tokens,
            failure=failure,
            model=answer.model,
            is_last=is_last,
        )
        return outcome, answer.text

    def _body(self, session: Session, turn: Turn, messages: Sequence[Mapping[str, object]]) -> dict[str, object]:
        body: dict[str, object] = {
            **(self._endpoint.options or {}),
            "model": session.model or self._endpoint.model,
            "messages": messages,
        }
        if turn.max_tokens is not None:
            body["max_tokens"] = turn.max_tokens
        if self._endpoint.is_streamed:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    async def _read_stream(self, response: aiohttp.ClientResponse) -> tuple[WholeAnswer, float | None]:
        events, first_s = Streamed(), None
        async for data in response.content.iter_any():
            events.feed(data)
            if first_s is None and events.num_events:
                first_s = self._now()
        return events.finish(), first_s

    async def _until(self, due_s: float) -> None:
        delay = self._start + due_s - self._loop.time()
        if delay > 0:
            await asyncio.sleep(delay)

    def _now(self) -> float:
        """Return seconds from the start."""
        return self._loop.time() - self._start
