"""A local Ray's folder has a name that sockets fit below, wherever temporary files go."""

import sys
import tempfile

import pytest

from llamafarm_ray.workflows.cluster import _keep_raylet_off_stdout, _proxy_environment, _short_temporary_folder


@pytest.mark.parametrize("length", [4, 17, 18, 60, 200])
def test_haproxys_socket_paths_fit_however_long_the_temporary_folder_is(tmp_path, monkeypatch, length):
    monkeypatch.setattr(tempfile, "tempdir", "/" + "t" * (length - 1))
    folder = f"{_short_temporary_folder()}/lf-12345678"
    node = "0" * 54
    for name in ("admin.sock", "metrics.sock"):
        assert len(f"{folder}/{node}/{name}") <= 97
    assert _short_temporary_folder() in {tempfile.tempdir, "/tmp"}  # noqa: S108


def test_two_clusters_on_a_machine_share_no_file_and_no_port(tmp_path):
    first, second = (_proxy_environment(tmp_path / name) for name in ("a", "b"))
    assert all(first[name] != second[name] for name in first if not name.endswith("HTTP_PORT"))


def test_what_raylets_say_to_drivers_is_kept_off_stdout(monkeypatch, capsys):
    from ray._private import worker

    monkeypatch.setattr(worker, "_worker_logs_enabled", True)
    said = {"lines": ["8 PYTHON worker processes have been started"], "pid": "raylet", "is_err": False}
    worker.print_worker_logs(said, sys.stdout)
    assert "8 PYTHON worker processes" in capsys.readouterr().out
    _keep_raylet_off_stdout()
    worker.print_worker_logs(said, sys.stdout)
    assert capsys.readouterr().out == ""
