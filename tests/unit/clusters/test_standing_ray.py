"""The record of a Ray that stays: this user's alone, of this machine alone, and no longer than its keeper."""

import dataclasses
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from llamafarm_ray.clusters import standing
from llamafarm_ray.clusters.leftovers import MARK, end_leftovers, marked, marked_as
from llamafarm_ray.clusters.standing import StandingRay, boot_id, find, folder_of_records, record, remove, start_lock
from llamafarm_ray.errors import ClusterError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMAFARM_HOME", str(tmp_path / "home"))
    with start_lock():
        pass
    return tmp_path / "home"


@pytest.fixture
def sleeper():
    """Start processes of a Ray's folder that would stay."""
    started = []

    def start(folder, code="import time; time.sleep(600)"):
        with marked_as(folder):
            process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def ray_of(process, folder, **changes):
    made = StandingRay(
        address="127.0.0.1:6379",
        dashboard_url="http://127.0.0.1:8265",
        token="secret",  # noqa: S106
        pid=process.pid,
        started=psutil.Process(process.pid).create_time(),
        boot_id=boot_id(),
        folder=str(folder),
        idle_timeout_s=60.0,
        ray_version="2.60.0",
        python=sys.executable,
    )
    return dataclasses.replace(made, **changes)


def test_what_is_recorded_is_found_and_nobody_else_can_read_it(sleeper, tmp_path):
    assert find() is None
    wanted = ray_of(sleeper(tmp_path / "ray"), tmp_path / "ray")
    before = os.umask(0)
    try:
        record(wanted)
    finally:
        os.umask(before)
    assert find() == wanted
    (path,) = folder_of_records().glob("*.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "secret" not in repr(wanted)


def test_a_record_of_a_dead_keeper_goes_with_what_its_ray_left(sleeper, tmp_path):
    folder = tmp_path / "ray"
    keeper, worker = sleeper(tmp_path / "keeper"), sleeper(folder)
    record(ray_of(keeper, folder))
    keeper.kill()
    keeper.wait()
    assert find() is None
    assert not psutil.pid_exists(worker.pid), "a worker that outlived its keeper was ended"
    assert list(folder_of_records().glob("*.json")) == []


@pytest.mark.parametrize("change", [{"boot_id": "another run of the machine"}, {"started": 1.0}])
def test_after_a_reboot_and_with_a_pid_used_again_nothing_is_touched(sleeper, tmp_path, change):
    other = sleeper(tmp_path / "other")
    record(ray_of(other, tmp_path / "ray", **change))
    assert find() is None
    assert other.poll() is None, "it only has the keeper's old number"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"address": "127.0.0.1:1"}'])
def test_a_record_that_was_cut_short_or_is_of_another_release_is_removed(text):
    path = standing._record_file()
    path.write_text(text)
    assert find() is None
    assert not path.exists()


def test_a_keeper_removes_its_own_record_only(sleeper, tmp_path):
    later = ray_of(sleeper(tmp_path / "ray"), tmp_path / "ray")
    record(later)
    remove(later.pid + 1)
    assert find() == later
    remove(later.pid)
    assert find() is None


def test_the_record_is_in_a_local_home_and_beside_a_bucket_in_the_users_folder(tmp_path, monkeypatch):
    assert folder_of_records() == tmp_path / "home" / "rays"
    monkeypatch.setenv("HOME", str(tmp_path))
    for home in ("s3://bucket/home", ""):
        monkeypatch.setenv("LLAMAFARM_HOME", home)
        assert folder_of_records() == tmp_path / ".llamafarm" / "rays"


def test_processes_are_known_by_their_rays_folder_also_without_a_parent(sleeper, tmp_path):
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    parent = sleeper(tmp_path / "ray", code)
    child = int(parent.stdout.readline())
    parent.wait()
    other = sleeper(tmp_path / "other")
    assert [process.pid for process in marked(tmp_path / "ray")] == [child]
    assert len(end_leftovers(tmp_path / "ray", grace_s=0)) == 1
    assert marked(tmp_path / "ray") == []
    assert other.poll() is None


def test_who_ends_in_time_is_not_killed(sleeper, tmp_path):
    process = sleeper(tmp_path / "ray", "pass")
    assert end_leftovers(tmp_path / "ray", grace_s=20) == []
    assert process.wait() == 0


def test_a_process_is_marked_for_the_innermost_ray(tmp_path):
    with marked_as(tmp_path / "outer"):
        with marked_as(tmp_path / "inner"):
            assert os.environ[MARK] == str(tmp_path / "inner")
        assert os.environ[MARK] == str(tmp_path / "outer")
    assert MARK not in os.environ


def test_the_environment_of_a_command_reaches_workers_by_a_file_of_its_user(tmp_path, monkeypatch):
    from llamafarm_ray.clusters import environment

    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.setenv("RAY_WORKERS_OWN", "driver")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    made = environment.runtime_environment(tmp_path)
    assert "key" not in json.dumps(made), "Ray shows a runtime environment to whoever sees the dashboard"
    (path,) = made["env_vars"].values()
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    assert environment.runtime_environment(tmp_path) == made
    # In a worker, whose Ray was started elsewhere.
    code = f"""
import os, sys
from {environment.__name__} import adopt
adopt()
print(os.environ["OPENAI_API_KEY"], os.environ["RAY_WORKERS_OWN"], "OLD" in os.environ, os.getcwd(), sys.path[0])
"""
    variables = {"PATH": os.defpath, "OLD": "1", "RAY_WORKERS_OWN": "worker", **made["env_vars"]}
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, cwd="/", capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["key", "worker", "False", str(tmp_path), str(tmp_path)]


def test_the_records_of_another_user_are_left_alone_and_named(home, monkeypatch):
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(ClusterError, match=r"rays belongs to another user"), start_lock():
        pass
