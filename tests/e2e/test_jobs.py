"""A verb as a Ray job, from a real terminal to a real cluster: followed, failed, left, stopped, cut off."""

import contextlib
import getpass
import json
import os
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest
from e2e_tools import BIN, ROOT

from llamafarm_ray.clusters.ports import free_port
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.access import Role
from llamafarm_ray.storage import Location

LLAMAFARM = str(BIN / "llamafarm")
FACTS = "The clinic opens at 08:30. The clinic closes at 17:00. The pharmacy opens at 09:00. The bell rings at 07:15.\n"


@pytest.fixture
def project(tmp_path):
    """A folder with documents, and a home that is no job's own folder."""
    folder = tmp_path / f"project-{secrets.token_hex(4)}"
    (folder / "docs").mkdir(parents=True)
    (folder / "docs" / "facts.txt").write_text(FACTS)
    return folder


@pytest.fixture
def create(ray_head, project):
    """The command line that builds a dataset as a job; more arguments can be added."""
    home = str(project.parent / "home")
    words = [LLAMAFARM, "models", "create-dataset", "--source", "docs", "--home", home, "--address", ray_head.dashboard]

    def command(*more):
        return [*words, *more]

    return command


class Jobs:
    """What the cluster says about its jobs."""

    def __init__(self, head):
        self._url = f"{head.dashboard}/api/jobs"
        self._headers = {"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"}

    def info(self, job):
        return httpx.get(f"{self._url}/{job}", headers=self._headers, timeout=60).json()

    def status(self, job):
        return self.info(job)["status"]

    def stop(self, job):
        httpx.post(f"{self._url}/{job}/stop", headers=self._headers, timeout=60).raise_for_status()

    def num(self):
        return len(httpx.get(f"{self._url}/", headers=self._headers, timeout=60).json())


@pytest.fixture
def jobs(ray_head):
    return Jobs(ray_head)


def run(head, project, command):
    return subprocess.run(
        command,
        cwd=project,
        env=head.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def job_in(text):
    return re.search(r"[\w.-]+-create-dataset-[0-9a-f]{8}", text)[0]


def test_the_output_is_followed_and_the_result_outlasts_the_job(ray_head, project, create, jobs):
    result = run(ray_head, project, create("--output", "made/qa"))
    assert result.returncode == 0, result.stdout + result.stderr
    job = job_in(result.stderr)
    below = f"llamafarm-jobs/{getpass.getuser()}/{project.name}"
    made = Path.home() / below
    try:
        assert f"Written to {made}/made/qa" in result.stdout
        assert json.loads((made / "made" / "qa" / "report.json").read_text())
    finally:
        shutil.rmtree(made, ignore_errors=True)
        for above in made.parents[:2]:
            with contextlib.suppress(OSError):  # others' files are in it
                above.rmdir()
    assert "with 1 file of this folder" in result.stderr
    assert f"records in {project.parent / 'home'}, files in ~/{below} on its head node" in result.stderr
    assert jobs.status(job) == "SUCCEEDED"
    assert not (project / "made").exists()


def test_the_verbs_exit_status_and_error_are_passed_on(ray_head, project, create):
    result = run(ray_head, project, create("--source", "missing", "--json"))
    assert result.returncode == 2
    assert json.loads(result.stderr)["error"]["code"] == "invalid_input"
    assert "missing" in result.stderr
    assert result.stdout == ""


def test_too_large_a_folder_is_refused_before_anything_is_sent(ray_head, project, create, jobs):
    with (project / "weights.bin").open("wb") as file:
        file.truncate(600 * 2**20)
    before = jobs.num()
    result = run(ray_head, project, create())
    assert result.returncode == 2
    assert "weights.bin (600 MiB)" in result.stderr
    assert jobs.num() == before


def test_a_wrong_token_is_refused_with_what_to_set(ray_head, project, create):
    command = ["env", f"RAY_AUTH_TOKEN={64 * '0'}", *create()]
    result = run(ray_head, project, command)
    assert result.returncode == 2
    assert "access_denied" in result.stderr
    assert "RAY_AUTH_TOKEN" in result.stderr


def test_a_jobs_registry_token_is_in_force_and_in_no_log_and_no_record(ray_head, project, create, jobs):
    home = project.parent / "home"
    root = RegistryService(Location(str(home)))
    token = root.add_principal("ann", {"*": Role.ADMIN})
    result = run(ray_head, project, ["env", f"LLAMAFARM_TOKEN={token}", *create("--output", str(project / "qa"))])
    assert result.returncode == 0, result.stdout + result.stderr
    changes = [change for commit in root.commits() for change in commit.changes]
    assert changes[-1].principal == "ann"
    job = job_in(result.stderr)
    assert token not in json.dumps(jobs.info(job))
    holding = [path for folder in (ray_head.folder, home) for path in files_with(folder, token)]
    assert holding == []
    assert files_with(ray_head.folder, job), "the logs are looked for elsewhere"


def files_with(folder, text):
    """The files below a folder that hold a text."""
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


class Terminal:
    """A process with a terminal of its own."""

    def __init__(self, command, **options):
        self._ours, theirs = os.openpty()
        self.shown = ""

        def log_in():
            os.login_tty(theirs)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs, these tests perhaps, ignore it

        self.process = subprocess.Popen(command, preexec_fn=log_in, **options)  # noqa: PLW1509
        os.close(theirs)

    def wait_for(self, text, timeout_s=120):
        deadline = time.monotonic() + timeout_s
        while text not in self.shown and time.monotonic() < deadline and self._read():
            pass
        assert text in self.shown, self.shown

    def type(self, text):
        os.write(self._ours, text.encode())

    def end(self, timeout_s=60):
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._read():
            pass
        return self.process.wait(timeout=5)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def _read(self):
        if not select.select([self._ours], [], [], 1)[0]:
            return True
        try:
            self.shown += os.read(self._ours, 65536).decode(errors="replace")
        except OSError:  # its process has ended
            return False
        return True


@pytest.fixture
def terminal(ray_head, project, create):
    made = Terminal(create("--output", str(project.parent / "qa")), cwd=project, env=ray_head.environment)
    made.wait_for("Running entrypoint")
    yield made
    made.close()


@pytest.mark.long
@pytest.mark.parametrize("answer", ["n\n", "\x03"], ids=["no", "Ctrl-C again"])
def test_ctrl_c_asks_and_leaves_the_job_alone(terminal, jobs, answer):
    terminal.type("\x03")
    terminal.wait_for("[y/N]")
    terminal.type(answer)
    assert terminal.end() == 130
    job = job_in(terminal.shown)
    assert f"The job {job} runs on." in terminal.shown
    assert "ray job stop --address" in terminal.shown
    assert jobs.status(job) == "RUNNING"
    jobs.stop(job)


def test_ctrl_c_and_yes_stops_the_job(terminal, jobs):
    terminal.type("\x03")
    terminal.wait_for("[y/N]")
    terminal.type("y\n")
    assert terminal.end() == 130
    job = job_in(terminal.shown)
    assert f"The job {job} is stopped." in terminal.shown
    assert jobs.status(job) == "STOPPED"


@pytest.mark.long
def test_sigterm_leaves_the_job_alone(terminal, jobs):
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.end() == 143
    job = job_in(terminal.shown)
    assert f"The job {job} runs on." in terminal.shown
    assert jobs.status(job) == "RUNNING"
    jobs.stop(job)


@pytest.mark.long
def test_a_job_can_be_left_at_once(ray_head, project, create, jobs):
    result = run(ray_head, project, create("--output", str(project.parent / "qa"), "--no-wait"))
    assert result.returncode == 0
    assert jobs.status(result.stdout.strip()) in {"PENDING", "RUNNING"}
    jobs.stop(result.stdout.strip())


class Wire:
    """A TCP connection to a server that can be cut and mended."""

    def __init__(self, port):
        self.port = free_port()
        self._to = ("127.0.0.1", port)
        self._sockets = []
        self.mend()

    def mend(self):
        listener = socket.create_server(("127.0.0.1", self.port))
        self._sockets = [listener]
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self):
        for one in self._sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
            finally:
                one.close()

    def _accept(self, listener):
        while True:
            try:
                here, _ = listener.accept()
            except OSError:
                return
            there = socket.create_connection(self._to)
            self._sockets += [here, there]
            for source, target in ((here, there), (there, here)):
                threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    def _copy(self, source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return


FOLLOW = """
import sys
from llamafarm_ray.errors import ClusterError
from llamafarm_ray.workflows.job_server import JobServer
from llamafarm_ray.workflows.running_job import RunningJob

server = JobServer(sys.argv[1])
job = server.client.submit_job(entrypoint="for n in $(seq 12); do echo line $n; sleep 1.4; done; exit 7")
print(job, flush=True)
tell = lambda line: print("TROUBLE", line, flush=True)
running = RunningJob(server, job, on_trouble=tell, patience_s=float(sys.argv[2]), silence_s=1)
for text in running.output():
    print(text, end="", flush=True)
sys.exit(running.exit_status())
"""


@pytest.fixture
def follower(ray_head):
    """A process that follows a job over a wire, printing what it gets.

    Its output is read line by line, so the rest of it too: ``communicate`` loses what a ``readline`` buffered.
    """
    wire = Wire(int(ray_head.dashboard.rpartition(":")[2]))
    started = []

    def start(patience_s):
        command = [str(BIN / "python"), "-c", FOLLOW, f"http://127.0.0.1:{wire.port}", str(patience_s)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = subprocess.Popen(command, cwd=ROOT, env=ray_head.environment, **pipes)
        started.append(process)
        lines = []
        while not lines or (lines[-1] != "line 3\n" and process.poll() is None):
            lines.append(process.stdout.readline())
        return process, lines

    yield start, wire
    wire.cut()
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_lost_connection_is_made_again_and_every_line_comes_once(follower):
    start, wire = follower
    process, lines = start(patience_s=60)
    wire.cut()
    time.sleep(3)
    wire.mend()
    lines += process.stdout.readlines()
    assert process.wait(timeout=90) == 7, lines
    assert [line for line in lines if line.startswith("line")] == [f"line {n}\n" for n in range(1, 13)]
    troubles = [line for line in lines if line.startswith("TROUBLE")]
    assert len(troubles) == 2
    assert "The connection is lost" in troubles[0]
    assert "there again" in troubles[1]


def test_a_connection_that_stays_away_is_given_up_and_the_job_is_left_alone(follower, jobs):
    start, wire = follower
    process, lines = start(patience_s=2)
    wire.cut()
    rest = process.stdout.read()
    assert process.wait(timeout=60) == 1
    assert "has not answered for 2 s" in rest
    assert "was left alone" in rest
    assert jobs.status(lines[0].strip()) in {"RUNNING", "FAILED"}  # it ends by itself, with exit status 7
