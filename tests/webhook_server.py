"""A web server on loopback that takes posted JSON."""

import http.server
import json
import threading


class WebhookServer:
    """A web server on loopback that notes what it is posted, and answers as told, or not before its end."""

    def __init__(self, *answers, hangs=False):
        self.bodies = []
        self._may_answer = threading.Event()
        if not hangs:
            self._may_answer.set()
        answers = list(answers)
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                hook.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                hook._may_answer.wait()
                self.send_response(answers.pop(0) if answers else 200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/SECRET"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._may_answer.set()
        self.server.shutdown()
        self.server.server_close()
