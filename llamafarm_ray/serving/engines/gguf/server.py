"""A GGUF file behind llama.cpp's server, in a process of its own that is reached over a Unix socket.

A process each: llama.cpp ends its process when a file is badly damaged, and a process that ended gives back all of its
memory. The socket lies in a folder that only this user can enter, and the server asks for a key besides.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from llamafarm_ray.errors import DeploymentError, InputError, UserError

__all__ = ["Connection", "LlamaServer", "LlamaSettings"]

_MODULE = "llamafarm_ray.serving.engines.gguf.process"
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""httpx would read the system's certificates for each connection, which takes longer than a token."""
_ENVIRONMENT = ("PATH", "HOME", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "TMPDIR")
"""Variables of this environment that the process inherits; no tokens are among them."""


@dataclass(frozen=True, slots=True)
class LlamaSettings:
    """Settings of llama.cpp's server.

    Attributes:
        model: the GGUF file of a model.
        lora: that of a low-rank update of it.
        max_model_len: the longest prompt with its answer, in tokens.
        n_parallel: answers written at the same time, each with a KV cache for that many tokens.
        n_threads: CPU threads; ``None``: llama.cpp's choice.
        embedding: True if it gives vectors, and writes no text.
        n_batch: prompt tokens that are given to llama.cpp at once; ``None``: its default.
        n_ubatch: prompt tokens that it computes at once; ``None``: its default.
        flash_attention: whether it computes attention in blocks; ``None``: its choice.
        cache_type: ggml's type of keys and values.
    """

    model: str
    lora: str | None
    max_model_len: int
    n_parallel: int
    n_threads: int | None
    embedding: bool
    n_batch: int | None = None
    n_ubatch: int | None = None
    flash_attention: bool | None = None
    cache_type: str = "f16"


class LlamaServer:
    """The server of one model, which is started at once, and again where it has ended by itself.

    Its process ends when this object is dropped.

    Raises:
        InputError: llama.cpp can't load the file.
    """

    def __init__(self, settings: LlamaSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._process = _Process(settings)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, route: str, body: dict[str, Any]) -> Any:
        """Ask it, and wait.

        Raises:
            UserError: it refuses the request.
            DeploymentError: it ended while it worked, or broke.
        """
        process = self._running()
        transport = httpx.HTTPTransport(uds=process.socket, verify=_NO_TLS)
        try:
            with httpx.Client(transport=transport, **process.http) as client:
                return _answer_of(client.post(route, json=body))
        except httpx.TransportError as error:
            raise process.ended(error) from error

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection, None]:
        """A connection for the requests of one answer, one after the other; closed, it ends what it is working on.

        Raises:
            InputError: the server has ended, and does not start any more.
        """
        process = self._process if self._process.is_alive else await asyncio.to_thread(self._running)
        transport = httpx.AsyncHTTPTransport(uds=process.socket, verify=_NO_TLS)
        async with httpx.AsyncClient(transport=transport, **process.http) as client:
            yield Connection(process, client)

    def _running(self) -> _Process:
        with self._lock:
            if not self._process.is_alive:
                self._process = _Process(self._settings)
            return self._process


class Connection:
    """See `LlamaServer.connection`."""

    def __init__(self, process: _Process, client: httpx.AsyncClient) -> None:
        self._process = process  # which lives as long as somebody waits for it
        self._client = client

    async def ask(self, route: str, body: dict[str, Any]) -> Any:
        """Ask the server.

        Raises:
            UserError: it refuses the request.
            DeploymentError: it ended while it worked, or broke.
        """
        try:
            return _answer_of(await self._client.post(route, json=body))
        except httpx.TransportError as error:
            raise self._process.ended(error) from error


class _Process:
    """A started server."""

    def __init__(self, settings: LlamaSettings) -> None:
        folder = tempfile.mkdtemp(prefix="llama-")  # which only this user may enter
        self.socket = str(Path(folder, "llama.sock"))  # by the ending it knows that it is no host
        key = secrets.token_hex()
        self.http: dict[str, Any] = {
            "base_url": "http://llama.cpp",
            "headers": {"Authorization": f"Bearer {key}"},
            "timeout": None,  # a long prompt takes long
            "trust_env": False,  # no proxy between a process and its own
        }
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        errors = Path(folder, "errors")
        with errors.open("wb") as stderr:
            process = subprocess.Popen(  # our own module
                [sys.executable, "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                text=True,
            )
        self._process = process
        self._is_lost = False
        self._end = weakref.finalize(self, _end, process, folder)
        told = json.dumps({**asdict(settings), "socket": self.socket, "key": key})
        if not _say(process, told):
            reason = _reason(errors, process)
            self._end()
            raise InputError(
                f"llama.cpp can't load {settings.lora or settings.model!r}: {reason}.",
                hint="Check that the file is whole, of an architecture that llama.cpp supports, and fits into memory.",
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return not self._is_lost and self._process.poll() is None

    def ended(self, error: httpx.TransportError) -> DeploymentError:
        """Return the error for requests after the process ended; it may take a moment until it is gone."""
        self._is_lost = True
        return DeploymentError(
            f"llama.cpp's process ended while it worked ({type(error).__name__}).",
            hint="It is started again with the next request.",
        )


def _say(process: subprocess.Popen[str], told: str) -> bool:
    """Give the process its settings; whether it says that it is ready."""
    assert process.stdin is not None  # both are pipes
    assert process.stdout is not None
    try:
        process.stdin.write(f"{told}\n")
        process.stdin.flush()
    except BrokenPipeError:
        return False
    return any(line == "ready\n" for line in process.stdout)


def _end(process: subprocess.Popen[str], folder: str) -> None:
    process.kill()  # it keeps nothing that would have to be written
    process.communicate()
    shutil.rmtree(folder, ignore_errors=True)


def _reason(errors: Path, process: subprocess.Popen[str]) -> str:
    """Return the last message of the process, or the way it ended."""
    code = process.wait()
    if code < 0:
        return f"its process was ended by signal {-code}"
    lines = [line.strip() for line in errors.read_text(errors="replace").splitlines() if " E " in line]
    told = next((line for line in lines if "error" in line.lower()), *lines[-1:]) if lines else ""
    return told.partition(" E ")[2].strip().rstrip(".") or f"its process ended with status {code}"


def _answer_of(response: httpx.Response) -> Any:
    """The answer's JSON.

    Raises:
        UserError: the request was refused.
        DeploymentError: it failed.
    """
    if response.is_success:
        return response.json()
    try:
        told = str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        told = f"status {response.status_code}"
    if response.is_client_error:
        raise UserError(f"llama.cpp refuses the request: {told}.")
    raise DeploymentError(f"llama.cpp failed: {told}.")
