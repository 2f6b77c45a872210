"""A verb as a Ray job: sent to a cluster's job server with the working directory, followed to its end, or stopped."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import re
import secrets
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llamafarm_ray.config import Config, resolved
from llamafarm_ray.errors import AccessDeniedError, ClusterError, InputError
from llamafarm_ray.registry.identity import Identity
from llamafarm_ray.workflows.cluster import inside_job, is_job_server
from llamafarm_ray.workflows.job_package import OUTPUTS, WorkingDirectory

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

__all__ = ["JobRequest", "JobServer", "RunningJob", "SubmittedJob", "job_server_of"]

_T = TypeVar("_T")


_CONFIG = "llamafarm-job.json"
_REQUEST_S = 20.0
_SUBMIT_S = 600.0
_SILENCE_S = 3.0
_PATIENCE_S = 300.0
_BETWEEN_TRIES_S = 2.0
_INPUTS: Mapping[str, tuple[str, ...]] = {
    "create-dataset": ("dataset.source.path",),
    "deploy": ("base_model", "deployment.adapters"),
    "evaluate": ("base_model", "dataset.path", "evaluation.test_set"),
}
_TRAINING_INPUTS = ("base_model", "dataset.path", "dataset.mixture", "dataset.source.path", "evaluation.test_set")
_LASTING = ("home", "fine_tuning.training.checkpoint_location")


def job_server_of(config: Config) -> str | None:
    """The job server that the configuration (or ``$RAY_ADDRESS``) names, if it names one and this is no job yet."""
    address = config.cluster.address or os.environ.get("RAY_ADDRESS")
    return address.rstrip("/") if address and is_job_server(address) and not inside_job() else None


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A verb with all that it was told.

    Attributes:
        verb: ``train``, ``create-dataset``, ...
        config: the resolved configuration.
        inputs: options that name a file, a folder or something else to read, with their values.
        outputs: options that name what is written, with its paths.
        flags: options without a value.
    """

    verb: str
    config: Config
    inputs: Mapping[str, str | None] = field(default_factory=dict)
    outputs: Mapping[str, Path | None] = field(default_factory=dict)
    flags: tuple[str, ...] = ()

    def new_id(self) -> str:
        """A name for a job of this request that no other job has, such as ``support-bot-train-3f2a9c01``."""
        return f"{self.config.name[:60]}-{self.verb}-{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class SubmittedJob:
    """A job that a cluster took.

    Attributes:
        job_id: by which Ray's tools know it.
        server: URL of the job server.
        num_files: of the working directory, that it took along.
        home: the registry's home; empty if it is the cluster's own.
        folder: where the job writes what has a relative path, on the node that runs it; empty if nothing has. It is the
            same for every job of this user and working directory, so that a run that was cut short goes on.
    """

    job_id: str
    server: str
    num_files: int
    home: str
    folder: str


class JobServer:
    """The job server of a cluster, which is part of its dashboard.

    Args:
        address: ``http://host:8265`` or ``https://...``.

    Raises:
        InputError: nothing answers there, or something else than Ray does.
        AccessDeniedError: it asks for another token.
        ClusterError: it answers, but can't be used.
    """

    def __init__(self, address: str) -> None:
        from ray.job_submission import JobSubmissionClient  # noqa: PLC0415  (only when a job is submitted)

        for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.address = address
        with _without_other_addresses():
            try:
                self.client: JobSubmissionClient = _within(_REQUEST_S, lambda: JobSubmissionClient(address))
            except (ConnectionError, TimeoutError):
                raise InputError(
                    f"Nothing answers at the job server's address {address}.",
                    hint="It is the dashboard's, port 8265 by default; start a cluster with `ray start --head`.",
                ) from None
            except _failures() as error:
                if "404" in str(error):
                    raise InputError(
                        f"What answers at {address} is no Ray job server.",
                        hint="Its address is the dashboard's, port 8265 by default.",
                    ) from None
                raise self._explained(error, f"{address} can't be used as a Ray job server") from None

    def submit(self, request: JobRequest, job_id: str) -> SubmittedJob:
        """Send a job with the working directory.

        Args:
            request: what it shall do.
            job_id: what it shall be called, see :meth:`JobRequest.new_id`.

        Raises:
            InputError: something it reads would not be there, or the working directory is too large.
            AccessDeniedError: the job server asks for another token.
            ClusterError: it does not take the job.
        """
        directory = WorkingDirectory.current()
        command = _command(request, directory)
        table = _table(request, directory)
        with tempfile.TemporaryDirectory(prefix="lf-job-") as folder:
            package = Path(folder, "working_dir.zip")
            num_files = directory.pack(package, {_CONFIG: json.dumps(table, indent=2).encode()})

            def send() -> None:
                self.client.submit_job(
                    entrypoint=command,
                    submission_id=job_id,
                    runtime_env={"working_dir": str(package), "env_vars": _environment()},
                    metadata={"llamafarm": request.verb},
                )

            try:
                _within(_SUBMIT_S, send)
            except _failures() as error:
                raise self._explained(error, f"The job server {self.address} did not take the job") from None
        writes = any(path is not None and not path.is_absolute() for path in request.outputs.values())
        folder = f"~/{_folder(directory)}" if writes else ""
        return SubmittedJob(job_id, self.address, num_files, table.get("home") or "", folder)

    def details(self, job_id: str) -> JobDetails:
        """What the cluster knows about a job.

        Raises:
            TimeoutError: no answer came, or none that is one; asking again can help.
            ClusterError: it knows no such job.
            AccessDeniedError: it asks for another token.
        """
        try:
            return _within(_REQUEST_S, lambda: self.client.get_job_info(job_id))
        except _failures() as error:
            if "status code 404" in str(error):
                raise ClusterError(
                    f"The cluster at {self.address} does not know the job {job_id} (any more).",
                    hint="Was its head node restarted? Then submit the job again.",
                ) from None
            explained = self._explained(error, f"{self.address} does not answer")
            if isinstance(explained, AccessDeniedError):
                raise explained from None
            raise TimeoutError(explained.message) from None

    def stop(self, job_id: str) -> None:
        """Ask for a job's end: SIGTERM for its processes, SIGKILL three seconds later.

        Raises:
            ClusterError: the request can't be made.
        """
        try:
            _within(_REQUEST_S, lambda: self.client.stop_job(job_id))
        except _failures() as error:
            raise self._explained(error, f"The job {job_id} could not be stopped") from None

    def _explained(self, error: Exception, what: str) -> AccessDeniedError | ClusterError:
        """An error of Ray's client as one of ours."""
        from ray.exceptions import AuthenticationError  # noqa: PLC0415  (it is there by now)

        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = (lines[0] if lines else type(error).__name__)[:300].rstrip(".")
        if isinstance(error, AuthenticationError):
            return AccessDeniedError(
                f"{self.address} asks for its token: {said}.",
                hint="Set RAY_AUTH_MODE=token, and the cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token.",
            )
        return ClusterError(f"{what}: {said}.", hint="Is it the dashboard of a running Ray 2.x cluster?")


class RunningJob:
    """A job that is followed.

    Args:
        server: where it runs.
        job_id: which.
        on_trouble: called with a line about a connection that is lost, or there again.
        patience_s: seconds to wait for a lost connection.
        silence_s: seconds without output after which the job server is asked how the job is.
    """

    def __init__(
        self,
        server: JobServer,
        job_id: str,
        *,
        on_trouble: Callable[[str], None] = lambda _: None,
        patience_s: float = _PATIENCE_S,
        silence_s: float = _SILENCE_S,
    ) -> None:
        self.job_id = job_id
        self._server = server
        self._on_trouble = on_trouble
        self._patience_s = patience_s
        self._silence_s = silence_s
        self._num_read = 0
        self._details: JobDetails | None = None

    def output(self) -> Iterator[str]:
        """What the job prints, from where the last call ended, as it prints it, until the job ends.

        A lost connection is made again; the job does not notice.

        Raises:
            ClusterError: the connection is lost for good, or the cluster forgot the job.
        """
        while True:
            ended_well = yield from self._tail()
            details, _ = self._ask()
            if details.status.is_terminal():
                if not ended_well:
                    yield self._unread()
                self._details = details
                return
            time.sleep(self._silence_s / 10)

    def exit_status(self) -> int:
        """How a job that ended, did: its process's exit status, 128 and the signal's number if one ended it.

        Raises:
            ClusterError: it never ran, or was stopped.
        """
        assert self._details is not None, "output() says when it ended"  # noqa: S101
        if self.was_stopped:
            raise ClusterError(f"The job {self.job_id} was stopped.", hint="Submit it again to start it anew.")
        code = self._details.driver_exit_code
        if code is None and self._details.status != "SUCCEEDED":
            why = (self._details.message or "no reason is known").strip().splitlines()[-1]
            raise ClusterError(f"The job {self.job_id} did not run: {why[:500]}", hint="Its cluster may say more.")
        code = code or 0
        return code if code >= 0 else 128 - code

    @property
    def was_stopped(self) -> bool:
        """Whether it ended because somebody stopped it."""
        return self._details is not None and self._details.status == "STOPPED"

    def stop(self) -> None:
        """Ask for its end; ``output`` goes on until it has ended.

        Raises:
            ClusterError: the request can't be made.
        """
        self._server.stop(self.job_id)

    def _tail(self) -> Generator[str, None, bool]:
        """Yield new output until it ends or stays away; return whether the job server ended it."""
        arriving: queue.SimpleQueue[str | bool] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(arriving,), daemon=True).start()
        position = 0
        while True:
            try:
                piece = arriving.get(timeout=self._silence_s)
            except queue.Empty:
                details, lost = self._ask()
                if lost or details.status.is_terminal():
                    return False
                continue
            if isinstance(piece, bool):
                return piece
            position += len(piece)
            if position > self._num_read:
                fresh = piece[-(position - self._num_read) :]
                self._num_read = position
                yield fresh

    def _read(self, arriving: queue.SimpleQueue[str | bool]) -> None:
        """Put a job's output, from its first character, into a queue, and then whether it came to its end."""
        import aiohttp  # noqa: PLC0415  (part of Ray's job client)

        async def read() -> None:
            async for text in self._server.client.tail_job_logs(self.job_id):
                arriving.put(text)

        try:
            asyncio.run(read())
            arriving.put(True)
        except (OSError, RuntimeError, aiohttp.ClientError):
            arriving.put(False)

    def _unread(self) -> str:
        """The output that did not arrive as it was printed."""
        try:
            whole: str = _within(_REQUEST_S, lambda: self._server.client.get_job_logs(self.job_id))
        except (OSError, RuntimeError):
            self._on_trouble(f"The end of its output did not arrive. It is in: ray job logs {self.job_id}")
            return ""
        fresh, self._num_read = whole[self._num_read :], max(self._num_read, len(whole))
        return fresh

    def _ask(self) -> tuple[JobDetails, bool]:
        """How the job is, and whether the connection was lost before that could be asked."""
        lost_at: float | None = None
        while True:
            try:
                details = self._server.details(self.job_id)
            except TimeoutError as error:
                if lost_at is None:
                    lost_at = time.monotonic()
                    self._on_trouble(f"The connection is lost ({error}) Trying again; the job does not notice.")
                if time.monotonic() - lost_at > self._patience_s:
                    raise ClusterError(
                        f"{self._server.address} has not answered for {self._patience_s:.0f} s. "
                        f"The job {self.job_id} was left alone.",
                        hint=f"Follow it: ray job logs --follow --address {self._server.address} {self.job_id}",
                    ) from None
                time.sleep(min(_BETWEEN_TRIES_S, self._patience_s / 5))
                continue
            if lost_at is not None:
                self._on_trouble("The connection is there again.")
            return details, lost_at is not None


def _folder(directory: WorkingDirectory) -> str:
    """Where relative outputs go, below the home directory there."""
    parts = (Identity.from_environment().user, directory.folder.name)
    return "/".join((OUTPUTS, *(re.sub(r"[^\w.-]+", "-", part).strip(".") or "-" for part in parts)))


def _command(request: JobRequest, directory: WorkingDirectory) -> str:
    """The shell command of the job: the verb again, with paths as they are there."""
    words = ["python", "-m", "llamafarm_ray", "models", request.verb, "--config", _CONFIG, *request.flags]
    for option, value in request.inputs.items():
        if value is not None:
            words += [option, directory.take(option, value)]
    command = shlex.join(words)
    for option, path in request.outputs.items():
        if path is None:
            continue
        name = os.path.normpath(path)
        if name == os.pardir or name.startswith(f"{os.pardir}{os.sep}"):
            raise InputError(
                f"{option}: {str(path)!r} leads out of the working directory.",
                hint="Write a path inside of it, or an absolute one of the cluster.",
            )
        place = shlex.quote(name) if path.is_absolute() else f'"$HOME"/{shlex.quote(f"{_folder(directory)}/{name}")}'
        command += f" {option} {place}"
    return command


def _table(request: JobRequest, directory: WorkingDirectory) -> dict[str, Any]:
    """The configuration as the job reads it."""
    table = resolved(request.config)
    table["cluster"]["address"] = None
    if request.verb == "create-dataset":
        table["dataset"]["path"] = None  # what it writes, which is an option there
    dataset = request.config.dataset
    for key in _INPUTS.get(request.verb, _TRAINING_INPUTS):
        if key == "dataset.source.path" and request.verb != "create-dataset" and (dataset.path or dataset.mixture):
            continue  # it won't be read
        section, name = _place(table, key)
        match section.get(name):
            case str(text):
                section[name] = directory.take(key, text)
            case [*texts]:
                section[name] = [directory.take(key, text) for text in texts]
            case dict(weights):
                section[name] = {directory.take(key, text): weight for text, weight in weights.items()}
            case _:
                pass
    for key in _LASTING:
        section, name = _place(table, key)
        folder = section.get(name)
        if isinstance(folder, str) and "://" not in folder and not folder.startswith(("/", "~")):
            raise InputError(
                f"{key}: {folder!r} would be in the job's own folder, which goes with the job.",
                hint="Name a bucket (s3://...), or an absolute folder of the cluster.",
            )
    home = os.environ.get("LLAMAFARM_HOME")
    if table.get("home") is None and home and "://" in home:  # a folder of this machine says nothing about the cluster
        table["home"] = home
    return table


def _place(table: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The mapping that holds a dotted key, and the key's last name."""
    *above, name = key.split(".")
    section: Any = table
    for part in above:
        section = section.get(part) or {}
    return section, name


def _environment() -> dict[str, str]:
    """Who asks, for the registry's audit and its access rules."""
    who = Identity.from_environment()
    return {"LLAMAFARM_PRINCIPAL": who.user, **({"LLAMAFARM_TOKEN": who.token} if who.token else {})}


@contextmanager
def _without_other_addresses() -> Iterator[None]:
    """Ray's job client prefers these variables to the address that it is given."""
    kept = {name: os.environ.pop(name, None) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in kept.items() if value is not None})


def _failures() -> tuple[type[Exception], ...]:
    """What Ray's job client raises for its own and the server's mistakes."""
    from ray.exceptions import RayError  # noqa: PLC0415  (it is there by now)

    return RayError, OSError, RuntimeError, ValueError, TypeError, KeyError


def _within(seconds: float, call: Callable[[], _T]) -> _T:
    """The result of a call that must come soon: Ray's job client waits for ever.

    Raises:
        TimeoutError: it did not.
    """
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001  (raised again where it is waited for)
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(timeout=seconds)
    except TimeoutError:
        raise TimeoutError(f"no answer within {seconds:.0f} s") from None
