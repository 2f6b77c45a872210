"""A web server on loopback that takes posted JSON."""

import contextlib
import json
import threading

from http_server import QuietHandler, http_server


class WebhookServer:
    """A web server on loopback that notes what it is posted, and answers as told, or not before its end."""

    def __init__(self, *answers, hangs=False):
        self.bodies = []
        self._may_answer = threading.Event()
        if not hangs:
            self._may_answer.set()
        answers = list(answers)
        hook = self

        class Handler(QuietHandler):
            def do_POST(self):
                hook.bodies.append(json.loads(self.read_body()))
                hook._may_answer.wait()
                self.reply(answers.pop(0) if answers else 200)

        self._handler = Handler
        self._running = contextlib.ExitStack()

    def __enter__(self):
        self.url = f"{self._running.enter_context(http_server(self._handler))}/services/SECRET"
        return self

    def __exit__(self, *_):
        self._may_answer.set()
        self._running.close()
