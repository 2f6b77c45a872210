"""A real HTTP server on loopback for a gateway or another ASGI app."""

import contextlib
import json
import socket
import threading

import uvicorn
from fake_gateway import Engine


class ChatEngine(Engine):
    """Answers in the shape of chat completions."""

    async def _answer(self, path, body, send):
        async def as_chat(message):
            data = message.get("body", b"")
            if data.startswith(b"{"):
                parsed = json.loads(data)
                text = parsed["choices"][0]["text"]
                parsed["choices"] = [{"index": 0, "message": {"role": "assistant", "content": text}}]
                message = {**message, "body": json.dumps(parsed).encode()}
            elif data.startswith(b"data: {"):
                parsed = json.loads(data.removeprefix(b"data: "))
                parsed["choices"] = [{"index": 0, "delta": {"content": c["text"]}} for c in parsed["choices"]]
                message = {**message, "body": b"data: " + json.dumps(parsed).encode() + b"\n\n"}
            await send(message)

        await super()._answer(path, body, as_chat)


@contextlib.contextmanager
def listening(app):
    """A real server for an ASGI app, and its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        http = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical"))
        thread = threading.Thread(target=http.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            http.should_exit = True
            thread.join(10)
