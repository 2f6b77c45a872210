"""A verb as a Ray job, from a real terminal to a real cluster: followed, failed, left, stopped, cut off."""

import contextlib
import dataclasses
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
from patience import patience

from llamafarm_ray.clusters.ports import free_port
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.storage import Location

LLAMAFARM = str(BIN / "llamafarm")
FACTS = "The clinic opens at 08:30. The clinic closes at 17:00. The pharmacy opens at 09:00. The bell rings at 07:15.\n"


def make_project(folder):
    """A folder with documents; its home lies beside it, and is no job's own folder."""
    made = folder / f"project-{secrets.token_hex(4)}"
    (made / "docs").mkdir(parents=True)
    (made / "docs" / "facts.txt").write_text(FACTS)
    return made


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path)


def create_dataset(head, project):
    """The command line that builds a dataset as a job."""
    home = str(project.parent / "home")
    return [LLAMAFARM, "models", "create-dataset", "--source", "docs", "--home", home, "--address", head.dashboard]


@pytest.fixture
def create(ray_head, project):
    """The same, to which more arguments can be added."""
    return lambda *more: [*create_dataset(ray_head, project), *more]


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


@dataclasses.dataclass
class Followed:
    """A job of a caller with a registry token, followed to its end."""

    project: Path
    token: str
    root: RegistryService
    result: subprocess.CompletedProcess
    job: str

    @property
    def below(self):
        """The folder of the project's files on the head node, below the user's own."""
        return f"llamafarm-jobs/{getpass.getuser()}/{self.project.name}"


@pytest.fixture(scope="module")
def followed(ray_head, tmp_path_factory):
    project = make_project(tmp_path_factory.mktemp("followed"))
    root = RegistryService(Location(str(project.parent / "home")))
    token = root.add_principal("ann", {"*": Role.ADMIN})
    command = ["env", f"LLAMAFARM_TOKEN={token}", *create_dataset(ray_head, project), "--output", "made/qa"]
    result = run(ray_head, project, command)
    assert result.returncode == 0, result.stdout + result.stderr
    found = Followed(project, token, root, result, job_in(result.stderr))
    yield found
    made = Path.home() / found.below
    shutil.rmtree(made, ignore_errors=True)
    for above in made.parents[:2]:
        with contextlib.suppress(OSError):  # others' files are in it
            above.rmdir()


def test_the_output_is_followed_and_the_result_outlasts_the_job(followed, jobs):
    made, home = Path.home() / followed.below, followed.project.parent / "home"
    assert f"Written to {made}/made/qa" in followed.result.stdout
    assert json.loads((made / "made" / "qa" / "report.json").read_text())
    assert "with 1 file of this folder" in followed.result.stderr
    assert f"records in {home}, files in ~/{followed.below} on its head node" in followed.result.stderr
    assert jobs.status(followed.job) == "SUCCEEDED"
    assert not (followed.project / "made").exists()


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


def test_a_jobs_registry_token_is_in_force_and_in_no_log_and_no_record(ray_head, followed, jobs):
    changes = [change for commit in followed.root.commits() for change in commit.changes]
    assert changes[-1].principal == "ann"
    assert followed.token not in json.dumps(jobs.info(followed.job))
    folders = (ray_head.folder, followed.project.parent / "home", Path.home() / followed.below)
    holding = [path for folder in folders for path in files_with(folder, followed.token)]
    assert holding == []
    assert files_with(ray_head.folder, followed.job), "the logs are looked for elsewhere"


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

    def wait_for(self, text, timeout_s=60):
        deadline = time.monotonic() + patience(timeout_s)
        while text not in self.shown and time.monotonic() < deadline and self._read():
            pass
        assert text in self.shown, self.shown

    def type(self, text):
        os.write(self._ours, text.encode())

    def end(self, timeout_s=30):
        deadline = time.monotonic() + patience(timeout_s)
        while time.monotonic() < deadline and self._read():
            pass
        return self.process.wait(timeout=patience(5))

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
from llamafarm_ray.workflows.jobs import running
from llamafarm_ray.workflows.jobs.server import JobServer

running._PATIENCE_S, running._SILENCE_S = float(sys.argv[2]), 1.0
server = JobServer(sys.argv[1])
job = server.client.submit_job(entrypoint=sys.argv[3])
print(job, flush=True)
tell = lambda line: print("TROUBLE", line, flush=True)
followed = running.RunningJob(server, job, on_trouble=tell)
for text in followed.output():
    print(text, end="", flush=True)
sys.exit(followed.exit_status())
"""


class Follower:
    """A process that follows a job over a wire, printing what it gets. The job waits after its third and sixth line.

    Its output is read line by line, so the rest of it too: ``communicate`` loses what a ``readline`` buffered.
    """

    def __init__(self, head, folder, patience_s):
        self.wire = Wire(int(head.dashboard.rpartition(":")[2]))
        self._folder = folder
        waits = f"while [ ! -e {folder}/after-$n ]; do sleep 0.05; done"
        entrypoint = f"for n in $(seq 12); do echo line $n; case $n in 3|6) {waits};; esac; done; exit 7"
        command = [str(BIN / "python"), "-c", FOLLOW, f"http://127.0.0.1:{self.wire.port}", str(patience_s), entrypoint]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, env=head.environment, **pipes)
        self.lines = []

    def read_until(self, start):
        """Read lines up to the first one that begins so."""
        while not self.lines or (not self.lines[-1].startswith(start) and self.process.poll() is None):
            self.lines.append(self.process.stdout.readline())
        assert self.lines[-1].startswith(start), "".join(self.lines)

    def go_on(self, after):
        """Let the job print what comes after a line."""
        (self._folder / f"after-{after}").touch()

    def end(self):
        """Read the rest and return the exit status."""
        self.lines += self.process.stdout.readlines()
        return self.process.wait(timeout=patience(45))

    def close(self):
        self.wire.cut()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        for after in (3, 6):
            self.go_on(after)


@pytest.fixture
def follow(ray_head, tmp_path):
    with contextlib.ExitStack() as stack:

        def started(patience_s):
            follower = Follower(ray_head, tmp_path, patience_s)
            stack.callback(follower.close)
            follower.read_until("line 3")
            return follower

        yield started


def test_a_lost_connection_is_made_again_and_every_line_comes_once(follow):
    """What the job prints before the connection is lost, meanwhile and after it is made again."""
    follower = follow(patience_s=60)
    follower.wire.cut()
    follower.read_until("TROUBLE")
    follower.go_on(after=3)
    follower.wire.mend()
    follower.read_until("line 6")
    follower.go_on(after=6)
    assert follower.end() == 7, "".join(follower.lines)
    assert [line for line in follower.lines if line.startswith("line")] == [f"line {n}\n" for n in range(1, 13)]
    troubles = [line for line in follower.lines if line.startswith("TROUBLE")]
    assert len(troubles) == 2
    assert "The connection is lost" in troubles[0]
    assert "there again" in troubles[1]


def test_a_connection_that_stays_away_is_given_up_and_the_job_is_left_alone(follow, jobs):
    follower = follow(patience_s=2)
    follower.wire.cut()
    assert follower.end() == 1
    rest = "".join(follower.lines)
    assert "has not answered for 2 s" in rest
    assert "was left alone" in rest
    assert jobs.status(follower.lines[0].strip()) == "RUNNING"
