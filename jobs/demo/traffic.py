"""Requests that keep coming from several clients, while something else happens."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Self

import httpx

from llamafarm_ray.errors import InfrastructureError, LlamaFarmError
from llamafarm_ray.workflows.deployments.chat import Answer, ask

__all__ = ["Traffic"]

_PATIENCE_S = 120.0


class Traffic:
    """Asks one question over and over for the time of a block, and counts who answered.

    Args:
        url: the OpenAI-compatible root.
        model: the name that is asked.
        question: the question to ask.
        num_clients: number of clients at the same time.
        likes: function that returns True if the reader likes an answer; the reader then sends a thumb up, else down.
            None: no feedback.

    Attributes:
        failures: errors of failed requests.
        answered: answers by version, ``{"bot:1.0.0": 12}``.
    """

    def __init__(
        self,
        url: str,
        model: str,
        question: str,
        *,
        num_clients: int = 3,
        likes: Callable[[str], bool] | None = None,
    ) -> None:
        self._ask = (url, model, question)
        self._likes = likes
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(num_clients)]
        self._answered: Counter[str] = Counter()
        self.failures: list[str] = []

    @property
    def num_requests(self) -> int:
        """Requests that ended, well or not."""
        with self._lock:
            return self._answered.total() + len(self.failures)

    @property
    def versions(self) -> dict[str, int]:
        """Answers by the version that gave them."""
        with self._lock:
            return dict(self._answered)

    def wait_for(self, num_more: int) -> None:
        """Return once that many more requests have ended.

        Raises:
            InfrastructureError: they take over a minute.
        """
        wanted = self.num_requests + num_more
        deadline = time.monotonic() + _PATIENCE_S
        while self.num_requests < wanted:
            if time.monotonic() > deadline:
                raise InfrastructureError(f"{num_more} requests took over {_PATIENCE_S:.0f} s.")
            time.sleep(0.05)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        url, model, question = self._ask
        while not self._stop.is_set():
            try:
                # Each question is another reader's: a canary splits the readers, not the questions.
                answer = ask(url, model, question, max_tokens=24, user=uuid.uuid4().hex)
                if self._likes is not None:
                    self._rate(answer)
            except (LlamaFarmError, httpx.HTTPError) as error:
                with self._lock:
                    self.failures.append(str(error))
            else:
                with self._lock:
                    self._answered[answer.headers["x-llamafarm-model"]] += 1

    def _rate(self, answer: Answer) -> None:
        url, _, question = self._ask
        assert self._likes is not None  # the caller looks
        said = {
            "model": answer.headers["x-llamafarm-model"],
            "messages": [{"role": "user", "content": question}],
            "answer": answer.text,
            "thumb": "up" if self._likes(answer.text) else "down",
        }
        httpx.post(f"{url}/feedback", json=said, timeout=_PATIENCE_S).raise_for_status()
