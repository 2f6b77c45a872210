"""Send a verb as a Ray job, follow its output, pass on Ctrl-C, and return its exit status."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llamafarm_ray.cli.terminal import begin, errors, print_json
from llamafarm_ray.errors import ClusterError, InputError

if TYPE_CHECKING:
    from llamafarm_ray.config import Config
    from llamafarm_ray.workflows.jobs.running import RunningJob
    from llamafarm_ray.workflows.jobs.server import JobServer, SubmittedJob

__all__ = ["ran_as_job"]

_INTERRUPTED = 128 + signal.SIGINT
_TERMINATED = 128 + signal.SIGTERM


def ran_as_job(
    verb: str,
    config: Config,
    *,
    inputs: Mapping[str, str | None] | None = None,
    outputs: Mapping[str, Path | None] | None = None,
    flags: Mapping[str, bool] | None = None,
    no_wait: bool = False,
    as_json: bool = False,
    returns_files: bool = False,
) -> bool:
    """Run a verb as a job if ``--address`` (or ``$RAY_ADDRESS``) is a job server's; otherwise do nothing.

    Args:
        inputs: options that name inputs, with their values.
        outputs: options that name outputs.
        flags: its options without a value, and whether they were given.
        no_wait: leave once the job is submitted.
        as_json: print what the job prints for programs, and nothing else, on standard output.
        returns_files: write relative outputs here too, once the job has sent them.

    Returns:
        True if it ran there; False if the verb has to run here.

    Raises:
        InputError: the job would read files that are not sent along, or nothing answers at the address.
        AccessDeniedError: the cluster asks for its token.
        ClusterError: the cluster refuses the job, loses it, or can't be reached any more.
        typer.Exit: the job ended with an exit status, which is passed on, or was left.
    """
    from llamafarm_ray.workflows.jobs.request import JobRequest
    from llamafarm_ray.workflows.jobs.server import JobServer, job_server_of

    address = job_server_of(config)
    if address is None:
        if no_wait:
            raise InputError("--no-wait is for jobs.", hint="Give a job server with --address http://HOST:8265.")
        return False
    given = [flag for flag, is_given in (flags or {}).items() if is_given]
    comes_back = returns_files and not no_wait
    flags_there = tuple([*given, "--json"] if as_json else given)
    request = JobRequest(verb, config, inputs or {}, outputs or {}, flags_there, comes_back)
    places = {option: path for option, path in request.outputs.items() if path is not None and not path.is_absolute()}
    begin(f"Sending a job to {address}", quiet=as_json)
    server = JobServer(address)
    job_id = request.new_id()
    try:
        job = server.submit(request, job_id)
    except KeyboardInterrupt:
        _give_up_sending(server, job_id)
        raise
    if no_wait:
        _show_submitted(job, as_json=as_json)
        return True
    _Followed(server, job, places if comes_back else {}, as_json=as_json).follow()
    return True


def _give_up_sending(server: JobServer, job_id: str) -> None:
    """Say so if a job that was being sent has arrived nevertheless."""
    try:
        server.details(job_id)
    except (ClusterError, TimeoutError):
        return
    errors.line(_how_to_go_on(server.address, job_id))


def _show_submitted(job: SubmittedJob, *, as_json: bool) -> None:
    if as_json:
        print_json({"job": job.job_id, "address": job.server, "folder": job.folder or None, "home": job.home or None})
        return
    typer.echo(job.job_id)
    errors.line(_how_to_go_on(job.server, job.job_id))


def _how_to_go_on(address: str, job_id: str) -> str:
    where = f"--address {address} {job_id}"
    return f"The job {job_id} runs on.\n  Follow it: ray job logs --follow {where}\n  Stop it:   ray job stop {where}"


class _Followed:
    """A job that was submitted, followed to its end or left."""

    def __init__(self, server: JobServer, job: SubmittedJob, places: Mapping[str, Path], *, as_json: bool) -> None:
        from llamafarm_ray.workflows.jobs.returned import ReturnedFiles
        from llamafarm_ray.workflows.jobs.running import RunningJob

        self._job = job
        self._as_json = as_json
        self._running: RunningJob = RunningJob(server, job.job_id, on_trouble=errors.line)
        self._files = ReturnedFiles(places)
        self._printed: list[str] = []
        self._since = time.monotonic()

    def follow(self) -> None:
        """Print its output until it ends; on Ctrl-C ask what shall become of it.

        Raises:
            ClusterError: it was stopped by somebody else, never ran, or can't be reached any more.
            typer.Exit: it failed, or was left.
        """
        from llamafarm_ray.workflows.clusters.cluster import ended_by_signals

        job = self._job
        if not self._as_json:
            files = f"{job.num_files:,} file{'s' if job.num_files != 1 else ''}"
            errors.line(f"Job {job.job_id} at {job.server}, with {files} of this folder. Ctrl-C asks what to do.")
        with ended_by_signals():
            try:
                self._print_output()
            except SystemExit:
                self._leave(_TERMINATED)
            except KeyboardInterrupt:
                self._interrupted()
        self._finish(self._running.exit_status())

    def _print_output(self) -> None:
        for text in self._running.output():
            self._print(self._files.visible(text))
        self._print(self._files.rest())

    def _print(self, text: str) -> None:
        if self._as_json:
            self._printed.append(text)
        else:
            sys.stdout.write(text)
            sys.stdout.flush()

    def _interrupted(self) -> None:
        """Ask, stop the job on a yes, and leave."""
        try:
            if not _asked(f"\nStop the job {self._job.job_id}? [y/N] "):
                self._leave(_INTERRUPTED)
            self._running.stop()
            self._print_output()
        except KeyboardInterrupt:
            errors.line("")
            self._leave(_INTERRUPTED)
        except SystemExit:
            self._leave(_TERMINATED)
        if self._running.was_stopped:
            errors.line(f"The job {self._job.job_id} is stopped.")
            raise typer.Exit(_INTERRUPTED)

    def _leave(self, status: int) -> None:
        errors.line(_how_to_go_on(self._job.server, self._job.job_id))
        raise typer.Exit(status)

    def _finish(self, status: int) -> None:
        """Say how it ended and where its results are, and pass its exit status on."""
        job = self._job
        if self._as_json:
            _pass_on("".join(self._printed))
        if status:
            if not self._as_json:
                errors.line(f"Job {job.job_id} failed on the cluster with exit status {status}; see above.")
            raise typer.Exit(status)
        if not self._as_json:
            for path in self._files.written:
                errors.line(f"Written to {path} here.")
            home = job.home or "the cluster's home ($LLAMAFARM_HOME there, or ~/.llamafarm)"
            files = f", files in {job.folder} on its head node" if job.folder else ""
            seconds = time.monotonic() - self._since
            errors.line(f"Job {job.job_id} is done after {seconds:,.0f} s. On the cluster: records in {home}{files}.")


def _pass_on(printed: str) -> None:
    """Print a job's output as its verb does: the result on standard output, and the rest, or its error, beside it."""
    failed = [line for line in printed.splitlines() if line.startswith('{"error": {')]
    if failed:
        sys.stderr.write(f"{failed[-1]}\n")
        return
    start, end = _document(printed)
    sys.stdout.write(printed[start:end])
    sys.stderr.write(printed[:start] + printed[end:])


def _document(printed: str) -> tuple[int, int]:
    """Return start and end of the last JSON object that begins on a line of its own; (0, 0) if there is none."""
    start = printed.rfind("\n{\n")
    while start >= 0:
        try:
            _, end = json.JSONDecoder().raw_decode(printed, start + 1)
        except ValueError:
            start = printed.rfind("\n{\n", 0, start)
            continue
        return start + 1, end + 1
    return 0, 0


def _asked(question: str) -> bool:
    """Return True if a person says yes, False without a person."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
