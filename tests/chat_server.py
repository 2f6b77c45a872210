"""An OpenAI-compatible server on loopback that answers from a fixed table and fails on purpose."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from http_server import QuietHandler, http_server

__all__ = ["ChatServer", "chat_server", "pairs_for"]

Fault = str
"""``429``, ``500``, ``401``, ..., ``hang``, ``cut``, ``garbage``, ``not json``, ``length``, or empty for none."""


def pairs_for(request: dict[str, Any]) -> str:
    """Answer as a model would: a question for each line of the passage, answered by the line."""
    said = request["messages"][1]["content"]
    place, passage = said.split("\n\nFrom: ")[1].split("\n\nPassage:\n")
    pairs = [
        {"questions": [f"What is fact {number} of {place.split(' > ')[0]}?"], "answer": sentence.strip()}
        for number, sentence in enumerate(passage.replace(". ", ".\n").splitlines())
    ]
    return json.dumps({"pairs": pairs})


class ChatServer:
    """The server's state: what it was asked, the model that it says it is, and how it fails.

    Args:
        answer: makes the content of an answer from the request's body.
        fault: called with the number of the attempt at this request (0 the first) and the body.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], str], fault: Callable[[int, dict[str, Any]], Fault]) -> None:
        self.answer = answer
        self.fault = fault
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answered: Counter[str] = Counter()
        self.retry_after = "0"
        self.released = threading.Event()
        self.most_at_once = 0
        self.url = ""
        self.model = ""
        self._at_once = 0
        self._attempts: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def asking(self, body: dict[str, Any], headers: dict[str, str]) -> Iterator[Fault]:
        """Count a request while it is served."""
        key = json.dumps(body["messages"])
        with self._lock:
            attempt = self._attempts[key]
            self._attempts[key] += 1
            self.asked.append(body)
            self.headers.append(headers)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        fault = self.fault(attempt, body)
        try:
            yield fault
        finally:
            with self._lock:
                self._at_once -= 1
                if not fault:
                    self.answered[key] += 1


@contextmanager
def chat_server(
    answer: Callable[[dict[str, Any]], str] = pairs_for,
    fault: Callable[[int, dict[str, Any]], Fault] = lambda _attempt, _body: "",
) -> Iterator[ChatServer]:
    """Run a server on a port of the system's choice."""
    state = ChatServer(answer, fault)

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.read_body())
            with state.asking(body, {name.lower(): value for name, value in self.headers.items()}) as failure:
                self._serve(body, failure)

        def _serve(self, body: dict[str, Any], fault: Fault) -> None:
            if fault == "hang":
                state.released.wait(30)
                self.close_connection = True
            elif fault.split()[0:1] and fault.split()[0].isdigit():
                self._send(int(fault.split()[0]), json.dumps({"error": {"message": fault, "code": fault}}))
            elif fault == "not json":
                self._send(200, "<html>busy</html>")
            else:
                content = "Sure! Here are" if fault == "garbage" else state.answer(body)
                choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
                if fault == "length":
                    choice["finish_reason"] = "length"
                usage = {"prompt_tokens": 100, "completion_tokens": 20}
                answered = {"model": state.model, "choices": [choice], "usage": usage}
                self._send(200, json.dumps(answered), cut=fault == "cut")

        def _send(self, status: int, text: str, *, cut: bool = False) -> None:
            data = text.encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            if status == 429:
                self.send_header("retry-after", state.retry_after)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if cut else data)
            self.close_connection = cut

    with http_server(Handler) as url:
        state.url = f"{url}/v1"
        try:
            yield state
        finally:
            state.released.set()
