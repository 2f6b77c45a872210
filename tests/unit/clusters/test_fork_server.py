import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from llamafarm_ray.clusters import fork_server, forked_worker
from llamafarm_ray.clusters.forked_worker import SOCKET_VARIABLE, script_and_variables

TELLS = """
import json, os, signal, sys
told = {
    "parent": os.getppid(), "group": os.getpgid(0) == os.getpid(), "imported": "calendar" in sys.modules,
    "arguments": sys.argv[1:], "given": os.environ.get("GIVEN"), "left": os.environ.get("LEFT"), "folder": os.getcwd(),
    "blocked": signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, []), "main": __name__,
}
print(json.dumps(told), flush=True)
print("on the other", file=sys.stderr)
sys.exit(7)
"""
WAITS = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n"


@pytest.fixture
def server(tmp_path):
    """A fork server that has imported `calendar`, and its socket."""
    path = tmp_path / "s"
    command = [sys.executable, "-m", fork_server.__name__, str(path), "no_such_module,calendar"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "LEFT": "x"}
    ) as one:
        assert b"no_such_module" in one.stderr.readline()
        yield one, path
        one.stdin.close()
        assert one.wait(60) == 0, "it ends with its standard input"


def start(script, path, *arguments, blocked=(), **variables):
    """Start a worker as Ray does; returns its starter."""
    context = json.dumps({"env_vars": {"GIVEN": "${NO_SUCH}as is"}, "py_executable": sys.executable, "java_jars": []})
    words = [str(script), *arguments, "--language=PYTHON", f"--serialized-runtime-env-context={context}"]
    kept = {name: value for name, value in os.environ.items() if name != "LEFT"}
    return subprocess.Popen(
        [sys.executable, forked_worker.__file__, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=script.parent,
        env={**kept, SOCKET_VARIABLE: str(path), **variables},
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, blocked),  # noqa: PLW1509 - one thread
    )


def told(script, path, *arguments, **options):
    output, errors = start(script, path, *arguments, **options).communicate(timeout=60)
    return json.loads(output), errors.decode()


@pytest.fixture
def tells(tmp_path):
    script = tmp_path / "tells.py"
    script.write_text(TELLS)
    return script


@pytest.fixture
def waits(tmp_path):
    script = tmp_path / "waits.py"
    script.write_text(WAITS)
    return script


def test_a_worker_is_a_fork_with_its_own_arguments_streams_variables_folder_and_signals(server, tells):
    process, path = server
    with start(tells, path, "--a=1", blocked=[signal.SIGUSR2]) as starter:
        output, errors = starter.communicate(timeout=60)
    assert starter.returncode == 7
    assert b"on the other" in errors
    assert json.loads(output) == {
        "parent": process.pid,
        "group": True,
        "imported": True,
        "arguments": ["--a=1"],
        "given": "as is",
        "left": None,
        "folder": str(tells.parent),
        "blocked": True,
        "main": "__main__",
    }


def test_a_worker_with_another_value_of_what_libraries_read_once_is_started_as_ray_does(server, tells):
    process, path = server
    found, _ = told(tells, path, HF_HOME="/elsewhere")
    assert found["parent"] == os.getpid()
    assert not found["imported"]
    assert found["given"] == "as is"
    assert b"another value of HF_HOME" in process.stderr.readline()
    found, _ = told(tells, path, AWS_PROFILE="mine", OMP_NUM_THREADS="1")
    assert found["parent"] == process.pid


def test_without_a_server_a_worker_starts_as_ray_does(tells, tmp_path):
    found, _ = told(tells, tmp_path / "nobody listens here")
    assert found["parent"] == os.getpid()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_starter_ends_the_worker(server, waits, number):
    with start(waits, server[1]) as starter:
        worker = psutil.Process(int(starter.stdout.readline()))
        starter.send_signal(number)
        assert starter.wait(60) == -number
    worker_ended(worker)


def test_the_starter_ends_as_its_worker_does(server, waits):
    with start(waits, server[1]) as starter:
        os.kill(int(starter.stdout.readline()), signal.SIGKILL)
        assert starter.wait(60) == -signal.SIGKILL


def test_a_server_that_ends_leaves_its_workers_running(server, waits):
    with start(waits, server[1]) as starter:
        worker = psutil.Process(int(starter.stdout.readline()))
        server[0].stdin.close()
        assert starter.wait(60) == 1
        assert worker.is_running()
        worker.kill()
    worker_ended(worker)


def worker_ended(worker):
    deadline = time.monotonic() + 60
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_request_that_is_cut_short_leaves_the_server_as_it_is(server, tells):
    with socket.socket(socket.AF_UNIX) as cut:
        cut.connect(str(server[1]))
        cut.sendall(b"0000ffff{")
    found, _ = told(tells, server[1])
    assert found["parent"] == server[0].pid


def test_what_only_rays_own_script_can_do_is_left_to_it():
    def given(**context):
        told = json.dumps({"env_vars": {}, "py_executable": sys.executable, **context})
        return script_and_variables(["/ray/default_worker.py", f"--serialized-runtime-env-context={told}"])

    assert script_and_variables(["/ray/default_worker.py", "--a=1"]) == (["/ray/default_worker.py", "--a=1"], {})
    assert given() == (["/ray/default_worker.py"], {})
    for context in ({"command_prefix": ["nice"]}, {"py_executable": "/other/python"}, {"java_jars": ["a.jar"]}):
        assert given(**context) is None
    assert given(override_worker_entrypoint="/in/the/container.py") is None


def test_the_stamp_changes_with_the_code(tmp_path, monkeypatch):
    package = tmp_path / "package" / "clusters"
    package.mkdir(parents=True)
    (package / "one.py").write_text("a = 1")
    monkeypatch.setattr(fork_server, "__file__", str(package / "fork_server.py"))
    before = fork_server.code_stamp()
    assert fork_server.code_stamp() == before
    os.utime(package / "one.py", ns=(1, 1))
    changed = fork_server.code_stamp()
    assert changed != before
    Path(package / "two.py").write_text("")
    assert fork_server.code_stamp() != changed


def test_a_worker_is_not_forked_once_code_has_changed(tmp_path, monkeypatch, capsys):
    stamps = iter(["before", "after"])
    ours, _ = socket.socketpair()
    monkeypatch.setattr(sys, "stdin", ours)
    made = fork_server.ForkServer(tmp_path / "s", [], stamp=lambda: next(stamps))
    request = fork_server.Request(arguments=[], variables=dict(os.environ), folder="", umask=0, blocked=[], streams=[])
    assert not made._can_fork(request)
    assert "code on disk has changed" in capsys.readouterr().err
