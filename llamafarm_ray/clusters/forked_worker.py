"""The script that a local Ray starts for each worker: it has the worker forked from a process that has imported it all.

It takes the arguments of Ray's own ``setup_worker.py``, asks the server at ``$LLAMAFARM_FORK_SERVER``
(:mod:`llamafarm_ray.clusters.fork_server`), and stays as long as the worker does: it passes on the signals of a
terminal, and ends with the worker's status. Where the server can't help, it becomes the worker itself, as Ray has it.

It imports the standard library alone, since each worker waits for it.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import re
import resource
import select
import signal
import socket
import sys
from typing import NoReturn

__all__ = ["CANNOT", "SOCKET_NAME", "SOCKET_VARIABLE", "main", "receive", "run_forked", "set_up"]

SOCKET_VARIABLE = "LLAMAFARM_FORK_SERVER"
SOCKET_NAME = "fork-server.sock"
"""Name of the server's socket in the folder of its Ray."""
CANNOT = "no"
"""The server's answer where a worker can't be forked; else it is the worker's pid, and then its exit status."""
_CONTEXT = "--serialized-runtime-env-context="
_LANGUAGE = "--language="
_NUM_STREAMS = 3
_SERVER_GONE = 1
_PASSED_ON = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP}


def main(arguments: list[str]) -> NoReturn:
    """Fork a worker and wait for its end; start it here if it can't be forked.

    Args:
        arguments: those of Ray's ``setup_worker.py``.
    """
    words = set_up(arguments)
    if words is None:
        script = next(word for word in arguments if word.endswith(".py"))
        _become([script.replace("default_worker", "setup_worker"), *arguments])
    path = os.environ.get(SOCKET_VARIABLE)
    status = run_forked(words, path) if path else None
    if status is None:
        _become(words)
    if status < 0:  # a signal ended the worker, and so it ends this process
        with contextlib.suppress(OSError):  # nothing can be set for SIGKILL
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def set_up(arguments: list[str]) -> list[str] | None:
    """Set the worker's variables and return its command line; None where Ray's own script has more to do."""
    context = [word[len(_CONTEXT) :] for word in arguments if word.startswith(_CONTEXT)]
    words = [word for word in arguments if not word.startswith((_CONTEXT, _LANGUAGE))]
    told = json.loads(context[0]) if context else {}
    variables = told.pop("env_vars", None) or {}
    plain = told.pop("py_executable", sys.executable) == sys.executable and not any(told.values())
    if not plain or not words or not words[0].endswith(".py"):
        return None
    for name, value in variables.items():  # as Ray expands them, each with those before it
        os.environ[name] = re.sub(r"\$\{[A-Z0-9_]+\}", "", os.path.expandvars(value))
    return words


def receive(connection: socket.socket, streams: list[int]) -> str:
    """Read a starter's message.

    Args:
        streams: the three file descriptors that come with it are added, also where it is cut short.

    Raises:
        ValueError: it is cut short.
    """
    received, found, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(_NUM_STREAMS * 4))
    numbers: array.array[int] = array.array("i")
    for level, kind, data in found:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(data)
    streams += numbers
    left = int(received, 16)
    parts = []
    while left and (part := connection.recv(min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    if left or len(streams) != _NUM_STREAMS:
        raise ValueError("the message is cut short")
    return b"".join(parts).decode()


def run_forked(words: list[str], path: str) -> int | None:
    """Run a script in a fork of the server's process, with this process's streams, variables and folder.

    Signals that would end or stop this process are the fork's too.

    Args:
        words: the script and its arguments.
        path: of the server's socket.

    Returns:
        Its exit status, below 0 where a signal ended it; None where the server can't fork it.
    """
    pid = ""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        message = json.dumps(_wanted(words, path)).encode()
        signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)  # until there is a fork to pass them on to
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(path)
            streams = array.array("i", range(_NUM_STREAMS))
            server.sendmsg([b"%08x" % len(message)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
            server.sendall(message)
            lines = server.makefile()
            pid = lines.readline().strip()
            if not pid.isdigit():
                return None
            _pass_signals_on(int(pid))
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            ended = lines.readline().strip()
            return int(ended) if ended else _wait_alone(int(pid))
    except OSError:
        return _wait_alone(int(pid)) if pid.isdigit() else None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wanted(words: list[str], path: str) -> dict[str, object]:
    """Return the values of a `Request`.

    Raises:
        OSError: a standard stream is closed, or the current folder is gone.
    """
    for number in range(_NUM_STREAMS):
        os.fstat(number)
    umask = os.umask(0o077)
    os.umask(umask)
    kinds = {getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
    return {
        "arguments": words,
        "variables": {**os.environ, SOCKET_VARIABLE: path},
        "folder": os.getcwd(),  # noqa: PTH109 - without pathlib, which takes as long as the rest
        "umask": umask,
        "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "limits": {kind: resource.getrlimit(kind) for kind in kinds},
        "cores": sorted(os.sched_getaffinity(0)),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
    }


def _wait_alone(pid: int) -> int:
    """Wait for the end of a fork whose server is gone. Its status is not known then: it counts as an error."""
    with contextlib.suppress(OSError):  # it has ended
        ended = select.poll()
        ended.register(os.pidfd_open(pid), select.POLLIN)
        ended.poll()
    return _SERVER_GONE


def _pass_signals_on(pid: int) -> None:
    def send(number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def stop(*_: object) -> None:
        send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)  # until SIGCONT comes
        send(signal.SIGCONT)

    for number in _PASSED_ON - {signal.SIGTSTP}:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: send(number))
    if signal.getsignal(signal.SIGTSTP) is not signal.SIG_IGN:
        signal.signal(signal.SIGTSTP, stop)


def _become(words: list[str]) -> NoReturn:
    os.execv(sys.executable, [sys.executable, *words])  # noqa: S606 - there is no shell to quote for


if __name__ == "__main__":
    main(sys.argv[1:])
