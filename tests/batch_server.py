"""An OpenAI-compatible server on loopback with files, batches and chat completions, which fails on purpose."""

from __future__ import annotations

import email
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from chat_server import pairs_for
from http_server import QuietHandler, http_server

__all__ = ["BatchServer", "batch_server"]

STATES = ("validating", "in_progress", "finalizing")
Result = dict[str, Any] | str | None
"""A line of a file of results: an object, any text, or nothing for a request that was not done in time."""


class BatchServer:
    """The server's state.

    Attributes:
        files: content by id.
        batches: each as an object, in the order of their creation.
        calls: number of calls by method and path, with ids left out.
        chats: bodies of requests that came one by one.
        fault: called with method, path and the number of the call of this kind (0 the first); returns a status to
            answer with, ``cut`` to do the work and break off the answer, or "".
        result: makes the line of a result from the number of the batch, the custom id and the body of a request.
        end: status of a batch that has ended.
        errors: messages of a batch with the status ``failed``.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: list[dict[str, Any]] = []
        self.calls: Counter[str] = Counter()
        self.chats: list[dict[str, Any]] = []
        self.fault: Callable[[str, str, int], str] = lambda _method, _path, _number: ""
        self.result: Callable[[int, str, dict[str, Any]], Result] = lambda _number, key, body: good(key, body)
        self.end = "completed"
        self.errors: list[str] = []
        self.url = ""
        self.lock = threading.Lock()

    def requests(self, number: int) -> dict[str, dict[str, Any]]:
        """Return the bodies of the requests of a batch by their custom ids."""
        lines = self.files[self.batches[number]["input_file_id"]].splitlines()
        return {line["custom_id"]: line["body"] for line in map(json.loads, lines)}

    def answer(self, method: str, path: str, data: bytes, content_type: str) -> tuple[int, Any]:
        """Do what a request asks for, and return the status and the answer."""
        found: Any
        match method, path.partition("?")[0].split("/")[2:]:
            case "POST", ["chat", "completions"]:
                self.chats.append(json.loads(data))
                found = completion(json.loads(data))
            case "POST", ["files"]:
                parts = email.message_from_bytes(f"Content-Type: {content_type}\n\n".encode() + data).get_payload()
                fields = {part.get_param("name", header="content-disposition"): part for part in parts}
                assert fields["purpose"].get_payload() == "batch"
                name = f"file-{len(self.files)}"
                self.files[name] = fields["file"].get_payload(decode=True)
                found = {"id": name, "object": "file", "purpose": "batch"}
            case "POST", ["batches"]:
                asked = json.loads(data)
                assert (asked["endpoint"], asked["completion_window"]) == ("/v1/chat/completions", "24h")
                batch = {"id": f"batch-{len(self.batches)}", "status": STATES[0], "step": 0, **asked}
                self.batches.append(batch)
                found = batch
            case "GET", ["batches"]:
                found = {"object": "list", "data": self.batches[::-1]}
            case "GET", ["batches", name]:
                found = self.advanced(next(batch for batch in self.batches if batch["id"] == name))
            case "GET", ["files", name, "content"]:
                found = self.files[name]
            case _:
                return 404, {"error": {"message": "no such path"}}
        return 200, found

    def advanced(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Bring a batch to its next state."""
        batch["step"] += 1
        if batch["step"] < len(STATES):
            batch["status"] = STATES[batch["step"]]
        elif batch["status"] not in {"completed", "expired", "failed"}:
            batch["status"] = self.end
            if self.end == "failed":
                batch["errors"] = {"data": [{"code": "x", "message": message} for message in self.errors]}
                return batch
            number = self.batches.index(batch)
            lines = [self.result(number, key, body) for key, body in self.requests(number).items()]
            good_ones, bad_ones = [], []
            for line in reversed(lines):
                is_good = isinstance(line, dict) and (line.get("response") or {}).get("status_code") == 200
                if line is not None:
                    (good_ones if is_good else bad_ones).append(line if isinstance(line, str) else json.dumps(line))
            for name, found in (("output_file_id", good_ones), ("error_file_id", bad_ones)):
                if found:
                    batch[name] = f"file-{len(self.files)}"
                    self.files[batch[name]] = "\n".join(found).encode()
        return batch


def completion(body: dict[str, Any]) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": pairs_for(body)}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 20}}


def good(key: str, body: dict[str, Any], content: str | None = None) -> dict[str, Any]:
    """Return the line of a request that was answered."""
    answered = completion(body)
    if content is not None:
        answered["choices"][0]["message"]["content"] = content
    return {"custom_id": key, "response": {"status_code": 200, "body": answered}, "error": None}


def bad(key: str, status: int, message: str) -> dict[str, Any]:
    """Return the line of a request that failed."""
    return {"custom_id": key, "response": {"status_code": status, "body": {"error": {"message": message}}}}


@contextmanager
def batch_server() -> Iterator[BatchServer]:
    """Run a server on a port of the system's choice."""
    state = BatchServer()

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self._serve("POST", self.read_body())

        def do_GET(self) -> None:
            self._serve("GET", b"")

        def _serve(self, method: str, data: bytes) -> None:
            kind = "/".join(part for part in self.path.partition("?")[0].split("/")[2:] if "-" not in part)
            with state.lock:
                number = state.calls[f"{method} {kind}"]
                state.calls[f"{method} {kind}"] += 1
                fault = state.fault(method, kind, number)
                if fault.isdigit():
                    status, answer = int(fault), {"error": {"message": f"fault {fault}"}}
                else:
                    status, answer = state.answer(method, self.path, data, self.headers.get("content-type", ""))
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
            self.close_connection = fault == "cut"

    with http_server(Handler) as url:
        state.url = f"{url}/v1"
        yield state
