import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from patience import wait_until

from llamafarm_ray.clusters import fork_server, forked_worker, standing
from llamafarm_ray.clusters.forked_worker import SOCKET_NAME, SOCKET_VARIABLE, set_up
from llamafarm_ray.clusters.leftovers import MARK

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
    command = [sys.executable, "-m", fork_server.__name__, str(path), "calendar,numpy,no_such_module"]
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


def test_a_stop_of_the_starter_stops_the_worker_until_it_goes_on(server, waits):
    with start(waits, server[1]) as starter:
        worker = psutil.Process(int(starter.stdout.readline()))
        starter.send_signal(signal.SIGTSTP)
        wait_until(lambda: worker.status() == psutil.STATUS_STOPPED, 30)
        starter.send_signal(signal.SIGCONT)
        wait_until(lambda: worker.status() != psutil.STATUS_STOPPED, 30)
        starter.terminate()
        assert starter.wait(60) == -signal.SIGTERM


def test_a_worker_gets_the_signal_that_its_starter_got(server, tmp_path):
    script = tmp_path / "catches.py"
    script.write_text(
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\nprint(1, flush=True)\nsignal.pause()"
    )
    with start(script, server[1]) as starter:
        starter.stdout.readline()
        starter.terminate()
        assert starter.wait(60) == 9


def test_forks_draw_different_random_numbers(server, tmp_path):
    script = tmp_path / "draws.py"
    script.write_text("import json, random, numpy\nprint(json.dumps([random.random(), numpy.random.random()]))")
    one, other = (told(script, server[1])[0] for _ in range(2))
    assert one[0] != other[0]
    assert one[1] != other[1]


def test_the_starter_ends_as_its_worker_does(server, waits):
    with start(waits, server[1]) as starter:
        os.kill(int(starter.stdout.readline()), signal.SIGKILL)
        assert starter.wait(60) == -signal.SIGKILL


def test_a_server_that_ends_leaves_commands_running_and_their_starters_wait(server, waits):
    with start(waits, server[1]) as starter:
        worker = psutil.Process(int(starter.stdout.readline()))
        server[0].stdin.close()
        assert server[0].wait(60) == 0
        assert worker.is_running()
        starter.terminate()
        assert starter.wait(60) == 1, "its status is not known"
    worker_ended(worker)


def test_the_status_of_a_command_is_known_though_the_server_has_ended(server, tmp_path):
    script = tmp_path / "waits.py"
    script.write_text("import sys\nprint(1, flush=True)\nsys.stdin.read()\nsys.exit(7)")
    words = [sys.executable, forked_worker.__file__, str(script)]
    variables = {**os.environ, SOCKET_VARIABLE: str(server[1])}
    with subprocess.Popen(words, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as starter:
        starter.stdout.readline()
        server[0].stdin.close()
        assert server[0].wait(60) == 0
        starter.stdin.close()
        assert starter.wait(60) == 7


def test_a_server_that_ends_takes_workers_of_its_ray_along(server, waits, tmp_path):
    with start(waits, server[1], **{MARK: str(tmp_path)}) as starter:
        worker = psutil.Process(int(starter.stdout.readline()))
        server[0].stdin.close()
        assert starter.wait(60) != 0
    worker_ended(worker)


def test_a_worker_and_its_starter_that_end_at_once_leave_the_server_as_it_is(server, waits, tells):
    starters = [start(waits, server[1]) for _ in range(4)]
    for starter in starters:
        pid = int(starter.stdout.readline())
        os.kill(pid, signal.SIGKILL)
        starter.kill()
        starter.communicate()
    found, _ = told(tells, server[1])
    assert found["parent"] == server[0].pid


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_starter_without_a_stream_starts_the_worker_itself(server, waits, closed, tmp_path):
    words = [sys.executable, forked_worker.__file__, str(tmp_path / "writes.py")]
    (tmp_path / "writes.py").write_text(
        f"import os, pathlib; pathlib.Path({str(tmp_path / 'parent')!r}).write_text(str(os.getppid()))"
    )
    shell = subprocess.run(
        ["sh", "-c", f'"$@" {closed}>&-; exit $?', "sh", *words],
        env={**os.environ, SOCKET_VARIABLE: str(server[1])},
        check=False,
    )
    assert shell.returncode == 0
    assert int((tmp_path / "parent").read_text()) != server[0].pid


def test_a_worker_has_its_starters_limits_cores_niceness_and_umask(server, tmp_path):
    script = tmp_path / "limits.py"
    script.write_text(
        "import json, os, resource\n"
        "files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "print(json.dumps([files, sorted(os.sched_getaffinity(0)), os.nice(0), os.umask(0)]))"
    )
    core = min(os.sched_getaffinity(0))
    words = f"taskset -c {core} nice -n 3 {sys.executable} {forked_worker.__file__} {script}"
    done = subprocess.run(
        ["sh", "-c", f"umask 027; ulimit -S -n 99; exec {words}"],
        env={**os.environ, SOCKET_VARIABLE: str(server[1])},
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout) == [99, [core], os.nice(0) + 3, 0o027]


@pytest.mark.parametrize(
    ("path", "is_forked"), [("", True), ("/sources", True), ("sources", False), ("/sources:", False)]
)
def test_a_relative_folder_of_code_is_not_that_of_a_fork(tmp_path, monkeypatch, path, is_forked):
    monkeypatch.setenv("PYTHONPATH", path)
    ours, _ = socket.socketpair()
    monkeypatch.setattr(sys, "stdin", ours)
    made = fork_server.ForkServer(tmp_path / "s", [], stamp=lambda: 1)
    assert made._can_fork(fork_server.Request([], dict(os.environ), "", 0, [], {}, [], 0, [])) is is_forked


def worker_ended(worker):
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 30)


def test_a_command_runs_in_a_fork_where_there_is_a_ray_that_stays(server, tells, tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("LLAMAFARM_HOME", str(home))
    (home / "rays").mkdir(parents=True)
    server[1].rename(tmp_path / SOCKET_NAME)
    standing.record(
        standing.StandingRay(
            address="",
            dashboard_url="",
            token="",
            pid=os.getpid(),
            started=psutil.Process().create_time(),
            boot_id=standing.boot_id(),
            folder=str(tmp_path),
            idle_timeout_s=0,
            ray_version="",
            python=sys.executable,
        )
    )

    def run(verb, **more):
        words = [str(tells), "models", verb]
        code = f"import sys; from llamafarm_ray.cli.main import main; sys.argv = {words}; main()"
        return subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **more},
            capture_output=True,
            check=False,
            cwd=tmp_path,
        )

    forked = run("train")
    assert forked.returncode == 7
    assert json.loads(forked.stdout)["parent"] == server[0].pid
    assert json.loads(forked.stdout)["arguments"] == ["models", "train"]
    here = run("train", HF_HOME="/elsewhere")
    assert here.returncode != 7
    nested = run("train", **{SOCKET_VARIABLE: str(tmp_path / SOCKET_NAME)})
    assert nested.returncode != 7
    assert run("no-such-verb").returncode == 2


def test_a_request_that_is_cut_short_leaves_the_server_as_it_is(server, tells):
    with socket.socket(socket.AF_UNIX) as cut:
        cut.connect(str(server[1]))
        cut.sendall(b"0000ffff{")
    found, _ = told(tells, server[1])
    assert found["parent"] == server[0].pid


def test_what_only_rays_own_script_can_do_is_left_to_it(monkeypatch):
    def given(**context):
        told = json.dumps({"env_vars": {}, "py_executable": sys.executable, **context})
        return set_up(["/ray/default_worker.py", f"--serialized-runtime-env-context={told}"])

    assert set_up(["/ray/default_worker.py", "--a=1"]) == ["/ray/default_worker.py", "--a=1"]
    monkeypatch.setenv("FIRST", "")
    monkeypatch.setenv("SECOND", "")
    assert given(env_vars={"FIRST": "x", "SECOND": "${FIRST}/y"}) == ["/ray/default_worker.py"]
    assert os.environ["SECOND"] == "x/y"
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
    request = fork_server.Request([], dict(os.environ), "", 0, [], {}, [], 0, [])
    assert not made._can_fork(request)
    assert "code on disk has changed" in capsys.readouterr().err
