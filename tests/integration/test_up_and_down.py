"""`llamafarm up`: one Ray for all commands of a user until `down`, disuse or its death, and nothing of it after."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from patience import wait_until
from process_tools import is_loopback

from llamafarm_ray.clusters.leftovers import marked

USE = """
import os, sys
from llamafarm_ray.workflows.clusters.cluster import connect
with connect(None) as cluster:
    import ray
    @ray.remote
    def tell():
        import psutil
        from llamafarm_ray.clusters.local_ray import _has_gpus
        assert _has_gpus() or "llamafarm_ray.clusters.fork_server" in psutil.Process(os.getppid()).cmdline()
        return os.getcwd(), os.environ.get("OF_THE_COMMAND")
    answer = ray.get(tell.remote())
    print(cluster.address, cluster.started_here, cluster.is_local, *answer)
"""


@pytest.fixture
def machine(tmp_path):
    """A user's terminal: their home, and what they start in it; what is left of a Ray at the end is ended."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    variables = {**kept, "LLAMAFARM_HOME": str(tmp_path / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    terminal = Terminal(variables, tmp_path)
    yield terminal
    terminal.run("down", "--json")


class Terminal:
    def __init__(self, variables, folder):
        self.variables, self.folder = variables, folder

    def start(self, *arguments):
        command = [sys.executable, "-m", "llamafarm_ray", *arguments]
        return subprocess.Popen(command, env=self.variables, cwd=self.folder, stdout=subprocess.PIPE, text=True)

    def run(self, *arguments):
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
        return json.loads(output)

    def use(self, folder):
        """A command of another terminal, in another folder and with a variable of its own."""
        variables = {**self.variables, "OF_THE_COMMAND": "its own"}
        done = subprocess.run(
            [sys.executable, "-c", USE], env=variables, cwd=folder, stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout.split(maxsplit=4)


def gone(ray):
    """Wait until nothing runs any more of a Ray, and its folder is removed."""

    def left():
        found = []
        for process in marked(Path(ray["folder"])):
            with contextlib.suppress(psutil.Error):  # it ends meanwhile
                found.append(process.cmdline())
        return found

    wait_until(
        lambda: (
            not marked(Path(ray["folder"])) and not psutil.pid_exists(ray["pid"]) and not Path(ray["folder"]).exists()
        ),
        30,
        left,
    )


def raylet_of(ray):
    (raylet,) = [process for process in marked(Path(ray["folder"])) if process.name() == "raylet"]
    return raylet


def test_two_who_start_one_at_once_get_one_that_commands_use_until_it_is_ended(machine, tmp_path):
    """About 25 seconds on two cores: a Ray starts, and ends."""
    starting = [machine.start("up", "--no-dashboard", "--json") for _ in range(2)]
    first, second = (json.loads(process.communicate(timeout=240)[0]) for process in starting)
    assert {first.pop("is_new"), second.pop("is_new")} == {True, False}
    assert first == second
    assert machine.run("cluster", "status", "--json")["address"] == first["address"]
    (tmp_path / "elsewhere").mkdir()
    address, started_here, is_local, folder, variable = machine.use(tmp_path / "elsewhere")
    assert (address, started_here, is_local) == (first["address"], "False", "True")
    assert (folder, variable.strip()) == (str(tmp_path / "elsewhere"), "its own")
    listening = {one.laddr.ip for one in raylet_of(first).net_connections("inet") if one.status == "LISTEN"}
    assert listening
    assert all(is_loopback(ip) for ip in listening), listening
    assert machine.run("down", "--json") == {"ended": True}
    gone(first)
    assert machine.run("cluster", "status", "--json") == {"running": False}


@pytest.mark.long
@pytest.mark.parametrize("victim", ["raylet", "keeper"])
def test_one_that_was_killed_leaves_nothing_and_the_next_one_starts(machine, victim):
    ray = machine.run("up", "--no-dashboard", "--json")
    os.kill(raylet_of(ray).pid if victim == "raylet" else ray["pid"], signal.SIGKILL)
    if victim == "raylet":
        gone(ray)
    assert machine.run("cluster", "status", "--json") == {"running": False}
    gone(ray)
    assert machine.run("up", "--no-dashboard", "--json")["pid"] != ray["pid"]


@pytest.mark.long
def test_one_that_nobody_uses_ends_after_its_time_and_not_while_somebody_does(machine, tmp_path):
    ray = machine.run("up", "--idle-timeout", "15s", "--json")
    code = USE.replace("print(", "import time; time.sleep(30); print(")
    user = subprocess.Popen([sys.executable, "-c", code], env=machine.variables, cwd=tmp_path, stdout=subprocess.PIPE)
    assert user.communicate(timeout=200)[0].decode().startswith(ray["address"])
    assert machine.run("cluster", "status", "--json")["running"], "it was used just now"
    gone(ray)


@pytest.mark.long
def test_a_worker_that_is_blocked_at_its_exit_goes_with_the_ray_of_its_command(machine, tmp_path):
    """What SIGTERM does not end, and outlives its raylet."""
    code = """
import os, signal, sys
from llamafarm_ray.workflows.clusters.cluster import connect
with connect("local"):
    import ray

    @ray.remote
    class Stubborn:
        def child(self):
            import subprocess
            code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
            return subprocess.Popen([sys.executable, "-c", code], start_new_session=True).pid

    actor = Stubborn.remote()
    print(ray.get(actor.child.remote()))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=machine.variables, cwd=tmp_path, stdout=subprocess.PIPE, check=True)
    assert not psutil.pid_exists(int(done.stdout))
