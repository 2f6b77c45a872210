"""Chat requests to an OpenAI-compatible server, from a process of its own: a line of JSON for each job and its result.

    echo '{"url": "http://127.0.0.1:8000/v1", "seconds": 5, "sources": [{"models": ["base"], "clients": 8}]}' \
        | python tests/load_generator.py

A source is what one user of the server sends: either ``clients`` that each send the next request when the last one was
answered, or ``rate`` requests a second at random times (a Poisson process), however slow the answers are. The prompts,
their models, these times and the answers' lengths are the same in every job with the same ``seed``. Lengths differ by
up to half of ``num_tokens``: clients whose answers were all of one length would come to send all at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import aiohttp
import uvloop

__all__ = ["Answer", "Job", "LoadGenerator", "Measured", "Source"]

WORDS = ("llama", "water", "farm", "spider", "land", "people", "level", "sea", "America", "question", "legs", "capital")
DRAIN_S = 5.0
"""How long answers are waited for when nothing is sent any more."""


@dataclass(frozen=True)
class Source:
    """One user of the server.

    Args:
        name: to tell sources apart.
        models: models to request; each request draws one.
        weights: weights of the models in the draw; all equal by default.
        clients: requests under way, each followed by the next.
        rate: or requests a second.
        key: the API key.
    """

    name: str = ""
    models: list[str] = field(default_factory=list)
    weights: list[float] | None = None
    clients: int = 0
    rate: float = 0.0
    key: str = ""


@dataclass(frozen=True)
class Job:
    """What is sent, and for how long it is measured; before that comes a time that does not count."""

    url: str
    sources: list[Source]
    seconds: float
    warm_up_s: float = 0.5
    is_streamed: bool = False
    num_tokens: int = 32
    prompt_words: int = 24
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """One request: when it was sent and answered (seconds since the measured time began), and how.

    Args:
        source: source of the request.
        model: model that the request named.
        sent_s: time of sending, or the scheduled time if a source has a rate.
        first_s: time of the answer's first part.
        done_s: time of the answer's end.
        num_tokens: the answer's length.
        error: the failure; empty without one.
    """

    source: str
    model: str
    sent_s: float
    first_s: float
    done_s: float
    num_tokens: int
    error: str = ""


@dataclass(frozen=True)
class Measured:
    """What came of a job: all answers, and the share of a core that sending it took."""

    answers: list[Answer]
    seconds: float
    cpu_share: float

    @property
    def errors(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.error]

    def counted(self, source: str | None = None) -> list[Answer]:
        """The good answers to what was sent in the measured time."""
        return [
            answer
            for answer in self.answers
            if not answer.error and 0 <= answer.sent_s < self.seconds and source in {None, answer.source}
        ]

    def per_second(self, source: str | None = None) -> float:
        """Requests answered a second; of those under way at either end the part that lies within."""
        return sum(part for _, part in self._parts(source)) / self.seconds

    def tokens_per_second(self, source: str | None = None) -> float:
        """Tokens answered a second, likewise."""
        return sum(answer.num_tokens * part for answer, part in self._parts(source)) / self.seconds

    def _parts(self, source: str | None) -> Iterator[tuple[Answer, float]]:
        for answer in self.answers:
            if not answer.error and source in {None, answer.source}:
                inside = max(0.0, min(answer.done_s, self.seconds) - max(answer.sent_s, 0.0))
                yield answer, inside / (answer.done_s - answer.sent_s)


class LoadGenerator:
    """The process that sends. One job at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._asked, self._answered = self._process.stdin, self._process.stdout

    def run(self, job: Job) -> Measured:
        """Send a job's requests and wait for their answers."""
        self._asked.write(json.dumps(asdict(job)) + "\n")
        self._asked.flush()
        found = json.loads(self._answered.readline())
        return Measured([Answer(*answer) for answer in found["answers"]], found["seconds"], found["cpu_share"])

    def close(self) -> None:
        """End the process."""
        self._asked.close()
        self._process.wait(timeout=30)


# What the process does.


class _Request(NamedTuple):
    model: str
    body: bytes
    num_tokens: int


class _Sender:
    def __init__(self, job: Job, session: aiohttp.ClientSession) -> None:
        self._job = job
        self._session = session
        self._begun = time.perf_counter() + job.warm_up_s
        self.answers: list[Answer] = []

    def now(self) -> float:
        """Seconds since the measured time began."""
        return time.perf_counter() - self._begun

    async def client(self, source: Source, requests: Iterator[_Request]) -> None:
        while self.now() < self._job.seconds:
            await self.send(source, next(requests), self.now())

    async def at_rate(self, source: Source, requests: Iterator[_Request], group: asyncio.TaskGroup) -> None:
        rng, due = random.Random(f"{self._job.seed} {source.name} times"), self.now()
        while (due := due + rng.expovariate(source.rate)) < self._job.seconds:
            await asyncio.sleep(due - self.now())
            group.create_task(self.send(source, next(requests), due))

    async def send(self, source: Source, request: _Request, sent_s: float) -> None:
        headers = {"content-type": "application/json"}
        if source.key:
            headers["authorization"] = f"Bearer {source.key}"
        first_s, last, error = 0.0, b"", ""
        try:
            async with self._session.post(
                f"{self._job.url}/chat/completions", data=request.body, headers=headers
            ) as response:
                async for piece in response.content.iter_any():
                    first_s = first_s or self.now()
                    last = last[-200:] + piece
                if response.status != 200:
                    error = f"{response.status} {last[:300]!r}"
                elif (b"data: [DONE]" if self._job.is_streamed else b'"usage"') not in last:
                    error = f"the answer broke off: {last!r}"
        except (aiohttp.ClientError, asyncio.CancelledError) as failure:
            error = repr(failure)
        self.answers.append(Answer(source.name, request.model, sent_s, first_s, self.now(), request.num_tokens, error))


def _requests(job: Job, source: Source) -> Iterator[_Request]:
    """Requests, for ever; made while nothing is measured, up to a number that is rarely reached."""
    rng = random.Random(f"{job.seed} {source.name}")
    models = rng.choices(source.models, source.weights, k=4096) if source.weights else itertools.cycle(source.models)
    made = [_request(job, model, rng) for model, _ in zip(models, range(4096), strict=False)]
    return itertools.cycle(made)


def _request(job: Job, model: str, rng: random.Random) -> _Request:
    num_tokens = rng.randint(job.num_tokens // 2, job.num_tokens + job.num_tokens // 2)
    fields: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": " ".join(rng.choices(WORDS, k=job.prompt_words))}],
        "max_tokens": num_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    return _Request(model, json.dumps(fields | {"stream": True} if job.is_streamed else fields).encode(), num_tokens)


async def _run(job: Job) -> dict[str, Any]:
    requests = [(source, _requests(job, source)) for source in job.sources]
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        sender = _Sender(job, session)
        started, cpu_s = time.perf_counter(), _cpu_s()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(job.warm_up_s + job.seconds + DRAIN_S), asyncio.TaskGroup() as group:
                for source, bodies in requests:
                    if source.rate:
                        group.create_task(sender.at_rate(source, bodies, group))
                    for _ in range(source.clients):
                        group.create_task(sender.client(source, bodies))
        share = (_cpu_s() - cpu_s) / (time.perf_counter() - started)
    answers = [list(asdict(answer).values()) for answer in sender.answers]
    return {"answers": answers, "seconds": job.seconds, "cpu_share": share}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Run jobs until there are no more."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin:
            asked = json.loads(line)
            job = Job(**asked | {"sources": [Source(**source) for source in asked["sources"]]})
            sys.stdout.write(json.dumps(runner.run(_run(job))) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
