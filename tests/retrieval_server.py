"""A retriever and an embedding model on loopback that answer from a fixed table and fail on purpose."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

from http_server import QuietHandler, http_server

__all__ = ["retrieval_server"]


@dataclass
class RetrievalServer:
    """Requests to a running server; its address has no path."""

    url: str = ""
    asked: list = field(default_factory=list)
    keys: list = field(default_factory=list)


@contextmanager
def retrieval_server(answer):
    """Run a server whose ``answer(path, body)`` gives the JSON or bytes of a response, or a status with them."""
    state, lock = RetrievalServer(), threading.Lock()

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.read_body())
            with lock:
                state.asked.append((self.path, body))
                state.keys.append(self.headers.get("Authorization"))
            answered = answer(self.path, body)
            status, said = answered if isinstance(answered, tuple) else (200, answered)
            self.reply(status, said if isinstance(said, bytes) else json.dumps(said).encode())

    with http_server(Handler) as state.url:
        yield state
