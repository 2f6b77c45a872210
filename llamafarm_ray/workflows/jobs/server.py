"""A verb as a Ray job: sent to a cluster's job server with the working directory, followed to its end, or stopped."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamafarm_ray.clusters.check import refuse_open_dashboard
from llamafarm_ray.clusters.facts import dashboard_of
from llamafarm_ray.clusters.job_token import sealed
from llamafarm_ray.config import Config
from llamafarm_ray.errors import AccessDeniedError, ClusterError, InputError
from llamafarm_ray.registry.identity import Identity
from llamafarm_ray.serving.ray_serve.token import read_token
from llamafarm_ray.workflows.clusters.cluster import inside_job, is_job_server
from llamafarm_ray.workflows.clusters.time_limit import within
from llamafarm_ray.workflows.jobs.package import WorkingDirectory
from llamafarm_ray.workflows.jobs.request import CONFIG, JobRequest, command_of, folder_of, table_of
from llamafarm_ray.workflows.jobs.returned import RETURN_VARIABLE

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

__all__ = ["REQUEST_S", "JobServer", "SubmittedJob", "job_server_of"]

REQUEST_S = 20.0
"""Timeout in seconds of a call to the job server."""
_SUBMIT_S = 600.0


def job_server_of(config: Config) -> str | None:
    """The job server that the configuration (or ``$RAY_ADDRESS``) names, if it names one and this is no job yet."""
    address = config.cluster.address or os.environ.get("RAY_ADDRESS")
    return address.rstrip("/") if address and is_job_server(address) and not inside_job() else None


@dataclass(frozen=True, slots=True)
class SubmittedJob:
    """A job that a cluster took.

    Attributes:
        job_id: by which Ray's tools know it.
        num_files: of the working directory, that it took along.
        home: the registry's home; empty if it is the cluster's own.
        folder: folder of the job's relative outputs, on the node that runs it; empty if there are none. It is the same
            for every job of this user and working directory, so that an interrupted run continues.
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
        AccessDeniedError: it asks for another token, or strangers for none.
        ClusterError: it answers, but can't be used.
    """

    def __init__(self, address: str) -> None:
        from ray.job_submission import JobSubmissionClient  # only when a job is submitted

        for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.address = address
        refuse_open_dashboard(address)
        with _without_other_addresses():
            try:
                self.client: JobSubmissionClient = within(REQUEST_S, lambda: JobSubmissionClient(address))
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
            job_id: its id, see :meth:`JobRequest.new_id`.

        Raises:
            InputError: something it reads would not be there, or the working directory is too large.
            AccessDeniedError: the job server asks for another token.
            ClusterError: it does not take the job.
        """
        directory = WorkingDirectory.current()
        command = command_of(request, directory)
        table = table_of(request, directory)
        with tempfile.TemporaryDirectory(prefix="lf-job-") as folder:
            package = Path(folder, "working_dir.zip")
            num_files = directory.pack(package, {CONFIG: json.dumps(table, indent=2).encode()})

            def send() -> None:
                self.client.submit_job(
                    entrypoint=command,
                    submission_id=job_id,
                    runtime_env={"working_dir": str(package), **self._environment(returns_files=request.returns_files)},
                    metadata={"llamafarm": request.verb},
                )

            try:
                within(_SUBMIT_S, send)
            except _failures() as error:
                raise self._explained(error, f"The job server {self.address} did not take the job") from None
        writes = any(path is not None and not path.is_absolute() for path in request.outputs.values())
        folder = f"~/{folder_of(directory)}" if writes else ""
        return SubmittedJob(job_id, self.address, num_files, table.get("home") or "", folder)

    def details(self, job_id: str) -> JobDetails:
        """Return the cluster's details of a job.

        Raises:
            TimeoutError: no answer came, or none that is one; asking again can help.
            ClusterError: it knows no such job.
            AccessDeniedError: it asks for another token.
        """
        try:
            return within(REQUEST_S, lambda: self.client.get_job_info(job_id))
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
            within(REQUEST_S, lambda: self.client.stop_job(job_id))
        except _failures() as error:
            raise self._explained(error, f"The job {job_id} could not be stopped") from None

    def _environment(self, *, returns_files: bool = False) -> dict[str, Any]:
        """Return the caller's identity as a ``runtime_env``, for the registry's audit and its access rules.

        Raises:
            AccessDeniedError: the token would be sent to a job server that does not ask for one.
        """
        who = Identity.from_environment()
        made: dict[str, Any] = {"env_vars": {"LLAMAFARM_PRINCIPAL": who.user}}
        if returns_files:
            made["env_vars"][RETURN_VARIABLE] = "1"
        if who.token is None:
            return made
        if dashboard_of(self.address).is_open:
            raise AccessDeniedError(
                f"LLAMAFARM_TOKEN is set, and {self.address} shows jobs and their variables to everybody.",
                hint="Start the cluster with RAY_AUTH_MODE=token, or unset LLAMAFARM_TOKEN.",
            )
        found = sealed(who.token, read_token())
        return {**found, "env_vars": {**found["env_vars"], **made["env_vars"]}}

    def _explained(self, error: Exception, what: str) -> AccessDeniedError | ClusterError:
        """An error of Ray's client as one of ours."""
        from ray.exceptions import AuthenticationError  # it is there by now

        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = (lines[0] if lines else type(error).__name__)[:300].rstrip(".")
        if isinstance(error, AuthenticationError):
            return AccessDeniedError(
                f"{self.address} asks for its token: {said}.",
                hint="Set RAY_AUTH_MODE=token, and the cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token.",
            )
        return ClusterError(f"{what}: {said}.", hint="Is it the dashboard of a running Ray 2.x cluster?")


@contextmanager
def _without_other_addresses() -> Iterator[None]:
    """Ray's job client prefers these variables to the address that it is given."""
    kept = {name: os.environ.pop(name, None) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in kept.items() if value is not None})


def _failures() -> tuple[type[Exception], ...]:
    """Return the errors of Ray's job client for its own and the server's mistakes."""
    from ray.exceptions import RayError  # it is there by now

    return RayError, OSError, RuntimeError, ValueError, TypeError, KeyError
