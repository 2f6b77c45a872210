"""A process that workers are forked from: ``python -m llamafarm_ray.clusters.fork_server SOCKET MODULES``.

A worker of Ray is a new interpreter that imports pandas and, for training, PyTorch, transformers and PEFT: two to eight
core seconds each, and the smallest run has a dozen workers. This process imports the modules once. Ray starts
:mod:`llamafarm_ray.clusters.forked_worker` in place of a worker, which asks here for a fork of this process and lends
it its streams, environment, folder and signal mask. Ray itself is imported by each fork: it reads the worker's
variables as it is loaded.

Libraries read some variables while they are imported, and code changes on disk. A worker whose variables differ from
this process's, or that is asked for after a change, is not forked: it is started as Ray starts it. It ends with its
standard input, and has one thread of Python, as a fork needs.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import runpy
import selectors
import signal
import site
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from llamafarm_ray.clusters.environment import as_adopted
from llamafarm_ray.clusters.forked_worker import CANNOT, receive
from llamafarm_ray.clusters.leftovers import MARK
from llamafarm_ray.clusters.ray_private import on_omp_threads

__all__ = ["BUILDS", "MODULES", "ForkServer", "Request", "code_stamp", "main", "run_worker"]

BUILDS = (
    "pandas",
    "pyarrow.parquet",
    "pyarrow.dataset",
    "pydantic",
    "jsonschema",
    "psutil",
    "requests",
    "google.protobuf.json_format",
    "llamafarm_ray.data.build.documents",
    "llamafarm_ray.data.quality.whole_set",
    "llamafarm_ray.registry",
)
"""Modules of every worker and of builds; none of them imports Ray."""
MODULES = (
    *BUILDS,
    "torch.distributed",
    "transformers.models.llama.modeling_llama",
    "peft",
    "torch.nn.attention.varlen",
    "llamafarm_ray.models.adapters.fused_lora",
    "llamafarm_ray.training.compute.attention",
    "llamafarm_ray.training.plan.job",
    "llamafarm_ray.training.checkpoints",
    "llamafarm_ray.training.methods",
    "llamafarm_ray.training.objectives",
    "llamafarm_ray.training.estimate",
)
"""The same, and modules of training."""
_READ_AT_IMPORT = (
    *("ACCELERATE_", "ARROW_", "BLIS_", "CUDA_", "GOMP_", "HF_", "HUGGINGFACE_", "KMP_", "LD_", "MALLOC_"),
    *("FSSPEC_", "MKL_", "NCCL_", "NUMBA_", "NUMEXPR_", "NVIDIA_", "OMP_", "OPENBLAS_", "PYTHON", "PYTORCH_", "TQDM_"),
    *("TORCH", "TRANSFORMERS_", "TRITON_", "TYPER_", "USE_", "XDG_"),
)
"""Prefixes of variables that libraries, or the interpreter, read once."""
_ALSO_READ_AT_IMPORT = {
    *("DISABLE_TELEMETRY", "DO_NOT_TRACK", "FORCE_COLOR", "GITHUB_ACTIONS", "GLIBC_TUNABLES", "HOME", "LANG", "LC_ALL"),
    *("LC_CTYPE", "NO_COLOR", "TEMP", "TERMINAL_WIDTH", "TMP", "TMPDIR", "TZ"),
}
_READ_LATER = {"CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PYTORCH_NVML_BASED_CUDA_CHECK", "TORCH_EXTENSIONS_DIR"}
"""Exceptions: a fork's threads are counted again, and no device was touched before."""
_PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that a process gets when its parent ends."""


@dataclass(frozen=True)
class Request:
    """A worker that Ray asks for.

    Attributes:
        arguments: the script and its arguments.
        variables: its environment.
        folder: its current folder.
        umask: its mode mask.
        blocked: signals that it blocks.
        limits: soft and hard limit of each resource, by its number.
        cores: it may run on.
        niceness: of its process.
        streams: file descriptors of its standard input, output and error.
        starter: in the fork, the connection to the process that asked for it.
    """

    arguments: list[str]
    variables: dict[str, str]
    folder: str
    umask: int
    blocked: list[int]
    limits: dict[str, tuple[int, int]]
    cores: list[int]
    niceness: int
    streams: list[int]
    starter: socket.socket | None = None


class ForkServer:
    """Import modules, and fork a worker for each request in between.

    Args:
        path: of the socket to listen on, in a folder that is this user's alone.
        modules: to import; one that is missing is left out.
        stamp: of the code on disk, called for each request.
    """

    def __init__(self, path: Path, modules: Sequence[str], stamp: Callable[[], object] | None = None) -> None:
        self._stamp = stamp or code_stamp
        self._variables = _of_imports(os.environ)
        self._imported_at = self._stamp()
        self._modules = list(modules)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(128)
        self._workers: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._take)
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        self._woken, self._wakes = socket.socketpair()
        self._wakes.setblocking(False)  # a signal's handler must not wait
        self._selector.register(self._woken, selectors.EVENT_READ, self._report_ended)

    def serve(self) -> Request | None:
        """Answer requests until standard input ends.

        Returns:
            In a fork, the worker to become; in this process None, at the end.
        """
        signal.set_wakeup_fd(self._wakes.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            ready = self._selector.select(0 if self._modules else None)
            if not ready:
                self._import_next()
            for key, _ in ready:
                if key.data is None:
                    return None
                request: Request | None = key.data(key.fileobj)
                if request is not None:
                    return request

    def _import_next(self) -> None:
        name = self._modules.pop(0)
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - whatever a module raises: a worker that needs it says so
            _log(f"{name} can't be imported beforehand: {error}")
        if not self._modules:
            gc.collect()
            gc.freeze()  # so that a fork's collector does not write to, and so copy, what all share

    def _take(self, listener: socket.socket) -> Request | None:
        try:
            asked, _ = listener.accept()
        except OSError:  # it hung up, or there are no descriptors left
            return None
        request = _read_request(asked)
        pid = self._fork() if request is not None and self._can_fork(request) else None
        if pid is None:
            _say(asked, CANNOT)
            _close(asked, request)
            return None
        if pid:
            self._workers[pid] = asked
            self._selector.register(asked, selectors.EVENT_READ, self._hung_up)
            _say(asked, str(pid))
            _close(None, request)
            return None
        os.setpgid(0, 0)  # Ray kills the group of a worker that has ended
        signal.set_wakeup_fd(-1)
        self._selector.close()
        for opened in (self._listener, self._woken, self._wakes, *self._workers.values()):
            opened.close()
        return None if request is None else replace(request, starter=asked)

    def _fork(self) -> int | None:
        try:
            return os.fork()
        except OSError as error:
            _log(f"A worker is not forked: {error}.")
            return None

    def _can_fork(self, request: Request) -> bool:
        try:
            if self._stamp() != self._imported_at:
                _log("A worker is not forked: code on disk has changed.")
                return False
            adopted = as_adopted(request.variables)
        except (OSError, ValueError):  # a file of the code, or the driver's, was removed just now
            return False
        if any(not part.startswith("/") for part in (adopted.get("PYTHONPATH") or "/").split(os.pathsep)):
            _log("A worker is not forked: its PYTHONPATH has a relative part, which says another folder here.")
            return False
        wanted = _of_imports(adopted)
        by_imports = _of_imports(os.environ)  # some libraries set variables as they are imported
        other = [name for name in {*wanted, *self._variables} if wanted.get(name) != self._variables.get(name)]
        if other := [name for name in other if wanted.get(name) != by_imports.get(name)]:
            _log(f"A worker is not forked: it has another value of {', '.join(sorted(other))}.")
        return not other

    def _hung_up(self, asked: socket.socket) -> None:
        """End a worker whose starter was ended."""
        for pid, connection in self._workers.items():
            if connection is asked:
                _kill(pid)
        self._forget(asked)

    def _forget(self, asked: socket.socket) -> None:
        with contextlib.suppress(KeyError, ValueError):  # it was told or hung up before
            self._selector.unregister(asked)

    def _report_ended(self, woken: socket.socket) -> None:
        woken.recv(1024)
        for pid in list(self._workers):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                asked = self._workers.pop(pid)
                self._forget(asked)
                _say(asked, str(os.waitstatus_to_exitcode(status)))
                asked.close()


def _log(line: str) -> None:
    with contextlib.suppress(OSError):  # the disk is full
        sys.stderr.write(f"{line}\n")


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _read_request(asked: socket.socket) -> Request | None:
    """Return a starter's request; None if it hung up."""
    asked.settimeout(5)
    streams: list[int] = []
    try:
        message = receive(asked, streams)
        return Request(**json.loads(message), streams=streams)
    except (OSError, ValueError, TypeError):
        for stream in streams:
            os.close(stream)
        return None


def _say(asked: socket.socket, line: str) -> None:
    with contextlib.suppress(OSError):
        asked.sendall(f"{line}\n".encode())


def _close(asked: socket.socket | None, request: Request | None) -> None:
    for stream in request.streams if request is not None else []:
        os.close(stream)
    if asked is not None:
        asked.close()


def _of_imports(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that libraries read while they are imported."""
    return {
        name: value
        for name, value in variables.items()
        if name not in _READ_LATER and (name.startswith(_READ_AT_IMPORT) or name in _ALSO_READ_AT_IMPORT)
    }


def code_stamp() -> tuple[tuple[str, int], ...]:
    """Return the times of this package's files and of the folders of installed packages."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    installed = map(Path, (*site.getsitepackages(), site.getusersitepackages()))
    folders = [folder for folder in installed if folder.is_dir()]
    return tuple((str(path), path.stat().st_mtime_ns) for path in (*files, *folders))


def run_worker(request: Request) -> NoReturn:
    """Become the worker that is wanted, in a fork, run it, and end this process.

    It ends as a fork of :mod:`multiprocessing` does: to free what the libraries hold would take 1.5 s.
    """
    status = 1
    try:
        _become(request)
        runpy.run_path(request.arguments[0], run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if status == 1 and isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
    except BaseException:  # noqa: BLE001 - the end of a process
        sys.excepthook(*sys.exc_info())
    finally:
        _end(status, request.starter)


def _end(status: int, starter: socket.socket | None) -> NoReturn:
    """End this process, and say its status to the starter, since the server may be gone."""
    ends = (
        threading._shutdown,  # type: ignore[attr-defined]  # noqa: SLF001 - joins threads, and ends executors
        atexit._run_exitfuncs,  # noqa: SLF001
        sys.stdout.flush,
        sys.stderr.flush,
    )
    try:
        for end in ends:
            try:
                end()
            except (Exception, KeyboardInterrupt):  # noqa: BLE001 - such as a full disk, for which Python has this status
                status = status or 120
        if starter is not None:
            _say(starter, str(status))
    finally:
        os._exit(status)


def _become(request: Request) -> None:
    for number, stream in enumerate(request.streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]  # it was opened on a log
    if MARK in request.variables:  # a worker of the server's Ray, which ends with it; commands go on
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.clear()
    os.environ.update(request.variables)
    os.umask(request.umask)
    os.chdir(request.folder)
    for kind, (soft, hard) in request.limits.items():
        with contextlib.suppress(OSError, ValueError):  # a hard limit of this process that is lower
            resource.setrlimit(int(kind), (soft, hard))
    with contextlib.suppress(OSError):  # none of the cores is this process's
        os.sched_setaffinity(0, request.cores)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, request.niceness)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, request.blocked)
    if "torch" in sys.modules:
        _set_threads(sys.modules["torch"].set_num_threads, request)
    sys.argv = request.arguments
    sys.path.insert(0, str(Path(request.arguments[0]).resolve().parent))


def _set_threads(set_num_threads: Callable[[int], object], request: Request) -> None:
    """Count PyTorch's threads as a new interpreter would: by the variable, and in a worker as Ray sets it."""
    is_worker = Path(request.arguments[0]).name == "default_worker.py"
    number = as_adopted(request.variables).get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if number.isdecimal() and int(number):
        set_num_threads(int(number))
    elif is_worker:
        set_num_threads(1)
    if is_worker:
        on_omp_threads(set_num_threads)


def main(arguments: Sequence[str]) -> None:
    """Serve forks, or be one.

    Args:
        arguments: the socket's path, and the modules' names with commas between them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = ForkServer(Path(arguments[0]), arguments[1].split(",")).serve()
    if request is not None:
        run_worker(request)


if __name__ == "__main__":
    main(sys.argv[1:])
